"""Edges of groups of cells (cell types, tissues, donors, folds), and where the groups differ; from saved moments.

Groups have different numbers of cells, so that an edge of one group only may be no more than a group with few cells:
the cells cannot be thinned to equal numbers once only sums are kept. So two things are said of every pair of source and
target that is an edge in all cells or in any group: what each group finds, with its number of cells; and whether the
mean effect in a group differs from that in all other cells, by Welch's t test. Of a pair with k groups that could be
tested, p is k times the smallest (Bonferroni). Both q are over everything that could be tested; pairs that are no edge
anywhere enter with p = 1, so that what is called holds its share of false ones.

How many edges two groups would share if every effect were the same in both follows from their power: with the effect of
both groups' cells together, the mean of a group of n cells is normal with variance sd^2 / n, and so is the chance that
it passes the rule. Two draws are independent, so the chance of both is the product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats
from scipy.special import ndtr

from cellcircuits.edge_calling import Blocks, call_edges, judged
from cellcircuits.moments import ALL, SMALLEST_SD, Moments
from cellcircuits.robustness import group_sums
from cellcircuits.settings import EdgesSettings
from cellcircuits.stats import counted_benjamini_hochberg
from cellcircuits.tables import empty_table, make_table

Called = list[dict[int, np.ndarray]]
"""Of each block {target layer: bool (group, source, target)}, the last of the first axis for all cells together."""


@dataclass(frozen=True)
class GroupEdges:
    """Tables `group_edges` and `group_pairs` of one source layer."""

    edges: pd.DataFrame
    pairs: pd.DataFrame


def group_edges(blocks: Blocks, settings: EdgesSettings) -> GroupEdges:
    """Edges of every group of one source layer; tables without rows where the trace has no groups.

    Every block is loaded twice for each group and once more: q needs the p of all pairs of a group.
    """
    groups = blocks[0]().groups
    if len(groups) < 2:
        return GroupEdges(empty_table("group_edges"), empty_table("group_pairs"))
    # cells are the units within a group, and specificity was not measured by group
    rule = replace(settings, unit="cell", require_specific=False)
    called, largest_p = _called(blocks, rule, groups)
    rows, pairs, n_tests, n_tested = [], [], 0, 0
    for number, load in enumerate(blocks):
        moments = load()
        testable = _testable(moments, rule)
        for layer, found in called[number].items():
            rows.append(_rows(moments, layer, found, rule))
            n_tests += int(testable.sum()) * found.shape[2]
            n_tested += int(testable.any(axis=0).sum()) * found.shape[2]
            pairs += list(_pair_rows(moments, layer, found, rule, largest_p))
    table = _with_q(pd.concat(rows, ignore_index=True), n_tests, n_tested)
    keys = ["source_layer", "source_feature", "first_group", "second_group"]
    shared = (
        pd.concat(pairs, ignore_index=True).groupby(keys).sum().reset_index() if pairs else empty_table("group_pairs")
    )
    return GroupEdges(make_table("group_edges", table), make_table("group_pairs", shared))


def _called(blocks: Blocks, rule: EdgesSettings, groups: tuple[str, ...]) -> tuple[Called, np.ndarray]:
    """Which pairs each group calls, and the largest p that each group calls; NaN if it calls none. (group,)."""
    parts: list[dict[int, list[np.ndarray]]] = [{} for _ in blocks]
    largest = np.full(len(groups), np.nan)
    for place, group in enumerate([*groups, ALL]):
        for part, (_, statistics) in zip(parts, judged(blocks, rule, None, group), strict=True):
            for layer, values in statistics.items():
                passing = call_edges(values, rule)
                part.setdefault(layer, []).append(passing)
                if passing.any() and place < len(groups):
                    largest[place] = np.fmax(largest[place], values["p_value"][passing].max())
    return [{layer: np.stack(found) for layer, found in part.items()} for part in parts], largest


def _testable(moments: Moments, rule: EdgesSettings) -> np.ndarray:
    """bool (group, source): enough cells in the group, and in the others together."""
    n = np.stack([moments.cells(name, rule.readout) for name in moments.groups])
    return (n >= rule.min_cells) & (n.sum(axis=0) - n >= rule.min_cells)


def _rows(moments: Moments, layer: int, called: np.ndarray, rule: EdgesSettings) -> pd.DataFrame:
    """A row per group of every pair that is an edge somewhere; p, without q."""
    source, target = np.nonzero(called.any(axis=0))
    n, total, squares, _, _ = group_sums(moments, layer, rule.readout, (source, target))
    mean, variance = _mean_and_variance(n, total, squares)
    rest = _mean_and_variance(*(part.sum(axis=0) - part for part in (n, total, squares)))
    p = welch(mean, variance, n, *rest, n.sum(axis=0) - n)
    testable = _testable(moments, rule)[:, source]
    p = np.where(testable, p, np.nan)
    k = np.maximum(testable.sum(axis=0), 1)
    smallest = np.where(testable.any(axis=0), np.minimum(k * np.where(testable, p, 1.0).min(axis=0), 1.0), np.nan)
    n_groups = len(moments.groups)
    sd = np.sqrt(variance)
    wide = {
        "n_cells": n,
        "mean_delta": mean,
        "sd_delta": sd,
        "snr": mean / np.maximum(sd, SMALLEST_SD),
        "is_edge": called[:n_groups, source, target],
        "difference": np.where((n > 0) & (n.sum(axis=0) > n), mean - rest[0], np.nan),
        "difference_p": p,
    }
    columns = {
        "source_layer": moments.source_layer,
        "source_feature": np.repeat(moments.source_features[source], n_groups),
        "target_layer": layer,
        "target_feature": np.repeat(target, n_groups),
        "group": np.tile(np.array(moments.groups, dtype=object), len(source)),
        "is_edge_of_all": np.repeat(called[-1, source, target], n_groups),
        "differs_p": np.repeat(smallest, n_groups),
    }
    return pd.DataFrame(columns | {name: values.T.ravel() for name, values in wide.items()})


def _mean_and_variance(n: np.ndarray, total: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample variance from sums; what rounding leaves of a variance of 0 is 0."""
    mean = total / np.maximum(n, 1)
    spread = squares - n * mean**2
    return mean, np.where(spread > 1e-13 * n * mean**2, spread, 0.0) / np.maximum(n - 1, 1)


def welch(
    mean: np.ndarray,
    variance: np.ndarray,
    n: np.ndarray,
    other_mean: np.ndarray,
    other_variance: np.ndarray,
    other_n: np.ndarray,
) -> np.ndarray:
    """Two-sided p of Welch's t test of equal means, from moments; 1 where nothing varies or a side has one cell."""
    a, b = variance / np.maximum(n, 1), other_variance / np.maximum(other_n, 1)
    free = (n >= 2) & (other_n >= 2) & (a + b > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(free, np.abs(mean - other_mean) / np.sqrt(a + b), 0.0)
        degrees = (a + b) ** 2 / (a**2 / np.maximum(n - 1, 1) + b**2 / np.maximum(other_n - 1, 1))
    return np.where(free, np.minimum(2 * scipy_stats.t.sf(t, np.where(free, degrees, 1.0)), 1.0), 1.0)


def _with_q(table: pd.DataFrame, n_tests: int, n_tested: int) -> pd.DataFrame:
    """Add difference_q over all tests of pair and group, differs_q over all tested pairs; in a total order."""
    table["difference_q"] = _q(table["difference_p"].to_numpy(), n_tests)
    ends = ["source_layer", "source_feature", "target_layer", "target_feature"]
    first = ~table.duplicated(ends).to_numpy()
    table["differs_q"] = _q(table["differs_p"].to_numpy(), n_tested, first)
    order = ["target_layer", "source_feature", "target_feature", "group"]
    return table.sort_values(order, ignore_index=True)


def _q(p: np.ndarray, n_tests: int, counted: np.ndarray | None = None) -> np.ndarray:
    """Benjamini-Hochberg of `p` among `n_tests` tests, of which all others have p = 1; NaN where p is.

    `counted` marks the tests, where `p` repeats some.
    """
    q = np.full(len(p), np.nan)
    known = np.isfinite(p)
    values, place = np.unique(p[known], return_inverse=True)
    weights = np.ones(known.sum()) if counted is None else counted[known].astype(float)
    counts = np.bincount(place, weights=weights, minlength=len(values))
    q[known] = counted_benjamini_hochberg(values, counts, n_tests - int(counts.sum()))[place]
    return q


def _pair_rows(
    moments: Moments, layer: int, called: np.ndarray, rule: EdgesSettings, largest_p: np.ndarray
) -> Iterator[pd.DataFrame]:
    """Common edges of every two groups with enough cells, found and expected, by source."""
    n = np.stack([moments.cells(name, rule.readout) for name in moments.groups])
    every = np.indices(called.shape[1:]).reshape(2, -1)
    sums = group_sums(moments, layer, rule.readout, (every[0], every[1])).reshape(5, len(n), *called.shape[1:])
    for first, second in combinations(range(len(n)), 2):
        rows = np.flatnonzero((n[first] >= rule.min_cells) & (n[second] >= rule.min_cells))
        if not len(rows):
            continue
        pooled = sums[:, first, rows] + sums[:, second, rows]
        one, other = (power(pooled, sums[:, g, rows], largest_p[g], rule) for g in (first, second))
        found_one, found_other = called[first, rows], called[second, rows]
        columns = {
            "n_tested": np.full(len(rows), called.shape[2]),
            "n_first": found_one.sum(axis=1),
            "n_second": found_other.sum(axis=1),
            "n_both": (found_one & found_other).sum(axis=1),
            "expected_first": one.sum(axis=1),
            "expected_second": other.sum(axis=1),
            "expected_both": (one * other).sum(axis=1),
        }
        names = {
            "source_layer": moments.source_layer,
            "source_feature": moments.source_features[rows],
            "first_group": moments.groups[first],
            "second_group": moments.groups[second],
        }
        yield pd.DataFrame(names | columns)


def power(pooled: np.ndarray, own: np.ndarray, largest_p: float, rule: EdgesSettings) -> np.ndarray:
    """Chance that a pair is called from so many cells as `own` if its effect is that of `pooled`, (source, target).

    Both are sums (statistic, source, target) as `group_sums` gives them. The mean of n cells is normal around the
    pooled mean; it passes if |mean / sd| exceeds `min_snr` and what the largest called p asks for. The share of
    responding cells with the sign of the mean is normal around the pooled share; both conditions mostly hold together,
    so the smaller of the two chances counts. An approximation: the pooled mean is itself an estimate.
    """
    n = np.maximum(own[0], 2)
    if not np.isfinite(largest_p):
        return np.zeros(n.shape)
    mean, variance = _mean_and_variance(*pooled[:3])
    snr = mean / np.maximum(np.sqrt(variance), SMALLEST_SD)
    asked = scipy_stats.t.isf(max(largest_p, 1e-300) / 2, n - 1) / np.sqrt(n)
    cut = np.maximum(asked, rule.min_snr)
    passes = ndtr((snr - cut) * np.sqrt(n)) + ndtr((-snr - cut) * np.sqrt(n))
    responding = np.maximum(pooled[3] + pooled[4], 1)
    share = np.where(mean > 0, pooled[3], pooled[4]) / responding
    responding_own = np.maximum(responding * own[0] / np.maximum(pooled[0], 1), 1)
    error = np.sqrt(np.maximum(share * (1 - share), 1e-6) / responding_own)
    return np.where(variance > 0, np.minimum(passes, ndtr((share - rule.min_agreement) / error)), 0.0)
