"""Edges between gene programs (labels), and how many there would be if targets exchanged labels within their stratum.

Sources keep their labels and their edges; labels are permuted among the target features of a stratum (one layer, like
firing rates). So edges that reach one target move together: a target that every source reaches is one chance event,
not many. With c_t edges from program A into target t of a stratum of n labelled features, n_B of them of program B,
the number of edges A -> B is the sum of c over n_B targets drawn without replacement, with exact cumulants

    mean      n_B C / n,                                      C = sum of c
    variance  n_B (1 - n_B / n) S2,                           S2 = sum of (c - C / n)^2 / (n - 1)
    third     n_B (n - n_B) (n - 2 n_B) / ((n - 1) (n - 2)) M3,   M3 = sum of (c - C / n)^3 / n

which add up over strata. p is that of the Pearson type III distribution with these three (Mielke & Berry 2007).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import sparse
from scipy import stats as scipy_stats

from cellcircuits.evidence import Evidence
from cellcircuits.measures.feature_strata import feature_strata
from cellcircuits.settings import FindingsSettings

LOOKUPS = 400_000_000
"""Most labels looked up by all draws of one question."""


@dataclass(frozen=True)
class ProgramEdges:
    """Edges between labelled features, added up by program of the source and target feature."""

    counts: sparse.csr_array
    """float (target, program): edges, or sum of their weights, that reach each feature from sources of each program."""
    label: np.ndarray
    """int32 (feature,): program of each feature, -1 without one."""
    stratum: np.ndarray
    """int32 (feature,): stratum of each labelled feature, -1 for others."""
    names: np.ndarray
    """Names of the programs."""

    @property
    def n_programs(self) -> int:
        """Number of programs."""
        return len(self.names)

    def strata(self) -> list[np.ndarray]:
        """Features of every stratum."""
        order = np.argsort(self.stratum, kind="stable")
        order = order[self.stratum[order] >= 0]
        return np.split(order, np.flatnonzero(np.diff(self.stratum[order])) + 1) if len(order) else []

    def between(self, label: np.ndarray | None = None) -> np.ndarray:
        """Edges from each program to each, float (program, program); with other labels of the targets if given."""
        label = self.label if label is None else label
        entries = self.counts.tocoo()
        place = entries.col.astype(np.int64) * self.n_programs + label[entries.row]
        flat = np.bincount(place, weights=entries.data, minlength=self.n_programs**2)
        return flat.reshape(self.n_programs, self.n_programs)


def program_edges(
    evidence: Evidence,
    settings: FindingsSettings,
    weight: pl.Expr | None = None,
    pool: np.ndarray | None = None,
) -> ProgramEdges:
    """Edges between labelled features, in strata of layer and firing rate; each counts 1, or as `weight` says.

    `pool` is bool (feature,): labelled features that exchange labels; None: all of them. Every target must be in it.
    """
    names, label = evidence.labels
    layer, rate = (evidence.features[name].to_numpy() for name in ("layer", "firing_rate"))
    member = label >= 0 if pool is None else (label >= 0) & pool
    stratum = feature_strata(layer, member, [rate], settings.strata_bins, settings.min_stratum)
    known = (pl.col("source") >= 0) & (pl.col("target") >= 0)
    value = pl.lit(1.0) if weight is None else weight
    edges = evidence.edges.filter(known).select("source", "target", value.alias("weight"))
    source, target = edges["source"].to_numpy(), edges["target"].to_numpy()
    both = (label[source] >= 0) & (label[target] >= 0)
    entries = edges["weight"].to_numpy()[both], (target[both], label[source][both])
    counts = sparse.coo_array(entries, shape=(len(label), max(len(names), 1))).tocsr()
    return ProgramEdges(counts, label, stratum, names)


@dataclass(frozen=True)
class PairChance:
    """Cumulants of the number of edges between programs by chance, each float (program, program)."""

    mean: np.ndarray
    variance: np.ndarray
    third: np.ndarray
    covariance: np.ndarray
    """Of the edges A -> B with the edges B -> A."""


def pair_chance(edges: ProgramEdges) -> PairChance:
    """Cumulants of the number of edges of every pair when labels of targets are permuted within strata."""
    shape = edges.n_programs, edges.n_programs
    mean, variance, third, covariance = (np.zeros(shape) for _ in range(4))
    for features in edges.strata():
        n = len(features)
        rows = edges.counts[features]
        total, squares, cubes = (np.asarray(rows.power(k).sum(axis=0)) for k in (1, 2, 3))
        average = total / n
        present, n_of = np.unique(edges.label[features], return_counts=True)
        some = np.flatnonzero(total != 0) if (rows.data >= 0).all() else np.arange(edges.n_programs)
        place = np.ix_(some, present)
        mean[place] += np.outer(average[some], n_of)
        if n < 2:
            continue
        spread = (squares - n * average**2) / (n - 1)
        variance[place] += np.outer(spread[some], n_of * (1 - n_of / n))
        gram = (rows[:, present].T @ rows[:, present]).toarray()
        gram -= n * np.outer(average[present], average[present])
        covariance[np.ix_(present, present)] -= gram * np.outer(n_of, n_of) / (n * (n - 1))
        if n > 2:
            central = (cubes - 3 * average * squares + 2 * n * average**3) / n
            third[place] += np.outer(central[some], n_of * (n - n_of) * (n - 2 * n_of)) / ((n - 1) * (n - 2))
    return PairChance(mean, variance, third, covariance)


def p_at_least(observed: np.ndarray, mean: np.ndarray, variance: np.ndarray, third: np.ndarray) -> np.ndarray:
    """One-sided p of at least `observed` edges, from three cumulants; 1 where chance leaves no freedom.

    Edges are whole numbers, so the distribution begins half an edge below.
    """
    free = variance > 1e-9
    sd = np.sqrt(np.where(free, variance, 1.0))
    z = (observed - 0.5 - mean) / sd
    p = scipy_stats.pearson3.sf(z, np.where(free, third / sd**3, 0.0))
    return np.where(free, np.clip(p, 0.0, 1.0), 1.0)


def random_labels(edges: ProgramEdges, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Labels of all features, int32 (feature,), permuted within strata; fewer than `draws` where edges are many.

    Drawn are only as many as LOOKUPS allows, but at least 100 (or `draws`).
    """
    strata = edges.strata()
    allowed = LOOKUPS // max(edges.counts.nnz + edges.n_programs**2, 1)
    for _ in range(min(draws, max(100, allowed))):
        label = edges.label.copy()
        for features in strata:
            label[features] = rng.permutation(edges.label[features])
        yield label
