"""Co-expression: strength of effects by tenths of co-expression, and correlations beside their chance."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer, Found
from cellcircuits.figure_style import INK, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_P = 0.05
NAMES = ("Strength of edges", "the same, given\nfiring rates", "Edge or not\n(2 AUROC - 1)")


def draw(found: Found) -> dict[str, Figure]:
    """{"coexpression": |snr| by co-expression, and rank correlations with their chance}."""
    bins = found.tables["coexpression_bins"]
    auroc = found.answers[-1]
    heading = "Co-expression and effects"
    if isfinite(auroc.value):
        more = auroc.value > auroc.baseline and auroc.p_value <= MAX_P
        words = "Edges join co-expressed features" if more else "Edges join co-expressed features no more than chance"
        heading = f"{words}: AUROC {auroc.value:.2f}" + " (chance 0.50)" * more
    words = "Co-expression: mean |Pearson r| over cells between a top gene of the source and one of the target."
    figure = new_figure(8.0, 4.2, heading, words, len(bins), "No edge has co-expression: see the note of the answer.")
    if len(bins):
        _draw_bins(new_axes(figure, left=0.8, right=4.3, top=1.0, bottom=0.75), bins)
        _draw_answers(new_axes(figure, left=5.3, right=0.3, top=1.0, bottom=0.75), found.answers)
    return {"coexpression": figure}


def _draw_bins(axes: Axes, bins: pd.DataFrame) -> None:
    middle = (bins["correlation_low"] + bins["correlation_high"]).to_numpy() / 2
    median = bins["abs_snr_median"].to_numpy()
    overall = float(np.average(median, weights=bins["n_edges"]))
    axes.axhline(overall, color=INK, linewidth=0.9, linestyle="--", label="mean of the medians")
    axes.fill_between(middle, bins["abs_snr_q25"], bins["abs_snr_q75"], color=SUPPORTS, alpha=0.2, label="quartiles")
    axes.plot(middle, median, "o-", color=SUPPORTS, markersize=4, label="median")
    axes.set(xlabel="Co-expression of the edge", ylabel="|mean change / sd over cells|")
    axes.set_ylim(bottom=0, top=1.25 * float(bins["abs_snr_q75"].max()))
    axes.legend(fontsize=7.5, frameon=False, loc="upper left")


def _draw_answers(axes: Axes, answers: list[Answer]) -> None:
    place = np.arange(len(answers))[::-1]
    axes.axvline(0, color=INK, linewidth=0.9)
    for number, (answer, at) in enumerate(zip(answers, place, strict=True)):
        if not isfinite(answer.value):
            continue
        scale, shift = (2, -1) if number == len(answers) - 1 else (1, 0)
        value, low, high, chance = (
            scale * number + shift for number in (answer.value, answer.low, answer.high, answer.baseline)
        )
        axes.hlines(at, low, high, color=SUPPORTS, linewidth=1.6)
        axes.scatter(value, at, color=SUPPORTS, s=32, zorder=3, label="found" if number == 0 else None)
        axes.scatter(chance, at, color=QUIET, marker="|", s=160, zorder=3, label="chance" if number == 0 else None)
    axes.set(xlim=(-1, 1), ylim=(-0.6, len(answers) - 0.4), xlabel="Rank correlation with co-expression")
    names = [f"{name}\n{_number(answer)}" for answer, name in zip(answers, NAMES, strict=True)]
    axes.set_yticks(place, names, fontsize=8)
    axes.tick_params(axis="y", length=0)
    if isfinite(answers[0].value):
        axes.legend(fontsize=7.5, frameon=False, loc="lower right", bbox_to_anchor=(1, 1.0), ncols=2, borderaxespad=0)


def _number(answer: Answer) -> str:
    if not isfinite(answer.value):
        return "cannot be tested"
    return f"{answer.value:.2f}, chance {answer.baseline:.2f}\np = {answer.p_value:.2g}"
