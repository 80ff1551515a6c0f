"""What is planted is what the model computes: shown by interventions that do not use the tracing engine."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import hadamard

import cellcircuits as cc
from cellcircuits.models.planted import KINDS, READING_FLOOR, Planted, planted
from cellcircuits.models.planted_draft import (
    BITS_PER_BLOCK,
    DEAD_ZONE,
    N_CONTEXT,
    N_FEATURES,
    N_LAYERS,
    N_RARE,
    N_RECEIVERS,
    N_REGULAR,
    N_SENDERS,
    N_SPECIAL,
    N_STATE,
    RELAY_GAIN,
    STATE_ACTIVATION,
)
from cellcircuits.tokens import Tokens

pytestmark = pytest.mark.usefixtures("one_thread")

CIRCUITS = ("direct", "chain", "attention", "gated", "saturated", "passthrough", "opposed", "competition", "mixed")
NULLS = ("null_exact", "null_rounding", "null_rescaled", "null_random", "null_rectified")
CEILING = 0.8


@cache
def small(kind: str, seed: int = 0, **changes) -> Planted:
    return planted(kind, seed, n_cells=12, **changes)


def balanced(made: Planted, states: int = 2**N_STATE - 1) -> Tokens:
    """The longest cell 16 times, over which coins and products of two coins have mean 0; with these states on."""
    cell = made.cells.take([int(np.argmax(made.cells.lengths))] * 16)
    coins = hadamard(16)[:, 1 : N_CONTEXT + 1] > 0
    values = cell.values.copy()
    values[:, 0] = coins @ 2 ** np.arange(N_CONTEXT) + states * 2**N_CONTEXT
    return Tokens(cell.ids, cell.gene_mask, values, cell.pad_id)


def pre_activations(made: Planted, cells: Tokens, source: tuple[int, int] | None = None) -> dict[int, np.ndarray]:
    """{layer: (cell, position, target)} of layers 1 and 2, with the direction of one feature taken out at all genes."""
    model, found = made.model, {}
    hidden = model.embed(cells)
    for layer in range(N_LAYERS):
        ((_, hidden),) = model.run_layers(hidden, cells, layer, layer + 1)
        if source is not None and source[0] == layer:
            direction = made.saes[layer].W_dec[source[1]]
            content = (hidden @ direction) * torch.from_numpy(cells.gene_mask)
            hidden = hidden - content[..., None] * direction
        if layer > 0:
            found[layer] = made.saes[layer].pre_activations(hidden).numpy()
    return found


def changes(made: Planted, cells: Tokens, source: tuple[int, int]) -> dict[int, np.ndarray]:
    """{layer: (cell, position, target)}: what taking out a feature does."""
    clean, without = pre_activations(made, cells), pre_activations(made, cells, source)
    return {layer: without[layer] - clean[layer] for layer in clean if layer > source[0]}


def layer_0_activations(made: Planted, cells: Tokens) -> np.ndarray:
    """(cell, position, feature), from the embedding table and the state alone."""
    drive = (made.model.scaled @ made.saes[0].W_dec.T).numpy()
    drive = np.where(drive > 0.01, drive, 0)  # less is rounding
    active = drive[cells.ids] * cells.values[..., None]
    bits = cells.values[:, :1].astype(np.int64) >> (N_CONTEXT + np.arange(N_STATE)) & 1
    active[..., N_REGULAR + N_RARE :] = STATE_ACTIVATION * bits[:, None]
    return active * cells.gene_mask[..., None]


def activations(made: Planted, cells: Tokens, source: tuple[int, int]) -> np.ndarray:
    """(cell, position) of one feature of layer 0 or 1."""
    if source[0] == 0:
        return layer_0_activations(made, cells)[..., source[1]]
    return (pre_activations(made, cells)[1][..., source[1]] + READING_FLOOR) * cells.gene_mask


def senders(cells: Tokens) -> np.ndarray:
    """bool (cell, position), from the numbers of the genes; rare genes, the last ones, are senders too."""
    number = cells.ids - N_SPECIAL
    return cells.gene_mask & ((number < N_SENDERS) | (number >= N_SENDERS + N_RECEIVERS))


def expected_change(made: Planted, cells: Tokens, row) -> np.ndarray:
    """(cell, position): what taking out the source must do to the target's pre-activation, averaged over coins."""
    source = activations(made, cells, (row.source_layer, row.source_feature))
    truth = made.truth
    same = truth[(truth.target_layer == row.target_layer) & (truth.target_feature == row.target_feature)]
    if row.kind == "attention":
        sending = senders(cells)
        mean = (source * sending).sum(1, keepdims=True) / sending.sum(1, keepdims=True)
        return -row.strength * np.maximum(mean - DEAD_ZONE / RELAY_GAIN, 0) * (cells.gene_mask & ~sending)
    if row.kind in ("gated", "gate"):
        other = same[same.kind == ("gate" if row.kind == "gated" else "gated")].iloc[0]
        return -row.strength * np.maximum(source + activations(made, cells, (0, other.source_feature)) - 2, 0)
    if row.kind == "saturated":
        (partner,) = set(same[same.kind == "saturated"].source_feature) - {row.source_feature}
        other = activations(made, cells, (0, partner))
        driving = (np.clip(both - DEAD_ZONE, 0, CEILING) for both in (source + other, other))
        return -row.strength * np.subtract(*driving)
    return -row.strength * np.maximum(source - DEAD_ZONE, 0) - row.projection * source


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_passes_the_check_of_adapters(kind):
    made = small(kind)
    assert made.cells.has_padding
    assert max(cc.check_model(made.model, made.cells).values()) < 1e-4


def test_every_kind_is_tested():
    assert set(KINDS) == {*CIRCUITS, *NULLS}


@pytest.mark.parametrize(("norm", "tolerance"), [("none", 2e-5), ("layer", 1e-2)])
@pytest.mark.parametrize("kind", [*CIRCUITS, "null_random"])
def test_taking_out_a_source_does_what_the_truth_says_and_nothing_else(kind, norm, tolerance):
    """Every target at every position, also those that the truth does not name; mean over balanced coins."""
    made = small(kind, seed=3, norm=norm)
    cells = balanced(made)
    truth = made.truth
    sources = sorted(set(zip(truth.source_layer, truth.source_feature, strict=True))) or [(0, 0), (0, 5), (0, 20)]
    largest = 0.0
    for source in sources:
        expected = {layer: np.zeros((*cells.ids.shape, N_FEATURES)) for layer in (1, 2) if layer > source[0]}
        for row in truth[(truth.source_layer == source[0]) & (truth.source_feature == source[1])].itertuples():
            expected[row.target_layer][..., row.target_feature] += expected_change(made, cells, row)
        for layer, found in changes(made, cells, source).items():
            np.testing.assert_allclose(found.mean(0), expected[layer].mean(0), atol=tolerance, err_msg=str(source))
            largest = max(largest, np.abs(expected[layer]).max())
    assert largest > 0.1 or not len(truth)


def test_without_its_gate_a_source_does_nothing():
    made = small("gated", norm="none")
    cells = balanced(made, states=0)
    for row in made.truth[made.truth.kind == "gated"].itertuples():
        found = changes(made, cells, (0, row.source_feature))[row.target_layer][..., row.target_feature]
        np.testing.assert_allclose(found.mean(0), 0, atol=2e-5)


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_effects_spread_over_cells_as_asked_for(strength):
    """|mean| / sd over the states of the context, at positions of the source."""
    made = planted("direct", 2, n_cells=12, strength=strength, norm="none")
    cells = balanced(made)
    ratios = []
    for row in made.truth[made.truth.is_edge & (made.truth.target_layer == 1)].itertuples():
        found = changes(made, cells, (0, row.source_feature))[1][..., row.target_feature]
        at = np.abs(found).max(0) > 0.01
        assert at.any()
        ratios.append(np.abs(found[:, at].mean(0)) / found[:, at].std(0))
    ratios = np.concatenate(ratios)
    assert ratios.min() > 0.49 * strength and ratios.max() < 1.51 * strength


def test_an_unplanted_pair_responds_with_a_sign_that_is_a_toss_of_coins():
    made = small("null_random", norm="none")
    cells = balanced(made)
    found = changes(made, cells, (0, 3))[1]
    at = layer_0_activations(made, cells)[0, :, 3] > 0
    assert at.any() and not at.all()
    assert np.abs(found[:, ~at]).max() < 1e-5
    assert (np.abs(found[:, at]).mean((0, 1)) > 0.02).all()
    assert np.abs(found[:, at].mean(0)).max() < 1e-5


def test_what_is_off_cannot_fall():
    """The rectified null: the mean of the pre-activation stays, that of the activation does not."""
    made = small("null_rectified")
    cells = balanced(made)
    clean, without = pre_activations(made, cells), pre_activations(made, cells, (0, 3))
    before, after = clean[1] - without[1], np.maximum(clean[1], 0) - np.maximum(without[1], 0)
    assert np.abs(before.mean(0)).max() < 1e-5 < 0.01 < after.mean(0).max()


@pytest.mark.parametrize("kind", ["direct", "gated", "competition"])
def test_autoencoders_read_what_was_planted(kind):
    made = small(kind, norm="none")
    hidden = list(made.model.run_layers(made.model.embed(made.cells), made.cells, 0, N_LAYERS))
    code = made.saes[0].encode(hidden[0][1]).dense(N_FEATURES).numpy()
    planted_values = layer_0_activations(made, made.cells)
    genes = made.cells.gene_mask
    np.testing.assert_allclose(code[genes], planted_values[genes], atol=1.1e-3)
    assert np.array_equal(code[genes] > 0, planted_values[genes] > 0.01)
    for layer in (1, 2):
        code = made.saes[layer].encode(hidden[layer][1]).dense(N_FEATURES)
        assert int((code > 0).sum(-1).max()) == KINDS[kind].k
        # what is read is in the direction that is taken out
        left = made.saes[layer].pre_activations(
            hidden[layer][1] - made.saes[layer].decode(made.saes[layer].encode(hidden[layer][1]))
        )
        assert float(left[code > 0].abs().max()) < 2.1e-3


@pytest.mark.parametrize("kind", [*CIRCUITS, *NULLS])
@pytest.mark.parametrize("overlap", [0.0, 0.05])
def test_projections_are_the_overlap_of_decoder_and_encoder(kind, overlap):
    made = small(kind, overlap=overlap)
    for layer in (1, 2):
        expected = np.zeros((N_FEATURES, N_FEATURES))
        rows = made.truth[(made.truth.source_layer == 0) & (made.truth.target_layer == layer)]
        expected[rows.source_feature, rows.target_feature] = rows.projection
        found = (made.saes[0].W_dec @ made.saes[layer].W_enc).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)
        if overlap:
            assert 0.8 * overlap < np.abs(found).mean() < 2 * overlap


def test_the_rival_changes_only_in_the_code():
    """It is not driven, but it comes in when the target leaves the k largest."""
    made = small("competition", norm="none")
    cells = balanced(made)
    (edge, rival) = (
        made.truth[(made.truth.kind == kind) & (made.truth.target_layer == 1)].iloc[0] for kind in ("direct", "rival")
    )
    code = {}
    for name, source in (("clean", None), ("without", (0, edge.source_feature))):
        pre = torch.from_numpy(pre_activations(made, cells, source)[1])
        values, indices = pre.topk(made.saes[1].k, dim=-1)
        code[name] = torch.zeros_like(pre).scatter_(-1, indices, values.relu()).numpy()
    at = activations(made, cells, (0, edge.source_feature)) > 0
    change = (code["without"] - code["clean"])[at].mean(0)
    assert np.sign(change[edge.target_feature]) == -edge.sign
    assert np.sign(change[rival.target_feature]) == edge.sign and abs(change[rival.target_feature]) > 0.3


def test_same_seed_same_bytes():
    first, again, other = (planted("mixed", seed, n_cells=5) for seed in (4, 4, 5))
    assert first.model.fingerprint() == again.model.fingerprint() != other.model.fingerprint()
    assert first.cells.fingerprint() == again.cells.fingerprint() != other.cells.fingerprint()
    pd.testing.assert_frame_equal(first.truth, again.truth)
    for layer, sae in first.saes.items():
        assert all(torch.equal(a, b) for a, b in zip(sae.parameters(), again.saes[layer].parameters(), strict=True))
    more = planted("mixed", 4, n_cells=9)
    assert more.model.fingerprint() == first.model.fingerprint()
    assert more.cells.take(range(5)).ids.shape[0] == 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_names_every_pair_once_and_with_a_sign(kind):
    truth = small(kind).truth
    assert not truth.duplicated(["source_layer", "source_feature", "target_layer", "target_feature", "readout"]).any()
    assert (truth.source_layer < truth.target_layer).all()
    assert set(truth.sign[truth.is_edge]) <= {-1, 1}
    assert (truth.is_edge == (truth.strength != 0)).all()
    assert truth.is_edge.any() == (kind in CIRCUITS and kind != "passthrough")
    if kind in ("direct", "chain", "mixed"):
        assert set(truth.sign[truth.is_edge]) == {-1, 1}
    if kind in ("direct", "attention", "mixed"):
        assert (truth.kind == "cofiring").any()


def test_cofiring_features_fire_together():
    made = planted("direct", n_cells=60)
    active = layer_0_activations(made, made.cells)[made.cells.gene_mask] > 0
    truth = made.truth
    for row in truth[truth.kind == "cofiring"].itertuples():
        same = (truth.target_layer == row.target_layer) & (truth.target_feature == row.target_feature)
        (source,) = truth[same & truth.is_edge].source_feature
        both = (active[:, source] & active[:, row.source_feature]).sum()
        assert both / active[:, source].sum() > 0.6 > 0.4 > active[:, source].mean()


def test_the_engine_finds_direct_edges_of_the_planted_size():
    made = planted("direct", 1, n_cells=60, strength=4.0)
    moments = cc.trace(made.model, made.cells, made.saes, 0, range(N_FEATURES), batch_size=N_FEATURES)
    keys = ["source_layer", "source_feature", "target_layer", "target_feature"]
    edges = cc.edges(moments).merge(made.truth, on=keys, how="outer", indicator=True)
    true = edges[edges.is_edge.eq(True)]
    assert (true._merge == "both").all() and (np.sign(true.mean_delta) == -true.sign).all()
    assert not (edges._merge == "left_only").any()
    active = layer_0_activations(made, made.cells)
    for row in true.itertuples():
        values = active[..., row.source_feature]
        counts = (values > 0).sum(1)
        mean = (np.maximum(values - DEAD_ZONE, 0).sum(1)[counts > 0] / counts[counts > 0]).mean()
        assert row.mean_delta == pytest.approx(-row.strength * mean, rel=0.35)


def test_opposed_edges_seem_to_have_the_other_sign():
    made = planted("opposed", 1, n_cells=60, strength=4.0)
    moments = cc.trace(made.model, made.cells, made.saes, 0, range(N_FEATURES), batch_size=N_FEATURES)
    keys = ["source_layer", "source_feature", "target_layer", "target_feature"]
    edges = made.truth[made.truth.is_edge]
    found = cc.edges(moments).merge(edges, on=keys)
    assert len(found) == len(edges) == 10
    assert (np.sign(found.mean_delta) == found.sign).all()


def test_the_exact_null_is_exact():
    made = small("null_exact")
    moments = cc.trace(made.model, made.cells, made.saes, 0, range(N_FEATURES))
    assert moments.cells().max() == 12
    for layer in (1, 2):
        assert np.abs(moments.statistic(layer, "sum_delta")).max() == 0
        assert moments.statistic(layer, "n_positive").max() == moments.statistic(layer, "n_negative").max() == 0
        assert moments.statistic(layer, "sum_clean").max() > 1


def test_layernorm_alone_moves_every_target_a_little_and_upward():
    made = small("null_rescaled")
    moments = cc.trace(made.model, made.cells, made.saes, 0, range(N_REGULAR))
    for layer in (1, 2):
        relative = moments.mean(layer) / moments.mean_clean(layer)
        # some are too small to be told from rounding, and count as none
        assert (0 <= relative).all() and (relative > 0).mean() > 0.5 and relative.max() < 1e-3


@pytest.mark.parametrize("kind", ["direct", "attention"])
def test_frozen_context_runs_and_is_exact_one_layer_up(kind):
    made = small(kind)
    exact, frozen = (
        cc.trace(made.model, made.cells, made.saes, 0, range(N_FEATURES), context=context)
        for context in ("exact", "frozen")
    )
    np.testing.assert_allclose(exact.sums[1][0], frozen.sums[1][0], atol=1e-3)
    np.testing.assert_allclose(exact.sums[2][0], frozen.sums[2][0], atol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "nonsense"}, "There is no kind 'nonsense' of planted model; possible are direct, chain"),
        ({"strength": 0.0}, "needs n_cells >= 1, strength > 0"),
        ({"n_cells": 0}, "needs n_cells >= 1"),
        ({"d_model": 64}, "needs a width of at least 106, divisible by 4; d_model = 64"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(cc.CellCircuitsError, match=message):
        planted(**arguments)


def test_cells_come_with_the_model(toy_cells):
    made = small("direct")
    with pytest.raises(cc.CellCircuitsError, match=r"use `planted\(...\).cells`"):
        made.model.tokenize(toy_cells)
    with pytest.raises(cc.CellCircuitsError, match="needs a value for every token"):
        made.model.embed(Tokens.from_ids([[1, 5, 6]], special_ids=[0, 1]))


def test_a_coin_serves_one_block_only():
    """Else chains of unplanted pairs would have a mean."""
    made = small("null_random", norm="none")
    context = made.model.state_on[:N_CONTEXT]
    reads = [made.model.blocks[layer].linear1.weight @ context.T for layer in (1, 2)]
    used = [set(np.flatnonzero((read.abs() > 0.1).any(0).numpy()).tolist()) for read in reads]
    assert used == [set(range(BITS_PER_BLOCK)), set(range(BITS_PER_BLOCK, N_CONTEXT))]
