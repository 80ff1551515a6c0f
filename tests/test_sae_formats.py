"""JumpReLU autoencoders against plain loops; formats of others against their formulas and against SAELens itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import cellcircuits as cc
from cellcircuits.autoencoders import JumpReLUSAE, SparseAutoencoder, TopKSAE
from cellcircuits.errors import ModelError
from cellcircuits.models.toy import ToyModel
from cellcircuits.sae import check_saes, convert_saes, load_sae, load_saes
from cellcircuits.settings import CellsSettings
from cellcircuits.tracing import trace

WIDTH, N_FEATURES, K = 6, 20, 4
HIDDEN = torch.from_numpy(np.random.default_rng(1).normal(size=(40, WIDTH))).float()


def filled(sae: SparseAutoencoder, seed: int = 0, shared: bool = True) -> SparseAutoencoder:
    rng = np.random.default_rng(seed)
    state = {n: torch.from_numpy(rng.normal(size=v.shape)).float() for n, v in sae.state_dict().items()}
    if "threshold" in state:
        state["threshold"] = state["threshold"].abs()
    if shared:
        state["b_in"] = state["b_dec"]
    sae.load_state_dict(state)
    return sae.eval().requires_grad_(False)


def same_bits(first: SparseAutoencoder, second: SparseAutoencoder) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return type(first) is type(second) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return {name: torch.from_numpy(rng.normal(size=shape)).float() for name, shape in shapes.items()}


# ------------------------------------------------------------------------------------------------ JumpReLU


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (2, 3), (2, 0, 3)])
def test_jumprelu_equals_loops(shape):
    sae = filled(JumpReLUSAE(WIDTH, N_FEATURES), shared=False)
    hidden = torch.from_numpy(np.random.default_rng(3).normal(size=(*shape, WIDTH))).float()
    code = sae.encode(hidden)
    dense, decoded = code.dense(N_FEATURES), sae.decode(code)
    assert dense.shape == (*shape, N_FEATURES) and decoded.shape == hidden.shape
    w = {name: value.double().numpy() for name, value in sae.state_dict().items()}
    for h, z, back in zip(
        hidden.reshape(-1, WIDTH).double().numpy(),
        dense.reshape(-1, N_FEATURES).numpy(),
        decoded.reshape(-1, WIDTH).numpy(),
        strict=True,
    ):
        expected = np.zeros(N_FEATURES)
        for f in range(N_FEATURES):
            pre = sum((h[d] - w["b_in"][d]) * w["W_enc"][d, f] for d in range(WIDTH)) + w["b_enc"][f]
            expected[f] = pre if pre > w["threshold"][f] and pre > 0 else 0
        np.testing.assert_allclose(z, expected, atol=1e-5)
        np.testing.assert_allclose(back, expected @ w["W_dec"] + w["b_dec"], atol=1e-4)


def test_features_of_a_position_are_different_ones():
    """So that a value of 0 that only fills the code up overwrites nothing."""
    for seed in range(20):
        code = filled(JumpReLUSAE(WIDTH, N_FEATURES), seed).encode(HIDDEN)
        counts = (code.values > 0).sum(dim=1)
        assert code.values.shape[1] == max(counts.max(), 1) and counts.min() < counts.max()
        assert all(len(set(row.tolist())) == len(row) for row in code.indices)


def test_no_feature_or_every_feature_active():
    sae = filled(JumpReLUSAE(WIDTH, N_FEATURES))
    sae.threshold.fill_(1e6)
    code = sae.encode(HIDDEN)
    assert code.values.shape == (40, 1) and (code.values == 0).all()
    torch.testing.assert_close(sae.decode(code), sae.b_dec.expand(40, -1))
    sae.threshold.fill_(0)
    sae.b_enc.fill_(1e3)
    assert sae.encode(HIDDEN).values.shape == (40, N_FEATURES)


def test_means_of_groups_equal_dense_ones():
    code = filled(JumpReLUSAE(WIDTH, N_FEATURES)).encode(HIDDEN)
    groups = torch.arange(40) % 3
    expected = torch.stack([code.dense(N_FEATURES)[groups == g].double().mean(0) for g in range(3)])
    torch.testing.assert_close(code.mean_by(groups, torch.bincount(groups), N_FEATURES), expected)


def test_jumprelu_features_are_traced_like_others(toy_cells):
    """Thresholds of 0 and TopK with k = all features are the same function, so their traces are the same."""
    model = ToyModel().eval()
    cells = model.tokenize(toy_cells, CellsSettings())
    top = model.saes()
    jump: dict[int, SparseAutoencoder] = {}
    for layer, sae in top.items():
        jump[layer] = JumpReLUSAE(sae.d_model, sae.n_features).requires_grad_(False)
        jump[layer].load_state_dict({**sae.state_dict(), "threshold": torch.zeros(sae.n_features)})
    readouts = ["source", "target", "other", "pre", "computed"]
    first, second = (trace(model, cells, s, source_layer=0, features=[0, 2], readouts=readouts) for s in (top, jump))
    for layer, sums in first.sums.items():
        np.testing.assert_allclose(sums, second.sums[layer], atol=1e-5)
    assert np.abs(first.sums[1]).sum() > 0


# ------------------------------------------------------------------------------------------------ SAELens


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("make", [lambda: TopKSAE(WIDTH, N_FEATURES, K), lambda: JumpReLUSAE(WIDTH, N_FEATURES)])
def test_saelens_computes_what_is_saved(tmp_path, make, shared):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed (the extra `train`)")
    sae = filled(make(), shared=shared)
    sae.save(tmp_path)
    theirs, code = sae_lens.SAE.load_from_disk(tmp_path), sae.encode(HIDDEN)
    torch.testing.assert_close(theirs.encode(HIDDEN), code.dense(N_FEATURES), atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs(HIDDEN), sae.decode(code), atol=1e-4, rtol=0)
    if shared:
        assert same_bits(load_sae(tmp_path), sae)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
@pytest.mark.parametrize("options", [{}, {"apply_b_dec_to_input": False}])
def test_what_saelens_saves_is_read(tmp_path, architecture, options):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed (the extra `train`)")
    sizes = {"d_in": WIDTH, "d_sae": N_FEATURES, **options}
    if architecture == "topk":
        theirs = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(**sizes, k=K, rescale_acts_by_decoder_norm=bool(options)))
    elif architecture == "jumprelu":
        theirs = sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(**sizes))
    else:
        theirs = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(**sizes))
    with torch.no_grad():
        for name, value in random_weights({n: tuple(p.shape) for n, p in theirs.named_parameters()}).items():
            getattr(theirs, name).copy_(value.abs() if name == "threshold" else value)
    theirs.save_model(tmp_path / "L02")
    ours = load_saes(tmp_path)[2]
    code = ours.encode(HIDDEN)
    with torch.no_grad():
        torch.testing.assert_close(code.dense(N_FEATURES), theirs.encode(HIDDEN), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.decode(code), theirs(HIDDEN), atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------------ sparsify


def sparsify(folder: Path, **changes) -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"encoder.weight": (N_FEATURES, WIDTH), "encoder.bias": (N_FEATURES,)}
    weights = random_weights(shapes | {"W_dec": (N_FEATURES, WIDTH), "b_dec": (WIDTH,)})
    folder.mkdir(parents=True)
    save_file(weights, folder / "sae.safetensors")
    config = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": N_FEATURES}
    config |= {"k": K, "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": WIDTH}
    (folder / "cfg.json").write_text(json.dumps(config | changes))
    return weights


def top_k(pre: np.ndarray) -> np.ndarray:
    """The k largest of every row, negative ones set to 0."""
    code = np.zeros_like(pre)
    for row, values in zip(code, pre, strict=True):
        best = np.argsort(-values)[:K]
        row[best] = np.maximum(values[best], 0)
    return code


def agrees(sae: SparseAutoencoder, code: np.ndarray, decoded: np.ndarray) -> None:
    found = sae.encode(HIDDEN)
    np.testing.assert_allclose(found.dense(N_FEATURES), code, atol=1e-4)
    np.testing.assert_allclose(sae.decode(found), decoded, atol=1e-4)


def test_sparsify_by_its_formula(tmp_path):
    w = {name: value.numpy() for name, value in sparsify(tmp_path / "layers.5").items()}
    sae = load_saes(tmp_path)[5]
    code = top_k((HIDDEN.numpy() - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    agrees(sae, code, code @ w["W_dec"] + w["b_dec"])
    check_saes({5: sae}, WIDTH, 6, "official")


def test_sparsify_with_an_expansion_factor(tmp_path):
    sparsify(tmp_path / "layers.0", num_latents=0, expansion_factor=N_FEATURES)
    with pytest.raises(ModelError, match=r"misshapen: .*encoder\.weight \(20, 6\) instead of \(120, 6\)"):
        load_saes(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "groupmax"}, "activation = 'groupmax' is not supported"),
        ({"transcode": True}, "transcode = True is not supported"),
        ({"skip_connection": True}, "skip_connection = True is not supported"),
        ({"k": None}, r"cfg\.json lacks k"),
    ],
)
def test_other_sparsify_folders_are_refused(tmp_path, changes, message):
    sparsify(tmp_path / "layers.5", **changes)
    with pytest.raises(ModelError, match=message):
        load_saes(tmp_path)


def test_a_sparsify_folder_of_an_mlp_is_refused(tmp_path):
    sparsify(tmp_path / "layers.5.mlp")
    with pytest.raises(ModelError, match=r"reads 'layers\.5\.mlp'; expected one of the output of a block"):
        check_saes(load_saes(tmp_path), WIDTH, 6, "")


# ------------------------------------------------------------------------------------------------ dictionary_learning


def learned(folder: Path, kind: str, **changes) -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {"encoder.weight": (N_FEATURES, WIDTH), "encoder.bias": (N_FEATURES,)}
    shapes |= {"decoder.weight": (WIDTH, N_FEATURES), "bias" if kind == "AutoEncoder" else "b_dec": (WIDTH,)}
    if kind in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"):
        shapes = {"W_enc": (WIDTH, N_FEATURES), "b_enc": (N_FEATURES,), "W_dec": (N_FEATURES, WIDTH), "b_dec": (WIDTH,)}
    weights = random_weights(shapes)
    if kind == "JumpReluAutoEncoder":
        weights["threshold"] = torch.linspace(0, 1, N_FEATURES)
    elif kind != "AutoEncoder":
        weights |= {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(0.7)}
    if kind == "MatryoshkaBatchTopKSAE":
        weights["group_sizes"] = torch.tensor([5, 15])
    weights |= {name: value for name, value in changes.items() if isinstance(value, torch.Tensor)}
    folder.mkdir(parents=True)
    torch.save(weights, folder / "ae.pt")
    config = {"dict_class": kind, "activation_dim": WIDTH, "dict_size": N_FEATURES, "k": K, "layer": 3}
    config |= {name: value for name, value in changes.items() if not isinstance(value, torch.Tensor)}
    (folder / "config.json").write_text(json.dumps({"trainer": config, "buffer": {"ctx_len": 128}}))
    return {name: value.numpy() for name, value in weights.items()}


@pytest.mark.parametrize("kind", ["AutoEncoderTopK", "BatchTopKSAE", "AutoEncoder"])
def test_linear_layers_of_dictionary_learning(tmp_path, kind):
    w = learned(tmp_path / "trainer_0", kind)
    bias = w["bias" if kind == "AutoEncoder" else "b_dec"]
    pre = (HIDDEN.numpy() - bias) @ w["encoder.weight"].T + w["encoder.bias"]
    code = {
        "AutoEncoderTopK": top_k(pre),
        "BatchTopKSAE": np.where(pre > 0.7, pre, 0),
        "AutoEncoder": np.maximum(pre, 0),
    }[kind]
    (layer, sae), *_ = load_saes(tmp_path).items()
    assert layer == 3
    agrees(sae, code, code @ w["decoder.weight"].T + bias)


def test_matryoshka_of_dictionary_learning(tmp_path):
    w = learned(tmp_path / "resid_post_layer_3", "MatryoshkaBatchTopKSAE", submodule_name="resid_post_layer_3")
    pre = (HIDDEN.numpy() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    code = np.where(pre > 0.7, pre, 0)
    saes = load_saes(tmp_path)
    agrees(saes[3], code, code @ w["W_dec"] + w["b_dec"])
    check_saes(saes, WIDTH, 4, "official")


def test_jumprelu_of_dictionary_learning(tmp_path):
    """It does not shift its input, and reports activation times decoder norm."""
    w = learned(tmp_path / "trainer_0", "JumpReluAutoEncoder")
    pre = HIDDEN.numpy() @ w["W_enc"] + w["b_enc"]
    code = np.where(pre > w["threshold"], pre, 0)
    agrees(load_saes(tmp_path)[3], code * np.linalg.norm(w["W_dec"], axis=1), code @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("GatedAutoEncoder", {}, "holds a 'GatedAutoEncoder'; this version reads"),
        ("BatchTopKSAE", {"threshold": torch.tensor(-1.0)}, "threshold of this BatchTopKSAE was not learned yet"),
        ("AutoEncoderTopK", {"extra": torch.zeros(3)}, "1 unknown: extra"),
        ("AutoEncoderTopK", {"activation_dim": 7}, "misshapen"),
        ("AutoEncoderTopK", {"dict_size": None}, r"config\.json lacks dict_size"),
    ],
)
def test_other_dictionaries_are_refused(tmp_path, kind, changes, message):
    learned(tmp_path / "trainer_0", kind, **changes)
    with pytest.raises(ModelError, match=message):
        load_saes(tmp_path)


def test_a_dictionary_runs_no_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "exploded").touch, ()

    learned(tmp_path / "trainer_0", "AutoEncoderTopK")
    torch.save({"b_dec": Bomb()}, tmp_path / "trainer_0" / "ae.pt")
    with pytest.raises(ModelError, match=r"ae\.pt was refused"):
        load_saes(tmp_path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("named", ["resid_post_layer_{}", "pythia_{}"], ids=["by folder", "by file"])
def test_folders_of_trainers_below_folders_of_layers(tmp_path, named):
    """As dictionary_learning writes a sweep: <submodule>/trainer_<i>/ae.pt, with checkpoints and results beside it."""
    written = {}
    for layer in (3, 11):
        folder = tmp_path / named.format(layer)
        written[layer] = learned(folder / "trainer_0", "AutoEncoderTopK", layer=layer)
        (folder / "trainer_0" / "checkpoints").mkdir()
        (folder / "trainer_0" / "checkpoints" / "ae_100.pt").write_bytes(b"")
        (folder / "trainer_0" / "eval_results.json").write_text("{}")
    saes = load_saes(tmp_path)
    assert list(saes) == [3, 11] and all(sae.info["layer"] == layer for layer, sae in saes.items())
    w = written[11]
    code = top_k((HIDDEN.numpy() - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    agrees(saes[11], code, code @ w["decoder.weight"].T + w["b_dec"])


def test_one_of_several_trainers_is_chosen_by_name(tmp_path):
    for trainer, k in (("trainer_0", 4), ("trainer_1", 2)):
        folder = tmp_path / "sweep" / "resid_post_layer_3" / trainer
        learned(folder, "AutoEncoderTopK", k=torch.tensor(k, dtype=torch.int))
    message = r"layer_3/trainer_0 and resid_post_layer_3/trainer_1\. Take one with trainer=\"trainer_1\""
    with pytest.raises(ModelError, match=message):
        load_saes(tmp_path / "sweep")
    assert [load_saes(tmp_path / "sweep", trainer)[3].k for trainer in ("trainer_0", "trainer_1")] == [4, 2]
    with pytest.raises(ModelError, match="no sparse autoencoders in folders named 'trainer_2'"):
        load_saes(tmp_path / "sweep", "trainer_2")
    convert_saes(tmp_path / "sweep", tmp_path / "to", trainer="trainer_1")
    assert load_saes(tmp_path / "to")[3].k == 2


def test_seeds_and_baselines_of_a_run_are_not_taken_for_layers(tmp_path):
    for folder in ("L00", "seed_1/L00", "random_weights/L00"):
        filled(TopKSAE(WIDTH, N_FEATURES, K)).save(tmp_path / folder)
    assert list(load_saes(tmp_path)) == [0]


# ------------------------------------------------------------------------------------------------ converting


@pytest.mark.parametrize("kind", ["AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "AutoEncoder"])
def test_conversion_keeps_every_bit(tmp_path, kind):
    learned(tmp_path / "from" / "trainer_0", kind)
    assert convert_saes(tmp_path / "from", tmp_path / "to") == [tmp_path / "to" / "L03"]
    original, converted = load_saes(tmp_path / "from")[3], load_saes(tmp_path / "to")[3]
    assert same_bits(original, converted)
    assert converted.info == original.info | {"layer": 3}


def test_conversion_of_sparsify_is_read_by_saelens(tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed (the extra `train`)")
    sparsify(tmp_path / "from" / "layers.1")
    cc.convert_saes(tmp_path / "from", tmp_path / "to")
    sae = load_saes(tmp_path / "from")[1]
    assert same_bits(sae, load_saes(tmp_path / "to")[1])
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "to" / "L01")
    torch.testing.assert_close(theirs(HIDDEN), sae.decode(sae.encode(HIDDEN)), atol=1e-4, rtol=0)


def test_an_input_shift_is_folded_and_matrices_keep_their_bits(tmp_path):
    sae = filled(TopKSAE(WIDTH, N_FEATURES, K), shared=False)
    folder = tmp_path / "from" / "layer05_x4_k4"
    folder.mkdir(parents=True)
    state = {"W_enc.weight": sae.W_enc.T, "W_enc.bias": sae.b_enc, "W_dec.weight": sae.W_dec.T}
    state |= {"W_dec.bias": sae.b_dec}
    torch.save({"model_state_dict": {n: v.contiguous() for n, v in state.items()}, "k": K}, folder / "sae_final.pt")
    np.save(folder / "activation_mean.npy", sae.b_in.numpy())
    convert_saes(tmp_path / "from", tmp_path / "to")
    original, converted = load_saes(tmp_path / "from")[5], load_saes(tmp_path / "to")[5]
    for name in ("W_enc", "W_dec", "b_dec"):
        assert torch.equal(original.state_dict()[name], converted.state_dict()[name])
    code = original.encode(HIDDEN)
    torch.testing.assert_close(converted.encode(HIDDEN).dense(N_FEATURES), code.dense(N_FEATURES), atol=1e-5, rtol=0)


def test_nothing_is_overwritten_or_half_written(tmp_path):
    sparsify(tmp_path / "from" / "layers.1")
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError, match="there exists already; choose another folder"):
        convert_saes(tmp_path / "from", tmp_path / "there")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="Cannot write"):
        convert_saes(tmp_path / "from", tmp_path / "file" / "to")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "from", "there"]


# ------------------------------------------------------------------------------------------------ hooks


@pytest.mark.parametrize(
    "hook", ["layer.2.output", "blocks.2.hook_resid_post", "layers.2", "resid_post_layer_2", "encoder.layer.2", "L02"]
)
def test_hooks_of_the_layer_are_accepted(hook):
    sae = filled(JumpReLUSAE(WIDTH, N_FEATURES))
    sae.info = {"hook_name": hook, "layer": 2, "model_fingerprint": "abc"}
    check_saes({2: sae}, WIDTH, 4, "official", "abc")
    with pytest.raises(ModelError, match="stands for layer 1 says that it was trained on layer 2"):
        check_saes({1: sae}, WIDTH, 4, "official")
    with pytest.raises(ModelError, match="of layer 2 was trained on a model with other weights"):
        check_saes({2: sae}, WIDTH, 4, "official", "abd")


@pytest.mark.parametrize("hook", ["blocks.2.hook_resid_pre", "blocks.2.hook_mlp_out", "blocks.2.attn.hook_z"])
def test_other_hooks_are_refused(hook):
    sae = filled(JumpReLUSAE(WIDTH, N_FEATURES))
    sae.info = {"hook_name": hook}
    with pytest.raises(ModelError, match=f"of layer 2 reads '{hook}'; expected one of the output of a block"):
        check_saes({2: sae}, WIDTH, 4, "official")


def test_autoencoders_of_other_weights_are_not_traced(toy_cells):
    model = ToyModel().eval()
    cells, saes = model.tokenize(toy_cells, CellsSettings()), model.saes()
    saes[1].info["model_fingerprint"] = model.fingerprint()
    trace(model, cells.take([0, 1]), saes, source_layer=0, features=[0])
    saes[1].info["model_fingerprint"] = "0" * 64
    with pytest.raises(ModelError, match="of layer 1 was trained on a model with other weights"):
        trace(model, cells.take([0, 1]), saes, source_layer=0, features=[0])
