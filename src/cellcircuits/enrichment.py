"""Which gene sets are enriched in which gene lists: all lists x all sets of a layer at once.

A pair is tested by the one-sided hypergeometric test: the list is drawn from the background, the genes that could have
been on it; sets are cut to the background. Benjamini-Hochberg counts every pair, also the many without a shared gene
(p = 1). Only pairs with a shared gene are held in memory, and equal tests are computed once.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.references import GeneSets
from cellcircuits.settings import AnnotateSettings
from cellcircuits.stats import counted_benjamini_hochberg, hypergeometric_enrichment, odds_ratio

PUBLISHED_SMALLEST_P = 1e-30
BEST_FIRST = {"q_value": True, "odds_ratio": False, "term": True, "collection": True}
"""The order of a feature's terms (True: ascending). The first is its label, whichever end of an edge it is."""


@dataclass(frozen=True)
class GeneLists:
    """Gene lists of features, within a background."""

    features: np.ndarray
    """int64 (list,): the feature of each list."""
    genes: sp.csr_matrix
    """int32 (list, background gene): 1 where the gene is on the list."""

    @property
    def sizes(self) -> np.ndarray:
        """Genes on each list, int64 (list,)."""
        return np.diff(self.genes.indptr).astype(np.int64)


def gene_lists(features: np.ndarray, genes: np.ndarray, n_background: int) -> GeneLists:
    """Lists from pairs of a feature and a row of the background; a gene counts once."""
    owners, index = np.unique(np.asarray(features, dtype=np.int64), return_inverse=True)
    shape = (len(owners), n_background)
    matrix = sp.csr_matrix((np.ones(len(index), dtype=np.int32), (index, np.asarray(genes, dtype=np.int64))), shape)
    matrix.data[:] = 1
    return GeneLists(owners, matrix)


@dataclass(frozen=True)
class BackgroundSets:
    """Gene sets as they are tested: cut to the background, too small and too large ones left out."""

    names: pd.DataFrame
    """One row per set: collection, term, n_term (its genes within the background)."""
    members: sp.csr_matrix
    """int32 (background gene, set): 1 where the gene is in the set."""


def cut_to_background(symbols: np.ndarray, collections: list[GeneSets], least: int, most: int) -> BackgroundSets:
    """Sets with `least` to `most` genes of the background, whose symbols (gene,) are compared in upper case.

    Several genes of the background may have one symbol; a set that names it holds all of them.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, symbol in enumerate(symbols):
        rows_of[str(symbol).upper()].append(row)
    names: list[tuple[str, str, int]] = []
    rows: list[int] = []
    for collection in collections:
        for term, genes in collection.terms.items():
            inside = [row for gene in genes if gene in rows_of for row in rows_of[gene]]
            if least <= len(inside) <= most:
                rows += inside
                names.append((collection.name, term, len(inside)))
    frame = pd.DataFrame(names, columns=["collection", "term", "n_term"])
    columns = np.repeat(np.arange(len(names)), frame["n_term"].to_numpy(dtype=np.int64))
    shape = (len(symbols), len(names))
    matrix = sp.csr_matrix((np.ones(len(rows), dtype=np.int32), (np.array(rows, dtype=np.int64), columns)), shape)
    return BackgroundSets(frame, matrix)


@dataclass(frozen=True)
class OverlapTests:
    """The tests of all lists x all sets. Held: pairs with a shared gene; all others have p = q = 1."""

    n_lists: int
    n_tests: int
    list: np.ndarray
    set: np.ndarray
    overlap: np.ndarray
    p: np.ndarray
    q: np.ndarray

    def called(self, settings: AnnotateSettings) -> np.ndarray:
        """bool (pair,): q within max_q and at least min_overlap shared genes."""
        return (self.q <= settings.max_q) & (self.overlap >= settings.min_overlap)


def overlap_tests(lists: GeneLists, sets: BackgroundSets) -> OverlapTests:
    """Test every list against every set."""
    shared = (lists.genes @ sets.members).tocoo()
    n_term = sets.names["n_term"].to_numpy(dtype=np.int64)
    n_list, overlap = lists.sizes, shared.data.astype(np.int64)
    n_lists, n_sets = shared.shape
    # tests with the same three numbers are the same test
    wide, high = int(n_list.max(initial=0)) + 1, int(n_term.max(initial=0)) + 1
    key = (overlap * wide + n_list[shared.row]) * high + n_term[shared.col]
    different, which, counts = np.unique(key, return_inverse=True, return_counts=True)
    p = hypergeometric_enrichment(
        different // (wide * high), different // high % wide, different % high, lists.genes.shape[1]
    )
    distinct, place = np.unique(p, return_inverse=True)
    tests_with = np.bincount(place, weights=counts, minlength=len(distinct))
    q = counted_benjamini_hochberg(distinct, tests_with, n_lists * n_sets - len(overlap))
    return OverlapTests(n_lists, n_lists * n_sets, shared.row, shared.col, overlap, p[which], q[place][which])


def enriched_sets(
    lists: GeneLists, sets: BackgroundSets, tests: OverlapTests, symbols: np.ndarray, settings: AnnotateSettings
) -> pd.DataFrame:
    """The pairs that are called, a feature's best set first, with the shared genes and what is redundant.

    Columns: those of the table `terms`, without the layer.
    """
    hit = np.flatnonzero(tests.called(settings))
    row, column, overlap = tests.list[hit], tests.set[hit], tests.overlap[hit]
    n_list, n_term = lists.sizes[row], sets.names["n_term"].to_numpy(dtype=np.int64)[column]
    n_background = lists.genes.shape[1]
    found = pd.DataFrame(
        {
            "feature": lists.features[row],
            "collection": sets.names["collection"].to_numpy(dtype=object)[column],
            "term": sets.names["term"].to_numpy(dtype=object)[column],
            "n_overlap": overlap,
            "n_list": n_list,
            "n_term": n_term,
            "n_background": n_background,
            "odds_ratio": odds_ratio(overlap, n_list, n_term, n_background),
            "p_value": tests.p[hit],
            "q_value": tests.q[hit],
        }
    )
    shared = _shared_genes(lists, sets, row, column)
    found["genes"] = [";".join(sorted(symbols[genes])) for genes in shared]
    found = best_first(found)
    return found.assign(redundant_with=redundant_terms(found, settings.redundant_share))


def best_first(terms: pd.DataFrame) -> pd.DataFrame:
    """Terms of every feature in the order of the label rule: smallest q, larger odds ratio, name, collection."""
    return terms.sort_values(["feature", *BEST_FIRST], ascending=[True, *BEST_FIRST.values()], ignore_index=True)


def best_terms(terms: pd.DataFrame) -> pd.DataFrame:
    """The term that names each feature, indexed by feature; `terms` are best first."""
    return terms.drop_duplicates("feature").set_index("feature")


def _shared_genes(lists: GeneLists, sets: BackgroundSets, row: np.ndarray, column: np.ndarray) -> list[np.ndarray]:
    """Background genes shared by list `row[i]` and set `column[i]`."""
    n_sets = sets.members.shape[1]
    start, size = lists.genes.indptr[row].astype(np.int64), lists.sizes[row]
    pair = np.repeat(np.arange(len(row)), size)
    offset = np.arange(len(pair)) - np.repeat(np.cumsum(size) - size, size)
    gene = lists.genes.indices[start[pair] + offset].astype(np.int64)
    member_gene, member_set = sets.members.nonzero()
    known = np.sort(member_gene.astype(np.int64) * n_sets + member_set)
    wanted = gene * n_sets + column[pair]
    place = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
    inside = known[place] == wanted if len(known) else np.zeros(len(wanted), dtype=bool)
    per_pair = np.bincount(pair[inside], minlength=len(row))
    return np.split(gene[inside], np.cumsum(per_pair)[:-1]) if len(row) else []


def redundant_terms(terms: pd.DataFrame, share: float) -> list[str]:
    """For each term the better term of the same feature that makes it redundant, or "".

    Greedy, best first: a term is redundant with the first better term, itself not redundant, that holds more than
    `share` of the genes that it shares with the feature's list.
    """
    found: list[str] = []
    feature: int | None = None
    kept: list[tuple[str, set[str]]] = []
    columns = (terms["feature"], terms["term"], terms["genes"])
    for owner, name, text in zip(*(column.tolist() for column in columns), strict=True):
        if owner != feature:
            feature = owner
            kept = []
        genes = set(text.split(";"))
        better = next((term for term, known in kept if len(genes & known) > share * len(genes)), "")
        if not better:
            kept.append((name, genes))
        found.append(better)
    return found


def annotation_scores(terms: pd.DataFrame) -> pd.Series:
    """The published score by feature: 10 collections + terms - log10(smallest q)."""
    by_feature = terms.groupby("feature")
    smallest = np.maximum(by_feature["q_value"].min(), PUBLISHED_SMALLEST_P)
    return 10 * by_feature["collection"].nunique() + by_feature.size() - np.log10(smallest)
