"""How much memory a trace takes at its peak, on top of the interpreter and its libraries.

Together in memory are the weights of the model and of all autoencoders, the clean states of one cell, what is computed
of a batch of its copies, and the sums of one block of sources; while parts are added up, the sums and one part.
Counted are numbers of 4 bytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cellcircuits.model_shape import BYTES, ModelShape
from cellcircuits.settings import FEW_CHANGED, FROZEN_READS_PER_COPY, TraceSettings
from cellcircuits.trace_work import Work

D_HEAD = 64
"""Width of an attention head in the published models."""
LOADING = 2.25
"""Times the weights of a model, while it is read: those of the file, its own, and query, key and value put together."""
KEPT = 5 * 32 * 2**20
"""Most bytes that the allocator keeps when arrays of less than 32 MB are freed: fitted to measurements (glibc)."""
NUMBERS_PER_PAIR = 26
"""Statistics of a pair, from which edges are called, each of 8 bytes."""
DOUBLE = 2
"""Numbers of 4 bytes in one of 8."""


def process_bytes() -> int:
    """Memory of this process now."""
    status = Path("/proc/self/status")
    if status.exists():
        sizes = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return 1024 * int(sizes["VmRSS"].split()[0])
    import resource

    # the most that it was, in bytes on macOS, in kilobytes elsewhere
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if os.uname().sysname == "Darwin" else 1024 * largest


def block_numbers(shape: ModelShape) -> float:
    """Numbers per position that a transformer block holds at its peak, its input included.

    Input, query, key, value and attention; or input, attention, its projection, and the feed-forward layers.
    """
    return max(5 * shape.d_model, 4 * shape.d_model + shape.d_feedforward)


@dataclass(frozen=True)
class TraceMemory:
    """The memory of one work of a trace."""

    work: Work
    settings: TraceSettings
    n_saes: int
    """Layers that have an autoencoder: all are loaded."""

    def peak(self) -> float:
        """Bytes in the largest phase."""
        shape, work = self.work.shape, self.work
        held = shape.weight_bytes + BYTES * self.n_saes * 2.0 * shape.d_model * work.n_features
        phases = [shape.weight_bytes * LOADING]
        for block in _different(work.blocks):
            computing = BYTES * max(self._clean_pass(block), self._states(block) + self._ablating(block))
            kept = min(KEPT, 2 * computing)
            phases += [held + kept + computing + self._sums(block), held + kept + 2 * self._sums(block)]
            if self.settings.context == "screen" and self.work.frozen and self.work.n_directions == 1:
                phases.append(held + kept + self._sums(block) + self._judging(block))
        return max(phases)

    def _sums(self, block: dict[int, int]) -> float:
        """Bytes of the sums of one block."""
        return float(sum(number * self.work.source_bytes(layer) for layer, number in block.items()))

    def _judging(self, block: dict[int, int]) -> float:
        """Bytes of the statistics of all pairs of a block, from which a screen takes its edges."""
        pairs = sum(number * len(self.work.targets[layer]) * self.work.n_features for layer, number in block.items())
        return BYTES * DOUBLE * NUMBERS_PER_PAIR * float(pairs)

    @property
    def _positions(self) -> int:
        return int(self.work.lengths.max())

    def _clean_states(self, block: dict[int, int]) -> float:
        """Hidden states from the lowest source to the highest target, and codes with their 8-byte indices."""
        layers = self.work.measured(block)
        hidden = (layers[-1] - layers[0] + 1) * self.work.shape.d_model
        n_active = self.work.share * self.work.n_features
        return self._positions * (hidden + len(layers) * n_active * (1 + DOUBLE))

    def _clean_pass(self, block: dict[int, int]) -> float:
        shape = self.work.shape
        encoding = shape.d_model + 2 * self.work.n_features
        return self._clean_states(block) + self._positions * max(block_numbers(shape), encoding)

    def _states(self, block: dict[int, int]) -> float:
        """Clean states with what is derived of them for all copies: see `CleanStates.once`."""
        work, layers = self.work, self.work.measured(block)
        above = layers[-1] - layers[0]
        derived = 2 * above if work.frozen else sum(4 for _ in block if work.share <= FEW_CHANGED)
        if "computed" in work.readouts:
            derived += 2 * above
        return self._clean_states(block) + derived * self._positions * work.shape.d_model

    def _ablating(self, block: dict[int, int]) -> float:
        """Directions of all sources; activations and one batch of the source layer with the largest need."""
        directions = sum(block.values()) * self.work.n_directions * self.work.shape.d_model
        return directions + max(self._of_layer(layer, number) for layer, number in block.items())

    def _of_layer(self, layer: int, n_sources: int) -> float:
        active = self._positions * n_sources
        dense = self._positions * self.work.n_features
        return active + max(dense, self._batch(n_sources * self.work.n_directions, layer))

    def _batch(self, n_copies: int, layer: int) -> float:
        """One batch of copies: in a block, or in front of an autoencoder."""
        work, d = self.work, self.work.shape.d_model
        per_copy = max(1.0, work.share * self._positions)
        alone = max(work.targets[layer]) == layer + 1 and not work.everywhere
        if work.frozen:
            reads = min(self.settings.batch_size * FROZEN_READS_PER_COPY, n_copies * per_copy)
            copies = reads / per_copy
        else:
            copies = min(self.settings.copies_per_pass(self._positions), n_copies)
            reads = copies * per_copy
        entering = copies * self._positions * (1 + DOUBLE) + 3 * reads * d
        if work.frozen or alone:
            # which keys are left out stays for all layers
            measuring = reads * self._positions + self._measuring(copies, reads)
            return entering + max(self._frozen_block(reads, per_copy), measuring)
        whole = copies * self._positions
        updating = whole * (2 * d + 2 * per_copy * d / D_HEAD) if work.share <= FEW_CHANGED else 0.0
        in_block = max(updating, whole * block_numbers(work.shape))
        looked_at = whole * d * (2 if work.everywhere else 1)
        return entering + max(in_block, looked_at + self._measuring(copies, reads))

    def _frozen_block(self, reads: float, per_copy: float) -> float:
        """Rows with query, key and value, a mask over all positions, scores among the changed ones of a copy."""
        shape = self.work.shape
        attention = 5 * shape.d_model + 1.5 * self._positions + 2 * per_copy * shape.d_model / D_HEAD
        return reads * max(attention, block_numbers(shape))

    def _measuring(self, copies: float, reads: float) -> float:
        """Codes of the changed positions before and after; what is measured, in both precisions, with temporaries."""
        work, n_features = self.work, self.work.n_features
        # before TopK, a copy of it that is put in order, and what is above the k-th
        codes = 2.25 * reads * n_features if "source" in work.readouts else 0.0
        if work.everywhere:
            codes = max(codes, self._positions * 4.5 * n_features)
        squares = work.shape.d_model * n_features
        measured = copies * n_features * len(work.readouts) * (2 + 2 * DOUBLE)
        return max(codes, squares) + measured + 4 * DOUBLE * copies * n_features


def _different(blocks: list[dict[int, int]]) -> list[dict[int, int]]:
    """Each block once: most are alike."""
    return [dict(block) for block in {tuple(block.items()) for block in blocks}]
