"""How many pairs of gene programs two runs share, beside graphs in which every program stays as popular as it is."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import numpy as np
from scipy.stats import binom, binomtest, chi2

from cellcircuits.measures.rewiring import rewired
from cellcircuits.measures.run_programs import ProgramPairs
from cellcircuits.stats import interval, log_choose, reweighted_sums

MOST_LINKS = 40_000_000
"""Links drawn in all rewirings together; of larger graphs fewer are drawn, since their overlap varies less."""
FEWEST_DRAWS = 200


@dataclass(frozen=True)
class Overlap:
    """How many pairs of labels are shared, beside random graphs of the same popularity."""

    n_shared: int
    drawn: np.ndarray
    """(draw,): the same number in each rewiring."""
    low: float
    """Lower end of the 95 % interval of n_shared / n_expected."""
    high: float

    @property
    def n_expected(self) -> float:
        """Mean over the rewirings."""
        return float(self.drawn.mean()) if len(self.drawn) else 0.0

    @property
    def ratio(self) -> float:
        """n_shared / n_expected; NaN if nothing is expected."""
        return self.n_shared / self.n_expected if self.n_expected > 0 else nan

    @property
    def p_value(self) -> float:
        """(1 + draws with at least as many) / (1 + draws)."""
        return float((1 + (self.drawn >= self.n_shared).sum()) / (1 + len(self.drawn)))


def affordable(draws: int, n_links: int) -> int:
    """Rewirings of so many links: `draws`, or as many as MOST_LINKS allow, but at least FEWEST_DRAWS of those."""
    return min(draws, max(FEWEST_DRAWS, MOST_LINKS // max(n_links, 1)))


def shared_pairs(
    first: ProgramPairs, second: ProgramPairs, draws: int, rng: np.random.Generator
) -> tuple[Overlap, np.ndarray, np.ndarray]:
    """(Overlap, rows of `first` and of `second` that are shared); the pairs of `second` are rewired.

    The interval is that of n_shared / n_expected when every source label gets a random weight in both.
    """
    n_labels, rewirings = len(first.known), affordable(draws, len(second))
    row_of = np.full((n_labels, n_labels), -1, dtype=np.int32)
    row_of[first.source, first.target] = np.arange(len(first), dtype=np.int32)
    rows = row_of[second.source, second.target]
    in_first, in_second = rows[rows >= 0], np.flatnonzero(rows >= 0)
    drawn, by_source = np.zeros(rewirings if len(first) and len(second) else 0), np.zeros(n_labels)
    if len(drawn):
        for draw, (source, target) in enumerate(rewired(second.source, second.target, rewirings, rng)):
            hit = row_of[source, target] >= 0
            drawn[draw] = hit.sum()
            by_source += np.bincount(source[hit], minlength=n_labels)
    observed = np.bincount(second.source[in_second], minlength=n_labels)
    low, high = ratio_interval(observed, by_source / max(rewirings, 1), draws, rng)
    return Overlap(len(in_first), drawn, low, high), in_first, in_second


def ratio_interval(
    observed: np.ndarray, expected: np.ndarray, draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % interval of sum(observed) / sum(expected), counts and their expectations (cluster,); NaN if they are 0.

    The wider of two: clusters reweighted at random, and the exact Poisson interval of the count (Garwood 1936), without
    which few or no observed would have an interval of no width.
    """
    n, total = float(observed.sum()), float(expected.sum())
    if total <= 0:
        return nan, nan
    poisson = chi2.ppf(0.025, 2 * n) / 2 if n else 0.0, chi2.ppf(0.975, 2 * n + 2) / 2
    low, high = _reweighted(observed, expected, draws, rng)
    return float(np.fmin(low, poisson[0] / total)), float(np.fmax(high, poisson[1] / total))


def share_interval(hits: np.ndarray, trials: np.ndarray, draws: int, rng: np.random.Generator) -> tuple[float, float]:
    """95 % interval of sum(hits) / sum(trials), whole numbers (cluster,); NaN without trials.

    The wider of two: clusters reweighted at random, and the exact binomial interval (Clopper & Pearson 1934).
    """
    n, of = int(hits.sum()), int(trials.sum())
    if of == 0:
        return nan, nan
    exact = binomtest(n, of).proportion_ci(method="exact")
    low, high = _reweighted(hits, trials, draws, rng)
    return float(np.fmin(low, exact.low)), float(np.fmax(high, exact.high))


def _reweighted(
    numerator: np.ndarray, denominator: np.ndarray, draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % percentile interval of the ratio of two sums over clusters, every cluster reweighted."""
    used = np.flatnonzero((numerator > 0) | (denominator > 0))
    sums = reweighted_sums(np.column_stack([numerator, denominator])[used], np.arange(len(used)), draws=draws, rng=rng)
    return interval(sums[:, 0] / np.where(sums[:, 1] > 0, sums[:, 1], nan))


def shuffled_overlap(first: ProgramPairs, second: ProgramPairs, n_shared: int) -> tuple[float, float]:
    """(expected shared pairs, p) when the target labels of the second run's edges are permuted within pairs of layers.

    Every source keeps its edges and every label its numbers of edges, so a pair (s, t) is joined with the chance
    1 - product over pairs of layers of C(n - r_t, l_s) / C(n, l_s), of n labelled edges, l_s of which leave s and r_t
    reach t; the expectation is its sum over the first run's pairs, without draws. p is the chance of at least n_shared
    under a binomial distribution of that mean, which bounds that of independent pairs of unequal chances (Hoeffding
    1956); pairs compete for edges, which makes it smaller still. Unlike rewiring, this null knows how many edges, not
    only how many pairs, a label has; but where edges of one pair come in bundles it joins too many pairs.
    """
    log_absent = np.zeros(len(first))
    for leaving, reaching in zip(second.leaving, second.reaching, strict=True):
        n, left, reached = leaving.sum(), leaving[first.source], reaching[first.target]
        with np.errstate(divide="ignore"):
            log_absent += log_choose(n - reached, left) - log_choose(n, left)
    expected = float(-np.expm1(log_absent).sum())
    if not len(first):
        return expected, nan
    return expected, float(binom.sf(n_shared - 1, len(first), min(expected / len(first), 1.0)))


def published_overlap(first: ProgramPairs, second: ProgramPairs) -> tuple[int, float]:
    """(shared pairs, those expected) by the published procedure: all pairs, labels of the second run renamed at random.

    Its labels are the n that occur in its pairs; a random bijection of them onto themselves takes a pair of different
    labels to each of the n (n - 1) ordered pairs alike, and a pair of equal labels to each of n. So the mean that
    Kendiukhov 2026 estimates from 1,000 draws is exact: S1 S2 / (n (n - 1)) + E1 E2 / n, with S and E the pairs of
    different and of equal labels, those of the first run among the n labels only.
    """
    used = np.zeros(len(second.known), dtype=bool)
    used[second.source] = used[second.target] = True
    n = int(used.sum())
    inside = used[first.source] & used[first.target]
    equal = [
        int((pairs.source == pairs.target)[kept].sum()) for pairs, kept in ((first, inside), (second, slice(None)))
    ]
    different = int(inside.sum()) - equal[0], len(second) - equal[1]
    expected = equal[0] * equal[1] / max(n, 1) + different[0] * different[1] / max(n * (n - 1), 1)
    key_first, key_second = (pairs.source * len(second.known) + pairs.target for pairs in (first, second))
    return int(np.isin(key_first, key_second).sum()), expected
