"""What each feature fires on, which gene sets that is, and one label.

1. One pass over the cells: per feature and gene, the number of firings and the sum of activations.
2. Top genes: score = sum of activations / (positions of the gene + min_firings), among genes with enough firings. The
   added constant draws genes with little support towards 0.
3. Enrichment of the top genes in every gene set: one-sided hypergeometric test. The background is every gene that
   could have been in a list (present often enough in the cells); sets are cut to it. Benjamini-Hochberg over all
   features and sets of a layer, overlaps of 0 and 1 included.
4. Label: the annotation with the smallest q; ties by larger odds ratio, then by name.
5. The false annotation rate: the same on random gene lists of the same lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.activations import stream_activations
from cellcircuits.models.base import Model
from cellcircuits.references import GeneSets
from cellcircuits.sae import TopKSAE
from cellcircuits.settings import AnnotateSettings
from cellcircuits.stats import benjamini_hochberg, hypergeometric_enrichment, odds_ratio
from cellcircuits.tables import make_table
from cellcircuits.tokens import Tokens

PUBLISHED_SMALLEST_P = 1e-30


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
    model: Model, tokens: Tokens, saes: dict[int, TopKSAE], batch_cells: int, report=lambda n_cells: None
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


def name_features(
    layer: int,
    sums: FiringSums,
    tokens: Tokens,
    decoder_norms: np.ndarray,
    collections: list[GeneSets],
    settings: AnnotateSettings,
) -> dict:
    """Tables features, feature_genes, terms and a summary for one layer."""
    per_token = tokens.count_genes()
    genes = top_genes(sums, per_token, settings)
    background = np.flatnonzero(per_token >= settings.min_firings)
    terms = enriched_terms(genes, background, tokens.gene_symbols, collections, settings)
    lists = genes.groupby("feature")["token"]
    false_rate = false_annotation_rate(lists.size().to_numpy(), background, tokens.gene_symbols, collections, settings)
    genes["gene_id"] = tokens.gene_ids[genes["token"]]
    genes["symbol"] = tokens.gene_symbols[genes["token"]]
    features = _feature_rows(sums, int(per_token.sum()), genes, terms)
    features["decoder_norm"] = decoder_norms
    for frame in (features, genes, terms):
        frame.insert(0, "layer", layer)
    alive = features["n_firings"] > 0
    summary = {
        "n_features": len(features),
        "n_alive": int(alive.sum()),
        "n_with_gene_list": int(lists.ngroups),
        "n_annotated": int((features["n_terms"] > 0).sum()),
        "annotated_share": float((features["n_terms"] > 0).sum() / max(lists.ngroups, 1)),
        "false_annotated_share": false_rate,
        "n_background_genes": len(background),
    }
    return {
        "features": make_table("features", features),
        "feature_genes": make_table("feature_genes", genes.drop(columns="token")),
        "terms": make_table("terms", terms),
        "summary": summary,
    }


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


def _memberships(
    background: np.ndarray, symbols: np.ndarray, collections: list[GeneSets], settings: AnnotateSettings
) -> tuple[pd.DataFrame, sp.csr_matrix]:
    """Terms of testable size, and bool (background gene, term)."""
    row_of = {symbols[token].upper(): row for row, token in enumerate(background)}
    names: list[tuple[str, str, int]] = []
    rows: list[int] = []
    columns: list[int] = []
    for collection in collections:
        for term, genes in collection.terms.items():
            inside = sorted(row_of[g] for g in genes if g in row_of)
            if settings.min_term_genes <= len(inside) <= settings.max_term_genes:
                rows += inside
                columns += [len(names)] * len(inside)
                names.append((collection.name, term, len(inside)))
    matrix = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(background), len(names)))
    return pd.DataFrame(names, columns=["collection", "term", "n_term"]), matrix


@dataclass(frozen=True)
class _Tests:
    """All tests of one layer, (list, term)."""

    overlap: np.ndarray
    n_list: np.ndarray
    p: np.ndarray
    q: np.ndarray


def _test_lists(indicator: sp.csr_matrix, members: sp.csr_matrix, n_term: np.ndarray) -> _Tests:
    """Hypergeometric tests of every list (row of `indicator`) against every term (column of `members`)."""
    overlap = (indicator @ members).toarray()
    n_list = np.asarray(indicator.sum(axis=1)).ravel()
    p = hypergeometric_enrichment(overlap, n_list[:, None], n_term[None, :], members.shape[0])
    return _Tests(overlap, n_list, p, benjamini_hochberg(p))


def enriched_terms(
    genes: pd.DataFrame,
    background: np.ndarray,
    symbols: np.ndarray,
    collections: list[GeneSets],
    settings: AnnotateSettings,
) -> pd.DataFrame:
    """Annotations of every feature, best first: q <= max_q and at least min_overlap shared genes."""
    terms, members = _memberships(background, symbols, collections, settings)
    row_of = {token: row for row, token in enumerate(background)}
    features, index = np.unique(genes["feature"], return_inverse=True)
    columns = np.array([row_of[token] for token in genes["token"]], dtype=np.int64)
    indicator = sp.csr_matrix((np.ones(len(genes)), (index, columns)), shape=(len(features), len(background)))
    tests = _test_lists(indicator, members, terms["n_term"].to_numpy())
    hit_list, hit_term = np.nonzero((tests.q <= settings.max_q) & (tests.overlap >= settings.min_overlap))
    n_term = terms["n_term"].to_numpy()[hit_term]
    overlap, n_list = tests.overlap[hit_list, hit_term], tests.n_list[hit_list]
    shared = [
        ";".join(sorted(symbols[background[(indicator[i].multiply(members[:, j].T)).indices]]))
        for i, j in zip(hit_list, hit_term, strict=True)
    ]
    found = pd.DataFrame(
        {
            "feature": features[hit_list],
            "collection": terms["collection"].to_numpy()[hit_term],
            "term": terms["term"].to_numpy()[hit_term],
            "n_overlap": overlap,
            "n_list": n_list,
            "n_term": n_term,
            "n_background": len(background),
            "odds_ratio": odds_ratio(overlap, n_list, n_term, len(background)),
            "p_value": tests.p[hit_list, hit_term],
            "q_value": tests.q[hit_list, hit_term],
            "genes": shared,
        }
    )
    order = ["feature", "q_value", "odds_ratio", "term", "collection"]
    return found.sort_values(order, ascending=[True, True, False, True, True], ignore_index=True)


def false_annotation_rate(
    lengths: np.ndarray,
    background: np.ndarray,
    symbols: np.ndarray,
    collections: list[GeneSets],
    settings: AnnotateSettings,
) -> float:
    """Share of random gene lists, of lengths drawn from `lengths`, that would be annotated."""
    if len(lengths) == 0:
        return 0.0
    rng = np.random.default_rng(settings.seed)
    terms, members = _memberships(background, symbols, collections, settings)
    drawn = rng.choice(lengths, settings.null_draws)
    columns = [rng.choice(len(background), size, replace=False) for size in drawn]
    rows = np.repeat(np.arange(len(drawn)), drawn)
    shape = (len(drawn), len(background))
    indicator = sp.csr_matrix((np.ones(len(rows)), (rows, np.concatenate(columns))), shape=shape)
    tests = _test_lists(indicator, members, terms["n_term"].to_numpy())
    called = (tests.q <= settings.max_q) & (tests.overlap >= settings.min_overlap)
    return float(called.any(axis=1).mean())


def _feature_rows(sums: FiringSums, n_positions: int, genes: pd.DataFrame, terms: pd.DataFrame) -> pd.DataFrame:
    """One row per feature of the layer."""
    firings = np.asarray(sums.firings.sum(axis=1)).ravel()
    frame = pd.DataFrame({"feature": np.arange(len(firings)), "n_firings": firings.astype(np.int64)})
    frame["firing_rate"] = firings / n_positions
    frame["n_cells"] = sums.n_cells
    frame["mean_activation"] = np.asarray(sums.activations.sum(axis=1)).ravel() / np.maximum(firings, 1)
    frame["n_unique_genes"] = np.diff(sums.firings.indptr)
    best = terms.groupby("feature").first()
    by_feature = terms.groupby("feature")
    frame["n_terms"] = frame["feature"].map(by_feature.size()).fillna(0).astype(np.int64)
    frame["label"] = frame["feature"].map(best["term"]).fillna("")
    frame["label_q"] = frame["feature"].map(best["q_value"]).astype(float)
    frame["label_odds_ratio"] = frame["feature"].map(best["odds_ratio"]).astype(float)
    score = (
        10 * by_feature["collection"].nunique()
        + by_feature.size()
        - np.log10(np.maximum(by_feature["q_value"].min(), PUBLISHED_SMALLEST_P))
    )
    frame["annotation_score"] = frame["feature"].map(score).fillna(0.0)
    frame["top_genes"] = frame["feature"].map(genes.groupby("feature")["symbol"].agg(";".join)).fillna("")
    return frame
