"""Picture of the perturbation screens: direction, ranking of targets and strength, each with its chance baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Found
from cellcircuits.figure_style import HUB, INK, OPPOSES, PALE, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 8
"""Cell lines shown, those with the most pairs."""
ROW, TOP, BOTTOM, LEFT, WIDTH = 0.42, 1.05, 0.85, 2.1, 8.0
PANELS = (
    ("accuracy", "targets that change\nas predicted [%]", 100.0),
    ("auroc", "AUROC, predicted against\nothers of equal expression [%]", 100.0),
    ("spearman", "rank correlation of predicted\nand measured strength", 1.0),
)
MARKS = (
    ("circuits", "o", SUPPORTS, "circuits, 95 % interval"),
    ("others", "|", INK, "chance: responses to other perturbed genes"),
    ("signs", "d", OPPOSES, "chance: shares of signs alone"),
    ("co-expression", "s", HUB, "co-expression"),
)


def draw(found: Found) -> dict[str, Figure]:
    """Figure "screens": one row per cell line of a screen."""
    table = found.tables["screens"]
    shown = table[(table["predictor"] == "circuits") & (table["pairs"] == "all")]
    shown = shown.sort_values(["n_pairs", "screen", "cell_line"], ascending=[False, True, True]).head(MOST)
    height = TOP + BOTTOM + ROW * max(len(shown), 2)
    nothing = next((a.note for a in found.answers if np.isnan(a.value)), "No pair could be compared.")
    subtitle = "Predicted gene pairs against measured responses; the source gene's own transcript is left out"
    figure = new_figure(WIDTH, height, _heading(shown), subtitle, len(shown), _wrapped(nothing))
    if shown.empty:
        return {"screens": figure}
    shown = shown.iloc[::-1].reset_index(drop=True)
    others = table[(table["predictor"] == "co-expression") & (table["pairs"] == "all")]
    gap = 0.3
    width = (WIDTH - LEFT - 0.25 - gap * (len(PANELS) - 1)) / len(PANELS)
    for i, (name, label, unit) in enumerate(PANELS):
        left = LEFT + i * (width + gap)
        axes = new_axes(figure, left, WIDTH - left - width, TOP, BOTTOM)
        _panel(axes, shown, others, name, unit)
        axes.set_xlabel(label, fontsize=8)
        axes.set_yticks(range(len(shown)), [_row_name(row) for row in shown.to_dict("records")] if i == 0 else [])
        axes.tick_params(labelsize=8, left=False)
    handles = [
        figure.axes[0].plot([], [], mark, color=colour, ls="", ms=6, mew=1.6 if mark == "|" else 1, label=words)[0]
        for _, mark, colour, words in MARKS
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.01, 1 - 0.66 / height),
        ncols=4,
        fontsize=8,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.2,
    )
    return {"screens": figure}


def _heading(shown: pd.DataFrame) -> str:
    share = shown["accuracy"].dropna() * 100
    if share.empty:
        return "Perturbation screens"
    if len(share) == 1:
        by_chance = shown["other_source_accuracy"].iloc[0] * 100
        beside = "" if np.isnan(by_chance) else f"; {by_chance:.0f} % by chance"
        return f"{share.iloc[0]:.0f} % of the targets change as predicted{beside}"
    return f"{share.min():.0f} to {share.max():.0f} % of the targets change as predicted, by cell line"


def _row_name(row: dict) -> str:
    name = f"{row['screen']}, {row['cell_line']}" if row["cell_line"] else row["screen"]
    short = name if len(name) <= 30 else name[:29] + "…"
    return f"{short}\n{row['n_pairs']:,} pairs, {row['n_sources']:,} genes"


def _wrapped(text: str) -> str:
    from textwrap import fill

    return fill(text, 70)


def _panel(axes: Axes, shown: pd.DataFrame, others: pd.DataFrame, name: str, unit: float) -> None:
    places = np.arange(len(shown))
    axes.axvline(0 if name == "spearman" else unit / 2, color=PALE, lw=1, zorder=0)
    value, low, high = (shown[f"{name}{end}"].to_numpy() * unit for end in ("", "_low", "_high"))
    known = np.isfinite(value)
    has_interval = known & np.isfinite(low)
    axes.hlines(places[has_interval], low[has_interval], high[has_interval], color=SUPPORTS, lw=2)
    axes.plot(value[known], places[known], "o", color=SUPPORTS, ms=7, zorder=4)
    axes.plot(shown[f"other_source_{name}"] * unit, places, "|", color=INK, ms=16, mew=1.6, zorder=3)
    if name == "accuracy":
        axes.plot(shown["sign_bias_accuracy"] * unit, places - 0.22, "d", color=OPPOSES, ms=5)
    by_name = others.set_index(["screen", "cell_line"])[name]
    beside = by_name.reindex(pd.MultiIndex.from_frame(shown[["screen", "cell_line"]])).to_numpy() * unit
    axes.plot(beside, places + 0.22, "s", color=HUB, ms=5)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.spines["left"].set_color(PALE)
    axes.tick_params(colors=QUIET, labelcolor=INK)
