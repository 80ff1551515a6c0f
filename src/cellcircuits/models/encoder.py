"""The transformer block that Geneformer (BERT) and scGPT share: bidirectional attention, post-LayerNorm.

    m = LayerNorm1(x + out(attention(x)))
    y = LayerNorm2(m + linear2(activation(linear1(m))))

One implementation serves both families, so the engine can start at any block and choose the positions that ask.
`check_model` holds it to the hidden states of the original implementations.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from cellcircuits.models.base import Model, key_padding_mask
from cellcircuits.tokens import Tokens


class EncoderBlock(nn.Module):
    """One post-LayerNorm block. `qkv` holds query, key and value in this order; heads are contiguous inside each."""

    def __init__(self, d_model: int, n_heads: int, d_feedforward: int, epsilon: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.norm1 = nn.LayerNorm(d_model, eps=epsilon)
        self.linear1 = nn.Linear(d_model, d_feedforward)
        self.linear2 = nn.Linear(d_feedforward, d_model)
        self.norm2 = nn.LayerNorm(d_model, eps=epsilon)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Block output for every position; `hidden` (cell, position, d_model), `mask` (cell, 1, 1, position)."""
        query, key, value = (self._heads(part) for part in self.qkv(hidden).chunk(3, dim=-1))
        return self._finish(hidden, F.scaled_dot_product_attention(query, key, value, attn_mask=mask))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(cell, position, d_model) to (cell, head, position, d_head)."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def _finish(self, hidden: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        middle = self.norm1(hidden + self.out(attention.transpose(1, 2).flatten(-2)))
        return self.norm2(middle + self.linear2(F.relu(self.linear1(middle))))


class EncoderModel(Model):
    """A stack of `EncoderBlock`s; subclasses set `blocks` and write `tokenize` and `embed`."""

    blocks: nn.ModuleList

    def run_layers(
        self, hidden: torch.Tensor, tokens: Tokens, start: int, stop: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        mask = key_padding_mask(tokens, hidden.device)
        for layer in range(start, stop):
            hidden = self.blocks[layer](hidden, mask)
            yield layer, hidden
