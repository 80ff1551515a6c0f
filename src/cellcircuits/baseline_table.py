"""The table `baselines`: gene sets and cell labels of the features of several dictionaries, side by side.

Every share stands beside what chance gives: gene lists drawn at random, and labels permuted among the cells. The
largest AUROC of several labels is above 0.5 by chance alone, and the more so for features that fire in few cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.associations import cell_labels
from cellcircuits.settings import AnnotateSettings


@dataclass(frozen=True)
class Associated:
    """How many features are associated with a label, and how closely."""

    n_tested: int
    n_associated: int
    share: float
    """n_associated / n_tested; NaN where nothing was tested."""
    median_auroc: float
    """Median over features of the largest AUROC of any label; NaN where nothing was tested."""


def associated(labels: pd.DataFrame, max_q: float) -> Associated:
    """What a table cell_labels of one layer says of its features."""
    if labels.empty:
        return Associated(0, 0, np.nan, np.nan)
    best = labels.groupby("feature").agg({"q_value": "min", "auroc": "max"})
    called = int((best["q_value"] <= max_q).sum())
    return Associated(len(best), called, called / len(best), float(best["auroc"].median()))


def permuted_labels(
    layer: int, scores: sp.csr_matrix, obs: pd.DataFrame, columns: Sequence[str], settings: AnnotateSettings
) -> pd.DataFrame:
    """Table cell_labels after the cells were permuted, all columns together."""
    order = np.random.default_rng(settings.seed).permutation(len(obs))
    return cell_labels(layer, scores, obs.iloc[order], columns, settings.min_label_cells)


def baseline_row(
    layer: int, kind: str, summary: dict, features: pd.DataFrame, labels: pd.DataFrame, permuted: pd.DataFrame, q: float
) -> dict:
    """Row of the table baselines for one layer and dictionary.

    Parameters
    ----------
    summary, features
        What `catalogue.name_features` returns.
    labels, permuted
        Tables cell_labels of the cells as they are, and permuted.
    q
        Largest q of an association.
    """
    found, null = associated(labels, q), associated(permuted, q)
    listed = summary["n_with_gene_list"]
    return {
        "layer": layer,
        "kind": kind,
        "n_features": summary["n_features"],
        "l0": features["firing_rate"].sum(),
        "n_with_gene_list": listed,
        "n_annotated": summary["n_annotated"],
        "annotated_share": summary["n_annotated"] / listed if listed else np.nan,
        "null_share": summary["false_annotated_share"],
        "n_labels": int(features["label"][features["label"] != ""].nunique()),
        "n_tested": found.n_tested,
        "n_associated": found.n_associated,
        "associated_share": found.share,
        "null_associated_share": null.share,
        "median_auroc": found.median_auroc,
        "null_auroc": null.median_auroc,
    }


def over_layers(rows: pd.DataFrame) -> pd.DataFrame:
    """The table baselines with one row per dictionary: counts added up, shares anew, all else the mean over layers
    (so `n_labels` is per layer: layers share labels).

    The index is the kind, in the table's order.
    """
    counts = ["n_features", "n_with_gene_list", "n_annotated", "n_tested", "n_associated"]
    by_kind = rows.groupby("kind", sort=False)
    found = by_kind.mean(numeric_only=True).drop(columns="layer").assign(**by_kind[counts].sum())
    # a dictionary without any list or test has no share: NaN
    found["annotated_share"] = found["n_annotated"] / found["n_with_gene_list"].replace(0, np.nan)
    found["associated_share"] = found["n_associated"] / found["n_tested"].replace(0, np.nan)
    return found
