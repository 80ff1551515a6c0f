"""Edges of groups: against scipy on the cells, under equal effects, with planted differences, and without groups."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from cellcircuits.edge_calling import edges
from cellcircuits.group_edges import group_edges, welch
from cellcircuits.moments import Moments
from cellcircuits.settings import EdgesSettings
from cellcircuits.stats import benjamini_hochberg
from tests.grouped_moments import grouped_deltas, grouped_moments

SIZES, NAMES = (40, 60, 25), ("B", "CD4 T", "NK")
ENDS = ["source_feature", "target_feature"]


def found(seed: int = 0, **how):
    deltas, group = grouped_deltas(seed, SIZES, **how)
    return deltas, group, group_edges([lambda: grouped_moments(deltas, group, NAMES)], EdgesSettings())


def test_every_number_is_that_of_the_cells():
    deltas, group, result = found(shift=1.0)
    table = result.edges
    called = {
        name: set(map(tuple, edges(grouped_moments(deltas, group, NAMES), group=name)[ENDS].to_numpy()))
        for name in (*NAMES, "all")
    }
    assert set(map(tuple, table[ENDS].to_numpy())) == set.union(*called.values())
    p_all, pair_p = [], {}
    for row in table.to_dict("records"):
        pair = row["source_feature"], row["target_feature"]
        inside = group == NAMES.index(row["group"])
        mine, others = (deltas[which][:, pair[0], pair[1]] for which in (inside, ~inside))
        p = scipy_stats.ttest_ind(mine, others, equal_var=False).pvalue
        assert row["difference_p"] == pytest.approx(p, rel=1e-6)
        assert row["difference"] == pytest.approx(mine.mean() - others.mean())
        assert (row["mean_delta"], row["sd_delta"]) == pytest.approx((mine.mean(), mine.std(ddof=1)))
        assert (row["is_edge"], row["is_edge_of_all"]) == (pair in called[row["group"]], pair in called["all"])
        p_all.append(p)
        pair_p.setdefault(pair, []).append(p)
    n_pairs = deltas.shape[1] * deltas.shape[2]
    q = benjamini_hochberg(np.concatenate([p_all, np.ones(3 * n_pairs - len(p_all))]))
    np.testing.assert_allclose(table["difference_q"], q[: len(table)], rtol=1e-6)
    smallest = np.minimum(3 * np.array([min(p) for p in pair_p.values()]), 1)
    q = benjamini_hochberg(np.concatenate([smallest, np.ones(n_pairs - len(smallest))]))
    one_each = table.drop_duplicates(ENDS).set_index(ENDS)["differs_q"]
    np.testing.assert_allclose([one_each[pair] for pair in pair_p], q[: len(smallest)], rtol=1e-6)


def test_common_edges_equal_loops():
    _, _, result = found(1)
    wide = result.edges.pivot(index=ENDS, columns="group", values="is_edge")
    for row in result.pairs.to_dict("records"):
        mine = wide.loc[row["source_feature"]]
        a, b = (mine[row[name]].astype(bool) for name in ("first_group", "second_group"))
        assert (row["n_first"], row["n_second"], row["n_both"]) == (a.sum(), b.sum(), (a & b).sum())
        assert row["n_tested"] == 60
    assert len(result.pairs) == 6 * 3


def test_blocks_of_sources_are_the_whole():
    deltas, group, whole = found(2, shift=0.8)
    moments = grouped_moments(deltas, group, NAMES)
    blocks = [lambda: moments.of_sources(np.arange(4)), lambda: moments.of_sources(np.arange(4, 6))]
    parts = group_edges(blocks, EdgesSettings())
    pd.testing.assert_frame_equal(parts.edges, whole.edges)
    pd.testing.assert_frame_equal(parts.pairs, whole.pairs)


def test_with_equal_effects_little_differs_and_as_much_is_shared_as_expected():
    small, any_differs, shared = [], 0, np.zeros(2)
    for seed in range(20):
        _, _, result = found(seed)
        of_all = result.edges[result.edges["is_edge_of_all"]]
        small.append((of_all["difference_p"] <= 0.05).mean())
        any_differs += bool((result.edges["differs_q"] <= 0.05).any())
        shared += result.pairs[["n_both", "expected_both"]].sum().to_numpy()
    assert 0.03 < np.mean(small) < 0.06
    # at most 1 of 20 is expected; 5 or more have a chance of 0.3 %
    assert any_differs < 5
    assert shared[0] == pytest.approx(shared[1], rel=0.05)


def test_planted_differences_are_found():
    _, _, result = found(3, shift=1.5)
    differs = result.edges.loc[result.edges["difference_q"] <= 0.05, ["group", "difference"]]
    assert (differs["group"] == "B").sum() > 30
    assert (differs.loc[differs["group"] == "B", "difference"] > 0).mean() > 0.95
    with_b = result.pairs[result.pairs["first_group"] == "B"]
    assert with_b["n_both"].sum() < 0.95 * with_b["expected_both"].sum()


def test_groups_with_few_cells_are_not_tested():
    deltas, group = grouped_deltas(4, (40, 40, 8))
    result = group_edges([lambda: grouped_moments(deltas, group, NAMES)], EdgesSettings())
    few = result.edges[result.edges["group"] == "NK"]
    assert few["difference_p"].isna().all() and few["difference_q"].isna().all() and not few["is_edge"].any()
    assert set(map(tuple, result.pairs[["first_group", "second_group"]].to_numpy())) == {("B", "CD4 T")}


def test_without_groups_there_is_nothing():
    deltas, group = grouped_deltas(0, (40,))
    result = group_edges([lambda: grouped_moments(deltas, group, ("all",))], EdgesSettings())
    assert result.edges.empty and result.pairs.empty


def test_no_edge_anywhere():
    deltas = np.random.default_rng(0).normal(size=(60, 2, 10))
    result = group_edges([lambda: grouped_moments(deltas, np.arange(60) % 2, ("a", "b"))], EdgesSettings(max_q=1e-9))
    assert result.edges.empty
    assert result.pairs[["n_first", "n_second", "n_both", "expected_both"]].to_numpy().sum() == 0


def test_two_groups_have_one_difference():
    deltas, group = grouped_deltas(5, (30, 50))
    table = group_edges([lambda: grouped_moments(deltas, group, ("a", "b"))], EdgesSettings()).edges
    a, b = (table[table["group"] == name].reset_index(drop=True) for name in ("a", "b"))
    np.testing.assert_allclose(a["difference"], -b["difference"])
    np.testing.assert_allclose(a["difference_p"], b["difference_p"])


def test_welch_where_nothing_varies():
    zero, one, n = np.zeros(1), np.ones(1), np.full(1, 30.0)
    assert welch(zero, zero, n, one, zero, n).tolist() == [1.0]
    assert welch(zero, one, np.ones(1), one, one, n).tolist() == [1.0]
    for a, b in combinations((0.0, 0.5, 2.0), 2):
        p = scipy_stats.ttest_ind_from_stats(a, 1.0, 30, b, 1.0, 30, equal_var=False).pvalue
        assert welch(zero + a, one, n, zero + b, one, n)[0] == pytest.approx(p)


def test_every_target_layer_is_there():
    deltas, group = grouped_deltas(6, SIZES)
    first, second = (grouped_moments(deltas[:, :, half], group, NAMES) for half in (slice(30), slice(30, 60)))
    both = Moments(0, first.source_features, first.n_cells, {1: first.sums[1], 2: second.sums[1]}, groups=NAMES)
    result = group_edges([lambda: both], EdgesSettings())
    assert set(result.edges["target_layer"]) == {1, 2} and (result.pairs["n_tested"] == 60).all()
