"""Do causal edges join features that fire together? PMI between traced sources and every target, beside the edges.

Two features that like the same genes fire together for that reason alone, and edges are measured where the source is
active. So the overlap of edges with dependent pairs is compared with three sets of draws, in which each source's edges
go to other targets: any that fires; one of similar firing rate; and one that also shares about as many genes with the
source. Genes are shared as far as source s and target t would fire together if each fired independently among the
positions of every gene g:

    e(s, t) = sum over g of n_sg n_tg / n_g

With n_sg firings of s at the n_g positions of g. Targets of a source are ordered by e / n_t within each bin of rates.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.settings import StructureSettings
from cellcircuits.structure.counting import Pair, StructureSums
from cellcircuits.tables import make_table

RATE_BINS = 10
"""Bins of equal size, by firing rate, within which targets are exchanged."""
GENE_BINS = 10
"""Most bins of equal size, by shared genes with the source, into which each of those is cut."""
MIN_STRATUM = 8
"""Fewest targets of such a bin on average; below twice as many targets per bin of rates, there is one."""
SOURCES_PER_BLOCK = 256
"""Sources whose strata are held in memory together."""


def source_dependencies(pair: Pair, sources: np.ndarray, sums: StructureSums) -> pd.DataFrame:
    """Table dependencies of the sources (features) of a layer and all targets of a layer above."""
    together = sums.with_sources[pair]
    row, target = np.nonzero(together)
    n = together[row, target]
    expected = sums.firings[pair[0]][sources[row]] * (sums.firings[pair[1]][target] / sums.n_positions)
    columns = {
        "source_feature": sources[row],
        "target_feature": target,
        "n_together": n,
        "n_expected": expected,
        "pmi": np.log2(n / expected),
    }
    table = pd.DataFrame(columns).assign(source_layer=pair[0], target_layer=pair[1])
    return make_table("dependencies", table)


def dependency_overlap(
    pair: Pair,
    sources: np.ndarray,
    dependencies: pd.DataFrame,
    edges: pd.DataFrame,
    sums: StructureSums,
    settings: StructureSettings,
) -> dict:
    """Row of the table dependency_overlap, from the tables dependencies and edges."""
    alive = sums.alive(pair[1])
    chosen = dependencies[
        (dependencies["n_together"] >= settings.min_together) & (dependencies["pmi"] >= settings.min_pmi)
    ]
    here = edges[(edges["source_layer"] == pair[0]) & (edges["target_layer"] == pair[1])]
    dependent, causal = (_matrix(frame, sources, alive) for frame in (chosen, here))
    rates = rate_bins(sums.firings[pair[1]][alive])
    anywhere = np.zeros(len(alive), dtype=np.int64)
    mean, _ = expected_overlap(dependent, causal, anywhere)
    matched, variance = expected_overlap(dependent, causal, rates)
    by_gene = np.zeros(2)
    for start in range(0, len(sources), SOURCES_PER_BLOCK):
        rows = slice(start, start + SOURCES_PER_BLOCK)
        strata = gene_strata(rates, genes_shared(pair, sources[rows], alive, sums))
        by_gene += expected_overlap(dependent[rows], causal[rows], strata)
    both = int((dependent & causal).sum())
    return {
        "source_layer": pair[0],
        "target_layer": pair[1],
        "n_sources": len(sources),
        "n_targets": len(alive),
        "n_dependent": int(dependent.sum()),
        "n_edges": int(causal.sum()),
        "n_both": both,
        "expected_both": mean,
        "expected_matched": matched,
        "z_matched": _z(both, matched, variance),
        "expected_by_gene": by_gene[0],
        "z_by_gene": _z(both, *by_gene),
    }


def _z(found: int, mean: float, variance: float) -> float:
    return (found - mean) / np.sqrt(variance) if variance > 0 else np.nan


def _matrix(frame: pd.DataFrame, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """bool (source, target): which pairs are in the table."""
    found = np.zeros((len(sources), len(targets)), dtype=bool)
    row = pd.Index(sources).get_indexer(frame["source_feature"])
    column = pd.Index(targets).get_indexer(frame["target_feature"])
    known = (row >= 0) & (column >= 0)
    found[row[known], column[known]] = True
    return found


def rate_bins(firings: np.ndarray) -> np.ndarray:
    """int64 (target,): which tenth of the targets by firings each is in; ties by index."""
    rank = np.argsort(np.argsort(firings, kind="stable"), kind="stable")
    return rank * RATE_BINS // max(len(firings), 1)


def genes_shared(pair: Pair, sources: np.ndarray, targets: np.ndarray, sums: StructureSums) -> np.ndarray:
    """Share of a target's firings that would meet the source's by shared genes alone, e / n_t, (source, target)."""
    per_token = np.maximum(sums.per_token, 1)[:, None]
    ours = sums.by_token[pair[0]][:, sources].multiply(1 / per_token).tocsr()
    expected = (ours.T @ sums.by_token[pair[1]][:, targets]).toarray()
    return expected / sums.firings[pair[1]][targets]


def gene_strata(rates: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """int64 (source, target): stratum of equal rate bin (target,) and similar shared genes (source, target).

    Within each bin of rates a source's targets are ordered by shared genes, ties by index, and cut into bins of equal
    size, as many as leave `MIN_STRATUM` targets in each but at most `GENE_BINS`.
    """
    sizes = np.bincount(rates, minlength=RATE_BINS)
    n_bins = np.clip(sizes // MIN_STRATUM, 1, GENE_BINS)
    by_rate = np.argsort(rates, kind="stable")
    start = (np.cumsum(sizes) - sizes)[rates[by_rate]]
    # the order by shared genes, then stably by rate: the place within the rate's bin follows
    order = np.argsort(shared, axis=1, kind="stable")
    order = np.take_along_axis(order, np.argsort(rates[order], axis=1, kind="stable"), axis=1)
    place = np.arange(len(rates)) - start
    bins = place * n_bins[rates[by_rate]] // np.maximum(sizes[rates[by_rate]], 1)
    strata = np.empty(shared.shape, dtype=np.int64)
    np.put_along_axis(strata, order, np.broadcast_to(GENE_BINS * rates[by_rate] + bins, shared.shape), axis=1)
    return strata


def expected_overlap(dependent: np.ndarray, causal: np.ndarray, strata: np.ndarray) -> tuple[float, float]:
    """Mean and variance of the number of shared pairs when each source's edges are dealt out anew within strata.

    Within a source and a stratum of n targets, a dependent and b causal ones share a hypergeometric number of them:
    mean a b / n, variance a b (n - a) (n - b) / (n^2 (n - 1)).

    Parameters
    ----------
    dependent, causal
        bool (source, target).
    strata
        int64 (target,), the same for all sources, or (source, target).
    """
    n_sources, n_strata = len(dependent), int(strata.max(initial=0)) + 1
    key = np.broadcast_to(strata, dependent.shape) + n_strata * np.arange(n_sources)[:, None]
    n = np.bincount(key.ravel(), minlength=n_sources * n_strata).astype(np.float64)
    a, b = (np.bincount(key[pairs], minlength=len(n)) for pairs in (dependent, causal))
    mean = np.divide(a * b, n, out=np.zeros_like(n), where=n > 0)
    spread = np.divide(mean * (n - a) * (n - b), n * (n - 1), out=np.zeros_like(n), where=n > 1)
    return float(mean.sum()), float(spread.sum())
