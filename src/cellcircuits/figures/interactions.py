"""How features act together: the size of contrasts by panel, and joint effects beside the sum of single ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Found
from cellcircuits.figure_style import HUB, INK, OPPOSES, PALE, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = {2: "o", 3: "^"}
COLOURS = {"more": (OPPOSES, "more than the sum"), "less": (SUPPORTS, "less")}
WIDTH, HEIGHT = 9.0, 4.5
SPREAD = 0.12


def draw(found: Found) -> dict[str, Figure]:
    """{"interactions": relative size of contrasts by panel; joint effects of interacting pairs against their sum}."""
    groups, rows, answer = found.tables["interaction_groups"], found.tables["group_interactions"], found.answers[0]
    words = f"{answer.value:.2%} of tests of a group and a target interact; by chance {answer.baseline:.2%}."
    figure = new_figure(WIDTH, HEIGHT, "Joint effects of features", words, len(groups), "No group was tested.")
    shown = groups[(groups["contrast"] == "additivity") & (groups["n_tested"] > 0)]
    if shown.empty:
        return {"interactions": figure}
    _sizes(new_axes(figure, left=0.8, right=4.3, top=1.0, bottom=0.95), shown)
    chosen = rows[(rows["contrast"] == "additivity") & (rows["readout"] == "source")]
    _joint(new_axes(figure, left=5.75, right=0.25, top=1.0, bottom=0.95), chosen)
    return {"interactions": figure}


def _sizes(axes: Axes, shown: pd.DataFrame) -> None:
    """A mark per group in a column per panel; filled: of the activation, hollow: before the threshold."""
    panels = list(dict.fromkeys(shown["panel"]))
    for (readout, size), part in shown.groupby(["readout", "n_members"]):
        place = np.array([panels.index(panel) for panel in part["panel"]], dtype=float)
        place += (-SPREAD if readout == "source" else SPREAD) + 0.02 * (part["matched_set"].to_numpy() % 4 - 1.5)
        face = HUB if readout == "source" else "none"
        axes.scatter(place, part["relative_size"], s=26, marker=MARKERS[size], facecolor=face, edgecolor=HUB)
    for (panel, readout), part in shown.groupby(["panel", "readout"]):
        centre = panels.index(panel) + (-SPREAD if readout == "source" else SPREAD)
        axes.hlines(part["relative_size"].mean(), centre - 0.1, centre + 0.1, color=INK, linewidth=1.5)
    for size, readout, label in ((2, "source", "pair, activation"), (2, "pre", "before the threshold")):
        face = HUB if readout == "source" else "none"
        axes.scatter([], [], s=26, marker=MARKERS[size], facecolor=face, edgecolor=HUB, label=label)
    axes.scatter([], [], s=26, marker=MARKERS[3], facecolor=HUB, edgecolor=HUB, label="triplet")
    axes.set_xticks(range(len(panels)), [panel.replace(" ", "\n", 1) for panel in panels], fontsize=8)
    axes.set_xlim(-0.5, len(panels) - 0.5)
    axes.set_ylim(0, None)
    axes.set_ylabel("Mean |joint - sum| / mean |sum|")
    axes.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, columnspacing=1)


def _joint(axes: Axes, chosen: pd.DataFrame) -> None:
    """A dot per target on which a group interacts."""
    limit = float(np.abs(chosen[["joint", "expected"]].to_numpy()).max(initial=0.0)) * 1.05 or 1.0
    axes.plot([-limit, limit], [-limit, limit], "--", color=QUIET, linewidth=1)
    axes.axhline(0, color=PALE, linewidth=0.8, zorder=0)
    axes.axvline(0, color=PALE, linewidth=0.8, zorder=0)
    for kind, (colour, label) in COLOURS.items():
        part = chosen[chosen["together"] == kind]
        axes.scatter(part["expected"], part["joint"], s=16, color=colour, alpha=0.6, linewidth=0, label=label)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
    axes.set(xlabel="Sum of the effects of members alone", ylabel="Effect of all members together")
    axes.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    axes.set_aspect("equal")
