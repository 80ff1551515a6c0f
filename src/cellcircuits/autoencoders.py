"""Sparse autoencoders at use time: encode, decode, save.

    pre = (h - b_in) W_enc + b_enc
    z   = TopK: the k largest entries of pre, negative ones set to 0; all others 0
          JumpReLU: the entries of pre above their feature's threshold and above 0; all others 0
    h'  = z W_dec + b_dec

Shapes follow SAELens: W_enc (d_model, feature), W_dec (feature, d_model). BatchTopK and Matryoshka autoencoders are
JumpReLU ones once they are trained, with one threshold for all features; those with a plain ReLU have thresholds of 0.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from cellcircuits.errors import ModelError
from cellcircuits.top_k import top_k_indices

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"


class SparseCode(NamedTuple):
    """The largest activations of each position; a feature is active where its value is above 0.

    All positions of a code have as many entries. The features of one position are different ones, also where values
    are 0.
    """

    values: torch.Tensor
    """float (..., entry), not negative."""
    indices: torch.Tensor
    """int64 (..., entry): feature of each value."""

    def dense(self, n_features: int) -> torch.Tensor:
        """The same code with one column per feature, (..., feature)."""
        code = self.values.new_zeros(*self.values.shape[:-1], n_features)
        return code.scatter_(-1, self.indices, self.values)

    def mean_by(self, groups: torch.Tensor, counts: torch.Tensor, n_features: int) -> torch.Tensor:
        """Mean code of groups of rows, float64 (group, feature), for a code of shape (row, entry).

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


class SparseAutoencoder(nn.Module):
    """What the sparse autoencoders of all architectures share; `encode` is what they differ in."""

    def __init__(self, d_model: int, n_features: int) -> None:
        super().__init__()
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

    @abstractmethod
    def encode(self, hidden: torch.Tensor) -> SparseCode:
        """Sparse code of hidden states (..., d_model)."""

    def decode(self, code: SparseCode) -> torch.Tensor:
        """Reconstruction (..., d_model) of a code."""
        values, indices = (part.reshape(-1, code.values.shape[-1]) for part in code)
        summed = nn.functional.embedding_bag(indices, self.W_dec, per_sample_weights=values, mode="sum")
        return (summed + self.b_dec).reshape(*code.values.shape[:-1], self.d_model)

    @abstractmethod
    def saelens_config(self) -> dict[str, Any]:
        """What SAELens calls this architecture, and its own settings."""

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Write a SAELens folder.

        `b_in` is folded into `b_enc` where SAELens cannot express it; all other weights keep their bits.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        b_in = weights.pop("b_in")
        subtract_b_dec = torch.equal(b_in, weights["b_dec"])
        if not subtract_b_dec:
            weights["b_enc"] = self._folded_bias().cpu()
        save_file(weights, folder / WEIGHTS_FILE)
        config = {
            **self.saelens_config(),
            "d_in": self.d_model,
            "d_sae": self.n_features,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": subtract_b_dec,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": self.info,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def _folded_bias(self) -> torch.Tensor:
        """b_enc for an input from which nothing is subtracted."""
        return (self.b_enc.double() - self.b_in.double() @ self.W_enc.double()).float()


class TopKSAE(SparseAutoencoder):
    """TopK sparse autoencoder of one layer: as many entries at every position."""

    def __init__(self, d_model: int, n_features: int, k: int) -> None:
        if not 1 <= k <= n_features:
            raise ModelError(f"A TopK autoencoder needs 1 <= k <= features; found k = {k}, features = {n_features}.")
        super().__init__(d_model, n_features)
        self.k = k

    def encode(self, hidden: torch.Tensor) -> SparseCode:
        """The k largest pre-activations of hidden states (..., d_model)."""
        pre = self.pre_activations(hidden)
        indices = top_k_indices(pre, self.k)
        return SparseCode(pre.gather(-1, indices).relu(), indices)

    def saelens_config(self) -> dict[str, Any]:
        """Architecture "topk"."""
        return {"architecture": "topk", "k": self.k, "rescale_acts_by_decoder_norm": False}


class JumpReLUSAE(SparseAutoencoder):
    """Sparse autoencoder with a threshold per feature: a different number of active features at every position."""

    def __init__(self, d_model: int, n_features: int) -> None:
        super().__init__(d_model, n_features)
        self.threshold = nn.Parameter(torch.zeros(n_features))

    def encode(self, hidden: torch.Tensor) -> SparseCode:
        """Pre-activations of hidden states (..., d_model) above threshold.

        The code has as many entries as the position with the most; elsewhere features that are not active fill it up,
        with a value of 0.
        """
        pre = self.pre_activations(hidden)
        active = (pre > self.threshold) & (pre > 0)
        counts = active.sum(dim=-1, keepdim=True)
        width = max(int(counts.max()), 1) if counts.numel() else 1
        # among the first `width` features at least `width - count` are free
        free = ~active[..., :width]
        taken = active.clone()
        taken[..., :width] |= free & (free.cumsum(dim=-1) <= width - counts)
        indices = taken.nonzero(as_tuple=True)[-1].reshape(*pre.shape[:-1], width)
        return SparseCode(torch.where(active, pre, 0.0).gather(-1, indices), indices)

    def saelens_config(self) -> dict[str, Any]:
        """Architecture "jumprelu"."""
        return {"architecture": "jumprelu"}
