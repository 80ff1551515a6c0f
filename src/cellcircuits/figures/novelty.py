"""Which pairs of gene programs do edges join although no relation is known? Shares beside chance, and candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Found
from cellcircuits.figure_style import HUB, INK, PALE, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 10
LONGEST_LABEL = 26


def draw(found: Found) -> dict[str, Figure]:
    """{"novelty": figure}: edges found and expected of the pairs joined most, and the share without a relation."""
    answer = found.answers[0]
    table = found.tables.get("novelty")
    heading = "Do edges join programs without a known relation?"
    if table is not None and np.isfinite(answer.value):
        heading = f"{answer.value:.0%} of edges join programs without a known relation; {answer.baseline:.0%} by chance"
    n_candidates = 0 if table is None else int(table["candidate"].sum())
    subtitle = (
        f"{n_candidates:,} pairs without a known relation are joined beyond chance (blue). "
        "Dark grey: no known relation; light: known."
    )
    figure = new_figure(8, 4.4, heading, subtitle, 0 if table is None else 1, "No pair of programs could be judged.")
    if table is not None:
        _draw_pairs(new_axes(figure, 3.9, 2.3, 1.1, 0.7), table)
        _draw_shares(new_axes(figure, 6.4, 0.25, 1.1, 0.7), found)
    return {"novelty": figure}


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _draw_pairs(axes: Axes, table: pd.DataFrame) -> None:
    shown = table.sort_values(["q_value", "p_value", "source_label", "target_label"]).head(SHOWN)
    y = np.arange(len(shown))
    colour = np.where(shown["known"], PALE, np.where(shown["candidate"], SUPPORTS, QUIET))
    axes.barh(y, shown["n_edges"], height=0.6, color=colour)
    axes.scatter(shown["n_expected"], y, marker="D", s=24, color=HUB, zorder=3, clip_on=False)
    names = [f"{_short(a)} → {_short(b)}" for a, b in zip(shown["source_label"], shown["target_label"], strict=True)]
    axes.set_yticks(y, names, fontsize=7.5)
    axes.set_ylim(max(len(shown), 4) - 0.4, -0.6)
    axes.set_xlabel("edges (green: expected by chance)", fontsize=9)
    axes.set_title("Smallest p", fontsize=9, loc="left", color=INK)


def _draw_shares(axes: Axes, found: Found) -> None:
    edges, pairs = found.answers[0], found.answers[1]
    for x, answer in enumerate((edges, pairs)):
        axes.bar([x], [answer.value], width=0.6, color=SUPPORTS)
        axes.plot([x - 0.4, x + 0.4], [answer.baseline] * 2, color=HUB, linewidth=2)
        if np.isfinite([answer.low, answer.high]).all():
            axes.vlines(x, answer.low, answer.high, color=INK, linewidth=1.2)
    axes.set_xticks([0, 1], ["edges", "pairs"], fontsize=9)
    axes.set_ylim(0, 1)
    axes.set_title("Share without relation\n(green: chance)", fontsize=9, loc="left", color=INK)
