"""How many edges there are at other thresholds, of sources and of random directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellcircuits.answers import Found
from cellcircuits.figure_style import INK, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(found: Found) -> dict[str, Figure]:
    """{"thresholds": edges against the threshold of |snr|, at the run's threshold of sign agreement}."""
    table, answer = found.tables["thresholds"], found.answers[0]
    heading = "Edges at other thresholds"
    if answer.value > answer.baseline:
        heading = "Sources have more edges than random directions"
    elif answer.value <= answer.baseline:
        heading = "Random directions have as many edges as the sources, or more"
    words = f"Share of the tested pairs that are edges: {100 * answer.value:.1f} %"
    words += f"; of random directions {100 * answer.baseline:.1f} %." if answer.baseline == answer.baseline else "."
    figure = new_figure(7.0, 4.6, heading, words, len(table), "The run has no sweep of thresholds.")
    if table.empty:
        return {"thresholds": figure}
    used = table[table["is_rule"]].iloc[0]
    table = table[table["min_agreement"] == used["min_agreement"]]
    axes = new_axes(figure, left=0.95, right=0.3, top=0.95, bottom=0.75)
    for name, colour, style, label in (
        ("n_edges", SUPPORTS, "o-", "sources"),
        ("n_random", INK, "s--", "random directions of the same norm (chance)"),
    ):
        shown = table[table[name] > 0]
        axes.plot(shown["min_snr"], shown[name], style, color=colour, label=label, markersize=5)
    axes.set(yscale="log", xlabel="Threshold of |mean change| / standard deviation over cells", ylabel="Edges")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.axvline(used["min_snr"], color=QUIET, linewidth=0.8, linestyle=":")
    axes.text(
        used["min_snr"], 1.0, " the run's", transform=axes.get_xaxis_transform(), va="top", fontsize=8, color=QUIET
    )
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    return {"thresholds": figure}
