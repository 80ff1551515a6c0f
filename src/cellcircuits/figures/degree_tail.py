"""Which family the tails of degrees are nearest to, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellcircuits.answers import Found
from cellcircuits.figure_style import INK, OPPOSES, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAMILIES = (("log_normal", "log-normal", SUPPORTS, -0.12), ("exponential", "exponential", OPPOSES, 0.12))
NAMES = {"out": "Out-degrees (sources)", "in": "In-degrees (targets)"}


def draw(found: Found) -> dict[str, Figure]:
    """{"degree_tail": log likelihood ratios of the power law and two alternatives, one dot per layer}."""
    table = found.tables["degree_tail"]
    words = "Filled: Vuong's test has p <= 0.05. Open: the two families cannot be told apart."
    figure = new_figure(8.0, 4.6, _heading(table), words, len(table), "No layer has enough features for a tail.")
    directions = [direction for direction in NAMES if (table["direction"] == direction).any()]
    width = 7.0 / max(len(directions), 1)
    for place, direction in enumerate(directions):
        left = 0.95 + place * width
        axes = new_axes(figure, left=left, right=8.0 - left - width + 0.45, top=1.25, bottom=0.75)
        axes.set_title(NAMES[direction], loc="left", fontsize=10)
        _ratios(axes, table[table["direction"] == direction], place == 0)
    return {"degree_tail": figure}


def _heading(table: pd.DataFrame) -> str:
    if (table["best"] == "power law").any():
        return f"A power law is nearest in {(table['best'] == 'power law').sum()} of {len(table)} tails"
    return "In no layer is a power law nearer than the alternatives"


def _ratios(axes: Axes, table: pd.DataFrame, labelled: bool) -> None:
    for family, name, colour, shift in FAMILIES:
        sure = table[f"{family}_p"] <= 0.05
        axes.scatter(
            table["layer"] + shift,
            table[f"{family}_ratio"],
            s=34,
            facecolors=np.where(sure, colour, "white"),
            edgecolors=colour,
            label=f"against {name}",
        )
    axes.axhline(0, color=INK, linewidth=0.9, linestyle="--")
    highest = 1.5 * max(float(table[[f"{f[0]}_ratio" for f in FAMILIES]].abs().max().max()), 1e-3)
    axes.set(ylim=(-highest, highest), xlabel="Layer", xlim=(table["layer"].min() - 0.6, table["layer"].max() + 0.6))
    axes.locator_params(axis="x", integer=True)
    axes.text(0.01, 0.97, "power law nearer", transform=axes.transAxes, va="top", fontsize=8, color=QUIET)
    axes.text(0.01, 0.03, "alternative nearer", transform=axes.transAxes, fontsize=8, color=QUIET)
    if labelled:
        axes.set_ylabel("Log likelihood ratio per feature")
        axes.legend(frameon=False, fontsize=8, loc="upper right")
