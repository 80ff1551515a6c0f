"""A transformer whose weights are set, not trained: the blocks of `EncoderModel`, wired unit by unit.

Attention and feed-forward layers are the real ones, so that every path of the engine (exact, replay, frozen context)
runs on it. What would mix everything is the LayerNorm. Two dimensions hold +anchor and -anchor at every position, and
everything else that is ever written sums to zero over the dimensions, so for a state x with other content f

    LayerNorm(x) = x gain / sqrt(|x|^2 / d_model),   |x|^2 = 2 anchor^2 + |f|^2

which, with gain = anchor sqrt(2 / d_model), is x (1 - |f|^2 / (4 anchor^2)): the identity but for about 0.05 % per
norm. What is left of it is real: a feature that is removed lets all others grow by a few millionths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import anndata as ad
import numpy as np
import torch
from torch import nn

from cellcircuits.errors import ModelError
from cellcircuits.gene_edits import Perturbation, delete_gene, overexpress_by_value
from cellcircuits.models.encoder import EncoderBlock, EncoderModel
from cellcircuits.settings import CellsSettings
from cellcircuits.tokens import Tokens

Norm = Literal["layer", "none"]
N_HEADS = 2
ANCHOR = 400.0
"""Constant content of the first two dimensions, large against everything else."""
FOCUS = 40.0
"""Attention score of the keys that are looked for; all others have 0 and get a share of exp(-40)."""


class HiddenUnits(NamedTuple):
    """Hidden units of a feed-forward layer: each adds relu(reads . h + bias) * writes to the state."""

    reads: np.ndarray
    """float64 (unit, d_model)."""
    bias: np.ndarray
    """float64 (unit,)."""
    writes: np.ndarray
    """float64 (unit, d_model)."""


class Relay(NamedTuple):
    """One attention head: a receiver gets the mean over the cell's senders of some directions.

    Positions marked as senders look at the sink instead, where the directions have no content: nothing reaches them.
    """

    block: int
    reads: np.ndarray
    """float64 (relay, d_model): what is averaged over the senders."""
    writes: np.ndarray
    """float64 (relay, d_model): where its mean is added, at the receivers."""
    sender: np.ndarray
    """float64 (d_model,): direction that marks senders; so also `receiver` and `sink`."""
    receiver: np.ndarray
    sink: np.ndarray
    level: float
    """Content of the marked positions in their direction."""


class Embedding(NamedTuple):
    """What enters block 0: value * scaled[token] + fixed[token] + the state of the cell, at every position."""

    scaled: np.ndarray
    """float64 (token, d_model)."""
    fixed: np.ndarray
    """float64 (token, d_model)."""
    state_on: np.ndarray
    """float64 (bit, d_model): added at every position of a cell whose state has this bit."""
    state_off: np.ndarray
    """float64 (bit, d_model): added where it has not."""
    gene_ids: np.ndarray
    """str (token,), "" for special tokens."""


class PlantedModel(EncoderModel):
    """Transformer with chosen hidden units and at most one attention head that does something.

    Every cell starts with a special token whose value is the cell's state: a whole number, whose binary digits are
    added to all positions in directions of their own (as models add an embedding of the condition).

    Parameters
    ----------
    embedding
        Contents of tokens and cell states; none of it in the first two dimensions.
    hidden_units
        Of each block, from the first to the last.
    relay
        The attention head that does something.
    norm
        "layer": LayerNorm. "none": the norms are left out, and the residual stream is exactly linear.
    """

    name = "planted"

    def __init__(
        self,
        embedding: Embedding,
        hidden_units: Sequence[HiddenUnits],
        relay: Relay | None = None,
        norm: Norm = "layer",
    ) -> None:
        super().__init__()
        self.n_layers, self.d_model = len(hidden_units), embedding.scaled.shape[1]
        fixed = embedding.fixed.copy()
        fixed[:, 0], fixed[:, 1] = ANCHOR, -ANCHOR
        self.scaled, self.fixed = _parameter(embedding.scaled), _parameter(fixed)
        self.state_on, self.state_off = _parameter(embedding.state_on), _parameter(embedding.state_off)
        self.gene_ids = embedding.gene_ids
        made = [wired_block(units, norm) for units in hidden_units]
        if relay is not None:
            wire_attention(made[relay.block], relay)
        self.blocks = nn.ModuleList(made)
        self.eval().requires_grad_(False)

    def tokenize(self, adata: ad.AnnData, settings: CellsSettings | None = None, **changes: Any) -> Tokens:
        """Not possible: the cells are drawn together with the circuit."""
        raise ModelError("A planted model has cells of its own; use `planted(...).cells`.")

    perturbations = ("delete", "overexpress")

    def perturb_gene(self, tokens: Tokens, token_id: int, kind: Perturbation) -> Tokens:
        """Without the gene, or with the gene at the largest value of the cell."""
        if kind == "delete":
            return delete_gene(tokens, token_id)
        if kind == "overexpress":
            return overexpress_by_value(tokens, token_id, tokens.ids.shape[1] + 1)
        return super().perturb_gene(tokens, token_id, kind)

    def embed(self, tokens: Tokens) -> torch.Tensor:
        if tokens.values is None:
            raise ModelError("A planted model needs a value for every token; use `planted(...).cells`.")
        ids = torch.from_numpy(tokens.ids).long().to(self.device)
        values = torch.from_numpy(tokens.values).to(self.device)
        number = torch.arange(len(self.state_on), device=self.device)
        bits = (values[:, :1].long() >> number & 1).to(values.dtype)
        state = bits @ self.state_on + (1 - bits) @ self.state_off
        return values[..., None] * self.scaled[ids] + self.fixed[ids] + state[:, None]


def _parameter(values: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(values).float())


@torch.no_grad()
def wired_block(units: HiddenUnits, norm: Norm) -> EncoderBlock:
    """A block with these hidden units and an attention that adds nothing."""
    n_units, d_model = units.reads.shape
    block = EncoderBlock(d_model, N_HEADS, max(n_units, 1), epsilon=1e-12)
    for parameter in block.parameters():
        parameter.zero_()
    block.linear1.weight[:n_units] = torch.from_numpy(units.reads).float()
    block.linear1.bias[:n_units] = torch.from_numpy(units.bias).float()
    block.linear2.weight[:, :n_units] = torch.from_numpy(units.writes.T.copy()).float()
    for name in ("norm1", "norm2"):
        if norm == "none":
            block.add_module(name, nn.Identity())
        else:
            block.get_submodule(name).weight.fill_(ANCHOR * (2 / d_model) ** 0.5)  # type: ignore[operator]
    return block


@torch.no_grad()
def wire_attention(block: EncoderBlock, relay: Relay) -> None:
    """Let the first head carry `relay`; the others stay without effect."""
    d_model = block.out.in_features
    d_head, n_relays = d_model // block.n_heads, len(relay.reads)
    if n_relays > d_head:
        raise ModelError(f"A head of width {d_head} cannot carry {n_relays} directions.")
    sender, receiver, sink = (torch.from_numpy(flag).float() for flag in (relay.sender, relay.receiver, relay.sink))
    scale = (FOCUS * d_head**0.5) ** 0.5 / relay.level
    query, key, value = (block.qkv.weight[i * d_model : (i + 1) * d_model] for i in range(3))
    query[0], key[0] = scale * receiver, scale * sender
    query[1], key[1] = scale * (sender + sink), scale * sink
    value[:n_relays] = torch.from_numpy(relay.reads).float()
    block.out.weight[:, :n_relays] = torch.from_numpy(relay.writes.T.copy()).float()
