"""Do gene programs have an order? Their depth, and which of two leads beyond what their layers force."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Found
from cellcircuits.figure_style import HUB, INK, OPPOSES, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 14
SHOWN_Q = 0.05
LONGEST_LABEL = 34


def draw(found: Found) -> dict[str, Figure]:
    """{"hierarchy": figure}: depth of the programs with most features, and both directions of every pair."""
    answer = found.answers[0]
    heading, subtitle = "Do gene programs have an order beyond their layers?", ""
    if np.isfinite(answer.value):
        heading = (
            f"Order beyond layers: {answer.value:.0%} of the edges between programs; {answer.baseline:.0%} by chance"
        )
        ordered = found.tables["hierarchy_pairs"]["q_value"] <= SHOWN_Q
        subtitle = (
            f"{int(ordered.sum()):,} of {len(ordered):,} pairs of programs have an order (q of at most {SHOWN_Q})."
        )
    figure = new_figure(8, 4.6, heading, subtitle, float(np.isfinite(answer.value)), "No edge joins two gene programs.")
    if np.isfinite(answer.value):
        _draw_depth(new_axes(figure, 2.5, 3.05, 1.1, 0.7), found.tables["hierarchy"])
        _draw_pairs(new_axes(figure, 5.95, 0.2, 1.1, 0.7), found.tables["hierarchy_pairs"])
    return {"hierarchy": figure}


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _draw_depth(axes: Axes, table: pd.DataFrame) -> None:
    most = table.sort_values(["n_features", "label"], ascending=[False, True]).head(SHOWN)
    shown = most.sort_values(["relative_depth", "label"], ignore_index=True)
    y = np.arange(len(shown))
    known = shown["depth_low"].notna()
    axes.hlines(y[known], shown["depth_low"][known].clip(0), shown["depth_high"][known].clip(upper=1), color=SUPPORTS)
    axes.scatter(shown["relative_depth"], y, s=30, color=SUPPORTS, zorder=3, clip_on=False)
    axes.axvline(table["depth_expected"].iloc[0], color=HUB, linewidth=1.2, linestyle="--")
    axes.set_yticks(y, [_short(label) for label in shown["label"]], fontsize=7.5)
    axes.set_ylim(max(len(shown), 4) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("relative depth (0 first, 1 last layer)", fontsize=9)
    axes.set_title("Mean depth of features (green: all)", fontsize=9, loc="left", color=INK)


def _draw_pairs(axes: Axes, table: pd.DataFrame) -> None:
    ordered = table["q_value"] <= SHOWN_Q
    found = table["n_forward"] - table["n_backward"]
    expected = table["expected_forward"] - table["expected_backward"]
    reach = max(float(np.abs([found, expected]).max()), 1.0) * 1.1
    axes.plot([-reach, reach], [-reach, reach], color=HUB, linewidth=1.2, linestyle="--")
    for chosen, colour in ((~ordered, QUIET), (ordered, OPPOSES)):
        axes.scatter(expected[chosen], found[chosen], s=14, color=colour, alpha=0.7, linewidths=0)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_xlabel("expected A→B minus B→A", fontsize=9)
    axes.set_ylabel("edges A→B minus B→A", fontsize=9)
    axes.set_title("Every pair of programs", fontsize=9, loc="left", color=INK)
