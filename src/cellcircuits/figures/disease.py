"""Disease: edges between features of the same disease against chance, and what features with a disease have more of."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer, Found
from cellcircuits.figure_style import INK, PALE, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SETS = 10
LONGEST_NAME = 29
RATIOS = ("Targets of a feature", "Sources of a feature", "Edges within a disease")


def draw(found: Found) -> dict[str, Figure]:
    """{"disease": edges within each disease against chance, and ratios to 1}."""
    enriched, *ratios = found.answers
    sets = found.tables["disease_sets"]
    sets = sets[sets["n_features"] > 0][:MOST_SETS]
    heading, nothing = "Disease genes", "There are no disease gene sets to look for."
    if isfinite(enriched.value):
        heading = (
            f"{100 * enriched.value:.2g} % of features carry a disease ({100 * enriched.baseline:.2g} % by chance)"
        )
        nothing = "No disease gene set is enriched in any feature."
    words = "Right: with / without a disease, for features of equal layer, firing rate and number of genes."
    figure = new_figure(8.0, 4.4, heading, words, len(sets), nothing)
    if len(sets):
        _draw_sets(new_axes(figure, left=2.55, right=3.5, top=1.05, bottom=0.8), sets)
        _draw_ratios(new_axes(figure, left=6.2, right=0.3, top=1.05, bottom=0.8), ratios)
    return {"disease": figure}


def _draw_sets(axes: Axes, sets: pd.DataFrame) -> None:
    place = np.arange(len(sets))[::-1]
    expected, sd = sets["n_expected"].fillna(0).to_numpy(), sets["sd_expected"].fillna(0).to_numpy()
    low = np.maximum(expected - 2 * sd, 0)
    axes.barh(place, expected + 2 * sd - low, left=low, height=0.55, color=PALE, label="chance, mean ± 2 sd")
    axes.vlines(expected, place - 0.28, place + 0.28, color=QUIET, linewidth=1)
    axes.scatter(sets["n_edges"], place, color=SUPPORTS, s=30, zorder=3, label="found")
    names = [name.replace("_", " ") for name in sets["disease"]]
    names = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…" for name in names]
    rows = zip(names, sets["n_features"], strict=True)
    axes.set_yticks(place, [f"{name} ({n:,})" for name, n in rows], fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", integer=True, nbins=5)
    axes.set_xlabel("Edges within the disease\n(in brackets: its features)", fontsize=9)
    axes.set_ylim(-0.7, len(sets) - 0.3)
    axes.legend(fontsize=7.5, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0)


def _draw_ratios(axes: Axes, answers: list[Answer]) -> None:
    place = np.arange(len(answers))[::-1]
    axes.axvline(1, color=INK, linewidth=0.9, linestyle="--")
    for answer, at in zip(answers, place, strict=True):
        if not isfinite(answer.value):
            continue
        ends = np.clip([answer.low, answer.high, answer.value], 0.1, 10)
        axes.hlines(at, ends[0], ends[1], color=SUPPORTS, linewidth=1.6)
        axes.scatter(ends[2], at, color=SUPPORTS, s=32, zorder=3)
    axes.set_xscale("log")
    axes.set(xlim=(0.09, 11), ylim=(-0.6, len(answers) - 0.4))
    axes.set_xticks([0.1, 1, 10], ["≤ 0.1", "1", "≥ 10"], fontsize=8.5)
    axes.minorticks_off()
    axes.set_xlabel("Ratio (1: chance)", fontsize=9)
    names = [f"{name}\n{_number(answer)}" for answer, name in zip(answers, RATIOS, strict=True)]
    axes.set_yticks(place, names, fontsize=8)
    axes.tick_params(axis="y", length=0)


def _number(answer: Answer) -> str:
    if not isfinite(answer.value):
        return "cannot be tested"
    return f"{answer.value:.2f} ({answer.low:.2f} to {answer.high:.2f})\np = {answer.p_value:.2g}"
