"""Are predicted pairs of genes in a network more often than pairs of equally detected, equally connected genes?

The source gene of a pair is kept; its target is compared with the genes of the same stratum: tenth of detection, and
fifth of the number of partners in the network within it.

* chance: of stratum b a source g predicts n_gb targets and has k_gb partners; drawn from the others of its T_gb genes,
  n_gb k_gb / T_gb of them are partners (exact mean);
* p: target genes are permuted within strata, the same permutation for all sources, so that it stays true that sources
  share their targets; p = (1 + permutations with at least as many) / (1 + permutations);
* odds ratio: Mantel-Haenszel over the 2 x 2 tables of all (source, stratum), its interval from resampling sources.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.measures.loadings import nested_bins
from cellcircuits.networks import Interactions, Network
from cellcircuits.stats import permuted_sums

DEGREE_BINS = 5
CURVE_POINTS = 30
FEWEST_SOURCES = 5
"""Source genes from which an interval is given: resampling fewer of them says nothing."""


@dataclass(frozen=True)
class GenePairs:
    """Predicted ordered pairs of different genes, best first."""

    symbols: np.ndarray
    """object (gene,): upper-case symbols, each once: all genes that could be in a pair."""
    detection: np.ndarray
    """int64 (gene,): stratum of detection."""
    source: np.ndarray
    """int64 (pair,): gene."""
    target: np.ndarray


@dataclass(frozen=True)
class Support:
    """How a network supports the pairs."""

    row: dict[str, float]
    """Columns of the table gene_pair_support, without origin and q_value."""
    curve: pd.DataFrame
    """n_best, precision, chance."""


def network_matrix(network: Network, symbols: np.ndarray) -> sp.csr_matrix:
    """bool (gene, gene): pairs of different genes in the network; regulator to target, interactions both ways."""
    rows = {symbol: row for row, symbol in enumerate(symbols)}
    ends: list[tuple[int, int]] = []
    if isinstance(network, Interactions):
        inside = [(rows[a], rows[b]) for a, b in network.pairs if a in rows and b in rows]
        ends = inside + [(b, a) for a, b in inside]
    else:
        by_regulator: dict[int, set[int]] = defaultdict(set)
        for name, genes in network.sets.terms.items():
            if (regulator := rows.get(network.regulator(name))) is not None:
                by_regulator[regulator] |= {rows[gene] for gene in genes if gene in rows}
        ends = [(regulator, gene) for regulator, genes in by_regulator.items() for gene in genes if gene != regulator]
    place = np.array(sorted(ends), dtype=np.int64).reshape(-1, 2)
    return sp.csr_matrix((np.ones(len(place), bool), (place[:, 0], place[:, 1])), (len(symbols), len(symbols)))


def in_network(matrix: sp.csr_matrix, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """bool (pair,): whether the entry of each pair is set."""
    known = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)) * matrix.shape[1] + matrix.indices
    return np.isin(source * matrix.shape[1] + target, known)


def network_support(pairs: GenePairs, network: Network, permutations: int, seed: int) -> Support:
    """Test the pairs against one network (see the module)."""
    matrix = network_matrix(network, pairs.symbols)
    partners = np.diff(matrix.indptr) > 0
    degree = np.bincount(matrix.indices, minlength=len(pairs.symbols))
    universe = np.flatnonzero(degree > 0)
    testable = partners[pairs.source] & (degree[pairs.target] > 0)
    found = in_network(matrix, pairs.source, pairs.target)
    kind = "interactions" if isinstance(network, Interactions) else "targets"
    row: dict = {"network": network.name, "kind": kind, "n_kept": len(testable), "n_testable": int(testable.sum())}
    row |= {"n_supported": int(found[testable].sum()), "published_share": found.mean() if len(found) else np.nan}
    if not testable.any():
        return Support(_untested(row), _curve(found[testable], np.zeros(0)))
    sources, source = np.unique(pairs.source[testable], return_inverse=True)
    place = np.full(len(pairs.symbols), -1)
    place[universe] = np.arange(len(universe))
    counts = _Counts.of(
        sp.csr_matrix((np.ones(len(source)), (source, place[pairs.target[testable]])), (len(sources), len(universe))),
        matrix[sources][:, universe].astype(float),
        place[sources],
        nested_bins(pairs.detection[universe], degree[universe], DEGREE_BINS),
    )
    rng = np.random.default_rng(seed)
    chance = counts.chance[source, counts.stratum[place[pairs.target[testable]]]]
    null = permuted_sums(counts.blocks(), permutations, rng)
    # sums in another order differ by rounding
    at_least = (null >= row["n_supported"] * (1 - 1e-9)).sum()
    row |= {"n_sources": len(sources), "share": found[testable].mean(), "chance_share": chance.mean()}
    row |= counts.intervals(permutations, rng) | {"p_value": (1 + at_least) / (1 + permutations)}
    return Support(row, _curve(found[testable], chance))


def _untested(row: dict) -> dict:
    names = ("share", "chance_share", "odds_ratio", "odds_ratio_low", "odds_ratio_high", "share_low", "share_high")
    return row | dict.fromkeys(names, np.nan) | {"n_sources": 0, "p_value": np.nan}


@dataclass(frozen=True)
class _Counts:
    """Predicted and true partners of the sources among the targets, by stratum."""

    predicted: sp.csr_matrix
    """float64 (source, target): 1 where predicted."""
    true: sp.csr_matrix
    """float64 (source, target): 1 where in the network."""
    own: np.ndarray
    """int64 (source,): the source itself among the targets, -1 if it is none."""
    stratum: np.ndarray
    """int64 (target,)."""
    chance: np.ndarray
    """float64 (source, stratum): share of partners among the others of the stratum."""
    tables: np.ndarray
    """float64 (4, source, stratum): predicted and true, predicted, true, others of the stratum."""

    @classmethod
    def of(cls, predicted: sp.csr_matrix, true: sp.csr_matrix, own: np.ndarray, stratum: np.ndarray) -> _Counts:
        n_strata = int(stratum.max()) + 1
        member = sp.csr_matrix((np.ones(len(stratum)), (np.arange(len(stratum)), stratum)))
        size = np.tile(np.bincount(stratum, minlength=n_strata).astype(float), (len(own), 1))
        listed = np.flatnonzero(own >= 0)
        size[listed, stratum[own[listed]]] -= 1
        parts = [(matrix @ member).toarray() for matrix in (predicted.multiply(true), predicted, true)]
        chance = np.divide(parts[2], size, out=np.zeros_like(size), where=size > 0)
        return cls(predicted, true, own, stratum, chance, np.stack([*parts, size]))

    def blocks(self):
        """For each stratum C (target, target): sources that predict the one and have the other as a partner.

        No source is its own partner, and none is predicted for itself; where a permutation brings a source to itself,
        it counts with its chance, as any other gene of the stratum.
        """
        listed = np.flatnonzero(self.own >= 0)
        itself = self.chance[listed, self.stratum[self.own[listed]]]
        true = (self.true + sp.csr_matrix((itself, (listed, self.own[listed])), self.true.shape)).tocsc()
        predicted = self.predicted.tocsc()
        for code in range(self.chance.shape[1]):
            members = np.flatnonzero(self.stratum == code)
            yield (predicted[:, members].T @ true[:, members]).toarray()

    def intervals(self, draws: int, rng: np.random.Generator) -> dict[str, float]:
        """Odds ratio, and 95 % intervals of odds ratio and share, resampling sources."""
        both, predicted, true, size = self.tables
        with np.errstate(divide="ignore", invalid="ignore"):
            agree = np.nan_to_num(both * (size - predicted - true + both) / size).sum(axis=1)
            differ = np.nan_to_num((predicted - both) * (true - both) / size).sum(axis=1)
        parts = np.stack([agree, differ, both.sum(axis=1), predicted.sum(axis=1)])
        n = len(self.own)
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=draws) @ parts.T
        total = parts.sum(axis=1)
        odds, share = _ratio(drawn[:, 0], drawn[:, 1]), _ratio(drawn[:, 2], drawn[:, 3])
        found = {"odds_ratio": float(_ratio(total[:1], total[1:2])[0])}
        for name, values in (("odds_ratio", odds), ("share", share)):
            known = values[~np.isnan(values)] if n >= FEWEST_SOURCES else values[:0]
            # no interpolation: the upper end may be infinite
            ends = np.quantile(known, [0.025, 0.975], method="inverted_cdf") if len(known) else (np.nan, np.nan)
            found |= {f"{name}_low": float(ends[0]), f"{name}_high": float(ends[1])}
        return found


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where both are 0 and no odds ratio is defined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.where(above > 0, np.inf, np.nan))


def _curve(found: np.ndarray, chance: np.ndarray) -> pd.DataFrame:
    """Precision among the first pairs, for numbers that grow by a constant factor."""
    if not len(found):
        return pd.DataFrame({"n_best": [], "precision": [], "chance": []})
    n_best = np.unique(np.geomspace(min(10, len(found)), len(found), CURVE_POINTS).round().astype(np.int64))
    sums = [np.cumsum(values, dtype=float)[n_best - 1] / n_best for values in (found, chance)]
    return pd.DataFrame({"n_best": n_best, "precision": sums[0], "chance": sums[1]})
