"""Edges between programs: cumulants against all permutations, p against draws; known relations against loops."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import polars as pl
import pytest
from scipy import stats as scipy_stats

from cellcircuits.measures.known_relations import known_relations
from cellcircuits.measures.program_pairs import ProgramEdges, p_at_least, pair_chance, program_edges, random_labels
from cellcircuits.networks import Interactions
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import benjamini_hochberg
from tests.made_up_evidence import made_up_evidence

SETTINGS = FindingsSettings(permutations=50)


def test_edges_between_programs_equal_loops():
    evidence = made_up_evidence(0)
    found = program_edges(evidence, SETTINGS, pl.col("mean_delta"))
    names, label = evidence.labels
    expected = np.zeros((len(names), len(names)))
    for s, t, delta in evidence.edges.select("source", "target", "mean_delta").iter_rows():
        if label[s] >= 0 and label[t] >= 0:
            expected[label[s], label[t]] += delta
    np.testing.assert_allclose(found.between(), expected, atol=1e-4)
    assert expected.any()


def test_cumulants_are_those_of_all_permutations():
    """Two strata, of four and of three features, three programs, unequal edges (one negative weight)."""
    rng = np.random.default_rng(1)
    evidence = made_up_evidence(0)
    made = program_edges(evidence, SETTINGS)
    counts = rng.poisson(1.5, size=(7, 3)).astype(float)
    counts[0, 0] = -2.0
    label, stratum = np.array([0, 1, 1, 2, 0, 2, 2], np.int32), np.array([0, 0, 0, 0, 1, 1, 1], np.int32)
    edges = ProgramEdges(type(made.counts)(counts), label, stratum, np.array(["a", "b", "c"]))
    every = []
    for first in permutations(label[:4]):
        for second in permutations(label[4:]):
            every.append(edges.between(np.array([*first, *second])))
    every = np.array(every)
    chance = pair_chance(edges)
    centred = every - every.mean(axis=0)
    np.testing.assert_allclose(chance.mean, every.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(chance.variance, (centred**2).mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(chance.third, (centred**3).mean(axis=0), atol=1e-9)
    both = (centred * centred.transpose(0, 2, 1)).mean(axis=0)
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(chance.covariance[off], both[off], atol=1e-9)


def test_random_labels_stay_in_their_strata():
    edges = program_edges(made_up_evidence(0), SETTINGS)
    drawn = list(random_labels(edges, 5, np.random.default_rng(0)))
    assert len(drawn) == 5 and len({label.tobytes() for label in drawn}) == 5
    for label in drawn:
        for features in edges.strata():
            assert sorted(label[features]) == sorted(edges.label[features])
        assert (label[edges.stratum < 0] == -1).all()


def test_p_of_a_pair_is_that_of_draws():
    edges = program_edges(made_up_evidence(3, n_features=150, sources_per_layer=30, edges_per_source=40), SETTINGS)
    chance = pair_chance(edges)
    drawn = np.array([edges.between(label) for label in random_labels(edges, 400, np.random.default_rng(0))])
    p = np.array([p_at_least(one, chance.mean, chance.variance, chance.third) for one in drawn])
    free = chance.variance > 0
    for level in (0.05, 0.2, 0.5):
        assert (p[:, free] <= level).mean() <= level
    observed = np.quantile(drawn, 0.9, axis=0)
    counted = (drawn >= observed).mean(axis=0)
    formula = p_at_least(observed, chance.mean, chance.variance, chance.third)
    assert np.abs(formula - counted)[free].mean() < 0.03


def test_a_target_of_all_sources_is_one_chance_event():
    """All sources of a program reach one target: p is no smaller than the target's chance of a label."""
    evidence = made_up_evidence(0, n_layers=2, n_features=60, n_labels=3)
    names, label = evidence.labels
    sources = np.flatnonzero((label == 0) & (evidence.features["layer"] == 0))
    target = np.flatnonzero((label == 1) & (evidence.features["layer"] == 1))[0]
    frame = pl.DataFrame({"source": sources, "target": np.full(len(sources), target)})
    edges = program_edges(replace(evidence, edges=frame), replace(SETTINGS, strata_bins=1))
    chance = pair_chance(edges)
    p = p_at_least(edges.between(), chance.mean, chance.variance, chance.third)
    assert len(sources) > 15 and names[1] == "program 1"
    assert p[0, 1] > 0.05


def test_no_freedom_no_p():
    assert p_at_least(np.array([5.0]), np.array([5.0]), np.zeros(1), np.zeros(1)).tolist() == [1.0]


def test_known_relations_equal_loops():
    rng = np.random.default_rng(0)
    symbols = [f"G{i}" for i in range(40)]
    sets = {f"s{i}": frozenset(rng.choice(symbols, size=n, replace=False)) for i, n in enumerate([3, 8, 12, 5, 20])}
    sets["unused"] = frozenset({"ONLY HERE"})
    drawn = {tuple(sorted(rng.choice([*symbols, "X", "Y"], 2, replace=False))) for _ in range(150)}
    network = Interactions("net", frozenset(drawn))
    names = ["s3", "s0", "s1", "s4", "s2"]
    found = known_relations(names, sets, network)
    degree = {gene: sum(gene in pair for pair in drawn) for gene in [*symbols, "X", "Y"]}
    universe = len(frozenset().union(*sets.values()))
    p, p_between, places = [], [], []
    for i in range(5):
        for j in range(i + 1, 5):
            a, b = sets[names[i]], sets[names[j]]
            shared = len(a & b)
            assert found.n_shared[i, j] == found.n_shared[j, i] == shared
            p.append(scipy_stats.hypergeom.sf(shared - 1, universe, len(a), len(b)))
            only_a, only_b = a - b, b - a
            count = sum((x in only_a and y in only_b) or (y in only_a and x in only_b) for x, y in drawn)
            mean = sum(degree[x] for x in only_a) * sum(degree[y] for y in only_b) / (2 * len(drawn))
            assert found.n_interactions[i, j] == count
            assert found.expected_interactions[i, j] == pytest.approx(mean)
            p_between.append(scipy_stats.poisson.sf(count - 1, mean))
            places.append((i, j))
    for (i, j), q, q_between in zip(places, benjamini_hochberg(p), benjamini_hochberg(p_between), strict=True):
        assert found.overlap_q[i, j] == pytest.approx(q) == found.overlap_q[j, i]
        assert found.interactions_q[i, j] == pytest.approx(q_between)
    assert found.n_in_network == found.n_all_genes == len(frozenset().union(*(sets[n] for n in names)))


def test_without_a_network_overlap_alone_decides():
    sets = {"a": frozenset("ABCD"), "b": frozenset("ABCE"), "c": frozenset("WXYZ"), "rest": frozenset("FGHIJKLMNOPQ")}
    found = known_relations(["a", "b", "c"], sets)
    assert found.known(0.05)[0].tolist() == [False, True, False]
    assert np.isnan(found.interactions_q).all()
    assert found.published(3)[0, 1] and not found.published(4)[0, 1]
