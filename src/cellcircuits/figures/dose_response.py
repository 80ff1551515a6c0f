"""How effects grow with the dose: every followed edge, in units of what removal does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellcircuits.answers import Found
from cellcircuits.figure_style import INK, PALE, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(found: Found) -> dict[str, Figure]:
    """{"dose_response": effect / |effect of removal| by dose, a line per edge, their median, and a linear model}."""
    table, trend = found.tables["dose_response"], found.answers[0]
    ends = ["source_layer", "source_feature", "target_layer", "target_feature"]
    wide = table.pivot_table(index=ends, columns="dose", values="mean_delta")
    removal = wide[0.0].to_numpy()
    wide = wide[removal != 0]
    relative = -wide.to_numpy() / removal[removal != 0, None]
    words = f"Rank correlation with the dose above 1: {trend.value:.2f} (chance: 0). {len(wide):,} edges."
    figure = new_figure(7.0, 4.6, "Effects by dose of the source feature", words, len(wide))
    if not len(wide):
        return {"dose_response": figure}
    doses = np.append(wide.columns.to_numpy(dtype=float), 1.0)
    order = np.argsort(doses)
    lines = np.column_stack([relative, np.zeros(len(relative))])[:, order]
    axes = new_axes(figure, left=0.85, right=0.3, top=0.95, bottom=0.75)
    axes.plot(doses[order], lines.T, color=PALE, linewidth=0.7, zorder=1)
    axes.plot(doses[order], np.median(lines, axis=0), "o-", color=SUPPORTS, label="median edge", zorder=3)
    axes.plot(doses[order], doses[order] - 1, "--", color=INK, linewidth=1, label="a straight line through removal")
    axes.axhline(0, color=INK, linewidth=0.6)
    low, high = np.percentile(lines, [2, 98])
    top = max(high, 1.0)
    axes.set(
        xlabel="Factor of the source's activation (0: removed, 1: undisturbed)",
        ylabel="Effect / size of the effect of removal",
        ylim=(min(low, -1) - 0.1 * top, 1.15 * top),
    )
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return {"dose_response": figure}
