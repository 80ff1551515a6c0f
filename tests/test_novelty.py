"""Novelty: against loops, under null data, with planted avoidance of known relations, and without references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats as scipy_stats

from cellcircuits.evidence import Evidence
from cellcircuits.figures.novelty import draw
from cellcircuits.findings.novelty import ask, compare, edges_between_programs, published_share
from cellcircuits.measures.feature_strata import feature_strata
from cellcircuits.measures.known_relations import known_relations
from cellcircuits.measures.matched_targets import p_two_sided
from cellcircuits.measures.published_edges import strongest_edges
from cellcircuits.networks import Interactions
from cellcircuits.settings import FindingsSettings
from tests.made_up_evidence import made_up_evidence

QUICK = FindingsSettings(permutations=60)


def made_up_sets(n: int = 8) -> dict[str, frozenset[str]]:
    """Programs 0, 1, 2 share genes, 3 and 4 too; the others share none."""
    shared = {0: "A", 1: "A", 2: "A", 3: "B", 4: "B"}
    return {
        f"program {i}": frozenset({*(f"{shared.get(i, i)}{k}" for k in range(5)), *(f"G{i}-{k}" for k in range(3))})
        for i in range(n)
    }


def program_of(evidence: Evidence, sets: dict[str, frozenset[str]]) -> tuple[list[str], np.ndarray]:
    names = [name for name in evidence.labels[0] if name in sets]
    code = {name: place for place, name in enumerate(names)}
    return names, np.array([code.get(label, -1) for label in evidence.features["label"]])


def test_shares_and_chance_equal_loops():
    evidence, sets = made_up_evidence(0), made_up_sets(6)
    names, program = program_of(evidence, sets)
    known = known_relations(names, sets).known(0.05)
    edges = edges_between_programs(evidence.edges, program)
    found = ask(evidence, QUICK, gene_sets=sets).answers[0]
    layer, rate = (evidence.features[name].to_numpy() for name in ("layer", "firing_rate"))
    stratum = feature_strata(layer, program >= 0, [rate], 4, 10)
    pairs = list(zip(edges["source"], edges["target"], strict=True))
    all_pairs = zip(evidence.edges["source"], evidence.edges["target"], strict=True)
    assert pairs == [(s, t) for s, t in all_pairs if -1 not in (program[s], program[t]) and program[s] != program[t]]
    expected = np.zeros(2)
    for s, t in pairs:
        like = np.flatnonzero(stratum == stratum[t])
        other = [u for u in like if program[u] != program[s]]
        expected += np.array([sum(not known[program[s], program[u]] for u in other), len(other)]) / len(like)
    assert found.value == pytest.approx(np.mean([not known[program[s], program[t]] for s, t in pairs]))
    assert found.baseline == pytest.approx(expected[0] / expected[1])
    assert found.low < found.value < found.high


def test_published_share_equals_loops():
    evidence, sets = made_up_evidence(1), made_up_sets(5)
    names, program = program_of(evidence, sets)
    label = evidence.labels[1]
    with_set = np.array([name in sets for name in evidence.labels[0]])
    found = published_share(evidence, label, with_set, program, known_relations(names, sets), QUICK)
    called = []
    strongest = strongest_edges(evidence.edges)
    for s, t in zip(strongest["source"], strongest["target"], strict=True):
        a, b = (evidence.features["label"][end] for end in (s, t))
        if a and b:
            known = a in sets and b in sets and len(sets[a] & sets[b]) >= 3
            called.append(a != b and not known)
    assert found == pytest.approx(np.mean(called)) and 0 < found < 1


def test_the_table_equals_loops():
    evidence, sets = made_up_evidence(2), made_up_sets()
    elsewhere = {(f"Y{k}", f"Z{k}") for k in range(50)}
    network = Interactions("net", frozenset({*elsewhere, *((f"G5-{k}", f"G6-{k}") for k in range(3))}))
    table = ask(evidence, QUICK, gene_sets=sets, interactions=network).tables["novelty"]
    counts: dict[tuple[str, str], list[float]] = {}
    for s, t, delta in evidence.edges.select("source", "target", "mean_delta").iter_rows():
        a, b = (evidence.features["label"][end] for end in (s, t))
        if a and b and a != b:
            counts.setdefault((a, b), []).append(delta)
    assert len(table) == len(counts)
    for row in table.to_dict("records"):
        deltas = counts[row["source_label"], row["target_label"]]
        a, b = sets[row["source_label"]], sets[row["target_label"]]
        assert row["n_edges"] == len(deltas)
        assert row["share_negative"] == pytest.approx(np.mean([d < 0 for d in deltas]))
        assert (row["n_shared_genes"], row["known_published"]) == (len(a & b), len(a & b) >= 3)
        interact = {row["source_label"], row["target_label"]} == {"program 5", "program 6"}
        assert row["n_interactions"] == 3 * interact
        assert row["known"] == (len(a & b) > 0 or interact)
        assert row["candidate"] == (row["q_value"] <= 0.05 and not row["known"])


def test_p_is_uniform_where_edges_know_nothing():
    sets, p = made_up_sets(), []
    for seed in range(60):
        evidence = made_up_evidence(seed, n_layers=3, n_features=50)
        names, program = program_of(evidence, sets)
        known = known_relations(names, sets).known(0.05)
        edges = edges_between_programs(evidence.edges, program)
        compared = compare(edges, evidence.features, program, known, QUICK)
        p.append(p_two_sided(compared.mean("known"), compared.draws["known"]))
    assert scipy_stats.kstest(p, "uniform").pvalue > 0.01
    assert np.sum(np.array(p) <= 0.05) <= 8


def kept_edges(share_known: float, share_planted: float) -> Evidence:
    """Edges are kept by chance, those with a known relation and those of program 0 -> 5 with these shares."""
    evidence, sets = made_up_evidence(0, n_features=150, sources_per_layer=40, edges_per_source=60), made_up_sets()
    label = evidence.features["label"].to_numpy()
    a, b = (label[evidence.edges[end].to_numpy()] for end in ("source", "target"))
    known = np.array([bool(sets.get(x, set()) & sets.get(y, set())) for x, y in zip(a, b, strict=True)])
    share = np.where((a == "program 0") & (b == "program 5"), share_planted, np.where(known, share_known, 0.4))
    kept = np.random.default_rng(0).random(len(a)) < share
    return replace(evidence, edges=evidence.edges.filter(pl.Series(kept)))


@pytest.mark.parametrize(("share_known", "sign"), [(0.8, 1), (0.1, -1)])
def test_planted_preference_is_found_in_both_directions(share_known, sign):
    edges = ask(kept_edges(share_known, 0.4), QUICK, gene_sets=made_up_sets()).answers[0]
    assert sign * (edges.baseline - edges.value) > 0.05 and edges.p_value < 0.05


def test_a_planted_pair_is_a_candidate():
    found = ask(kept_edges(0.4, 1.0), QUICK, gene_sets=made_up_sets())
    top = found.tables["novelty"].iloc[0]
    assert (top["source_label"], top["target_label"]) == ("program 0", "program 5") and top["candidate"]
    assert found.answers[2].value == found.tables["novelty"]["candidate"].sum() >= 1


@pytest.mark.parametrize(
    ("sets", "n_edges", "words"),
    [
        ({}, 10, "0 of 8 labels are gene sets"),
        ({"program 1": frozenset("A")}, 10, "annotate.gene_sets"),
        (made_up_sets(), 0, "No edge"),
    ],
)
def test_what_is_missing_is_said(sets, n_edges, words):
    evidence = made_up_evidence()
    found = ask(replace(evidence, edges=evidence.edges[:n_edges]), QUICK, gene_sets=sets)
    (answer,) = found.answers
    assert np.isnan(answer.value) and words in answer.note and not found.tables
    assert set(draw(found)) == {"novelty"}


def test_without_labels():
    evidence = made_up_evidence()
    bare = replace(evidence, features=evidence.features.assign(label=""))
    (answer,) = ask(bare, QUICK, gene_sets=made_up_sets()).answers
    assert "0 of 0 labels" in answer.note


def test_few_edges_and_coverage():
    evidence, sets = made_up_evidence(), made_up_sets(4)
    _, program = program_of(evidence, sets)
    one = edges_between_programs(evidence.edges, program)[:1]
    network = Interactions("net", frozenset({("A0", "A1")}))
    found = ask(replace(evidence, edges=one), QUICK, gene_sets=sets, interactions=network)
    assert len(found.tables["novelty"]) == 1 and np.isnan(found.answers[0].low)
    assert "4 of 8 labels" in found.answers[0].note and "genes are in net" in found.answers[0].note
    assert set(draw(found)) == {"novelty"}


def test_the_same_seed_gives_the_same_table():
    first, second = (ask(made_up_evidence(4), QUICK, gene_sets=made_up_sets()) for _ in range(2))
    assert first.tables["novelty"].equals(second.tables["novelty"]) and first.answers == second.answers
