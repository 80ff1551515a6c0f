"""Are circuits stable across groups of cells? Common edges and correlation of effects, beside equal effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Found
from cellcircuits.figure_style import HUB, INK, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 12
LONGEST_LABEL = 16


def draw(found: Found) -> dict[str, Figure]:
    """{"cell_types": figure}: every two groups (those with the most edges), found and by equal effects."""
    answer = found.answers[0]
    table = found.tables.get("cell_types")
    heading, subtitle = "Edges that groups of cells share", ""
    if table is not None and np.isfinite(answer.value):
        heading = (
            f"Groups of cells share {answer.value:.0%} of their edges; {answer.baseline:.0%} if effects were equal"
        )
        subtitle = "Green: what equal effects would give with these numbers of cells. Bars: 95 % interval."
    n_shown = 0 if table is None else len(table)
    figure = new_figure(8, 4.6, heading, subtitle, n_shown, "No groups of cells could be compared.")
    if table is not None:
        most = table.assign(n=-(table["n_first"] + table["n_second"])).sort_values(["n", "first_group", "second_group"])
        shown = most.head(SHOWN).reset_index(drop=True)
        pairs = [f"{_short(a)} / {_short(b)}" for a, b in zip(shown["first_group"], shown["second_group"], strict=True)]
        _draw_column(new_axes(figure, 2.6, 2.85, 1.1, 0.7), shown, "jaccard", "Share of edges in both", pairs)
        _draw_column(new_axes(figure, 5.6, 0.25, 1.1, 0.7), shown, "correlation", "Correlation of effects", None)
    return {"cell_types": figure}


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _draw_column(axes: Axes, table: pd.DataFrame, name: str, title: str, pairs: list[str] | None) -> None:
    y = np.arange(len(table))
    known = table[f"{name}_low"].notna()
    axes.hlines(y[known], table[f"{name}_low"][known], table[f"{name}_high"][known], color=SUPPORTS)
    axes.scatter(table[f"expected_{name}"], y, marker="D", s=26, color=HUB, clip_on=False)
    axes.scatter(table[name], y, s=30, color=SUPPORTS, zorder=3, clip_on=False)
    axes.set_yticks(y, pairs or [""] * len(y), fontsize=7.5)
    axes.set_ylim(max(len(table), 4) - 0.4, -0.6)
    axes.set_xlim(min(0.0, float(np.nanmin([0.0, *table[f"{name}_low"]]))), 1)
    axes.set_xlabel("share" if name == "jaccard" else "Pearson correlation", fontsize=9)
    axes.set_title(title, fontsize=9, loc="left", color=INK)
