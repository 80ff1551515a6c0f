"""Do edges converge? Closed forms against graphs drawn one by one, null graphs, planted convergence, empty graphs."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from cellcircuits.evidence import Evidence, make_evidence
from cellcircuits.figures.convergence import draw
from cellcircuits.findings.convergence import (
    LayerPair,
    ask,
    chance_of,
    fewer_p,
    larger_p,
    layer_pairs,
    strongest_edges,
)
from cellcircuits.measures.picks import inclusion, pick_scales
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import gini
from tests.made_up_evidence import made_up_evidence

SETTINGS = FindingsSettings(permutations=100)


def drawn_targets(weight: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k distinct targets picked one after the other with these weights."""
    return rng.choice(len(weight), size=k, replace=False, p=weight / weight.sum())


def pair_of(weight: np.ndarray, out_degree: np.ndarray, in_degree: np.ndarray | None = None) -> LayerPair:
    nothing = np.zeros(len(weight), dtype=int)
    return LayerPair(0, 1, out_degree, weight, nothing if in_degree is None else in_degree, nothing[None], nothing)


@pytest.mark.parametrize("equal", [True, False])
def test_chances_to_be_picked_are_those_of_picking(equal):
    rng = np.random.default_rng(0)
    weight = np.ones(60) if equal else np.exp(rng.normal(size=60))
    picked = np.zeros(60)
    for _ in range(2500):
        picked[drawn_targets(weight, 15, rng)] += 1
    p = inclusion(pick_scales(weight), np.array([15]))[0]
    assert p.sum() == pytest.approx(15, rel=1e-4)
    # standard deviations of the drawn shares are below 0.01
    assert np.abs(p - picked / 2500).max() < 0.04


def test_chances_sum_to_the_number_of_picks():
    weight = np.exp(np.random.default_rng(0).normal(-4, 1.5, 300))
    degrees = np.array([1, 2, 30, 150, 299, 300])
    assert np.allclose(inclusion(pick_scales(weight), degrees).sum(axis=1), degrees, rtol=1e-3)


@pytest.mark.parametrize("null", ["uniform", "rate"])
def test_moments_and_draws_are_those_of_drawn_graphs(null):
    rng = np.random.default_rng(1)
    rate, out_degree = np.exp(rng.normal(-4, 0.8, 80)), np.array([3, 8, 8, 15, 20, 1, 30, 4])
    scales = pick_scales(rate) if null == "rate" else None
    chance = chance_of(pair_of(rate, out_degree), scales, 600, rng)
    distinct, ginis, largest = [], [], []
    for _ in range(700):
        weight = rate if null == "rate" else np.ones(80)
        into = np.bincount(np.concatenate([drawn_targets(weight, k, rng) for k in out_degree]), minlength=80)
        distinct.append((into > 0).sum())
        ginis.append(gini(into))
        largest.append(into.max())
    assert chance.distinct == pytest.approx(np.mean(distinct), abs=0.5)
    assert np.sqrt(chance.variance) == pytest.approx(np.std(distinct), rel=0.15)
    assert chance.gini.mean() == pytest.approx(np.mean(ginis), abs=0.01)
    assert 0.8 < chance.gini.std() / np.std(ginis) < 1.6
    assert chance.largest.mean() == pytest.approx(np.mean(largest), abs=0.25)


def test_uniform_picks_have_the_exact_moments():
    """The classical occupancy problem."""
    n, k = 30, np.array([4, 9, 2])
    chance = chance_of(pair_of(np.full(n, 0.1), k), None, 2, np.random.default_rng(0))
    missed = np.prod(1 - k / n)
    both = np.prod((1 - k / n) * (1 - k / (n - 1)))
    assert chance.distinct == pytest.approx(n * (1 - missed))
    assert chance.variance == pytest.approx(n * missed * (1 - missed) + n * (n - 1) * (both - missed**2), rel=0.05)


@pytest.mark.parametrize("null", ["uniform", "rate"])
def test_p_is_uniform_for_drawn_graphs(null):
    rng = np.random.default_rng(2)
    rate, out_degree = np.exp(rng.normal(-4, 0.8, 120)), np.array([5, 8, 8, 15, 20, 12, 30, 9])
    chance = chance_of(pair_of(rate, out_degree), pick_scales(rate) if null == "rate" else None, 300, rng)
    weight = rate if null == "rate" else np.ones(120)
    fewer, larger = [], []
    for _ in range(200):
        into = np.bincount(np.concatenate([drawn_targets(weight, k, rng) for k in out_degree]), minlength=120)
        fewer.append(fewer_p((into > 0).sum(), chance.distinct, chance.variance))
        larger.append(larger_p(float(gini(into)), chance.gini))
    for level in (0.05, 0.2, 0.5):
        # a share of 200 has a standard deviation of up to 0.035; p of whole numbers is a little too large
        assert np.mean(np.array(fewer) <= level) < level + 0.07
        assert np.mean(np.array(larger) <= level) < level + 0.07
    assert 0.4 < np.mean(fewer) < 0.65 and 0.35 < np.mean(larger) < 0.65


def test_pairs_equal_loops():
    evidence = made_up_evidence()
    edges, pairs = evidence.edges.to_dicts(), list(layer_pairs(evidence))
    assert [(p.source_layer, p.target_layer) for p in pairs] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    for pair in pairs:
        mine = [e for e in edges if (e["source_layer"], e["target_layer"]) == (pair.source_layer, pair.target_layer)]
        sources = sorted({e["source"] for e in mine})
        assert pair.out_degree.tolist() == [sum(e["source"] == s for e in mine) for s in sources]
        first = 60 * pair.target_layer
        expected = [sum(e["target"] == first + t for e in mine) for t in range(60)]
        assert pair.in_degree.tolist() == pair.by_part.sum(axis=0).tolist() == expected
        assert pair.published.tolist() == expected


def test_the_strongest_edges_of_every_source_and_layer():
    evidence = made_up_evidence(edges_per_source=60)
    found = strongest_edges(evidence.edges, 5)
    for (source, layer), part in evidence.edges.partition_by("source", "target_layer", as_dict=True).items():
        best = sorted(part["snr"].abs().to_list(), reverse=True)[:5]
        kept = found.filter((pl.col("source") == source) & (pl.col("target_layer") == layer))
        assert sorted(kept["snr"].abs().to_list(), reverse=True) == best


def test_of_equal_edges_the_first_is_kept():
    edges = made_up_evidence().edges.with_columns(snr=pl.lit(1.0, pl.Float32))
    kept = strongest_edges(edges, 1)
    assert kept.equals(edges.unique(["source", "target_layer"], keep="first", maintain_order=True))


def test_uniform_edges_do_not_converge():
    p = []
    for seed in range(20):
        found = ask(made_up_evidence(seed), SETTINGS)
        p.append(found.answers[0].p_value)
        assert found.answers[0].low < found.answers[0].value < found.answers[0].high
    assert sum(value <= 0.05 for value in p) < 5 and 0.3 < np.mean(p) < 0.7


def test_edges_that_meet_are_found():
    evidence = made_up_evidence(sources_per_layer=20, edges_per_source=50)
    few = evidence.edges.filter((pl.col("target_feature") % 3 == 0) | (pl.col("target_feature") < 5))
    found = ask(make_evidence(few.drop("source", "target"), evidence.features, **evidence.tables), SETTINGS)
    uniform, _, unequal = found.answers
    assert uniform.value < uniform.baseline - 0.1 and uniform.p_value < 1e-6
    table = found.tables["convergence"]
    assert (table["n_distinct"] < table["distinct_uniform"]).all() and (table["p_uniform"] < 0.01).all()
    assert unequal.value > table["gini_uniform"].max()
    assert set(draw(found)) == {"convergence"}


def test_targets_that_never_fire_are_left_out():
    evidence = made_up_evidence()
    features = evidence.features.assign(firing_rate=np.where(evidence.features.index % 2, 0.1, 0.0))
    found = ask(Evidence(evidence.edges, features, evidence.tables), SETTINGS)
    assert found.tables["convergence"]["n_targets"].eq(30).all()
    assert found.tables["convergence"]["n_edges"].sum() == (evidence.edges["target"] % 2).sum()
    # of equal rates, the two nulls are one
    assert np.allclose(found.tables["convergence"]["distinct_rate"], found.tables["convergence"]["distinct_uniform"])


@pytest.mark.parametrize("n_edges", [0, 1])
def test_no_edge_and_one_edge(n_edges):
    evidence = made_up_evidence()
    few = make_evidence(evidence.edges.head(n_edges).drop("source", "target"), evidence.features)
    found = ask(few, SETTINGS)
    assert len(found.tables["convergence"]) == n_edges
    if n_edges:
        assert found.answers[0].value == pytest.approx(1 / 60) == pytest.approx(found.answers[0].baseline)
        assert [answer.p_value for answer in found.answers[:2]] == [1.0, 1.0]
    else:
        assert np.isnan(found.answers[0].value)
    assert draw(found)


def test_a_source_with_all_targets():
    evidence = made_up_evidence(n_layers=2, edges_per_source=60, sources_per_layer=3)
    found = ask(evidence, SETTINGS)
    assert found.answers[0].value == found.answers[0].baseline == 1.0 and found.answers[0].p_value == 1.0


def test_same_bytes():
    first, second = (ask(made_up_evidence(), SETTINGS) for _ in range(2))
    assert first.tables["convergence"].equals(second.tables["convergence"]) and first.answers == second.answers
