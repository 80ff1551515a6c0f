"""Which gene programs are known to belong together? Programs by the genes of their sets, pairs by two tests.

overlap        They share more genes than two random sets of their sizes, drawn from the genes of all sets: one-sided
               hypergeometric test, Benjamini-Hochberg over all pairs of different programs.
interactions   Genes of only one interact with genes of only the other more often than their degrees make them: the
               number of interactions against a Poisson of mean D_A D_B / (2 m), with D the summed degrees and m all
               interactions, Benjamini-Hochberg over the same pairs. Interactions cluster, so this calls a few relations
               too many: what is called novel has none even so.
published      They share at least `min_shared_genes` genes, whatever their sizes (Kendiukhov 2026).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy import stats as scipy_stats

from cellcircuits.networks import Interactions
from cellcircuits.stats import benjamini_hochberg, hypergeometric_enrichment


@dataclass(frozen=True)
class KnownRelations:
    """Of every pair of programs; all (program, program) and symmetric. The diagonal says nothing."""

    n_genes: np.ndarray
    """int (program,): genes of each set."""
    n_shared: np.ndarray
    overlap_q: np.ndarray
    n_interactions: np.ndarray
    """Interactions between genes of only one and genes of only the other; 0 without a network."""
    expected_interactions: np.ndarray
    interactions_q: np.ndarray
    """NaN without a network."""
    n_in_network: int
    """Genes of the programs' sets that have an interaction."""
    n_all_genes: int
    """Genes of the programs' sets."""

    def known(self, max_q: float) -> np.ndarray:
        """bool: related by either test."""
        return (self.overlap_q <= max_q) | (self.interactions_q <= max_q)

    def published(self, min_shared: int) -> np.ndarray:
        """bool: related by the published rule."""
        return self.n_shared >= min_shared


def known_relations(
    names: Sequence[str], gene_sets: Mapping[str, frozenset[str]], interactions: Interactions | None = None
) -> KnownRelations:
    """Relations between the programs `names`, each of which has a gene set; genes are upper-case symbols."""
    genes = {gene: place for place, gene in enumerate(sorted(frozenset().union(*gene_sets.values())))}
    member = _members(names, gene_sets, genes)
    n_genes = np.diff(member.indptr)
    shared = np.rint((member @ member.T).toarray()).astype(np.int64)
    shape = len(names), len(names)
    first, second = np.triu_indices(len(names), 1)
    p = np.ones(len(first))
    some = shared[first, second] > 0
    one, other = first[some], second[some]
    p[some] = hypergeometric_enrichment(shared[one, other], n_genes[one], n_genes[other], len(genes))
    count, expected, q_between, covered = np.zeros(shape), np.zeros(shape), np.full(shape, np.nan), 0
    if interactions is not None:
        count, expected, covered = _between(member, genes, interactions)
        p_between = scipy_stats.poisson.sf(count[first, second] - 1, expected[first, second])
        q_between = _symmetric(p_between, first, second, len(names))
    return KnownRelations(
        n_genes=n_genes,
        n_shared=shared,
        overlap_q=_symmetric(p, first, second, len(names)),
        n_interactions=count,
        expected_interactions=expected,
        interactions_q=q_between,
        n_in_network=covered,
        n_all_genes=int((member.sum(axis=0) > 0).sum()),
    )


def _members(
    names: Sequence[str], gene_sets: Mapping[str, frozenset[str]], genes: Mapping[str, int]
) -> sparse.csr_array:
    """1 where a program has a gene, (program, gene)."""
    row = np.repeat(np.arange(len(names)), [len(gene_sets[name]) for name in names])
    column = np.array([genes[gene] for name in names for gene in sorted(gene_sets[name])], dtype=np.int64)
    return sparse.coo_array((np.ones(len(row)), (row, column)), shape=(len(names), len(genes))).tocsr()


def _symmetric(p: np.ndarray, first: np.ndarray, second: np.ndarray, n: int) -> np.ndarray:
    """q of each pair, (program, program), 1 on the diagonal."""
    q = np.ones((n, n))
    q[first, second] = q[second, first] = benjamini_hochberg(p)
    return q


def _between(
    member: sparse.csr_array, genes: Mapping[str, int], interactions: Interactions
) -> tuple[np.ndarray, np.ndarray, int]:
    """Interactions between the genes of only one and of only the other program, those expected, and genes covered.

    With S the shared genes, cut(A - S, B - S) = cut(A, B) - cut(A, S) - cut(S, B) + cut(S, S). Degrees and m are those
    of the whole network; genes without a program count for them.
    """
    places = {gene: place for gene, place in genes.items()}
    for pair in sorted(interactions.pairs):
        for gene in pair:
            places.setdefault(gene, len(places))
    ends = np.array([(places[a], places[b]) for a, b in sorted(interactions.pairs)], dtype=np.int64).reshape(-1, 2)
    adjacent = sparse.coo_array((np.ones(len(ends)), ends.T), shape=(len(places), len(places))).tocsr()
    adjacent = (adjacent + adjacent.T).tocsr()
    degree = np.asarray(adjacent.sum(axis=0))
    wide = member.copy()
    wide.resize(member.shape[0], len(places))
    reach = (wide @ adjacent).tocsr()
    to_shared = (wide.multiply(reach) @ wide.T).toarray()
    columns = wide.tocsc()
    inside = columns[:, ends[:, 0]].multiply(columns[:, ends[:, 1]]).tocsr()
    cut = (reach @ wide.T).toarray() - to_shared - to_shared.T + 2 * (inside @ inside.T).toarray()
    degrees_shared = (wide.multiply(degree[None, :]).tocsr() @ wide.T).toarray()
    own = np.asarray(wide @ degree)[:, None] - degrees_shared
    expected = own * own.T / max(2 * len(ends), 1)
    used = np.asarray(wide.sum(axis=0)) > 0
    return np.rint(cut), expected, int((used & (degree > 0)).sum())
