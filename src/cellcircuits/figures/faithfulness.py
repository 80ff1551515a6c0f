"""What circuits of growing size carry of the masked-gene loss, beside random circuits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Found
from cellcircuits.figure_style import INK, PALE, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (
    ("keep", "Only the circuit is kept", "Loss saved by it (% of all features)"),
    ("remove", "Only the circuit is removed", "Loss caused by it (% of all features)"),
)


def draw(found: Found) -> dict[str, Figure]:
    """{"faithfulness": share of the loss by size, of called and of random circuits; kept alone, and removed}."""
    table = found.tables["faithfulness"]
    words = "; ".join(
        f"{name}: {answer.value:.0%} (random circuits {answer.baseline:.0%})"
        for name, answer in zip(("Faithfulness", "Completeness"), found.answers, strict=True)
    )
    figure = new_figure(
        9.0, 4.2, "Do circuits carry the masked-gene loss?", f"{words}, mean over log size.", len(table)
    )
    if table.empty:
        return {"faithfulness": figure}
    shares = 100 * table[["share", "low", "high", "random_mean", "random_low", "random_high"]].to_numpy()
    bottom, top = min(shares.min(), 0.0), max(shares.max(), 10.0)
    margin = 0.06 * (top - bottom)
    for panel, (kind, title, label) in enumerate(PANELS):
        axes = new_axes(figure, left=0.8 + 4.5 * panel, right=4.8 - 4.5 * panel, top=1.1, bottom=0.75)
        _draw_panel(axes, table[table["kind"] == kind])
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        axes.set(xlabel="Features of the circuit", ylabel=label, ylim=(bottom - margin, top + margin))
    axes.legend(frameon=False, fontsize=8, loc="best")
    return {"faithfulness": figure}


def _draw_panel(axes: Axes, rows: pd.DataFrame) -> None:
    size = rows["size"].to_numpy()
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.fill_between(size, 100 * rows["random_low"], 100 * rows["random_high"], color=PALE, alpha=0.5, linewidth=0)
    axes.plot(size, 100 * rows["random_mean"], "s--", color=QUIET, markersize=4, label="random circuits (mean, range)")
    own = 100 * rows["share"].to_numpy()
    errors = np.maximum([own - 100 * rows["low"], 100 * rows["high"] - own], 0)
    axes.errorbar(
        size, own, errors, fmt="o-", color=SUPPORTS, markersize=5, capsize=2, label="circuit (95 % over cells)"
    )
    axes.set_xscale("log")
    axes.set_xticks(size, [f"{n:,}" for n in size])
    axes.minorticks_off()
    axes.set_xlim(size.min() / 1.3, size.max() * 1.3)
