"""How many cells edges need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellcircuits.answers import Found
from cellcircuits.figure_style import HUB, INK, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(found: Found) -> dict[str, Figure]:
    """{"cell_numbers": recall and precision of the edges of fewer cells, against all cells of the run}."""
    table, answer = found.tables["cell_numbers"], found.answers[0]
    heading = "How many cells do edges need?"
    if answer.value == answer.value:
        heading = f"Half of the groups give {100 * answer.value:.0f} % of the edges of all cells"
    words = "Edges called from the first groups of cells, beside those of all cells."
    figure = new_figure(7.0, 4.6, heading, words, len(table), "Cells were traced in one group.")
    if table.empty:
        return {"cell_numbers": figure}
    axes = new_axes(figure, left=0.85, right=0.3, top=0.95, bottom=0.75)
    for name, colour, style, label in (
        ("recall", SUPPORTS, "o-", "edges of all cells that are found"),
        ("precision", HUB, "^-", "found edges that are edges of all cells"),
        ("chance_recall", INK, "s--", "found by as many pairs picked at random (chance)"),
    ):
        axes.plot(table["n_cells"], 100 * table[name], style, color=colour, label=label, markersize=5, clip_on=False)
    axes.set(xlabel="Cells (most of any source)", ylabel="Share of edges (%)", ylim=(0, 100), xlim=(0, None))
    axes.legend(frameon=False, fontsize=8, loc="center right")
    return {"cell_numbers": figure}
