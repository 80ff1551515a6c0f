"""How far effects reach: counts by loops, null data, planted fading, and too little to say anything."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import kstest, spearmanr

from cellcircuits.evidence import Evidence, make_evidence
from cellcircuits.figures.attenuation import draw
from cellcircuits.findings.attenuation import (
    ask,
    attenuation_curve,
    by_distance,
    distance_correlation,
    edges_by_layer,
    published_curve,
    targets_per_source,
)
from cellcircuits.settings import EdgesSettings, FindingsSettings
from cellcircuits.stats import bootstrap_sums, gini, percentile_interval, symmetric_mean_test
from tests.made_up_evidence import made_up_evidence

SETTINGS = FindingsSettings(permutations=100)


def only(evidence: Evidence, keep: pl.Expr) -> Evidence:
    """The same evidence with some edges alone."""
    return make_evidence(evidence.edges.filter(keep).drop("source", "target"), evidence.features, **evidence.tables)


def test_counts_equal_loops():
    evidence = only(made_up_evidence(), (pl.col("target_feature") % 3 > 0) | (pl.col("target_layer") == 1))
    layer, counts = edges_by_layer(evidence)
    targets = targets_per_source(evidence)
    observed, expected = by_distance(layer, counts, targets)
    rho, edges = distance_correlation(layer, counts, targets), evidence.edges.to_dicts()
    per_layer: dict[tuple[int, int], list[int]] = {}
    for place, row in enumerate(evidence.source_rows):
        mine = [edge for edge in edges if edge["source"] == row]
        assert layer[place] == evidence.features["layer"][row]
        reach = [t for t in range(4) if t > layer[place]]
        n = [sum(edge["target_layer"] == t for edge in mine) for t in reach]
        assert counts[place].tolist() == [0] * (4 - len(n)) + n
        assert observed[place].tolist() == [0, *n] + [0] * (3 - len(n))
        assert expected[place, 1 : 1 + len(n)] == pytest.approx([len(mine) / len(reach)] * len(reach))
        if len(reach) == 3:
            # every layer has 60 targets
            assert rho[place] == pytest.approx(spearmanr(n, reach)[0])
        else:
            assert np.isnan(rho[place])
        for t, count in zip(reach, n, strict=True):
            per_layer.setdefault((layer[place], t), []).append(count)
    curve = published_curve(layer, counts, targets)
    for distance in (1, 2, 3):
        means = [np.mean([c for c in n if c]) for (s, t), n in per_layer.items() if t - s == distance]
        assert curve[distance] == pytest.approx(np.mean(means))


def test_the_curve_holds_the_sums():
    evidence = made_up_evidence()
    table, (layer, counts) = attenuation_curve(evidence, 50, 0), edges_by_layer(evidence)
    observed, expected = by_distance(layer, counts, targets_per_source(evidence))
    assert table["distance"].tolist() == [1, 2, 3] and table["n_sources"].tolist() == [30, 20, 10]
    assert table["n_edges"].tolist() == observed.sum(axis=0)[1:].tolist() and table["n_edges"].sum() == 600
    assert np.allclose(table["n_expected"], expected.sum(axis=0)[1:])
    assert np.allclose(table["ratio"], table["n_edges"] / table["n_expected"])
    assert (table["ratio_low"] < table["ratio"]).all() and (table["ratio"] < table["ratio_high"]).all()


def test_p_is_uniform_without_an_effect():
    """Every source has 12 edges to random targets of any layer above."""
    targets, layer = np.triu(np.full((5, 5), 60.0), 1), np.repeat([0, 1, 2], 8)
    rank, distance = [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        counts = np.array([rng.multinomial(12, targets[here] / targets[here].sum()) for here in layer])
        rho = distance_correlation(layer, counts, targets)
        rank.append(symmetric_mean_test(rho[~np.isnan(rho)]))
        observed, expected = by_distance(layer, counts, targets)
        distance.append(symmetric_mean_test((observed - expected) @ np.arange(5)))
    assert kstest(rank, "uniform").pvalue > 0.01 and kstest(distance, "uniform").pvalue > 0.01


def test_fading_is_found():
    near = pl.col("target_layer") == pl.col("source_layer") + 1
    many = made_up_evidence(sources_per_layer=30, edges_per_source=40)
    found = ask(only(many, near | (pl.col("target_feature") % 2 == 0)), SETTINGS)
    rank, distance = found.answers
    assert rank.value < rank.high < 0 and rank.p_value < 0.01
    assert distance.value < distance.high < distance.baseline and distance.p_value < 0.001
    ratio = found.tables["attenuation_curve"]["ratio"]
    assert ratio[0] > 1.1 and ratio[1:].max() < 1
    assert draw(found)["attenuation_curve"].texts[0].get_text() == "Effects fade with distance"


def test_the_published_curve_forgets_sources_without_edges():
    evidence = made_up_evidence()
    far = pl.col("target_layer") - pl.col("source_layer") > 1
    few = only(evidence, ~far | (pl.col("source_feature") < 12))
    table = ask(few, SETTINGS).tables["attenuation_curve"].set_index("distance")
    assert table.loc[2, "published"] > 2 * table.loc[2, "edges_per_source"]


def test_the_rule_says_how_many_may_be_false():
    tables = [
        ask(made_up_evidence(), SETTINGS, EdgesSettings(rule=rule, max_q=0.1)).tables["attenuation"]
        for rule in ("calibrated", "published")
    ]
    assert np.allclose(tables[0]["chance_share"], 0.1 * tables[0]["share_of_tested"])
    assert tables[1]["chance_share"].isna().all()


@pytest.mark.parametrize("keep", [pl.lit(False), pl.col("source_layer") == 2])
def test_too_few_layers_or_edges(keep):
    found = ask(only(made_up_evidence(), keep), SETTINGS)
    assert all(np.isnan(answer.value) and answer.note for answer in found.answers)
    assert len(found.tables["attenuation"]) == 6
    assert draw(found)


def test_without_tested_pairs_there_is_no_curve():
    evidence = made_up_evidence()
    found = ask(Evidence(evidence.edges, evidence.features), SETTINGS)
    assert found.tables["attenuation_curve"].empty and all(np.isnan(answer.value) for answer in found.answers)
    assert draw(found)


def test_same_bytes():
    first, second = (ask(made_up_evidence(), SETTINGS) for _ in range(2))
    assert first.answers[1] == second.answers[1]
    assert first.tables["attenuation_curve"].equals(second.tables["attenuation_curve"])


# ------------------------------------------------------------------------------------------------ statistics


def test_gini_equals_loops():
    rng = np.random.default_rng(0)
    for values in (rng.integers(0, 9, 17), np.array([0, 0, 5]), np.array([2.0, 2.0]), np.array([3])):
        n = len(values)
        apart = sum(abs(a - b) for a in values for b in values)
        assert gini(values) == pytest.approx(apart / (2 * n * values.sum()))
    assert np.isnan(gini(np.zeros(4))) and gini(np.ones((2, 3, 5))).shape == (2, 3)


def test_bootstrap_sums_resample_clusters():
    values = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    sums = bootstrap_sums(values, 400, np.random.default_rng(0))
    assert np.allclose(sums[:, 1], 10 * sums[:, 0])
    assert set(sums[:, 0]) == {float(a + b + c) for a in (1, 2, 4) for b in (1, 2, 4) for c in (1, 2, 4)}
    assert sums[:, 0].mean() == pytest.approx(7, abs=0.5)
    assert bootstrap_sums(np.zeros((0, 2)), 3, np.random.default_rng(0)).shape == (3, 2)


def test_intervals_leave_out_what_is_unknown():
    assert percentile_interval(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)
    assert np.isnan(percentile_interval(np.array([np.nan]))).all()


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_symmetric_means(n):
    p = [symmetric_mean_test(np.random.default_rng(1000 + seed).laplace(size=n)) for seed in range(60)]
    assert kstest(p, "uniform").pvalue > 0.01
    assert symmetric_mean_test(np.random.default_rng(0).normal(1, 1, n)) < 0.05
    assert np.isnan(symmetric_mean_test(np.zeros(0)))
