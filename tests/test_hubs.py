"""Are edges concentrated beyond firing rates? Degrees by loops, Poisson degrees, planted hubs, degenerate degrees."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from cellcircuits.evidence import Evidence, make_evidence
from cellcircuits.figures.hubs import draw
from cellcircuits.findings.hubs import ask, concentration, degree_of, drawn_concentration, feature_degrees, rates
from cellcircuits.measures.rate_model import Degrees, fit_rate_model
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import gini
from tests.made_up_evidence import made_up_evidence

SETTINGS = FindingsSettings(permutations=39)


def poisson_degrees(seed: int, extra: float = 0.0, n: int = 150) -> Degrees:
    """Degrees of which layer and firing rate are the mean; `extra` is the variance of a gamma factor on top."""
    rng = np.random.default_rng(seed)
    layer, rate = np.repeat([0, 1, 2], n // 3), np.exp(rng.normal(-4, 1, n))
    mean = (3.0 - layer) * 400 * rate**0.7
    factor = rng.gamma(1 / extra, extra, n) if extra else 1.0
    n_layers = 3 - layer
    return Degrees(rng.poisson(mean * factor), n_layers, 100.0 * n_layers, layer, rate)


def test_degrees_equal_loops():
    evidence, edges = made_up_evidence(), made_up_evidence().edges.to_dicts()
    rate = evidence.features["firing_rate"].to_numpy()
    for direction, end, features, layers in (
        ("out", "source", evidence.source_rows, {0: (3, 180), 1: (2, 120), 2: (1, 60)}),
        ("in", "target", range(60, 240), {1: (1, 10), 2: (2, 20), 3: (3, 30)}),
    ):
        found, degree = feature_degrees(evidence, direction), degree_of(evidence, direction)
        expected = [sum(edge[end] == row for edge in edges) for row in features]
        assert found.degree.tolist() == expected == degree[list(features)].tolist()
        assert found.rate.tolist() == rate[list(features)].tolist()
        assert [(n, p) for n, p in zip(found.n_layers, found.n_pairs, strict=True)] == [
            layers[layer] for layer in found.layer
        ]


def test_features_that_never_fire_are_left_out():
    evidence = made_up_evidence()
    features = evidence.features.assign(firing_rate=np.where(evidence.features.index % 2, 0.1, 0.0))
    found = feature_degrees(Evidence(evidence.edges, features, evidence.tables), "in")
    assert len(found.degree) == 90 and (found.rate == 0.1).all()


def test_concentration_equals_loops():
    rng = np.random.default_rng(0)
    degree, n_layers = rng.integers(0, 40, 35), rng.integers(1, 4, 35)
    value, top = concentration(degree, n_layers)
    assert value == pytest.approx(gini(degree / n_layers))
    assert top == sum(sorted(degree.tolist())[-20:]) / degree.sum()
    both = concentration(np.stack([degree, degree[::-1]]), n_layers)
    assert np.allclose(both[:, 0], [value, top]) and both.shape == (2, 2)


def test_the_rate_model_finds_its_coefficients():
    degrees = poisson_degrees(0, n=3000)
    model = fit_rate_model(degrees)
    true = (3.0 - degrees.layer) * 400 * degrees.rate**0.7
    assert np.abs(np.log(model.mean / true)).max() < 0.1
    assert model.dispersion < 0.01 and model.dispersion_p > 0.01 and model.deviance_explained > 0.8
    # by layers, a Poisson regression with layers keeps the sums
    for layer in range(3):
        mine = degrees.layer == layer
        assert model.mean[mine].sum() == pytest.approx(degrees.degree[mine].sum())


def test_dispersion_is_measured():
    model = fit_rate_model(poisson_degrees(0, extra=0.5, n=3000))
    assert 0.35 < model.dispersion < 0.65 and model.dispersion_p < 1e-6


def test_poisson_draws_are_those_of_a_loop():
    mean, n_layers = np.array([3.0, 8.0, 0.5] * 12), np.ones(36, dtype=int)
    drawn = drawn_concentration(mean, n_layers, 500, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    slow = np.array([[gini(d), np.sort(d)[-20:].sum() / d.sum()] for d in rng.poisson(mean, (500, 36))]).T
    assert drawn.shape == (2, 500)
    assert np.allclose(drawn.mean(axis=1), slow.mean(axis=1), atol=0.01)
    assert np.allclose(drawn.std(axis=1), slow.std(axis=1), rtol=0.2)


def test_p_is_not_too_small_for_poisson_degrees():
    rows = [rates(poisson_degrees(seed), "out", SETTINGS) for seed in range(40)]
    for name in ("gini_p", "top_p"):
        p = np.array([row[name] for row in rows])
        # 2 of 40 are expected; 7 or more have a chance of 0.3 %
        assert (p <= 0.05).sum() < 7 and 0.3 < p.mean() < 0.75
    assert all(row["gini_low"] < row["gini"] < row["gini_high"] for row in rows)
    assert np.mean([row["dispersion_p"] <= 0.05 for row in rows]) < 0.14
    assert min(row["spearman"] for row in rows) > 0.5


def test_hubs_beyond_firing_rates_are_found():
    row = rates(poisson_degrees(1, extra=1.0), "out", SETTINGS)
    assert row["gini_p"] == row["top_p"] == pytest.approx(1 / 40)
    assert row["gini"] > row["gini_rate"] + 0.05 and row["top_share"] > row["top_rate"] + 0.05


def test_answers_of_both_directions():
    found = ask(made_up_evidence(), SETTINGS)
    assert found.tables["hub_rates"]["direction"].tolist() == ["out", "in"]
    assert len(found.answers) == 6 and found.tables["hub_rates"]["n_edges"].tolist() == [600, 600]
    # every source of the made-up run has 20 edges
    out, into = found.answers[0], found.answers[3]
    assert out.published == 0 and "all degrees are the same" not in into.note
    assert set(draw(found)) == {"hub_rates"}


def test_a_planted_target_hub_is_found():
    evidence = made_up_evidence(edges_per_source=40)
    favoured = (pl.col("target_feature") < 6) | (pl.col("target_feature") % 7 == 0)
    edges = evidence.edges.filter(favoured).drop("source", "target")
    answer = ask(make_evidence(edges, evidence.features, **evidence.tables), SETTINGS).answers[3]
    assert answer.value > answer.baseline + 0.1 and answer.p_value == pytest.approx(1 / 40)


@pytest.mark.parametrize("evidence", [made_up_evidence(sources_per_layer=2, n_features=9), None])
def test_too_few_features(evidence):
    if evidence is None:
        whole = made_up_evidence()
        evidence = make_evidence(whole.edges.head(0).drop("source", "target"), whole.features, **whole.tables)
    found = ask(evidence, SETTINGS)
    assert all(np.isnan(answer.value) and "Fewer than" in answer.note for answer in found.answers)
    assert found.tables["hub_rates"].empty and draw(found)


def test_equal_firing_rates_say_nothing():
    evidence = made_up_evidence()
    features = evidence.features.assign(firing_rate=0.1)
    found = ask(Evidence(evidence.edges, features, evidence.tables), SETTINGS)
    assert found.tables["hub_rates"]["spearman"].isna().all()
    assert (found.tables["hub_rates"]["deviance_explained"].fillna(0).abs() < 1e-9).all()


def test_same_bytes():
    first, second = (ask(made_up_evidence(), SETTINGS).tables["hub_rates"] for _ in range(2))
    assert first.equals(second)
