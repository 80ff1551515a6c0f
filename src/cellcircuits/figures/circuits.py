"""Which gene programs are joined more often than chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellcircuits.answers import Found
from cellcircuits.figure_style import HUB, INK, PALE, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 10
LONGEST = 30


def draw(found: Found) -> dict[str, Figure]:
    """{"circuits": edges of the pairs of labels with the smallest q, beside those of permuted labels}."""
    table, answer = found.tables["circuits"], found.answers[0]
    n = int(answer.value) if len(table) else 0
    heading = "No pair of gene programs has more edges than chance"
    if n:
        heading = f"{n:,} ordered pairs of gene programs have more edges than chance"
    words = f"Of {len(table):,} pairs with an edge, the smallest q first."
    if n:
        words = (
            f"Of {len(table):,} pairs with an edge; at most {answer.baseline:.1f} of the {n:,} false. Smallest q first."
        )
    figure = new_figure(8.0, 5.0, heading, words, len(table), "No edge joins two labels.")
    if table.empty:
        return {"circuits": figure}
    shown = table.head(SHOWN)
    axes = new_axes(figure, left=3.9, right=1.1, top=1.05, bottom=0.7)
    colours = [HUB if answer.p_value <= 0.05 and row < n else PALE for row in range(len(shown))]
    axes.barh(range(len(shown)), shown["n_edges"], color=colours, height=0.65)
    for place, row in enumerate(shown.itertuples()):
        axes.plot([row.n_expected] * 2, [place - 0.4, place + 0.4], color=INK, linewidth=1.5)
        end = max(row.n_edges, row.n_expected)
        axes.text(end, place, f"  q = {row.q_value:.1g}", va="center", fontsize=8)
    names = [f"{_short(row.source_label)} → {_short(row.target_label)}" for row in shown.itertuples()]
    axes.set_yticks(range(len(shown)), names, fontsize=8, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="Edges (black line: expected when target labels are permuted)", ylim=(SHOWN - 0.4, -0.6))
    axes.locator_params(axis="x", integer=True)
    return {"circuits": figure}


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1].rstrip()}…"
