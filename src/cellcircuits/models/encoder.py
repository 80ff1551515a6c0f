"""The transformer block that Geneformer (BERT) and scGPT share: bidirectional attention, post-LayerNorm.

    m = LayerNorm1(x + out(attention(x)))
    y = LayerNorm2(m + linear2(activation(linear1(m))))

One implementation serves both families, so the engine can start at any block and choose the positions that ask.
`check_model` holds it to the hidden states of the original implementations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from cellcircuits.models.attention import Attended, Excluded, attend, attend_explicitly, joined, with_changed_keys
from cellcircuits.models.base import Model, key_padding_mask
from cellcircuits.positions import CleanStates, Positions
from cellcircuits.settings import FEW_CHANGED
from cellcircuits.tokens import Tokens


class CleanAttention(NamedTuple):
    """Attention of an undisturbed cell in one block."""

    query: torch.Tensor
    """(head, position, d_head)."""
    key: torch.Tensor
    """(head, position, d_head)."""
    value: torch.Tensor
    """(head, position, d_head)."""
    attended: Attended
    """(head, position, d_head)."""


def changed_keys(at: Positions, n_positions: int, dtype: torch.dtype) -> Excluded:
    """For every changed position the positions that changed in its copy: their clean keys are not to be looked at."""
    return Excluded.of(at.changed(n_positions)[at.copy], dtype)


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
        return self._finish_rows(hidden, self._attention(hidden, mask))

    def read(self, hidden: torch.Tensor, at: Positions, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Block output at the positions `at` alone, (read, d_model): every position is looked at, only these look.

        The same numbers as `forward(hidden, mask)[at.copy, at.position]`, without the queries and the feed-forward
        layers of all other positions.
        """
        key, value = (self._heads(part) for part in self._project(hidden, 1, 3).chunk(2, dim=-1))
        rows = hidden[at.copy, at.position]
        query = self._heads(at.padded(self._project(rows, 0, 1)))
        attention = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self._finish_rows(rows, at.unpadded(attention.transpose(1, 2).flatten(-2)))

    def clean_attention(self, hidden: torch.Tensor) -> CleanAttention:
        """Attention of the undisturbed input (1, position, d_model), with what is needed to bring it up to date."""
        query, key, value = (self._row_heads(part) for part in self.qkv(hidden[0]).chunk(3, dim=-1))
        return CleanAttention(query, key, value, attend(query, key, value))

    def clean_keys_values(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (head, position, d_head) of the undisturbed input (1, position, d_model)."""
        key, value = (self._row_heads(part) for part in self._project(hidden[0], 1, 3).chunk(2, dim=-1))
        return key.contiguous(), value.contiguous()

    def added(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What attention and the feed-forward layers add to the undisturbed input (1, position, d_model)."""
        attention = self.out(self._attention(hidden))[0]
        return attention, self._feedforward(self.norm1(hidden[0] + attention))

    def pass_through(self, rows: torch.Tensor, attention: torch.Tensor, feedforward: torch.Tensor) -> torch.Tensor:
        """Block output for changed inputs `rows` (read, d_model) to which the same is added as before the change."""
        return self.norm2(self.norm1(rows + attention) + feedforward)

    def read_frozen(
        self,
        rows: torch.Tensor,
        at: Positions,
        clean_keys: torch.Tensor,
        clean_values: torch.Tensor,
        changed: Excluded,
    ) -> torch.Tensor:
        """Block output at the changed positions `at`, (read, d_model), if all other positions stay as they were.

        `rows` (read, d_model) are the changed inputs; `clean_keys` and `clean_values` (head, position, d_head) those of
        the undisturbed input; `changed` is what `changed_keys` says. A changed position looks at the clean keys and
        values of the unchanged positions, and at the changed ones of its own copy. All rows meet the clean keys in one
        product, whatever copy they are of.
        """
        attention = self._attend_changed(self.qkv(rows).chunk(3, dim=-1), at, clean_keys, clean_values, changed)
        return self._finish_rows(rows, attention)

    def forward_changed(
        self, rows: torch.Tensor, at: Positions, hidden: torch.Tensor, clean: CleanAttention
    ) -> torch.Tensor:
        """The same numbers as `forward(hidden)`, (copy, position, d_model), for copies that differ at few positions.

        `hidden` (copy, position, d_model) holds `rows` (read, d_model) at the positions `at` and the undisturbed input
        everywhere else, whose attention is `clean`: only what the changed positions add and take away is computed.
        """
        changed = self.qkv(rows).chunk(3, dim=-1)
        keys, values = (
            (self._heads(at.padded(self._rows(before[:, at.position]))), self._heads(at.padded(after)))
            for before, after in ((clean.key, changed[1]), (clean.value, changed[2]))
        )
        moved, leaning = with_changed_keys(clean.attended, clean.query, keys, values, at.filled)
        table = moved.transpose(1, 2).flatten(-2)
        del moved  # as large as the whole batch
        excluded = changed_keys(at, hidden.shape[1], hidden.dtype)
        table[at.copy, at.position] = self._attend_changed(changed, at, clean.key, clean.value, excluded)
        leaning[at.copy, at.position] = False
        if leaning.any():
            self._attend_anew(table, leaning, hidden)
        return self._finish_rows(hidden, table)

    def _attend_changed(
        self,
        changed: Sequence[torch.Tensor],
        at: Positions,
        clean_keys: torch.Tensor,
        clean_values: torch.Tensor,
        excluded: Excluded,
    ) -> torch.Tensor:
        """Attention (read, d_model) of changed positions with query, key and value `changed`, each (read, d_model)."""
        others = attend(self._row_heads(changed[0]).contiguous(), clean_keys, clean_values, excluded)
        query, key, value = (self._heads(at.padded(part)) for part in changed)
        empty = torch.zeros(at.filled.shape, dtype=query.dtype, device=query.device)
        empty.masked_fill_(~at.filled, -torch.inf)
        own = attend_explicitly(query, key, value, empty[:, None, None, :])
        padded = Attended(
            self._heads(at.padded(self._rows(others.output))), at.padded(others.log_sum.T).transpose(1, 2)
        )
        return at.unpadded(joined(padded, own).transpose(1, 2).flatten(-2))

    def _attend_anew(self, table: torch.Tensor, leaning: torch.Tensor, hidden: torch.Tensor) -> None:
        """Write the attention of the queries `leaning` (copy, position) into `table`, copy by copy."""
        for copy in leaning.any(dim=1).nonzero()[:, 0]:
            query, key, value = (self._row_heads(part) for part in self.qkv(hidden[copy]).chunk(3, dim=-1))
            asking = query[:, leaning[copy]].contiguous()
            table[copy, leaning[copy]] = self._rows(attend(asking, key, value).output)

    def _row_heads(self, rows: torch.Tensor) -> torch.Tensor:
        """(read, d_model) to (head, read, d_head)."""
        return rows.unflatten(-1, (self.n_heads, -1)).transpose(0, 1)

    def _rows(self, heads: torch.Tensor) -> torch.Tensor:
        """(head, read, d_head) to (read, d_model)."""
        return heads.transpose(0, 1).flatten(-2)

    def _project(self, x: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Parts `first` to `last` of query, key and value (0, 1, 2)."""
        width = self.qkv.in_features
        return F.linear(x, self.qkv.weight[first * width : last * width], self.qkv.bias[first * width : last * width])

    def _finish_rows(self, rows: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        middle = self.norm1(self.out(attention).add_(rows))
        return self.norm2(self._feedforward(middle).add_(middle))

    def _attention(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """What every position sees, (cell, position, d_model); queries, keys and values leave the memory with it."""
        query, key, value = (self._heads(part) for part in self.qkv(hidden).chunk(3, dim=-1))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(-2)

    def _feedforward(self, middle: torch.Tensor) -> torch.Tensor:
        return self.linear2(self.linear1(middle).relu_())

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
        self,
        clean: CleanStates,
        rows: torch.Tensor,
        at: Positions,
        start: int,
        stop: int,
        *,
        frozen: bool = False,
        everywhere: bool = False,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        blocks = cast(Sequence[EncoderBlock], self.blocks)
        if frozen or (stop == start + 1 and not everywhere):
            # nothing reads the other positions of the only block above a source: there, frozen is exact
            changed = changed_keys(at, clean.hidden[start - 1].shape[1], rows.dtype)
            for layer in range(start, stop):
                keys, values = clean.once("keys_values", layer, blocks[layer].clean_keys_values)
                rows = blocks[layer].read_frozen(rows, at, keys, values, changed)
                yield layer, rows
            return
        hidden = clean.hidden[start - 1].repeat(at.n_copies, 1, 1)
        hidden[at.copy, at.position] = rows
        for layer in range(start, stop):
            if layer == stop - 1 and not everywhere:
                # nothing above the last block reads its other positions
                yield layer, blocks[layer].read(hidden, at)
                return
            if layer == start and at.filled.shape[1] <= FEW_CHANGED * hidden.shape[1]:
                attention = clean.once("attention", layer, blocks[layer].clean_attention)
                hidden = blocks[layer].forward_changed(rows, at, hidden, attention)
            else:
                hidden = blocks[layer](hidden)
            yield layer, hidden if everywhere else hidden[at.copy, at.position]

    def pass_through(
        self, clean: CleanStates, rows: torch.Tensor, at: Positions, start: int, stop: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        blocks = cast(Sequence[EncoderBlock], self.blocks)
        for layer in range(start, stop):
            added = clean.once("added", layer, blocks[layer].added)
            rows = blocks[layer].pass_through(rows, *(part[at.position] for part in added))
            yield layer, rows
