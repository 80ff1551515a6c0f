"""Do edges join features that mean the same? Shares with a common gene set beside both kinds of chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Found
from cellcircuits.figure_style import HUB, INK, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = (
    ("all", "shared term", "Edges: share with\na common gene set"),
    ("all", "information", "Edges: information\nin common"),
    ("apart", "shared term", "Edges without a common\ntop gene: share"),
    ("published", "shared term", "Published cut (50\nstrongest): share"),
)


def draw(found: Found) -> dict[str, Figure]:
    """{"coherence": figure}: edges beside chance, and by the distance between layers."""
    answer = found.answers[0]
    table = found.tables.get("coherence")
    heading = "Do edges join features that mean the same?"
    if table is not None and np.isfinite(answer.value):
        heading = (
            f"{answer.value:.0%} of the edges join features with a common gene set; {answer.baseline:.0%} by chance"
        )
    subtitle = "Chance: targets exchanged within layer, number of gene sets and firing rate. Bars: 95 % interval."
    figure = new_figure(8, 4.4, heading, subtitle, 0 if table is None else 1, "No edge could be compared.")
    if table is not None:
        _draw_rows(new_axes(figure, 1.9, 2.9, 1.1, 0.7), table)
        _draw_distance(new_axes(figure, 5.75, 0.2, 1.1, 0.7), found.tables["coherence_layers"])
    return {"coherence": figure}


def _draw_rows(axes: Axes, table: pd.DataFrame) -> None:
    rows = table.set_index(["pairs", "measure"])
    shown = [(place, rows.loc[key[:2]]) for place, key in enumerate(ROWS)]
    for place, row in shown:
        bars = [[row["value"] - row["interval_low"]], [row["interval_high"] - row["value"]]]
        if np.isfinite(bars).all():
            axes.errorbar([row["value"]], [place], xerr=np.maximum(bars, 0), color=SUPPORTS, linewidth=1.5)
    y = [place for place, _ in shown]
    axes.scatter([row["non_edges"] for _, row in shown], y, marker="|", s=140, color=QUIET, label="non-edges")
    axes.scatter([row["matched"] for _, row in shown], y, marker="D", s=34, color=HUB, label="chance")
    axes.scatter([row["value"] for _, row in shown], y, s=44, color=SUPPORTS, zorder=3, label="edges", clip_on=False)
    axes.set_yticks(y, [key[2] for key in ROWS], fontsize=9)
    axes.set_ylim(len(ROWS) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("share, or information in common (0 to 1)", fontsize=9)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(-0.05, 1.0), handletextpad=0.2)


def _draw_distance(axes: Axes, layers: pd.DataFrame) -> None:
    from matplotlib.ticker import MaxNLocator

    grouped = layers.assign(distance=layers["target_layer"] - layers["source_layer"])
    columns = ["share", "matched_share", "non_edges_share"]
    for column in columns:
        grouped[column] *= grouped["n_edges"]
    summed = grouped.groupby("distance")[["n_edges", *columns]].sum()
    styles = ((SUPPORTS, "-", "o"), (HUB, "--", "D"), (QUIET, ":", "|"))
    for column, (colour, line, marker) in zip(columns, styles, strict=True):
        axes.plot(summed.index, summed[column] / summed["n_edges"], line, color=colour, marker=marker, markersize=4)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layers between source and target", fontsize=9)
    axes.set_title("Share with a common gene set", fontsize=9, loc="left", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
