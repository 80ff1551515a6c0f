"""The published statistics of disease, on the inputs of the run; what they lack is said in the question `disease`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cellcircuits.evidence import Evidence
from cellcircuits.stats import hypergeometric_enrichment

PUBLISHED_P = 0.05
SOURCES_PER_BLOCK = 500


@dataclass(frozen=True)
class DiseaseEdges:
    """Ends of all edges, int (edge,): rows of features, -1 for none."""

    source: np.ndarray
    target: np.ndarray


def labels_with_disease(
    evidence: Evidence, edges: DiseaseEdges, listed: sp.csr_matrix, members: sp.csr_matrix
) -> tuple[int, int]:
    """(labels with an uncorrected p below 0.05 for any set, labels at the ends of edges), as published.

    The genes of a label are all those on the lists of its features that have an edge, the background those of all
    labels; one-sided Fisher test. `listed` is (feature, gene), `members` (gene, set).
    """
    names, code = evidence.labels
    used = np.zeros(len(code) + 1, dtype=bool)
    used[edges.source] = used[edges.target] = True
    rows = np.flatnonzero(used[:-1] & (code >= 0))
    owner = sp.csr_matrix((np.ones(len(rows)), (code[rows], rows)), (max(len(names), 1), len(code)))
    genes = ((owner @ listed) > 0).astype(np.int64).tocsr()
    labels = np.flatnonzero(np.diff(genes.indptr))
    background = np.flatnonzero(np.asarray(genes.sum(axis=0)).ravel())
    genes, inside = genes[labels][:, background], members.astype(np.int64)[background]
    overlap = np.asarray((genes @ inside).todense())
    n_list, n_term = np.diff(genes.indptr)[:, None], np.asarray(inside.sum(axis=0)).ravel()[None, :]
    if not overlap.size:
        return 0, len(labels)
    p = hypergeometric_enrichment(overlap, n_list, n_term, len(background))
    return int((p < PUBLISHED_P).any(axis=1).sum()), len(labels)


def same_disease_odds(evidence: Evidence, edges: DiseaseEdges, called: sp.csr_matrix) -> float:
    """Odds ratio of (pair shares a disease) x (pair is an edge), over all sources and features of their target layers.

    As the published Fisher table, without strata; 0.5 is added to every count.
    """
    layer = evidence.features["layer"].to_numpy(np.int64)
    known = (edges.source >= 0) & (edges.target >= 0)
    source, target = edges.source[known], edges.target[known]
    sources = evidence.source_rows[evidence.source_rows >= 0]
    linked = np.zeros((evidence.n_layers, evidence.n_layers), dtype=bool)
    linked[layer[source], layer[target]] = True
    n_pairs = (linked[layer[sources]] * np.bincount(layer, minlength=evidence.n_layers)).sum()
    n_same = 0
    for start in range(0, len(sources), SOURCES_PER_BLOCK):
        block = sources[start : start + SOURCES_PER_BLOCK]
        pairs = (called[block] @ called.T).tocoo()
        n_same += int(linked[layer[block][pairs.row], layer[pairs.col]].sum())
    has = np.diff(called.indptr) > 0
    some = has[source] & has[target]
    shared = called[source[some]].multiply(called[target[some]])
    n_both = int((np.asarray(shared.sum(axis=1)).ravel() > 0).sum())
    a, b, c = n_both, n_same - n_both, len(source) - n_both
    d = n_pairs - a - b - c
    return float((a + 0.5) * (d + 0.5) / ((b + 0.5) * (c + 0.5)))
