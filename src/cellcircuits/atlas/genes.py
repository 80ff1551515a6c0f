"""From genes to features and edges: the tables behind the atlas's gene search."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

EDGES_PER_GENE = 200
"""Strongest edges listed for one gene. Genes such as MALAT1 lead thousands of features; the page gives the total."""

_EDGES_PER_CHUNK = 100_000

EDGE_COLUMNS = ["source_layer", "source_feature", "target_layer", "target_feature", "mean_delta", "snr", "q_value"]
EDGE_COLUMNS += ["specific", "specific_q"]
"""Columns of an edge in the table of a gene."""


class GeneIndex(NamedTuple):
    """One row per gene, and for each gene its features and the edges between them."""

    genes: pd.DataFrame
    features: pd.DataFrame
    edges: pd.DataFrame


def index_genes(feature_genes: pd.DataFrame, features: pd.DataFrame, edges: pd.DataFrame) -> GeneIndex:
    """Which features have a gene among their top genes, and which edges join two such features.

    `features` have the counts of their edges, `n_out` and `n_in`, as columns too.

    Returns
    -------
    GeneIndex
        `genes` (symbol, n_features, n_edges) in order of symbol; `features` and `edges` refer to its rows by `gene`.
        `edges` holds the `EDGES_PER_GENE` strongest edges (largest |snr|; of equals the first) of a gene, `n_edges`
        counts all.
    """
    symbols = feature_genes["symbol"].where(feature_genes["symbol"] != "", feature_genes["gene_id"])
    gene, names = pd.factorize(symbols, sort=True)
    place = pd.MultiIndex.from_frame(features[["layer", "feature"]])
    row = place.get_indexer(pd.MultiIndex.from_frame(feature_genes[["layer", "feature"]]))
    listed = feature_genes[["layer", "feature", "rank", "score"]].assign(gene=gene, row=row)
    listed = listed[listed["row"] >= 0].sort_values(["gene", "layer", "feature", "rank"], kind="stable")
    listed = listed.drop_duplicates(["gene", "row"])
    listed["label"] = features["label"].to_numpy()[listed["row"]]
    for name in ("firing_rate", "n_out", "n_in"):
        listed[name] = features[name].to_numpy()[listed["row"]]

    strongest, n_edges = _edges_by_gene(listed, place, edges, len(names))
    n_features = np.bincount(listed["gene"], minlength=len(names))
    genes = pd.DataFrame({"symbol": names, "n_features": n_features, "n_edges": n_edges})
    return GeneIndex(genes, listed.drop(columns="row").reset_index(drop=True), strongest)


def _edges_by_gene(
    listed: pd.DataFrame, place: pd.MultiIndex, edges: pd.DataFrame, n_genes: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """The strongest edges of each gene, and the number of all edges of each gene."""
    shape = (len(place), n_genes)
    has_gene = sparse.csr_array((np.ones(len(listed), np.int8), (listed["row"], listed["gene"])), shape=shape)
    source, target = (place.get_indexer(pd.MultiIndex.from_frame(edges[_ends(end)])) for end in ("source", "target"))
    known = np.flatnonzero((source >= 0) & (target >= 0))
    gene_parts, edge_parts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(known), _EDGES_PER_CHUNK):
        chunk = known[start : start + _EDGES_PER_CHUNK]
        shared = sparse.coo_array(has_gene[source[chunk]].multiply(has_gene[target[chunk]]))
        gene_parts.append(shared.col.astype(np.int64))
        edge_parts.append(chunk[shared.row])
    pairs = pd.DataFrame({"gene": np.concatenate(gene_parts), "edge": np.concatenate(edge_parts)})
    n_edges = np.bincount(pairs["gene"], minlength=n_genes)
    pairs["weakness"] = -edges["snr"].abs().to_numpy()[pairs["edge"]]
    pairs = pairs.sort_values(["gene", "weakness", "edge"], kind="stable", na_position="last")
    pairs = pairs[pairs.groupby("gene").cumcount() < EDGES_PER_GENE]
    rows = edges[EDGE_COLUMNS].iloc[pairs["edge"]].reset_index(drop=True)
    rows.insert(0, "gene", pairs["gene"].to_numpy())
    return rows, n_edges


def _ends(end: str) -> list[str]:
    return [f"{end}_layer", f"{end}_feature"]
