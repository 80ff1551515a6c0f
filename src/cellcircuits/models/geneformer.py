"""Geneformer V1 and V2: a BERT encoder over genes ranked by expression.

Files and tokeniser follow the published ones (Theodoris et al. 2023; Chen et al. 2024): config.json,
model.safetensors of `BertForMaskedLM`, pickled gene dictionaries.
"""

from __future__ import annotations

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
from cellcircuits.errors import DataError, ModelError
from cellcircuits.gene_edits import Perturbation, delete_gene, overexpress_by_rank
from cellcircuits.models.encoder import EncoderBlock, EncoderModel
from cellcircuits.rank_tokens import GeneDictionaries, find_dictionaries, geneformer_tokens
from cellcircuits.settings import CellsSettings
from cellcircuits.tokens import Tokens

BLOCK_PARTS = {
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
}
PARTS = {
    "bert.embeddings.word_embeddings": "word_embeddings",
    "bert.embeddings.position_embeddings": "position_embeddings",
    "bert.embeddings.token_type_embeddings": "token_type_embeddings",
    "bert.embeddings.LayerNorm": "embedding_norm",
    "cls.predictions.transform.dense": "head_dense",
    "cls.predictions.transform.LayerNorm": "head_norm",
}
IGNORED = ("bert.embeddings.position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
"""Stored by some versions of transformers: a buffer, and two tensors that are tied to others."""


class Geneformer(EncoderModel):
    """Geneformer with its masked-gene head. Hidden state l is what transformers calls `hidden_states[l + 1]`."""

    name = "geneformer"
    output_name = "logit of the gene where it stands"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.n_layers = config["num_hidden_layers"]
        self.d_model = width = config["hidden_size"]
        self.max_length = config["max_position_embeddings"]
        epsilon = config["layer_norm_eps"]
        self.word_embeddings = nn.Embedding(config["vocab_size"], width)
        self.position_embeddings = nn.Embedding(self.max_length, width)
        self.token_type_embeddings = nn.Embedding(config["type_vocab_size"], width)
        self.embedding_norm = nn.LayerNorm(width, eps=epsilon)
        shape = (width, config["num_attention_heads"], config["intermediate_size"], epsilon)
        self.blocks = nn.ModuleList(EncoderBlock(*shape) for _ in range(self.n_layers))
        self.head_dense = nn.Linear(width, width)
        self.head_norm = nn.LayerNorm(width, eps=epsilon)
        self.head_bias = nn.Parameter(torch.zeros(config["vocab_size"]))
        self.dictionaries: GeneDictionaries | None = None

    def embed(self, tokens: Tokens) -> torch.Tensor:
        ids = torch.from_numpy(tokens.ids).long().to(self.device)
        if ids.shape[1] > self.max_length:
            raise DataError(f"Cells have {ids.shape[1]} tokens; this Geneformer reads at most {self.max_length}.")
        positions = torch.arange(ids.shape[1], device=ids.device)
        total = self.word_embeddings(ids) + self.position_embeddings(positions) + self.token_type_embeddings.weight[0]
        return self.embedding_norm(total)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Masked-gene logits (..., token) from the output of the last block (..., d_model)."""
        transformed = self.head_norm(F.relu(self.head_dense(hidden)))
        return F.linear(transformed, self.word_embeddings.weight, self.head_bias)

    def gene_outputs(self, hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        """Logit of the token that stands at each position."""
        ids = torch.from_numpy(tokens.ids).long().to(self.device)
        transformed = self.head_norm(F.relu(self.head_dense(hidden)))
        return (transformed * self.word_embeddings(ids)).sum(-1) + self.head_bias[ids]

    def mask(self, tokens: Tokens, at: np.ndarray) -> Tokens:
        """The token <mask> in place of the genes."""
        return replace(tokens, ids=np.where(at, np.int32(self._mask_id()), tokens.ids))

    def masked_loss(self, hidden: torch.Tensor, tokens: Tokens, at: np.ndarray) -> torch.Tensor:
        """Cross-entropy of the hidden genes, in nats."""
        ids = torch.from_numpy(tokens.ids).long().to(self.device)
        losses = []
        for state, row, masked in zip(hidden, ids.expand(len(hidden), -1), _rows(at, len(hidden)), strict=True):
            losses.append(F.cross_entropy(self.logits(state[masked]), row[masked]))
        return torch.stack(losses)

    perturbations = ("delete", "overexpress")

    def perturb_gene(self, tokens: Tokens, token_id: int, kind: Perturbation) -> Tokens:
        """Without the gene, or with the gene at the highest rank."""
        if kind == "delete":
            return delete_gene(tokens, token_id)
        if kind == "overexpress":
            return overexpress_by_rank(tokens, token_id, self.max_length)
        return super().perturb_gene(tokens, token_id, kind)

    def _mask_id(self) -> int:
        """Token of <mask>; 1 in all published dictionaries."""
        return 1 if self.dictionaries is None else int(self.dictionaries.special.get("<mask>", 1))

    def tokenize(self, adata: ad.AnnData, settings: CellsSettings | None = None, **changes: Any) -> Tokens:
        """Rank-value tokens of raw counts; see `geneformer_tokens`."""
        if self.dictionaries is None:
            raise ModelError(
                "Geneformer needs its gene dictionaries to tokenise (token_dictionary*.pkl and the others). "
                "Put them beside the checkpoint or set `dictionaries` to their folder."
            )
        settings = CellsSettings(**{**vars(settings or CellsSettings()), **changes})
        return geneformer_tokens(read_counts(adata, settings), self.dictionaries, self.max_length, settings)

    def reference_hidden_states(self, tokens: Tokens) -> list[torch.Tensor]:
        """Hidden states by transformers' `BertForMaskedLM` with the same weights."""
        from transformers import BertConfig, BertForMaskedLM

        with torch.random.fork_rng(devices=[]):
            reference = BertForMaskedLM(BertConfig(**self.config)).eval()
        stored = self.to_checkpoint()
        stored["cls.predictions.decoder.weight"] = stored["bert.embeddings.word_embeddings.weight"]
        stored["cls.predictions.decoder.bias"] = stored["cls.predictions.bias"]
        reference.load_state_dict(stored, strict=True)
        ids = torch.from_numpy(tokens.ids).long()
        output = reference(ids, attention_mask=(ids != tokens.pad_id).long(), output_hidden_states=True)
        return [h.to(self.device) for h in output.hidden_states[1:]]

    def to_checkpoint(self) -> dict[str, torch.Tensor]:
        """Weights under the names of the published files; no two share memory, as safetensors wants it."""
        return {key: value.clone() if ".attention.self." in key else value for key, value in self._published().items()}

    def _published(self) -> dict[str, torch.Tensor]:
        """Weights under the names of the published files; query, key and value are views of one."""
        mine = self.state_dict()
        stored = {
            f"{theirs}.{kind}": mine[f"{ours}.{kind}"]
            for theirs, ours in PARTS.items()
            for kind in ("weight", "bias")
            if f"{ours}.{kind}" in mine
        }
        stored["cls.predictions.bias"] = mine["head_bias"]
        for layer in range(self.n_layers):
            prefix = f"bert.encoder.layer.{layer}."
            for kind in ("weight", "bias"):
                parts = mine[f"blocks.{layer}.qkv.{kind}"].chunk(3)
                for theirs, part in zip(("query", "key", "value"), parts, strict=True):
                    stored[f"{prefix}attention.self.{theirs}.{kind}"] = part
                for theirs, ours in BLOCK_PARTS.items():
                    stored[f"{prefix}{theirs}.{kind}"] = mine[f"blocks.{layer}.{ours}.{kind}"]
        return stored

    def from_checkpoint(self, stored: dict[str, torch.Tensor], origin: str) -> None:
        """Load weights given under the names of the published files; every one must be there and fit."""
        stored = {key: value for key, value in stored.items() if key not in IGNORED}
        stored = {k: v for k, v in stored.items() if not k.startswith("bert.pooler.")}
        check_weights({k: tuple(v.shape) for k, v in self._published().items()}, stored, origin)
        mine = {
            f"{ours}.{kind}": stored[f"{theirs}.{kind}"]
            for theirs, ours in PARTS.items()
            for kind in ("weight", "bias")
            if f"{theirs}.{kind}" in stored
        }
        mine["head_bias"] = stored["cls.predictions.bias"]
        for layer in range(self.n_layers):
            prefix = f"bert.encoder.layer.{layer}."
            for kind in ("weight", "bias"):
                parts = [stored[f"{prefix}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
                mine[f"blocks.{layer}.qkv.{kind}"] = torch.cat(parts)
                for theirs, ours in BLOCK_PARTS.items():
                    mine[f"blocks.{layer}.{ours}.{kind}"] = stored[f"{prefix}{theirs}.{kind}"]
        self.load_state_dict(mine, strict=True)


def _rows(at: np.ndarray, n: int) -> torch.Tensor:
    """`at` (cell, position) for `n` cells, or for `n` copies of one."""
    return torch.from_numpy(at).expand(n, -1)


CONFIG_KEYS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "vocab_size",
)
CONFIG_DEFAULTS: dict[str, Any] = {
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "hidden_act": "relu",
}


def load_geneformer(folder: Path, dictionaries: str | Path = "") -> Geneformer:
    """Load a Geneformer checkpoint folder (config.json, model.safetensors or pytorch_model.bin).

    Raises
    ------
    ModelError
        If a file is missing or damaged, or a weight is missing, unknown or misshapen.
    """
    config = CONFIG_DEFAULTS | read_json(folder / "config.json")
    absent = [key for key in CONFIG_KEYS if key not in config]
    if absent:
        raise ModelError(f"{folder / 'config.json'} lacks {', '.join(absent)}; is it a Geneformer checkpoint?")
    if config["hidden_act"] != "relu":
        raise ModelError(f"Geneformer uses relu; {folder / 'config.json'} asks for {config['hidden_act']!r}.")
    files = [folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).exists()]
    if not files:
        raise ModelError(f"{folder} has neither model.safetensors nor pytorch_model.bin.")
    model = Geneformer(config)
    model.from_checkpoint(read_tensors(files[0]), str(files[0]))
    where = find_dictionaries(folder, dictionaries, config["vocab_size"])
    if where is not None:
        model.dictionaries = GeneDictionaries.read(where, config["vocab_size"])
    return model.eval()
