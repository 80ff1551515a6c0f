"""Statistics, thin over scipy: multiple testing, t tests from moments, enrichment, intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
from scipy import stats as scipy_stats
from scipy.special import gammaln


def benjamini_hochberg(p_values: np.ndarray) -> np.ndarray:
    """q values of all tests given, in their shape (Benjamini & Hochberg 1995). NaN is not allowed."""
    flat = np.asarray(p_values, dtype=np.float64).ravel()
    if flat.size == 0:
        return flat.reshape(np.shape(p_values))
    return scipy_stats.false_discovery_control(flat, method="bh").reshape(np.shape(p_values))


def count_discoveries(p_values: np.ndarray, n_tests: int, max_q: float) -> int:
    """How many of `n_tests` tests have a q of at most `max_q`, where all whose p is not given have p = 1.

    The largest k with p_(k) <= max_q k / n_tests.
    """
    ordered = np.sort(p_values)
    below = np.flatnonzero(ordered <= max_q * np.arange(1, len(ordered) + 1) / max(n_tests, 1))
    return int(below[-1]) + 1 if len(below) else 0


def one_sample_t(mean: np.ndarray, sd: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Two-sided p of a one-sample t test of mean 0, from moments; 1 where nothing varies around 0 or n < 2.

    t = mean / (sd / sqrt(n)) with n - 1 degrees of freedom. If all observations are equal and not 0, p is 0.
    """
    mean, sd, n = np.broadcast_arrays(np.asarray(mean, float), np.asarray(sd, float), np.asarray(n, float))
    testable = (n >= 2) & ((sd > 0) | (mean != 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(mean) / (sd / np.sqrt(n))
    p = 2 * scipy_stats.t.sf(np.where(testable, t, 0.0), np.maximum(n - 1, 1))
    return np.where(testable, p, 1.0)


def sign_test(n_positive: np.ndarray, n_negative: np.ndarray) -> np.ndarray:
    """Two-sided p of the exact sign test; 1 where no unit responds.

    Under the null every responding unit is positive or negative with probability 1/2, as for any distribution that is
    symmetric around 0, so n_positive is binomial. Units of 0 are left out. Neither variance nor normality matter.
    """
    positive, negative = np.asarray(n_positive, dtype=float), np.asarray(n_negative, dtype=float)
    tail = scipy_stats.binom.cdf(np.minimum(positive, negative), positive + negative, 0.5)
    return np.minimum(2 * tail, 1.0)


def sign_flip(values: np.ndarray, draws: int = 4096, most_exact: int = 12, seed: int = 0) -> np.ndarray:
    """Two-sided p of a sign-flip test of mean 0 for `values` (unit, ...): under the null every sign is a fair coin.

    p is the share of sign patterns whose |sum| is at least the observed one. With up to `most_exact` units all 2^n
    patterns are tried; with more, `draws` random ones, and 1 is added to both counts. A unit that is 0 changes nothing.
    """
    values = np.asarray(values, dtype=float)
    n, flat = len(values), values.reshape(len(values), -1)
    exact = n <= most_exact
    if exact:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, n))
    observed = np.abs(flat.sum(axis=0))
    # sums in another order differ by rounding
    least = observed * (1 - 1e-9)
    as_large = np.zeros(flat.shape[1])
    for block in np.array_split(signs, max(1, len(signs) * flat.shape[1] // 50_000_000)):
        as_large += (np.abs(block @ flat) >= least).sum(axis=0)
    p = as_large / len(signs) if exact else (1 + as_large) / (1 + len(signs))
    return p.reshape(values.shape[1:])


def counted_benjamini_hochberg(p_values: np.ndarray, counts: np.ndarray, n_ones: int = 0) -> np.ndarray:
    """q of each p when `p_values[i]` was found in `counts[i]` tests and 1 in `n_ones` more; `p_values` are distinct.

    The same as `benjamini_hochberg` on all of them, in the memory of the distinct values.
    """
    order = np.argsort(p_values)
    rank = np.cumsum(counts[order])
    bound = p_values[order] * (rank[-1] + n_ones if len(rank) else 0) / rank
    q = np.empty(len(order))
    q[order] = np.minimum(np.minimum.accumulate(bound[::-1])[::-1], 1.0)
    return q


def hypergeometric_enrichment(
    overlap: np.ndarray, n_list: np.ndarray, n_term: np.ndarray, n_background: int
) -> np.ndarray:
    """One-sided p of at least `overlap` shared genes between a list and a term, drawn from the background.

    The sum of all chances from `overlap` upward: the first from log factorials, each further one from the one before.
    Many tests at once take a small part of the time of one by one, and no small p is the difference of large numbers.
    """
    k, n, t = (np.asarray(x, dtype=np.float64) for x in np.broadcast_arrays(overlap, n_list, n_term))
    certain = k <= np.maximum(n + t - n_background, 0)
    k = np.maximum(k, np.maximum(n + t - n_background, 0))
    log_first = log_choose(t, k) + log_choose(n_background - t, n - k) - log_choose(n_background, n)
    term = np.exp(log_first)
    total = term.copy()
    for _ in range(int(np.max(np.minimum(n, t) - k, initial=0))):
        term = term * (n - k) * (t - k) / ((k + 1) * (n_background - n - t + k + 1))
        total += term
        k = k + 1
        if np.all(term <= 1e-18 * total):
            break
    return np.where(certain, 1.0, np.minimum(total, 1.0))


def log_choose(n: np.ndarray | int, k: np.ndarray) -> np.ndarray:
    """Logarithm of the number of ways to choose k of n; -inf where k > n."""
    return gammaln(np.asarray(n) + 1.0) - gammaln(k + 1.0) - gammaln(np.maximum(n - k + 1.0, 0.0))


def odds_ratio(overlap: np.ndarray, n_list: np.ndarray, n_term: np.ndarray, n_background: int) -> np.ndarray:
    """Odds ratio of a 2 x 2 table with 0.5 added to every count (Haldane-Anscombe)."""
    a = overlap + 0.5
    b = n_list - overlap + 0.5
    c = n_term - overlap + 0.5
    d = n_background - n_list - n_term + overlap + 0.5
    return a * d / (b * c)


def cluster_bootstrap(
    clusters: np.ndarray, statistic: Callable[[np.ndarray], float], draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % percentile interval of `statistic(weights)`, resampling whole clusters.

    `clusters` labels each observation; `weights` counts how often each observation was drawn.
    """
    _, member = np.unique(clusters, return_inverse=True)
    n_clusters = int(member.max(initial=-1)) + 1
    if n_clusters == 0:
        return float("nan"), float("nan")
    values = []
    for _ in range(draws):
        drawn = np.bincount(rng.integers(n_clusters, size=n_clusters), minlength=n_clusters)
        values.append(statistic(drawn[member]))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def gini(values: np.ndarray) -> np.ndarray:
    """Gini coefficient along the last axis: 0 if all are equal, near 1 if one has all; NaN where the sum is 0.

    G = sum over i of (2 i - n - 1) x_(i) / (n sum of x), for values in ascending order and i from 1 to n.
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=-1)
    n = ordered.shape[-1]
    total = ordered.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, ordered @ (2 * np.arange(1, n + 1) - n - 1) / (n * total), np.nan)


def bootstrap_sums(values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Sums of `values` (cluster, ...) over as many clusters drawn with replacement, (draw, ...)."""
    values = np.asarray(values, dtype=float)
    n, flat = len(values), values.reshape(len(values), int(np.prod(values.shape[1:])))
    sums = np.zeros((draws, flat.shape[1]))
    for draw in range(draws if n else 0):
        sums[draw] = np.bincount(rng.integers(n, size=n), minlength=n) @ flat
    return sums.reshape(draws, *values.shape[1:])


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of draws (draw,), NaN left out; NaN without any."""
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


MOST_FLIPPED = 500
"""Units up to which signs are flipped; the mean of more is normal enough for a t test."""


def symmetric_mean_test(values: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of mean 0 for independent units (unit,) with distributions symmetric around 0; NaN without units.

    A sign-flip test of up to MOST_FLIPPED units, a one-sample t test of more.
    """
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        return float("nan")
    if len(values) <= MOST_FLIPPED:
        return float(sign_flip(values, seed=seed))
    return float(one_sample_t(values.mean(), values.std(ddof=1), np.array(len(values))))


def permuted_sums(blocks: Iterable[np.ndarray], draws: int, rng: np.random.Generator) -> np.ndarray:
    """float64 (..., draw): sum of C[..., i, pi(i)] over blocks C (..., member, member), pi a permutation of each.

    For a statistic sum of a(s, i) b(s, i) over members i of strata, all b(s, .) permuted alike, C is a^T b within a
    stratum: the permutations then cost as much as there are members, not as there are (s, i). The mean over all
    permutations is the sum of C over its number of members. Leading axes hold statistics that share the permutations.
    """
    total: np.ndarray = np.zeros(draws)
    for block in blocks:
        n = block.shape[-1]
        members = np.arange(n)
        sums = []
        for start in range(0, draws, step := max(1, 4_000_000 // max(n, 1))):
            order = rng.permuted(np.tile(members, (min(step, draws - start), 1)), axis=1)
            sums.append(block[..., members, order].sum(axis=-1))
        total = total + np.concatenate(sums, axis=-1)
    return total


REWEIGHTED_AT_ONCE = 20_000_000
"""Weights of observations that are held in memory together."""


def reweighted_sums(values: np.ndarray, *clusters: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Column sums of `values` (observation, statistic) under random weights: (draw, statistic).

    A bootstrap for statistics that are functions of sums. Every cluster gets a weight drawn from the exponential
    distribution of mean 1 (the Bayesian bootstrap, Rubin 1981), and an observation the product of the weights of the
    clusters that it belongs to, one of each kind (Owen & Eckles 2012, "Bootstrapping data arrays of arbitrary
    order"). So observations that share a source, or a target, vary together. `clusters`: for each kind the whole
    number of each observation's cluster, from 0.
    """
    values = np.asarray(values, dtype=np.float64)
    n_clusters = [int(member.max(initial=-1)) + 1 for member in clusters]
    sums = np.zeros((draws, values.shape[1]))
    at_once = max(1, REWEIGHTED_AT_ONCE // max(len(values), *n_clusters, 1))
    for start in range(0, draws, at_once):
        n = min(at_once, draws - start)
        weights = np.ones((n, len(values)), dtype=np.float32)
        for member, n_members in zip(clusters, n_clusters, strict=True):
            weights *= rng.standard_exponential((n, n_members), dtype=np.float32)[:, member]
        sums[start : start + n] = weights @ values.astype(np.float32)
    return sums


def bootstrap_p(
    value: float, null: float, draws: np.ndarray, n_clusters: int, alternative: Literal["two-sided", "greater"]
) -> float:
    """p of `value` against `null` from bootstrap draws of it: t = (value - null) / sd(draws), n_clusters - 1 df.

    NaN with fewer than three clusters, or where the draws do not vary.
    """
    finite = draws[np.isfinite(draws)]
    spread = float(finite.std(ddof=1)) if len(finite) > 1 else 0.0
    if n_clusters < 3 or not np.isfinite(value) or spread <= 0:
        return float("nan")
    t = (value - null) / spread
    tail = scipy_stats.t.sf(abs(t) if alternative == "two-sided" else t, n_clusters - 1)
    return float(min(1.0, 2 * tail if alternative == "two-sided" else tail))


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the draws that are finite; NaN without any."""
    finite = draws[np.isfinite(draws)]
    if len(finite) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def van_elteren(values: np.ndarray, in_first: np.ndarray, strata: np.ndarray) -> float:
    """Two-sided p of the stratified rank-sum test (van Elteren 1960): are `values` of the first group higher or lower?

    T = sum over strata of (W - E[W]) / (n + 1), where W is the rank sum of the first group among the stratum's n
    values, ties by mid-ranks; T / sd(T) is standard normal under the null of equal distributions within each stratum.
    `values` are (observation,), `in_first` bool, `strata` whole numbers. NaN if no stratum holds both groups, or if
    all values of such strata are equal.
    """
    total, variance = 0.0, 0.0
    order = np.argsort(strata, kind="stable")
    bounds = np.flatnonzero(np.diff(strata[order])) + 1
    for members in np.split(order, bounds):
        n, n_first = len(members), int(in_first[members].sum())
        if n_first in (0, n):
            continue
        ranks = scipy_stats.rankdata(values[members])
        total += (ranks[in_first[members]].sum() - n_first * (n + 1) / 2) / (n + 1)
        # variance of a sum of n_first ranks drawn without replacement; ties lower that of the ranks
        variance += n_first * (n - n_first) / n * ranks.var(ddof=1) / (n + 1) ** 2
    return float(2 * scipy_stats.norm.sf(abs(total) / np.sqrt(variance))) if variance > 0 else float("nan")


def rank_classes(values: np.ndarray, group: np.ndarray, n_classes: int) -> np.ndarray:
    """int64 (observation,): class of each value, equally many values in each class of a group, from 0.

    floor(n_classes (rank - 1/2) / n) among the n values of the group, equal values with their mean rank, so that they
    share a class. `group` are whole numbers.
    """
    classes = np.zeros(len(values), dtype=np.int64)
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        rank = scipy_stats.rankdata(values[members])
        classes[members] = n_classes * (rank - 0.5) / max(len(members), 1)
    return classes


def permutations_within(strata: np.ndarray, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """`draws` random permutations of the places of `strata`, each of which keeps every place within its stratum."""
    order = np.argsort(strata, kind="stable")
    _, dense = np.unique(strata[order], return_inverse=True)
    bits = max(1, (len(strata) - 1).bit_length())
    place = np.arange(len(strata))
    for _ in range(draws):
        # numbers that carry their place are sorted several times faster than their places
        chance = rng.integers(1 << 24, size=len(strata))
        packed = np.sort((dense << 24 | chance) << bits | place)
        permutation = np.empty(len(strata), dtype=np.int64)
        permutation[order] = order[packed & (1 << bits) - 1]
        yield permutation
