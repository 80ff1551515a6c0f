"""What the intervention does: responding features of each source, beside those of a random direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellcircuits.answers import Found
from cellcircuits.figure_style import INK, OPPOSES, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(found: Found) -> dict[str, Figure]:
    """{"intervention_effects": number of features that fall and rise, by source}."""
    table, answer = found.tables["intervention_effects"], found.answers[0]
    words = f"{answer.value:.1%} of tested pairs respond; random directions: {answer.baseline:.1%}."
    counts = (
        table.assign(rises=table["mean_delta"] > 0)
        .groupby(["source_layer", "source_feature", "rises"])
        .size()
        .unstack("rises", fill_value=0)
        .reindex(columns=[False, True], fill_value=0)
    )
    height = 1.9 + 0.26 * max(len(counts), 1)
    figure = new_figure(7.0, height, "Features that respond to the intervention", words, len(counts))
    if counts.empty:
        return {"intervention_effects": figure}
    axes = new_axes(figure, left=1.1, right=0.3, top=0.95, bottom=0.55)
    place = range(len(counts))
    axes.barh(place, -counts[False], color=SUPPORTS, label="fall")
    axes.barh(place, counts[True], color=OPPOSES, label="rise")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(place, [f"L{layer} F{feature}" for layer, feature in counts.index], fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
    axes.set_xlabel("Features above that fall (left) or rise (right)")
    return {"intervention_effects": figure}
