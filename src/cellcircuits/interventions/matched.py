"""Are numbers of some genes larger than those of their controls? A permutation test of who is who in matched sets.

A set is one gene and its controls. A row holds one number for every member of a set: of the gene itself, or of the gene
with one feature; several rows may be of one set. With v(r, 0) the number of the gene and v(r, m) those of its controls,

    contrast(r, m) = v(r, m) - mean of v(r, .) over the other members,      T = sum over rows of w(r) contrast(r, 0)

Under the hypothesis that the members of a set are exchangeable, any of them could have been the gene: in each set one
is drawn at random, for all its rows together, and p = (1 + draws with T as large) / (1 + draws), one-sided. That holds
whatever the distribution of the numbers, skewed or not, and however the rows of a set depend on each other.
"""

from __future__ import annotations

import numpy as np

DRAWS = 4999


def contrasts(values: np.ndarray) -> np.ndarray:
    """float64 (row, member): each member minus the mean of the others that are known; NaN where it has none."""
    known = np.isfinite(values)
    n = known.sum(axis=1, keepdims=True)
    total = np.where(known, values, 0.0).sum(axis=1, keepdims=True)
    others = np.divide(total - values, n - 1, out=np.full(values.shape, np.nan), where=n > 1)
    return values - others


def usable(values: np.ndarray) -> np.ndarray:
    """bool (row,): the gene and one control at least are known."""
    known = np.isfinite(values)
    return np.asarray(known[:, 0] & (known.sum(axis=1) > 1))


def matched_test(values: np.ndarray, sets: np.ndarray, weights: np.ndarray, seed: tuple[int, ...]) -> float:
    """One-sided p of T: of the gene being above its controls. Weights below 0 ask for below.

    Parameters
    ----------
    values
        float64 (row, member): the gene first, then its controls; NaN where there is none. All rows are `usable`.
    sets
        int64 (row,): number of the set of each row, from 0.
    weights
        float64 (row,).
    """
    if not len(values):
        return float("nan")
    found = contrasts(values)
    known = np.isfinite(found)
    observed = float(weights @ found[:, 0])
    # sums in another order differ by rounding
    least = observed - 1e-9 * float(np.abs(weights) @ np.where(known, np.abs(found), 0.0).max(axis=1))
    rng = np.random.default_rng(seed)
    as_large, row = 0, np.arange(len(values))
    for _ in range(DRAWS):
        order = rng.random((int(sets.max()) + 1, values.shape[1]))
        # the same order for all rows of a set; a row takes the first that it knows
        drawn = np.where(known, order[sets], np.inf).argmin(axis=1)
        as_large += float(weights @ found[row, drawn]) >= least
    return (1 + as_large) / (1 + DRAWS)
