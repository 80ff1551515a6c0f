"""Are effects stronger in one run than in another? Strength against the share of tested pairs that reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Found
from cellcircuits.figure_style import HUB, INK, OPPOSES, PALE, QUIET, SUPPORTS, new_axes, new_figure
from cellcircuits.figures.forest import SHORT, shorten
from cellcircuits.tables import empty_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (SUPPORTS, OPPOSES, HUB, "#CC79A7", "#56B4E9", "#E69F00", INK)
PANELS = {"snr": "|mean / sd|", "relative effect": "|mean delta / clean activation|"}


def draw(found: Found) -> dict[str, Figure]:
    """`input_size`: a panel per measure, a line per run."""
    curves = found.tables.get("input_size_curve", empty_table("input_size_curve"))
    table = found.tables.get("input_size", empty_table("input_size"))
    one = table[(table["measure"] == "snr") & np.isfinite(table["ratio"])]
    heading = "Are effects stronger in one run than in another?"
    if len(one) == 1:
        row = one.iloc[0]
        names = " / ".join(shorten(row[side], SHORT) for side in ("first", "second"))
        size = f"{row['ratio']:.2f} ({row['interval_low']:.2f} to {row['interval_high']:.2f})"
        heading = f"{names}: effects {size} times as strong"
    subtitle = (
        "Strength that a share of the tested pairs reaches. Left of the dashed line: the pairs that are compared."
    )
    figure = new_figure(8.0, 4.6, heading, subtitle, len(curves), "No tested pairs.")
    if curves.empty:
        return {"input_size": figure}
    runs = list(dict.fromkeys(curves["run"]))
    for place, (measure, axis) in enumerate(PANELS.items()):
        axes = new_axes(figure, left=0.75 + 3.95 * place, right=0.3 + 3.95 * (1 - place), top=1.15, bottom=0.6)
        _panel(axes, curves[curves["measure"] == measure], table[table["measure"] == measure], runs)
        axes.set(xlabel="Share of the tested pairs", ylabel=axis)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0.08, 0.85),
        ncols=4,
        frameon=False,
        fontsize=8.5,
        handlelength=1.4,
    )
    return {"input_size": figure}


def _panel(axes: Axes, curves: pd.DataFrame, table: pd.DataFrame, runs: list[str]) -> None:
    """Lines of one measure, both axes logarithmic, and the share that is compared."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for place, run in enumerate(runs):
        line = curves[curves["run"] == run]
        axes.plot(line["share_of_tested"], line["value"], color=COLOURS[place % len(COLOURS)], label=shorten(run))
    axes.set(xscale="log", yscale="log")
    axes.grid(color="#ededed", linewidth=0.7)
    axes.xaxis.set_major_locator(LogLocator(10, numticks=8))
    # the weakest edges would flatten all others
    top = curves["value"].max()
    axes.set_ylim(max(curves["value"].min() / 1.2, top / 1e4), top * 1.3)
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0) if high / low < 300 else (1.0,), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.3g} %"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    for side in (axes.xaxis, axes.yaxis):
        side.set_minor_formatter(NullFormatter())
    shares = table["share_of_tested"][np.isfinite(table["ratio"])]
    if len(shares) == 1:
        axes.axvline(shares.iloc[0], color=PALE, linestyle="--", linewidth=1.2, zorder=0)
        row = table.iloc[0]
        words = f"ratio {row['ratio']:.2f}, chance 1"
        axes.text(0.04, 0.05, words, transform=axes.transAxes, fontsize=9, color=QUIET)
