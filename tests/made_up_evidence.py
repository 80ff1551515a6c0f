"""Evidence made up of random numbers, of any size: no edge knows what the labels, terms and genes of its ends are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl

from cellcircuits.columns import Column
from cellcircuits.evidence import Evidence, make_evidence
from cellcircuits.tables import TABLES, make_table

N_GENES = 2000
GENES_PER_LIST = 20


def filled(name: str, n_rows: int, **columns: object) -> pd.DataFrame:
    """A declared table with these columns, and 0, False or "" in the others."""
    others = {column.name: _plain(column, n_rows) for column in TABLES[name]}
    return make_table(name, others | columns)


def _plain(column: Column, n_rows: int) -> np.ndarray:
    if column.dtype == "string":
        return np.full(n_rows, "", dtype=object)
    return np.zeros(n_rows, dtype=column.dtype)


def made_up_features(
    rng: np.random.Generator, n_layers: int, n_features: int, n_labels: int, n_genes: int = N_GENES
) -> pd.DataFrame:
    """Features of which some 70 % have a label; labels and firing rates are unevenly common, as real ones are."""
    n = n_layers * n_features
    names = np.array([f"program {i}" for i in range(n_labels)], dtype=object)
    weight = 1 / np.arange(1, n_labels + 1)
    labels = np.where(rng.random(n) < 0.7, rng.choice(names, n, p=weight / weight.sum()), "")
    genes = rng.integers(0, n_genes, size=(n, GENES_PER_LIST))
    lists = [";".join(f"G{g}" for g in dict.fromkeys(row)) for row in genes.tolist()]
    return filled(
        "features",
        n,
        layer=np.repeat(np.arange(n_layers), n_features),
        feature=np.tile(np.arange(n_features), n_layers),
        label=labels,
        n_terms=np.where(labels != "", rng.integers(1, 6, n), 0),
        firing_rate=np.exp(rng.normal(-4.5, 1, n)),
        top_genes=lists,
    )


def made_up_edges(
    rng: np.random.Generator, n_layers: int, n_features: int, sources_per_layer: int, edges_per_source: int
) -> pl.DataFrame:
    """Edges from some sources of every layer but the last to random features of the layers above, without repeats."""
    parts = []
    for layer in range(n_layers - 1):
        above = (n_layers - 1 - layer) * n_features
        sources = np.sort(rng.choice(n_features, size=sources_per_layer, replace=False))
        n_edges = min(edges_per_source, above)
        targets = np.concatenate([rng.choice(above, size=n_edges, replace=False) for _ in sources])
        parts.append(
            pl.DataFrame(
                {
                    "source_layer": np.full(len(targets), layer),
                    "source_feature": np.repeat(sources, n_edges),
                    "target_layer": layer + 1 + targets // n_features,
                    "target_feature": targets % n_features,
                }
            )
        )
    ends = pl.concat(parts)
    snr = rng.normal(size=ends.height) + np.sign(rng.normal(size=ends.height))
    more = {
        "n_cells": rng.integers(20, 200, ends.height),
        "mean_delta": snr * rng.uniform(0.1, 2, ends.height),
        "snr": snr,
        "relative_effect": np.where(rng.random(ends.height) < 0.1, np.nan, snr / 10),
        "q_value": rng.uniform(0, 0.05, ends.height),
        "specific": rng.random(ends.height) < 0.05,
        "specific_q": rng.random(ends.height),
    }
    return ends.with_columns(**{name: pl.Series(values) for name, values in more.items()})


def made_up_evidence(
    seed: int = 0,
    n_layers: int = 4,
    n_features: int = 60,
    sources_per_layer: int = 10,
    edges_per_source: int = 20,
    n_labels: int = 8,
    n_genes: int = N_GENES,
    **tables: pd.DataFrame,
) -> Evidence:
    """Features, edges, sources and tested pairs of a run in which nothing depends on anything."""
    rng = np.random.default_rng(seed)
    features = made_up_features(rng, n_layers, n_features, n_labels, n_genes)
    edges = made_up_edges(rng, n_layers, n_features, sources_per_layer, edges_per_source)
    ends = edges.select("source_layer", "source_feature").unique(maintain_order=True).to_pandas()
    ends.columns = ["layer", "feature"]
    sources = filled("sources", len(ends), layer=ends["layer"], feature=ends["feature"], n_cells=100)
    pairs = [(s, t) for s in range(n_layers - 1) for t in range(s + 1, n_layers)]
    tested = filled(
        "tested",
        len(pairs),
        source_layer=[s for s, _ in pairs],
        target_layer=[t for _, t in pairs],
        n_sources=sources_per_layer,
        n_tested=sources_per_layer * n_features,
    )
    return make_evidence(edges, features, **{"sources": sources, "tested": tested} | tables)
