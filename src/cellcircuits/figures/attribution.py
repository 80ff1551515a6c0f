"""Attribution beside the effect of removal: is the screen right, and what does it name?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Found
from cellcircuits.figure_style import INK, OPPOSES, PALE, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 20
"""Candidates that are drawn."""
NOTHING = "Nothing was removed."


def draw(found: Found) -> dict[str, Figure]:
    """{"attribution": removal against attribution, "attribution_candidates": what the first candidates do}."""
    return {"attribution": _scatter(found), "attribution_candidates": _forest(found)}


def _scatter(found: Found) -> Figure:
    candidates, chosen = found.tables["attribution_candidates"], found.tables["attribution_slice"]
    target, recall, trend = _name(candidates), found.answers[1], found.answers[2]
    words = (
        f"Random features: rank correlation {trend.value:.2f} (chance {trend.baseline:.2f}), "
        f"recall of the largest tenth {recall.value:.0%} (chance {recall.baseline:.0%})."
        if np.isfinite(trend.value)
        else "No random slice to compare with."
    )
    figure = new_figure(7.0, 5.0, f"What drives {target}? Attribution and removal", words, len(candidates), NOTHING)
    if candidates.empty:
        return figure
    axes = new_axes(figure, left=1.0, right=0.3, top=0.95, bottom=0.8)
    shown = pd.concat([candidates, chosen])
    low, high = shown["attribution"].min(), shown["attribution"].max()
    axes.plot([low, high], [low, high], "--", color=INK, linewidth=1, label="equal", zorder=1)
    for table, color, label in ((chosen, QUIET, "random feature"), (candidates, SUPPORTS, "candidate")):
        error = np.abs(table[["low", "high"]].to_numpy().T - table["mean_delta"].to_numpy())
        guess, effect = table["attribution"], table["mean_delta"]
        axes.errorbar(guess, effect, error, fmt="o", ms=4, color=color, ecolor=PALE, elinewidth=0.7, label=label)
    axes.axhline(0, color=INK, linewidth=0.5, zorder=0)
    axes.axvline(0, color=INK, linewidth=0.5, zorder=0)
    axes.locator_params(axis="both", nbins=6)
    axes.set(
        xlabel="Attribution in the screened cells (change that the gradient says)",
        ylabel="Effect of removal in other cells (95 %)",
    )
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def _forest(found: Found) -> Figure:
    table, answer = found.tables["attribution_candidates"], found.answers[0]
    shown = table.head(SHOWN)
    words = f"{answer.value:.0%} of {len(table):,} candidates are confirmed; random features: {answer.baseline:.0%}."
    if not np.isfinite(answer.value):
        words = f"{table['confirmed'].mean():.0%} of {len(table):,} candidates are confirmed."
    height = 1.9 + 0.24 * max(len(shown), 1)
    heading = f"Features with the largest attribution to {_name(table)}"
    figure = new_figure(7.0, height, heading, words, len(shown), NOTHING)
    if shown.empty:
        return figure
    axes = new_axes(figure, left=1.1, right=0.3, top=0.95, bottom=0.8)
    place = np.arange(len(shown))
    mean = shown["mean_delta"].to_numpy()
    error = np.abs(shown[["low", "high"]].to_numpy().T - mean)
    colors = np.where(~shown["confirmed"], PALE, np.where(mean < 0, SUPPORTS, OPPOSES))
    axes.barh(place, mean, xerr=error, color=colors, error_kw={"ecolor": INK, "linewidth": 0.9})
    axes.plot(shown["attribution"], place, "D", markersize=4, color="white", markeredgecolor=INK, label="attribution")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(place, [f"L{row.layer} F{row.feature}" for row in shown.itertuples()], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("Change of the target by removal (bars, 95 %; pale: not confirmed)")
    axes.legend(frameon=False, fontsize=8, loc="best")
    return figure


def _name(candidates: pd.DataFrame) -> str:
    """The target in words."""
    if candidates.empty:
        return "the target"
    kind, _, name = str(candidates["target"].iloc[0]).partition(":")
    return name if kind == "gene" else f"L{kind} F{name}"
