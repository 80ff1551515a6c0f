"""The published check of predicted gene pairs (Kendiukhov 2026), on the same inputs, to stand beside ours.

All cell lines are pooled, changes are log2(mean + 1) of the values as stored, and pairs count as independent:
composition of cell lines enters every change, logarithms are taken of logarithms, and 80 % of all predictions being
negative is enough for an accuracy above one half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import hypergeom, spearmanr

from cellcircuits.screening.responses import Responses, positions

MIN_CHANGE, LARGE_CHANGE, MIN_TARGETS = 0.01, 0.5, 3
NAN = float("nan")


@dataclass(frozen=True)
class Published:
    """Numbers of the published check; NaN where the screen has no cells."""

    accuracy: float = NAN
    spearman: float = NAN
    spearman_p: float = NAN
    """As if all pairs were independent."""
    median_odds_ratio: float = NAN
    n_enriched: float = NAN
    """Perturbed genes with an uncorrected Fisher p below 0.05."""
    n_tested: int = 0


def published_check(pairs: pd.DataFrame, responses: Responses) -> Published:
    """Sign accuracy and rank correlation over pairs with |change| >= 0.01; Fisher tests of |change| > 0.5."""
    change = responses.published_log_fc
    if change is None:
        return Published()
    source, target = (
        positions(pairs["source_gene"], responses.sources),
        positions(pairs["target_gene"], responses.genes),
    )
    keep = (source >= 0) & (target >= 0) & np.isfinite(pairs["mean_snr"].to_numpy(float))
    source, target, snr = source[keep], target[keep], pairs["mean_snr"].to_numpy(float)[keep]
    inside = np.zeros(change.shape, dtype=bool)
    inside[source, target] = True
    found = change[source, target].astype(np.float64)
    moved = np.abs(found) >= MIN_CHANGE
    if moved.sum() < 3:
        return Published()
    rho, p = NAN, NAN
    if np.ptp(np.abs(snr[moved])) > 0 and np.ptp(np.abs(found[moved])) > 0:
        rho, p = (float(x) for x in spearmanr(np.abs(snr[moved]), np.abs(found[moved])))
    large = np.abs(change) > LARGE_CHANGE
    tested = inside.sum(axis=1) >= MIN_TARGETS
    a, n_large, n_inside = (x.sum(axis=1)[tested] for x in (inside & large, large, inside))
    b, c = n_inside - a, n_large - a
    d = change.shape[1] - n_inside - c
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.where(b * c > 0, a * d / (b * c), np.where(a * d > 0, np.inf, 0.0))
    fisher = hypergeom.sf(a - 1, change.shape[1], n_large, n_inside)
    return Published(
        accuracy=float((np.sign(snr[moved]) == np.sign(found[moved])).mean()),
        spearman=rho,
        spearman_p=p,
        median_odds_ratio=float(np.median(odds)) if tested.any() else NAN,
        n_enriched=float((fisher < 0.05).sum()) if tested.any() else NAN,
        n_tested=int(tested.sum()),
    )


def _places(names: pd.Series, among: np.ndarray) -> np.ndarray:
    """As `positions`, each name looked up once."""
    code, distinct = pd.factorize(names.to_numpy(object))
    return positions(distinct, among)[code] if len(distinct) else np.zeros(0, dtype=np.int64)
