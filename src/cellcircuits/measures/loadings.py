"""Gene lists of all features as sparse matrices, and strata of genes that are detected about as often."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.evidence import Evidence, feature_rows

DETECTION_BINS = 10


@dataclass(frozen=True)
class Loadings:
    """The table `feature_genes` as matrices. Rows are rows of `features`; genes are those of any list, sorted."""

    symbols: np.ndarray
    """object (gene,): symbols in upper case, each once."""
    n_positions: np.ndarray
    """int64 (gene,): positions (cells) of the gene; how often it is detected."""
    scores: sp.csr_matrix
    """float32 (feature, gene): score of the gene, 0 where it is not on the list."""
    ranks: sp.csr_matrix
    """int32 (feature, gene): 1 is the top gene, 0 where it is not on the list."""

    def best(self, n_genes: int) -> sp.csr_matrix:
        """int32 (feature, gene): ranks up to `n_genes`, the others left out."""
        return _kept(self.ranks, self.ranks.data <= n_genes)

    @cached_property
    def detection_bins(self) -> np.ndarray:
        """int64 (gene,): tenth of the genes by the number of their positions; equal numbers share one."""
        return quantile_bins(self.n_positions, DETECTION_BINS)

    def gene_rows(self, symbols: np.ndarray) -> np.ndarray:
        """int64: row of each symbol (compared in upper case), -1 where no feature lists it."""
        wanted = np.array([str(symbol).upper() for symbol in symbols], dtype=object)
        if not len(self.symbols) or not len(wanted):
            return np.full(len(wanted), -1, dtype=np.int64)
        place = np.minimum(np.searchsorted(self.symbols, wanted), len(self.symbols) - 1)
        return np.where(self.symbols[place] == wanted, place, -1)


def read_loadings(evidence: Evidence) -> Loadings:
    """Loadings from the table `feature_genes`. Of genes that share a symbol a feature keeps the one of better rank."""
    table = evidence.table("feature_genes")
    row = feature_rows(evidence.features, table["layer"], table["feature"]).astype(np.int64)
    known = (table["symbol"] != "").to_numpy() & (row >= 0)
    table, row = table[known], row[known]
    spelled, spellings = pd.factorize(table["symbol"].to_numpy(dtype=object))
    upper, names = pd.factorize(np.array([str(symbol).upper() for symbol in spellings], dtype=object), sort=True)
    gene = upper[spelled]
    n_positions = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(n_positions, gene, table["n_positions"].to_numpy())
    order = np.lexsort((table["rank"].to_numpy(), gene, row))
    row, gene = row[order], gene[order]
    first = np.ones(len(row), dtype=bool)
    first[1:] = (np.diff(row) > 0) | (np.diff(gene) > 0)
    shape = (len(evidence.features), len(names))

    def matrix(column: str, dtype: type) -> sp.csr_matrix:
        values = table[column].to_numpy(dtype)[order][first]
        return sp.csr_matrix((values, (row[first], gene[first])), shape)

    return Loadings(np.asarray(names, dtype=object), n_positions, matrix("score", np.float32), matrix("rank", np.int32))


def quantile_bins(values: np.ndarray, n_bins: int) -> np.ndarray:
    """int64: bin of each value, of about equally many each; equal values share a bin, empty bins are left out.

    NaN is not allowed.
    """
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    borders = np.quantile(values, np.arange(1, n_bins) / n_bins)
    return np.unique(np.searchsorted(borders, values, side="left"), return_inverse=True)[1].astype(np.int64)


def nested_bins(outer: np.ndarray, values: np.ndarray, n_bins: int, least: int = 1) -> np.ndarray:
    """int64: consecutive bins that split each bin of `outer` into up to `n_bins` by `values`.

    A bin is split into fewer, or not at all, where the parts would have fewer than `least` members.
    """
    inner = np.zeros(len(outer), dtype=np.int64)
    for code in np.unique(outer):
        inside = np.flatnonzero(outer == code)
        inner[inside] = quantile_bins(values[inside], int(np.clip(len(inside) // least, 1, n_bins)))
    return np.unique(outer * n_bins + inner, return_inverse=True)[1].astype(np.int64)


def _kept(matrix: sp.csr_matrix, chosen: np.ndarray) -> sp.csr_matrix:
    """The entries of a matrix that are chosen, bool (entry,)."""
    ends = np.concatenate([[0], np.cumsum(chosen)])[matrix.indptr]
    return sp.csr_matrix((matrix.data[chosen], matrix.indices[chosen], ends), matrix.shape)
