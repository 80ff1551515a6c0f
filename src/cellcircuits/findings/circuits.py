"""Which gene programs drive which? Edges between labels, against permuted target labels."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.stats import benjamini_hochberg
from cellcircuits.tables import make_table


def labelled_edges(edges: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Edges with source_label, target_label, source_genes and target_genes ("" where a feature has no label)."""
    known = features[["layer", "feature", "label", "top_genes"]]
    for end in ("source", "target"):
        names = {"layer": f"{end}_layer", "feature": f"{end}_feature", "label": f"{end}_label"}
        renamed = known.rename(columns=names | {"top_genes": f"{end}_genes"})
        edges = edges.merge(renamed, on=[f"{end}_layer", f"{end}_feature"], how="left")
    return edges


def circuits(edges: pd.DataFrame, features: pd.DataFrame, permutations: int, seed: int) -> pd.DataFrame:
    """Pairs of different labels by number of edges, with the number expected by chance.

    Null: within each pair of layers the target labels of the labelled edges are permuted, so each source keeps its
    edges and each label its frequency; what is lost is which source leads to which label. Pairs of the same label are
    left out: they arise when source and target are much the same feature. p has 1 added to both counts.
    """
    table = labelled_edges(edges, features)
    table = table[(table["source_label"] != "") & (table["target_label"] != "")].reset_index(drop=True)
    if table.empty:
        return make_table("circuits", _empty())
    source, source_names = pd.factorize(table["source_label"], sort=True)
    target, target_names = pd.factorize(table["target_label"], sort=True)
    n_targets = len(target_names)
    observed = np.bincount(source * n_targets + target, minlength=len(source_names) * n_targets)
    total, at_least = np.zeros(len(observed)), np.zeros(len(observed))
    strata = table.groupby(["source_layer", "target_layer"]).indices.values()
    rng = np.random.default_rng(seed)
    for _ in range(permutations):
        permuted = target.copy()
        for rows in strata:
            permuted[rows] = target[rng.permutation(rows)]
        drawn = np.bincount(source * n_targets + permuted, minlength=len(observed))
        total += drawn
        at_least += drawn >= observed
    rows = (
        table.groupby(["source_label", "target_label"], sort=True).apply(_describe, include_groups=False).reset_index()
    )
    pair = source_names.get_indexer(rows["source_label"]) * n_targets + target_names.get_indexer(rows["target_label"])
    rows["n_expected"] = total[pair] / permutations
    rows["p_value"] = (at_least[pair] + 1) / (permutations + 1)
    rows = rows[rows["source_label"] != rows["target_label"]].copy()
    rows["q_value"] = benjamini_hochberg(rows["p_value"].to_numpy())
    order = ["q_value", "p_value", "n_edges", "source_label", "target_label"]
    return make_table("circuits", rows.sort_values(order, ascending=[True, True, False, True, True], ignore_index=True))


def _describe(group: pd.DataFrame) -> pd.Series:
    strongest = group.loc[group["snr"].abs().idxmax()]
    return pd.Series(
        {
            "n_edges": len(group),
            "mean_snr": group["snr"].mean(),
            "share_negative": (group["mean_delta"] < 0).mean(),
            "strongest": (
                f"L{strongest['source_layer']}/F{strongest['source_feature']} -> "
                f"L{strongest['target_layer']}/F{strongest['target_feature']}"
            ),
            "source_genes": strongest["source_genes"],
            "target_genes": strongest["target_genes"],
        }
    )


def _empty() -> pd.DataFrame:
    from cellcircuits.tables import CIRCUITS

    return pd.DataFrame({column.name: [] for column in CIRCUITS})
