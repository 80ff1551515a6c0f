"""Effects on the output: the genes that change most, the loss of hidden genes, and readouts of the cell."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Found
from cellcircuits.figure_style import INK, OPPOSES, PALE, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOURCE = ["source_layer", "source_feature"]
GENES_SHOWN = 4
READOUTS_SHOWN = 16


def draw(found: Found) -> dict[str, Figure]:
    """{"output_effects", "output_loss", "probe_effects": figure}, those of which there is something to show."""
    figures = {"output_effects": _genes(found)}
    if len(found.tables["output_loss"]):
        figures["output_loss"] = _loss(found.tables["output_loss"])
    if len(found.tables["probe_effects"]):
        figures["probe_effects"] = _probes(found.tables["probe_effects"])
    return figures


def _genes(found: Found) -> Figure:
    """Of every source the genes that change most, with their 95 % intervals."""
    table, answer = found.tables["output_effects"], found.answers[0]
    shown = table.groupby(SOURCE, sort=True).head(GENES_SHOWN).reset_index(drop=True)
    random = f"; random directions: {answer.baseline:.1%}" if isfinite(answer.baseline) else ""
    words = f"{answer.value:.1%} of tested pairs respond{random}. Strongest genes of each source; *: its top genes."
    figure = new_figure(7.0, 2.1 + 0.2 * max(len(shown), 2), "Genes that the model predicts differently", words, 1)
    if shown.empty:
        return new_figure(7.0, 3.0, "Genes that the model predicts differently", words, 0, "No gene responds.")
    axes = new_axes(figure, left=1.9, right=0.3, top=1.15, bottom=0.85)
    change = shown["mean_delta"].to_numpy()
    place = np.arange(len(shown))
    colours = np.where(change < 0, SUPPORTS, OPPOSES)
    axes.hlines(place, shown["low"], shown["high"], colors=colours.tolist(), linewidth=1.2)
    filled = shown["specific"].to_numpy()
    axes.scatter(change[filled], place[filled], c=colours[filled], s=24, zorder=3, label="beyond random directions")
    axes.scatter(
        change[~filled],
        place[~filled],
        facecolors="white",
        edgecolors=colours[~filled],
        s=24,
        zorder=3,
        label="not beyond",
    )
    axes.scatter(shown["random_mean"], place, marker="|", color=INK, s=40, zorder=2, label="their mean")
    _source_axis(axes, shown)
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.set_xlabel("Mean change of the output, with its 95 % interval", fontsize=9)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)
    return figure


def _source_axis(axes: Axes, shown: pd.DataFrame) -> None:
    """Gene names, with the source beside its first gene and a line between sources."""
    labels, before = [], None
    for place, row in enumerate(shown.itertuples()):
        source = row.source_layer, row.source_feature
        if before not in (None, source):
            axes.axhline(place - 0.5, color=PALE, linewidth=0.6)
        name = f"{row.symbol or row.gene_id}{' *' if row.in_top_genes else ''}"
        labels.append(name if source == before else f"L{source[0]} F{source[1]}    {name}")
        before = source
    axes.set_yticks(np.arange(len(shown)), labels, fontsize=8, parse_math=False)
    axes.set_ylim(len(shown) - 0.4, -0.6)


def _loss(table: pd.DataFrame) -> Figure:
    """Change of the loss of hidden genes by source, beside random directions."""
    words = "The same genes are hidden with and without the intervention."
    height = 2.1 + 0.26 * len(table)
    figure = new_figure(7.0, height, "Loss of hidden genes", words, len(table))
    axes = new_axes(figure, left=1.1, right=0.3, top=1.15, bottom=0.75)
    place = np.arange(len(table))
    axes.hlines(place, table["low"], table["high"], color=SUPPORTS, linewidth=1.2)
    axes.plot(table["mean_delta"], place, "o", color=SUPPORTS, label="the source, with its 95 % interval")
    axes.plot(table["random_mean"], place, "D", color=QUIET, markersize=4, label="mean of random directions")
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.set_yticks(place, _names(table), fontsize=8)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlabel("Mean change of the loss (right: harder to predict)")
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)
    return figure


def _probes(table: pd.DataFrame) -> Figure:
    """Sources by readouts: how far each is shifted, in units of the largest shift of its column."""
    order = table[["readout", "label", "measure"]].drop_duplicates().head(READOUTS_SHOWN)
    keys = list(order.itertuples(index=False, name=None))
    wide = table.pivot_table(index=SOURCE, columns=["readout", "label", "measure"], values="mean_delta")
    specific = table.pivot_table(
        index=SOURCE, columns=["readout", "label", "measure"], values="specific", aggfunc="max"
    )
    values, marked = wide[keys].to_numpy(), specific[keys].to_numpy(dtype=bool)
    readouts = np.array([key[0] for key in keys])
    scale = np.array([max(np.abs(values[:, readouts == name]).max(), 1e-12) for name in readouts])
    sizes = [f"{name}: ±{scale[readouts == name][0]:.2g}" for name in dict.fromkeys(readouts)]
    words = f"Full colour: {', '.join(sizes)}. Dots: beyond random directions."
    width, height = 2.6 + 0.42 * max(len(keys), 9), 2.7 + 0.26 * len(wide)
    figure = new_figure(width, height, "Readouts of the cell that features shift", words, len(wide))
    axes = new_axes(figure, left=1.1, right=1.3, top=0.9, bottom=1.6)
    image = axes.imshow(values / scale, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    row, column = np.nonzero(marked)
    axes.scatter(column, row, s=9, color=INK)
    axes.set_yticks(np.arange(len(wide)), [f"L{layer} F{feature}" for layer, feature in wide.index], fontsize=8)
    axes.set_xticks(np.arange(len(keys)), [label or name for name, label, _ in keys], fontsize=8, parse_math=False)
    axes.tick_params(axis="x", rotation=40)
    for text in axes.get_xticklabels():
        text.set_horizontalalignment("right")
    bar = figure.colorbar(image, cax=figure.add_axes((1 - 1.1 / width, 1.6 / height, 0.15 / width, 1.2 / height)))
    bar.set_label("falls   rises", fontsize=8)
    bar.set_ticks([-1, 0, 1])
    return figure


def _names(table: pd.DataFrame) -> list[str]:
    return [f"L{layer} F{feature}" for layer, feature in table[SOURCE].itertuples(index=False)]
