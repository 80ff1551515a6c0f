"""Edges and their statistics against plain formulas; symmetry of the rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

import cellcircuits as cc
from cellcircuits.edge_calling import sign_shares, statistics_of
from cellcircuits.moments import STATISTICS, Moments
from cellcircuits.settings import EdgesSettings
from tests.reference import edge_statistics


def moments_of(deltas: np.ndarray, clean: np.ndarray | None = None) -> Moments:
    """Moments from per-cell deltas (cell, source, target)."""
    clean = np.ones_like(deltas) if clean is None else clean
    n_cells, n_sources, _ = deltas.shape
    sums = np.stack([deltas.sum(0), (deltas**2).sum(0), (deltas > 0).sum(0), (deltas < 0).sum(0), clean.sum(0)])
    assert len(sums) == len(STATISTICS)
    return Moments(0, np.arange(n_sources), np.full((1, 1, n_sources), n_cells), {1: sums[:, None, None]})


def random_deltas(seed: int, n_cells: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    effect = rng.normal(0, 1, size=(1, 4, 30))
    responds = rng.random((n_cells, 4, 30)) < rng.uniform(0.1, 1, size=(1, 4, 30))
    return responds * (effect + rng.normal(0, 0.6, size=(n_cells, 4, 30)))


def test_every_statistic_equals_the_formula():
    deltas = random_deltas(0)
    values = statistics_of(moments_of(deltas), EdgesSettings())[1]
    for source in range(4):
        for target in range(30):
            for name, expected in edge_statistics(list(deltas[:, source, target])).items():
                assert values[name][source, target] == pytest.approx(expected, rel=1e-9), name


def test_p_values_are_those_of_scipy():
    deltas = random_deltas(1)
    values = statistics_of(moments_of(deltas), EdgesSettings())[1]
    np.testing.assert_allclose(values["p_value"], scipy_stats.ttest_1samp(deltas, 0, axis=0).pvalue, rtol=1e-8)


def test_q_values_are_over_all_targets_of_all_layers():
    deltas = random_deltas(2)
    first, second = moments_of(deltas[:, :, :10]), moments_of(deltas[:, :, 10:])
    both = Moments(0, first.source_features, first.n_cells, {1: first.sums[1], 2: second.sums[1]})
    values = statistics_of(both, EdgesSettings())
    parts = [(v["p_value"], np.abs(v["snr"]) > 0.5, v["sign_agreement"] >= 0.7) for v in values.values()]
    # what fails another condition of the rule enters with p = 1
    p = np.concatenate([np.where(strong & agreeing, p, 1.0).ravel() for p, strong, agreeing in parts])
    assert 0 < (p == 1).sum() < len(p)
    order = np.argsort(p)
    q = np.empty_like(p)
    smallest = 1.0
    for rank in range(len(p), 0, -1):
        smallest = min(smallest, p[order[rank - 1]] * len(p) / rank)
        q[order[rank - 1]] = smallest
    found = np.concatenate([values[1]["q_value"].ravel(), values[2]["q_value"].ravel()])
    np.testing.assert_allclose(found, q, rtol=1e-9)


def test_the_bound_holds_for_edges_of_sources_with_few_and_with_many_cells():
    """Sources without any effect in 20 cells beside real but weak effects in 200, which mean/sd > 0.5 takes away."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(20):
        few, many = rng.normal(0, 1, (20, 10, 500)), rng.normal(0.3, 1, (200, 10, 500))
        parts = [moments_of(few), moments_of(many)]
        joined = Moments(
            0,
            np.arange(20),
            np.concatenate([part.n_cells for part in parts], axis=2),
            {1: np.concatenate([part.sums[1] for part in parts], axis=3)},
        )
        values = statistics_of(joined, EdgesSettings())[1]
        by_p = values["p_value"][:10] < 0.05 * 0.5
        strong = np.abs(values["snr"][:10]) > 0.5
        # without the other conditions half of all tests are discoveries, and the cut is near p = 0.025
        assert (by_p & strong).sum() > 50
        called = cc.edges(joined)["source_feature"]
        shares.append((called < 10).mean())
    # a bound on the mean; three standard errors
    assert len(called) > 5 and np.mean(shares) < 0.05 + 3 * np.std(shares) / np.sqrt(20)
    assert np.mean(shares) < 0.1


def test_published_rule_is_the_published_formula():
    deltas = random_deltas(3)
    table = cc.edges(moments_of(deltas), rule="published")
    expected = set()
    for source in range(4):
        for target in range(30):
            s = edge_statistics(list(deltas[:, source, target]))
            if abs(s["snr"]) > 0.5 and s["consistency_published"] > 0.7:
                expected.add((source, target))
    assert set(zip(table["source_feature"], table["target_feature"], strict=True)) == expected
    assert expected


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_turning_all_signs_around_leaves_calibrated_edges_unchanged(seed):
    deltas = random_deltas(seed)
    plus, minus = (cc.edges(moments_of(sign * deltas)) for sign in (1, -1))
    keys = ["source_feature", "target_feature"]
    assert plus[keys].equals(minus[keys])
    np.testing.assert_array_equal(plus["mean_delta"], -minus["mean_delta"])


def test_published_rule_favours_negative_edges():
    """Fair signs, responding in half of the cells: the published rule calls nearly only negative ones."""
    rng = np.random.default_rng(0)
    sign = rng.choice([-1, 1], size=(1, 5, 200))
    deltas = (rng.random((60, 5, 200)) < 0.5) * sign * rng.uniform(0.5, 1, size=(60, 5, 200))
    signs = sign_shares([[lambda: moments_of(deltas)]], EdgesSettings()).set_index("rule")
    assert signs.loc["published", "share_negative"] > 0.95
    assert signs.loc["published", "chance_share"] > 0.95
    assert signs.loc["calibrated", "share_negative"] == pytest.approx(0.5, abs=0.1)
    assert signs.loc["calibrated", "chance_share"] == 0.5
    assert signs.loc["calibrated", "interval_low"] <= signs.loc["calibrated", "share_negative"]


def test_null_deltas_give_no_more_edges_than_q_allows():
    rng = np.random.default_rng(4)
    deltas = rng.normal(size=(30, 20, 500))
    table = cc.edges(moments_of(deltas), min_snr=0.0, min_agreement=0.0)
    assert len(table) <= 5


def test_too_few_cells_are_not_tested():
    deltas = np.ones((19, 1, 3)) + np.random.default_rng(0).normal(0, 0.1, (19, 1, 3))
    assert len(cc.edges(moments_of(deltas))) == 0
    assert len(cc.edges(moments_of(deltas), min_cells=19)) == 3
    assert len(cc.edges(moments_of(deltas), rule="published")) == 3


def test_relative_effect_is_missing_where_the_target_is_silent():
    deltas = np.ones((30, 1, 2)) + np.random.default_rng(0).normal(0, 0.1, (30, 1, 2))
    clean = np.ones_like(deltas) * np.array([2.0, 0.0])
    table = cc.edges(moments_of(deltas, clean))
    assert table["relative_effect"][0] == pytest.approx(0.5, abs=0.05)
    assert np.isnan(table["relative_effect"][1])
