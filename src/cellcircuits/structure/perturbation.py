"""Do features answer to a perturbation? Scores of perturbed cells against those of control cells.

A knocked-down gene also leaves the input: a feature that fires on the gene itself falls for that reason alone. Read
`target_listed` as the check that the data and the features fit, and the other features as the answer of the model to
cells that were changed. Cells are the units; if whole batches differ, so do their cells.

Labels of screens name genes in many ways: "MYC", a guide ("STAT2g2", "ZAP70_1"), an enhancer of a gene ("MYC-A"), a
place that is no gene ("HS2-D"), or several genes ("JUN+FOS"). `perturbed_genes` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.errors import DataError, listed
from cellcircuits.rank_tests import rank_tests
from cellcircuits.stats import benjamini_hochberg
from cellcircuits.tables import make_table

MAX_Q = 0.05
BETWEEN_GENES = re.compile(r"[+&,;|_\s]+")
"""What separates the genes, or the gene and the number of a guide, in a label."""
SUFFIX = re.compile(r"(-[A-Z0-9.]+|G\d+)$")
"""What follows a gene's name in the label of a guide or an enhancer: -A, G2."""


def perturbation_response(
    layer: int,
    scores: sp.csr_matrix,
    labels: pd.Series,
    control: str,
    feature_genes: pd.DataFrame,
    min_cells: int = 10,
    seed: int = 0,
    known: Collection[str] = (),
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
    known
        Symbols that a label may name, beside those of the top genes: the genes that the model knows.

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
    listed_genes = feature_genes["symbol"].str.upper()
    symbols = {*listed_genes, *(str(symbol).upper() for symbol in known)} - {""}
    targets = {name: perturbed_genes(name, symbols) for name in names}
    table["target_genes"] = table["perturbation"].map({name: ";".join(found) for name, found in targets.items()})
    table["target_listed"] = _lists(table, targets, feature_genes["feature"], listed_genes)
    shuffled = np.random.default_rng(seed).permutation(codes)
    called, null = table["q_value"] <= MAX_Q, _tested(kept[:, alive], alive, shuffled, names)["q_value"] <= MAX_Q
    listed_pairs = table["target_listed"]
    rates = {
        "layer": layer,
        "n_perturbations": len(names),
        "n_with_gene": sum(bool(found) for found in targets.values()),
        "n_features": len(alive),
        "called_share": called.mean(),
        "null_called_share": null.mean(),
        "n_listed": int(listed_pairs.sum()),
        "listed_called_share": called[listed_pairs].mean(),
        "listed_lower_share": (table["mean_difference"] < 0)[listed_pairs].mean(),
    }
    return make_table("perturbations", table.assign(layer=layer)), make_table(
        "perturbation_rates", pd.DataFrame([rates])
    )


def perturbed_genes(label: str, known: Collection[str]) -> tuple[str, ...]:
    """Genes that a label names, in upper case, of those that are `known` (in upper case); none for most controls.

    The whole label first ("HLA-A", "NKX3-1"); else its parts between + & , ; | _ or blanks, each as it is or without a
    suffix such as -A or g2.
    """
    text = str(label).upper()
    if text in known:
        return (text,)
    found = []
    for part in BETWEEN_GENES.split(text):
        name = part if part in known else SUFFIX.sub("", part)
        if name in known and name not in found:
            found.append(name)
    return tuple(found)


def _lists(
    table: pd.DataFrame, targets: dict[str, tuple[str, ...]], feature: pd.Series, symbol: pd.Series
) -> np.ndarray:
    """bool (row,): whether a gene that the perturbation names is a top gene (feature, symbol) of the row's feature."""
    found = np.zeros(len(table), dtype=bool)
    for name, genes in targets.items():
        owners = feature[symbol.isin(genes)]
        found |= ((table["perturbation"] == name) & table["feature"].isin(owners)).to_numpy()
    return found


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
