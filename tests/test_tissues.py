"""Differences between groups by programs, and stability of circuits: against loops, null data, planted differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from cellcircuits.evidence import Evidence, make_evidence
from cellcircuits.figures import cell_types as cell_types_figure
from cellcircuits.figures import tissues as tissues_figure
from cellcircuits.findings import cell_types, tissues
from cellcircuits.findings.cell_types import correlation, expected_correlation, jaccard, p_of_shared
from cellcircuits.group_edges import group_edges
from cellcircuits.settings import EdgesSettings, FindingsSettings
from tests.grouped_moments import grouped_deltas, grouped_moments
from tests.made_up_evidence import filled, made_up_evidence

QUICK = FindingsSettings(permutations=40)
NAMES = ("B", "CD4 T", "NK")


def grouped(seed: int, names: tuple[str, ...] = NAMES, planted: float = 0.0, sizes: tuple[int, ...] = (40, 60, 30)):
    """Evidence of two layers; `planted` is added to effects of program 0 on program 1 in group 0."""
    rng = np.random.default_rng(seed)
    label = rng.choice(["program 0", "program 1", "program 2"], (2, 60))
    deltas, group = grouped_deltas(seed, sizes, n_sources=30, n_targets=60)
    pair = (label[0, :30] == "program 0")[:, None] & (label[1] == "program 1")
    deltas += planted * ((group == 0)[:, None, None] & pair)
    found = group_edges([lambda: grouped_moments(deltas, group, names)], EdgesSettings())
    features = filled(
        "features",
        120,
        layer=np.repeat([0, 1], 60),
        feature=np.tile(np.arange(60), 2),
        label=label.ravel(),
        firing_rate=rng.random(120),
    )
    ends = found.edges.rename(columns={"snr": "s"}).assign(snr=0.0, mean_delta=0.0)
    edges = ends[["source_layer", "source_feature", "target_layer", "target_feature", "mean_delta", "snr"]]
    return make_evidence(edges.drop_duplicates(), features, group_edges=found.edges, group_pairs=found.pairs)


@pytest.fixture(scope="module")
def alike() -> Evidence:
    return grouped(0)


@pytest.fixture(scope="module")
def different() -> Evidence:
    return grouped(0, planted=1.2)


def test_counts_of_programs_equal_loops(different):
    table = tissues.ask(different, QUICK).tables["tissues"]
    label = different.features.set_index(["layer", "feature"])["label"]
    counted: dict[tuple[str, str, str], list[tuple]] = {}
    for row in different.table("group_edges").to_dict("records"):
        a = label[row["source_layer"], row["source_feature"]]
        b = label[row["target_layer"], row["target_feature"]]
        if a != b and np.isfinite(row["difference_q"]):
            values = row["is_edge"], row["difference_q"] <= 0.05, row["difference"]
            counted.setdefault((row["group"], a, b), []).append(values)
    assert len(table) == len(counted) > 10
    for row in table.to_dict("records"):
        values = np.array(counted[row["group"], row["source_label"], row["target_label"]], dtype=float)
        found = [row[name] for name in ("n_edges", "n_edges_of_group", "n_differ", "mean_difference")]
        assert found == pytest.approx([len(values), *values[:, :2].sum(axis=0), values[:, 2].mean()])


def test_expected_differences_are_those_of_exchanged_labels(different):
    """Labels of the reached targets are exchanged by hand, in the one stratum of one bin."""
    settings = replace(QUICK, strata_bins=1)
    table = tissues.ask(different, settings).tables["tissues"]
    edges = different.table("group_edges")
    edges = edges[edges["group"] == "B"].assign(differs=lambda t: (t["difference_q"] <= 0.05).astype(float))
    edges["beyond"] = edges["differs"] - edges["differs"].mean()
    label = different.features["label"].to_numpy().reshape(2, 60)
    reached = np.unique(edges["target_feature"])
    row = (
        table[(table["group"] == "B") & (table["source_label"] == "program 0")]
        .set_index("target_label")
        .loc["program 1"]
    )
    mine = edges[label[0][edges["source_feature"]] == "program 0"]
    rng, sums = np.random.default_rng(0), []
    by_target = mine.groupby("target_feature")["beyond"].sum().reindex(reached, fill_value=0).to_numpy()
    for _ in range(4000):
        sums.append(by_target[rng.permutation(label[1][reached]) == "program 1"].sum())
    observed = by_target[label[1][reached] == "program 1"].sum()
    assert row["n_differ"] - row["n_expected"] == pytest.approx(observed - np.mean(sums), abs=0.3)
    assert row["p_value"] == pytest.approx(np.mean(np.array(sums) >= observed), abs=0.02)


def test_planted_programs_are_found(different):
    found = tissues.ask(different, QUICK)
    share, programs, _ = found.answers
    assert share.value > 0.1 and share.p_value < 0.001 and share.low < share.value < share.high
    assert share.baseline == pytest.approx(0.05 * share.value)
    top = found.tables["tissues"].iloc[0]
    assert (top["group"], top["source_label"], top["target_label"]) == ("B", "program 0", "program 1")
    assert top["q_value"] < 0.01 and top["mean_difference"] > 0.5 and programs.value >= 1


def test_with_equal_effects_nothing_is_found():
    called, p = 0, []
    for seed in range(8):
        found = tissues.ask(grouped(seed), QUICK)
        called += bool(found.answers[0].p_value <= 0.05)
        p += list(found.tables["tissues"]["p_value"])
    # 0.4 of 8 are expected; 4 have a chance of 0.04 %
    assert called < 4
    assert np.mean(np.array(p) <= 0.05) <= 0.06


def test_classes_are_fisher_tests():
    programs = filled(
        "tissues",
        5,
        group=["a", "a", "a", "b", "b"],
        source_label=["T cell activation", "x", "renal", "x", "y"],
        target_label=["x", "y", "z", "y", "interferon"],
        n_edges_of_group=[1, 2, 1, 3, 0],
    )
    table = tissues.class_table(programs, 0.05).set_index(["group", "class"])
    names = ["n_only_with", "n_only_without", "n_shared_with", "n_shared_without"]
    # in group a two pairs of its own, one of them immune, and x -> y of both
    assert table.loc[("a", "immune"), names].tolist() == [1, 1, 0, 1]
    assert table.loc[("a", "kidney"), names].tolist() == [1, 1, 0, 1]
    # the last pair of group b is no edge of it
    assert table.loc[("b", "immune"), names].tolist() == [0, 0, 0, 1]
    assert table.loc[("a", "immune"), "p_value"] == scipy_stats.fisher_exact([[1, 1], [0, 1]], "greater")[1]


def test_shared_edges_equal_loops(alike):
    table = cell_types.ask(alike, QUICK).tables["cell_types"]
    edges = alike.table("group_edges")
    key = edges[["source_feature", "target_feature"]].apply(tuple, axis=1)
    sets = {name: set(key[(edges["group"] == name) & edges["is_edge"]]) for name in NAMES}
    of_all = edges[edges["is_edge_of_all"]].set_index(key[edges["is_edge_of_all"]])
    for row in table.to_dict("records"):
        a, b = sets[row["first_group"]], sets[row["second_group"]]
        assert row["jaccard"] == pytest.approx(len(a & b) / len(a | b))
        assert row["jaccard_low"] < row["jaccard"] < row["jaccard_high"]
        one, other = (of_all[of_all["group"] == row[name]] for name in ("first_group", "second_group"))
        other = other.loc[one.index]
        n, m = one["n_cells"].iloc[0], other["n_cells"].iloc[0]
        pooled = np.sqrt(((n - 1) * one["sd_delta"] ** 2 + (m - 1) * other["sd_delta"] ** 2) / (n + m - 2))
        r = np.corrcoef(one["mean_delta"] / pooled, other["mean_delta"] / pooled)[0, 1]
        assert row["correlation"] == pytest.approx(r) and row["n_edges"] == len(one)


def test_equal_effects_share_what_is_expected():
    found, r = np.zeros(2), np.zeros(2)
    for seed in range(8):
        first, second = cell_types.ask(grouped(seed, sizes=(40, 60, 30)), QUICK).answers
        found += first.value, first.baseline
        r += second.value, second.baseline
    assert found[0] == pytest.approx(found[1], rel=0.05) and r[0] == pytest.approx(r[1], rel=0.02)


def test_planted_differences_are_seen_in_both_answers(different):
    first, second = cell_types.ask(different, QUICK).answers
    table = cell_types.ask(different, QUICK).tables["cell_types"].set_index(["first_group", "second_group"])
    assert table.loc[("B", "CD4 T"), "correlation"] < table.loc[("B", "CD4 T"), "expected_correlation"] - 0.02
    assert table.loc[("B", "CD4 T"), "p_value"] < 0.01
    assert first.value < first.baseline and second.value <= 1


def test_expected_correlation_is_that_of_noisy_copies():
    rng = np.random.default_rng(0)
    true, n = rng.normal(0, 0.6, 20000), np.tile([20.0, 50.0], (20000, 1))
    effect = true[:, None] + rng.normal(size=(20000, 2)) / np.sqrt(n)
    weights = np.ones(20000)
    assert expected_correlation(effect, n) == pytest.approx(correlation(effect, weights), abs=0.01)
    assert correlation(effect, weights) == pytest.approx(np.corrcoef(effect.T)[0, 1])
    assert expected_correlation(rng.normal(size=(5, 2)) * 1e-3, n[:5]) == 0.0
    assert np.isnan(correlation(np.ones((4, 2)), np.ones(4)))


def test_sources_are_the_units():
    part = filled("group_pairs", 3, source_feature=[0, 1, 1], n_both=[4, 1, 1], expected_both=[1.0, 0.5, 0.5])
    # two sources, both above: 2 of 4 sign patterns
    assert p_of_shared(part) == 0.5 and np.isnan(p_of_shared(part[:1]))
    assert np.isnan(jaccard(np.zeros(2), np.zeros(2), np.zeros(2)))


def test_folds_are_named_as_chance():
    evidence = grouped(1, names=("fold 0", "fold 1", "fold 2"))
    assert "nothing should differ" in tissues.ask(evidence, QUICK).answers[0].note
    assert "reproduce" in cell_types.ask(evidence, QUICK).answers[0].note


@pytest.mark.parametrize(("question", "figure"), [(tissues, tissues_figure), (cell_types, cell_types_figure)])
def test_what_is_missing_is_said(question, figure):
    evidence = made_up_evidence()
    found = question.ask(evidence, QUICK)
    (answer,) = found.answers
    assert np.isnan(answer.value) and 'trace.group_by = "cell_type"' in answer.note
    few = filled("group_edges", 2, group=["a", "b"], difference_q=np.nan, differs_q=np.nan)
    (answer,) = question.ask(replace(evidence, tables={"group_edges": few}), QUICK).answers
    assert "edges.min_cells" in answer.note
    assert len(figure.draw(found)) == 1


@pytest.mark.parametrize(("question", "figure"), [(tissues, tissues_figure), (cell_types, cell_types_figure)])
def test_figures_and_the_same_bytes(question, figure, alike):
    first, second = (question.ask(alike, QUICK) for _ in range(2))
    assert all(first.tables[name].equals(second.tables[name]) for name in first.tables)
    assert len(figure.draw(first)) == 1


def test_without_labels_edges_are_still_compared(alike):
    bare = replace(alike, features=alike.features.assign(label=""))
    share, programs, classes = tissues.ask(bare, QUICK).answers
    assert np.isfinite(share.value) and programs.value == 0 and np.isnan(classes.value)
    assert len(tissues_figure.draw(tissues.ask(bare, QUICK))) == 1


def test_one_edge(alike):
    edges = alike.table("group_edges")
    one = edges.iloc[:3]
    pairs = alike.table("group_pairs").iloc[:1]
    few = replace(alike, tables={"group_edges": one, "group_pairs": pairs})
    assert np.isnan(tissues.ask(few, QUICK).answers[0].low)
    answers = cell_types.ask(few, QUICK).answers
    assert np.isnan(answers[0].p_value) and np.isnan(answers[1].value)
    assert isinstance(cell_types.ask(few, QUICK).tables["cell_types"], pd.DataFrame)
