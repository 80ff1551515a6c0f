"""How well co-activation alone tells which targets have an edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellcircuits.answers import Found
from cellcircuits.figure_style import INK, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(found: Found) -> dict[str, Figure]:
    """{"coactivation": AUROC of PMI for edges at each distance, one dot per pair of layers}."""
    table, answer = found.tables["coactivation"].dropna(subset="auroc"), found.answers[0]
    heading = "Edges are not read off co-activation"
    if answer.p_value <= 0.05:
        more = "more" if answer.value > 0.5 else "less"
        heading = f"Edges join features that fire together {more} than others do"
    words = (
        f"All edges: AUROC {answer.value:.2f} [{answer.low:.2f}, {answer.high:.2f}], p = {answer.p_value:.2g}; "
        "against targets of the same source that fire as often."
    )
    figure = new_figure(7.0, 4.6, heading, words, len(table), "No PMI: run `cellcircuits structure` first.")
    if table.empty:
        return {"coactivation": figure}
    axes = new_axes(figure, left=0.85, right=0.3, top=0.95, bottom=0.75)
    distance = table["target_layer"] - table["source_layer"]
    size = 20 + 180 * table["n_edges"] / table["n_edges"].max()
    axes.axhspan(answer.low, answer.high, color=SUPPORTS, alpha=0.12, linewidth=0)
    axes.axhline(answer.value, color=SUPPORTS, linewidth=1)
    axes.axhline(0.5, color=INK, linewidth=0.9, linestyle="--")
    axes.scatter(distance, table["auroc"], s=size, color=SUPPORTS, alpha=0.6, linewidths=0)
    axes.text(0.99, 0.51, "chance", transform=axes.get_yaxis_transform(), ha="right", fontsize=8, color=QUIET)
    axes.set(
        xlabel="Distance from source to target (layers); larger dots: more edges",
        ylabel="AUROC of PMI, edges against others",
    )
    axes.set(ylim=(min(0.3, table["auroc"].min() - 0.05), 1), xlim=(0.4, distance.max() + 0.6))
    axes.locator_params(axis="x", integer=True)
    return {"coactivation": figure}
