"""What each feature fires on, which gene sets that is, and one label.

1. One pass over the cells: per feature and gene, the number of firings and the sum of activations.
2. Top genes: score = sum of activations / (positions of the gene + min_firings), among genes with enough firings. The
   added constant draws genes with little support towards 0.
3. What the lists mean (`annotation.py`). The background is every gene that could have been on a list: present at
   `min_firings` positions, since a feature must fire that often on a gene to list it.
4. Label: the annotation with the smallest q; ties by larger odds ratio, then by name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.activations import stream_activations
from cellcircuits.annotation import Annotator
from cellcircuits.enrichment import annotation_scores, best_terms, gene_lists
from cellcircuits.models.base import Model
from cellcircuits.sae import SparseAutoencoder
from cellcircuits.settings import AnnotateSettings
from cellcircuits.tables import make_table
from cellcircuits.tokens import Tokens


@dataclass
class FiringSums:
    """What one pass over the cells counts for one layer."""

    firings: sp.csr_matrix
    """float64 (feature, token): positions at which the feature fires on the gene."""
    activations: sp.csr_matrix
    """float64 (feature, token): sum of its activations there."""
    n_cells: np.ndarray
    """int64 (feature,): cells in which the feature fires at all."""


def count_firings(
    model: Model, tokens: Tokens, saes: dict[int, SparseAutoencoder], batch_cells: int, report=lambda n_cells: None
) -> dict[int, FiringSums]:
    """Firings of every feature on every gene, from one pass over the model and sparse sums."""
    n_tokens = len(tokens.gene_ids)
    empty = {layer: sp.csr_matrix((sae.n_features, n_tokens)) for layer, sae in saes.items()}
    sums = {k: FiringSums(m, m.copy(), np.zeros(m.shape[0], dtype=np.int64)) for k, m in empty.items()}
    for batch in stream_activations(model, tokens, list(saes), batch_cells):
        for layer, hidden in batch.layers.items():
            values, features = (part.cpu().numpy() for part in saes[layer].encode(hidden))
            position, column = np.nonzero(values > 0)
            feature, value = features[position, column], values[position, column].astype(np.float64)
            shape, where = empty[layer].shape, (feature, batch.token_ids[position])
            total = sums[layer]
            total.firings = total.firings + sp.csr_matrix((np.ones(len(value)), where), shape=shape)
            total.activations = total.activations + sp.csr_matrix((value, where), shape=shape)
            pairs = np.unique(feature.astype(np.int64) * len(tokens) + batch.cells[position])
            total.n_cells += np.bincount(pairs // len(tokens), minlength=shape[0])
        report(len(np.unique(batch.cells)))
    return sums


def background_tokens(per_token: np.ndarray, settings: AnnotateSettings) -> np.ndarray:
    """Tokens of the genes that could be on a list: a feature fires on a gene at most at all of its positions."""
    return np.flatnonzero(per_token >= settings.min_firings)


def name_features(
    layer: int,
    sums: FiringSums,
    tokens: Tokens,
    decoder_norms: np.ndarray,
    annotator: Annotator,
    settings: AnnotateSettings,
) -> dict:
    """Tables features, feature_genes, terms, regulators, interactions, annotation_rates and a summary for one layer.

    `annotator` is of the background of these tokens.
    """
    per_token = tokens.count_genes()
    genes = top_genes(sums, per_token, settings)
    background = background_tokens(per_token, settings)
    lists = gene_lists(genes["feature"], np.searchsorted(background, genes["token"]), len(background))
    found = annotator.annotate(lists)
    genes["gene_id"] = tokens.gene_ids[genes["token"]]
    genes["symbol"] = tokens.gene_symbols[genes["token"]]
    features = _feature_rows(sums, int(per_token.sum()), genes, found["terms"])
    features["decoder_norm"] = decoder_norms
    tables = {"features": features, "feature_genes": genes.drop(columns="token"), **found}
    labels = found["annotation_rates"].iloc[0]
    summary = {
        "n_features": len(features),
        "n_alive": int((features["n_firings"] > 0).sum()),
        "n_with_gene_list": int(labels["n_lists"]),
        "n_annotated": int(labels["n_annotated"]),
        "annotated_share": float(labels["share"]),
        "false_annotated_share": float(labels["null_share"]),
        "n_background_genes": len(background),
    }
    made = {name: make_table(name, frame.assign(layer=layer)) for name, frame in tables.items()}
    return {**made, "summary": summary}


def top_genes(sums: FiringSums, per_token: np.ndarray, settings: AnnotateSettings) -> pd.DataFrame:
    """Top genes of every feature: columns feature, rank, token, score, n_firings, n_positions."""
    firings, activations = sums.firings.tocoo(), sums.activations.tocsr()
    frame = pd.DataFrame({"feature": firings.row, "token": firings.col, "n_firings": firings.data.astype(np.int64)})
    frame["n_positions"] = per_token[frame["token"]]
    sums_there = np.asarray(activations[frame["feature"], frame["token"]]).ravel()
    frame["score"] = sums_there / (frame["n_positions"] + settings.min_firings)
    frame = frame[frame["n_firings"] >= settings.min_firings]
    frame = frame.sort_values(["feature", "score", "token"], ascending=[True, False, True], ignore_index=True)
    frame["rank"] = frame.groupby("feature").cumcount() + 1
    return frame[frame["rank"] <= settings.top_genes].reset_index(drop=True)


def _feature_rows(sums: FiringSums, n_positions: int, genes: pd.DataFrame, terms: pd.DataFrame) -> pd.DataFrame:
    """One row per feature of the layer."""
    firings = np.asarray(sums.firings.sum(axis=1)).ravel()
    frame = pd.DataFrame({"feature": np.arange(len(firings)), "n_firings": firings.astype(np.int64)})
    frame["firing_rate"] = firings / n_positions
    frame["n_cells"] = sums.n_cells
    frame["mean_activation"] = np.asarray(sums.activations.sum(axis=1)).ravel() / np.maximum(firings, 1)
    frame["n_unique_genes"] = np.diff(sums.firings.indptr)
    best = best_terms(terms)
    by_feature = terms.groupby("feature")
    frame["n_terms"] = frame["feature"].map(by_feature.size()).fillna(0).astype(np.int64)
    frame["label"] = frame["feature"].map(best["term"]).fillna("")
    frame["label_q"] = frame["feature"].map(best["q_value"]).astype(float)
    frame["label_odds_ratio"] = frame["feature"].map(best["odds_ratio"]).astype(float)
    frame["annotation_score"] = frame["feature"].map(annotation_scores(terms)).fillna(0.0)
    frame["top_genes"] = frame["feature"].map(genes.groupby("feature")["symbol"].agg(";".join)).fillna("")
    return frame
