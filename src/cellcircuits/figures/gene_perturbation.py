"""Genes perturbed beside control genes: how far cells move, and how far the same features move as by a feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellcircuits.answers import Answer, Found
from cellcircuits.figure_style import INK, PALE, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 30
SCALE = 1000
WIDE = 20
"""Times that the largest shift is the smallest, from which on the axis is logarithmic."""


def draw(found: Found) -> dict[str, Figure]:
    """{"feature_gene_similarity": ..., "gene_perturbations": ...}: top genes beside their control genes."""
    similar, shift = found.answers
    return {
        "feature_gene_similarity": _similarity(found.tables["feature_gene_similarity"], similar),
        "gene_perturbations": _shifts(found.tables["gene_perturbations"], shift),
    }


def _similarity(table: pd.DataFrame, answer: Answer) -> Figure:
    own = table[table["is_top_gene"] & table["correlation"].notna()]
    own = own.sort_values(["source_layer", "source_feature", "rank"], kind="stable").head(MOST_ROWS)
    words = f"Rank correlation over features above: {answer.value:.2f}; control genes: {answer.baseline:.2f}."
    figure = new_figure(
        7.0,
        _height(len(own)),
        "Perturbing a top gene, and changing the feature",
        words,
        len(own),
        "No feature could be compared with its top gene.",
    )
    if own.empty:
        return figure
    axes = new_axes(figure, left=1.9, right=0.3, top=1.1, bottom=0.75)
    for place, row in enumerate(own.itertuples()):
        same = (table["source_layer"] == row.source_layer) & (table["source_feature"] == row.source_feature)
        controls = table.loc[same & (table["matched_to"] == row.gene), "correlation"].dropna()
        axes.plot(controls, [place] * len(controls), "o", color=PALE, markersize=5, zorder=2)
        axes.plot(row.correlation, place, "o", color=SUPPORTS, markersize=7, zorder=3)
    names = [f"L{row.source_layer} F{row.source_feature}  {row.gene}" for row in own.itertuples()]
    _finish(axes, names, "Rank correlation of their effects on features above")
    axes.axvline(0, color=INK, linewidth=0.8)
    return figure


def _shifts(table: pd.DataFrame, answer: Answer) -> Figure:
    own = table[(table["matched_to"] == "") & (table["n_cells"] > 0)]
    own = own.sort_values("shift", ascending=False, kind="stable").head(MOST_ROWS)
    words = f"Over all other genes, mean: {SCALE * answer.value:.2g}; control genes: {SCALE * answer.baseline:.2g}."
    figure = new_figure(
        7.0, _height(len(own)), "How far a perturbed gene moves the cell", words, len(own), "No gene was perturbed."
    )
    if own.empty:
        return figure
    axes = new_axes(figure, left=1.9, right=0.3, top=1.1, bottom=0.75)
    for place, row in enumerate(own.itertuples()):
        controls = SCALE * table.loc[table["matched_to"] == row.gene, "shift"]
        axes.plot(controls, [place] * len(controls), "o", color=PALE, markersize=5, zorder=2)
        axes.plot([SCALE * row.low, SCALE * row.high], [place, place], color=SUPPORTS, linewidth=1.5, zorder=3)
        axes.plot(SCALE * row.shift, place, "o", color=SUPPORTS, markersize=7, zorder=4)
    _finish(axes, [str(row.gene) for row in own.itertuples()], "(1 - cosine) x 1,000 of the cell embedding")
    shown = SCALE * table.loc[(table["n_cells"] > 0) & table["matched_to"].isin(["", *own["gene"]]), "shift"]
    if 0 < WIDE * shown.min() < shown.max():
        axes.set_xscale("log")
        axes.set_xlim(left=shown.min() / 1.5)
    else:
        axes.set_xlim(left=min(0.0, SCALE * own["low"].min()))
    return figure


def _height(n_rows: int) -> float:
    return 2.2 + 0.26 * max(n_rows, 1)


def _finish(axes: Axes, names: list[str], label: str) -> None:
    axes.plot([], [], "o", color=SUPPORTS, markersize=7, label="the gene")
    axes.plot([], [], "o", color=PALE, markersize=5, label="control genes of similar expression")
    axes.set_yticks(np.arange(len(names)), names, fontsize=8)
    axes.set(xlabel=label, ylim=(len(names) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#eeeeee", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.legend(
        frameon=False,
        fontsize=8,
        ncols=2,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        borderaxespad=0.2,
        labelcolor=QUIET,
    )
