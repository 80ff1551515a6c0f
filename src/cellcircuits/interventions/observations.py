"""Sums over cells of what an intervention changed, for any kind of target: features, genes, a probe, the loss.

One observation is one cell: x = value with the intervention - value in the clean pass. A target that a cell does not
have (a gene that is not expressed) is NaN there, and its cell does not count.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.moments import SMALLEST_SD
from cellcircuits.stats import benjamini_hochberg, one_sample_t

CONFIDENCE_Z = 1.959963984540054
"""Two-sided 95 %."""
STATISTICS = ("n", "x", "squares", "positive", "negative", "clean")


class Observations:
    """Sums over cells, float64 (condition, target)."""

    def __init__(self, n_conditions: int, n_targets: int) -> None:
        self.sums = {name: np.zeros((n_conditions, n_targets)) for name in STATISTICS}

    def add(self, rows: np.ndarray, x: np.ndarray, clean: np.ndarray, targets: np.ndarray | None = None) -> None:
        """Add one cell: changes `x` (row, target) of the conditions `rows`, and clean values; NaN: not observed.

        With `targets`, each once, `x` has these alone, and the others are not observed.
        """
        where = rows if targets is None else np.ix_(rows, targets)
        known = np.isfinite(x)
        values, before = np.where(known, x, 0.0), np.where(known, clean, 0.0)
        for name, part in zip(STATISTICS, (known, values, values**2, values > 0, values < 0, before), strict=True):
            self.sums[name][where] += part

    @property
    def n(self) -> np.ndarray:
        """Cells, (condition, target)."""
        return self.sums["n"]

    @property
    def mean(self) -> np.ndarray:
        """Mean change, (condition, target); 0 without cells."""
        return self.sums["x"] / np.maximum(self.n, 1)

    @property
    def sd(self) -> np.ndarray:
        """Sample standard deviation over cells, (condition, target); 0 for fewer than two."""
        squares = self.sums["squares"] - self.n * self.mean**2
        # rounding leaves up to about 1e-16 of the squares where all cells agree
        squares = np.where(squares > 1e-13 * self.n * self.mean**2, squares, 0.0)
        return np.sqrt(squares / np.maximum(self.n - 1, 1))

    def statistics(self, min_cells: int) -> dict[str, np.ndarray]:
        """{column: (condition, target)}; p of a one-sample t test over cells, q over all pairs with enough cells.

        Raises nothing; pairs with fewer cells have p = q = 1 and are not `tested`.
        """
        n, mean, sd = self.n, self.mean, self.sd
        error = CONFIDENCE_Z * sd / np.sqrt(np.maximum(n, 1))
        positive, negative = self.sums["positive"], self.sums["negative"]
        tested = n >= min_cells
        p = np.where(tested, one_sample_t(mean, sd, n), 1.0)
        q = np.ones_like(p)
        q[tested] = benjamini_hochberg(p[tested])
        agreeing = np.where(mean > 0, positive, np.where(mean < 0, negative, 0.0))
        return {
            "n_cells": n,
            "mean_delta": mean,
            "sd_delta": sd,
            "snr": mean / np.maximum(sd, SMALLEST_SD),
            "low": mean - error,
            "high": mean + error,
            "clean": self.sums["clean"] / np.maximum(n, 1),
            "sign_agreement": agreeing / np.maximum(positive + negative, 1),
            "p_value": p,
            "q_value": q,
            "tested": tested,
        }


def rows_of(statistics: dict[str, np.ndarray], chosen: np.ndarray, names: list[str]) -> pd.DataFrame:
    """One row per chosen pair, bool (condition, target), in their order, with the columns `names`."""
    return pd.DataFrame({name: statistics[name][chosen] for name in names})
