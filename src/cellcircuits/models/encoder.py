"""The transformer block that Geneformer (BERT) and scGPT share: bidirectional attention, post-LayerNorm.

    m = LayerNorm1(x + out(attention(x)))
    y = LayerNorm2(m + linear2(activation(linear1(m))))

One implementation serves both families, so the engine can start at any block and choose the positions that ask.
`check_model` holds it to the hidden states of the original implementations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from cellcircuits.models.base import Model, key_padding_mask
from cellcircuits.positions import CleanStates, Positions
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
        attention = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self._finish_rows(hidden, attention.transpose(1, 2).flatten(-2))

    def read(self, hidden: torch.Tensor, at: Positions, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Block output at the positions `at` alone, (read, d_model): every position is looked at, only these look.

        The same numbers as `forward(hidden, mask)[at.copy, at.position]`, without the queries and the feed-forward
        layers of all other positions.
        """
        key, value = self.keys_values(hidden)
        rows = hidden[at.copy, at.position]
        query = self._heads(at.padded(self._project(rows, 0, 1)))
        attention = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self._finish_rows(rows, at.unpadded(attention.transpose(1, 2).flatten(-2)))

    def keys_values(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, each (cell, head, position, d_head), of the block's input."""
        key, value = (self._heads(part) for part in self._project(hidden, 1, 3).chunk(2, dim=-1))
        return key, value

    def read_frozen(
        self, rows: torch.Tensor, at: Positions, clean_keys: torch.Tensor, clean_values: torch.Tensor
    ) -> torch.Tensor:
        """Block output at the changed positions `at`, (read, d_model), if all other positions stay as they were.

        `rows` (read, d_model) are the changed inputs; `clean_keys` and `clean_values` (head, position, d_head) those of
        the undisturbed input. A changed position looks at the clean keys and values of the unchanged positions, and at
        the changed ones of its own copy. All rows meet the clean keys in one product, whatever copy they are of.
        """
        query, key, value = self.qkv(rows).chunk(3, dim=-1)
        query = query * (query.shape[-1] // self.n_heads) ** -0.5
        scores = self._row_heads(query) @ clean_keys.transpose(-1, -2)
        scores.masked_fill_(at.changed(clean_keys.shape[1])[at.copy], -torch.inf)
        own = self._heads(at.padded(query)) @ self._heads(at.padded(key)).transpose(-1, -2)
        own.masked_fill_(~at.filled[:, None, None, :], -torch.inf)
        # softmax over both kinds of keys together: (head, read, position) and (copy, head, slot, slot)
        own_rows = own.transpose(1, 2)[at.copy, at.slot].transpose(0, 1)
        largest = torch.maximum(scores.amax(dim=-1), own_rows.amax(dim=-1))[..., None]
        scores.sub_(largest).exp_()
        own_rows = (own_rows - largest).exp_()
        total = scores.sum(dim=-1, keepdim=True) + own_rows.sum(dim=-1, keepdim=True)
        own = own.zero_().transpose(1, 2)
        own[at.copy, at.slot] = own_rows.transpose(0, 1)
        from_own = (own.transpose(1, 2) @ self._heads(at.padded(value))).transpose(1, 2)[at.copy, at.slot]
        attention = (scores @ clean_values + from_own.transpose(0, 1)) / total
        return self._finish_rows(rows, attention.transpose(0, 1).flatten(-2))

    def _row_heads(self, rows: torch.Tensor) -> torch.Tensor:
        """(read, d_model) to (head, read, d_head)."""
        return rows.unflatten(-1, (self.n_heads, -1)).transpose(0, 1)

    def _project(self, x: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Parts `first` to `last` of query, key and value (0, 1, 2)."""
        width = self.qkv.in_features
        return F.linear(x, self.qkv.weight[first * width : last * width], self.qkv.bias[first * width : last * width])

    def _finish_rows(self, rows: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        middle = self.norm1(rows + self.out(attention))
        return self.norm2(middle + self.linear2(F.relu(self.linear1(middle))))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(cell, position, d_model) to (cell, head, position, d_head)."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class EncoderModel(Model):
    """A stack of `EncoderBlock`s; subclasses set `blocks` and write `tokenize` and `embed`."""

    blocks: nn.ModuleList
    has_frozen_context = True

    def run_layers(
        self, hidden: torch.Tensor, tokens: Tokens, start: int, stop: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        mask = key_padding_mask(tokens, hidden.device)
        for layer in range(start, stop):
            hidden = self.blocks[layer](hidden, mask)
            yield layer, hidden

    def replay(
        self, clean: CleanStates, rows: torch.Tensor, at: Positions, start: int, stop: int, frozen: bool = False
    ) -> Iterator[tuple[int, torch.Tensor]]:
        blocks = cast(Sequence[EncoderBlock], self.blocks)
        if frozen:
            for layer in range(start, stop):
                if layer not in clean.memo:
                    clean.memo[layer] = [part[0] for part in blocks[layer].keys_values(clean.hidden[layer - 1])]
                rows = blocks[layer].read_frozen(rows, at, *clean.memo[layer])
                yield layer, rows
            return
        hidden = clean.hidden[start - 1].repeat(at.n_copies, 1, 1)
        hidden[at.copy, at.position] = rows
        for layer in range(start, stop - 1):
            hidden = blocks[layer](hidden)
            yield layer, hidden[at.copy, at.position]
        # nothing above the last block reads its other positions
        yield stop - 1, blocks[stop - 1].read(hidden, at)
