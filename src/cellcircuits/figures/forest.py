"""Numbers with their intervals in rows, beside what chance makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cellcircuits.figure_style import INK, PALE, QUIET, SUPPORTS, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 14
LONGEST = 38
SHORT = 17
"""Longest name of a run where two stand beside each other."""
NEAR = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 1.75, 2.0)
MIDDLE = (0.1, 0.2, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
FAR = (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 100.0, 1000.0)
"""Ticks of ratios, from close to 1 to over a wide range."""
MARKS = (("|", QUIET), ("D", "none"))
"""Marker and fill of the first and second number that stands beside the value."""


def forest(
    heading: str,
    subtitle: str,
    names: Sequence[str],
    value: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    beside: dict[str, np.ndarray],
    axis: str,
    chance: float | None = None,
    percent: bool = False,
    logarithmic: bool = False,
) -> Figure:
    """A dot with its interval per row; `beside`: up to two other numbers per row by their names in the legend.

    Rows whose value is no number are left out; at most MOST_ROWS are shown. `chance` is a line through all rows.
    """
    kept = np.flatnonzero(np.isfinite(value))
    shown = kept[:MOST_ROWS]
    if len(kept) > len(shown):
        subtitle += f" {len(kept) - len(shown)} more in the table."
    height = min(5.0, 1.95 + 0.3 * max(len(shown), 2))
    figure = new_figure(8.0, height, heading, subtitle, len(shown), "Nothing could be compared.")
    if not len(shown):
        return figure
    axes = new_axes(figure, left=3.0, right=0.35, top=1.05, bottom=0.6)
    y = np.arange(len(shown))[::-1]
    if chance is not None:
        axes.axvline(chance, color=PALE, linewidth=1.2, zorder=0)
    axes.hlines(y, low[shown], high[shown], color=SUPPORTS, linewidth=1.6, alpha=0.6)
    axes.plot(value[shown], y, "o", color=SUPPORTS, markersize=6, label="found (95 % interval)")
    _beside(axes, {name: numbers[shown] for name, numbers in beside.items()}, y)
    axes.set(yticks=y, ylim=(-0.6, len(shown) - 0.4), xlabel=axis)
    axes.set_yticklabels([shorten(names[i]) for i in shown], parse_math=False, fontsize=9, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#ededed", linewidth=0.7)
    axes.set_axisbelow(True)
    every = [value[shown], low[shown], high[shown], *(x[shown] for x in beside.values())]
    _scale(axes, every, chance, logarithmic, percent)
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 3}
    axes.legend(**place, frameon=False, fontsize=8.5, handletextpad=0.3, columnspacing=1.2)
    return figure


def _beside(axes: Axes, beside: dict[str, np.ndarray], y: np.ndarray) -> None:
    """The numbers that stand beside the value of each row; more than there are marks for is an error."""
    for (name, numbers), (marker, fill) in zip(beside.items(), MARKS[: len(beside)], strict=True):
        size = 13 if marker == "|" else 5.5
        style: dict[str, Any] = {"color": QUIET, "markerfacecolor": fill, "markersize": size, "markeredgewidth": 1.6}
        axes.plot(numbers, y, marker, label=name, **style)


def shorten(text: str, longest: int = LONGEST) -> str:
    """At most this many characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _scale(axes: Axes, numbers: list[np.ndarray], chance: float | None, logarithmic: bool, percent: bool) -> None:
    """Limits with room around all numbers, and ticks that can be read."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator, PercentFormatter

    every = np.concatenate([*numbers, [] if chance is None else [chance]])
    every = every[np.isfinite(every) & ((every > 0) | (not logarithmic))]
    if logarithmic:
        low, high = min(every.min() / 1.12, 0.8), max(every.max() * 1.12, 1.25)
        axes.set(xscale="log", xlim=(low, high))
        axes.xaxis.set_major_locator(FixedLocator(NEAR if high / low < 2 else MIDDLE if high / low < 10 else FAR))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        return
    room = 0.05 * max(float(np.ptp(every)), 0.02)
    axes.set_xlim(max(every.min() - room, 0.0 if percent else -np.inf), every.max() + room)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if percent:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if np.ptp(every) > 0.06 else 1))
