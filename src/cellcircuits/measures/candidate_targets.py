"""Do edges differ from pairs that could have been edges? Sources with all features of the layers that they reach.

Null: within strata (target layer, fifth of firing rate) the gene lists of the targets are permuted, the same
permutation for all sources. A target keeps its edges, and it stays true that all sources act on the same targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from cellcircuits.measures.gene_correlation import ListCorrelation
from cellcircuits.stats import permuted_sums


@dataclass(frozen=True)
class ScoredEdges:
    """Edges whose ends both list genes, sorted by source."""

    source: np.ndarray
    """int64 (edge,): rows of features."""
    target: np.ndarray
    weights: np.ndarray
    """float64 (weight, edge): what is multiplied with co-expression, such as ranks of |snr|; its mean is removed."""
    known: np.ndarray
    """Co-expression of (evenly spaced) edges in ascending order: by it that of a pair becomes a rank from 0 to 1."""


@dataclass(frozen=True)
class Candidates:
    """What comparing sources with all their possible targets gives."""

    concordant: np.ndarray
    """float64 (source,): pairs of an edge and a pair without, of one source and stratum, in which the edge has the
    higher co-expression (equal ones count half)."""
    compared: np.ndarray
    """float64 (source,): such pairs."""
    p_auroc: float
    p_weights: np.ndarray
    """float64 (weight,): two-sided, of sum(weight x rank of co-expression)."""
    expected: np.ndarray
    """float64 (weight,): mean of that sum under the null, divided by the number of edges."""
    n_edges: int

    @property
    def auroc(self) -> float:
        """Chance that an edge has a higher co-expression than a pair of the same source and stratum without one."""
        return float(self.concordant.sum() / self.compared.sum()) if self.compared.sum() else float("nan")


def compare_candidates(
    edges: ScoredEdges,
    sources: np.ndarray,
    stratum: np.ndarray,
    reached: np.ndarray,
    lists: ListCorrelation,
    permutations: int,
    seed: int,
) -> Candidates:
    """Edges of `sources` against the pairs of these sources that are none.

    Parameters
    ----------
    sources
        int (source,): features with edges, sorted.
    stratum
        int (feature,): stratum of each possible target, -1 for features that are none.
    reached
        bool (source, stratum): whether a source was traced to the layer of the stratum.
    """
    inside = np.isin(edges.source, sources)
    row = np.searchsorted(sources, edges.source[inside])
    target, weights = edges.target[inside], edges.weights[:, inside]
    weights = weights - weights.mean(axis=1, keepdims=True)
    order = np.argsort(stratum[target], kind="stable")
    limits = np.searchsorted(stratum[target][order], np.arange(reached.shape[1] + 1))
    sums = lists.sums(sources)
    concordant, compared = np.zeros(len(sources)), np.zeros(len(sources))
    blocks: list[np.ndarray] = []
    for code in range(reached.shape[1]):
        chosen = order[limits[code] : limits[code + 1]]
        members = np.flatnonzero(stratum == code)
        if not len(chosen):
            continue
        means = lists.means(sums, members)
        ranks = rankdata(means, axis=1)
        edge = np.zeros(means.shape)
        edge[row[chosen], np.searchsorted(members, target[chosen])] = 1
        n_edges = edge.sum(axis=1)
        concordant += np.where(reached[:, code], (edge * ranks).sum(axis=1) - n_edges * (n_edges + 1) / 2, 0)
        compared += np.where(reached[:, code], n_edges * (len(members) - n_edges), 0)
        products = [edge.T @ ranks]
        share = np.searchsorted(edges.known, means.ravel(), side="right").reshape(means.shape) / len(edges.known)
        for weight in weights:
            edge[row[chosen], np.searchsorted(members, target[chosen])] = weight[chosen]
            products.append(edge.T @ share)
        blocks.append(np.stack(products))
    p, expected = _permutation_tests(blocks, permutations, seed)
    n_edges = int(inside.sum())
    return Candidates(concordant, compared, float(p[0]), p[1:], expected[1:] / max(n_edges, 1), n_edges)


def _permutation_tests(blocks: list[np.ndarray], permutations: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(two-sided p of the sums of the diagonals of blocks (sum, target, target), their means under permutations)."""
    mean = np.sum([block.sum(axis=(1, 2)) / block.shape[1] for block in blocks], axis=0)
    distance = np.abs(np.sum([np.trace(block, axis1=1, axis2=2) for block in blocks], axis=0) - mean)
    null = permuted_sums(blocks, permutations, np.random.default_rng(seed))
    # sums in another order differ by rounding
    at_least = (np.abs(null - mean[:, None]) >= distance[:, None] * (1 - 1e-9)).sum(axis=1)
    return (1 + at_least) / (1 + permutations), mean
