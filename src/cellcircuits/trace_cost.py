"""What a trace costs: passes, arithmetic, memory and disk of each of its works."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellcircuits.formats import RANDOM_WEIGHTS
from cellcircuits.model_shape import ModelShape
from cellcircuits.settings import Settings
from cellcircuits.trace_memory import TraceMemory
from cellcircuits.trace_work import sae_layers, works


@dataclass(frozen=True)
class StageCost:
    """Cost of one stage."""

    stage: str
    passes: int
    """Cells times forward passes (an ablated copy of a cell counts as one pass, even if it starts half-way up)."""
    operations: float
    memory_bytes: float
    """At the peak, on top of the interpreter and its libraries."""
    disk_bytes: float
    part: str = ""
    """Name of the part of the stage, where it has several."""


def trace_costs(settings: Settings, shape: ModelShape, lengths: np.ndarray) -> list[StageCost]:
    """Cost of each work of a trace, at most."""
    trace, layers, found = settings.trace, sae_layers(settings, shape), []
    for name, work in works(settings, shape, lengths).items():
        n_parts = -(-len(work.lengths) // trace.cells_per_part)
        if work.n_directions > 1:
            n_parts = min(n_parts, trace.control_parts)
        memory = TraceMemory(work, trace, len(layers)).peak()
        if name == RANDOM_WEIGHTS:
            memory += shape.weight_bytes  # beside the model of which it is a copy
        disk = work.moments_bytes() * (1 + n_parts)
        found.append(StageCost("trace", work.passes(), work.operations(), memory, disk, name))
    return found
