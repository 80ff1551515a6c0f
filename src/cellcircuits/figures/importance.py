"""How much more the loss rises by a hub than by its controls, hub by hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellcircuits.answers import Found
from cellcircuits.figure_style import HUB, INK, QUIET, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(found: Found) -> dict[str, Figure]:
    """{"importance": difference of the loss changes of hub and control: every control, and the mean of each hub}."""
    table, answer = found.tables["importance"], found.answers[0]
    table = table[table["n_cells"] > 0]
    keys = ["layer", "hub"]
    hubs = table.groupby(keys).agg(difference=("difference", "mean"), n_edges=("hub_edges", "first"))
    hubs = hubs.sort_values("difference", kind="stable")
    words = f"Mean over hubs: {answer.value:+.3g} (equal importance: 0)."
    height = 2.2 + 0.3 * max(len(hubs), 1)
    figure = new_figure(7.0, height, "Loss by hubs, beside features that fire as often", words, len(hubs))
    if hubs.empty:
        return {"importance": figure}
    axes = new_axes(figure, left=1.75, right=0.4, top=0.95, bottom=0.9)
    row = {hub: i for i, hub in enumerate(hubs.index)}
    place = np.array([row[hub] for hub in zip(table["layer"], table["hub"], strict=True)], dtype=float)
    nth = table.groupby(keys).cumcount().to_numpy()
    place += 0.16 * (nth - nth.max() / 2)
    errors = [table["difference"] - table["low"], table["high"] - table["difference"]]
    axes.errorbar(
        table["difference"],
        place,
        xerr=errors,
        fmt="o",
        color=QUIET,
        markersize=3,
        elinewidth=0.8,
        alpha=0.7,
        label="one control (95 % over cells)",
    )
    axes.plot(hubs["difference"], np.arange(len(hubs)), "D", color=HUB, markersize=6, label="mean of the hub")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(np.arange(len(hubs)), [f"L{a} F{b} ({n:,} edges)" for (a, b), n in hubs["n_edges"].items()])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(-0.6, len(hubs) - 0.4)
    axes.set_xlabel("Rise of the masked-gene loss: hub - control, in the same cells")
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
    return {"importance": figure}
