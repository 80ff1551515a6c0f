"""How firm is an edge? Differences between groups of cells, and resampling of groups; from sums that add up."""

from __future__ import annotations

import numpy as np
from scipy import stats as scipy_stats

from cellcircuits.moments import SMALLEST_SD, Moments
from cellcircuits.settings import EdgesSettings

STABILITY_DRAWS = 200
PAIRS_AT_ONCE = 20_000
"""Pairs resampled together: their sums are held for every draw."""
Pairs = tuple[np.ndarray, np.ndarray]
"""Positions of sources and of targets, each int (pair,)."""
_SUMS = ("sum_delta", "sum_squared_delta", "n_positive", "n_negative")


def group_sums(moments: Moments, layer: int, readout: str, pairs: Pairs) -> np.ndarray:
    """(statistic, group, pair): cells, sum, sum of squares, positive, negative."""
    source, target = pairs
    rows = []
    for name in moments.groups:
        cells = moments.cells(name, readout)[source].astype(float)
        rows.append([cells, *(moments.statistic(layer, s, name, readout)[source, target] for s in _SUMS)])
    return np.array(rows).transpose(1, 0, 2)


def heterogeneity(moments: Moments, layer: int, readout: str, pairs: Pairs) -> np.ndarray:
    """p of Welch's test that all groups have the same mean effect, (pair,); NaN with fewer than two usable groups.

    Q = sum over groups of w (mean - weighted mean)^2, w = n / sd^2. Against chi-squared (Cochran) few cells per group
    reject far too often: 57 % at a level of 5 % with ten groups of three cells. So, for k groups of summed weight W, as
    Welch 1951 (doi 10.1093/biomet/38.3-4.330): with L = sum of (1 - w / W)^2 / (n - 1),

        F = Q / (k - 1) / (1 + 2 (k - 2) L / (k^2 - 1))    has k - 1 and (k^2 - 1) / (3 L) degrees of freedom.

    A group is usable with three cells and some spread.
    """
    if len(moments.groups) < 2:
        return np.full(len(pairs[0]), np.nan)
    n, total, squares, _, _ = group_sums(moments, layer, readout, pairs)
    mean = total / np.maximum(n, 1)
    variance = (squares - n * mean**2) / np.maximum(n - 1, 1)
    usable = (n >= 3) & (variance > 1e-13 * mean**2) & (variance > 0)
    weight = np.where(usable, n / np.where(usable, variance, 1.0), 0.0)
    whole, k = np.maximum(weight.sum(axis=0), 1e-300), np.maximum(usable.sum(axis=0), 2)
    pooled = (weight * mean).sum(axis=0) / whole
    q = (weight * (mean - pooled) ** 2).sum(axis=0)
    few = (usable * (1 - weight / whole) ** 2 / np.maximum(n - 1, 1)).sum(axis=0)
    ratio = q / (k - 1) / (1 + 2 * (k - 2) * few / (k**2 - 1))
    p = scipy_stats.f.sf(ratio, k - 1, (k**2 - 1) / (3 * np.maximum(few, 1e-300)))
    return np.where(usable.sum(axis=0) >= 2, p, np.nan)


def stability(moments: Moments, layer: int, settings: EdgesSettings, pairs: Pairs, seed: int = 0) -> np.ndarray:
    """Share of bootstrap samples of the groups in which a pair passes the thresholds of the calibrated rule, (pair,).

    The thresholds are those of number, |mean/sd| and sign agreement; q is not recomputed. NaN with one group.
    """
    n_groups, n_pairs = len(moments.groups), len(pairs[0])
    if n_groups < 2:
        return np.full(n_pairs, np.nan)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=STABILITY_DRAWS).astype(float)
    shares = [np.zeros(0)]
    for start in range(0, n_pairs, PAIRS_AT_ONCE):
        some = pairs[0][start : start + PAIRS_AT_ONCE], pairs[1][start : start + PAIRS_AT_ONCE]
        sums = group_sums(moments, layer, settings.readout, some)
        if settings.unit == "group":
            sums = _one_observation_each(sums)
        shares.append(_passes(np.einsum("bg,sgp->sbp", weights, sums), settings).mean(axis=0))
    return np.concatenate(shares)


def _one_observation_each(sums: np.ndarray) -> np.ndarray:
    """The same sums where the unit is a group: its mean is the observation."""
    n = sums[0]
    mean = sums[1] / np.maximum(n, 1)
    return np.stack([n > 0, mean, mean**2, mean > 0, mean < 0]).astype(float)


def _passes(sums: np.ndarray, settings: EdgesSettings) -> np.ndarray:
    """bool (...): sums (statistic, ...) against the thresholds."""
    n, total, squares, positive, negative = sums
    mean = total / np.maximum(n, 1)
    spread = np.maximum(squares - n * mean**2, 0.0) / np.maximum(n - 1, 1)
    snr = np.abs(mean) / np.maximum(np.sqrt(spread), SMALLEST_SD)
    agreeing = np.where(mean > 0, positive, negative) / np.maximum(positive + negative, 1)
    minimum = settings.min_groups if settings.unit == "group" else settings.min_cells
    return (n >= minimum) & (snr > settings.min_snr) & (agreeing >= settings.min_agreement)
