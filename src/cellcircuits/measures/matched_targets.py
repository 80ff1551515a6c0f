"""Are the targets of an edge more like its source than chance? Every pair of features has a value; two kinds of chance.

Edges join a source s to a target t. A value v(s, t) says how alike they are; pairs that are excluded count nowhere.
The statistic is the mean value over the edges,

    mean = sum of v over edges / number of edges that are not excluded.

matched      What the targets mean is exchanged among features of their stratum (same layer, like covariates); which
             source reaches which target stays. Edges that share a source or a target stay together, so p needs no
             independent edges. With A[t, u] = sum over sources s of t of v(s, u), one draw is the sum of A[t, pi(t)]:
             draws cost targets, not edges. The expected value of numerator and denominator are exact: each is the sum
             over edges of the mean of v(s, u) over the stratum of the target.
non-edges    The mean of v(s, u) over all features u of the target layer that s does not reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

COLUMNS_AT_ONCE = 512
LOOKUPS_AT_ONCE = 2_000_000
Values = dict[str, tuple[sparse.csr_array, sparse.csr_array | None]]
"""{measure: (values, excluded pairs)}, each sparse (source, feature); None where no pair is excluded."""
Measure = Callable[[np.ndarray, np.ndarray], Values]
"""Values of every pair of these sources and these features, given by their rows. No excluded pair has a value."""
SUMS = ("value", "n", "matched_value", "matched_n", "other_value", "other_n")


@dataclass(frozen=True)
class MatchedTargets:
    """Sums by source and target layer, and the statistic in every draw."""

    sums: pd.DataFrame
    """measure, source (row of features), target_layer, and SUMS: value and number of pairs over the edges; expected
    by exchange within strata; and over the features of the layer that the source does not reach."""
    draws: dict[str, np.ndarray]
    """{measure: (draw,)}: the mean value over the edges when targets are exchanged."""

    def mean(self, measure: str, over: str = "") -> float:
        """The mean over edges (""), expected by exchange ("matched_"), or over non-edges ("other_"); NaN without any.

        Non-edges weigh as the edges do: every source and layer by its number of edges.
        """
        chosen = self.sums[self.sums["measure"] == measure]
        value, n, weight = (chosen[name].to_numpy() for name in (f"{over}value", f"{over}n", "n"))
        if over == "other_":
            known = (n > 0) & (weight > 0)
            value, n = value[known] / n[known] * weight[known], weight[known]
        return float(value.sum() / n.sum()) if n.sum() > 0 else float("nan")


def matched_targets(
    source: np.ndarray,
    target: np.ndarray,
    layer: np.ndarray,
    stratum: np.ndarray,
    measure: Measure,
    draws: int,
    seed: int,
) -> MatchedTargets:
    """Compare the edges (source, target) with both kinds of chance.

    Parameters
    ----------
    source, target
        int (edge,): rows of the features. Every target must have a stratum.
    layer
        int (feature,).
    stratum
        int (feature,): -1 for features that take no part; strata do not cross layers.
    measure
        The values of pairs.
    draws
        Random exchanges; 0: none.
    """
    rng = np.random.default_rng(seed)
    parts: list[pd.DataFrame] = []
    totals: dict[str, np.ndarray] = {}
    for one in np.unique(layer[target]):
        here = layer[target] == one
        sources, member = np.unique(source[here], return_inverse=True)
        found = _Layer(sources, member, target[here], np.flatnonzero((layer == one) & (stratum >= 0)), stratum)
        for name, sums in found.compare(measure, draws, rng, totals).items():
            parts.append(pd.DataFrame({"measure": name, "source": sources, "target_layer": one} | sums))
    names = ["measure", "source", "target_layer", *SUMS]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)
    with np.errstate(invalid="ignore"):
        means = {name: total[0] / np.where(total[1] > 0, total[1], np.nan) for name, total in totals.items()}
    return MatchedTargets(table[names], means)


class _Layer:
    """The edges into one layer."""

    def __init__(
        self, sources: np.ndarray, member: np.ndarray, target: np.ndarray, pool: np.ndarray, stratum: np.ndarray
    ) -> None:
        self.sources, self.pool = sources, pool
        self.of = {one: np.flatnonzero(stratum[pool] == one) for one in np.unique(stratum[pool])}
        shape = len(pool), len(sources)
        ones = np.ones(len(target))
        self.edges = sparse.csr_array((ones, (np.searchsorted(pool, target), member)), shape=shape)
        """(target, source): 1 for an edge."""

    def compare(
        self, measure: Measure, draws: int, rng: np.random.Generator, totals: dict[str, np.ndarray]
    ) -> dict[str, dict[str, np.ndarray]]:
        """{measure: {name of SUMS: (source,)}}; the draws are added to `totals` {measure: (value and n, draw)}."""
        sums: dict[str, dict[str, np.ndarray]] = {}
        for rows in self.of.values():
            edges = self.edges[rows]
            expected: dict[str, list[np.ndarray]] = {}
            for columns in _blocks(len(rows)):
                values = measure(self.sources, self.pool[rows[columns]])
                for name, (value, excluded) in values.items():
                    if name not in sums:
                        sums[name] = {key: np.zeros(len(self.sources)) for key in SUMS}
                    if excluded is None:
                        excluded = sparse.csr_array(value.shape)
                    _add(sums[name], edges, columns, value, excluded, len(rows))
                    by_target = [(edges @ value).toarray(), edges.sum(axis=1)[:, None] - (edges @ excluded).toarray()]
                    expected.setdefault(name, []).append(np.stack(by_target))
            shuffled = list(_permutations(len(rows), draws, rng))
            for name, pieces in expected.items():
                total = totals.setdefault(name, np.zeros((2, draws)))
                _add_draws(total, np.concatenate(pieces, axis=2), shuffled)
        for found in sums.values():
            found["other_value"] -= found["value"]
            found["other_n"] -= found["n"]
        return sums


def _add(
    sums: dict[str, np.ndarray],
    edges: sparse.csr_array,
    columns: np.ndarray,
    value: sparse.csr_array,
    excluded: sparse.csr_array,
    n_stratum: int,
) -> None:
    """Add the features `columns` of a stratum of `n_stratum` features to the sums by source."""
    reached, degree = edges[columns].T.tocsr(), edges.sum(axis=0)
    all_value, all_n = value.sum(axis=1), len(columns) - excluded.sum(axis=1)
    sums["value"] += reached.multiply(value).sum(axis=1)
    sums["n"] += reached.sum(axis=1) - reached.multiply(excluded).sum(axis=1)
    sums["matched_value"] += degree * all_value / n_stratum
    sums["matched_n"] += degree * all_n / n_stratum
    # those that are reached are taken away when all strata are there
    sums["other_value"] += all_value
    sums["other_n"] += all_n


def _blocks(n: int) -> Iterator[np.ndarray]:
    for start in range(0, n, COLUMNS_AT_ONCE):
        yield np.arange(start, min(start + COLUMNS_AT_ONCE, n))


def _permutations(n: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Permutations (draw, place) of `n` things, int32, in blocks."""
    block = max(1, LOOKUPS_AT_ONCE // n)
    for start in range(0, draws, block):
        things = np.tile(np.arange(n, dtype=np.int32), (min(block, draws - start), 1))
        yield rng.permuted(things, axis=1, out=things)


def _add_draws(total: np.ndarray, by_target: np.ndarray, shuffled: list[np.ndarray]) -> None:
    """Add the sums of by_target[:, t, pi(t)] of every permutation to `total` (value and n, draw)."""
    rows, start = np.arange(by_target.shape[1]), 0
    # targets that no edge reaches add nothing
    rows = rows[by_target[1].any(axis=1)]
    for block in shuffled:
        stop = start + len(block)
        for kind in (0, 1):
            total[kind, start:stop] += by_target[kind][rows, block[:, rows]].sum(axis=1)
        start = stop


def p_greater(observed: float, draws: np.ndarray) -> float:
    """(1 + draws of at least `observed`) / (1 + draws); NaN where nothing was observed."""
    if not np.isfinite(observed) or not len(draws):
        return float("nan")
    # sums in another order differ by rounding
    at_least = (draws >= observed - 1e-9 * abs(observed)).sum()
    return float((1 + at_least) / (1 + len(draws)))


def p_two_sided(observed: float, draws: np.ndarray) -> float:
    """Twice the smaller of the two one-sided p, at most 1."""
    return min(1.0, 2 * min(p_greater(observed, draws), p_greater(-observed, -draws)))
