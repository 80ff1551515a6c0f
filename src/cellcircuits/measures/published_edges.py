"""The edges behind the published statistics: the 50 strongest of each source and target layer."""

from __future__ import annotations

import polars as pl

STRONGEST = 50
"""Edges that the published code kept of each source and target layer."""


def strongest_edges(edges: pl.DataFrame, n: int = STRONGEST) -> pl.DataFrame:
    """The `n` edges of largest |snr| of each source and target layer, in order of their ends.

    Everything after the count of edges was published from this cut (Kendiukhov 2026), so it describes strong edges,
    and of many sources only a fixed number. Equal ones are taken in order of their target.
    """
    ends = ["source", "target_layer"]
    size = pl.col("snr").abs()
    ranked = edges.select("source", "target", "target_layer", "snr").sort(
        [*ends, size, "target"], descending=[False, False, True, False]
    )
    return ranked.filter(pl.int_range(pl.len()).over(ends) < n).sort("source", "target")
