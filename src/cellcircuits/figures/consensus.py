"""Do runs join the same pairs of gene programs? Shared pairs relative to chance; and the runs left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellcircuits.answers import Found
from cellcircuits.figures.forest import SHORT, forest, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(found: Found) -> dict[str, Figure]:
    """`consensus`: one row per pair of runs; `held_out`, with three runs or more: one row per run."""
    table = found.tables.get("consensus_overlap")
    if table is None:
        return {"consensus": _overlaps(pd.DataFrame(columns=["first", "second"]))}
    figures = {"consensus": _overlaps(table)}
    held = found.tables["held_out"]
    return figures | ({"held_out": _held_out(held)} if len(held) else {})


def _numbers(table: pd.DataFrame, name: str) -> np.ndarray:
    return table[name].to_numpy(np.float64) if name in table else np.zeros(len(table))


def _overlaps(table: pd.DataFrame) -> Figure:
    ratio = _numbers(table, "enrichment")
    pairs = np.flatnonzero((table["second"] != "").to_numpy() & np.isfinite(ratio))
    heading = "Do the runs join the same pairs of gene programs?"
    if len(pairs) == 1:
        row = table.iloc[pairs[0]]
        heading = f"Both runs join {row['n_shared']:,} pairs of gene programs, {row['n_expected']:,.1f} by chance"
    elif len(pairs):
        heading = f"The runs share {np.median(ratio[pairs]):.2g} times as many pairs of gene programs as by chance"
    shuffled = np.divide(
        _numbers(table, "n_shared"), _numbers(table, "shuffled_expected"), out=np.full(len(table), np.nan),
        where=_numbers(table, "shuffled_expected") > 0,
    )  # fmt: skip
    names = [
        f"{shorten(row.first, SHORT)} and {shorten(row.second, SHORT)}" if row.second else row.first
        for row in table.itertuples()
    ]
    return forest(
        heading,
        "Chance: every program keeps its number of pairs (dots), or of edges (bars). The published null keeps neither.",
        names,
        ratio,
        _numbers(table, "interval_low"),
        _numbers(table, "interval_high"),
        {"of edges kept": shuffled, "published null": _numbers(table, "published_enrichment")},
        "Shared pairs / shared pairs by chance",
        chance=1.0,
        logarithmic=True,
    )


def _held_out(table: pd.DataFrame) -> Figure:
    precision = _numbers(table, "precision")
    heading = "Does the consensus of the other runs hold in the one left out?"
    if np.isfinite(precision).any():
        expected = np.nanmedian(_numbers(table, "expected_precision"))
        heading = (
            f"A run left out has {np.nanmedian(precision):.0%} of the consensus of the others, by chance {expected:.0%}"
        )
    return forest(
        heading,
        "Pairs of gene programs that at least two other runs join. Chance: the pairs of the run left out, rewired.",
        [str(name) for name in table["run"]],
        precision,
        _numbers(table, "interval_low"),
        _numbers(table, "interval_high"),
        {"by chance": _numbers(table, "expected_precision")},
        "Share of these pairs that the run joins",
        percent=True,
    )
