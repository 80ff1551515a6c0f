"""How much the top genes of two features vary together: mean and largest |Pearson r| over pairs of different genes.

With |R| the matrix of |r| (0 on its diagonal) and B the lists, row s of B |R| has for each gene the sum over the genes
of s. An edge then costs as many look-ups as its target lists genes, not as many as there are pairs of genes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cellcircuits.measures.loadings import Loadings

SOURCES_PER_BLOCK = 64


@dataclass(frozen=True)
class SourceSums:
    """What some sources have in common with every gene, and at the end with a gene that is none."""

    total: np.ndarray
    """float32 (source, gene + 1): sum of |r| over the genes of the source."""
    largest: np.ndarray
    """float32 (source, gene + 1): largest |r|."""
    listed: np.ndarray
    """bool (source, gene + 1): whether the source lists the gene."""
    n_listed: np.ndarray
    """int64 (source,)."""


@dataclass(frozen=True)
class ListCorrelation:
    """Top genes of features that vary in the cells, and their correlations."""

    correlation: np.ndarray
    """float32 (gene, gene): |r|, 0 on the diagonal."""
    genes: np.ndarray
    """int32 (feature, rank): genes on the list; the number of genes where there are no more."""

    @property
    def n_listed(self) -> np.ndarray:
        """int64 (feature,): genes on each list."""
        return (self.genes < len(self.correlation)).sum(axis=1)

    def sums(self, sources: np.ndarray) -> SourceSums:
        """Of these features, each with at least one gene."""
        n_genes, lists = len(self.correlation), self.genes[sources]
        owner, rank = np.nonzero(lists < n_genes)
        listed = np.zeros((len(sources), n_genes + 1), dtype=bool)
        listed[owner, lists[owner, rank]] = True
        total, largest = (np.zeros((len(sources), n_genes + 1), dtype=np.float32) for _ in range(2))
        rows = self.correlation[lists[owner, rank]]
        starts = np.searchsorted(owner, np.arange(len(sources)))
        total[:, :-1] = np.add.reduceat(rows, starts, axis=0)
        largest[:, :-1] = np.maximum.reduceat(rows, starts, axis=0)
        return SourceSums(total, largest, listed, np.bincount(owner, minlength=len(sources)))

    def means(self, sums: SourceSums, targets: np.ndarray) -> np.ndarray:
        """float32 (source, target): mean |r| of every source with every target; 0 without two different genes."""
        genes = self.genes[targets]
        shared = sums.listed[:, genes].sum(axis=2)
        n_pairs = sums.n_listed[:, None] * self.n_listed[targets] - shared
        total = sums.total[:, genes].sum(axis=2)
        return np.divide(total, n_pairs, out=np.zeros_like(total), where=n_pairs > 0)

    def of_pairs(self, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(mean |r|, largest |r|, number of shared genes) of pairs of features; `source` is sorted, no list is empty.

        The mean is NaN where there are no two different genes.
        """
        mean, largest = (np.zeros(len(source), dtype=np.float32) for _ in range(2))
        shared = np.zeros(len(source), dtype=np.int32)
        n_listed = self.n_listed
        sources, start = np.unique(source, return_index=True)
        ends = np.append(start, len(source))
        for first in range(0, len(sources), SOURCES_PER_BLOCK):
            block = sources[first : first + SOURCES_PER_BLOCK]
            sums = self.sums(block)
            edges = slice(ends[first], ends[first + len(block)])
            row = np.searchsorted(block, source[edges])[:, None]
            genes = self.genes[target[edges]]
            shared[edges] = sums.listed[row, genes].sum(axis=1)
            n_pairs = sums.n_listed[row[:, 0]] * n_listed[target[edges]] - shared[edges]
            with np.errstate(divide="ignore", invalid="ignore"):
                mean[edges] = np.where(n_pairs > 0, sums.total[row, genes].sum(axis=1) / n_pairs, np.nan)
            largest[edges] = sums.largest[row, genes].max(axis=1)
        return mean, largest, shared


def list_correlation(
    loadings: Loadings, n_genes: int, expression: sp.csr_matrix, symbols: np.ndarray
) -> ListCorrelation:
    """Correlations of the genes on the lists (up to rank `n_genes`) that vary in the cells.

    Parameters
    ----------
    expression
        (cell, gene): log-normalised.
    symbols
        str (gene,): compared in upper case; of genes with the same symbol the first counts.
    """
    ranks = loadings.best(n_genes)
    row = loadings.gene_rows(symbols)
    column = np.full(len(loadings.symbols), -1, dtype=np.int64)
    known = np.flatnonzero(row >= 0)[::-1]
    column[row[known]] = known
    used = np.zeros(len(column), dtype=bool)
    used[ranks.indices] = True
    values = sp.csr_matrix(expression[:, column[used & (column >= 0)]])
    standard = np.asarray(values.todense(), dtype=np.float32)
    standard -= standard.mean(axis=0)
    length = np.sqrt((standard.astype(np.float64) ** 2).sum(axis=0))
    varies = length > 1e-6 * np.sqrt(max(len(standard), 1))
    standard = standard[:, varies] / length[varies].astype(np.float32)
    correlation = standard.T @ standard
    np.minimum(np.abs(correlation, out=correlation), 1, out=correlation)
    np.fill_diagonal(correlation, 0)
    place = np.full(len(column), -1, dtype=np.int64)
    place[np.flatnonzero(used & (column >= 0))[varies]] = np.arange(len(correlation))
    return ListCorrelation(correlation, _padded(ranks, place, len(correlation)))


def _padded(ranks: sp.csr_matrix, place: np.ndarray, n_genes: int) -> np.ndarray:
    """int32 (feature, rank): genes of each list by their new places, `n_genes` where there are no more."""
    feature = np.repeat(np.arange(ranks.shape[0]), np.diff(ranks.indptr))
    order = np.lexsort((ranks.data, feature))
    order = order[place[ranks.indices[order]] >= 0]
    size = np.bincount(feature[order], minlength=ranks.shape[0])
    rank = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    genes = np.full((ranks.shape[0], max(int(size.max(initial=0)), 1)), n_genes, dtype=np.int32)
    genes[feature[order], rank] = place[ranks.indices[order]]
    return genes
