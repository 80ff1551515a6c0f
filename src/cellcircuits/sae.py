"""TopK sparse autoencoder: encode, decode, load, save.

    pre = (h - b_in) W_enc + b_enc
    z   = the k largest entries of pre, negative ones set to 0; all others 0
    h'  = z W_dec + b_dec

Shapes follow SAELens: W_enc (d_model, feature), W_dec (feature, d_model). Files are SAELens folders (cfg.json and
sae_weights.safetensors); the folders of Kendiukhov 2026 (sae_final.pt and activation_mean.npy) are read too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from cellcircuits.checkpoints import check_weights, read_json, read_tensors
from cellcircuits.errors import ModelError, listed
from cellcircuits.top_k import top_k_indices

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"


class SparseCode(NamedTuple):
    """The k largest activations of each position; a feature is active where its value is above 0."""

    values: torch.Tensor
    """float (..., k), not negative."""
    indices: torch.Tensor
    """int64 (..., k): feature of each value."""

    def dense(self, n_features: int) -> torch.Tensor:
        """The same code with one column per feature, (..., feature)."""
        code = self.values.new_zeros(*self.values.shape[:-1], n_features)
        return code.scatter_(-1, self.indices, self.values)

    def mean_by(self, groups: torch.Tensor, counts: torch.Tensor, n_features: int) -> torch.Tensor:
        """Mean code of groups of rows, float64 (group, feature), for a code of shape (row, k).

        `groups` is the group of each row, `counts` the number of rows of each group.
        """
        if self.values.device.type != "cpu":
            # adding at random places has no fixed order there, a product of matrices has
            membership = (groups == torch.arange(len(counts), device=groups.device)[:, None]).double()
            return membership @ self.dense(n_features).double() / counts[:, None]
        places = groups[:, None] * n_features + self.indices
        sums = np.bincount(
            places.ravel().numpy(), self.values.detach().ravel().numpy(), minlength=len(counts) * n_features
        )
        return torch.from_numpy(sums.reshape(len(counts), n_features)) / counts[:, None]

    def at(self, rows: torch.Tensor) -> SparseCode:
        """The code of these rows of the first axis."""
        return SparseCode(self.values[rows], self.indices[rows])


class TopKSAE(nn.Module):
    """TopK sparse autoencoder of one layer."""

    def __init__(self, d_model: int, n_features: int, k: int) -> None:
        super().__init__()
        if not 1 <= k <= n_features:
            raise ModelError(f"A TopK autoencoder needs 1 <= k <= features; found k = {k}, features = {n_features}.")
        self.k = k
        self.W_enc = nn.Parameter(torch.zeros(d_model, n_features))
        self.b_enc = nn.Parameter(torch.zeros(n_features))
        self.W_dec = nn.Parameter(torch.zeros(n_features, d_model))
        self.b_dec = nn.Parameter(torch.zeros(d_model))
        self.b_in = nn.Parameter(torch.zeros(d_model))
        self.info: dict = {}

    @property
    def d_model(self) -> int:
        """Width of the model it reads."""
        return self.W_enc.shape[0]

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.W_enc.shape[1]

    def pre_activations(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., feature) from hidden states (..., d_model)."""
        return (hidden - self.b_in) @ self.W_enc + self.b_enc

    def encode(self, hidden: torch.Tensor) -> SparseCode:
        """Sparse code of hidden states (..., d_model)."""
        pre = self.pre_activations(hidden)
        indices = top_k_indices(pre, self.k)
        return SparseCode(pre.gather(-1, indices).relu(), indices)

    def decode(self, code: SparseCode) -> torch.Tensor:
        """Reconstruction (..., d_model) of a code."""
        values, indices = (part.reshape(-1, self.k) for part in code)
        summed = nn.functional.embedding_bag(indices, self.W_dec, per_sample_weights=values, mode="sum")
        return (summed + self.b_dec).reshape(*code.values.shape[:-1], self.d_model)

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Write a SAELens folder. `b_in` is folded into `b_enc` where SAELens cannot express it."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        subtract_b_dec = torch.equal(self.b_in, self.b_dec)
        b_enc = self.b_enc if subtract_b_dec else self.b_enc - self.b_in @ self.W_enc
        weights = {"W_enc": self.W_enc, "W_dec": self.W_dec, "b_enc": b_enc, "b_dec": self.b_dec}
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, folder / WEIGHTS_FILE)
        config = {
            "architecture": "topk",
            "d_in": self.d_model,
            "d_sae": self.n_features,
            "k": self.k,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": subtract_b_dec,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "rescale_acts_by_decoder_norm": False,
            "metadata": self.info,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_sae(folder: str | Path) -> TopKSAE:
    """Load one autoencoder from a SAELens folder or a published layerNN_x4_k32 folder.

    Raises
    ------
    ModelError
        If files are missing, damaged or of another architecture.
    """
    folder = Path(folder)
    if (folder / CONFIG_FILE).exists():
        return _load_saelens(folder)
    if (folder / "sae_final.pt").exists():
        return _load_published(folder)
    raise ModelError(f"{folder} holds no sparse autoencoder: neither {CONFIG_FILE} (SAELens) nor sae_final.pt.")


def load_saes(folder: str | Path) -> dict[int, TopKSAE]:
    """Load every autoencoder below `folder`, by layer: {layer: TopKSAE}.

    The layer comes from the folder's name (L05, layer05_x4_k32, layer_5, blocks.5.hook_resid_post).

    Raises
    ------
    ModelError
        If there is none, or two for one layer.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder} with sparse autoencoders.")
    found: dict[int, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        if not ((path / CONFIG_FILE).exists() or (path / "sae_final.pt").exists()):
            continue
        match = re.match(r"(?:L|layer_?|blocks\.)(\d+)", path.name)
        if match is None:
            raise ModelError(f"The layer of {path} is unclear; name the folder L05, layer05... or blocks.5...")
        layer = int(match[1])
        if layer in found:
            raise ModelError(f"Two autoencoders for layer {layer}: {found[layer].name} and {path.name}.")
        found[layer] = path
    if not found:
        raise ModelError(
            f"{folder} holds no sparse autoencoders; expected folders L00, L01, ... or layer00_x4_k32, ..."
        )
    return {layer: load_sae(found[layer]) for layer in sorted(found)}


def check_saes(saes: dict[int, TopKSAE], d_model: int, n_layers: int, input_mode: str) -> None:
    """Refuse autoencoders that were not made for this model and this input.

    Raises
    ------
    ModelError
        If a width or layer is not the model's, or the autoencoder was trained with another input mode.
    """
    for layer, sae in saes.items():
        if sae.d_model != d_model:
            raise ModelError(
                f"The autoencoder of layer {layer} reads {sae.d_model} dimensions, the model has {d_model}. "
                "It belongs to another model."
            )
        if not 0 <= layer < n_layers:
            raise ModelError(f"There is an autoencoder for layer {layer}; the model has layers 0 to {n_layers - 1}.")
        trained_on = sae.info.get("input_mode", "")
        if trained_on and input_mode and trained_on != input_mode:
            raise ModelError(
                f"The autoencoder of layer {layer} was trained on {trained_on!r} input, the cells are tokenised as "
                f'{input_mode!r}. Set input_mode = "{trained_on}" or train new autoencoders.'
            )


def _load_saelens(folder: Path) -> TopKSAE:
    config = read_json(folder / CONFIG_FILE)
    architecture = config.get("architecture", "standard")
    if architecture != "topk":
        raise ModelError(f"{folder} holds a {architecture!r} autoencoder; this version reads TopK ones.")
    for name in ("normalize_activations", "reshape_activations"):
        if config.get(name, "none") != "none":
            raise ModelError(f"{folder}: {name} = {config[name]!r} is not supported; fold it into the weights first.")
    absent = [name for name in ("d_in", "d_sae", "k") if name not in config]
    if absent:
        raise ModelError(f"{folder / CONFIG_FILE} lacks {listed(absent)}.")
    if not all(isinstance(config[name], int) for name in ("d_in", "d_sae", "k")):
        raise ModelError(f"{folder / CONFIG_FILE}: d_in, d_sae and k must be whole numbers.")
    width, n_features = config["d_in"], config["d_sae"]
    weights = read_tensors(folder / WEIGHTS_FILE)
    shapes = {"W_enc": (width, n_features), "W_dec": (n_features, width), "b_enc": (n_features,), "b_dec": (width,)}
    check_weights(shapes, weights, str(folder / WEIGHTS_FILE))
    if config.get("rescale_acts_by_decoder_norm", False):
        # such an autoencoder selects by, and reports, activation times decoder norm: the same as unit-norm weights
        norms = weights["W_dec"].norm(dim=1)
        # a row of zeros stays one: its feature is never active, since its encoder becomes zero
        weights["W_dec"] = weights["W_dec"] / norms.where(norms > 0, 1.0)[:, None]
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norms, weights["b_enc"] * norms
    b_in = weights["b_dec"] if config.get("apply_b_dec_to_input", True) else torch.zeros(width)
    sae = TopKSAE(width, n_features, config["k"])
    sae.load_state_dict({k: v.float() for k, v in weights.items()} | {"b_in": b_in.float()}, strict=True)
    sae.info = dict(config.get("metadata") or {})
    return sae.eval().requires_grad_(False)


def _load_published(folder: Path) -> TopKSAE:
    """sae_final.pt and activation_mean.npy of Kendiukhov 2026.

    The input is centred by the mean, which is added back to the reconstruction. The decoder is not of unit norm per
    feature (it was normalised along the other axis); it is kept as it is, since rescaling would change the top k.
    """
    path = folder / "sae_final.pt"
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
    state = {
        "W_enc": weights["W_enc.weight"].float().T.contiguous(),
        "W_dec": weights["W_dec.weight"].float().T.contiguous(),
        "b_enc": weights["W_enc.bias"].float(),
        "b_dec": weights["W_dec.bias"].float() + mean,
        "b_in": mean,
    }
    sae.load_state_dict(state, strict=True)
    sae.info = {"source": "published", "input_mode": "published"}
    return sae.eval().requires_grad_(False)


def _published_k(path: Path, folder: Path) -> int:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content.get("k"), int):
        return content["k"]
    match = re.search(r"_k(\d+)$", folder.name)
    if match is None:
        raise ModelError(f"{path} does not say k, nor does its folder's name (layer05_x4_k32).")
    return int(match[1])
