"""The engine against the slow reference, and on a model whose circuit is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cellcircuits as cc
from cellcircuits.ablate import Tracer
from cellcircuits.models.toy import DEFAULT_EDGES, PlantedEdge, ToyModel
from cellcircuits.settings import TraceSettings
from cellcircuits.tracing import trace_cells
from tests.reference import cell_effect


def busiest_features(model, tokens, saes, layer, number):
    cell = tokens.take([0])
    clean = Tracer(model, saes, TraceSettings()).clean_pass(cell, [layer], [layer])
    code = clean.codes[layer].dense(saes[layer].n_features)[torch.from_numpy(cell.gene_mask[0])]
    return np.argsort(-(code > 0).sum(dim=0).numpy())[:number]


def test_engine_equals_nested_loops(demo_model, demo_tokens, quick_saes):
    """Both adapters: sums over cells equal those of one full pass per cell and feature, for every target."""
    cells, target_layers = demo_tokens.take([0, 300, 650]), [2, 3]
    features = busiest_features(demo_model, cells, quick_saes, 1, 4)
    moments = cc.trace(demo_model, cells, quick_saes, 1, features, target_layers, batch_size=3)
    for source, feature in enumerate(features):
        for layer in target_layers:
            found = [cell_effect(demo_model, cells.take([row]), quick_saes, 1, int(feature), layer) for row in range(3)]
            deltas = np.array([pair[0] for pair in found if pair is not None])
            cleans = np.array([pair[1] for pair in found if pair is not None])
            assert moments.cells()[source] == len(deltas)
            scale = cleans.max()
            assert scale > 0.1
            expected = {
                "sum_delta": deltas.sum(0),
                "sum_squared_delta": (deltas**2).sum(0),
                "sum_clean": cleans.sum(0),
            }
            for name, value in expected.items():
                np.testing.assert_allclose(
                    moments.statistic(layer, name)[source], value, atol=2e-4 * scale, err_msg=f"{feature} {name}"
                )
            # signs of deltas that are not rounding noise
            clear = np.abs(deltas) > 1e-4 * scale
            assert clear.any()
            positive = moments.statistic(layer, "n_positive")[source]
            assert (positive >= ((deltas > 0) & clear).sum(0)).all()
            assert (positive <= len(deltas) - ((deltas < 0) & clear).sum(0)).all()


def test_batch_size_changes_nothing(demo_model, demo_tokens, quick_saes):
    cells = demo_tokens.take([5, 6])
    features = busiest_features(demo_model, cells, quick_saes, 0, 7)
    one, many = (cc.trace(demo_model, cells, quick_saes, 0, features, batch_size=size) for size in (1, 16))
    assert np.array_equal(one.n_cells, many.n_cells)
    for layer in one.sums:
        np.testing.assert_allclose(one.sums[layer][0], many.sums[layer][0], atol=1e-5)


def test_order_of_cells_and_layers_traced_together_change_nothing(demo_model, demo_tokens, quick_saes):
    features = busiest_features(demo_model, demo_tokens, quick_saes, 0, 3)
    forward = cc.trace(demo_model, demo_tokens.take([3, 9]), quick_saes, 0, features)
    sources = {0: features, 1: features}
    targets = {0: [1, 2, 3], 1: [2, 3]}
    both = trace_cells(demo_model, demo_tokens.take([9, 3]), quick_saes, sources, targets, TraceSettings())[0]
    for layer in targets[0]:
        np.testing.assert_allclose(forward.sums[layer], both.sums[layer], rtol=1e-9, atol=1e-9)


def test_ablation_with_zero_effect_is_exactly_zero(demo_model, demo_tokens, quick_saes):
    """A decoder row of zeros removes nothing: every delta is 0 to the bit."""
    saes = dict(quick_saes)
    silent = cc.TopKSAE(saes[0].d_model, saes[0].n_features, saes[0].k)
    silent.load_state_dict(saes[0].state_dict() | {"W_dec": torch.zeros_like(saes[0].W_dec)})
    saes[0] = silent.requires_grad_(False)
    features = busiest_features(demo_model, demo_tokens, saes, 0, 5)
    moments = cc.trace(demo_model, demo_tokens.take([0, 1]), saes, 0, features)
    assert moments.cells().min() >= 1
    for layer in moments.sums:
        assert np.abs(moments.statistic(layer, "sum_delta")).max() == 0
        assert moments.statistic(layer, "n_positive").max() == 0
        assert moments.statistic(layer, "sum_clean").max() > 0


def test_special_positions_are_never_ablated(demo_model, demo_tokens, quick_saes):
    cell = demo_tokens.take([0])
    tracer = Tracer(demo_model, quick_saes, TraceSettings())
    clean = tracer.clean_pass(cell, [0], [0, 1])
    specials = np.flatnonzero(~cell.gene_mask[0])
    assert len(specials) >= 1
    active = clean.codes[0].dense(quick_saes[0].n_features)[torch.from_numpy(specials)].numpy() > 0
    features = np.flatnonzero(active.any(axis=0))
    positions_with_gene = clean.codes[0].dense(quick_saes[0].n_features).numpy() > 0
    positions_with_gene[specials] = False
    for effects in tracer.ablate(clean, 0, features, [1]):
        for row in effects.rows:
            assert positions_with_gene[:, features[row]].any()


def planted_closure(edges):
    """Planted edges and the chains that they make: what a total effect must show."""
    pairs = {(e.source_layer, e.source, e.target_layer, e.target) for e in edges}
    while True:
        chained = {(a, b, g, h) for a, b, c, d in pairs for e, f, g, h in pairs if (c, d) == (e, f)} - pairs
        if not chained:
            return pairs
        pairs |= chained


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_edges_and_only_they_are_called(toy_cells, seed):
    rng = np.random.default_rng(seed)
    edges = (
        *DEFAULT_EDGES,
        PlantedEdge(0, 3, 1, 4, float(rng.uniform(0.5, 1))),
        PlantedEdge(1, 5, 2, 5, -float(rng.uniform(0.2, 0.5))),
        PlantedEdge(0, 4, 2, 3, float(rng.uniform(0.5, 1))),
    )
    model = ToyModel(edges, seed=seed)
    cells, saes = model.tokenize(toy_cells), model.saes()
    called = set()
    signs = {}
    for layer in (0, 1):
        table = cc.edges(cc.trace(model, cells, saes, layer, range(6)))
        for row in table.to_dict("records"):
            key = (row["source_layer"], row["source_feature"], row["target_layer"], row["target_feature"])
            called.add(key)
            signs[key] = np.sign(row["mean_delta"])
    assert called == planted_closure(edges)
    for edge in edges:
        # removing a source that drives its target lowers the target
        assert signs[(edge.source_layer, edge.source, edge.target_layer, edge.target)] == -np.sign(edge.strength)


def test_model_without_circuit_has_no_edges(toy_cells):
    model = ToyModel(edges=())
    cells, saes = model.tokenize(toy_cells), model.saes()
    for rule in ("calibrated", "published"):
        assert len(cc.edges(cc.trace(model, cells, saes, 0, range(6)), rule=rule)) == 0


def test_planted_effect_has_the_size_that_was_planted(toy_cells):
    """delta = - strength x mean activation of the source where it is active (the target stays above 0)."""
    model = ToyModel((PlantedEdge(0, 0, 1, 0, 0.8),))
    cells, saes = model.tokenize(toy_cells), model.saes()
    moments = cc.trace(model, cells, saes, 0, [0])
    source = model.drive[torch.from_numpy(cells.ids).long(), model.column(0, 0)].numpy() * cells.gene_mask
    expected = -0.8 * source.sum(1) / np.maximum((source > 0).sum(1), 1)
    active = (source > 0).any(1)
    assert moments.cells()[0] == active.sum()
    np.testing.assert_allclose(moments.statistic(1, "sum_delta")[0, 0], expected[active].sum(), rtol=1e-5)


def test_nan_names_cell_and_layer(toy_cells):
    model = ToyModel()
    model.weights.data[1] = torch.nan
    cells = model.tokenize(toy_cells)
    with pytest.raises(cc.CellCircuitsError, match="layer 1 is NaN or infinite for cell c0"):
        cc.trace(model, cells, model.saes(), 0, [0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source_layer": 7}, "Layer 7 has no autoencoder"),
        ({"target_layers": [0]}, "must lie above source layer 0"),
        ({"features": [6]}, "Features of layer 0 are 0 to 5"),
        ({"source_layer": 2}, "must lie above source layer 2"),
    ],
)
def test_impossible_requests_are_refused(toy_cells, arguments, message):
    model = ToyModel()
    request = {"source_layer": 0, "features": [0]} | arguments
    with pytest.raises(cc.CellCircuitsError, match=message):
        cc.trace(model, model.tokenize(toy_cells), model.saes(), **request)


def frozen_reference(model, cell, saes, source_layer, feature, target_layer):
    """Frozen context by full copies: after each block, positions at which the source is silent are set back."""
    tracer = Tracer(model, saes, TraceSettings(context="frozen"))
    clean = tracer.clean_pass(cell, [source_layer], [target_layer])
    activations = clean.codes[source_layer].dense(saes[source_layer].n_features)[:, feature].clone()
    activations[~torch.from_numpy(cell.gene_mask[0])] = 0
    active = activations > 0
    hidden = clean.states.hidden[source_layer].clone()
    hidden[0] -= activations[:, None] * saes[source_layer].W_dec[feature]
    for layer in range(source_layer + 1, target_layer + 1):
        ((_, output),) = model.run_layers(hidden, cell, layer, layer + 1)
        hidden = clean.states.hidden[layer].clone() if layer in clean.states.hidden else output.clone()
        hidden[0, active] = output[0, active]
    n_targets = saes[target_layer].n_features
    before = clean.codes[target_layer].dense(n_targets)[active]
    return (saes[target_layer].encode(hidden[0, active]).dense(n_targets) - before).mean(dim=0).numpy()


def test_frozen_context_equals_setting_silent_positions_back(demo_model, demo_tokens, quick_saes):
    cells = demo_tokens.take([0, 400])
    features = busiest_features(demo_model, cells, quick_saes, 0, 5)
    moments = cc.trace(demo_model, cells, quick_saes, 0, features, [1, 3], context="frozen", batch_size=2)
    for source, feature in enumerate(features):
        for layer in (1, 3):
            expected = [
                frozen_reference(demo_model, cells.take([row]), quick_saes, 0, int(feature), layer) for row in (0, 1)
            ]
            np.testing.assert_allclose(
                moments.statistic(layer, "sum_delta")[source], np.sum(expected, axis=0), atol=2e-4
            )


def test_frozen_context_is_exact_one_layer_up(demo_model, demo_tokens, quick_saes):
    cells = demo_tokens.take([0, 400])
    features = busiest_features(demo_model, cells, quick_saes, 1, 6)
    exact, frozen = (cc.trace(demo_model, cells, quick_saes, 1, features, [2], context=c) for c in ("exact", "frozen"))
    np.testing.assert_allclose(exact.sums[2][0], frozen.sums[2][0], atol=2e-4)
    assert np.array_equal(exact.n_cells, frozen.n_cells)


def test_frozen_context_is_refused_where_a_model_cannot(toy_cells):
    model = ToyModel()
    with pytest.raises(cc.CellCircuitsError, match="offers no frozen context"):
        cc.trace(model, model.tokenize(toy_cells), model.saes(), 0, [0], context="frozen")
