"""Dictionaries without an autoencoder: against slow versions, and beaten by the truth where it is sparse."""

from __future__ import annotations

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from rich.console import Console

import cellcircuits as cc
from cellcircuits.annotation import Annotator
from cellcircuits.associations import cell_labels
from cellcircuits.autoencoders import JumpReLUSAE, TopKSAE
from cellcircuits.baseline_table import associated, baseline_row, over_layers, permuted_labels
from cellcircuits.baselines import (
    SideBySide,
    SplitAxes,
    active_features,
    find_axes,
    fit_baselines,
    independent_components,
    neurons,
    principal_components,
    sample_states,
)
from cellcircuits.catalogue import background_tokens, count_firings, name_features
from cellcircuits.commands import stage as stage_command
from cellcircuits.errors import SettingsError
from cellcircuits.references import GeneSets
from cellcircuits.report import print_baselines
from cellcircuits.settings import AnnotateSettings, settings_from_dict
from cellcircuits.tables import make_table
from cellcircuits.tokens import Tokens

pytestmark = pytest.mark.usefixtures("one_thread")


def fake_model(embed) -> SimpleNamespace:
    """A model of one layer whose output is what it embeds."""

    def run_layers(hidden, tokens, start, stop):
        yield 0, hidden

    return SimpleNamespace(embed=embed, run_layers=run_layers, device=torch.device("cpu"), n_layers=1)


# ------------------------------------------------------------------------------------------------ states


def test_sampled_states_are_states_of_the_layer(model, tokens):
    settings = AnnotateSettings(baseline_positions=300)
    states = sample_states(model, tokens, [0, 2], settings, 7)
    hidden = dict(model.run_layers(model.embed(tokens), tokens, 0, 3))
    for layer, sample in states.items():
        assert sample.shape == (300, 18) and sample.dtype == np.float32
        there = hidden[layer][tokens.gene_mask].numpy()
        assert {row.tobytes() for row in sample.round(4)} <= {row.tobytes() for row in there.round(4)}
    again = sample_states(model, tokens, [0, 2], settings, 7)
    np.testing.assert_array_equal(again[2], states[2])
    assert not np.array_equal(sample_states(model, tokens, [2], AnnotateSettings(seed=1), 7)[2][:300], states[2])


def test_no_cell_gives_more_positions_than_its_share(monkeypatch):
    monkeypatch.setattr("cellcircuits.baselines.POSITIONS_PER_CELL", 4)
    model = fake_model(lambda tokens: torch.from_numpy(tokens.ids[:, :, None].astype(np.float32)))
    # the states say which position they are: cell c has the genes from 12 c on
    cells = Tokens.from_ids([4 + 12 * cell + np.arange(12) for cell in range(60)])
    states = sample_states(model, cells, [0], AnnotateSettings(baseline_positions=98), 16)[0]
    positions = states[:, 0].astype(int)
    counts = np.bincount((positions - 4) // 12, minlength=60)
    assert len(np.unique(positions)) == 98 and sorted(counts)[-25:] == [2, *[4] * 24]
    assert len(np.unique((positions - 4) % 12)) == 12  # anywhere in a cell
    few = sample_states(model, cells, [0], AnnotateSettings(baseline_positions=10_000), 16)[0]
    assert len(few) == 4 * 60


# ------------------------------------------------------------------------------------------------ axes


def correlated(n=4000, width=8, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.laplace(size=(n, width)) @ rng.standard_normal((width, width)) + 3).astype(np.float32)


def test_principal_components_are_singular_vectors():
    states = correlated()
    states[:, 7] = states[:, 0] - states[:, 1]  # no eighth dimension
    axes, variances = principal_components(states)
    centred = states.astype(float) - states.mean(axis=0, dtype=float)
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    assert axes.directions.shape == (7, 8)
    np.testing.assert_allclose(variances, values[:7] ** 2 / len(states), rtol=1e-6)
    np.testing.assert_allclose(np.abs((axes.directions * vectors[:7]).sum(axis=1)), 1, atol=1e-5)
    np.testing.assert_allclose(axes.read, axes.directions.T)
    assert (axes.directions[np.arange(7), np.abs(axes.directions).argmax(axis=1)] > 0).all()


def test_independent_components_find_what_was_mixed():
    rng = np.random.default_rng(1)
    sources, mixing = rng.laplace(size=(6000, 6)), rng.standard_normal((6, 6))
    states = (sources @ mixing + 2).astype(np.float32)
    axes = independent_components(states, 6, seed=0)
    found = (states - axes.mean) @ axes.read
    match = np.abs(np.corrcoef(found.T, sources.T)[:6, 6:])
    assert (match.max(axis=0) > 0.98).all() and sorted(match.argmax(axis=0)) == list(range(6))
    # coordinates times directions are the state, and directions are those of the mixing
    np.testing.assert_allclose(found @ axes.directions, states - axes.mean, atol=1e-3)
    unit = mixing / np.linalg.norm(mixing, axis=1, keepdims=True)
    assert (np.abs(axes.directions @ unit.T).max(axis=0) > 0.98).all()
    np.testing.assert_allclose(np.linalg.norm(axes.directions, axis=1), 1)
    assert 1 <= axes.n_steps < 200
    few = independent_components(states, 3, seed=0)
    assert few.directions.shape == (3, 6)
    again = independent_components(states, 3, seed=0)
    np.testing.assert_array_equal(few.read, again.read)


def test_neurons_are_coordinates():
    states = correlated()
    axes = neurons(states)
    np.testing.assert_allclose(axes.mean, states.mean(axis=0, dtype=float))
    np.testing.assert_array_equal(axes.read, np.eye(8))
    assert find_axes("neurons", states, AnnotateSettings()).directions.shape == (8, 8)


# ------------------------------------------------------------------------------------------------ features


@pytest.mark.parametrize("kind", ["pca", "ica", "neurons"])
def test_split_axes_are_a_loop_over_positions(kind):
    states = correlated()
    axes = find_axes(kind, states, AnnotateSettings(baseline_components=5))
    sae = SplitAxes(axes, 3)
    n_axes = len(axes.directions)
    assert n_axes == (5 if kind == "ica" else 8) and sae.n_features == 2 * n_axes
    code = sae.encode(torch.from_numpy(states[:200]))
    dense = code.dense(sae.n_features).numpy()
    for position, h in enumerate(states[:200]):
        values = np.zeros(2 * n_axes)
        for j in range(n_axes):
            coordinate = float((h - axes.mean) @ axes.read[:, j])
            values[2 * j], values[2 * j + 1] = max(coordinate, 0), max(-coordinate, 0)
        values[np.argsort(values)[:-3]] = 0
        np.testing.assert_allclose(dense[position], values, atol=1e-4)
    # the same code as a TopK autoencoder with these weights
    plain = TopKSAE(8, sae.n_features, 3)
    plain.load_state_dict(sae.state_dict())
    torch.testing.assert_close(
        plain.encode(torch.from_numpy(states)).dense(sae.n_features)[:200], code.dense(sae.n_features)
    )
    np.testing.assert_allclose(np.linalg.norm(sae.W_dec.numpy(), axis=1), 1, rtol=1e-5)


def test_all_axes_together_are_the_state():
    states = torch.from_numpy(correlated())
    for kind in ("pca", "ica", "neurons"):
        sae = SplitAxes(find_axes(kind, states.numpy(), AnnotateSettings()), 100)
        assert sae.k == 8
        torch.testing.assert_close(sae.decode(sae.encode(states)), states, atol=2e-3, rtol=0)


def test_as_many_features_are_active_as_of_the_autoencoder():
    states = correlated()
    jump = JumpReLUSAE(8, 20)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        jump.W_enc.copy_(torch.from_numpy(rng.standard_normal((8, 20))))
        jump.threshold.fill_(6.0)
    active = (states @ jump.W_enc.detach().numpy() > 6).sum() / len(states)
    assert active_features(jump.requires_grad_(False), states) == round(active) > 1
    settings = AnnotateSettings(baselines=["ica", "pca", "pca"])
    made, steps = fit_baselines(states, jump, settings)
    assert list(made) == ["ica", "pca"] and {sae.k for sae in made.values()} == {round(active)}
    assert list(steps) == ["ica"]
    jump.threshold.fill_(1e6)  # a dead one
    assert active_features(jump, states) == 1


def test_side_by_side_counts_what_each_counts_alone(model, tokens):
    saes = model.saes()
    states = sample_states(model, tokens, [0, 1], AnnotateSettings(), 16)
    settings = AnnotateSettings(baselines=["neurons", "pca"])
    parts = {k: {"own": saes[k], **fit_baselines(states[k], saes[k], settings)[0]} for k in (0, 1)}
    together = {k: SideBySide(own) for k, own in parts.items()}
    sums = count_firings(model, tokens, together, 16, scored=[3, 8, 40])
    assert together[0].n_features == 6 + 36 + parts[0]["pca"].n_features
    for layer in (0, 1):
        split = together[layer].split(sums[layer])
        assert list(split) == ["own", "neurons", "pca"]
        for name, found in split.items():
            alone = count_firings(model, tokens, {layer: parts[layer][name]}, 16, scored=[3, 8, 40])[layer]
            for part in ("firings", "activations", "scores"):
                one, other = (getattr(x, part).toarray() for x in (found, alone))
                np.testing.assert_allclose(one, other, rtol=1e-6)
            np.testing.assert_array_equal(found.n_cells, alone.n_cells)


# ------------------------------------------------------------------------------------------------ the table


def scores_of(effect: float, seed: int = 0, n_cells: int = 300, n_features: int = 60):
    """Scores of features of which the first third know the type of the cell, in proportion to the effect."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"type": rng.choice(["a", "b", "c", "d"], n_cells)})
    scores = rng.random((n_cells, n_features)) * (rng.random((n_cells, n_features)) < 0.5)
    scores[:, : n_features // 3] += effect * (obs["type"] == "a").to_numpy()[:, None]
    scores[:, -1] = 0
    return sp.csr_matrix(scores), obs


def test_associated_is_a_loop_over_features():
    scores, obs = scores_of(0.3)
    labels = cell_labels(2, scores, obs, ["type"], 10)
    found = associated(labels, 0.05)
    best, called = [], 0
    for _, rows in labels.groupby("feature"):
        best.append(max(rows["auroc"]))
        called += any(q <= 0.05 for q in rows["q_value"])
    assert (found.n_tested, found.n_associated) == (59, called) and called >= 20
    assert found.share == called / 59 and found.median_auroc == pytest.approx(np.median(best))
    nothing = associated(labels[:0], 0.05)
    assert (nothing.n_tested, nothing.n_associated) == (0, 0) and np.isnan([nothing.share, nothing.median_auroc]).all()


def test_permuted_labels_are_the_null_of_features_without_association():
    settings = AnnotateSettings()
    shares, aurocs = [], []
    for seed in range(25):
        scores, obs = scores_of(0.0, seed)
        own = associated(cell_labels(0, scores, obs, ["type"], 10), 0.05)
        null = associated(permuted_labels(0, scores, obs, ["type"], settings), 0.05)
        shares.append([own.n_associated > 0, null.n_associated > 0])
        aurocs.append([own.median_auroc, null.median_auroc])
    assert max(np.mean(shares, axis=0)) <= 0.2  # Benjamini-Hochberg at 0.05, 25 layers
    means = np.mean(aurocs, axis=0)
    assert means[0] == pytest.approx(means[1], abs=0.005) and means[1] > 0.52


def test_rows_and_their_sum_over_layers():
    scores, obs = scores_of(1.0)
    labels = cell_labels(2, scores, obs, ["type"], 10)
    null = permuted_labels(2, scores, obs, ["type"], AnnotateSettings())
    features = pd.DataFrame({"firing_rate": [0.5, 0.25, 0.0], "label": ["x", "x", ""]})
    summary = {"n_features": 3, "n_with_gene_list": 4, "n_annotated": 1, "false_annotated_share": 0.01}
    rows = [baseline_row(layer, "pca", summary, features, labels, null, 0.05) for layer in (2, 3)]
    empty = summary | {"n_with_gene_list": 0, "n_annotated": 0}
    rows += [baseline_row(2, "neurons", empty, features, labels[:0], null[:0], 0.05)]
    table = make_table("baselines", pd.DataFrame(rows))
    assert table["n_labels"].tolist() == [1, 1, 1] and table["l0"].tolist() == [0.75] * 3
    assert table["null_associated_share"][0] < table["associated_share"][0] and table["null_auroc"][0] < 0.6
    found = over_layers(table)
    assert list(found.index) == ["pca", "neurons"]
    row = found.loc["pca"]
    assert (row["n_features"], row["n_annotated"], row["annotated_share"]) == (6, 2, 0.25)
    assert row["associated_share"] == pytest.approx(2 * table["n_associated"][0] / (2 * table["n_tested"][0]))
    assert np.isnan(found.loc["neurons", ["annotated_share", "associated_share"]].to_numpy(dtype=float)).all()


# ------------------------------------------------------------------------------------------------ a sparse truth

N_GENES, N_PROGRAMS, WIDTH = 480, 160, 24
"""More programs than dimensions: no coordinate is one of them."""


def sparse_truth(seed: int = 0):
    """A model whose state at a gene is the sum of the directions of its three programs, its cells and its programs."""
    rng = np.random.default_rng(seed)
    programs = np.stack([rng.choice(N_PROGRAMS, 3, replace=False) for _ in range(N_GENES)])
    directions = rng.standard_normal((N_PROGRAMS, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    means = torch.from_numpy(np.concatenate([np.zeros((4, WIDTH)), directions[programs].sum(axis=1)])).float()

    def embed(tokens: Tokens) -> torch.Tensor:
        ids = torch.from_numpy(tokens.ids.astype(np.int64))
        return means[ids] + 0.1 * torch.randn(
            *ids.shape, WIDTH, generator=torch.Generator().manual_seed(int(ids.sum()))
        )

    cells = Tokens.from_ids([4 + rng.choice(N_GENES, 120, replace=False) for _ in range(120)])
    names = np.array(["", "", "", "", *(f"G{i}" for i in range(N_GENES))])
    object.__setattr__(cells, "gene_ids", names)
    object.__setattr__(cells, "gene_symbols", names)
    true = TopKSAE(WIDTH, N_PROGRAMS, 3)
    weights = {"W_enc": directions.T, "W_dec": directions}
    true.load_state_dict(true.state_dict() | {n: torch.from_numpy(w).float() for n, w in weights.items()})
    genes = [names[4 + np.flatnonzero((programs == p).any(axis=1))] for p in range(N_PROGRAMS)]
    sets = {f"program {p}": frozenset(own) for p, own in enumerate(genes)}
    return fake_model(embed), cells, true.requires_grad_(False), sets


def test_a_dictionary_of_the_sparse_truth_beats_axes():
    model, cells, true, sets = sparse_truth()
    settings = AnnotateSettings(baselines=["pca", "ica", "neurons"], min_firings=5, top_genes=10)
    states = sample_states(model, cells, [0], settings, 32)[0]
    together = SideBySide({"truth": true, **fit_baselines(states, true, settings)[0]})
    sums = together.split(count_firings(model, cells, {0: together}, 32)[0])
    symbols = cells.gene_symbols[background_tokens(cells.count_genes(), settings)]
    annotator = Annotator(symbols, [GeneSets("programs", sets)], [], settings)
    found = {}
    for kind, own in sums.items():
        norms = together.parts[kind].W_dec.norm(dim=1).double().numpy()
        found[kind] = name_features(0, own, cells, norms, annotator, settings)
    shares = {kind: named["summary"]["annotated_share"] for kind, named in found.items()}
    labels = {kind: named["features"]["label"].replace("", None).nunique() for kind, named in found.items()}
    assert shares["truth"] > 0.9 and labels["truth"] > 0.9 * N_PROGRAMS
    for kind in ("pca", "ica", "neurons"):
        assert shares[kind] < shares["truth"] - 0.15 and labels[kind] < labels["truth"] / 2, (kind, shares, labels)
    assert all(named["summary"]["false_annotated_share"] < 0.05 for named in found.values())


# ------------------------------------------------------------------------------------------------ a run


def test_a_run_with_baselines(toy_run, toy_settings):
    before = toy_run.features
    kinds = ["neurons", "ica", "pca"]
    changes = {"baselines": kinds, "baseline_positions": 500, "min_label_cells": 5}
    stage_command(toy_run, "annotate", toy_settings(annotate=changes))
    run = cc.open_run(toy_run.folder)
    table = run.baselines
    assert list(table["kind"]) == ["autoencoder"] * 3 + ["neurons"] * 3 + ["ica"] * 3 + ["pca"] * 3
    pd.testing.assert_frame_equal(run.features, before)  # the autoencoder's features are what they were
    for row in table[table["kind"] != "autoencoder"].to_dict("records"):
        written = pd.read_parquet(run.path("annotate") / row["kind"] / "features.parquet")
        own = written[written["layer"] == row["layer"]]
        assert len(own) == row["n_features"] and (own["label"] != "").sum() == row["n_annotated"]
        assert row["l0"] == pytest.approx(own["firing_rate"].sum())
    assert (table.groupby("kind")["n_tested"].min() > 0).all()
    console = Console(width=160, record=True)
    print_baselines(run, console)
    lines = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in console.export_text().splitlines()]
    shown = {cells[0]: dict(zip(lines[2], cells, strict=True)) for cells in lines if len(cells) == 8}
    assert set(shown) == {"dictionary", "autoencoder", "neurons", "ica", "pca"}
    pca = over_layers(table).loc["pca"]
    assert shown["pca"]["different sets"] == f"{pca['n_labels']:.0f} per layer"
    assert shown["pca"]["with a gene set"] == f"{pca['annotated_share']:.1%} ({pca['null_share']:.1%})"
    assert shown["pca"]["largest AUROC, median"] == f"{pca['median_auroc']:.3f} ({pca['null_auroc']:.3f})"
    record = run.manifest("annotate")["record"]
    assert record["baselines"]["seed"] == 0 and set(record["baselines"]["ica_steps"]) == {"L00", "L01", "L02"}
    assert set(record["pca"]) == {"L00", "L01", "L02"}
    first = {name: file["sha256"] for name, file in run.manifest("annotate")["files"].items()}
    shutil.rmtree(run.path("annotate"))
    stage_command(run, "annotate", toy_settings(annotate=changes))
    again = {name: file["sha256"] for name, file in cc.open_run(run.folder).manifest("annotate")["files"].items()}
    assert again == first


def test_wrong_baselines_are_refused():
    with pytest.raises(SettingsError, match="baselines"):
        settings_from_dict({"annotate": {"baselines": ["umap"]}})
    with pytest.raises(SettingsError, match="baseline_positions"):
        AnnotateSettings(baseline_positions=1)
