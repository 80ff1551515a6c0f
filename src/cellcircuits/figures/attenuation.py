"""How far effects reach: edges at each distance beside an even spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellcircuits.answers import Found
from cellcircuits.figure_style import INK, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(found: Found) -> dict[str, Figure]:
    """{"attenuation_curve": edges at each distance / edges expected there if distance did not matter}."""
    table, answer = found.tables["attenuation_curve"].dropna(subset="ratio"), found.answers[0]
    heading = "Edges at each distance, beside an even spread"
    if answer.p_value <= 0.05:
        heading = "Effects fade with distance" if answer.value < 0 else "Effects grow with distance"
    words = f"Rank correlation of edge density and distance: {answer.value:.2f} (chance: 0), p = {answer.p_value:.2g}."
    figure = new_figure(
        7.0, 4.6, heading, words if np.isfinite(answer.value) else "Too few layers for a trend.", len(table)
    )
    if table.empty:
        return {"attenuation_curve": figure}
    axes = new_axes(figure, left=0.85, right=0.3, top=0.95, bottom=0.75)
    axes.set(
        xlabel="Distance from source to target (layers); below the dots, number of edges",
        ylabel="Edges / edges of an even spread",
    )
    error = np.abs(table[["ratio_low", "ratio_high"]].to_numpy().T - table["ratio"].to_numpy())
    axes.errorbar(table["distance"], table["ratio"], error, fmt="o", color=SUPPORTS, capsize=3, markersize=6)
    axes.axhline(1, color=INK, linewidth=0.9, linestyle="--", label="chance: distance does not matter")
    top = max(1.0, float(table[["ratio", "ratio_high"]].max().max()))
    axes.set(ylim=(0, 1.25 * top), xlim=(0.4, table["distance"].max() + 0.6), xticks=table["distance"])
    if len(table) > 15:
        axes.set_xticks(table["distance"][::2])
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    for row in table.itertuples():
        axes.text(row.distance, 0.02 * top, f"{row.n_edges:,}", ha="center", fontsize=7, color=QUIET)
    return {"attenuation_curve": figure}
