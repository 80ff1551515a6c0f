"""Training of autoencoders: constraints, seeds, dead features; quality against plain numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cellcircuits.activations import stream_activations
from cellcircuits.autoencoders import TopKSAE
from cellcircuits.errors import ModelError
from cellcircuits.fit import fit_saes, split_cells
from cellcircuits.learners import Learner, make_learner
from cellcircuits.models.toy import ToyModel
from cellcircuits.quality import measure_quality
from cellcircuits.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = TrainSettings(
    expansion=2, k=8, epochs=3, batch_positions=64, buffer_positions=256, model_batch=8, dead_after_positions=200
)


def activations(model, tokens, layer: int) -> np.ndarray:
    """Every gene position of every cell, by one cell at a time; float64 (position, d_model)."""
    rows = []
    for cell in range(len(tokens)):
        single = tokens.take([cell])
        states = dict(model.run_layers(model.embed(single), single, 0, layer + 1))
        rows += [states[layer][0, p].double().numpy() for p in np.flatnonzero(single.gene_mask[0])]
    return np.array(rows)


def same_bits(first: dict[int, TopKSAE], second: dict[int, TopKSAE]) -> bool:
    return all(
        torch.equal(value, second[layer].state_dict()[name])
        for layer, sae in first.items()
        for name, value in sae.state_dict().items()
    )


def test_streamed_activations_are_those_of_single_cells(model, tokens):
    for layer in (0, 2):
        batches = [b.layers[layer].double().numpy() for b in stream_activations(model, tokens, [0, 2], 7)]
        np.testing.assert_allclose(np.concatenate(batches), activations(model, tokens, layer), atol=1e-6)


def test_streamed_genes_and_cells(model, tokens):
    order = np.array([5, 0, 17])
    (batch,) = stream_activations(model, tokens, [1], 8, order)
    expected = [(tokens.ids[c, p], c) for c in order for p in np.flatnonzero(tokens.gene_mask[c])]
    assert list(zip(batch.token_ids, batch.cells, strict=True)) == expected


def test_decoder_rows_have_unit_norm(model, tokens):
    for sae in fit_saes(model, tokens, [0, 2], QUICK).values():
        np.testing.assert_allclose(sae.W_dec.norm(dim=1), 1, atol=1e-5)
        assert not any(p.requires_grad for p in sae.parameters())
        assert torch.equal(sae.b_in, sae.b_dec)


def test_the_same_seed_gives_the_same_bits(model, tokens):
    first = fit_saes(model, tokens, [1, 2], QUICK)
    assert same_bits(first, fit_saes(model, tokens, [1, 2], QUICK))
    other = TrainSettings(**vars(QUICK) | {"seed": 1})
    assert not same_bits(first, fit_saes(model, tokens, [1, 2], other))


def test_training_lowers_the_error(model, tokens):
    few, many = (TrainSettings(**vars(QUICK) | {"epochs": epochs}) for epochs in (1, 8))
    explained = [
        measure_quality(model, tokens, fit_saes(model, tokens, [2], settings), 8)[2].variance_explained
        for settings in (few, many)
    ]
    assert explained[1] > explained[0] and explained[1] > 0.8


def test_reported_work_adds_up_to_one(model, tokens):
    shares = []
    fit_saes(model, tokens, [0], QUICK, shares.append)
    assert sum(shares) == pytest.approx(1)


def test_repeats_learn_from_the_same_activations_in_new_orders(model, tokens, monkeypatch):
    """With one pass over the model: every activation once per repeat, and never twice in the same order."""
    seen, passes = [], []
    run_layers = type(model).run_layers
    monkeypatch.setattr("cellcircuits.learners.TopKLearner.step", lambda self, hidden, share: seen.append(hidden))
    counting = lambda *arguments: passes.append(1) or run_layers(*arguments)  # noqa: E731
    monkeypatch.setattr(type(model), "run_layers", counting)
    changes = {"epochs": 1, "repeats": 3, "buffer_positions": 10_000}
    shares = []
    fit_saes(model, tokens, [0], TrainSettings(**vars(QUICK) | changes), shares.append)
    learned = torch.cat(seen).split(tokens.n_positions)
    assert len(learned) == 3 and sum(shares) == pytest.approx(1)
    assert len(passes) == -(-len(tokens) // QUICK.model_batch)
    for first, second in ((0, 1), (1, 2)):
        assert not torch.equal(learned[first], learned[second])
        assert torch.equal(learned[first].sort(dim=0).values, learned[second].sort(dim=0).values)


@pytest.mark.parametrize("batch_positions", [64, 127, 10_000])
def test_no_batch_is_much_smaller_than_another(model, tokens, monkeypatch, batch_positions):
    sizes = []
    monkeypatch.setattr("cellcircuits.learners.TopKLearner.step", lambda self, hidden, share: sizes.append(len(hidden)))
    changes = {"epochs": 1, "batch_positions": batch_positions, "buffer_positions": 10_000}
    fit_saes(model, tokens, [0], TrainSettings(**vars(QUICK) | changes))
    assert sum(sizes) == tokens.n_positions
    assert max(sizes) <= batch_positions and max(sizes) - min(sizes) <= 1


def test_a_left_over_position_does_not_spoil_the_weights(model, tokens):
    """One position alone has no variance; a loss relative to it would be infinite."""
    changes = {"epochs": 1, "batch_positions": tokens.n_positions - 1, "buffer_positions": 10_000}
    (sae,) = fit_saes(model, tokens, [0], TrainSettings(**vars(QUICK) | changes)).values()
    assert all(torch.isfinite(value).all() for value in sae.state_dict().values())


def test_quality_equals_plain_numbers(model, tokens):
    """Variance explained in closed form: 1 - sum |h - h'|^2 / sum |h - mean|^2."""
    saes = fit_saes(model, tokens, [0, 1], TrainSettings(**vars(QUICK) | {"epochs": 1, "k": 3, "expansion": 4}))
    found = measure_quality(model, tokens, saes, batch_cells=7)
    for layer, sae in saes.items():
        hidden = activations(model, tokens, layer)
        error = spread = active = 0.0
        fired, mean = set(), hidden.mean(axis=0)
        for h in hidden:
            code = sae.encode(torch.from_numpy(h).float())
            decoded = sae.decode(code).double().numpy()
            error += float(((h - decoded) ** 2).sum())
            spread += float(((h - mean) ** 2).sum())
            on = [int(f) for f, v in zip(code.indices, code.values, strict=True) if v > 0]
            active += len(on)
            fired |= set(on)
        assert found[layer].variance_explained == pytest.approx(1 - error / spread, abs=1e-5)
        assert found[layer].l0 == pytest.approx(active / len(hidden))
        assert found[layer].dead_share == pytest.approx(1 - len(fired) / sae.n_features)
        assert found[layer].n_positions == len(hidden)


def test_an_autoencoder_that_gives_the_mean_explains_nothing(model, tokens):
    sae = TopKSAE(model.d_model, 20, 4).requires_grad_(False)
    sae.b_dec.copy_(torch.from_numpy(activations(model, tokens, 1).mean(axis=0)))
    quality = measure_quality(model, tokens, {1: sae}, 16)[1]
    assert quality.variance_explained == pytest.approx(0, abs=1e-6)
    assert (quality.l0, quality.dead_share) == (0, 1)


def test_exact_autoencoders_explain_their_own_features(model, tokens):
    sae = TopKSAE(model.d_model, model.d_model, model.d_model).requires_grad_(False)
    sae.W_enc.copy_(torch.eye(model.d_model))
    sae.W_dec.copy_(torch.eye(model.d_model))
    positive = ToyModel(edges=()).eval()
    assert measure_quality(positive, tokens, {0: sae}, 16)[0].variance_explained == pytest.approx(1)


def begun(settings: TrainSettings, hidden: torch.Tensor) -> Learner:
    """An autoencoder in training, with its first weights."""
    learner = make_learner(hidden.shape[1], settings, torch.device("cpu"))
    directions = torch.randn(len(learner.silent_for), hidden.shape[1], generator=torch.Generator().manual_seed(0))
    learner.begin(hidden, directions / directions.norm(dim=1, keepdim=True))
    return learner


def dead_layer(settings: TrainSettings, hidden: torch.Tensor) -> Learner:
    """An autoencoder whose features 4 to 7 never win, on data with more directions than the others have."""
    state = begun(settings, hidden)
    with torch.no_grad():
        state.module.b_enc[4:] = -5
    return state


@pytest.mark.parametrize(("auxiliary_weight", "revived"), [(0.0, False), (0.5, True)])
def test_the_auxiliary_loss_revives_dead_features(auxiliary_weight, revived):
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    chosen = rng.integers(8, size=512)
    signed = np.concatenate([directions, -directions])[chosen] * rng.uniform(1, 3, size=(512, 1))
    hidden = torch.from_numpy(signed).float()
    settings = TrainSettings(
        expansion=2, k=1, learning_rate=0.02, auxiliary_weight=auxiliary_weight, dead_after_positions=600
    )
    state = dead_layer(settings, hidden)
    fired_before = (state.module.encode(hidden).dense(8) > 0).any(dim=0)
    assert not fired_before[4:].any()
    for _ in range(300):
        state.step(hidden, 0.0)
    fired = (state.module.encode(hidden).dense(8) > 0).any(dim=0)
    assert bool(fired[4:].any()) is revived


def test_silent_positions_are_counted():
    hidden = torch.ones(10, 4)
    state = begun(TrainSettings(expansion=2, k=1, learning_rate=0.0), hidden)
    with torch.no_grad():
        state.module.b_enc[:] = -5
        state.module.b_enc[3] = 5
    for _ in range(2):
        state.step(hidden, 0.0)
    assert state.silent_for.tolist() == [20, 20, 20, 0, 20, 20, 20, 20]


@pytest.mark.parametrize(("n_cells", "held_out", "expected"), [(100, 0.15, 15), (2, 0.01, 1), (2, 0.9, 1), (7, 0.5, 4)])
def test_cells_are_split_without_overlap(n_cells, held_out, expected):
    fitted, kept = split_cells(n_cells, held_out, seed=3)
    assert len(kept) == expected
    assert sorted([*fitted, *kept]) == list(range(n_cells))
    assert list(fitted) == sorted(fitted) and list(kept) == sorted(kept)


def test_the_split_depends_on_the_seed_alone():
    assert all(np.array_equal(a, b) for a, b in zip(split_cells(50, 0.2, 1), split_cells(50, 0.2, 1), strict=True))
    assert not np.array_equal(split_cells(50, 0.2, 1)[1], split_cells(50, 0.2, 2)[1])


def test_more_active_features_than_there_are(model, tokens):
    with pytest.raises(ModelError, match="needs 1 <= k <= features; found k = 40, features = 36"):
        fit_saes(model, tokens, [0], TrainSettings(**vars(QUICK) | {"k": 40}))
