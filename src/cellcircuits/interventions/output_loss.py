"""Does the intervention make the model worse at what it was trained for: to tell genes that are hidden from it?

A share of a cell's gene positions is drawn once and hidden, and the loss is their mean in two passes of the SAME hidden
cell, with and without the intervention (method of pretraining; cells in which the source is not active do not count):

    x = loss(hidden cell | intervention) - loss(hidden cell)
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer, untestable
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.interventions.masked_loss import loss_changes, why_no_loss
from cellcircuits.interventions.observations import Observations
from cellcircuits.interventions.own_and_random import by_direction, directions, judged, own_is_larger
from cellcircuits.masking import draw_masks
from cellcircuits.tables import empty_table, make_table

ASKED = "Does the intervention make hidden genes harder to predict?"
STATISTIC = "Mean change of the loss of hidden genes, mean over sources"
CHANCE = (
    "the same of random directions of the same norm at the same positions; one-sided, any of the directions could have "
    "been called a source's own; sources are the units"
)
LOSS_DIRECTIONS = 1
"""Random directions of each source that are tried, at most: all sources are compared together."""
COLUMNS = ["n_cells", "mean_delta", "sd_delta", "low", "high", "clean", "p_value", "q_value", "random_mean"]


def ask_loss(inputs: Inputs) -> tuple[pd.DataFrame, Answer]:
    """Table `output_loss`, and whether the loss rises more than by random directions."""
    if why := why_no_loss(inputs.model, inputs.cells):
        return empty_table("output_loss"), untestable("output_effects", ASKED, STATISTIC, why)
    parts = measure_loss(inputs)
    found = judged(parts[0], parts, inputs.settings)
    sources = np.array(inputs.sources, dtype=np.int64).reshape(-1, 2)
    columns = {"kind": inputs.settings.kind, "source_layer": sources[:, 0], "source_feature": sources[:, 1]}
    table = make_table("output_loss", pd.DataFrame(columns | {name: found[name][:, 0] for name in COLUMNS}))
    return table, _answer(inputs, parts, table)


def measure_loss(inputs: Inputs) -> list[Observations]:
    """Of each direction the sums over cells, (source, 1)."""
    settings, cells = inputs.settings, inputs.cells
    conditions = directions(inputs.sources, inputs.change, min(settings.random_directions, LOSS_DIRECTIONS))
    masks = draw_masks(cells, settings.masked_share, settings.seed)
    with inputs.progress.task("Hidden genes", len(cells)) as advance:
        change, before = loss_changes(inputs.intervener(inputs.sources), cells, masks, conditions, advance)
    sums, every = Observations(len(conditions), 1), np.arange(len(conditions))
    for x, clean in zip(change, before, strict=True):
        sums.add(every, x[:, None], np.full((len(x), 1), clean))
    return by_direction(sums, len(inputs.sources))


def _answer(inputs: Inputs, parts: list[Observations], table: pd.DataFrame) -> Answer:
    enough = parts[0].n[:, 0] >= inputs.settings.min_cells
    if not enough.any():
        why = f"No source is active in min_cells = {inputs.settings.min_cells} of the {len(inputs.cells)} cells."
        return untestable("output_effects", ASKED, STATISTIC, why)
    change = np.array([part.mean[:, 0] for part in parts])[:, enough]
    clean = float(table["clean"].to_numpy()[enough].mean())
    harder = (table["q_value"] <= inputs.settings.max_q) & (table["mean_delta"] > 0)
    return Answer(
        "output_effects",
        ASKED,
        STATISTIC,
        float(change[0].mean()),
        float(change[1:].mean()) if len(change) > 1 else float("nan"),
        CHANCE if len(change) > 1 else "",
        p_value=own_is_larger(change, inputs.settings.seed),
        note=f"{int(enough.sum()):,} sources; the loss without interventions is {clean:.3g}. It rises with q ≤ "
        f"{inputs.settings.max_q} for {int(harder.sum()):,}. {inputs.settings.masked_share:.0%} of a cell's genes "
        f"are hidden, the same with and without the intervention. Random directions of each: {len(change) - 1}.",
    )
