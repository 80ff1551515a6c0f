"""Architectures in training, several seeds, stopping and going on."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import cellcircuits.saelens_learners as saelens_learners
from cellcircuits.autoencoders import JumpReLUSAE, SparseAutoencoder, TopKSAE
from cellcircuits.errors import RunError, SettingsError
from cellcircuits.fit import fit_saes, fit_seeds, split_groups
from cellcircuits.learners import TopKLearner, make_learner
from cellcircuits.models.toy import ToyModel
from cellcircuits.quality import measure_quality
from cellcircuits.sae import load_sae
from cellcircuits.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = TrainSettings(
    expansion=2,
    k=8,
    epochs=3,
    batch_positions=64,
    buffer_positions=256,
    model_batch=8,
    dead_after_positions=200,
    checkpoint_seconds=0,
)
OF_SAELENS = ("batchtopk", "matryoshka", "jumprelu")
CPU = torch.device("cpu")


@pytest.fixture(params=["topk", *OF_SAELENS])
def architecture(request) -> str:
    """All architectures in turn; those of SAELens where it is installed."""
    if request.param in OF_SAELENS:
        pytest.importorskip("sae_lens", reason="sae-lens is not installed (the extra `train`)")
    return request.param


def bits(saes: dict[int, SparseAutoencoder]) -> dict[tuple[int, str], bytes]:
    return {(layer, name): v.numpy().tobytes() for layer, sae in saes.items() for name, v in sae.state_dict().items()}


class Stop(Exception):
    """The process is killed."""


def stop_after(n_steps: int):
    """A report that stops the training at its n-th call."""
    calls = []

    def report(share: float) -> None:
        calls.append(share)
        if len(calls) == n_steps:
            raise Stop

    return report


# ------------------------------------------------------------------------------------------------ architectures


def test_every_architecture_learns(model, tokens, architecture):
    """Better than its own first epoch, with about k features active, and unit decoder rows."""
    settings = replace(QUICK, architecture=architecture, epochs=25, learning_rate=5e-3)
    (sae,) = fit_saes(model, tokens, [2], settings).values()
    assert isinstance(sae, TopKSAE if architecture == "topk" else JumpReLUSAE)
    few = fit_saes(model, tokens, [2], replace(settings, epochs=1))
    first, last = (measure_quality(model, tokens, saes, 8)[2] for saes in (few, {2: sae}))
    assert last.variance_explained > max(first.variance_explained, 0.8)
    assert 3 <= last.l0 <= 12
    np.testing.assert_allclose(sae.W_dec.norm(dim=1), 1, atol=1e-5)
    assert not any(p.requires_grad for p in sae.parameters())


def test_the_same_seed_gives_the_same_bits(model, tokens, architecture):
    settings = replace(QUICK, architecture=architecture)
    first = bits(fit_saes(model, tokens, [1], settings))
    torch.rand(3)  # SAELens draws from torch's own generator
    assert first == bits(fit_saes(model, tokens, [1], settings))
    assert first != bits(fit_saes(model, tokens, [1], replace(settings, seed=1)))


@pytest.mark.parametrize("architecture", OF_SAELENS, indirect=True)
def test_what_is_used_is_what_saelens_saves(tmp_path, architecture):
    """On scaled input, SAELens' own inference autoencoder gives our code: decoder norms and scale are folded."""
    import sae_lens

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 6, generator=generator) * 3 + 1
    settings = replace(QUICK, architecture=architecture, expansion=4, k=4)
    learner = make_learner(6, settings, CPU)
    directions = torch.nn.functional.normalize(torch.randn(24, 6, generator=generator), dim=1)
    learner.begin(hidden, directions)
    for step in range(30):
        learner.set_learning_rate(1e-2)
        learner.step(hidden, step / 30)
    ours = learner.finished()
    learner.module.save_inference_model(tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    norms = theirs.W_dec.norm(dim=1) if architecture == "jumprelu" else torch.ones(24)
    with torch.no_grad():
        expected = theirs.encode(hidden * learner.scale)
        code = ours.encode(hidden)
        torch.testing.assert_close(code.dense(24), expected * norms / learner.scale, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.decode(code), theirs.decode(expected) / learner.scale, atol=1e-4, rtol=1e-4)
    assert 0 < float((code.values > 0).sum()) / 300 < 24


@pytest.mark.parametrize("architecture", OF_SAELENS, indirect=True)
def test_saelens_reads_what_was_trained(tmp_path, model, tokens, architecture):
    import sae_lens

    (sae,) = fit_saes(model, tokens, [1], replace(QUICK, architecture=architecture)).values()
    sae.save(tmp_path)
    theirs, hidden = sae_lens.SAE.load_from_disk(tmp_path), torch.randn(50, model.d_model)
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(hidden), sae.encode(hidden).dense(sae.n_features), atol=1e-5, rtol=0)
        torch.testing.assert_close(theirs(hidden), sae.decode(sae.encode(hidden)), atol=1e-4, rtol=0)
    assert bits({0: load_sae(tmp_path)}) == bits({0: sae})


def test_dead_features_are_revived(architecture):
    """Features 4 to 7 begin far below their thresholds, on data with more directions than the others have."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    chosen = rng.integers(8, size=512)
    signed = np.concatenate([directions, -directions])[chosen] * rng.uniform(1, 3, size=(512, 1))
    hidden = torch.from_numpy(signed).float()
    settings = TrainSettings(
        architecture=architecture, expansion=2, k=1, learning_rate=0.02, auxiliary_weight=0.5, dead_after_positions=600
    )
    learner = make_learner(4, settings, CPU)
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    learner.begin(hidden, rows / rows.norm(dim=1, keepdim=True))
    with torch.no_grad():
        learner.module.b_enc[4:] = -5
    for _ in range(400):
        learner.step(hidden, 0.5)
    assert (learner.finished().encode(hidden).dense(8) > 0).any(dim=0)[4:].any()


def test_matryoshka_widths():
    assert saelens_learners.matryoshka_widths(384, 4) == [48, 96, 192, 384]
    assert saelens_learners.matryoshka_widths(3, 4) == [1, 3]


@pytest.mark.parametrize("architecture", ["matryoshka"], indirect=True)
def test_the_first_features_of_a_matryoshka_reconstruct_alone(architecture):
    """Half of the features explain more of the activations than half of a BatchTopK's."""
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(2000, 32)) * (rng.random((2000, 32)) < 0.15) * np.geomspace(4, 0.5, 32)
    hidden = torch.from_numpy(codes @ rng.normal(size=(32, 16))).float()
    explained = {}
    for kind in ("batchtopk", "matryoshka"):
        settings = TrainSettings(architecture=kind, expansion=2, k=5, learning_rate=5e-3, matryoshka_levels=2)
        learner = make_learner(16, settings, CPU)
        rows = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
        learner.begin(hidden, rows / rows.norm(dim=1, keepdim=True))
        for step in range(400):
            learner.step(hidden, step / 400)
        sae = learner.finished()
        code = sae.encode(hidden).dense(32)
        code[:, 16:] = 0
        error = (hidden - code @ sae.W_dec - sae.b_dec).square().sum()
        explained[kind] = float(1 - error / (hidden - hidden.mean(0)).square().sum())
    assert explained["matryoshka"] > explained["batchtopk"] + 0.05


def test_without_saelens(monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(SettingsError, match=r'pip install "cellcircuits\[train\]", or set train.architecture = "topk"'):
        make_learner(6, replace(QUICK, architecture="batchtopk"), CPU)


def test_mixed_precision_needs_cuda():
    with pytest.raises(SettingsError, match=r"train.mixed_precision is for CUDA; the model is on the device 'cpu'"):
        make_learner(6, replace(QUICK, mixed_precision=True), CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_mixed_precision_learns_too(architecture):
    hidden = torch.randn(512, 16, generator=torch.Generator().manual_seed(0)).cuda()
    settings = replace(QUICK, architecture=architecture, mixed_precision=True, learning_rate=5e-3)
    learner = make_learner(16, settings, hidden.device)
    learner.begin(hidden, torch.nn.functional.normalize(torch.randn(32, 16).cuda(), dim=1))
    losses = []
    for step in range(200):
        learner.step(hidden, step / 200)
        sae = learner.finished() if architecture != "topk" else learner.module
        with torch.no_grad():
            losses.append(float((hidden - sae.decode(sae.encode(hidden))).square().mean()))
    assert losses[-1] < 0.8 * losses[0] and learner.module.W_dec.dtype == torch.float32


# ------------------------------------------------------------------------------------------------ seeds


def test_the_first_of_several_seeds_is_that_of_one(model, tokens):
    several = fit_seeds(model, tokens, [0, 2], replace(QUICK, n_seeds=3))
    assert len(several) == 3
    assert bits(several[0]) == bits(fit_saes(model, tokens, [0, 2], QUICK))
    assert len({bits(saes)[0, "W_dec"] for saes in several}) == 3


def test_seeds_share_one_pass_over_the_model(model, tokens, monkeypatch):
    passes = []
    run_layers = ToyModel.run_layers
    monkeypatch.setattr(ToyModel, "run_layers", lambda *a, **k: passes.append(1) or run_layers(*a, **k))
    for n_seeds in (1, 3):
        fit_seeds(model, tokens, [0, 2], replace(QUICK, n_seeds=n_seeds))
    assert len(passes) == 2 * 3 * 8  # epochs times batches of 8 of 60 cells


# ------------------------------------------------------------------------------------------------ stopping and going on


def test_few_active_features_are_resumed_too(tmp_path, model, tokens):
    """TopK where only the rows of active features are gathered, and a buffer is learned from twice."""
    settings = replace(QUICK, k=2, repeats=2)
    with pytest.raises(Stop):
        fit_seeds(model, tokens, [0, 2], settings, stop_after(12), tmp_path / "model.pt")
    resumed = fit_seeds(model, tokens, [0, 2], settings, checkpoint=tmp_path / "model.pt")
    assert bits(resumed[0]) == bits(fit_saes(model, tokens, [0, 2], settings))


@pytest.mark.parametrize("n_steps", [1, 5, 12, 17])
def test_a_training_that_was_stopped_gives_the_same_bits(tmp_path, model, tokens, architecture, n_steps):
    settings = replace(QUICK, architecture=architecture, n_seeds=2, dead_after_positions=100)
    whole = fit_seeds(model, tokens, [0, 2], settings)
    path = tmp_path / "work" / "model.pt"
    with pytest.raises(Stop):
        fit_seeds(model, tokens, [0, 2], settings, stop_after(n_steps), path)
    shares: list[float] = []
    resumed = fit_seeds(model, tokens, [0, 2], settings, shares.append, path)
    assert [bits(saes) for saes in resumed] == [bits(saes) for saes in whole]
    assert sum(shares) == pytest.approx(1)


def test_what_was_learned_is_not_learned_again(tmp_path, model, tokens, monkeypatch):
    path = tmp_path / "model.pt"
    with pytest.raises(Stop):
        fit_seeds(model, tokens, [0], QUICK, stop_after(12), path)
    steps = []
    step = TopKLearner.step
    monkeypatch.setattr(TopKLearner, "step", lambda *a: steps.append(1) or step(*a))
    first = fit_seeds(model, tokens, [0], QUICK, checkpoint=path)
    n_resumed = len(steps)
    assert bits(fit_seeds(model, tokens, [0], QUICK, checkpoint=path)[0]) == bits(first[0])
    assert len(steps) == n_resumed  # the finished training is kept as well
    fit_seeds(model, tokens, [0], QUICK)
    assert 0 < n_resumed < len(steps) - n_resumed


@pytest.mark.parametrize("changes", [{"learning_rate": 1e-3}, {"k": 4}, {"seed": 5}, {"n_seeds": 2}])
def test_a_checkpoint_of_other_settings_is_not_used(tmp_path, model, tokens, changes):
    path = tmp_path / "model.pt"
    with pytest.raises(Stop):
        fit_seeds(model, tokens, [0], QUICK, stop_after(12), path)
    other = replace(QUICK, **changes)
    found = fit_seeds(model, tokens, [0], other, checkpoint=path)
    assert bits(found[0]) == bits(fit_seeds(model, tokens, [0], other)[0])


def test_a_checkpoint_of_other_cells_is_not_used(tmp_path, model, tokens):
    path = tmp_path / "model.pt"
    with pytest.raises(Stop):
        fit_seeds(model, tokens, [0], QUICK, stop_after(12), path)
    fewer = tokens.take(np.arange(40))
    assert bits(fit_seeds(model, fewer, [0], QUICK, checkpoint=path)[0]) == bits(fit_saes(model, fewer, [0], QUICK))


def test_how_often_it_is_saved_changes_nothing(tmp_path, model, tokens):
    rarely = fit_seeds(model, tokens, [0], replace(QUICK, checkpoint_seconds=1e9), checkpoint=tmp_path / "a.pt")
    often = fit_seeds(model, tokens, [0], QUICK, checkpoint=tmp_path / "b.pt")
    assert bits(rarely[0]) == bits(often[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt", "b.pt"]


def test_a_damaged_checkpoint(tmp_path, model, tokens):
    path = tmp_path / "model.pt"
    fit_seeds(model, tokens, [0], QUICK, checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"model\.pt is damaged .*Delete it; the training then begins anew"):
        fit_seeds(model, tokens, [0], QUICK, checkpoint=path)


def test_a_checkpoint_runs_no_code(tmp_path, model, tokens):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "exploded").touch, ()

    torch.save({"key": Bomb()}, tmp_path / "model.pt")
    with pytest.raises(RunError, match="is damaged"):
        fit_seeds(model, tokens, [0], QUICK, checkpoint=tmp_path / "model.pt")
    assert not (tmp_path / "exploded").exists()


# ------------------------------------------------------------------------------------------------ groups


def test_whole_groups_are_held_out():
    obs = pd.DataFrame({"donor": [f"d{i % 10}" for i in range(100)]})
    fitted, held_out = split_groups(obs, "donor", 0.2, seed=0)
    assert sorted([*fitted, *held_out]) == list(range(100))
    assert not set(obs["donor"][fitted]) & set(obs["donor"][held_out])
    assert len(held_out) == 20
    assert not np.array_equal(held_out, split_groups(obs, "donor", 0.2, seed=1)[1])


@pytest.mark.parametrize("held_out", [0.01, 0.9])
def test_a_group_is_left_on_both_sides(held_out):
    obs = pd.DataFrame({"donor": ["a"] * 5 + ["b"] * 5})
    fitted, kept = split_groups(obs, "donor", held_out, seed=0)
    assert len(fitted) == len(kept) == 5


def test_groups_that_cannot_be_split():
    with pytest.raises(SettingsError, match=r"train.held_out_by = 'donor' is no column of obs; it has batch"):
        split_groups(pd.DataFrame({"batch": ["a", "b"]}), "donor", 0.2, 0)
    with pytest.raises(SettingsError, match=r"needs two groups; all cells are 'a'"):
        split_groups(pd.DataFrame({"batch": ["a", "a"]}), "batch", 0.2, 0)
