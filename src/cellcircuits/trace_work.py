"""What a trace has to compute.

Per position and block of width d, feed-forward width f, in a cell of P positions: 8 d^2 + 4 d f operations for the
weights, 4 P d for attention; an autoencoder of F features costs 2 d F to encode a position.

Every source is taken to be active in every cell, at k of F positions, as an average feature is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from cellcircuits.formats import RANDOM_WEIGHTS
from cellcircuits.model_shape import ModelShape
from cellcircuits.selection import default_source_layers, evenly_spread
from cellcircuits.settings import EVERYWHERE, FEW_CHANGED, FOLD, Settings, TraceSettings
from cellcircuits.trace_plan import CONTROL_READOUTS, MEGABYTE, bytes_per_source, split_into_blocks


def block_operations(shape: ModelShape, lengths: np.ndarray) -> float:
    """Operations of one block over cells of these lengths."""
    d = shape.d_model
    per_position = 8 * d**2 + 4 * d * shape.d_feedforward
    return float((lengths * per_position + 4 * lengths.astype(float) ** 2 * d).sum())


def _frozen_block_operations(shape: ModelShape, lengths: np.ndarray, share: float) -> float:
    """Operations of one block for ablated copies of which a share of the positions is carried upward."""
    d, read = shape.d_model, lengths * share
    return float((read * (8 * d**2 + 4 * d * shape.d_feedforward) + 4 * read * (lengths + read) * d).sum())


def _exact_operations(shape: ModelShape, lengths: np.ndarray, share: float, above: int) -> float:
    """Operations of `above` blocks for ablated copies of which a share of the positions is changed and read."""
    d, feedforward = shape.d_model, 4 * shape.d_model * shape.d_feedforward
    if above == 1:
        return _frozen_block_operations(shape, lengths, share)
    block, read = block_operations(shape, lengths), lengths * share
    last = lengths * 4 * d**2 + read * (4 * d**2 + feedforward + 4 * lengths * d)
    if share > FEW_CHANGED:
        return float((above - 1) * block + last.sum())
    return float(_first_block_operations(shape, lengths, share) + (above - 2) * block + last.sum())


def _first_block_operations(shape: ModelShape, lengths: np.ndarray, share: float) -> float:
    """Operations of the block above the source where attention is brought up to date."""
    d, read = shape.d_model, lengths * share
    every = lengths * (2 * d**2 + 4 * d * shape.d_feedforward + 8 * read * d)
    return float((every + read * (6 * d**2 + 4 * (lengths + read) * d)).sum())


def _clean_attention_operations(
    shape: ModelShape, lengths: np.ndarray, share: float, above: int, everywhere: bool
) -> float:
    """Operations, once per cell, of what copies share in the first block above their source in an exact context."""
    d = shape.d_model
    if above == 1 and not everywhere:
        return float((lengths * 4 * d**2).sum())
    if share > FEW_CHANGED:
        return 0.0
    return float((lengths * (6 * d**2 + 4 * lengths.astype(float) * d)).sum())


def sae_layers(settings: Settings, shape: ModelShape) -> list[int]:
    return sorted(set(settings.train.layers)) or list(range(shape.n_layers))


@dataclass(frozen=True)
class Work:
    """One plan of a trace: of the sources, of controls, of what is traced in both contexts, on random weights."""

    shape: ModelShape
    lengths: np.ndarray
    """Tokens of each traced cell."""
    sources: dict[int, int]
    """{source layer: number of source features}."""
    targets: dict[int, list[int]]
    """{source layer: target layers}."""
    n_features: int
    """Features of each autoencoder."""
    share: float
    """Share of the positions at which a source is active."""
    frozen: bool
    readouts: Sequence[str]
    block_megabytes: int
    n_directions: int = 1
    n_groups: int = 1

    @cached_property
    def blocks(self) -> list[dict[int, int]]:
        """{source layer: number of sources} of every block, as `planning` makes them."""
        sources = {layer: list(range(number)) for layer, number in self.sources.items()}
        sizes = {layer: self.source_bytes(layer) for layer in sources}
        blocks = split_into_blocks(sources, sizes, self.block_megabytes * MEGABYTE)
        return [{layer: len(chosen) for layer, chosen in block.items()} for block in blocks]

    def source_bytes(self, layer: int) -> int:
        """Size of the sums of one source of a layer, of all its directions."""
        n_sums = len(self.readouts) * self.n_groups * self.n_directions
        # sums by gene are of the sources' own directions alone
        n_tokens = self.shape.n_tokens if self.everywhere and self.n_directions == 1 else 0
        return bytes_per_source(len(self.targets[layer]) * self.n_features, n_sums, n_tokens)

    @property
    def everywhere(self) -> bool:
        """Whether every position of every layer is looked at."""
        return any(name in EVERYWHERE for name in self.readouts)

    def measured(self, block: dict[int, int]) -> list[int]:
        """Layers whose autoencoders the clean pass of a block needs; it ends at the last of them."""
        return sorted({*block, *(t for layer in block for t in self.targets[layer])})

    def operations(self) -> float:
        """Operations of the clean passes, of which every block has its own, and of all ablated copies."""
        once = sum(self._clean(block) + sum(self._shared(layer) for layer in block) for block in self.blocks)
        return once + sum(self.copies(layer) * self._copy(layer) for layer in self.sources)

    def _clean(self, chosen: dict[int, int]) -> float:
        layers, d = self.measured(chosen), self.shape.d_model
        first, last = layers[0], layers[-1]
        block, positions = block_operations(self.shape, self.lengths), float(self.lengths.sum())
        total = (last + 1) * block + len(layers) * self._encoding(positions)
        if self.frozen:
            # clean keys and values of the layers above the lowest source
            total += (last - first) * 4.0 * d**2 * positions
        if "computed" in self.readouts:
            # what attention and feed-forward layers add
            total += (last - first) * block
        return total

    def _shared(self, source: int) -> float:
        """Operations, once per cell, of what the copies of one source layer share."""
        if self.frozen:
            return 0.0
        above = max(self.targets[source]) - source
        return _clean_attention_operations(self.shape, self.lengths, self.share, above, self.everywhere)

    def _encoding(self, positions: float) -> float:
        return 2.0 * self.shape.d_model * self.n_features * positions

    def _copy(self, source: int) -> float:
        """Operations of one ablated copy of every cell."""
        targets = self.targets[source]
        above, positions = max(targets) - source, float(self.lengths.sum())
        if self.frozen:
            copy = above * _frozen_block_operations(self.shape, self.lengths, self.share)
        elif self.everywhere:
            copy = _everywhere_operations(self.shape, self.lengths, self.share, above)
        else:
            copy = _exact_operations(self.shape, self.lengths, self.share, above)
        if "source" in self.readouts:
            copy += len(targets) * self._encoding(positions * self.share)
        if self.everywhere:
            copy += len(targets) * self._encoding(positions)
        # mean states before and after and what rounding can do, of every copy
        linear = sum(name in ("pre", "computed") for name in self.readouts)
        return copy + (2 * linear + 1) * len(targets) * self._encoding(len(self.lengths))

    def copies(self, source: int) -> int:
        """Ablated copies of a cell for one source layer."""
        return self.sources[source] * self.n_directions

    def passes(self) -> int:
        """Clean passes and ablated copies; each block of sources needs clean passes of its own."""
        return len(self.lengths) * (len(self.blocks) + sum(self.copies(layer) for layer in self.sources))

    def moments_bytes(self) -> float:
        """Size of the sums of all sources."""
        return float(sum(number * self.source_bytes(layer) for layer, number in self.sources.items()))


def _everywhere_operations(shape: ModelShape, lengths: np.ndarray, share: float, above: int) -> float:
    """As `_exact_operations`, where every position of every layer is looked at."""
    if share > FEW_CHANGED:
        return above * block_operations(shape, lengths)
    return _first_block_operations(shape, lengths, share) + (above - 1) * block_operations(shape, lengths)


def _controls(main: Work, trace: TraceSettings) -> Work:
    exact = trace.control_context == "exact"
    readouts = CONTROL_READOUTS + (["other"] if exact and "other" in main.readouts else [])
    lengths = main.lengths[evenly_spread(len(main.lengths), trace.control_cells or len(main.lengths))]
    main = replace(main, lengths=lengths, frozen=not exact, readouts=readouts)
    return replace(main, n_directions=1 + trace.n_controls, n_groups=1)


def works(settings: Settings, shape: ModelShape, lengths: np.ndarray) -> dict[str, Work]:
    """{"": the sources of a trace, "controls": control directions, "exact": what is traced exactly as well,
    "random_weights": as many sources of the model with random weights}.
    """
    trace, layers = settings.trace, sae_layers(settings, shape)
    n_cells = min(trace.n_cells or len(lengths), len(lengths))
    n_features, k = settings.train.expansion * shape.d_model, settings.train.k
    n_sources = n_features if trace.select == "all" else min(trace.n_features, n_features)
    if trace.select == "matched":
        n_sources -= n_sources % 2
    source_layers = trace.source_layers or default_source_layers(layers, shape.n_layers)
    targets = {s: [t for t in (trace.target_layers or layers) if t > s] for s in source_layers}
    main = Work(
        shape=shape,
        lengths=lengths[evenly_spread(len(lengths), n_cells)],
        sources={s: n_sources for s in source_layers if targets[s]},
        targets=targets,
        n_features=n_features,
        share=k / n_features,
        frozen=trace.context != "exact",
        readouts=list(trace.readouts),
        block_megabytes=trace.block_megabytes,
        n_groups=trace.n_folds if trace.group_by == FOLD else 1,
    )
    found = {"": main}
    if trace.n_controls:
        found["controls"] = _controls(main, trace)
    if trace.context == "screen":
        found["exact"] = replace(main, frozen=False)
    if trace.context == "frozen" and trace.fidelity_sources:
        few = main.lengths[evenly_spread(len(main.lengths), trace.fidelity_cells)]
        sources = {s: min(trace.fidelity_sources, n_sources) for s in main.sources}
        found["exact"] = replace(main, frozen=False, lengths=few, sources=sources)
    if settings.train.random_weights:
        # as the sources are traced among the controls, or without any
        found[RANDOM_WEIGHTS] = replace(found.get("controls", main), n_directions=1)
    return found
