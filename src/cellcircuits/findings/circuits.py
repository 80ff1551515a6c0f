"""Which gene programs drive which? Edges between labels, against permuted target labels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from cellcircuits.stats import benjamini_hochberg
from cellcircuits.tables import empty_table, make_table


def labelled_edges(edges: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Edges with source_label, target_label, source_genes and target_genes ("" where a feature has no label)."""
    known = features[["layer", "feature", "label", "top_genes"]]
    for end in ("source", "target"):
        names = {"layer": f"{end}_layer", "feature": f"{end}_feature", "label": f"{end}_label"}
        renamed = known.rename(columns=names | {"top_genes": f"{end}_genes"})
        edges = edges.merge(renamed, on=[f"{end}_layer", f"{end}_feature"], how="left")
    return edges


def circuits(edges: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Pairs of different labels by number of edges, with the number expected by chance.

    Null: within each pair of layers the target labels of the labelled edges are permuted, so each source keeps its
    edges and each label its frequency; what is lost is which source leads to which label. The number of edges of a pair
    of labels is then a sum of one hypergeometric number per pair of layers, so p is exact and needs no draws. All pairs
    that could have an edge are corrected for, not only those that have one: with many labels and few edges, any edge at
    all is rare for its pair. Pairs of the same label are left out: they arise when source and target are much the same
    feature.
    """
    table = labelled_edges(edges, features)
    table = table[(table["source_label"] != "") & (table["target_label"] != "")].reset_index(drop=True)
    rows = table[table["source_label"] != table["target_label"]]
    if rows.empty:
        return empty_table("circuits")
    pairs = rows.groupby(["source_label", "target_label"], sort=True)
    rows = pairs.apply(_describe, include_groups=False).reset_index()
    rows["n_expected"], rows["p_value"], n_possible = _chance(table, rows)
    untouched = np.ones(n_possible - len(rows))
    rows["q_value"] = benjamini_hochberg(np.concatenate([rows["p_value"], untouched]))[: len(rows)]
    order = ["q_value", "p_value", "n_edges", "source_label", "target_label"]
    return make_table("circuits", rows.sort_values(order, ascending=[True, True, False, True, True], ignore_index=True))


def _chance(table: pd.DataFrame, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, int]:
    """Expected edges and p of each row (a pair of labels), and the number of pairs that could have an edge."""
    sources, targets = (pd.Index(np.unique(table[f"{end}_label"])) for end in ("source", "target"))
    pair = sources.get_indexer(rows["source_label"]), targets.get_indexer(rows["target_label"])
    expected = np.zeros((len(sources), len(targets)))
    chances = [np.ones(1) for _ in range(len(rows))]
    for _, stratum in table.groupby(["source_layer", "target_layer"]):
        leaving = np.bincount(sources.get_indexer(stratum["source_label"]), minlength=len(sources))
        reaching = np.bincount(targets.get_indexer(stratum["target_label"]), minlength=len(targets))
        expected += np.outer(leaving, reaching) / len(stratum)
        for row, (n_leaving, n_reaching) in enumerate(zip(leaving[pair[0]], reaching[pair[1]], strict=True)):
            chances[row] = np.convolve(chances[row], _overlap_chances(len(stratum), int(n_leaving), int(n_reaching)))
    p = [chance[n_edges:].sum() for chance, n_edges in zip(chances, rows["n_edges"], strict=True)]
    different = sources.to_numpy()[:, None] != targets.to_numpy()[None, :]
    # rounding can leave a sum just above 1
    return expected[pair], np.minimum(p, 1.0), int(((expected > 0) & different).sum())


@lru_cache(maxsize=65536)
def _overlap_chances(n: int, n_leaving: int, n_reaching: int) -> np.ndarray:
    """Chance of 0, 1, 2, ... common members of two random subsets of these sizes of `n` edges."""
    return hypergeom.pmf(np.arange(min(n_leaving, n_reaching) + 1), n, n_leaving, n_reaching)


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
