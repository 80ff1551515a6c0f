"""Which edges differ between groups of cells? Shares of edges by group, and the pairs of programs that differ most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Found
from cellcircuits.figure_style import HUB, INK, OPPOSES, PALE, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 10
LONGEST_LABEL = 24


def draw(found: Found) -> dict[str, Figure]:
    """{"tissues": figure}: edges that differ in each group, and pairs of programs beside their expectation."""
    answer = found.answers[0]
    table = found.tables.get("tissues")
    n_shown = 0 if table is None else len(table)
    heading, subtitle = "Do edges differ between groups of cells?", ""
    if np.isfinite(answer.value):
        heading = f"{answer.value:.1%} of the edges differ between groups; at most {answer.baseline:.1%} falsely"
        subtitle = "Effect in a group against that in all other cells, of edges between programs."
    figure = new_figure(8, 4.6, heading, subtitle, n_shown, "No edge could be compared between groups of cells.")
    if table is not None and n_shown:
        _draw_groups(new_axes(figure, 1.7, 4.6, 1.1, 0.7), table)
        _draw_pairs(new_axes(figure, 6.15, 0.25, 1.1, 0.7), table)
    return {"tissues": figure}


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _draw_groups(axes: Axes, table: pd.DataFrame) -> None:
    by_group = table.groupby("group")[["n_edges", "n_differ"]].sum()
    share = (by_group["n_differ"] / by_group["n_edges"]).sort_values(ascending=False, kind="stable").head(SHOWN)
    y = np.arange(len(share))
    axes.barh(y, share, height=0.6, color=SUPPORTS)
    axes.set_yticks(y, [_short(name) for name in share.index], fontsize=8)
    axes.set_ylim(max(len(share), 4) - 0.4, -0.6)
    axes.set_xlim(0, max(float(share.max()) * 1.1, 0.01))
    axes.set_xlabel("share of tested edges", fontsize=9)
    axes.set_title("Edges that differ", fontsize=9, loc="left", color=INK)
    axes.tick_params(axis="x", labelsize=8)


def _draw_pairs(axes: Axes, table: pd.DataFrame) -> None:
    shown = table.head(SHOWN)
    y = np.arange(len(shown))
    colour = np.where(shown["q_value"] <= 0.05, OPPOSES, PALE)
    axes.barh(y, shown["n_differ"], height=0.6, color=colour)
    axes.scatter(shown["n_expected"].clip(0), y, marker="D", s=22, color=HUB, zorder=3, clip_on=False)
    names = [
        f"{_short(row['group'])}: {_short(row['source_label'])}\n→ {_short(row['target_label'])}"
        for row in shown.to_dict("records")
    ]
    axes.set_yticks(y, names, fontsize=6.5)
    axes.set_ylim(max(len(shown), 4) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("edges that differ", fontsize=9)
    axes.set_title("Programs (green: chance; red: q ≤ 0.05)", fontsize=8, loc="right", color=INK)
