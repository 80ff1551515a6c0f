"""Do two models agree? Pairs of gene programs that are connected in both, against a null that keeps popularity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellcircuits.tables import make_table

DRAWS_AT_ONCE = 200
"""Random graphs held in memory together."""
TRADES_PER_SOURCE = 20
"""Trades per source after which a graph has forgotten where it came from (measured on the smallest graphs)."""


@dataclass(frozen=True)
class Consensus:
    """Overlap of the connected pairs of labels of two runs."""

    pairs: pd.DataFrame
    """Table `consensus`: the shared ordered pairs."""
    n_first: int
    """Ordered pairs of different labels, both occurring in either run, that the first run connects."""
    n_second: int
    n_shared: int
    n_expected: float
    """Mean number of shared pairs when the second run's pairs are rewired at random."""
    p_value: float
    """Share of rewirings with at least as many shared pairs, 1 added to both counts."""
    share_same_sign: float
    """Share of the shared pairs in which both mean effects have the same sign; NaN without shared pairs."""
    expected_same_sign: float
    """The same share if signs were independent, from each run's share of negative pairs."""


def consensus(first: pd.DataFrame, second: pd.DataFrame, draws: int, seed: int) -> Consensus:
    """Shared ordered (source label, target label) pairs of two tables of labelled edges.

    Null: the second run's connected pairs are rewired at random, with every label keeping the number of pairs that it
    has as a source and as a target, each pair at most once. (Permuting target labels would make duplicates, hence fewer
    pairs and too small an overlap; the published null relabels all programs alike and so counts shared popularity as
    agreement.) Pairs of equal labels are left out.
    """
    a, b = _pairs(first), _pairs(second)
    shared = a.merge(b, on=["source_label", "target_label"], suffixes=("_first", "_second"))
    shared["same_sign"] = np.sign(shared["mean_snr_first"]) == np.sign(shared["mean_snr_second"])
    counts = _random_overlaps(a, b, draws, np.random.default_rng(seed))
    negative_a, negative_b = (a["mean_snr"] < 0).mean(), (b["mean_snr"] < 0).mean()
    shared = shared.sort_values(
        ["n_edges_first", "n_edges_second", "source_label", "target_label"], ascending=[False, False, True, True]
    )
    return Consensus(
        pairs=make_table("consensus", shared.reset_index(drop=True)),
        n_first=len(a),
        n_second=len(b),
        n_shared=len(shared),
        n_expected=float(counts.mean()) if len(counts) else 0.0,
        p_value=float((1 + (counts >= len(shared)).sum()) / (1 + len(counts))),
        share_same_sign=float(shared["same_sign"].mean()) if len(shared) else float("nan"),
        expected_same_sign=float(negative_a * negative_b + (1 - negative_a) * (1 - negative_b)),
    )


def _pairs(labelled: pd.DataFrame) -> pd.DataFrame:
    """Connected pairs of different labels: n_edges and mean_snr."""
    named = labelled[(labelled["source_label"] != "") & (labelled["target_label"] != "")]
    named = named[named["source_label"] != named["target_label"]]
    grouped = named.groupby(["source_label", "target_label"])["snr"]
    return grouped.agg(n_edges="size", mean_snr="mean").reset_index()


def _random_overlaps(a: pd.DataFrame, b: pd.DataFrame, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Number of pairs of `a` in each of `draws` random rewirings of `b`."""
    if a.empty or b.empty:
        return np.zeros(0)
    names = pd.Index(np.unique(np.concatenate([f[c] for f in (a, b) for c in ("source_label", "target_label")])))

    def connected(frame: pd.DataFrame) -> np.ndarray:
        matrix = np.zeros((len(names), len(names)), dtype=bool)
        matrix[names.get_indexer(frame["source_label"]), names.get_indexer(frame["target_label"])] = True
        return matrix

    known, graph = connected(a), connected(b)
    counts = [
        (rewired(graph, min(DRAWS_AT_ONCE, draws - start), rng) & known).sum(axis=(1, 2))
        for start in range(0, draws, DRAWS_AT_ONCE)
    ]
    return np.concatenate(counts)


def rewired(graph: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Random graphs with the out- and in-degrees of `graph` (source, target), without links of a node to itself.

    Curveball trades (Strona et al. 2014): two sources put the targets that only one of them has into a pot, and draw
    from it at random as many as they put in. All draws are traded at once, (draw, source, target).
    """
    graphs = np.repeat(graph[None], draws, axis=0)
    for _ in range(TRADES_PER_SOURCE * len(graph)):
        i, j = rng.choice(len(graph), size=2, replace=False)
        first, second = graphs[:, i], graphs[:, j]
        pot = first ^ second
        # neither of the two can be given to itself
        pot[:, [i, j]] = False
        drawn = np.where(pot, rng.random(pot.shape), np.inf).argsort(axis=1).argsort(axis=1)
        to_first = drawn < (first & pot).sum(axis=1)[:, None]
        graphs[:, i], graphs[:, j] = np.where(pot, to_first, first), np.where(pot, ~to_first, second)
    return graphs
