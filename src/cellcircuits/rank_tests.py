"""Rank tests of sparse scores: every column against every label at once, exact, ties included.

Scores are 0 or above and mostly 0, so only those above 0 are sorted; all zeros of a column are one tie below them.
With ranks r (ties averaged), n1 cells inside and n2 outside:

    U = sum of r inside - n1 (n1 + 1) / 2,    AUROC = U / (n1 n2)
    z = (|U - n1 n2 / 2| - 1/2) / sd
    sd^2 = n1 n2 / 12 (N + 1 - sum over ties (t^3 - t) / (N (N - 1))),    N = n1 + n2

AUROC is the chance that a cell inside has a higher score than one outside (equal scores count half).

Where few cells have a score above 0, nearly all are one tie and U is far from normal: a single cell of a small label
would give p = 1e-10. So where less than half of the cells are above 0, and fewer than `FEWEST_EXPECTED` of them are
expected inside (or outside) by chance, what is tested is their number alone, exactly: K of N cells are above 0, x of
the n1 inside,

    p = 2 min(P(X <= x), P(X >= x)), at most 1,    X hypergeometric (N, K, n1)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
from scipy.stats import hypergeom, norm

ENTRIES_PER_BLOCK = 4_000_000
"""Scores above 0, or pairs of column and label, that are looked at together: bounds the memory."""


FEWEST_EXPECTED = 10
"""Cells above 0 that are expected on the smaller side, from which on ranks are tested by their normal approximation."""


@dataclass(frozen=True)
class RankTests:
    """Mann-Whitney tests; all arrays are float64 (column, label)."""

    auroc: np.ndarray
    p_value: np.ndarray
    """Two-sided, normal approximation with tie and continuity correction, or exact on the number of cells above 0
    where these are few; 1 where all scores are equal."""
    mean_inside: np.ndarray
    mean_outside: np.ndarray


def rank_tests(scores: sp.spmatrix, labels: np.ndarray, n_labels: int, control: int | None = None) -> RankTests:
    """Test the scores (cell, column) of every label's cells against those of all other cells, or of `control` only.

    `labels` is int (cell,), from 0 to n_labels - 1; every label needs a cell inside and one outside. With a control
    the tests of the control itself mean nothing.
    """
    columns = sp.csc_matrix(scores, dtype=np.float64)
    columns.eliminate_zeros()
    counts = np.bincount(labels, minlength=n_labels)
    most = max(1, ENTRIES_PER_BLOCK // n_labels)
    entries = np.diff(columns.indptr).cumsum() // ENTRIES_PER_BLOCK
    cuts = np.flatnonzero(np.diff(entries, prepend=entries[:1]))
    bounds = np.unique(np.concatenate([np.arange(0, columns.shape[1], most), cuts, [columns.shape[1]]]))
    blocks = [_block(columns[:, start:stop], labels, counts, control) for start, stop in pairwise(bounds)]
    blocks = blocks or [_block(columns, labels, counts, control)]
    u, ties = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    sums = columns.T @ np.eye(n_labels)[labels]
    if control is None:
        outside, n_outside = sums.sum(axis=1, keepdims=True) - sums, len(labels) - counts
    else:
        outside, n_outside = sums[:, [control]], np.full(n_labels, counts[control])
    above = (columns > 0).T.astype(np.int64) @ np.eye(n_labels, dtype=np.int64)[labels]
    above_outside = above.sum(axis=1, keepdims=True) - above if control is None else above[:, [control]]
    p = _exact_where_few(_p_values(u, ties, counts, n_outside), above, above + above_outside, counts, n_outside)
    return RankTests(u / (counts * n_outside), p, sums / counts, outside / n_outside)


def _exact_where_few(
    p: np.ndarray, inside: np.ndarray, both: np.ndarray, n_inside: np.ndarray, n_outside: np.ndarray
) -> np.ndarray:
    """p (column, label) with those of few cells above 0 replaced; `inside` of `both` such cells are inside."""
    n = n_inside + n_outside
    few = (2 * both < n) & (both * np.minimum(n_inside, n_outside) < FEWEST_EXPECTED * n) & (both > 0)
    label = np.nonzero(few)[1]
    args = n[label], both[few], n_inside[label]
    tails = hypergeom.cdf(inside[few], *args), hypergeom.sf(inside[few] - 1, *args)
    exact = p.copy()
    exact[few] = np.minimum(2 * np.minimum(*tails), 1.0)
    return exact


def _p_values(u: np.ndarray, ties: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    n = (inside + outside).astype(np.float64)
    pairs = inside.astype(np.float64) * outside
    variance = pairs / 12 * (n + 1 - ties / (n * (n - 1)))
    flat = variance <= 1e-9 * pairs
    z = (np.abs(u - pairs / 2) - 0.5) / np.sqrt(np.where(flat, 1.0, variance))
    return np.where(flat, 1.0, np.minimum(2 * norm.sf(z), 1.0))


def _block(
    columns: sp.csc_matrix, labels: np.ndarray, counts: np.ndarray, control: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """U and the sum over ties of t^3 - t, float64 (column, label)."""
    ordered = _Ordered(columns, labels, len(counts))
    zeros = counts - ordered.sum_by_label(np.ones(len(ordered.label)))
    return ordered.against_rest(counts, zeros) if control is None else ordered.against_control(zeros, control)


class _Ordered:
    """The scores above 0 of some columns, ascending within each column, cut into groups of equal ones."""

    def __init__(self, columns: sp.csc_matrix, labels: np.ndarray, n_labels: int) -> None:
        column = np.repeat(np.arange(columns.shape[1]), np.diff(columns.indptr))
        order = np.lexsort((columns.data, column))
        values = columns.data[order]
        self.shape = (columns.shape[1], n_labels)
        self.column, self.label = column, labels[columns.indices[order]]
        self.first_of_column = columns.indptr[:-1][column]
        new = np.diff(values, prepend=-1.0) != 0
        new[np.unique(columns.indptr[:-1][np.diff(columns.indptr) > 0])] = True
        self.start = np.flatnonzero(new)
        """Place of the first entry of every group."""
        self.size = np.diff(np.append(self.start, len(values)))
        self.group = np.repeat(np.arange(len(self.start)), self.size)

    def sum_by_label(self, weights: np.ndarray) -> np.ndarray:
        """Sums of the entries' weights, (column, label)."""
        key = self.column * self.shape[1] + self.label
        return np.bincount(key, weights, minlength=self.shape[0] * self.shape[1]).reshape(self.shape)

    def against_rest(self, counts: np.ndarray, zeros: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n_zero = zeros.sum(axis=1)
        zero_rank = (n_zero + 1) / 2
        rank = n_zero[self.column] + self.start[self.group] - self.first_of_column + (self.size[self.group] + 1) / 2
        ranks = self.sum_by_label(rank - zero_rank[self.column]) + zero_rank[:, None] * counts
        tied = np.bincount(self.column[self.start], _cubed(self.size), minlength=self.shape[0]) + _cubed(n_zero)
        return ranks - counts * (counts + 1.0) / 2, np.repeat(tied[:, None], self.shape[1], axis=1)

    def against_control(self, zeros: np.ndarray, control: int) -> tuple[np.ndarray, np.ndarray]:
        is_control = self.label == control
        before = np.concatenate([[0], np.cumsum(is_control)])
        below = before[self.start] - before[self.first_of_column[self.start]] + zeros[self.column[self.start], control]
        equal = before[self.start + self.size] - before[self.start]
        u = self.sum_by_label((below + equal / 2)[self.group]) + zeros * zeros[:, [control]] / 2
        # ties among the control cells alone, then what the cells of each label add to them
        alone = np.bincount(self.column[self.start], _cubed(equal), minlength=self.shape[0])
        key, own = np.unique(self.group * self.shape[1] + self.label, return_counts=True)
        group, label = key // self.shape[1], key % self.shape[1]
        added = _cubed(equal[group] + own) - _cubed(equal[group])
        place = self.column[self.start][group] * self.shape[1] + label
        added = np.bincount(place, added, minlength=zeros.size).reshape(self.shape)
        return u, alone[:, None] + added + _cubed(zeros + zeros[:, [control]])


def _cubed(n: np.ndarray) -> np.ndarray:
    """n^3 - n as float64: what a tie of n scores takes from the variance."""
    n = np.asarray(n, dtype=np.float64)
    return n**3 - n
