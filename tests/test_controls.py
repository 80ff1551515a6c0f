"""Readouts, control directions and what is said of an edge, against plain formulas and planted circuits."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

import cellcircuits as cc
from cellcircuits.ablate import Tracer
from cellcircuits.control_table import control_counts, control_table, sample_size_curve, sweep
from cellcircuits.controls import control_directions, direction_names
from cellcircuits.edge_calling import statistics_of
from cellcircuits.fidelity import fidelity
from cellcircuits.models.planted import planted
from cellcircuits.moments import load_moments, trace_files
from cellcircuits.pair_statistics import pair_statistics
from cellcircuits.pipeline import run_pipeline
from cellcircuits.progress import Progress
from cellcircuits.robustness import heterogeneity, stability
from cellcircuits.run import create_run
from cellcircuits.settings import EdgesSettings, TraceSettings, settings_from_dict
from cellcircuits.stats import sign_flip
from cellcircuits.tracing import Groups, trace_cells
from tests.made_up import SHORT_RUN
from tests.test_ablate import busiest_features
from tests.test_edge_calling import moments_of

pytestmark = pytest.mark.usefixtures("one_thread")
EVERY_READOUT = ["source", "target", "other", "pre", "computed"]
KEY = ["source_layer", "source_feature", "target_layer", "target_feature"]


def slow_readouts(model, saes, cell, feature, target):
    """{readout: (target,)} of one cell by a full pass, source layer 0."""
    settings = TraceSettings()
    clean = Tracer(model, saes, settings).clean_pass(cell, [0], [target])
    genes = torch.from_numpy(cell.gene_mask[0])
    source = clean.codes[0].dense(saes[0].n_features)[:, feature] * genes
    at, sae = source > 0, saes[target]
    hidden = clean.states.hidden[0].clone()
    hidden[0] -= source[:, None] * saes[0].W_dec[feature]
    for _, state in model.run_layers(hidden, cell, 1, target + 1):
        after = state[0]
    was = clean.states.hidden[target][0]
    change = sae.encode(after).dense(sae.n_features) - sae.encode(was).dense(sae.n_features)
    fires = (sae.encode(was).dense(sae.n_features) > 0) & genes[:, None]
    return {
        "source": change[at].mean(dim=0),
        "other": change[genes & ~at].mean(dim=0),
        "target": (change * fires).sum(dim=0) / fires.sum(dim=0).clamp(min=1),
        "pre": (sae.pre_activations(after) - sae.pre_activations(was))[at].mean(dim=0),
    }


def test_readouts_equal_full_passes(demo_model, demo_tokens, quick_saes):
    cell = demo_tokens.take([3])
    features = busiest_features(demo_model, cell, quick_saes, 0, 3)
    moments = cc.trace(demo_model, cell, quick_saes, 0, features, [2], readouts=EVERY_READOUT)
    for row, feature in enumerate(features):
        for readout, expected in slow_readouts(demo_model, quick_saes, cell, int(feature), 2).items():
            found = moments.mean(2, readout=readout)[row]
            np.testing.assert_allclose(found, expected, atol=2e-4, err_msg=readout)


def test_what_is_computed_is_what_is_beyond_the_persisting_vector(demo_model, demo_tokens, quick_saes):
    """By hand: the sublayers add what they added to the undisturbed cell, norms are applied anew."""
    cell = demo_tokens.take([3])
    features = busiest_features(demo_model, cell, quick_saes, 0, 2)
    moments = cc.trace(demo_model, cell, quick_saes, 0, features, [1], readouts=["pre", "computed"])
    clean = Tracer(demo_model, quick_saes, TraceSettings()).clean_pass(cell, [0], [1])
    code = clean.codes[0].dense(quick_saes[0].n_features) * torch.from_numpy(cell.gene_mask[0])[:, None]
    block, hidden, was = demo_model.blocks[1], clean.states.hidden[0], clean.states.hidden[1][0]
    attention, feedforward = block.added(hidden)
    torch.testing.assert_close(block.pass_through(hidden[0], attention, feedforward), was, atol=1e-5, rtol=1e-4)
    for row, feature in enumerate(features):
        at = code[:, feature] > 0
        changed = hidden[0, at] - code[at, feature, None] * quick_saes[0].W_dec[feature]
        alone = block.norm2(block.norm1(changed + attention[at]) + feedforward[at])
        passed = ((alone - was[at]) @ quick_saes[1].W_enc).mean(dim=0)
        found = moments.mean(1, readout="pre")[row] - moments.mean(1, readout="computed")[row]
        np.testing.assert_allclose(found, passed, atol=1e-4)


def test_control_directions_have_the_length_of_the_source_and_are_fixed(quick_saes):
    sae, features = quick_saes[0], np.array([3, 8])
    found = control_directions(sae, 0, features, np.array([[5], [6]]), 2, seed=1)
    assert direction_names(2, 1) == ("own", "random 0", "random 1", "feature 0")
    own = sae.W_dec[torch.from_numpy(features)]
    torch.testing.assert_close(found.norm(dim=2), own.norm(dim=1)[:, None].expand(-1, 4))
    torch.testing.assert_close(found[:, 0], own)
    # another one for every source, but the same whatever else is asked for
    assert torch.nn.functional.cosine_similarity(found[0, 1], found[1, 1], dim=0).abs() < 0.9
    more = control_directions(sae, 0, features, np.array([[5], [6]]), 5, seed=1)
    assert torch.equal(more[:, :3], found[:, :3])
    alone = control_directions(sae, 0, features[1:], np.array([[6]]), 2, seed=1)
    assert torch.equal(alone[0], found[1])
    cosine = torch.nn.functional.cosine_similarity(found[1, 3], sae.W_dec[6], dim=0)
    assert cosine == pytest.approx(1.0, abs=1e-5)


def test_the_own_direction_among_controls_is_the_source(demo_model, demo_tokens, quick_saes):
    cells = demo_tokens.take([0, 400])
    features = busiest_features(demo_model, cells, quick_saes, 0, 3)
    plain = cc.trace(demo_model, cells, quick_saes, 0, features, [2], context="frozen", readouts=["source", "computed"])
    controls = cc.trace_controls(demo_model, cells, quick_saes, 0, features, [2], n_random=2)
    assert controls.directions == ("own", "random 0", "random 1")
    np.testing.assert_allclose(controls.of_direction(0).sums[2], plain.sums[2], atol=1e-4)
    assert np.abs(controls.of_direction(1).mean(2) - plain.mean(2)).max() > 1e-3


@pytest.mark.parametrize("n", [3, 8])
def test_sign_flips_are_all_tried(n):
    values = np.random.default_rng(n).normal(0.5, 1, size=(n, 4))
    values[:, 3] = 0
    for column, p in enumerate(sign_flip(values)):
        sums = [abs(np.dot(signs, values[:, column])) for signs in product((-1, 1), repeat=n)]
        assert p == pytest.approx(np.mean([s >= abs(values[:, column].sum()) - 1e-9 for s in sums]))


def test_sampled_sign_flips_are_near_the_t_test():
    values = np.random.default_rng(0).normal(0.3, 1, size=(18, 30))
    np.testing.assert_allclose(sign_flip(values), scipy_stats.ttest_1samp(values, 0).pvalue, atol=0.1)


def grouped(deltas: np.ndarray, labels: np.ndarray) -> cc.Moments:
    """Moments with sums of their own for each label."""
    parts = [moments_of(deltas[labels == label]) for label in np.unique(labels)]
    return replace(
        parts[0],
        n_cells=np.concatenate([p.n_cells for p in parts]),
        sums={1: np.concatenate([p.sums[1] for p in parts], axis=1)},
        groups=tuple(f"g{label}" for label in np.unique(labels)),
    )


def test_groups_add_up_and_can_be_the_unit():
    rng = np.random.default_rng(0)
    deltas, labels = rng.normal(0.4, 1, size=(60, 2, 7)), rng.integers(0, 6, 60)
    moments = grouped(deltas, labels)
    np.testing.assert_allclose(moments.mean(1), deltas.mean(axis=0))
    np.testing.assert_allclose(moments.sd(1), deltas.std(axis=0, ddof=1))
    one = pair_statistics(moments, EdgesSettings(min_cells=2), group="g2")[1]
    np.testing.assert_allclose(one["mean_delta"], deltas[labels == 2].mean(axis=0))
    values = pair_statistics(moments, EdgesSettings(unit="group"))[1]
    means = np.stack([deltas[labels == label].mean(axis=0) for label in range(6)])
    np.testing.assert_allclose(values["mean_delta"], means.mean(axis=0))
    np.testing.assert_allclose(values["sd_delta"], means.std(axis=0, ddof=1))
    np.testing.assert_allclose(values["p_value"], sign_flip(means))
    assert (values["n_units"] == 6).all() and (values["n_positive"] == (means > 0).sum(axis=0)).all()


def welch(groups) -> float:
    """p of Welch's analysis of variance, by the formula of 1951."""
    weights = [len(x) / np.var(x, ddof=1) for x in groups]
    pooled = np.average([np.mean(x) for x in groups], weights=weights)
    k, q, few = len(groups), 0.0, 0.0
    for x, weight in zip(groups, weights, strict=True):
        q += weight * (np.mean(x) - pooled) ** 2
        few += (1 - weight / sum(weights)) ** 2 / (len(x) - 1)
    return scipy_stats.f.sf(q / (k - 1) / (1 + 2 * (k - 2) / (k**2 - 1) * few), k - 1, (k**2 - 1) / (3 * few))


def test_heterogeneity_of_two_groups_is_welchs_t_test():
    rng = np.random.default_rng(2)
    deltas, labels = rng.normal(0.5, 1, size=(30, 1, 6)) * rng.uniform(0.2, 3, size=6), np.repeat([0, 1, 2], [9, 19, 2])
    pairs = np.zeros(6, dtype=int), np.arange(6)
    found = heterogeneity(grouped(deltas, labels), 1, "source", pairs)  # the group of two cells is left out
    expected = scipy_stats.ttest_ind(deltas[labels == 0, 0], deltas[labels == 1, 0], equal_var=False).pvalue
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(("per_group", "most"), [(20, 0.055), (5, 0.09), (3, 0.15)])
def test_heterogeneity_keeps_near_its_level_with_few_cells_per_group(per_group, most):
    """Normal effects, ten groups; chi-squared gives 9, 32 and 57 %."""
    deltas = np.random.default_rng(3).normal(1, 1, size=(10 * per_group, 1, 10_000))
    moments = grouped(deltas, np.arange(10 * per_group) % 10)
    p = heterogeneity(moments, 1, "source", (np.zeros(10_000, dtype=int), np.arange(10_000)))
    assert 0.04 < (p <= 0.05).mean() < most


def test_heterogeneity_and_stability_by_loops():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(5), 20)
    deltas = rng.normal(0.8, 1, size=(100, 1, 2))
    deltas[:, 0, 1] += 2 * (labels == 4)
    moments, pairs = grouped(deltas, labels), (np.array([0, 0]), np.array([0, 1]))
    found = heterogeneity(moments, 1, "source", pairs)
    for pair in range(2):
        assert found[pair] == pytest.approx(welch(deltas[:, 0, pair].reshape(5, 20)))
    assert found[1] < 1e-6
    firm = stability(moments, 1, EdgesSettings(), pairs)
    assert ((0 <= firm) & (firm <= 1)).all() and firm[0] > 0.5
    assert np.isnan(stability(moments_of(deltas), 1, EdgesSettings(), pairs)).all()


def test_groups_of_a_trace_are_traces_of_the_groups(demo_model, demo_tokens, quick_saes):
    cells, features = demo_tokens.take([0, 1, 2, 3]), np.array([5, 9])
    settings, above = TraceSettings(readouts=["source"]), {0: [1]}
    groups = Groups(("x", "y"), np.array([0, 1, 1, 0]))
    found = trace_cells(demo_model, cells, quick_saes, {0: features}, above, settings, groups)[0]
    for name, rows in (("x", [0, 3]), ("y", [1, 2])):
        alone = trace_cells(demo_model, cells.take(rows), quick_saes, {0: features}, above, settings)[0]
        np.testing.assert_allclose(found.of_groups([name]).sums[1], alone.sums[1], atol=1e-9)


def test_sweep_and_sample_size_count_edges():
    rng = np.random.default_rng(0)
    deltas, labels = rng.normal(0.5, 1, size=(80, 3, 40)), np.arange(80) % 4
    moments, rule = grouped(deltas, labels), EdgesSettings()
    table = sweep(moments, rule)
    row = table[(table["min_snr"] == 0.5) & (table["min_agreement"] == 0.7)]
    assert row["edges"].item() == len(cc.edges(moments))
    assert table.groupby("min_agreement")["edges"].apply(lambda e: e.is_monotonic_decreasing).all()
    curve = sample_size_curve(moments, rule)
    assert curve["n_cells"].tolist() == [20, 40, 60, 80]
    assert curve["recall"].iloc[-1] == 1 and curve["n_edges"].iloc[-1] == len(cc.edges(moments))


def test_a_context_compared_with_itself_is_faithful():
    moments = moments_of(np.random.default_rng(0).normal(0.5, 1, size=(40, 3, 30)))
    row = fidelity(moments, moments, EdgesSettings()).iloc[0]
    assert row["edges_exact"] > 0
    for name in ("correlation", "slope", "recall", "precision", "jaccard", "sign_agreement"):
        assert row[name] == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["direct", "passthrough", "opposed", "competition", "null_rescaled"])
def test_what_is_not_computed_is_not_specific(kind):
    """The persisting vector, rivals in TopK and what a norm does to all exist, but are not specific."""
    made = planted(kind, 0, n_cells=60, strength=3.0)
    traced = (made.model, made.cells, made.saes, 0, range(made.saes[0].n_features))
    found = cc.edges(cc.trace(*traced), controls=cc.trace_controls(*traced))
    truth = made.truth[(made.truth["source_layer"] == 0) & (made.truth["readout"] == "source")]
    judged = found.merge(truth, on=KEY, how="left")
    true = judged["is_edge"].eq(True)
    assert len(judged) > 0
    assert (judged["specific"] & ~true).sum() <= 1
    if kind == "opposed":
        # the sign of what is computed is right where that of the whole effect is wrong
        assert (np.sign(judged["computed_delta"]) == -judged["sign"])[true].mean() > 0.9
        assert (np.sign(judged["mean_delta"]) == -judged["sign"])[true].mean() < 0.1


def test_controls_are_counted_like_sources():
    made = planted("direct", 0, n_cells=40, strength=3.0)
    controls = cc.trace_controls(made.model, made.cells, made.saes, 0, range(8), n_random=5)
    rule = EdgesSettings()
    counts = control_counts(controls, rule)
    assert counts["direction"].tolist() == ["own"] + ["random"] * 5
    assert counts["edges_exist"][0] == len(cc.edges(controls.of_direction(0)))
    table = control_table([counts], "frozen").set_index("direction")
    assert table.loc["random", "edges_exist"] == pytest.approx(counts["edges_exist"][1:].mean())
    assert table.loc["random", "n_directions"] == 5
    tested = sum(values["tested"].sum() for values in statistics_of(controls.of_direction(0), rule).values())
    assert table.loc["own", "n_tested"] == tested


def test_what_was_not_traced_is_said():
    moments = moments_of(np.ones((30, 2, 3)))
    with pytest.raises(cc.CellCircuitsError, match="hold the readouts source, not 'other'"):
        cc.edges(moments, readout="other")
    with pytest.raises(cc.CellCircuitsError, match="group_by"):
        cc.edges(moments, unit="group")


def test_controls_are_refused_like_sources(demo_model, demo_tokens, quick_saes):
    with pytest.raises(cc.CellCircuitsError, match="Features of layer 0 are 0 to"):
        cc.trace_controls(demo_model, demo_tokens.take([0]), quick_saes, 0, [10_000])


def run_with_controls(folder, **trace) -> cc.OpenRun:
    """A short run with controls and folds, up to the edges."""
    few = {"random_directions": 4, "matched_features": 1, "group_by": "fold", "n_folds": 4, "fidelity_cells": 30}
    settings = settings_from_dict(SHORT_RUN | {"trace": SHORT_RUN["trace"] | few | trace})
    run = create_run(folder / "run", settings)
    run_pipeline(run, Progress(), until="edges")
    return cc.open_run(run.folder)


@pytest.mark.parametrize("context", ["exact", "frozen", "screen"])
def test_a_run_compares_contexts_and_controls(tmp_path, context):
    """Every context through the stages, on the small scGPT-format model."""
    opened = run_with_controls(tmp_path, context=context)
    assert opened.controls["direction"].tolist() == ["own", "random", "feature"]
    assert len(opened.fidelity) > 0 and (opened.fidelity["correlation"] > 0.9).all()
    assert opened.edges["specific_q"].notna().all() and opened.edges["stability"].between(0, 1).all()
    found = {"exact": {"exact"}, "frozen": {"frozen"}, "screen": {"exact"}}[context]
    assert set(opened.sources["context"]) == found


def test_controls_in_some_of_the_cells(tmp_path):
    """They hold the sources in the same cells, and those are not compared with sources in all cells."""
    opened = run_with_controls(tmp_path, control_cells=25)
    plans = (json.loads((opened.path("trace") / name).read_text()) for name in ("plan.json", "controls_plan.json"))
    every, some = (plan["cells"] for plan in plans)
    assert len(every) == 40 and len(some) == 25 and set(some) < set(every)
    assert (some[0], some[-1]) == (every[0], every[-1])
    (path,) = trace_files(opened.path("trace"), "controls")[0]
    assert load_moments(path).cells().max() == 25
    assert opened.fidelity.empty and opened.edges["specific_q"].notna().all()
