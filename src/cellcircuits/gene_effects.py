"""From gene to gene: where a source is removed, and which other genes' states change for it.

At every position outside those of the removal, ||h(ablated) - h(clean)|| / ||h(clean)|| at the highest target layer is
what attention has carried there. All genes change a little when anything changes, so a gene is judged among the other
genes of the same source.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.moments import GENE_STATISTICS, Moments
from cellcircuits.tables import empty_table, make_table

GENES_PER_SOURCE = 50
REMOVED_GENES = 10


def gene_effects(moments: Moments, names: np.ndarray, min_cells: int) -> pd.DataFrame:
    """Table `gene_effects` of one source layer: of each source the genes that change most.

    `names` (token,) are gene names, "" for special tokens. A gene counts with `min_cells` cells.
    """
    if moments.genes is None:
        return empty_table("gene_effects")
    sums = dict(zip(GENE_STATISTICS, moments.genes, strict=True))
    parts = [_of_source(moments, row, {k: v[row] for k, v in sums.items()}, names, min_cells) for row in _rows(moments)]
    return make_table("gene_effects", pd.concat(parts, ignore_index=True))


def _rows(moments: Moments) -> range:
    return range(len(moments.source_features))


def _of_source(
    moments: Moments, row: int, sums: dict[str, np.ndarray], names: np.ndarray, min_cells: int
) -> pd.DataFrame:
    n = sums["n_changed"]
    tokens = np.flatnonzero((n >= min_cells) & (names[: len(n)] != ""))
    n = n[tokens]
    mean = sums["sum_change"][tokens] / n
    variance = np.maximum(sums["sum_squared_change"][tokens] - n * mean**2, 0) / np.maximum(n - 1, 1)
    logged = np.log(np.maximum(mean, np.finfo(float).tiny))
    spread = logged.std()
    z = (logged - logged.mean()) / spread if spread > 0 else np.zeros(len(tokens))
    best = np.argsort(-z, kind="stable")[:GENES_PER_SOURCE]
    removed = np.argsort(-sums["sum_removed"], kind="stable")[:REMOVED_GENES]
    removed_at = ";".join(str(names[t]) for t in removed if sums["sum_removed"][t] > 0)
    return pd.DataFrame(
        {
            "source_layer": moments.source_layer,
            "source_feature": moments.source_features[row],
            "gene": names[tokens[best]],
            "n_cells": n[best],
            "mean_change": mean[best],
            "sd_change": np.sqrt(variance[best]),
            "z_among_genes": z[best],
            "removed_at": removed_at,
        }
    )
