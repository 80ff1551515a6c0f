"""What passes between the engine and a model: the undisturbed states of a cell, and the positions that were changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from cellcircuits.tokens import Tokens


@dataclass(frozen=True)
class CleanStates:
    """Undisturbed states of one cell."""

    cell: Tokens
    """The single cell."""
    hidden: dict[int, torch.Tensor]
    """{layer: output (1, position, d_model)} of the layers that are needed."""
    derived: dict[tuple[str, int], Any] = field(default_factory=dict)
    """What an adapter made of them, see `once`."""

    def once(self, name: str, layer: int, make: Callable[[torch.Tensor], Any]) -> Any:
        """`make(what enters the block `layer`)`, called once per cell: what all copies of the cell share."""
        if (name, layer) not in self.derived:
            self.derived[name, layer] = make(self.hidden[layer - 1])
        return self.derived[name, layer]


@dataclass(frozen=True)
class Positions:
    """(copy, position) pairs in a batch of copies of one cell, sorted by copy; every copy has at least one."""

    copy: torch.Tensor
    """int64 (read,)."""
    position: torch.Tensor
    """int64 (read,)."""
    n_copies: int

    @cached_property
    def counts(self) -> torch.Tensor:
        """int64 (copy,): pairs of each copy."""
        return torch.bincount(self.copy, minlength=self.n_copies)

    @cached_property
    def slot(self) -> torch.Tensor:
        """int64 (read,): number of the pair within its copy."""
        first = torch.cumsum(self.counts, 0) - self.counts
        return torch.arange(len(self.copy), device=self.copy.device) - first[self.copy]

    @cached_property
    def filled(self) -> torch.Tensor:
        """bool (copy, slot): False where a copy has fewer pairs than the largest one."""
        slots = torch.arange(int(self.counts.max()), device=self.copy.device)
        return slots < self.counts[:, None]

    def padded(self, rows: torch.Tensor) -> torch.Tensor:
        """(read, d) to (copy, slot, d), zeros where not filled."""
        table = rows.new_zeros(*self.filled.shape, rows.shape[-1])
        table[self.copy, self.slot] = rows
        return table

    def unpadded(self, table: torch.Tensor) -> torch.Tensor:
        """(copy, slot, d) to (read, d)."""
        return table[self.copy, self.slot]

    def averaging(self, dtype: torch.dtype) -> torch.Tensor:
        """(copy, read): the mean over the pairs of each copy as a matrix; its product has the same bits every time."""
        matrix = torch.zeros(self.n_copies, len(self.copy), dtype=dtype, device=self.copy.device)
        pairs = torch.arange(len(self.copy), device=self.copy.device)
        matrix[self.copy, pairs] = (1 / self.counts.to(dtype))[self.copy]
        return matrix

    def changed(self, n_positions: int) -> torch.Tensor:
        """bool (copy, position): True at the pairs."""
        table = torch.zeros(self.n_copies, n_positions, dtype=torch.bool, device=self.copy.device)
        table[self.copy, self.position] = True
        return table
