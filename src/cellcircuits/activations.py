"""Residual-stream activations at gene positions, streamed from one pass over the model; nothing is stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cellcircuits.errors import ModelError
from cellcircuits.models.base import Model
from cellcircuits.tokens import Tokens


@dataclass(frozen=True)
class ActivationBatch:
    """Activations of one batch of cells, flattened over gene positions."""

    layers: dict[int, torch.Tensor]
    """{layer: float (position, d_model)}."""
    token_ids: np.ndarray
    """int32 (position,): the gene at each position."""
    cells: np.ndarray
    """int64 (position,): row of the cell in the `Tokens` that were streamed."""


@torch.no_grad()
def stream_activations(
    model: Model, tokens: Tokens, layers: Sequence[int], batch_cells: int, order: np.ndarray | None = None
) -> Iterator[ActivationBatch]:
    """Yield the activations of all `layers` for batches of cells, in the given order of cells.

    Raises
    ------
    ModelError
        If a hidden state is NaN or infinite, naming layer and cells.
    """
    order = np.arange(len(tokens)) if order is None else np.asarray(order)
    wanted, stop = set(layers), max(layers) + 1
    for start in range(0, len(order), batch_cells):
        rows = order[start : start + batch_cells]
        batch = tokens.take(rows)
        mask = torch.from_numpy(batch.gene_mask).to(model.device)
        found = {}
        for layer, hidden in model.run_layers(model.embed(batch), batch, 0, stop):
            if layer in wanted:
                found[layer] = hidden[mask]
                _check_finite(found[layer], layer, batch)
        cells = np.repeat(rows, batch.gene_mask.sum(axis=1))
        yield ActivationBatch(found, batch.ids[batch.gene_mask], cells)


def _check_finite(values: torch.Tensor, layer: int, batch: Tokens) -> None:
    if not torch.isfinite(values).all():
        raise ModelError(
            f"The output of layer {layer} is NaN or infinite for a cell among {batch.obs.index[0]} ... "
            f"{batch.obs.index[-1]}. Check the checkpoint, the values of these cells, and the precision."
        )
