"""Do the genes of a set load on a feature more than random genes that are detected as often?

The loading T of a set s on a feature f is the sum of the feature's scores over the genes of the set. Null: a random set
with as many genes of each tenth of detection, drawn without replacement. With k_b genes of the set among the N_b of
stratum b, and mean m_b, variance S_b^2 (N_b - 1) and third central moment M_b of the feature's scores there:

* mean: sum of k_b m_b;
* variance: sum of k_b (1 - k_b / N_b) S_b^2;
* third moment: sum of k_b (N_b - k_b)(N_b - 2 k_b) M_b / ((N_b - 1)(N_b - 2)).

p is that of a gamma distribution with these three moments (Pearson III). Lists are short, so that T takes few values;
where this p is below `SCREEN` it is computed anew from the distribution itself, by convolution over the genes of the
list: a gene is in the random set with chance (k_b - h) / (N_b - i) if h of the i genes of its stratum before it are. In
strata of `LARGE_STRATUM` genes or more this is k_b / N_b for all that matters. Scores are rounded up to 1 / 64 of T,
which makes p somewhat too large, up to twofold. Above `SCREEN` p may be too small, in tests by up to a third; nothing
is called there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
from scipy.special import gammaincc, gammaln, ndtr

from cellcircuits.enrichment import BackgroundSets
from cellcircuits.stats import counted_benjamini_hochberg

SCREEN = 0.01
LEVELS = 64
LARGE_STRATUM = 500
MOST_HITS = 6
"""Genes of the set that are told apart within a stratum; more of them make p too large, not too small."""
PAIRS_PER_BLOCK = 10_000
SMALL_SKEWNESS = 1e-3
"""Below it the gamma distribution is a normal one for all that floats can tell."""


@dataclass(frozen=True)
class LoadingTests:
    """Pairs of a feature and a set with a loading above 0; all others have p = q = 1."""

    feature: np.ndarray
    """int64 (pair,): row of the loadings."""
    set: np.ndarray
    """int64 (pair,)."""
    n_overlap: np.ndarray
    loading: np.ndarray
    expected: np.ndarray
    z: np.ndarray
    p: np.ndarray
    q: np.ndarray
    n_tests: int

    def cut(self, max_q: float) -> float:
        """Largest p with a q of at most `max_q`; what a single test would need, if there is none."""
        called = self.q <= max_q
        return float(self.p[called].max()) if called.any() else max_q / max(self.n_tests, 1)


class LoadingNull:
    """The null distribution of the loadings of any set.

    Parameters
    ----------
    scores
        (feature, gene): scores of the genes on the lists, above 0.
    stratum
        int (gene,): stratum of detection.
    """

    def __init__(self, scores: sp.csr_matrix, stratum: np.ndarray) -> None:
        self.scores, self.stratum = scores.astype(np.float64), stratum
        self.size = np.bincount(stratum).astype(float)
        member = sp.csr_matrix((np.ones(len(stratum)), (np.arange(len(stratum)), stratum)))
        sums = [(self.scores.power(power) @ member).toarray() for power in (1, 2, 3)]
        n = self.size
        self.mean = sums[0] / n
        self.variance = np.maximum(sums[1] - n * self.mean**2, 0) / np.maximum(n - 1, 1)
        third = sums[2] / n - 3 * self.mean * sums[1] / n + 2 * self.mean**3
        self.third = third / np.maximum((n - 1) * (n - 2), 1)
        self.length = np.diff(self.scores.indptr)
        owner = np.repeat(np.arange(len(self.length)), self.length)
        order = np.lexsort((self.scores.indices, stratum[self.scores.indices], owner))
        self.listed_stratum = stratum[self.scores.indices[order]]
        self.listed_score = self.scores.data[order]

    def sizes(self, members: sp.csr_matrix) -> np.ndarray:
        """float64 (set, stratum): genes of every set in every stratum; `members` is (gene, set)."""
        strata = sp.csr_matrix((np.ones(len(self.stratum)), (self.stratum, np.arange(len(self.stratum)))))
        return (strata @ members).toarray().T.astype(float)

    def moments(self, feature: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, standard deviation and skewness of the loading, each (pair,); `sizes` is (pair, stratum)."""
        n = self.size
        mean = (sizes * self.mean[feature]).sum(axis=1)
        variance = (sizes * (1 - sizes / n) * self.variance[feature]).sum(axis=1)
        third = (sizes * (n - sizes) * (n - 2 * sizes) * self.third[feature]).sum(axis=1)
        sd = np.sqrt(variance)
        return mean, sd, np.divide(third, sd**3, out=np.zeros_like(sd), where=sd > 0)

    def p_values(self, feature: np.ndarray, loading: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """float64 (pair,): chance of a loading at least as high; `sizes` is (pair, stratum)."""
        mean, sd, skewness = self.moments(feature, sizes)
        p = pearson_tail(np.divide(loading - mean, sd, out=np.zeros_like(sd), where=sd > 0), skewness)
        p[sd == 0] = 1.0
        small = np.flatnonzero(p < SCREEN)
        for start in range(0, len(small), PAIRS_PER_BLOCK):
            block = small[start : start + PAIRS_PER_BLOCK]
            p[block] = self._convolved(feature[block], loading[block], sizes[block])
        return p

    @property
    def depth(self) -> int:
        """Genes of the set that are told apart within a stratum."""
        return MOST_HITS if self.size.min() < LARGE_STRATUM else 1

    def least_log_chance(self, sizes: np.ndarray) -> np.ndarray:
        """float64 (set, stratum): m times this is a lower bound of the log chance that m given genes are in the set.

        That is the sum of log((k - h) / (N - h)) over h below m: at least m times the mean of log((k - h) / N) over all
        h below k, since terms fall with h.
        """
        k = np.maximum(sizes, 1)
        if self.depth == 1:
            return np.log(k / self.size)
        return gammaln(k + 1) / k - np.log(self.size)

    def _convolved(self, feature: np.ndarray, loading: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """The same by convolution over the genes of each list, stratum by stratum."""
        depth = self.depth
        levels, hits, rows = np.arange(LEVELS), np.arange(depth), np.arange(len(feature))
        # chances by genes of the stratum that are in the set, and by the loading so far in 1 / LEVELS of T
        state = np.zeros((len(feature), depth, LEVELS))
        state[:, 0, 0] = 1.0
        reached, seen = np.zeros(len(feature)), np.zeros(len(feature))
        last = np.zeros(len(feature), dtype=np.int64)
        for place in range(int(self.length[feature].max(initial=0))):
            entry = np.minimum(self.scores.indptr[feature] + place, self.scores.nnz - 1)
            listed = place < self.length[feature]
            code = np.where(listed, self.listed_stratum[entry], last)
            if depth > 1:
                fresh = code != last
                state[fresh, 0] = state[fresh].sum(axis=1)
                state[fresh, 1:] = 0
                seen, last = np.where(fresh, 0, seen), code
            left = (sizes[rows, code][:, None] - hits) / np.maximum(self.size[code] - seen, 1)[:, None]
            hit = np.where(listed[:, None], np.clip(left, 0, 1), 0.0)[:, :, None]
            # a sum of rounded scores that equals T must reach it
            step = np.ceil(self.listed_score[entry] / loading * LEVELS - 1e-6).clip(1, LEVELS).astype(np.int64)
            before = (levels - step[:, None])[:, None]
            reached += (hit * state * (levels >= LEVELS - step[:, None])[:, None]).sum(axis=(1, 2))
            moved = hit * np.where(before >= 0, np.take_along_axis(state, np.maximum(before, 0), axis=2), 0.0)
            state *= 1 - hit
            state[:, 1:] += moved[:, :-1]
            state[:, -1] += moved[:, -1]
            seen = seen + (listed & (depth > 1))
        return np.minimum(reached, 1.0)


def pearson_tail(z: np.ndarray, skewness: np.ndarray) -> np.ndarray:
    """Upper tail at z of the gamma distribution of mean 0, variance 1 and this skewness; normal where that is <= 0."""
    skewed = skewness > SMALL_SKEWNESS
    shape = 4 / np.where(skewed, skewness, 1.0) ** 2
    tail = gammaincc(shape, np.maximum(shape + z * np.sqrt(shape), 0.0))
    return np.where(skewed, tail, ndtr(-z))


def loading_tests(null: LoadingNull, sets: BackgroundSets) -> LoadingTests:
    """All features with a list against all sets."""
    members = sets.members.astype(np.float64).tocsr()
    loading = (null.scores @ members).tocsr()
    overlap = ((null.scores > 0).astype(np.float64) @ members).tocsr()
    loading.sort_indices()
    overlap.sort_indices()
    feature = np.repeat(np.arange(loading.shape[0]), np.diff(loading.indptr))
    sizes = null.sizes(members)
    p, expected, z = (np.zeros(loading.nnz) for _ in range(3))
    for start in range(0, loading.nnz, 10 * PAIRS_PER_BLOCK):
        block = slice(start, start + 10 * PAIRS_PER_BLOCK)
        arguments = feature[block], sizes[loading.indices[block]]
        mean, sd, _ = null.moments(*arguments)
        expected[block] = mean
        z[block] = np.divide(loading.data[block] - mean, sd, out=np.zeros_like(sd), where=sd > 0)
        p[block] = null.p_values(arguments[0], loading.data[block], arguments[1])
    n_tests = int((null.length > 0).sum()) * members.shape[1]
    different, which, counts = np.unique(p, return_inverse=True, return_counts=True)
    q = counted_benjamini_hochberg(different, counts, n_tests - len(p))[which] if len(p) else p
    return LoadingTests(
        feature,
        loading.indices.astype(np.int64),
        overlap.data.astype(np.int64),
        loading.data,
        expected,
        z,
        p,
        q,
        n_tests,
    )


def called_by_chance(
    null: LoadingNull, sets: BackgroundSets, cut: float, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """int64 (draw,): features with a set of p <= `cut` when genes are permuted within their strata, alike for all sets.

    Sets keep their sizes, their strata and the genes that they share. Only pairs that can have such a p are tested: it
    is at least the chance that a random set holds the very genes that are shared.
    """
    members = sets.members.astype(np.float64).tocsr()
    sizes = null.sizes(members)
    listed = (null.scores > 0).astype(np.float64)
    log_chance = null.least_log_chance(sizes)
    order = np.argsort(null.stratum, kind="stable")
    limits = np.concatenate([[0], np.cumsum(np.bincount(null.stratum))])
    counts = np.zeros(draws, dtype=np.int64)
    for draw in range(draws):
        image = np.empty(len(order), dtype=np.int64)
        image[order] = np.concatenate([rng.permutation(order[a:b]) for a, b in pairwise(limits)])
        drawn = members[image]
        gene = np.repeat(np.arange(drawn.shape[0]), np.diff(drawn.indptr))
        logs = sp.csr_matrix((log_chance[drawn.indices, null.stratum[gene]], drawn.indices, drawn.indptr), drawn.shape)
        least = (listed @ logs).tocoo()
        possible = least.data <= (np.log(cut) if cut < SCREEN else 0.0)
        feature, column = least.row[possible].astype(np.int64), least.col[possible].astype(np.int64)
        loading = _entries((null.scores @ drawn).tocsr(), feature, column)
        p = null.p_values(feature, loading, sizes[column])
        counts[draw] = len(np.unique(feature[p <= cut]))
    return counts


def _entries(matrix: sp.csr_matrix, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Entries of a matrix at (row, column), all of which it has."""
    # scipy gives a matrix, not an array, for no entries
    return np.asarray(matrix[row, column]).ravel() if len(row) else np.zeros(0)
