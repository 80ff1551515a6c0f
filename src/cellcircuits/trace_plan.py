"""The plan of a trace: which source features are ablated in which cells, cut into parts.

A part is a block of source features in a set of cells. A block is as large as memory allows, so any number of features
can be traced.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from cellcircuits.moments import ALL, GENE_STATISTICS, STATISTICS
from cellcircuits.settings import Readout

Sources = dict[int, list[int]]
"""{source layer: features}."""
MEGABYTE = 1_000_000
CONTROL_READOUTS: list[Readout] = ["source", "computed"]
"""What is measured of control directions: enough to call edges, and to say whether a feature differs from them."""


class Part(NamedTuple):
    """What is computed, saved and resumed as one."""

    sources: Sources
    cells: list[int]
    """Rows in the run's tokens."""


@dataclass(frozen=True)
class TracePlan:
    """Everything that decides the result of a trace."""

    cells: list[int]
    """Rows of the traced cells in the run's tokens."""
    blocks: list[Sources]
    """The source features, split so that the sums of one block fit into memory."""
    targets: dict[int, list[int]]
    """{source layer: target layers}."""
    cells_per_part: int
    context: Literal["exact", "frozen"]
    threads: int
    """CPU threads of torch with which every part is computed."""
    readouts: list[Readout]
    inputs: dict[str, str]
    """Hashes of the artifacts that are traced."""
    groups: list[str] = field(default_factory=lambda: [ALL])
    """Names of the groups of cells with sums of their own."""
    group_of: list[int] = field(default_factory=list)
    """Group of each cell; empty: all are of the first."""
    seed: int = 0
    """Seed of the random control directions."""
    n_random: int = 0
    """Random control directions per source."""
    matched: dict[int, dict[int, list[int]]] = field(default_factory=dict)
    """{source layer: {source feature: features whose directions serve as controls}}."""
    partners: dict[int, dict[int, int]] = field(default_factory=dict)
    """{source layer: {source feature: feature that fires as often, with which it is compared}}; empty: not paired."""
    random_weights: bool = False
    """Whether the model with random weights is traced, with its own autoencoders."""

    @property
    def has_controls(self) -> bool:
        """Whether control directions are removed beside the sources' own."""
        return bool(self.n_random or self.matched)

    @cached_property
    def parts(self) -> list[Part]:
        """All parts: block after block, in each of them one set of cells after the other."""
        starts = range(0, len(self.cells), self.cells_per_part)
        cells = [self.cells[start : start + self.cells_per_part] for start in starts]
        return [Part(block, rows) for block in self.blocks for rows in cells]

    def groups_of(self, rows: Sequence[int]) -> np.ndarray:
        """int (cell,): groups of cells given by their rows in the run's tokens."""
        if not self.group_of or len(self.groups) == 1:
            return np.zeros(len(rows), dtype=np.int64)
        known, groups = self._sorted_groups
        return groups[np.searchsorted(known, rows)]

    @cached_property
    def _sorted_groups(self) -> tuple[np.ndarray, np.ndarray]:
        """(sorted rows of the traced cells, group of each): made once, for a plan may have very many parts."""
        order = np.argsort(self.cells)
        return np.array(self.cells, dtype=np.int64)[order], np.array(self.group_of, dtype=np.int64)[order]

    def parts_of(self, block: int) -> range:
        """Numbers of the parts of one block."""
        n = len(self.parts) // len(self.blocks)
        return range(block * n, (block + 1) * n)

    @property
    def sources(self) -> Sources:
        """All source features."""
        layers = sorted({layer for block in self.blocks for layer in block})
        return {layer: [f for block in self.blocks for f in block.get(layer, ())] for layer in layers}

    def to_json(self) -> str:
        """The plan as text; equal plans have equal text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TracePlan:
        """The plan that `to_json` wrote.

        Raises
        ------
        ValueError, TypeError, KeyError, AttributeError
            If the text is something else.
        """
        content = json.loads(text)
        blocks = [{int(layer): chosen for layer, chosen in block.items()} for block in content.pop("blocks")]
        targets = {int(layer): chosen for layer, chosen in content.pop("targets").items()}
        matched = {
            int(layer): {int(feature): others for feature, others in chosen.items()}
            for layer, chosen in content.pop("matched").items()
        }
        partners = {
            int(layer): {int(feature): other for feature, other in chosen.items()}
            for layer, chosen in content.pop("partners").items()
        }
        return cls(blocks=blocks, targets=targets, matched=matched, partners=partners, **content)


def bytes_per_source(n_targets: int, n_sums: int = 1, n_tokens: int = 0) -> int:
    """Memory and disk of the sums of one source feature with so many targets, over all target layers.

    `n_sums` is the number of readouts times groups times directions; `n_tokens` that of sums by gene.
    """
    return 8 * (len(STATISTICS) * n_sums * n_targets + len(GENE_STATISTICS) * n_tokens)


def split_into_blocks(sources: Sources, source_bytes: dict[int, int], limit: int) -> list[Sources]:
    """Fill blocks in order of layer and feature until another source would exceed `limit` bytes; at least one each.

    `source_bytes` is {source layer: bytes of the sums of one source}.
    """
    blocks: list[Sources] = []
    used = limit
    for layer in sorted(sources):
        for feature in sorted(sources[layer]):
            if not blocks or used + source_bytes[layer] > limit:
                blocks.append({})
                used = 0
            blocks[-1].setdefault(layer, []).append(feature)
            used += source_bytes[layer]
    return blocks
