"""What each feature fires on, which gene sets that is, and one label.

1. One pass over the cells: per feature and gene, the number of firings and the sum of activations.
2. Top genes: score = sum of activations / (positions of the gene + min_firings), among genes with enough firings. The
   added constant draws genes with little support towards 0.
3. What the lists mean (`annotation.py`). The background is every gene that could have been on a list: present at
   `min_firings` positions, since a feature must fire that often on a gene to list it.
4. Label: the annotation with the smallest q; ties by larger odds ratio, then by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.activation_bins import N_BINS, bin_rows, count_by_bin
from cellcircuits.annotation import Annotator
from cellcircuits.codes import CodeBatch, Encoder, SparseSum, stream_codes
from cellcircuits.enrichment import annotation_scores, best_terms, gene_lists
from cellcircuits.models.base import Model
from cellcircuits.settings import AnnotateSettings
from cellcircuits.tables import make_table
from cellcircuits.tokens import Tokens


@dataclass
class FiringSums:
    """What one pass over the cells counts for one layer."""

    firings: sp.csr_matrix
    """float64 (feature, token): positions at which the feature fires on the gene."""
    activations: sp.csr_matrix
    """float64 (feature, token): sum of its activations there, with entries at the same places."""
    n_cells: np.ndarray
    """int64 (feature,): cells in which the feature fires at all."""
    scores: sp.csr_matrix | None = None
    """float32 (cell, feature): mean activation over the gene positions of the cells asked for."""
    by_bin: np.ndarray | None = None
    """int64 (feature, bin): activations by size (`activation_bins`)."""


class _LayerSums:
    """`FiringSums` of one layer under way."""

    def __init__(self, n_features: int, n_tokens: int) -> None:
        # the sum of activations in the real part, their number in the imaginary one: one product gives both
        self.by_token = SparseSum((n_tokens, n_features), np.complex128)
        self.n_cells = np.zeros(n_features, dtype=np.int64)
        self.by_bin = np.zeros((n_features, N_BINS), dtype=np.int64)
        self.scores = [sp.csr_matrix((0, n_features), dtype=np.float32)]

    def add(self, codes: sp.csr_matrix, batch: CodeBatch, scored: np.ndarray) -> None:
        """Add a batch; `scored`, bool (cell,), marks the cells of `Tokens` whose scores are kept."""
        both = sp.csr_matrix((codes.data + 1j, codes.indices, codes.indptr), codes.shape)
        self.by_token.add(batch.by_token(self.by_token.shape[0]) @ both)
        self.by_bin += count_by_bin(codes)
        means = batch.cell_means(codes)
        self.n_cells += np.bincount(means.indices, minlength=len(self.n_cells))
        self.scores.append(means[scored[batch.by_cell[0]]])

    def finished(self) -> FiringSums:
        """The sums by feature."""
        total = self.by_token.total().T.tocsr()
        parts = (total.data.imag.copy(), total.data.real.copy())
        firings, sums = (sp.csr_matrix((part, total.indices, total.indptr), total.shape) for part in parts)
        return FiringSums(firings, sums, self.n_cells, sp.csr_matrix(sp.vstack(self.scores)), self.by_bin)


def count_firings(
    model: Model,
    tokens: Tokens,
    saes: Mapping[int, Encoder],
    batch_cells: int,
    report=lambda n_cells: None,
    scored: Sequence[int] | np.ndarray = (),
) -> dict[int, FiringSums]:
    """Firings of every feature on every gene, from one pass over the model and products of sparse matrices.

    `scored` are the cells whose scores are kept, in ascending order.
    """
    sums = {layer: _LayerSums(sae.n_features, len(tokens.gene_ids)) for layer, sae in saes.items()}
    kept = np.zeros(len(tokens), dtype=bool)
    kept[np.asarray(scored, dtype=np.int64)] = True
    for batch in stream_codes(model, tokens, saes, batch_cells):
        for layer, codes in batch.codes.items():
            sums[layer].add(codes, batch, kept)
        report(len(batch.by_cell[0]))
    return {layer: sums.pop(layer).finished() for layer in list(sums)}


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
    """Tables features, feature_genes, activation_bins, those of `annotator` and a summary for one layer.

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
    tables["activation_bins"] = bin_rows(np.zeros((0, N_BINS)) if sums.by_bin is None else sums.by_bin)
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
    firings = sums.firings.tocoo()
    chosen = np.flatnonzero(firings.data >= settings.min_firings)
    feature, token, n = firings.row[chosen], firings.col[chosen], firings.data[chosen]
    n_positions = per_token[token]
    score = sums.activations.data[chosen] / (n_positions + settings.min_firings)
    order = np.lexsort((token, -score, feature))
    feature = feature[order]
    rank = np.arange(len(feature)) - np.searchsorted(feature, feature) + 1
    best = rank <= settings.top_genes
    order = order[best]
    columns = {"feature": feature[best], "rank": rank[best], "token": token[order], "score": score[order]}
    columns |= {"n_firings": n[order].astype(np.int64), "n_positions": n_positions[order]}
    return pd.DataFrame(columns)


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
