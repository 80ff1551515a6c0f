"""Do features answer to a perturbation? Scores of perturbed cells against those of control cells.

A knocked-down gene also leaves the input: a feature that fires on the gene itself falls for that reason alone. Read
`target_listed` as the check that the data and the features fit, and the other features as the answer of the model to
cells that were changed. Cells are the units; if whole batches differ, so do their cells.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.errors import DataError, listed
from cellcircuits.rank_tests import rank_tests
from cellcircuits.stats import benjamini_hochberg
from cellcircuits.tables import make_table

MAX_Q = 0.05


def perturbation_response(
    layer: int,
    scores: sp.csr_matrix,
    labels: pd.Series,
    control: str,
    feature_genes: pd.DataFrame,
    min_cells: int = 10,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables perturbations and perturbation_rates of one layer.

    Parameters
    ----------
    scores
        (cell, feature): mean activation over the cell's gene positions.
    labels
        The perturbation of every cell, for example `adata.obs["gene"]`; cells without one are left out.
    feature_genes
        Top genes of the layer's features, columns feature and symbol.
    min_cells
        Fewest cells of a perturbation, and of the control.

    Raises
    ------
    DataError
        If there are no control cells, or no perturbation has enough cells.
    """
    chosen, names = _compared(labels, control, min_cells)
    codes = pd.Categorical(labels[chosen].astype(str), [*names, control]).codes.astype(np.int64)
    kept = sp.csr_matrix(scores)[chosen]
    alive = np.flatnonzero(np.bincount(kept.indices, minlength=kept.shape[1]))
    table = _tested(kept[:, alive], alive, codes, names)
    pairs = pd.MultiIndex.from_arrays([table["feature"], table["perturbation"].str.upper()])
    genes = pd.MultiIndex.from_arrays([feature_genes["feature"], feature_genes["symbol"].str.upper()])
    table["target_listed"] = pairs.isin(genes)
    shuffled = np.random.default_rng(seed).permutation(codes)
    called, null = table["q_value"] <= MAX_Q, _tested(kept[:, alive], alive, shuffled, names)["q_value"] <= MAX_Q
    rates = {
        "layer": layer,
        "n_perturbations": len(names),
        "n_features": len(alive),
        "called_share": called.mean(),
        "null_called_share": null.mean(),
        "listed_called_share": called[table["target_listed"]].mean(),
    }
    return make_table("perturbations", table.assign(layer=layer)), make_table(
        "perturbation_rates", pd.DataFrame([rates])
    )


def _compared(labels: pd.Series, control: str, min_cells: int) -> tuple[np.ndarray, list[str]]:
    """Cells of the control and of perturbations with enough of them, bool (cell,), and these perturbations."""
    counts = labels.dropna().astype(str).value_counts()
    if counts.get(control, 0) < min_cells:
        raise DataError(
            f"{counts.get(control, 0)} cells have the control label {control!r}; at least {min_cells} are needed. "
            f"Labels: {listed(counts.index, 8)}. Set control_label."
        )
    names = sorted(name for name in counts.index[counts >= min_cells] if name != control)
    if not names:
        raise DataError(f"No perturbation has {min_cells} cells; the largest is {listed(counts.index, 3)}.")
    return labels.notna().to_numpy() & labels.astype(str).isin([control, *names]).to_numpy(), names


def _tested(scores: sp.csr_matrix, features: np.ndarray, codes: np.ndarray, names: list[str]) -> pd.DataFrame:
    """All features against all perturbations; the last code is the control."""
    n = len(names)
    found = rank_tests(scores, codes, n + 1, control=n)
    counts = np.bincount(codes)
    columns = {
        "perturbation": np.tile(np.array(names, dtype=object), len(features)),
        "feature": np.repeat(features, n),
        "n_cells": np.tile(counts[:n], len(features)),
        "n_control": counts[n],
        "mean_difference": (found.mean_inside - found.mean_outside)[:, :n].ravel(),
        "auroc": found.auroc[:, :n].ravel(),
        "p_value": found.p_value[:, :n].ravel(),
    }
    table = pd.DataFrame(columns)
    return table.assign(q_value=benjamini_hochberg(table["p_value"].to_numpy()))
