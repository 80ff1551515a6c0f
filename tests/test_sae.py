"""The TopK autoencoder against plain loops, and its files: SAELens folders and those of Kendiukhov 2026."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cellcircuits.autoencoders import TopKSAE
from cellcircuits.errors import ModelError
from cellcircuits.models.toy import ToyModel
from cellcircuits.sae import check_saes, load_sae, load_saes

WIDTH, N_FEATURES, K = 6, 20, 4


def random_sae(seed: int = 0, width: int = WIDTH, n_features: int = N_FEATURES, k: int = K) -> TopKSAE:
    sae = TopKSAE(width, n_features, k)
    rng = np.random.default_rng(seed)
    sae.load_state_dict({n: torch.from_numpy(rng.normal(size=v.shape)).float() for n, v in sae.state_dict().items()})
    return sae.eval().requires_grad_(False)


def hidden_states(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(*shape, WIDTH))).float()


def loop_code(pre: np.ndarray, k: int) -> np.ndarray:
    """One position: the k largest pre-activations, negative ones set to 0."""
    code = np.zeros(len(pre))
    for feature in sorted(range(len(pre)), key=lambda f: -pre[f])[:k]:
        code[feature] = max(pre[feature], 0.0)
    return code


def loop_pre(h, w_enc, b_enc, b_in) -> np.ndarray:
    """One position: sum over dimensions of (h - b_in) W_enc, plus b_enc."""
    return np.array([sum((h[d] - b_in[d]) * w_enc[d, f] for d in range(len(h))) + b_enc[f] for f in range(len(b_enc))])


def loop_decode(code, w_dec, b_dec) -> np.ndarray:
    return np.array([sum(code[f] * w_dec[f, d] for f in range(len(code))) + b_dec[d] for d in range(len(b_dec))])


def weights(sae: TopKSAE) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in sae.state_dict().items()}


def same_function(first: TopKSAE, second: TopKSAE, tolerance: float = 1e-5) -> None:
    """Both give the same code and reconstruction on random input."""
    hidden = hidden_states(50)
    one, other = first.encode(hidden), second.encode(hidden)
    torch.testing.assert_close(one.dense(N_FEATURES), other.dense(N_FEATURES), atol=tolerance, rtol=0)
    torch.testing.assert_close(first.decode(one), second.decode(other), atol=tolerance, rtol=0)


def change_config(folder: Path, **changes) -> None:
    path = folder / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ------------------------------------------------------------------------------------------------ numbers


def test_encode_and_decode_equal_loops():
    sae, hidden = random_sae(), hidden_states(15)
    w = weights(sae)
    code = sae.encode(hidden)
    for position, h in enumerate(hidden.double().numpy()):
        expected = loop_code(loop_pre(h, w["W_enc"], w["b_enc"], w["b_in"]), K)
        np.testing.assert_allclose(code.dense(N_FEATURES)[position], expected, atol=1e-5)
        np.testing.assert_allclose(sae.decode(code)[position], loop_decode(expected, w["W_dec"], w["b_dec"]), atol=1e-4)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 3), (2, 0, 3)])
def test_any_leading_shape(shape):
    sae, hidden = random_sae(), hidden_states(*shape)
    code = sae.encode(hidden)
    assert code.values.shape == code.indices.shape == (*shape, K)
    decoded = sae.decode(code)
    assert decoded.shape == hidden.shape
    flat = sae.decode(sae.encode(hidden.reshape(-1, WIDTH)))
    torch.testing.assert_close(decoded.reshape(-1, WIDTH), flat)


def test_negative_activations_are_zero_but_keep_their_place():
    sae = random_sae(k=N_FEATURES)
    code = sae.encode(hidden_states(30))
    assert code.values.shape == (30, N_FEATURES)
    assert (code.values >= 0).all() and (code.values == 0).any()


def test_rows_of_a_code():
    code = random_sae().encode(hidden_states(5))
    chosen = code.at(torch.tensor([3, 3, 0]))
    assert torch.equal(chosen.values, code.values[[3, 3, 0]]) and torch.equal(chosen.indices, code.indices[[3, 3, 0]])


@pytest.mark.parametrize("k", [0, 21])
def test_impossible_k(k):
    with pytest.raises(ModelError, match=f"needs 1 <= k <= features; found k = {k}, features = 20"):
        TopKSAE(WIDTH, N_FEATURES, k)


# ------------------------------------------------------------------------------------------------ SAELens folders


def test_a_saved_folder_has_the_saelens_layout(tmp_path):
    sae = random_sae()
    sae.info = {"model_name": "toy", "input_mode": "official"}
    sae.save(tmp_path / "L03")
    assert sorted(p.name for p in (tmp_path / "L03").iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    config = json.loads((tmp_path / "L03" / "cfg.json").read_text())
    assert config == {
        "architecture": "topk",
        "d_in": WIDTH,
        "d_sae": N_FEATURES,
        "k": K,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": sae.info,
    }
    shapes = {k: tuple(v.shape) for k, v in load_file(tmp_path / "L03" / "sae_weights.safetensors").items()}
    assert shapes == {"W_enc": (6, 20), "W_dec": (20, 6), "b_enc": (20,), "b_dec": (6,)}


def test_b_in_is_folded_into_b_enc(tmp_path):
    sae = random_sae()
    assert not torch.equal(sae.b_in, sae.b_dec)
    sae.save(tmp_path)
    loaded = load_sae(tmp_path)
    assert (loaded.b_in == 0).all()
    same_function(loaded, sae)


def test_a_shared_bias_survives_to_the_bit(tmp_path):
    sae = random_sae()
    sae.b_in.copy_(sae.b_dec)
    sae.save(tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["apply_b_dec_to_input"] is True
    loaded = load_sae(tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in sae.state_dict().items())
    assert (loaded.k, loaded.info, loaded.W_dec.requires_grad) == (K, {}, False)


def test_decoder_norm_rescaling_is_converted(tmp_path):
    """SAELens: select by, and report, pre-activation x |w_dec|; divide by |w_dec| again before decoding."""
    sae = random_sae()
    sae.b_in.copy_(sae.b_dec)
    sae.save(tmp_path)
    change_config(tmp_path, rescale_acts_by_decoder_norm=True)
    loaded, w = load_sae(tmp_path), weights(sae)
    norms = np.sqrt((w["W_dec"] ** 2).sum(1))
    hidden = hidden_states(15)
    for h, found, decoded in zip(
        hidden.double().numpy(),
        loaded.encode(hidden).dense(N_FEATURES).numpy(),
        loaded.decode(loaded.encode(hidden)).numpy(),
        strict=True,
    ):
        code = loop_code(loop_pre(h, w["W_enc"], w["b_enc"], w["b_in"]) * norms, K)
        np.testing.assert_allclose(found, code, atol=1e-4)
        np.testing.assert_allclose(decoded, loop_decode(code / norms, w["W_dec"], w["b_dec"]), atol=1e-4)
    np.testing.assert_allclose(loaded.W_dec.norm(dim=1), 1, atol=1e-6)


def test_decoder_norm_rescaling_with_a_row_of_zeros(tmp_path):
    sae = random_sae()
    sae.W_dec[7] = 0
    sae.save(tmp_path)
    change_config(tmp_path, rescale_acts_by_decoder_norm=True)
    loaded = load_sae(tmp_path)
    assert all(torch.isfinite(value).all() for value in loaded.state_dict().values())
    assert (loaded.encode(hidden_states(50)).dense(N_FEATURES)[:, 7] == 0).all()


def test_saelens_reads_what_is_saved(tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed; it is no dependency")
    sae = random_sae()
    sae.save(tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path, device="cpu")
    hidden = hidden_states(50)
    torch.testing.assert_close(theirs.encode(hidden), sae.encode(hidden).dense(N_FEATURES), atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs(hidden), sae.decode(sae.encode(hidden)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": "gated"},
            r"holds a 'gated' autoencoder; this version reads topk, jumprelu and standard ones",
        ),
        ({"architecture": "jumprelu"}, r"1 missing: threshold"),
        ({"normalize_activations": "layer_norm"}, r"normalize_activations = 'layer_norm' is not supported"),
        ({"reshape_activations": "hook_z"}, r"reshape_activations = 'hook_z' is not supported"),
        ({"d_in": 7}, r"misshapen: W_enc \(6, 20\) instead of \(7, 20\)"),
        ({"d_sae": 19}, r"misshapen: W_enc \(6, 20\) instead of \(6, 19\)"),
        ({"k": 21}, r"needs 1 <= k <= features; found k = 21"),
        ({"k": "4"}, r"d_in, d_sae, k must be whole numbers"),
    ],
)
def test_other_configurations_are_refused(tmp_path, changes, message):
    random_sae().save(tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        load_sae(tmp_path)


def test_a_configuration_without_k(tmp_path):
    random_sae().save(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    del config["k"]
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"cfg\.json lacks k"):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("b_enc"), "1 missing: b_enc"),
        (lambda w: w.update(threshold=torch.zeros(3)), "1 unknown: threshold"),
        (lambda w: w.update(W_dec=w["W_dec"].T.contiguous()), r"misshapen: W_dec \(6, 20\) instead of \(20, 6\)"),
        (lambda w: w["b_dec"].fill_(torch.nan), "1 not finite: b_dec"),
    ],
)
def test_other_weights_are_refused(tmp_path, change, message):
    random_sae().save(tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    stored = load_file(path)
    change(stored)
    save_file(stored, path)
    with pytest.raises(ModelError, match=message):
        load_sae(tmp_path)


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_a_damaged_file_is_refused(tmp_path, name):
    random_sae().save(tmp_path)
    (tmp_path / name).write_bytes(b"\x00half")
    with pytest.raises(ModelError, match=name):
        load_sae(tmp_path)


# ------------------------------------------------------------------------------------------------ published folders


def published(folder: Path, seed: int = 0, **changes) -> dict[str, torch.Tensor]:
    """A layerNN_x4_k32 folder as the published code saves it; returns its tensors, the mean among them."""
    rng = np.random.default_rng(seed)
    shapes = {"W_enc.weight": (20, 6), "W_enc.bias": (20,), "W_dec.weight": (6, 20), "W_dec.bias": (6,)}
    state = {name: torch.from_numpy(rng.normal(size=shape)).float() for name, shape in shapes.items()}
    mean = rng.normal(size=6).astype(np.float32)
    folder.mkdir(parents=True)
    content = {"model_state_dict": state, "d_model": 6, "n_features": 20, "k": K} | changes
    torch.save({k: v for k, v in content.items() if v is not None}, folder / "sae_final.pt")
    np.save(folder / "activation_mean.npy", mean)
    return state | {"mean": torch.from_numpy(mean)}


def test_a_published_folder_gives_the_published_formulas(tmp_path):
    """a = W_enc (h - mean) + b_enc; z = relu of the k largest; h' = W_dec z + b_dec + mean. Nothing is renormalised."""
    state = {k: v.double().numpy() for k, v in published(tmp_path / "layer05_x4_k32").items()}
    sae = load_saes(tmp_path)[5]
    hidden = hidden_states(15)
    code = sae.encode(hidden)
    for position, h in enumerate(hidden.double().numpy()):
        a = state["W_enc.weight"] @ (h - state["mean"]) + state["W_enc.bias"]
        z = loop_code(a, K)
        np.testing.assert_allclose(code.dense(20)[position], z, atol=1e-5)
        expected = state["W_dec.weight"] @ z + state["W_dec.bias"] + state["mean"]
        np.testing.assert_allclose(sae.decode(code)[position], expected, atol=1e-5)
    np.testing.assert_array_equal(sae.W_dec.double().numpy(), state["W_dec.weight"].T)
    assert (sae.k, sae.info["input_mode"]) == (K, "published")


def test_a_published_folder_survives_as_a_saelens_folder(tmp_path):
    published(tmp_path / "layer05_x4_k32")
    sae = load_saes(tmp_path)[5]
    sae.save(tmp_path / "saved" / "L05")
    same_function(load_saes(tmp_path / "saved")[5], sae)


def test_published_k_from_the_folder_name(tmp_path):
    published(tmp_path / "layer05_x4_k3", k=None)
    assert load_saes(tmp_path)[5].k == 3


def test_published_k_unknown(tmp_path):
    published(tmp_path / "layer05", k=None)
    with pytest.raises(ModelError, match=r"does not say k, nor does its folder's name"):
        load_saes(tmp_path)


@pytest.mark.parametrize("shape", [(20,), (20, 6, 1)])
def test_published_weights_of_another_shape(tmp_path, shape):
    published(tmp_path / "layer05", model_state_dict={"W_enc.weight": torch.zeros(shape)})
    with pytest.raises(ModelError, match=r"sae_final\.pt does not fit its configuration"):
        load_saes(tmp_path)


def test_published_weights_missing(tmp_path):
    published(tmp_path / "layer05", model_state_dict={"W_enc.weight": torch.zeros(20, 6)})
    with pytest.raises(ModelError, match=r"3 missing: W_dec\.bias, W_dec\.weight, W_enc\.bias"):
        load_saes(tmp_path)


def test_published_mean_missing(tmp_path):
    published(tmp_path / "layer05")
    (tmp_path / "layer05" / "activation_mean.npy").unlink()
    with pytest.raises(ModelError, match=r"Cannot read .*activation_mean\.npy, which belongs to"):
        load_saes(tmp_path)


def test_published_mean_of_another_width(tmp_path):
    published(tmp_path / "layer05")
    np.save(tmp_path / "layer05" / "activation_mean.npy", np.zeros(5))
    with pytest.raises(ModelError, match=r"activation_mean\.npy has shape \(5,\); sae_final\.pt needs \(6,\)"):
        load_saes(tmp_path)


def test_a_published_mean_is_never_unpickled(tmp_path):
    published(tmp_path / "layer05")
    np.save(tmp_path / "layer05" / "activation_mean.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ModelError, match=r"Cannot read .*activation_mean\.npy"):
        load_saes(tmp_path)


class Bomb:
    """Runs code when it is unpickled, if the reader allows it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_published_file_runs_no_code(tmp_path):
    published(tmp_path / "layer05", results=Bomb(tmp_path / "exploded"))
    with pytest.raises(ModelError, match=r"sae_final\.pt was refused"):
        load_saes(tmp_path)
    assert not (tmp_path / "exploded").exists()


# ------------------------------------------------------------------------------------------------ folders of folders


@pytest.mark.parametrize(
    ("name", "layer"),
    [("L00", 0), ("L7", 7), ("layer05_x4_k32", 5), ("layer_11", 11), ("blocks.3.hook_resid_post", 3)],
)
def test_the_layer_is_in_the_name(tmp_path, name, layer):
    random_sae().save(tmp_path / name)
    assert list(load_saes(tmp_path)) == [layer]


def test_layers_come_in_order(tmp_path):
    for layer in (11, 2, 0):
        random_sae(seed=layer).save(tmp_path / f"L{layer}")
    loaded = load_saes(tmp_path)
    assert list(loaded) == [0, 2, 11]
    assert all(torch.equal(sae.W_dec, random_sae(seed=layer).W_dec) for layer, sae in loaded.items())


def test_other_folders_are_ignored(tmp_path):
    random_sae().save(tmp_path / "L00")
    (tmp_path / "plots").mkdir()
    (tmp_path / "quality.json").write_text("{}")
    assert list(load_saes(tmp_path)) == [0]


def test_two_autoencoders_for_one_layer(tmp_path):
    random_sae().save(tmp_path / "L05")
    published(tmp_path / "layer05_x4_k32")
    with pytest.raises(ModelError, match="Two autoencoders for layer 5: L05 and layer05_x4_k32"):
        load_saes(tmp_path)


def test_an_unclear_name(tmp_path):
    random_sae().save(tmp_path / "final")
    with pytest.raises(ModelError, match=r"The layer of .*final is unclear; name the folder L05"):
        load_saes(tmp_path)


def test_no_autoencoders(tmp_path):
    with pytest.raises(ModelError, match="holds no sparse autoencoders; expected folders L00"):
        load_saes(tmp_path)
    with pytest.raises(ModelError, match="There is no folder"):
        load_saes(tmp_path / "absent")
    with pytest.raises(ModelError, match="holds no sparse autoencoder: neither"):
        load_sae(tmp_path)


# ------------------------------------------------------------------------------------------------ does it fit?


def test_autoencoders_of_the_model_are_accepted():
    model = ToyModel()
    check_saes(model.saes(), model.d_model, model.n_layers, "official")


def test_another_width_is_refused():
    with pytest.raises(ModelError, match="of layer 1 reads 6 dimensions, the model has 8"):
        check_saes({1: random_sae()}, 8, 3, "official")


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_that_is_not_there_is_refused(layer):
    with pytest.raises(ModelError, match=f"an autoencoder for layer {layer}; the model has layers 0 to 2"):
        check_saes({layer: random_sae()}, WIDTH, 3, "official")


def test_another_input_mode_is_refused():
    sae = random_sae()
    sae.info = {"input_mode": "published"}
    with pytest.raises(ModelError, match=r"trained on 'published' input, the cells are tokenised as 'official'\. Set"):
        check_saes({0: sae}, WIDTH, 3, "official")
    check_saes({0: sae}, WIDTH, 3, "published")
