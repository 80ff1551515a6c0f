"""How every figure of the findings looks: sizes in inches, a heading, a quiet subtitle, colours safe for all eyes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUPPORTS, OPPOSES, HUB, INK, QUIET, PALE = "#0072B2", "#D55E00", "#007A5A", "#222222", "#666666", "#c9c9c9"
"""Blue: a negative delta (the source supports the target); vermillion: a positive one."""


def new_figure(
    width: float, height: float, heading: str, subtitle: str, n_shown: float, nothing: str = "No edges were called."
) -> Figure:
    """White figure (inches) of no window with a heading and a subtitle, or a message if there is nothing to show."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(0.15 / width, 1 - 0.15 / height, heading, va="top", fontsize=13, weight="bold", color=INK)
    figure.text(0.15 / width, 1 - 0.47 / height, subtitle if n_shown else "", va="top", fontsize=9, color=QUIET)
    figure.text(0.5, 0.45, "" if n_shown else nothing, ha="center", fontsize=13, color=QUIET)
    return figure


def new_axes(figure: Figure, left: float, right: float, top: float, bottom: float) -> Axes:
    """Axes with these margins in inches."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def save_figure(figure: Figure, path: Path, foot: str = "") -> None:
    """Write a PNG file; the same figure gives the same bytes. `foot` is a line at the foot: what was traced."""
    width, height = figure.get_size_inches()
    figure.text(1 - 0.15 / width, 0.1 / height, foot, ha="right", fontsize=8, color=QUIET, parse_math=False)
    # matplotlib would write its version into the file
    figure.savefig(path, dpi=150, metadata={"Software": None})
