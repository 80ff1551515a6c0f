"""What are features without a label? Their module, their labelled neighbours, the cells in which they fire."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.calibration import random_lists
from cellcircuits.settings import StructureSettings
from cellcircuits.tables import make_table

MAX_Q = 0.05


def nearest_lists(lists: sp.csr_matrix, others: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Per list (list, gene) the place of the other list with the largest Jaccard index, and that index; -1 and 0: none.

    Of equally near ones the first.
    """
    shared = sp.csr_matrix(lists @ others.T, dtype=np.float64)
    shared.sort_indices()
    row = np.repeat(np.arange(shared.shape[0]), np.diff(shared.indptr))
    sizes = [np.asarray(part.sum(axis=1)).ravel() for part in (lists, others)]
    jaccard = shared.data / (sizes[0][row] + sizes[1][shared.indices] - shared.data)
    order = np.lexsort((shared.indices, -jaccard, row))
    first = order[np.unique(row[order], return_index=True)[1]]
    place, best = np.full(shared.shape[0], -1), np.zeros(shared.shape[0])
    place[row[first]], best[row[first]] = shared.indices[first], jaccard[first]
    return place, best


def layer_unannotated(
    layer: int,
    features: pd.DataFrame,
    feature_genes: pd.DataFrame,
    cell_labels: pd.DataFrame,
    modules: pd.DataFrame,
    labels: pd.DataFrame,
    settings: StructureSettings,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables unannotated and unannotated_rates of one layer, from the tables of that layer; `labels`: module_labels."""
    codes, genes = pd.factorize(feature_genes["symbol"], sort=True)
    shape = (int(features["feature"].max()) + 1, len(genes))
    lists = sp.csr_matrix((np.ones(len(codes)), (feature_genes["feature"], codes)), shape)
    lists.data[:] = 1.0  # symbols that two genes share
    cells = _best_cell_labels(cell_labels).reindex(features["feature"])
    table = features[["feature", "firing_rate", "label", "top_genes", "n_firings"]].reset_index(drop=True)
    table["module"] = table["feature"].map(modules.set_index("feature")["module"]).fillna(-1).astype(np.int64)
    table["module_label"] = table["module"].map(labels.set_index("module")["label"]).fillna("")
    for name in ("auroc", "cell_q"):
        table[name] = cells[name].to_numpy(dtype=np.float64)
    for name in ("cell_column", "cell_label"):
        table[name] = cells[name].where(cells[name].notna(), "").to_numpy(dtype=object)
    fires = table["n_firings"] > 0
    annotated, without = table[fires & (table["label"] != "")], table[fires & (table["label"] == "")].copy()
    named = annotated["feature"].to_numpy()
    place, without["jaccard"] = nearest_lists(lists[without["feature"].to_numpy()], lists[named])
    known = np.append(named, -1)
    without["neighbour"] = known[place]
    without["neighbour_label"] = np.append(annotated["label"].to_numpy(dtype=object), "")[place]
    null = _null_neighbours(lists, without["feature"].to_numpy(), named, settings)
    rates = {
        "layer": layer,
        "n_features": len(without),
        "in_module_share": (without["module"] >= 0).mean(),
        "annotated_in_module_share": (annotated["module"] >= 0).mean(),
        "neighbour_share": (without["jaccard"] >= settings.min_jaccard).mean(),
        "null_neighbour_share": null,
        "cell_label_share": (without["cell_q"] <= MAX_Q).mean(),
        "annotated_cell_label_share": (annotated["cell_q"] <= MAX_Q).mean(),
    }
    found = without.drop(columns=["label", "n_firings"]).assign(layer=layer)
    return make_table("unannotated", found), make_table("unannotated_rates", pd.DataFrame([rates]))


def _best_cell_labels(cell_labels: pd.DataFrame) -> pd.DataFrame:
    """The label with the smallest q of every feature, ties by the AUROC farthest from 0.5; indexed by feature."""
    table = cell_labels.assign(distance=-(cell_labels["auroc"] - 0.5).abs())
    table = table.sort_values(["feature", "q_value", "distance", "column", "label"]).drop_duplicates("feature")
    table = table.rename(columns={"column": "cell_column", "label": "cell_label", "q_value": "cell_q"})
    return table.set_index("feature")[["cell_column", "cell_label", "auroc", "cell_q"]]


def _null_neighbours(
    lists: sp.csr_matrix, without: np.ndarray, named: np.ndarray, settings: StructureSettings
) -> float:
    """Share of random lists with a neighbour: sizes of the lists without a label, genes as common as on all lists."""
    sizes = np.asarray(lists[without].sum(axis=1)).ravel().astype(np.int64)
    if not len(sizes) or not sizes.any() or not len(named):
        return float("nan")
    rng = np.random.default_rng(settings.seed)
    popularity = np.asarray(lists.sum(axis=0)).ravel()
    drawn = random_lists(rng.choice(sizes, settings.null_draws), popularity, rng)
    return float((nearest_lists(sp.csr_matrix(drawn.genes), lists[named])[1] >= settings.min_jaccard).mean())
