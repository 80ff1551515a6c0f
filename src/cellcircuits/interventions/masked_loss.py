"""The model's own task as a measure: genes are hidden, and the loss is that of predicting them from the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from cellcircuits.errors import DataError, ModelError, SettingsError
from cellcircuits.interventions.changes import Condition
from cellcircuits.interventions.engine import Intervener
from cellcircuits.masking import draw_masks
from cellcircuits.models.base import Model
from cellcircuits.tokens import Tokens


def why_no_loss(model: Model, cells: Tokens) -> str:
    """Why the masked-gene loss of these cells cannot be measured, and what to do; empty if it can."""
    if not model.output_name:
        return (
            f"The model {model.name!r} has no output head here, so there is no loss to measure. A plug-in offers one "
            "by `output_name`, `gene_outputs`, `mask` and `masked_loss`."
        )
    try:
        model.mask(cells.take([0]), draw_masks(cells.take([0]), 0.0, 0))
    except (DataError, ModelError, SettingsError) as error:
        return str(error)
    return ""


@torch.no_grad()
def loss_changes(
    engine: Intervener,
    cells: Tokens,
    masks: np.ndarray,
    conditions: Sequence[Condition],
    advance: Callable[[float], None] = lambda _: None,
) -> tuple[np.ndarray, np.ndarray]:
    """(change, clean loss), float64 (cell, condition) and (cell,), of the masked-gene loss of every cell.

    Both passes are of the masked cell: change = loss with the intervention - loss without it. NaN where the condition
    changes nothing, since its features are not active in the masked cell.

    Parameters
    ----------
    masks
        bool (cell, position): the hidden positions, the same under all conditions (see `draw_masks`).
    """
    model = engine.model
    changes, before = np.full((len(cells), len(conditions)), np.nan), np.zeros(len(cells))
    for number in range(len(cells)):
        cell = cells.take([number])
        at = masks[number : number + 1, : cell.ids.shape[1]]
        clean = engine.clean(model.mask(cell, at), conditions)
        last = clean.states.hidden[model.n_layers - 1]
        before[number] = float(model.masked_loss(last, cell, at)[0])
        some = np.flatnonzero(engine.positions(clean, conditions).any(axis=1))
        for changed in engine.run(clean, [conditions[int(row)] for row in some], number):
            losses = model.masked_loss(changed.states, cell, at)
            changes[number, some[changed.rows]] = losses.double().cpu().numpy() - before[number]
        advance(1)
    return changes, before
