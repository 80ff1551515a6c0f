"""Do causal edges join features that fire together? PMI between traced sources and every target, beside the edges."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.settings import StructureSettings
from cellcircuits.structure.counting import Pair, StructureSums
from cellcircuits.tables import make_table

RATE_BINS = 10
"""Bins of equal size, by firing rate, within which targets are exchanged."""


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
    bins = np.argsort(np.argsort(sums.firings[pair[1]][alive], kind="stable")) * RATE_BINS // max(len(alive), 1)
    member = np.eye(RATE_BINS)[bins].reshape(len(alive), RATE_BINS)
    anywhere = np.ones((len(alive), 1))
    mean, _ = _expected(dependent, causal, anywhere)
    matched, variance = _expected(dependent, causal, member)
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
        "z_matched": (both - matched) / np.sqrt(variance) if variance > 0 else np.nan,
    }


def _matrix(frame: pd.DataFrame, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """bool (source, target): which pairs are in the table."""
    found = np.zeros((len(sources), len(targets)), dtype=bool)
    row = pd.Index(sources).get_indexer(frame["source_feature"])
    column = pd.Index(targets).get_indexer(frame["target_feature"])
    known = (row >= 0) & (column >= 0)
    found[row[known], column[known]] = True
    return found


def _expected(dependent: np.ndarray, causal: np.ndarray, member: np.ndarray) -> tuple[float, float]:
    """Mean and variance of the number of shared pairs when each source's edges are dealt out anew within bins.

    Within a source and a bin of n targets, a dependent and b causal ones share a hypergeometric number of them.
    """
    a, b, n = dependent @ member, causal @ member, member.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(n > 0, a * b / n, 0.0)
        variance = np.where(n > 1, mean * (n - a) * (n - b) / (n * (n - 1)), 0.0)
    return float(mean.sum()), float(variance.sum())
