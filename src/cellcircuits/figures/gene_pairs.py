"""Pairs of genes: how much more often networks have them than matched pairs, and how this depends on their score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Found
from cellcircuits.figure_style import HUB, INK, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_Q = 0.05
MOST_ROWS = 8
LONGEST_NAME = 24
FEWEST_EXPECTED = 3
"""Pairs expected by chance from which a precision is drawn: below, the ratio is noise."""


def draw(found: Found) -> dict[str, Figure]:
    """{"gene_pairs": odds ratios of the support, and precision / chance against the number of best pairs}."""
    support = found.tables["gene_pair_support"].dropna(subset="p_value")
    support = support.sort_values(["n_testable", "origin", "network"], ascending=[False, True, True])[:MOST_ROWS]
    n_called = int((support["q_value"] <= MAX_Q).sum())
    heading = f"Gene pairs: {n_called} of {len(support)} networks have them more often than chance"
    heading = heading if len(support) else "Gene pairs"
    words = "Shares of testable pairs in the network; chance: target genes of equal detection and number of partners."
    nothing = "No pair could be looked up in a network."
    figure = new_figure(8.0, 4.2, heading, words, len(support), nothing)
    if support.empty:
        return {"gene_pairs": figure}
    _draw_odds(new_axes(figure, left=2.45, right=3.2, top=0.95, bottom=0.75), support)
    curves = found.tables["gene_pair_precision"]
    _draw_curves(new_axes(figure, left=5.75, right=0.3, top=0.95, bottom=0.75), curves, support)
    return {"gene_pairs": figure}


def _names(rows: pd.DataFrame) -> list[str]:
    both = rows["origin"].nunique() > 1
    names = []
    for network, origin in zip(rows["network"], rows["origin"], strict=True):
        short = network if len(network) <= LONGEST_NAME else network[: LONGEST_NAME - 1] + "…"
        names.append(f"{short} ({origin})" if both else short)
    return names


def _draw_odds(axes: Axes, rows: pd.DataFrame) -> None:
    place = np.arange(len(rows))[::-1]
    odds = rows["odds_ratio"].to_numpy().clip(0.1, 10)
    # without an interval there is only the point
    low, high = (
        rows[f"odds_ratio_{end}"].fillna(rows["odds_ratio"]).to_numpy().clip(0.1, 10) for end in ("low", "high")
    )
    colours = [SUPPORTS if q <= MAX_Q else QUIET for q in rows["q_value"]]
    axes.axvline(1, color=INK, linewidth=0.9, linestyle="--")
    axes.hlines(place, low, high, color=colours, linewidth=1.6)
    axes.scatter(odds, place, color=colours, s=32, zorder=3)
    shares = zip(_names(rows), 100 * rows["share"], 100 * rows["chance_share"], strict=True)
    names = [f"{name}\n{share:.3g} %, chance {chance:.3g} %" for name, share, chance in shares]
    axes.set_xscale("log")
    axes.set(xlabel="Odds ratio (1: chance)", ylim=(-0.6, len(rows) - 0.4), xlim=(0.09, 11))
    axes.set_xticks([0.1, 0.3, 1, 3, 10], ["≤ 0.1", "0.3", "1", "3", "≥ 10"], fontsize=8.5)
    axes.set_yticks(place, names, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.minorticks_off()


def _draw_curves(axes: Axes, curves: pd.DataFrame, rows: pd.DataFrame) -> None:
    from matplotlib import colormaps

    axes.axhline(1, color=INK, linewidth=0.9, linestyle="--")
    drawn = 0
    colours = [*colormaps["viridis"](np.linspace(0, 0.8, max(len(rows), 1)))]
    for (origin, network), name, colour in zip(
        rows[["origin", "network"]].itertuples(index=False), _names(rows), colours, strict=True
    ):
        line = curves[(curves["origin"] == origin) & (curves["network"] == network)]
        line = line[line["n_best"] * line["chance"] >= FEWEST_EXPECTED]
        if len(line) > 1:
            axes.plot(line["n_best"], line["precision"] / line["chance"], color=colour, linewidth=1.6, label=name)
            drawn += 1
    axes.set(xlabel="Best pairs, by score", ylabel="Precision / chance")
    axes.set_xscale("log")
    if drawn:
        axes.set_ylim(0, max(2.0, 1.5 * axes.get_ylim()[1]))
        axes.legend(fontsize=7, frameon=False, loc="upper right")
    else:
        axes.text(0.5, 0.4, "Too few pairs for a curve", transform=axes.transAxes, ha="center", color=HUB, fontsize=9)
