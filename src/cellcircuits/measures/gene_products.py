"""From edges between features to pairs of genes: all top genes of the one end with all of the other.

With W the sparse matrix (feature, gene) of 1 / rank and E that of the edges, (feature, feature), sums over edges are
W^T E W. A thousand million terms are too many to list, so it is multiplied by blocks of source genes, and of each block
only the pairs stay that can be among the best. Sums are in float32: numbers of edges are exact up to 16 million.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse as sp

PUBLISHED_SNR = 2.0
"""|snr| beyond which the published rule keeps a pair of a single edge."""
LOOKUPS_PER_BLOCK = 20_000_000
GENES_PER_BLOCK = 32


@dataclass(frozen=True)
class _Factors:
    """Edges and lists as sparse matrices, float32."""

    weights: sp.csr_matrix
    """(feature, gene): 1 / rank."""
    listed: sp.csr_matrix
    """(feature, gene): 1."""
    snr: sp.csr_matrix
    """(feature, feature)."""
    strength: sp.csr_matrix
    """(feature, feature): |snr|."""
    number: sp.csr_matrix
    """(feature, feature): 1."""


def pairs_of_genes(edges: pl.DataFrame, ranks: sp.csr_matrix, n_kept: int) -> pd.DataFrame:
    """Ordered pairs of different genes that pass the published cut, the `n_kept` of highest score.

    For genes of ranks i and j (from 1) at the ends of an edge the weight is w = 1 / (i j). Over the edges that connect
    two genes: n_edges, mean_snr = sum(snr w) / n_edges, mean_abs_snr = sum(|snr| w) / n_edges (the score), and the
    largest |snr|. The cut asks for two edges, or one with |snr| > 2 (Kendiukhov 2026). Edges without a finite snr, and
    those with an end that lists no gene, have no pairs.

    Parameters
    ----------
    edges
        With `source`, `target` (rows of the lists, -1: none) and `snr`.
    ranks
        int (feature, gene): ranks on the lists.

    Returns
    -------
    Columns source, target (rows of genes), n_edges, mean_snr, mean_abs_snr, max_abs_snr; best first, ties by gene.
    """
    factors = _factors(edges, ranks)
    found = _scored(factors, n_kept)
    total, largest = _sums_and_largest(factors, found["source"].to_numpy(), found["target"].to_numpy())
    return found.assign(mean_snr=total / found["n_edges"], max_abs_snr=largest)


def edges_with_lists(edges: pl.DataFrame, ranks: sp.csr_matrix) -> pl.DataFrame:
    """The edges with a finite snr whose ends both list genes."""
    has_list = np.append(np.diff(ranks.indptr) > 0, False)
    kept = has_list[edges["source"].to_numpy()] & has_list[edges["target"].to_numpy()]
    return edges.filter(pl.Series(kept) & edges["snr"].is_finite().fill_null(False))


def _factors(edges: pl.DataFrame, ranks: sp.csr_matrix) -> _Factors:
    edges = edges_with_lists(edges, ranks)
    ends = edges["source"].to_numpy(), edges["target"].to_numpy()
    snr = edges["snr"].to_numpy().astype(np.float32)
    graph = sp.csr_matrix((snr, ends), (ranks.shape[0], ranks.shape[0]))
    strength = np.abs(graph.data)

    def like(matrix: sp.csr_matrix, values: np.ndarray) -> sp.csr_matrix:
        return sp.csr_matrix((values.astype(np.float32), matrix.indices, matrix.indptr), matrix.shape)

    weights, listed = like(ranks, 1 / ranks.data), like(ranks, np.ones(ranks.nnz))
    return _Factors(weights, listed, graph, like(graph, strength), like(graph, np.ones(len(snr))))


def _scored(factors: _Factors, n_kept: int) -> pd.DataFrame:
    """source, target, n_edges and mean_abs_snr of the best pairs, best first; ties by source and target."""
    weights, listed = factors.weights.T.tocsr(), factors.listed.T.tocsr()
    best, least = [np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)], 0.0
    for start in range(0, weights.shape[0], GENES_PER_BLOCK):
        block = slice(start, start + GENES_PER_BLOCK)
        n_edges = _product(listed[block], factors.number, factors.listed)
        score = _product(weights[block], factors.strength, factors.weights)
        np.divide(score, n_edges, out=score, where=n_edges > 0)
        passes = (score >= least) & (n_edges > 0)
        weak = passes & (n_edges == 1) & (score <= PUBLISHED_SNR)
        target, source = np.nonzero(weak)
        passes[target, source] = _looked_up(factors, listed[block], listed, source, target) > PUBLISHED_SNR
        target, source = np.nonzero(passes)
        new = [score[target, source].astype(float), source + start, target, n_edges[target, source].astype(float)]
        best = [np.concatenate([old, more[new[1] != target]]) for old, more in zip(best, new, strict=True)]
        if len(best[0]) > n_kept:
            # all that are as good as the last one stay until the end
            least = float(np.partition(best[0], -n_kept)[-n_kept])
            best = [values[best[0] >= least] for values in best]
    order = np.lexsort((best[2], best[1], -best[0]))[:n_kept]
    names = ("mean_abs_snr", "source", "target", "n_edges")
    return pd.DataFrame({name: values[order] for name, values in zip(names, best, strict=True)})


def _product(sources: sp.csr_matrix, edges: sp.csr_matrix, targets: sp.csr_matrix) -> np.ndarray:
    """float32 (target gene, source gene): sums over edges, from (source gene, feature) and (feature, target gene)."""
    # dense, and by columns: it then reads and adds whole rows of a block that stays in the cache
    return targets.T @ (sources @ edges).T.toarray(order="C")


def _looked_up(
    factors: _Factors, sources: sp.csr_matrix, listed: sp.csr_matrix, row: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """float32 (pair,): largest |snr| over the edges between a row of `sources` (gene, feature) and a gene.

    `listed` is (gene, feature), of all genes.
    """
    largest = np.zeros(len(row), dtype=np.float32)
    strongest = _strongest(sources, factors.strength) if len(row) else largest[:, None]
    for piece in _pieces(listed, target):
        owner, entry = _expanded(listed.indptr, target[piece])
        ends = np.searchsorted(owner, np.arange(len(piece)))
        largest[piece] = np.maximum.reduceat(strongest[row[piece][owner], listed.indices[entry]], ends)
    return largest


def _pieces(listed: sp.csr_matrix, target: np.ndarray) -> list[np.ndarray]:
    """Places of pairs, in parts of so many look-ups."""
    n_lists = np.diff(listed.indptr)[target]
    parts = np.split(np.arange(len(target)), np.flatnonzero(np.diff(np.cumsum(n_lists) // LOOKUPS_PER_BLOCK)) + 1)
    return [part for part in parts if len(part)]


def _sums_and_largest(factors: _Factors, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of pairs of genes: sum of snr x weight over their edges, and the largest |snr|; both float64 (pair,)."""
    weights, listed = factors.weights.T.tocsr(), factors.listed.T.tocsr()
    total, largest = np.zeros(len(source)), np.zeros(len(source))
    genes, gene = np.unique(source, return_inverse=True)
    order = np.argsort(gene, kind="stable")
    starts = np.searchsorted(gene[order], np.arange(0, len(genes) + GENES_PER_BLOCK, GENES_PER_BLOCK))
    for number, (start, stop) in enumerate(pairwise(starts)):
        first, pairs = number * GENES_PER_BLOCK, order[start:stop]
        block = genes[first : first + GENES_PER_BLOCK]
        row = gene[pairs] - first
        largest[pairs] = _looked_up(factors, listed[block], listed, row, target[pairs])
        signed = (weights[block] @ factors.snr).toarray()
        for piece in _pieces(weights, target[pairs]):
            owner, entry = _expanded(weights.indptr, target[pairs[piece]])
            terms = signed[row[piece][owner], weights.indices[entry]] * weights.data[entry]
            total[pairs[piece]] = np.bincount(owner, terms, minlength=len(piece))
    return total, largest


def _strongest(listed: sp.csr_matrix, strength: sp.csr_matrix) -> np.ndarray:
    """float32 (gene, target): the largest |snr| of any source that lists the gene, 0 without an edge."""
    found = np.zeros((listed.shape[0], strength.shape[1]), dtype=np.float32)
    lists, entry = _expanded(strength.indptr, listed.indices)
    gene = np.repeat(np.arange(listed.shape[0]), np.diff(listed.indptr))[lists]
    np.maximum.at(found, (gene, strength.indices[entry]), strength.data[entry])
    return found


def _expanded(indptr: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the entries of these rows of a sparse matrix: which of `rows` they belong to, and their places."""
    size = np.diff(indptr)[rows].astype(np.int64)
    owner = np.repeat(np.arange(len(rows)), size)
    return owner, indptr[rows].astype(np.int64)[owner] + np.arange(len(owner)) - (np.cumsum(size) - size)[owner]
