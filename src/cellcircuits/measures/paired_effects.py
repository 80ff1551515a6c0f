"""Do the effects that two runs both have agree in sign and in size, beyond what independent effects would?"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import numpy as np
from scipy.stats import rankdata

from cellcircuits.stats import bootstrap_p, interval, reweighted_sums

MOST_PAIRS = 50_000
"""Pairs of effects that carry an interval and a p; of more, this many are drawn at random."""


@dataclass(frozen=True)
class Agreement:
    """A statistic of paired effects beside its value under independence."""

    value: float = nan
    expected: float = nan
    low: float = nan
    """Lower end of the 95 % interval of `value`."""
    high: float = nan
    p_value: float = nan
    """One-sided, of value - expected > 0."""


def sign_agreement(
    first: np.ndarray, second: np.ndarray, source: np.ndarray, target: np.ndarray, draws: int, rng: np.random.Generator
) -> Agreement:
    """Share of the pairs of effects (pair,) with the same sign.

    Expected if signs are independent: p q + (1 - p)(1 - q), with p and q the shares of negative effects of either
    side. Pairs that share a source, or a target, are not independent of each other, so the interval, and p of the
    difference of share and expected share, come from weights that are drawn for sources and for targets
    (`stats.reweighted_sums`). `source` and `target` are whole numbers. Pairs with an effect that is not a number are
    left out.
    """

    def excess(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        share, p, q = (sums[:, 1:] / sums[:, :1]).T
        return share, p * q + (1 - p) * (1 - q)

    def columns(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = a < 0, b < 0
        return np.column_stack([np.ones(len(a)), a == b, a, b])

    return _agreement(columns, excess, first, second, source, target, draws, rng)


def rank_correlation(
    first: np.ndarray, second: np.ndarray, source: np.ndarray, target: np.ndarray, draws: int, rng: np.random.Generator
) -> Agreement:
    """Spearman correlation of the pairs of effects (pair,); interval and p as in `sign_agreement`.

    Ranks are those of all pairs, also within the draws.
    """

    def correlation(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, xx, yy, xy = (sums[:, 1:] / sums[:, :1]).T
        with np.errstate(divide="ignore", invalid="ignore"):
            value = (xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y))
        return value, np.zeros(len(value))

    def columns(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        # between -1 and 1, so that products keep their precision
        x, y = (2 * (rankdata(side) - (len(side) + 1) / 2) / max(len(side), 1) for side in (a, b))
        return np.column_stack([np.ones(len(x)), x, y, x * x, y * y, x * y])

    return _agreement(columns, correlation, first, second, source, target, draws, rng)


def _agreement(columns, statistic, first, second, source, target, draws: int, rng: np.random.Generator) -> Agreement:
    finite = np.isfinite(first) & np.isfinite(second)
    if not finite.any():
        return Agreement()
    values = columns(first[finite], second[finite])
    value, expected = (float(x[0]) for x in statistic(values.sum(axis=0)[None]))
    chosen = np.arange(len(values))
    if len(values) > MOST_PAIRS:
        chosen = np.sort(rng.choice(len(values), MOST_PAIRS, replace=False))
    clusters = [np.unique(end[finite][chosen], return_inverse=True)[1] for end in (source, target)]
    n_clusters = min(int(member.max()) + 1 for member in clusters)
    drawn, drawn_expected = statistic(reweighted_sums(values[chosen], *clusters, draws=draws, rng=rng))
    low, high = interval(drawn)
    p = bootstrap_p(value - expected, 0.0, drawn - drawn_expected, n_clusters, "greater")
    return Agreement(value, expected, low, high, p)
