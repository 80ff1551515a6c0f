"""Do two models agree? Pairs of gene programs that are connected in both, against a null that keeps popularity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellcircuits.tables import make_table


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
    """Mean number of shared pairs when the second run's target labels are permuted."""
    p_value: float
    """Share of permutations with at least as many shared pairs, 1 added to both counts."""
    share_same_sign: float
    """Share of the shared pairs in which both mean effects have the same sign; NaN without shared pairs."""
    expected_same_sign: float
    """The same share if signs were independent, from each run's share of negative pairs."""


def consensus(first: pd.DataFrame, second: pd.DataFrame, permutations: int, seed: int) -> Consensus:
    """Shared ordered (source label, target label) pairs of two tables of labelled edges.

    Null: the target labels of the second run's connected pairs are permuted, so every label keeps the number of pairs
    it has as a source and (but for duplicates that arise) as a target; the published null relabels all programs alike
    and so counts shared popularity as agreement. Pairs of equal labels are left out.
    """
    a, b = _pairs(first), _pairs(second)
    shared = a.merge(b, on=["source_label", "target_label"], suffixes=("_first", "_second"))
    shared["same_sign"] = np.sign(shared["mean_snr_first"]) == np.sign(shared["mean_snr_second"])
    counts = _permuted_overlaps(a, b, permutations, np.random.default_rng(seed))
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


def _permuted_overlaps(a: pd.DataFrame, b: pd.DataFrame, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Number of shared pairs under each permutation."""
    if a.empty or b.empty:
        return np.zeros(0)
    names = pd.Index(np.unique(np.concatenate([f[c] for f in (a, b) for c in ("source_label", "target_label")])))

    def code(frame: pd.DataFrame, column: str) -> np.ndarray:
        return names.get_indexer(frame[column])

    known = np.zeros(len(names) ** 2, dtype=bool)
    known[code(a, "source_label") * len(names) + code(a, "target_label")] = True
    source, target = code(b, "source_label"), code(b, "target_label")
    counts = np.empty(permutations)
    for draw in range(permutations):
        pairs = np.unique(source * len(names) + rng.permutation(target))
        # a permuted pair of equal labels is no pair, as in the data
        counts[draw] = known[pairs[pairs // len(names) != pairs % len(names)]].sum()
    return counts
