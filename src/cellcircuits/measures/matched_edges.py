"""Edges of two runs between features that are matched with each other, and how many coincide by chance."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from math import nan

import numpy as np

from cellcircuits.evidence import Evidence
from cellcircuits.measures.feature_matching import Matches
from cellcircuits.stats import permutations_within, rank_classes

MOST_EDGES = 100_000
"""Edges that carry the permutations; of more, this many are drawn at random."""
MOST_CELLS = 400_000_000
"""Bytes of the table in which the second run's edges are looked up; of more sources than fit, some are drawn."""


@dataclass(frozen=True)
class MatchedEdges:
    """Edges of two runs in numbers of matches, without those whose partners could not be an edge of the other run."""

    first: np.ndarray
    """int64 (edge,), sorted: source match x n_targets + target match, of the first run's edges."""
    second: np.ndarray
    """The same of the second run's edges."""
    snr_first: np.ndarray
    """(edge,): signal-to-noise ratio of the first run's edges."""
    snr_second: np.ndarray
    n_targets: int
    """Matches of targets, at least 1."""

    def swapped(self) -> MatchedEdges:
        """The same, seen from the other run."""
        return MatchedEdges(self.second, self.first, self.snr_second, self.snr_first, self.n_targets)

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """Places in `first` and in `second` of the edges of both runs."""
        _, in_first, in_second = np.intersect1d(self.first, self.second, assume_unique=True, return_indices=True)
        return in_first, in_second


@dataclass(frozen=True)
class Chance:
    """The share of edges that is found by chance."""

    mean: float
    p_value: float
    """(1 + draws with at least as many found) / (1 + draws)."""


def matched_edges(first: Evidence, second: Evidence, sources: Matches, targets: Matches) -> MatchedEdges:
    """Edges of either run whose ends are matched, as far as they could be an edge in both runs.

    A pair could be an edge if the run tested pairs of its two layers (table `tested`; without it: if the target's layer
    is above the source's).
    """
    n_targets = max(len(targets), 1)
    layers, allowed = [], []
    for run, source_rows, target_rows in (
        (first, sources.first, targets.first),
        (second, sources.second, targets.second),
    ):
        layer = run.features["layer"].to_numpy()
        layers.append((layer[source_rows], layer[target_rows]))
        allowed.append(_tested_layers(run))
    keys, snr = [], []
    for run, source_rows, target_rows in (
        (first, sources.first, targets.first),
        (second, sources.second, targets.second),
    ):
        i = _number(len(run.features), source_rows)[run.edges["source"].to_numpy()]
        j = _number(len(run.features), target_rows)[run.edges["target"].to_numpy()]
        kept = np.flatnonzero((i >= 0) & (j >= 0))
        for (source_layer, target_layer), tested in zip(layers, allowed, strict=True):
            kept = kept[tested[source_layer[i[kept]], target_layer[j[kept]]]]
        key = i[kept].astype(np.int64) * n_targets + j[kept]
        order = np.argsort(key, kind="stable")
        keys.append(key[order])
        snr.append(run.edges["snr"].to_numpy()[kept[order]].astype(np.float64))
    return MatchedEdges(keys[0], keys[1], snr[0], snr[1], n_targets)


def _number(n_features: int, rows: np.ndarray) -> np.ndarray:
    """int32 (feature + 1,): place of each feature in `rows`, -1 without one; the last is that of an unknown end."""
    number = np.full(n_features + 1, -1, dtype=np.int32)
    number[rows] = np.arange(len(rows), dtype=np.int32)
    return number


def _tested_layers(run: Evidence) -> np.ndarray:
    """bool (source layer, target layer): whether any pair was tested."""
    tested = run.table("tested")
    if tested.empty:
        return np.triu(np.ones((run.n_layers, run.n_layers), dtype=bool), 1)
    allowed = np.zeros((run.n_layers, run.n_layers), dtype=bool)
    some = tested[tested["n_tested"] > 0]
    allowed[some["source_layer"], some["target_layer"]] = True
    return allowed


def rate_strata(run: Evidence, rows: np.ndarray, n_classes: int) -> np.ndarray:
    """Stratum of each of these features: its layer and its class of firing rate among those of them of the layer."""
    layer = run.features["layer"].to_numpy()[rows]
    return layer * n_classes + rank_classes(run.features["firing_rate"].to_numpy()[rows], layer, n_classes)


def permuted_shares(
    edges: MatchedEdges,
    source_strata: np.ndarray,
    target_strata: np.ndarray,
    sources_only: bool,
    draws: int,
    rng: np.random.Generator,
) -> Chance:
    """Share of the first run's edges that are found in the second when partners are permuted within strata.

    Strata are those of the partners in the second run; they must hold the layer, so that a permuted pair could be an
    edge as well. With `sources_only` the partners of targets stay: every target keeps its number of edges.
    """
    n_targets = edges.n_targets
    if len(edges.first) == 0 or len(edges.second) == 0:
        return Chance(0.0 if len(edges.first) else nan, 1.0 if len(edges.first) else nan)
    kept = np.arange(len(source_strata))
    if len(kept) * n_targets > MOST_CELLS:
        kept = np.sort(rng.choice(kept, max(1, MOST_CELLS // n_targets), replace=False))
    number = _number(len(source_strata), kept)
    table = np.zeros((len(kept), n_targets), dtype=bool)
    row = number[edges.second // n_targets]
    table[row[row >= 0], (edges.second % n_targets)[row >= 0]] = True
    row = number[edges.first // n_targets]
    chosen = np.flatnonzero(row >= 0)
    if len(chosen) > MOST_EDGES:
        chosen = np.sort(rng.choice(chosen, MOST_EDGES, replace=False))
    row, column = row[chosen], (edges.first % n_targets)[chosen]
    observed, drawn = int(table[row, column].sum()), np.zeros(draws)
    of_sources = permutations_within(source_strata[kept], draws, rng)
    of_targets = repeat(np.arange(n_targets), draws) if sources_only else permutations_within(target_strata, draws, rng)
    for draw, (source, target) in enumerate(zip(of_sources, of_targets, strict=True)):
        drawn[draw] = table[source[row], target[column]].sum()
    return Chance(float(drawn.mean() / max(len(chosen), 1)), float((1 + (drawn >= observed).sum()) / (1 + draws)))
