"""Folders of sparse autoencoders in the formats of others, read as the ones of this package.

    SAELens              cfg.json, sae_weights.safetensors    topk, jumprelu, standard (ReLU)
    sparsify             cfg.json, sae.safetensors            TopK
    dictionary_learning  config.json, ae.pt                   TopK, BatchTopK, Matryoshka, JumpReLU, ReLU
    Kendiukhov 2026      sae_final.pt, activation_mean.npy    TopK

Weights keep their bits, except where a format scales activations by decoder norms.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cellcircuits.autoencoders import CONFIG_FILE, WEIGHTS_FILE, JumpReLUSAE, SparseAutoencoder, TopKSAE
from cellcircuits.checkpoints import check_weights, read_json, read_tensors
from cellcircuits.errors import ModelError, listed

SPARSIFY_FILE = "sae.safetensors"
LEARNED_FILES = ("config.json", "ae.pt")
PUBLISHED_FILE = "sae_final.pt"

Weights = dict[str, torch.Tensor]


def is_autoencoder(folder: Path) -> bool:
    """Whether a folder holds an autoencoder in one of the formats."""
    return _reader(folder) is not None


def read_autoencoder(folder: Path) -> SparseAutoencoder:
    """Read one autoencoder in any of the formats.

    Raises
    ------
    ModelError
        If files are missing, damaged, or of an architecture that is not known.
    """
    read = _reader(folder)
    if read is None:
        raise ModelError(
            f"{folder} holds no sparse autoencoder: neither {CONFIG_FILE} (SAELens, sparsify), ae.pt with config.json "
            f"(dictionary_learning) nor {PUBLISHED_FILE}."
        )
    return read(folder).eval().requires_grad_(False)


def _reader(folder: Path) -> Callable[[Path], SparseAutoencoder] | None:
    if (folder / CONFIG_FILE).exists():
        return _read_sparsify if (folder / SPARSIFY_FILE).exists() else _read_saelens
    if (folder / PUBLISHED_FILE).exists():
        return _read_published
    if all((folder / name).exists() for name in LEARNED_FILES):
        return _read_learned
    return None


def _numbers(config: dict[str, Any], path: Path, *names: str) -> list[int]:
    absent = [name for name in names if config.get(name) is None]
    if absent:
        raise ModelError(f"{path} lacks {listed(absent)}.")
    if not all(isinstance(config[name], int) for name in names):
        raise ModelError(f"{path}: {listed(names)} must be whole numbers.")
    return [config[name] for name in names]


def _filled(sae: SparseAutoencoder, weights: Weights) -> SparseAutoencoder:
    sae.load_state_dict({name: value.float().contiguous() for name, value in weights.items()}, strict=True)
    return sae


def _scaled_by_norms(weights: Weights) -> Weights:
    """Weights of an autoencoder that selects by, and reports, activation times decoder norm: those of unit norm."""
    norms = weights["W_dec"].norm(dim=1)
    # a row of zeros stays one: its feature is never active, since its encoder becomes zero
    scaled = {"W_dec": weights["W_dec"] / norms.where(norms > 0, 1.0)[:, None]}
    scaled |= {name: weights[name] * norms for name in ("W_enc", "b_enc", "threshold") if name in weights}
    return weights | scaled


# ------------------------------------------------------------------------------------------------ SAELens


def _read_saelens(folder: Path) -> SparseAutoencoder:
    path, config = folder / CONFIG_FILE, read_json(folder / CONFIG_FILE)
    architecture = config.get("architecture", "standard")
    if architecture not in ("topk", "jumprelu", "standard"):
        raise ModelError(
            f"{folder} holds a {architecture!r} autoencoder; this version reads topk, jumprelu and standard ones. "
            "Autoencoders in training are saved for use by SAELens' save_inference_model."
        )
    for name in ("normalize_activations", "reshape_activations"):
        if config.get(name, "none") not in ("none", None):
            raise ModelError(f"{folder}: {name} = {config[name]!r} is not supported; fold it into the weights first.")
    sizes = _numbers(config, path, "d_in", "d_sae", *(["k"] if architecture == "topk" else []))
    width, n_features = sizes[:2]
    weights = read_tensors(folder / WEIGHTS_FILE)
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (width, n_features), "W_dec": (n_features, width)}
    shapes |= {"b_enc": (n_features,), "b_dec": (width,)}
    if architecture == "jumprelu":
        shapes["threshold"] = (n_features,)
    check_weights(shapes, weights, str(folder / WEIGHTS_FILE))
    if architecture == "topk" and config.get("rescale_acts_by_decoder_norm", False):
        weights = _scaled_by_norms(weights)
    if architecture == "standard":
        weights["threshold"] = torch.zeros(n_features)
    subtracted = config.get("apply_b_dec_to_input", True)
    weights["b_in"] = weights["b_dec"] if subtracted else torch.zeros(width)
    kind = TopKSAE(width, n_features, sizes[2]) if architecture == "topk" else JumpReLUSAE(width, n_features)
    sae = _filled(kind, weights)
    sae.info = dict(config.get("metadata") or {})
    # folders of older versions have these beside the rest
    sae.info |= {key: config[key] for key in ("hook_name", "model_name") if isinstance(config.get(key), str)}
    return sae


# ------------------------------------------------------------------------------------------------ sparsify


def _read_sparsify(folder: Path) -> SparseAutoencoder:
    path, config = folder / CONFIG_FILE, read_json(folder / CONFIG_FILE)
    for name, allowed in (("activation", "topk"), ("transcode", False), ("skip_connection", False), ("signed", False)):
        if config.get(name, allowed) != allowed:
            raise ModelError(f"{folder}: {name} = {config[name]!r} is not supported; this version reads {allowed!r}.")
    width, k = _numbers(config, path, "d_in", "k")
    n_features = config.get("num_latents") or width * _numbers(config, path, "expansion_factor")[0]
    weights = read_tensors(folder / SPARSIFY_FILE)
    shapes: dict[str, tuple[int, ...]] = {"encoder.weight": (n_features, width), "encoder.bias": (n_features,)}
    shapes |= {"W_dec": (n_features, width), "b_dec": (width,)}
    check_weights(shapes, weights, str(folder / SPARSIFY_FILE))
    ours = {"W_enc": weights["encoder.weight"].T, "b_enc": weights["encoder.bias"], "W_dec": weights["W_dec"]}
    sae = _filled(TopKSAE(width, n_features, k), ours | {"b_dec": weights["b_dec"], "b_in": weights["b_dec"]})
    sae.info = {"source": "sparsify", "hook_name": folder.name}
    return sae


# ------------------------------------------------------------------------------------------------ dictionary_learning


def _read_learned(folder: Path) -> SparseAutoencoder:
    config = read_json(folder / "config.json").get("trainer")
    path = folder / "config.json"
    if not isinstance(config, dict):
        raise ModelError(f"{path} lacks the section 'trainer' of dictionary_learning.")
    kind, (width, n_features) = config.get("dict_class"), _numbers(config, path, "activation_dim", "dict_size")
    if kind not in LEARNED_KINDS:
        raise ModelError(f"{folder} holds a {kind!r}; this version reads {listed(sorted(LEARNED_KINDS))}.")
    names, scalars = LEARNED_KINDS[kind]
    weights = read_tensors(folder / "ae.pt")
    shapes = {theirs: _learned_shape(ours, theirs, width, n_features) for ours, theirs in names.items()}
    numbers = {name: weights.pop(name) for name in (*scalars, "group_sizes") if name in weights}
    check_weights(shapes, weights, str(folder / "ae.pt"))
    # matrices named "encoder.weight" and "decoder.weight" are those of nn.Linear: (output, input)
    ours = {
        mine: weights[theirs].T if theirs.endswith(".weight") else weights[theirs] for mine, theirs in names.items()
    }
    ours["b_in"] = torch.zeros(width) if kind == "JumpReluAutoEncoder" else ours["b_dec"]
    sae = _learned_autoencoder(kind, ours, numbers, config, folder)
    sae.info = {"source": "dictionary_learning"}
    if isinstance(config.get("layer"), int):
        sae.info["layer"] = config["layer"]
    if config.get("submodule_name"):
        sae.info["hook_name"] = str(config["submodule_name"])
    return sae


def _learned_autoencoder(
    kind: str, weights: Weights, numbers: Weights, config: dict[str, Any], folder: Path
) -> SparseAutoencoder:
    width, n_features = weights["W_enc"].shape
    if kind == "AutoEncoderTopK":
        k = int(numbers["k"]) if "k" in numbers else _numbers(config, folder / "config.json", "k")[0]
        return _filled(TopKSAE(width, n_features, k), weights)
    if kind == "JumpReluAutoEncoder":
        weights = _scaled_by_norms(weights)
    elif kind == "AutoEncoder":
        weights["threshold"] = torch.zeros(n_features)
    else:
        if "threshold" not in numbers or float(numbers["threshold"]) < 0:
            raise ModelError(f"{folder}: the threshold of this {kind} was not learned yet; train it for longer.")
        weights["threshold"] = numbers["threshold"].float().expand(n_features)
    return _filled(JumpReLUSAE(width, n_features), weights)


_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "b_dec"}
_PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
LEARNED_KINDS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "AutoEncoder": (_LINEAR | {"b_dec": "bias"}, ()),
    "AutoEncoderTopK": (_LINEAR, ("k", "threshold")),
    "BatchTopKSAE": (_LINEAR, ("k", "threshold")),
    "MatryoshkaBatchTopKSAE": (_PLAIN, ("k", "threshold")),
    "JumpReluAutoEncoder": (_PLAIN | {"threshold": "threshold"}, ()),
}
"""{class of dictionary_learning: ({our name: its name of a weight}, its single numbers)}."""


def _learned_shape(ours: str, theirs: str, width: int, n_features: int) -> tuple[int, ...]:
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (width, n_features), "W_dec": (n_features, width)}
    shape = shapes.get(ours, (width,) if ours == "b_dec" else (n_features,))
    return shape[::-1] if theirs.endswith(".weight") else shape


# ------------------------------------------------------------------------------------------------ Kendiukhov 2026


def _read_published(folder: Path) -> TopKSAE:
    """sae_final.pt and activation_mean.npy of Kendiukhov 2026.

    The input is centred by the mean, which is added back to the reconstruction. The decoder is not of unit norm per
    feature (it was normalised along the other axis); it is kept as it is, since rescaling would change the top k.
    """
    path = folder / PUBLISHED_FILE
    weights = read_tensors(path)
    encoder = weights.get("W_enc.weight", torch.zeros(0, 0))
    n_features, width = encoder.shape if encoder.ndim == 2 else (0, 0)
    expected = {
        "W_enc.weight": (n_features, width),
        "W_enc.bias": (n_features,),
        "W_dec.weight": (width, n_features),
        "W_dec.bias": (width,),
    }
    check_weights(expected, weights, str(path))
    try:
        mean = torch.from_numpy(np.load(folder / "activation_mean.npy", allow_pickle=False)).float()
    except (OSError, ValueError) as error:
        raise ModelError(f"Cannot read {folder / 'activation_mean.npy'}, which belongs to {path}: {error}.") from error
    if mean.shape != (width,):
        raise ModelError(f"activation_mean.npy has shape {tuple(mean.shape)}; {path.name} needs ({width},).")
    sae = TopKSAE(width, n_features, _published_k(path, folder))
    ours = {"W_enc": weights["W_enc.weight"].T, "W_dec": weights["W_dec.weight"].T, "b_enc": weights["W_enc.bias"]}
    _filled(sae, ours | {"b_dec": weights["W_dec.bias"].float() + mean, "b_in": mean})
    sae.info = {"source": "published", "input_mode": "published"}
    return sae


def _published_k(path: Path, folder: Path) -> int:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content.get("k"), int):
        return content["k"]
    match = re.search(r"_k(\d+)$", folder.name)
    if match is None:
        raise ModelError(f"{path} does not say k, nor does its folder's name (layer05_x4_k32).")
    return int(match[1])
