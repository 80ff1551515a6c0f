"""Whether edges converge: targets reached beside those reached by chance, for every pair of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellcircuits.answers import Found
from cellcircuits.figure_style import INK, PALE, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(found: Found) -> dict[str, Figure]:
    """{"convergence": share of the targets that edges reach against the same by chance, one dot per pair of layers}."""
    table, heading, words = found.tables["convergence"], "Targets that edges reach, beside chance", ""
    if len(table):
        answer = found.answers[1]
        heading = "Edges reach as many targets as picks by firing rate, or more"
        if answer.p_value <= 0.05:
            heading = "Edges converge on fewer targets than chance"
        words = (
            f"All pairs of layers: {100 * answer.value:.0f} % of the targets reached, {100 * answer.baseline:.0f} % if "
            f"picked by firing rate (p = {answer.p_value:.1g})."
        )
    figure = new_figure(7.0, 5.0, heading, words, len(table))
    if table.empty:
        return {"convergence": figure}
    axes = new_axes(figure, left=0.9, right=0.3, top=0.95, bottom=0.75)
    n = table["n_targets"]
    observed = 100 * table["n_distinct"] / n
    for name, colour, words in (
        ("uniform", PALE, "picked at random"),
        ("rate", SUPPORTS, "picked in proportion to firing rate"),
    ):
        axes.scatter(100 * table[f"distinct_{name}"] / n, observed, s=26, color=colour, label=words, linewidths=0)
    top = min(100.0, 1.08 * float(max(observed.max(), 100 * (table["distinct_uniform"] / n).max())))
    axes.plot([0, top], [0, top], color=INK, linewidth=0.9, linestyle="--")
    axes.text(0.97 * top, 0.9 * top, "chance", ha="right", va="top", fontsize=8, color=QUIET)
    axes.set(xlim=(0, 1.02 * top), ylim=(0, 1.02 * top))
    axes.set(xlabel="Targets reached by chance (% of those that fire)", ylabel="Targets reached by edges (%)")
    axes.legend(frameon=False, fontsize=8, loc="upper left", title="Chance: each source's targets", title_fontsize=8)
    return {"convergence": figure}
