"""Sums of hypergeometric numbers: exact and approximate tails; pairs of labels at any size."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import hypergeom

from cellcircuits.answers import Answer
from cellcircuits.evidence import make_evidence
from cellcircuits.figures.circuits import draw
from cellcircuits.findings.circuits import ask, circuits, label_codes, label_strata
from cellcircuits.findings.convergence import strongest_edges
from cellcircuits.measures.overlaps import EXACT_EDGES, Strata, approximate_p, exact_p, overlap_cumulants, overlap_p
from cellcircuits.settings import FindingsSettings
from tests.made_up_evidence import made_up_evidence


def random_strata(rng: np.random.Generator, n_strata: int, size: int, n_labels: int) -> Strata:
    sizes = rng.integers(2, size, n_strata)
    leaving, reaching = (rng.integers(0, sizes + 1, (n_labels, n_strata)) for _ in range(2))
    return Strata(sizes, leaving, reaching)


def slow_chances(strata: Strata, source: int, target: int) -> np.ndarray:
    """Chance of 0, 1, ... edges, by convolution of scipy's hypergeometric distributions."""
    chances = np.ones(1)
    for n, a, b in zip(strata.sizes, strata.leaving[source], strata.reaching[target], strict=True):
        chances = np.convolve(chances, hypergeom.pmf(np.arange(min(a, b) + 1), n, a, b))
    return chances


def test_moments_equal_those_of_the_distribution():
    rng = np.random.default_rng(0)
    strata, i = random_strata(rng, 5, 20, 12), np.arange(12)
    mean, variance, third = overlap_cumulants(strata.sizes, strata.leaving.astype(float), strata.reaching.astype(float))
    for row in i:
        chances = slow_chances(strata, row, row)
        k = np.arange(len(chances))
        centre = chances @ k
        assert mean[row] == pytest.approx(centre)
        assert variance[row] == pytest.approx(chances @ (k - centre) ** 2, abs=1e-9)
        assert third[row] == pytest.approx(chances @ (k - centre) ** 3, abs=1e-8)


@pytest.mark.parametrize(("n_strata", "size"), [(1, 12), (3, 30), (6, 8), (12, 60)])
def test_exact_p_equals_convolution(n_strata, size):
    rng = np.random.default_rng(n_strata)
    strata, i = random_strata(rng, n_strata, size, 30), np.arange(30)
    most = np.minimum(strata.leaving, strata.reaching).sum(axis=1)
    for observed in (rng.integers(0, most + 1), most, np.zeros(30, dtype=int)):
        slow = [slow_chances(strata, row, row)[n:].sum() for row, n in zip(i, observed, strict=True)]
        np.testing.assert_allclose(exact_p(strata, observed, i, i), slow, rtol=1e-9, atol=1e-14)
        mean, p = overlap_p(observed, strata, i, i)
        small = np.array(slow) <= 0.02
        np.testing.assert_allclose(p[small], np.array(slow)[small], rtol=1e-6, atol=1e-14)
        np.testing.assert_allclose(mean, (strata.leaving * strata.reaching / strata.sizes).sum(axis=1))


def test_p_that_is_not_exact_is_close():
    """What is left with the approximation: p above EXACT_P, and many edges."""
    rng = np.random.default_rng(4)
    sizes = rng.integers(150, 400, 12)
    leaving, reaching = (rng.integers(sizes // 6, sizes // 3, (20, 12)) for _ in range(2))
    strata, i = Strata(sizes, leaving, reaching), np.arange(20)
    mean, variance, third = overlap_cumulants(sizes, leaving.astype(float), reaching.astype(float))
    assert mean.min() > 1.2 * EXACT_EDGES
    for z, most in ((-1, 1e-4), (0, 2e-4), (1, 1e-3), (2, 2e-3), (4, 0.02), (6, 0.1)):
        observed = np.ceil(mean + z * np.sqrt(variance)).astype(int)
        exact = exact_p(strata, observed, i, i)
        approximate = approximate_p(observed, mean, variance, third)
        assert np.abs(np.log(approximate / exact)).max() < most
        assert np.array_equal(overlap_p(observed, strata, i, i)[1], approximate)


def test_p_above_the_exact_ones_is_close_for_few_edges():
    rng = np.random.default_rng(5)
    for _ in range(20):
        strata, i = random_strata(rng, 8, 40, 40), np.arange(40)
        chances = [slow_chances(strata, row, row) for row in i]
        observed = np.array([rng.choice(len(c), p=c / c.sum()) for c in chances])
        slow = np.array([c[n:].sum() for c, n in zip(chances, observed, strict=True)])
        _, p = overlap_p(observed, strata, i, i)
        assert np.abs(p - slow).max() < 0.03


def test_what_is_certain_is_certain():
    strata = Strata(np.array([7, 5]), np.array([[7, 5], [7, 0]]), np.array([[4, 5], [4, 1]]))
    source, target = np.array([0, 0, 1]), np.array([0, 1, 0])
    mean, p = overlap_p(np.array([9, 5, 4]), strata, source, target)
    assert mean.tolist() == [9, 5, 4] and p.tolist() == [1, 1, 1]
    assert exact_p(strata, np.array([10]), np.array([0]), np.array([0])).tolist() == [0]


def test_strata_equal_loops():
    evidence = made_up_evidence()
    names, code = evidence.labels
    edges = label_codes(evidence, evidence.edges)
    rows = [e for e in evidence.edges.to_dicts() if code[e["source"]] >= 0 and code[e["target"]] >= 0]
    assert edges.height == len(rows)
    strata = label_strata(edges, len(names))
    pairs = sorted({(e["source_layer"], e["target_layer"]) for e in rows})
    for place, pair in enumerate(pairs):
        mine = [e for e in rows if (e["source_layer"], e["target_layer"]) == pair]
        assert strata.sizes[place] == len(mine)
        for label in range(len(names)):
            assert strata.leaving[label, place] == sum(code[e["source"]] == label for e in mine)
            assert strata.reaching[label, place] == sum(code[e["target"]] == label for e in mine)


def test_independent_labels_answer_no():
    answers = [ask(made_up_evidence(seed), FindingsSettings()).answers[0] for seed in range(20)]
    assert sum(answer.p_value <= 0.05 for answer in answers) < 4
    assert all(answer.value == 0 or answer.p_value <= 0.05 for answer in answers)


def test_a_planted_circuit_is_the_answer():
    evidence = made_up_evidence(edges_per_source=40)
    features = evidence.features.copy()
    rows = features.index.to_numpy()
    features["label"] = np.where(rows % 5 == 0, "interferon", "other")
    into = features["label"].to_numpy()[evidence.edges["target"].to_numpy()]
    out = features["label"].to_numpy()[evidence.edges["source"].to_numpy()]
    keep = (out != "interferon") | (into != "interferon") | (rows[evidence.edges["source"].to_numpy()] % 2 == 0)
    edges = evidence.edges.filter(keep & ((out == "interferon") | (into == "other"))).drop("source", "target")
    found = ask(make_evidence(edges, features, **evidence.tables), FindingsSettings())
    answer, table = found.answers[0], found.tables["circuits"]
    assert answer.value == (table["q_value"] <= 0.05).sum() and answer.baseline == 0.05 * answer.value
    assert answer.p_value == table["q_value"].min()
    joined = {(s, t) for s, t in zip(table["source_label"], table["target_label"], strict=True)}
    assert answer.published == len(joined) + 2
    assert strongest_edges(make_evidence(edges, features).edges).height == len(edges)
    assert set(draw(found)) == {"circuits"}


def test_without_labels():
    evidence = made_up_evidence()
    features = evidence.features.assign(label="")
    found = ask(make_evidence(evidence.edges.drop("source", "target"), features), FindingsSettings())
    assert np.isnan(found.answers[0].value) and found.tables["circuits"].empty and draw(found)


def test_same_bytes():
    assert circuits(made_up_evidence()).equals(circuits(made_up_evidence()))
    assert isinstance(ask(made_up_evidence(), FindingsSettings()).answers[0], Answer)
