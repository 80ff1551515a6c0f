"""Every number of the table `quality` against a slow, obvious version, and where its value is known."""

from __future__ import annotations

from functools import partial
from itertools import permutations
from math import nan

import numpy as np
import pytest
import torch

import cellcircuits as cc
from cellcircuits.autoencoders import JumpReLUSAE, TopKSAE
from cellcircuits.errors import SettingsError
from cellcircuits.masking import draw_masks
from cellcircuits.models.toy import ToyModel
from cellcircuits.pipeline import run_stage
from cellcircuits.progress import Progress
from cellcircuits.quality import (
    PositionSums,
    matched_share,
    measure_quality,
    pca_variance_explained,
    stability,
)
from cellcircuits.run import create_run
from cellcircuits.settings import CellsSettings
from cellcircuits.splicing import final_state_recovered, loss_recovered
from cellcircuits.summary import summarise

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model() -> ToyModel:
    return ToyModel().eval().requires_grad_(False)


@pytest.fixture
def tokens(model, toy_cells):
    return model.tokenize(toy_cells, CellsSettings()).take(np.arange(12))


def random_sae(width: int, n_features: int = 24, seed: int = 0) -> JumpReLUSAE:
    sae = JumpReLUSAE(width, n_features).requires_grad_(False)
    rng = np.random.default_rng(seed)
    for name, value in sae.state_dict().items():
        value.copy_(torch.from_numpy(rng.normal(size=value.shape)))
        if name == "threshold":
            value.abs_()
    return sae


def states(model, tokens, cell: int) -> dict[int, torch.Tensor]:
    """{layer: (position, d_model)} of one cell."""
    one = tokens.take([cell])
    return {layer: h[0].clone() for layer, h in model.run_layers(model.embed(one), one, 0, model.n_layers)}


def gene_states(model, tokens, layer: int) -> np.ndarray:
    genes = [torch.from_numpy(np.flatnonzero(mask)) for mask in tokens.gene_mask]
    return torch.cat([states(model, tokens, c)[layer][genes[c]] for c in range(len(tokens))]).double().numpy()


# ------------------------------------------------------------------------------------------------ positions


def test_every_number_of_positions_equals_a_plain_one(model, tokens):
    """Loops over positions; two autoencoders of different architectures."""
    top = TopKSAE(model.d_model, 30, 3).requires_grad_(False)
    source = random_sae(model.d_model, 30, seed=3).state_dict()
    top.load_state_dict({name: value for name, value in source.items() if name != "threshold"})
    for sae in (random_sae(model.d_model), top):
        found = measure_quality(model, tokens, {1: sae}, batch_cells=5)[1]
        hidden = gene_states(model, tokens, 1)
        mean, firings, error, spread = hidden.mean(axis=0), np.zeros(sae.n_features), 0.0, 0.0
        for h in hidden:
            code = sae.encode(torch.from_numpy(h).float())
            error += float(((h - sae.decode(code).double().numpy()) ** 2).sum())
            spread += float(((h - mean) ** 2).sum())
            for feature, value in zip(code.indices, code.values, strict=True):
                firings[feature] += float(value > 0)
        density, norms = firings / len(hidden), [float(np.linalg.norm(row)) for row in sae.W_dec.double().numpy()]
        assert found.variance_explained == pytest.approx(1 - error / spread, rel=1e-4)
        assert found.l0 == pytest.approx(firings.sum() / len(hidden))
        assert found.dead_share == pytest.approx(np.mean([f == 0 for f in firings]))
        assert found.density_q05 == pytest.approx(np.percentile(density, 5))
        assert found.density_q25 == pytest.approx(np.percentile(density, 25))
        assert found.density_q50 == pytest.approx(np.median(density))
        assert found.density_q75 == pytest.approx(np.percentile(density, 75))
        assert found.density_q95 == pytest.approx(np.percentile(density, 95))
        assert found.decoder_norm_min == pytest.approx(min(norms))
        assert found.decoder_norm_median == pytest.approx(np.median(norms))
        assert found.decoder_norm_max == pytest.approx(max(norms))
        assert (found.n_positions, found.n_cells_final) == (len(hidden), 0)
        assert np.isnan([found.final_state_recovered, found.stable_share, found.stable_share_random]).all()
        # PCA by its definition: project on the directions of a singular value decomposition
        rows = np.linalg.svd(hidden - mean, full_matrices=False)[2][: round(found.l0)]
        left = hidden - mean - (hidden - mean) @ rows.T @ rows
        expected = 1 - (left**2).sum() / ((hidden - mean) ** 2).sum()
        assert found.pca_variance_explained == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_variance_explained_in_closed_form():
    """h ~ N(0, I) in 4 dimensions; an autoencoder that copies the positive part of one of them.

    Error: 3 dimensions, and half of the fourth; so 1 - 3.5 / 4 = 0.125.
    """
    sae = JumpReLUSAE(4, 1).requires_grad_(False)
    sae.W_enc[2, 0] = sae.W_dec[0, 2] = 1
    sums = PositionSums(sae)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        sums.add(torch.randn(20_000, 4, generator=generator))
    found = sums.quality()
    assert found.variance_explained == pytest.approx(0.125, abs=2e-3)
    assert found.l0 == pytest.approx(0.5, abs=2e-3)
    assert found.pca_variance_explained == 0  # 0.5 active features are rounded to none


def test_the_covariance_survives_a_large_mean():
    """Differences of 1 around 1e4, in float32."""
    rows = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 0.5]) + 1e4
    sums = PositionSums(random_sae(3))
    for part in rows.split(700):
        sums.add(part)
    expected = np.cov(rows.double().numpy().T, bias=True)
    np.testing.assert_allclose(sums.covariance(), expected, atol=2e-3)


def test_pca_of_known_variances():
    values = np.diag([1.0, 5.0, 3.0, 1.0])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    for k, share in enumerate((0.0, 0.5, 0.8, 0.9, 1.0)):
        assert pca_variance_explained(turn @ values @ turn.T, k) == pytest.approx(share)
    assert np.isnan(pca_variance_explained(np.zeros((2, 2)), 1))


# ------------------------------------------------------------------------------------------------ final state


def test_the_final_state_equals_a_loop_over_cells_and_positions(model, tokens):
    saes = {layer: random_sae(model.d_model, seed=layer) for layer in range(model.n_layers)}
    means = {layer: torch.from_numpy(gene_states(model, tokens, layer).mean(axis=0)).float() for layer in saes}
    found = final_state_recovered(model, tokens, saes, means)
    for layer, sae in saes.items():
        lost = {"spliced": 0.0, "mean": 0.0}
        for cell in range(len(tokens)):
            one, clean = tokens.take([cell]), states(model, tokens, cell)
            for name in lost:
                changed = clean[layer].clone()
                for position in np.flatnonzero(one.gene_mask[0]):
                    h = changed[position]
                    changed[position] = sae.decode(sae.encode(h)) if name == "spliced" else means[layer]
                above = model.run_layers(changed[None], one, layer + 1, model.n_layers)
                final = [changed[None], *(state for _, state in above)][-1]
                for position in np.flatnonzero(one.gene_mask[0]):
                    difference = final[0, position] - clean[model.n_layers - 1][position]
                    lost[name] += float(difference.double().square().sum())
        assert found[layer] == pytest.approx(1 - lost["spliced"] / lost["mean"], rel=1e-4)


def test_what_is_recovered_where_it_is_known(model, tokens):
    """All of it with the state itself, none of it with the mean, and what the last layer's error leaves."""
    exact = TopKSAE(model.d_model, 2 * model.d_model, 2 * model.d_model).requires_grad_(False)
    exact.W_enc.copy_(torch.cat([torch.eye(model.d_model), -torch.eye(model.d_model)], dim=1))
    exact.W_dec.copy_(exact.W_enc.T)
    found = measure_quality(model, tokens, {0: exact}, 5, final_cells=6)[0]
    assert found.final_state_recovered == pytest.approx(1, abs=1e-6)
    assert found.n_cells_final == 6
    mean = torch.from_numpy(gene_states(model, tokens, 1).mean(axis=0)).float()
    nothing = JumpReLUSAE(model.d_model, 3).requires_grad_(False)
    nothing.b_dec.copy_(mean)
    assert final_state_recovered(model, tokens, {1: nothing}, {1: mean})[1] == pytest.approx(0, abs=1e-5)
    last = model.n_layers - 1
    every = measure_quality(model, tokens, {last: random_sae(model.d_model)}, 5, final_cells=100)[last]
    # the change of the last block's output is the reconstruction's error itself
    assert every.final_state_recovered == pytest.approx(every.variance_explained, rel=1e-4)
    assert every.n_cells_final == len(tokens)


# ------------------------------------------------------------------------------------------------ loss


def slow_loss(model, cell, at, layer=None, put=None):
    """Mean loss over the masked positions of one cell, with states put into a layer at its gene positions."""
    hidden = model.embed(model.mask(cell, at))
    for number, state in model.run_layers(hidden, model.mask(cell, at), 0, model.n_layers):
        hidden = state
        if number == layer:
            hidden = state.clone()
            for position in np.flatnonzero(cell.gene_mask[0]):
                hidden[0, position] = put(state[0, position])
            rest = [s for _, s in model.run_layers(hidden, model.mask(cell, at), number + 1, model.n_layers)]
            hidden = rest[-1] if rest else hidden
            break
    return float(model.masked_loss(hidden, cell, at)[0])


def reconstructed(sae):
    return lambda state: sae.decode(sae.encode(state))


def constant(mean, _state):
    return mean


def test_the_loss_equals_a_loop_over_cells_and_positions(demo_model, demo_tokens, quick_saes):
    cells, layers = demo_tokens.take([3, 40, 99, 200, 301]), [0, demo_model.n_layers - 1]
    means = {layer: torch.full((demo_model.d_model,), 0.3) for layer in layers}
    saes = {layer: quick_saes[layer] for layer in layers}
    found = loss_recovered(demo_model, cells, saes, means, seed=4)
    masks = draw_masks(cells, 0.15, 4)
    for layer in layers:
        losses = np.zeros(3)
        for row in range(len(cells)):
            cell = cells.take([row])
            at = masks[[row], : cell.ids.shape[1]]
            losses[0] += slow_loss(demo_model, cell, at)
            losses[1] += slow_loss(demo_model, cell, at, layer, reconstructed(saes[layer]))
            losses[2] += slow_loss(demo_model, cell, at, layer, partial(constant, means[layer]))
        expected = 1 - (losses[1] - losses[0]) / (losses[2] - losses[0])
        assert found[layer] == pytest.approx(expected, rel=1e-3)


def test_masks_are_of_genes_alone_and_the_same_again(demo_tokens):
    cells = demo_tokens.take(range(20))
    masks = draw_masks(cells, 0.15, 1)
    assert not (masks & ~cells.gene_mask).any() and (masks == draw_masks(cells, 0.15, 1)).all()
    n = cells.gene_mask.sum(axis=1)
    np.testing.assert_array_equal(masks.sum(axis=1), np.maximum(1, np.round(0.15 * n)))
    first = draw_masks(cells.take(range(5)), 0.15, 1)
    assert (masks[:5, : first.shape[1]] == first).all()


# ------------------------------------------------------------------------------------------------ seeds


def brute_force_share(first: np.ndarray, second: np.ndarray) -> float:
    """The best of all assignments."""
    cosines = first @ second.T / np.outer(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1))
    n = len(first)
    return max(sum(cosines[i, j] > 0.7 for i, j in enumerate(order)) for order in permutations(range(n))) / n


@pytest.mark.parametrize("seed", range(8))
def test_matching_is_the_best_of_all_assignments(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    assert matched_share(first, second) == pytest.approx(brute_force_share(first, second))
    assert 0 < matched_share(first, second)


def test_one_feature_is_matched_once():
    assert matched_share(np.ones((4, 3)), np.array([[1.0, 1, 1], [1, -1, 0]])) == 0.25
    assert matched_share(np.eye(5), np.eye(5)[::-1] * 3) == 1
    assert matched_share(np.eye(5), -np.eye(5)) == 0
    assert matched_share(np.eye(2), np.zeros((3, 2))) == 0


def sums_of(sae, hidden: torch.Tensor) -> PositionSums:
    sums = PositionSums(sae)
    sums.add(hidden)
    return sums


def test_stability_beside_random_directions():
    """Features that fire: 10 of 12; the other seed has 6 of them, in another order."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(400, 30, generator=generator)
    own, other = (JumpReLUSAE(30, 12).requires_grad_(False) for _ in range(2))
    rows = torch.linalg.qr(torch.randn(30, 30, generator=generator))[0]
    own.W_dec.copy_(rows[:12])
    other.W_dec.copy_(torch.cat([rows[20:26], rows[:6].flip(0)]))
    for sae in (own, other):
        sae.W_enc.copy_(sae.W_dec.T)
    own.b_enc[10:] = -100
    found = stability(sums_of(own, hidden), [sums_of(other, hidden)] * 2, seed=0)
    assert found == (pytest.approx(0.6), 0)


def test_random_directions_have_the_covariance_of_the_activations():
    """In two dimensions that hold nearly all variance, random directions often agree with any feature of them."""
    scale = torch.tensor([1.0, 1.0, 1e-3, 1e-3, 1e-3, 1e-3])
    hidden = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * scale
    own = JumpReLUSAE(6, 40).requires_grad_(False)
    angles = torch.linspace(0, 6.2, 40)
    own.W_dec[:, 0], own.W_dec[:, 1] = angles.cos(), angles.sin()
    own.W_enc.copy_(own.W_dec.T)
    sums = sums_of(own, hidden)
    share, by_chance = stability(sums, [sums], seed=0)
    assert share == 1 and by_chance > 0.9
    assert stability(sums, [sums], 0) == stability(sums, [sums], 0) and np.isnan(stability(PositionSums(own), [], 0)[0])


# ------------------------------------------------------------------------------------------------ the stage


TRAIN = {
    "saes": "",
    "expansion": 2,
    "k": 6,
    "epochs": 2,
    "batch_positions": 64,
    "buffer_positions": 256,
    "model_batch": 8,
    "checkpoint_seconds": 0,
}


def trained(folder, toy_settings, **changes) -> cc.OpenRun:
    run = create_run(folder, toy_settings(train=TRAIN | changes))
    for stage in ("cells", "train"):
        run_stage(run, stage, Progress())
    return cc.open_run(folder)


def test_the_table_of_a_run(tmp_path, toy_settings):
    run = trained(tmp_path / "run", toy_settings, n_seeds=2, random_weights=True, quality_cells=3)
    quality = run.quality
    assert list(quality["layer"]) == [0, 1, 2]
    assert not quality.isna().any().any()
    assert (quality["n_cells_final"] == 3).all()
    folder = run.path("train")
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["L00", "L01", "L02", "random_weights", "seed_1"]
    other = cc.load_saes(folder / "seed_1")
    assert list(cc.load_saes(folder)) == list(other) == [0, 1, 2]
    assert not torch.equal(other[1].W_dec, run.saes[1].W_dec)
    assert run.saes[1].info["trained_as"] == "topk"
    assert not run.work_path("train").exists()


def test_the_same_numbers_from_the_parts(tmp_path, toy_settings):
    run = trained(tmp_path / "run", toy_settings, n_seeds=2)
    from cellcircuits.fit import split_cells

    held_out = run.cells.take(split_cells(60, 0.15, 0)[1])
    others = [cc.load_saes(run.path("train") / "seed_1")]
    found = measure_quality(ToyModel().eval(), held_out, run.saes, 8, 16, others)
    for row in run.quality.to_dict("records"):
        for name, value in vars(found[row["layer"]]).items():
            assert row[name] == pytest.approx(value, abs=1e-6)
        assert np.isnan(row["random_weights_variance_explained"])


def test_whole_groups_are_held_out_in_a_run(tmp_path, toy_settings):
    run = trained(tmp_path / "run", toy_settings, held_out_by="cell_type", held_out=0.3)
    assert run.manifest("train")["record"]["held_out_cells"] == 20  # 20 cells "A", 40 cells "B"
    genes = run.cells.gene_mask.sum(axis=1)
    assert (run.quality["n_positions"] == genes[:20].sum()).all()
    with pytest.raises(SettingsError, match=r"train\.held_out_by = 'donor' is no column of obs"):
        trained(tmp_path / "other", toy_settings, held_out_by="donor")


class Killed(BaseException):
    pass


class KilledHalfWay(Progress):
    """Ends the process after some reports of work done."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def task(self, text, total):
        from contextlib import contextmanager

        @contextmanager
        def counted():
            def advance(share):
                self.left -= 1
                if self.left == 0:
                    raise Killed

            yield advance

        return counted()


@pytest.mark.parametrize("after", [8, 40])
def test_a_stage_that_was_killed_goes_on_to_the_same_bytes(tmp_path, toy_settings, after, monkeypatch):
    """Killed in the first training, and in that on random weights when the first is done."""
    whole = trained(tmp_path / "whole", toy_settings, random_weights=True)
    run = create_run(tmp_path / "killed", toy_settings(train=TRAIN | {"random_weights": True}))
    run_stage(run, "cells", Progress())
    with pytest.raises(Killed), run.locked():
        run_stage(run, "train", KilledHalfWay(after))
    kept = sorted(path.name for path in run.work_path("train").iterdir())
    assert kept == (["model.pt"] if after == 8 else ["model.pt", "random_weights.pt"])
    with run.locked():
        run_stage(run, "train", Progress())
    files = {k: v["sha256"] for k, v in whole.manifest("train")["files"].items() if k != "quality.parquet"}
    assert files == {k: v["sha256"] for k, v in run.manifest("train")["files"].items() if k != "quality.parquet"}
    assert cc.open_run(run.folder).quality.equals(whole.quality)
    assert not run.work_path("train").exists()


def test_what_is_left_of_a_finished_training_is_cleared_away(tmp_path, toy_settings):
    run = trained(tmp_path / "run", toy_settings)
    run.work_path("train").mkdir()
    (run.work_path("train") / "model.pt").write_bytes(b"old")
    with run.locked():
        assert not run.work_path("train").exists()


def test_the_summary_shows_each_number_beside_its_baseline(toy_run):
    numbers = summarise(toy_run)["Autoencoders, on held-out cells"]
    assert "; as many principal components: " in numbers["variance explained"]
    assert "features found by another seed" not in numbers
    toy_run.quality["stable_share"], toy_run.quality["stable_share_random"] = 0.5, 0.125
    toy_run.quality["random_weights_l0"] = [2.0, nan, nan]
    numbers = summarise(toy_run)["Autoencoders, on held-out cells"]
    assert numbers["features found by another seed"].startswith("50.0% ")
    assert "; random directions: 12.5%" in numbers["features found by another seed"]
    assert "; random weights: 2.0" in numbers["active features per position"]
