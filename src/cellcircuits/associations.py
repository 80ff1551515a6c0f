"""Which cells does a feature fire in? Every feature of a layer against every label of the obs columns asked for.

A feature's score of a cell is its mean activation over the cell's gene positions, those where it is silent included.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.errors import DataError, listed
from cellcircuits.rank_tests import rank_tests
from cellcircuits.settings import AnnotateSettings
from cellcircuits.stats import benjamini_hochberg
from cellcircuits.tables import TABLES, make_table

CELL_TYPE = "cell_type"
"""Column of cell types in public data (the CELLxGENE schema)."""


def association_columns(obs: pd.DataFrame, settings: AnnotateSettings, stratify_by: str = "") -> list[str]:
    """Columns of obs to test: those of `settings.associate`, or else `stratify_by` and "cell_type" where present.

    Raises
    ------
    DataError
        If a column that was asked for is absent, or no two of its labels have enough cells.
    """
    if not settings.associate:
        found = [c for c in dict.fromkeys((stratify_by, CELL_TYPE)) if c in obs]
        return [c for c in found if len(_frequent(obs[c], settings.min_label_cells)) > 1]
    for column in settings.associate:
        if column not in obs:
            raise DataError(f"annotate.associate names the obs column {column!r}; there are {listed(obs.columns)}.")
        if len(_frequent(obs[column], settings.min_label_cells)) < 2:
            raise DataError(
                f"The obs column {column!r} has {obs[column].nunique()} labels, but not two with at least "
                f"{settings.min_label_cells} of the {len(obs)} cells (annotate.min_label_cells). "
                "Name a column of categories, or lower that number."
            )
    return list(settings.associate)


def _frequent(labels: pd.Series, min_cells: int) -> list:
    counts = labels.dropna().astype(str).value_counts()
    return sorted(counts.index[counts >= min_cells])


def cell_labels(
    layer: int, scores: sp.csr_matrix, obs: pd.DataFrame, columns: Sequence[str], min_cells: int
) -> pd.DataFrame:
    """Table cell_labels of one layer, from scores (cell, feature) of the cells in `obs`.

    Features that fire in none of these cells are left out, and so are labels of fewer than `min_cells` cells; cells
    without a label count for no label of the column. Benjamini-Hochberg is over all rows.
    """
    alive = np.flatnonzero(np.bincount(scores.indices, minlength=scores.shape[1]))
    parts = [pd.DataFrame(columns=[c.name for c in TABLES["cell_labels"]])]
    for column in columns:
        known = obs[column].notna().to_numpy()
        labels = obs[column][known].astype(str)
        names = _frequent(labels, min_cells)
        # all rare labels are one, which is not tested
        codes = pd.Categorical(labels, names).codes.astype(np.int64)
        codes[codes < 0] = len(names)
        counts = np.bincount(codes)
        if not names or len(counts) < 2 or not len(alive):
            continue
        found, n = rank_tests(scores[known][:, alive], codes, len(counts)), len(names)
        grid = {k: getattr(found, k)[:, :n].ravel() for k in ("auroc", "mean_inside", "mean_outside", "p_value")}
        repeated = {"label": np.tile(names, len(alive)), "n_cells": np.tile(counts[:n], len(alive))}
        parts.append(pd.DataFrame({"feature": np.repeat(alive, n), "column": column, **repeated, **grid}))
    table = pd.concat(parts[1:] or parts, ignore_index=True)
    table["q_value"] = benjamini_hochberg(table["p_value"].to_numpy(dtype=np.float64))
    return make_table("cell_labels", table.assign(layer=layer))
