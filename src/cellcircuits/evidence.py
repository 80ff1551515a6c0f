"""What the questions are asked of: edges with integer codes for their ends, features, and the other tables of a run.

Edges are a polars frame, so that ten million of them fit a laptop: ends are rows of `features`, not texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

from cellcircuits.tables import empty_table

ENDS = ("source_layer", "source_feature", "target_layer", "target_feature")
EDGE_COLUMNS = {
    **dict.fromkeys(ENDS, pl.Int32),
    "n_cells": pl.Int32,
    "mean_delta": pl.Float32,
    "snr": pl.Float32,
    "relative_effect": pl.Float32,
    "q_value": pl.Float32,
    "specific": pl.Boolean,
    "specific_q": pl.Float32,
}
"""Columns of the table `edges` that the questions need, and their types here."""


@dataclass(frozen=True)
class Evidence:
    """Tables of one run."""

    edges: pl.DataFrame
    """EDGE_COLUMNS, and `source` and `target` (Int32): rows of `features`."""
    features: pd.DataFrame
    """Table `features`, in order of layer and feature."""
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """Other tables of the run by name; use `table`."""

    def table(self, name: str) -> pd.DataFrame:
        """A table of the run; without rows if the run does not have it."""
        return self.tables.get(name, empty_table(name))

    @cached_property
    def n_layers(self) -> int:
        """Highest layer with features, plus 1."""
        return int(self.features["layer"].max()) + 1

    @cached_property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """(names of all labels, sorted; int32 (feature row,): index of each feature's label, -1 without one)."""
        names, code = np.unique(self.features["label"].to_numpy(dtype=str), return_inverse=True)
        first = int(len(names) > 0 and names[0] == "")
        return names[first:].astype(object), (code - first).astype(np.int32)

    @cached_property
    def source_rows(self) -> np.ndarray:
        """Rows of `features` that were ablated, sorted; those with edges where the run does not say."""
        sources = self.table("sources")
        if sources.empty:
            return np.unique(self.edges["source"].to_numpy())
        return np.sort(feature_rows(self.features, sources["layer"], sources["feature"]))


def feature_rows(features: pd.DataFrame, layer: pd.Series, feature: pd.Series) -> np.ndarray:
    """int32: row of each (layer, feature) in the table `features`, -1 where it has none."""
    place = pd.MultiIndex.from_frame(features[["layer", "feature"]])
    return place.get_indexer(pd.MultiIndex.from_arrays([layer, feature])).astype(np.int32)


def make_evidence(edges: pd.DataFrame | pl.DataFrame, features: pd.DataFrame, **tables: pd.DataFrame) -> Evidence:
    """Evidence from tables in memory; edges need at least the columns of their ends, `mean_delta` and `snr`."""
    frame = pl.from_pandas(edges) if isinstance(edges, pd.DataFrame) else edges
    return _coded(frame.lazy(), features, tables)


def scan_evidence(edges: Path, features: pd.DataFrame, **tables: pd.DataFrame) -> Evidence:
    """Evidence from edges on disk (edges.parquet), of which only the columns that are needed are read."""
    return _coded(pl.scan_parquet(edges), features, tables)


def _coded(edges: pl.LazyFrame, features: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> Evidence:
    features = features.sort_values(["layer", "feature"], kind="stable", ignore_index=True)
    known = edges.collect_schema().names()
    rows = pl.LazyFrame(
        {
            "layer": features["layer"].to_numpy(np.int32),
            "feature": features["feature"].to_numpy(np.int32),
            "row": np.arange(len(features), dtype=np.int32),
        }
    )
    coded = edges.select(pl.col(name).cast(kind) for name, kind in EDGE_COLUMNS.items() if name in known)
    for end in ("source", "target"):
        names = {"layer": f"{end}_layer", "feature": f"{end}_feature", "row": end}
        coded = coded.join(rows.rename(names), on=[f"{end}_layer", f"{end}_feature"], how="left")
    ordered = coded.with_columns(pl.col("source", "target").fill_null(-1)).sort(ENDS)
    return Evidence(ordered.collect(), features, tables)
