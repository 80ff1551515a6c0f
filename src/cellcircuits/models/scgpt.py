"""scGPT: a transformer encoder over (gene, binned expression) pairs, without positions.

Files and preprocessing follow the published ones (Cui et al. 2024): args.json, vocab.json, best_model.pt.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cellcircuits.checkpoints import check_weights, read_json, read_tensors
from cellcircuits.counts import read_counts
from cellcircuits.errors import DataError, ModelError, listed
from cellcircuits.gene_edits import Perturbation, delete_gene, overexpress_by_value
from cellcircuits.models.encoder import EncoderBlock, EncoderModel
from cellcircuits.settings import CellsSettings
from cellcircuits.tokens import Tokens
from cellcircuits.value_tokens import Vocabulary, scgpt_tokens

EPSILON = 1e-5
LARGEST_VALUE = 512.0
"""The value encoder clips larger inputs."""
BLOCK_PARTS = {
    "self_attn.in_proj_": "qkv.",
    "self_attn.out_proj.": "out.",
    "linear1.": "linear1.",
    "linear2.": "linear2.",
    "norm1.": "norm1.",
    "norm2.": "norm2.",
}
PARTS = {
    "encoder.embedding.": "gene_embeddings.",
    "encoder.enc_norm.": "gene_norm.",
    "value_encoder.linear1.": "value_linear1.",
    "value_encoder.linear2.": "value_linear2.",
    "value_encoder.norm.": "value_norm.",
    "decoder.fc.": "decoder.",
    "mvc_decoder.gene2query.": "mvc_query.",
    "mvc_decoder.W.": "mvc_weight.",
}
UNUSED = ("flag_encoder.", "cls_decoder.")
"""Weights that the encoder does not use: the generative flag of pretraining, classifier heads of fine-tuning."""
ARGUMENTS = ("nlayers", "nheads", "embsize", "d_hid")
ARGUMENT_DEFAULTS: dict[str, Any] = {
    "n_bins": 51,
    "max_seq_len": 1200,
    "pad_token": "<pad>",
    "pad_value": -2,
    "mask_value": -1,
}


class ScGPT(EncoderModel):
    """scGPT with its expression decoder."""

    name = "scgpt"
    output_name = "predicted expression of the gene (bins)"

    def __init__(self, arguments: dict[str, Any], vocabulary: Vocabulary) -> None:
        super().__init__()
        self.arguments = arguments
        self.vocabulary = vocabulary
        self.n_layers = arguments["nlayers"]
        self.d_model = width = arguments["embsize"]
        self.unused_weights: list[str] = []
        self.gene_embeddings = nn.Embedding(len(vocabulary.tokens), width)
        self.gene_norm = nn.LayerNorm(width, eps=EPSILON)
        self.value_linear1 = nn.Linear(1, width)
        self.value_linear2 = nn.Linear(width, width)
        self.value_norm = nn.LayerNorm(width, eps=EPSILON)
        shape = (width, arguments["nheads"], arguments["d_hid"], EPSILON)
        self.blocks = nn.ModuleList(EncoderBlock(*shape) for _ in range(self.n_layers))
        self.decoder = nn.Sequential(
            nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, 1)
        )
        self.mvc_query: nn.Linear | None = nn.Linear(width, width)
        self.mvc_weight: nn.Linear | None = nn.Linear(width, width, bias=False)

    def embed(self, tokens: Tokens) -> torch.Tensor:
        if tokens.values is None:
            raise DataError("scGPT reads an expression value with every gene; these Tokens have no values.")
        ids = torch.from_numpy(tokens.ids).long().to(self.device)
        values = torch.from_numpy(tokens.values).to(self.device).unsqueeze(-1).clamp(max=LARGEST_VALUE)
        encoded = self.value_norm(self.value_linear2(F.relu(self.value_linear1(values))))
        return self.gene_norm(self.gene_embeddings(ids)) + encoded

    def predicted_values(self, hidden: torch.Tensor) -> torch.Tensor:
        """Expression (in bins) that the decoder predicts at each position, from the output of the last block."""
        return self.decoder(hidden).squeeze(-1)

    def gene_outputs(self, hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        """Expression (in bins) that the decoder predicts at each position."""
        return self.predicted_values(hidden)

    def mask(self, tokens: Tokens, at: np.ndarray) -> Tokens:
        """The mask value in place of the expression values; the genes stay."""
        if tokens.values is None:
            raise DataError("scGPT reads an expression value with every gene; these Tokens have no values.")
        return replace(tokens, values=np.where(at, np.float32(self.arguments["mask_value"]), tokens.values))

    def masked_loss(self, hidden: torch.Tensor, tokens: Tokens, at: np.ndarray) -> torch.Tensor:
        """Mean squared error of the predicted values, in bins^2."""
        if tokens.values is None:
            raise DataError("scGPT reads an expression value with every gene; these Tokens have no values.")
        error = (self.predicted_values(hidden) - torch.from_numpy(tokens.values).to(self.device)) ** 2
        masked = torch.from_numpy(at).to(self.device)
        return (error * masked).sum(-1) / masked.sum(-1)

    perturbations = ("delete", "overexpress")

    def perturb_gene(self, tokens: Tokens, token_id: int, kind: Perturbation) -> Tokens:
        """Without the gene (as with a count of 0), or with the gene at the largest value of the cell."""
        if kind == "delete":
            return delete_gene(tokens, token_id)
        if kind == "overexpress":
            return overexpress_by_value(tokens, token_id, self.arguments["max_seq_len"])
        return super().perturb_gene(tokens, token_id, kind)

    def predicted_values_from_cell(self, tokens: Tokens, hidden: torch.Tensor) -> torch.Tensor:
        """Expression predicted for each gene from the <cls> output alone (the MVC objective of pretraining).

        Raises
        ------
        ModelError
            If the checkpoint was saved without the weights for it.
        """
        if self.mvc_query is None or self.mvc_weight is None:
            raise ModelError("This scGPT checkpoint has no mvc_decoder; it cannot predict expression from the cell.")
        genes = self.gene_norm(self.gene_embeddings(torch.from_numpy(tokens.ids).long().to(self.device)))
        query = torch.sigmoid(self.mvc_query(genes))
        return (self.mvc_weight(query) * hidden[:, :1]).sum(-1)

    def tokenize(self, adata: ad.AnnData, settings: CellsSettings | None = None, **changes: Any) -> Tokens:
        """Gene and value tokens of raw counts; see `scgpt_tokens`."""
        settings = CellsSettings(**{**vars(settings or CellsSettings()), **changes})
        return scgpt_tokens(read_counts(adata, settings), self.vocabulary, self.arguments, settings)

    def reference_hidden_states(self, tokens: Tokens) -> list[torch.Tensor]:
        """Hidden states by torch's own `TransformerEncoderLayer` with the same weights.

        The layers are called one by one: `nn.TransformerEncoder` may switch to nested tensors, which hide padding.
        """
        hidden = self.embed(tokens)
        padding = torch.from_numpy(tokens.ids == tokens.pad_id).to(hidden.device)
        stored, states = self.to_checkpoint(), []
        for layer in range(self.n_layers):
            with torch.random.fork_rng(devices=[]):
                reference = nn.TransformerEncoderLayer(
                    self.d_model, self.arguments["nheads"], self.arguments["d_hid"], batch_first=True
                )
            prefix = f"transformer_encoder.layers.{layer}."
            own = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
            reference.load_state_dict({re.sub(r"Wqkv\.", "in_proj_", k): v for k, v in own.items()}, strict=True)
            # train mode without dropout: eval mode takes a fused path that zeroes padded positions
            reference.train().to(hidden.device)
            for module in reference.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
            reference.self_attn.dropout = 0.0
            hidden = reference(hidden, src_key_padding_mask=padding)
            states.append(hidden)
        return states

    def to_checkpoint(self) -> dict[str, torch.Tensor]:
        """Weights under the names of the published file (flash-attention's names for attention)."""
        stored = {}
        for key, value in self.state_dict().items():
            if match := re.match(r"blocks\.(\d+)\.(.*)", key):
                theirs = _renamed(match[2], {v: k for k, v in BLOCK_PARTS.items()})
                key = f"transformer_encoder.layers.{match[1]}.{theirs}".replace("in_proj_", "Wqkv.")
            else:
                key = _renamed(key, {v: k for k, v in PARTS.items()})
            stored[key] = value
        return stored

    def from_checkpoint(self, stored: dict[str, torch.Tensor], origin: str) -> None:
        """Load weights given under any of the published names; every one must be there and fit."""
        stored = {_plain_name(key): value for key, value in stored.items()}
        self.unused_weights = sorted(k for k in stored if k.startswith(UNUSED))
        stored = {k: v for k, v in stored.items() if not k.startswith(UNUSED)}
        if not any(key.startswith("mvc_decoder.") for key in stored):
            # not left with random weights: they would differ, and the model's fingerprint with them, at every load
            self.mvc_query = self.mvc_weight = None
        expected = {_plain_name(k): tuple(v.shape) for k, v in self.to_checkpoint().items()}
        check_weights(expected, stored, origin)
        mine = dict(self.state_dict())
        for key, value in stored.items():
            if match := re.match(r"transformer_encoder\.layers\.(\d+)\.(.*)", key):
                mine[f"blocks.{match[1]}.{_renamed(match[2], BLOCK_PARTS)}"] = value
            else:
                mine[_renamed(key, PARTS)] = value
        self.load_state_dict(mine, strict=True)


def _renamed(key: str, prefixes: dict[str, str]) -> str:
    for old, new in prefixes.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _plain_name(key: str) -> str:
    """Plain torch names for weights saved through DataParallel or any of the flash-attention wrappers."""
    key = key.removeprefix("module.").replace("self_attn._impl.", "self_attn.")
    return key.replace("self_attn.Wqkv.", "self_attn.in_proj_")


def load_scgpt(folder: Path, _dictionaries: str | Path = "") -> ScGPT:
    """Load an scGPT checkpoint folder (args.json, vocab.json, best_model.pt).

    Raises
    ------
    ModelError
        If a file is missing or damaged, or a weight is missing, unknown or misshapen.
    """
    arguments = ARGUMENT_DEFAULTS | read_json(folder / "args.json")
    absent = [name for name in ARGUMENTS if name not in arguments]
    if absent:
        raise ModelError(f"{folder / 'args.json'} lacks {listed(absent)}; is it an scGPT checkpoint?")
    style = arguments.get("input_emb_style", "continuous")
    if style != "continuous":
        raise ModelError(f"Only scGPT with continuous value embeddings is supported; args.json says {style!r}.")
    input_style = arguments.get("input_style", "binned")
    if input_style != "binned":
        raise ModelError(f"Only scGPT with binned input values is supported; args.json says {input_style!r}.")
    vocabulary = Vocabulary.read(folder / "vocab.json", arguments["pad_token"])
    model = ScGPT(arguments, vocabulary)
    model.from_checkpoint(read_tensors(folder / "best_model.pt"), str(folder / "best_model.pt"))
    return model.eval()
