"""Hierarchy: statistics against loops, p under null data, planted order, and programs that only sit at other layers."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import polars as pl
import pytest
from scipy import stats as scipy_stats

from cellcircuits.evidence import Evidence
from cellcircuits.figures.hierarchy import draw
from cellcircuits.findings.hierarchy import (
    ask,
    asymmetry,
    depth_answer,
    draw_chance,
    p_of_order,
    pair_rows,
    reciprocal_share,
)
from cellcircuits.measures.matched_targets import p_greater
from cellcircuits.measures.program_depth import depth_explained, depth_of_programs, endpoint_depth, relative_depth
from cellcircuits.measures.program_pairs import ProgramEdges, pair_chance, program_edges, random_labels
from cellcircuits.measures.published_edges import strongest_edges
from cellcircuits.settings import FindingsSettings
from tests.made_up_evidence import made_up_evidence

QUICK = FindingsSettings(permutations=60)


def test_asymmetry_and_reciprocal_pairs_equal_loops():
    rng = np.random.default_rng(0)
    counts, mean = rng.poisson(0.8, (6, 6)).astype(float), rng.random((6, 6))
    total = sum(counts[a, b] for a, b in product(range(6), range(6)) if a != b)
    left = sum(abs(counts[a, b] - counts[b, a] - mean[a, b] + mean[b, a]) for a in range(6) for b in range(a + 1, 6))
    assert asymmetry(counts, mean) == pytest.approx(left / total)
    either = [(a, b) for a in range(6) for b in range(a + 1, 6) if counts[a, b] or counts[b, a]]
    assert reciprocal_share(counts) == np.mean([bool(counts[a, b] and counts[b, a]) for a, b in either])
    assert np.isnan(asymmetry(np.zeros((2, 2)), np.zeros((2, 2)))) and np.isnan(reciprocal_share(np.zeros((2, 2))))


def test_z_of_a_pair_is_that_of_random_labels():
    evidence = made_up_evidence(2, n_features=100, sources_per_layer=20)
    edges = program_edges(evidence, QUICK)
    counts, chance = edges.between(), pair_chance(edges)
    table = pair_rows(edges.names, counts, chance, 0.05)
    drawn = np.array([edges.between(label) for label in random_labels(edges, 3000, np.random.default_rng(0))])
    difference = drawn - drawn.transpose(0, 2, 1)
    code = {name: place for place, name in enumerate(edges.names)}
    for row in table.to_dict("records"):
        a, b = code[row["first_label"]], code[row["second_label"]]
        by_chance = difference[:, a, b]
        z = (counts[a, b] - counts[b, a] - by_chance.mean()) / by_chance.std()
        assert row["z"] == pytest.approx(z, abs=0.15)
        assert (row["n_forward"], row["n_backward"]) == (counts[a, b], counts[b, a])
    assert len(table) > 20


def answer_of(edges: ProgramEdges, settings: FindingsSettings) -> float:
    """p of the order of all programs."""
    chance = pair_chance(edges)
    return p_greater(asymmetry(edges.between(), chance.mean), draw_chance(edges, chance, settings).asymmetry)


def test_p_of_pairs_keeps_its_level():
    small, tested, p_all = 0, 0, []
    for seed in range(25):
        evidence = made_up_evidence(seed, n_layers=3, n_features=60)
        edges = program_edges(evidence, QUICK)
        p = pair_rows(edges.names, edges.between(), pair_chance(edges), 0.05)["p_value"]
        small, tested = small + int((p <= 0.05).sum()), tested + len(p)
        p_all.append(answer_of(edges, replace(QUICK, permutations=40, seed=seed)))
    assert 0.01 < small / tested <= 0.06
    assert scipy_stats.kstest(p_all, "uniform").pvalue > 0.01


def test_single_edges_between_rare_programs_are_no_order():
    """With two hundred programs most pairs have no edge or one, which is many standard deviations from almost none."""
    evidence = made_up_evidence(0, n_features=400, sources_per_layer=60, edges_per_source=60, n_labels=200)
    edges = program_edges(evidence, QUICK)
    table = pair_rows(edges.names, edges.between(), pair_chance(edges), 0.05)
    assert len(table) > 1000 and (table["z"].abs() > 5).sum() >= 5
    assert (table["q_value"] <= 0.05).sum() == 0
    # of all pairs, those without edges as well, a share of 0.001 may have p of 0.001
    assert (table["p_value"] <= 0.001).sum() <= 0.001 * 200 * 199 / 2


def test_p_of_rare_pairs_is_no_smaller_than_by_draws():
    evidence = made_up_evidence(1, n_features=60, n_labels=20)
    edges = program_edges(evidence, QUICK)
    chance, free = pair_chance(edges), np.triu_indices(len(edges.names), 1)
    sd = np.sqrt(np.maximum((chance.variance + chance.variance.T - 2 * chance.covariance)[free], 1e-9))
    drawn = [edges.between(label) for label in random_labels(edges, 400, np.random.default_rng(0))]
    p = np.array([p_of_order(counts, chance, *free, sd) for counts in drawn])
    for level in (0.2, 0.05, 0.01, 0.001):
        assert (p <= level).mean() <= level
    assert (p <= 0.05).mean() > 0.003


def leading(seed: int, share: float) -> Evidence:
    """Programs 0 and 1 are at all layers; edges 1 -> 0 are kept with probability `share` only."""
    evidence = made_up_evidence(seed, n_features=120, sources_per_layer=30, edges_per_source=40)
    label = evidence.features["label"].to_numpy()
    source, target = (label[evidence.edges[end].to_numpy()] for end in ("source", "target"))
    back = (source == "program 1") & (target == "program 0")
    kept = ~back | (np.random.default_rng(seed).random(len(back)) < share)
    return replace(evidence, edges=evidence.edges.filter(pl.Series(kept)))


def test_a_planted_order_is_found():
    found = ask(leading(0, 0.1), QUICK)
    top = found.tables["hierarchy_pairs"].iloc[0]
    assert (top["first_label"], top["second_label"]) == ("program 0", "program 1")
    assert top["z"] > 4 and top["q_value"] < 0.01
    assert found.answers[0].p_value <= 0.02 and found.answers[0].value > found.answers[0].baseline


def test_programs_at_other_layers_have_no_order():
    """Program A is in the first two layers, B in the last two: all edges go from A to B, as layers force them to."""
    evidence = made_up_evidence(0, n_features=60, sources_per_layer=20, edges_per_source=40)
    features = evidence.features
    early = features["layer"] < 2
    other = np.random.default_rng(0).random(len(features)) < 0.5
    evidence = replace(evidence, features=features.assign(label=np.where(other, "C", np.where(early, "A", "B"))))
    found = ask(evidence, QUICK)
    pair = found.tables["hierarchy_pairs"].set_index(["first_label", "second_label"]).loc[("A", "B")]
    assert pair["n_forward"] > 100 > pair["n_backward"] == 0
    assert abs(pair["z"]) < 2.5
    depth = found.tables["hierarchy"].set_index("label")
    assert (
        depth.loc["A", "depth_q"] < 0.001
        and depth.loc["A", "relative_depth"] < 0.34 < 0.8 < depth.loc["B", "relative_depth"]
    )
    assert found.answers[1].value > 0.3 and found.answers[1].p_value <= 0.02


def test_depth_equals_loops():
    evidence = made_up_evidence(1)
    names, label = evidence.labels
    depth = relative_depth(evidence)
    table = depth_of_programs(depth[label >= 0], label[label >= 0], len(names))
    ends = endpoint_depth(evidence, depth, label, len(names))
    strongest = strongest_edges(evidence.edges)
    both = [*strongest["source"], *strongest["target"]]
    everything = [
        layer / 3 for layer, text in zip(evidence.features["layer"], evidence.features["label"], strict=True) if text
    ]
    for place, name in enumerate(names):
        mine = evidence.features.loc[evidence.features["label"] == name, "layer"] / 3
        assert table["relative_depth"][place] == pytest.approx(mine.mean())
        interval = scipy_stats.t.interval(0.95, len(mine) - 1, mine.mean(), scipy_stats.sem(mine))
        assert (table["depth_low"][place], table["depth_high"][place]) == pytest.approx(np.clip(interval, 0, 1))
        assert ends[place] == pytest.approx(np.mean([depth[end] for end in both if label[end] == place]))
    assert table["depth_expected"][0] == pytest.approx(np.mean(everything))
    groups = [depth[label == place] for place in range(len(names))]
    between = sum(len(group) * (group.mean() - np.mean(everything)) ** 2 for group in groups)
    assert depth_explained(depth[label >= 0], label[label >= 0]) == pytest.approx(
        between / sum((value - np.mean(everything)) ** 2 for value in everything)
    )


def test_depth_explained_is_what_chance_expects():
    rng = np.random.default_rng(0)
    depth, label = rng.integers(0, 5, 60) / 4, rng.integers(0, 7, 60)
    drawn = [depth_explained(rng.permutation(depth), label) for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(6 / 59, rel=0.03)


def test_p_of_depth_is_uniform():
    p = [depth_answer(made_up_evidence(seed, n_features=25), QUICK).p_value for seed in range(40)]
    assert scipy_stats.kstest(p, "uniform").pvalue > 0.01


def test_groups_that_lead_to_each_other():
    """A ring of three programs, each joined far beyond chance with the next, at several layers; D stays outside."""
    evidence = made_up_evidence(0, n_layers=4, n_features=80, sources_per_layer=40, edges_per_source=60)
    rng = np.random.default_rng(0)
    label = rng.choice(list("ABCD"), len(evidence.features))
    source, target = (label[evidence.edges[end].to_numpy()] for end in ("source", "target"))
    nxt = {"A": "B", "B": "C", "C": "A", "D": "-"}
    ring = np.array([nxt[s] == t for s, t in zip(source, target, strict=True)])
    kept = ring | (rng.random(len(ring)) < 0.2)
    found = ask(
        replace(evidence, features=evidence.features.assign(label=label), edges=evidence.edges.filter(kept)), QUICK
    )
    table = found.tables["hierarchy"].set_index("label")
    assert table["component"].to_dict() == {"A": 0, "B": 0, "C": 0, "D": -1}
    assert table.loc["A", "n_outgoing"] == table.loc["A", "n_incoming"] == 1
    assert found.answers[4].value == 3 and table["page_rank"].sum() == pytest.approx(1)


def test_every_edge_goes_up():
    answer = ask(made_up_evidence(), QUICK).answers[3]
    assert answer.value == answer.baseline == answer.published == 1.0 and np.isnan(answer.p_value)


@pytest.mark.parametrize("labels", ["", "one label"])
def test_what_is_missing_is_said(labels):
    evidence = made_up_evidence()
    found = ask(replace(evidence, features=evidence.features.assign(label=labels)), QUICK)
    (answer,) = found.answers
    assert np.isnan(answer.value) and "annotate.gene_sets" in answer.note
    assert set(draw(found)) == {"hierarchy"}


@pytest.mark.parametrize("n_edges", [0, 1])
def test_few_edges(n_edges):
    evidence = made_up_evidence()
    label = evidence.features["label"].to_numpy()
    a, b = (label[evidence.edges[end].to_numpy()] for end in ("source", "target"))
    edges = evidence.edges.filter(pl.Series((a != "") & (b != "") & (a != b)))[:n_edges]
    found = ask(replace(evidence, edges=edges), QUICK)
    assert len(found.answers) == (5 if n_edges else 1)
    assert set(draw(found)) == {"hierarchy"}


def test_depth_in_one_layer_cannot_be_asked():
    evidence = made_up_evidence(n_layers=2)
    label = np.where(evidence.features["layer"] == 1, evidence.features["label"], "")
    bare = replace(evidence, features=evidence.features.assign(label=label))
    found = ask(bare, QUICK)
    assert len(found.answers) == 1


def test_the_same_seed_gives_the_same_tables():
    first, second = (ask(made_up_evidence(4), QUICK) for _ in range(2))
    assert all(first.tables[name].equals(second.tables[name]) for name in first.tables)
