"""How alike are two features? By the gene sets they are enriched for, and by the genes on which they fire most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from cellcircuits.evidence import Evidence, feature_rows
from cellcircuits.measures.matched_targets import Values

SHARED, INFORMATION = "shared term", "information"
APART = "apart: "
"""Before the name of a measure from which pairs of features with a common top gene are left out."""


@dataclass(frozen=True)
class TermSimilarity:
    """Terms and top genes of all features; call it for the values of pairs.

    shared term    1 if the two have a gene set in common.
    information    sum of the information of the common gene sets / that of the gene sets of either (a weighted Jaccard
                   index), with the information of a gene set = -log2(features with it / (annotated features + 1)): a
                   common set says little (Resnik 1995, doi 10.48550/arXiv.cmp-lg/9511007).
    """

    terms: sparse.csr_array
    """float (feature, gene set): the square root of its information, so that a product gives information."""
    genes: sparse.csr_array
    """float (feature, gene): 1 for a top gene."""

    @property
    def n_terms(self) -> np.ndarray:
        """int (feature,)."""
        return np.diff(self.terms.indptr)

    def __call__(self, sources: np.ndarray, features: np.ndarray) -> Values:
        """Values (source, feature) of both measures, over all pairs and over those without a common top gene."""
        common = (self.terms[sources] @ self.terms[features].T).tocsr()
        total = self.terms.power(2).sum(axis=1)
        row = np.repeat(np.arange(len(sources)), np.diff(common.indptr))
        union = total[sources][row] + total[features][common.indices] - common.data
        found = {SHARED: _with(common, np.ones(common.nnz)), INFORMATION: _with(common, common.data / union)}
        overlap = (self.genes[sources] @ self.genes[features].T).tocsr()
        overlap.data[:] = 1.0
        apart = {APART + name: (value - value.multiply(overlap), overlap) for name, value in found.items()}
        return {name: (value, None) for name, value in found.items()} | apart


def _with(like: sparse.csr_array, data: np.ndarray) -> sparse.csr_array:
    return sparse.csr_array((data, like.indices, like.indptr), shape=like.shape)


def term_similarity(evidence: Evidence) -> TermSimilarity:
    """From the tables `terms` and `feature_genes`; top genes from `features` where the run has no `feature_genes`."""
    terms = evidence.table("terms")
    row = feature_rows(evidence.features, terms["layer"], terms["feature"])
    known = row >= 0
    names = terms.loc[known].groupby(["collection", "term"]).ngroup().to_numpy()
    matrix = _indicator(row[known], names, len(evidence.features))
    n_annotated = int((np.diff(matrix.indptr) > 0).sum())
    carriers = np.bincount(matrix.indices, minlength=matrix.shape[1])
    information = -np.log2(np.maximum(carriers, 1) / (n_annotated + 1))
    matrix.data = np.sqrt(information)[matrix.indices]
    return TermSimilarity(matrix, _top_genes(evidence))


def _top_genes(evidence: Evidence) -> sparse.csr_array:
    listed = evidence.table("feature_genes")
    if len(listed):
        row = feature_rows(evidence.features, listed["layer"], listed["feature"])
        gene = listed["symbol"].to_numpy(dtype=object)[row >= 0]
        row = row[row >= 0]
    else:
        lists = evidence.features["top_genes"].str.split(";")
        row = np.repeat(np.arange(len(lists), dtype=np.int32), lists.str.len())
        gene = lists.explode().to_numpy(dtype=object)
        row, gene = row[gene != ""], gene[gene != ""]
    return _indicator(row, pd.factorize(gene)[0], len(evidence.features))


def _indicator(row: np.ndarray, column: np.ndarray, n_rows: int) -> sparse.csr_array:
    """1 at these places, repeats counted once, in canonical order."""
    shape = n_rows, int(column.max(initial=-1)) + 1
    matrix = sparse.coo_array((np.ones(len(row)), (row, column)), shape=shape).tocsr()
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix
