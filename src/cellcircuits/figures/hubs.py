"""How concentrated edges are, beside what firing rates explain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellcircuits.answers import Found
from cellcircuits.figure_style import HUB, INK, QUIET, new_axes, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"out": "Sources, by targets", "in": "Targets, by sources"}


def draw(found: Found) -> dict[str, Figure]:
    """{"hub_rates": Gini coefficient and share of the top 20, each beside what layer and firing rate make}."""
    table = found.tables["hub_rates"]
    beyond = [NAMES[row.direction].split(",")[0].lower() for row in table.itertuples() if row.gini_p <= 0.05]
    heading = "Edges are no more concentrated than firing rates make them"
    if beyond:
        heading = f"A few {' and '.join(beyond)} have more edges than firing rates explain"
    words = "Dots: observed, with 95 % intervals. Line: degrees that layer and firing rate alone make."
    figure = new_figure(8.0, 3.6, heading, words, len(table), "Too few features with edges.")
    if table.empty:
        return {"hub_rates": figure}
    axes = new_axes(figure, left=1.55, right=3.55, top=1.15, bottom=0.75)
    _dots(axes, table, "gini", "gini_rate", "Gini coefficient of the degree per layer", 1)
    axes.set_yticks(range(len(table)), [NAMES[direction] for direction in table["direction"]])
    axes = new_axes(figure, left=4.75, right=0.35, top=1.15, bottom=0.75)
    _dots(
        axes,
        table.assign(**{k: 100 * table[k] for k in ("top_share", "top_low", "top_high", "top_rate")}),
        "top_share",
        "top_rate",
        "Edges of the top 20 (% of all)",
        None,
    )
    axes.set_yticks([])
    return {"hub_rates": figure}


def _dots(axes: Axes, table: pd.DataFrame, value: str, chance: str, unit: str, most: float | None) -> None:
    """One row per direction: value, interval and chance."""
    stem = value.removesuffix("_share")
    right = most or 1.3 * float(table[[value, f"{stem}_high", chance]].max().max())
    for place, row in enumerate(table.to_dict("records")):
        axes.plot([row[f"{stem}_low"], row[f"{stem}_high"]], [place, place], color=HUB, linewidth=2)
        axes.plot(row[value], place, "o", color=HUB, markersize=8)
        axes.plot([row[chance]] * 2, [place - 0.3, place + 0.3], color=INK, linewidth=1.6)
        # names stay on the axes where numbers are near 0
        side = "left" if row[chance] < 0.3 * right else "center"
        axes.text(row[chance], place - 0.34, "firing rate alone", ha=side, va="bottom", fontsize=8, color=QUIET)
        end = max(row[f"{stem}_high"], row[chance])
        axes.text(end, place, f"  p = {row[f'{stem}_p']:.2g}", va="center", fontsize=8, color=HUB)
    axes.set(xlabel=unit, ylim=(len(table) - 0.4, -0.65), xlim=(0, right))
    axes.tick_params(axis="y", length=0)
