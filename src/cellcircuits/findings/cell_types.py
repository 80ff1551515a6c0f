"""Are circuits stable across cell types, or other groups of cells?

Two groups share fewer edges than either has, if only because each misses some that its few cells cannot show. What they
share is therefore compared with what two groups of these sizes would share if every effect were the same in both.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.findings.coherence import FEW_SOURCES
from cellcircuits.findings.tissues import NO_GROUPS, are_folds
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import cluster_bootstrap, one_sample_t, sign_flip
from cellcircuits.tables import make_table

QUESTION = "cell_types"
ASKED = "Do groups of cells share fewer edges than groups with the same effects would?"
STATISTIC = "edges of both groups / edges of either (Jaccard), over all pairs of groups"
EXPECTED_IS = (
    "two groups of these numbers of cells with the same effects: each finds an edge with the power of its own cells"
)
ENDS = ["source_layer", "source_feature", "target_layer", "target_feature"]
SOURCE = ["source_layer", "source_feature"]


def ask(evidence: Evidence, settings: FindingsSettings) -> Found:
    """Table `cell_types` and two answers; from the tables `group_pairs` and `group_edges`."""
    pairs, edges = evidence.table("group_pairs"), evidence.table("group_edges")
    if pairs.empty:
        enough = NO_GROUPS if edges.empty else "No two groups have enough cells (edges.min_cells) for a common source."
        return Found(answers=[untestable(QUESTION, ASKED, STATISTIC, enough)])
    effects = Effects(edges)
    rows: list[dict[str, object]] = []
    for (first, second), part in pairs.groupby(["first_group", "second_group"]):
        rows.append({"first_group": first, "second_group": second} | shared_row(part, settings))
        rows[-1] |= effects.row(first, second, settings)
    table = make_table("cell_types", pd.DataFrame(rows))
    folds = " Groups are random folds: this is how far edges reproduce." if are_folds(edges) else ""
    return Found(
        {"cell_types": table}, [_jaccard_answer(pairs, edges, folds, settings), _correlation_answer(table, folds)]
    )


def jaccard(both: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Edges of both / edges of either, summed over sources; NaN without any."""
    either = first.sum() + second.sum() - both.sum()
    return float(both.sum() / either) if either > 0 else float("nan")


def shared_row(part: pd.DataFrame, settings: FindingsSettings) -> dict[str, float]:
    """Common edges of two groups, found and expected; `part` are their rows of `group_pairs`."""
    found = jaccard(*(part[name].to_numpy() for name in ("n_both", "n_first", "n_second")))
    low, high = jaccard_interval(part, settings)
    return {
        "n_sources": len(part.drop_duplicates(SOURCE)),
        "n_first": int(part["n_first"].sum()),
        "n_second": int(part["n_second"].sum()),
        "n_both": int(part["n_both"].sum()),
        "jaccard": found,
        "jaccard_low": low,
        "jaccard_high": high,
        "expected_jaccard": jaccard(
            *(part[name].to_numpy() for name in ("expected_both", "expected_first", "expected_second"))
        ),
        "p_value": p_of_shared(part),
    }


def jaccard_interval(part: pd.DataFrame, settings: FindingsSettings) -> tuple[float, float]:
    """95 % interval of the Jaccard index, resampling sources; NaN for fewer than two sources or no edge."""
    by_source = part.groupby(SOURCE)[["n_both", "n_first", "n_second"]].sum().to_numpy(dtype=float)
    by_source = by_source[by_source.any(axis=1)]
    if len(by_source) < 2:
        return float("nan"), float("nan")

    def statistic(weights: np.ndarray) -> float:
        both, first, second = weights @ by_source
        return float(both / (first + second - both))

    rng = np.random.default_rng(settings.seed)
    return cluster_bootstrap(np.arange(len(by_source)), statistic, settings.permutations, rng)


def p_of_shared(part: pd.DataFrame) -> float:
    """Two-sided p that sources have as many common edges as expected; sources are the units. NaN for fewer than two."""
    excess = part["n_both"] - part["expected_both"]
    by_source = excess.groupby([part[name] for name in SOURCE]).sum().to_numpy()
    if len(by_source) < 2:
        return float("nan")
    if len(by_source) <= FEW_SOURCES:
        return float(sign_flip(by_source))
    return float(one_sample_t(by_source.mean(), by_source.std(ddof=1), np.array(len(by_source))))


class Effects:
    """Effects of the edges of all cells in every group, in standard deviations of single cells."""

    def __init__(self, edges: pd.DataFrame) -> None:
        edges = edges[edges["is_edge_of_all"]]
        self.groups = {name: place for place, name in enumerate(sorted(edges["group"].unique()))}
        ordered = edges.sort_values([*ENDS, "group"], ignore_index=True)
        shape = -1, max(len(self.groups), 1)
        self.mean, self.sd, self.n, p = (
            ordered[name].to_numpy(dtype=float).reshape(shape)
            for name in ("mean_delta", "sd_delta", "n_cells", "difference_p")
        )
        self.tested = np.isfinite(p)
        self.source = ordered.groupby(SOURCE).ngroup().to_numpy().reshape(shape)[:, 0]

    def row(self, first: str, second: str, settings: FindingsSettings) -> dict[str, float]:
        """Correlation of the effects in two groups, its interval over sources, and what equal effects would give."""
        nothing = float("nan")
        names = ("correlation", "correlation_low", "correlation_high", "expected_correlation")
        if first not in self.groups or second not in self.groups:
            return {"n_edges": 0} | dict.fromkeys(names, nothing)
        pair = [self.groups[first], self.groups[second]]
        kept = self.tested[:, pair].all(axis=1)
        n, mean, sd = (values[kept][:, pair] for values in (self.n, self.mean, self.sd))
        pooled = np.sqrt(((n - 1) * sd**2).sum(axis=1) / (n - 1).sum(axis=1)) if len(n) else np.zeros(0)
        known = pooled > 0
        effect, n, source = mean[known] / pooled[known, None], n[known], self.source[kept][known]
        if len(effect) < 3:
            return {"n_edges": len(effect)} | dict.fromkeys(names, nothing)
        low, high = _correlation_interval(effect, source, settings)
        found = correlation(effect, np.ones(len(effect))), low, high, expected_correlation(effect, n)
        return {"n_edges": len(effect)} | dict(zip(names, found, strict=True))


def correlation(effect: np.ndarray, weights: np.ndarray) -> float:
    """Pearson correlation of the two columns of `effect` (edge, 2), each edge with a weight; NaN if one is constant."""
    centred = effect - weights @ effect / weights.sum()
    covariance = (weights[:, None] * centred).T @ centred
    spread = covariance[0, 0] * covariance[1, 1]
    return float(covariance[0, 1] / np.sqrt(spread)) if spread > 0 else float("nan")


def _correlation_interval(effect: np.ndarray, source: np.ndarray, settings: FindingsSettings) -> tuple[float, float]:
    if len(np.unique(source)) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(settings.seed)
    return cluster_bootstrap(source, lambda weights: correlation(effect, weights), settings.permutations, rng)


def expected_correlation(effect: np.ndarray, n: np.ndarray) -> float:
    """Correlation if both groups had the same true effects: noise alone makes it less than 1.

    A standardised mean of n cells has the noise 1 / n. With V the variance over edges of the mean effect of both groups
    together, less its own noise, r = V / sqrt((V + 1 / n_1) (V + 1 / n_2)), with the means of 1 / n.
    """
    together = (effect * n).sum(axis=1) / n.sum(axis=1)
    true = together.var(ddof=1) - (1 / n.sum(axis=1)).mean()
    first, second = (1 / n).mean(axis=0)
    return float(true / np.sqrt((true + first) * (true + second))) if true > 0 else 0.0


def _jaccard_answer(pairs: pd.DataFrame, edges: pd.DataFrame, folds: str, settings: FindingsSettings) -> Answer:
    whole = shared_row(pairs, settings)
    ordered = edges.sort_values([*ENDS, "group"])
    found = ordered["is_edge"].to_numpy().reshape(-1, max(edges["group"].nunique(), 1)).T
    published = [jaccard(one & other, one, other) for one, other in combinations(found, 2)]
    known = [value for value in published if np.isfinite(value)]
    n_pairs = pairs.groupby(["first_group", "second_group"]).ngroups
    return Answer(
        question=QUESTION,
        asked=ASKED,
        statistic=STATISTIC,
        value=whole["jaccard"],
        baseline=whole["expected_jaccard"],
        baseline_is=EXPECTED_IS,
        low=whole["jaccard_low"],
        high=whole["jaccard_high"],
        p_value=whole["p_value"],
        claim="lower",
        published=float(np.mean(known)) if known else float("nan"),
        published_is="mean Jaccard index over pairs of groups, with sources that could be tested in one group only",
        unit="share",
        note=f"{n_pairs:,} pairs of groups; sources are the units.{folds}",
    )


def _correlation_answer(table: pd.DataFrame, folds: str) -> Answer:
    known = table[table["correlation"].notna()]
    asked, statistic = "Are effects of the same size in groups of cells?", "median correlation of effects of two groups"
    if known.empty:
        return untestable(QUESTION, asked, statistic, "No two groups have three common edges with enough cells.")
    middle = known.iloc[(known["correlation"] - known["correlation"].median()).abs().argmin()]
    return Answer(
        question=QUESTION,
        asked=asked,
        statistic=statistic,
        value=float(known["correlation"].median()),
        baseline=float(known["expected_correlation"].median()),
        baseline_is="the same effects in both groups, with the noise of their numbers of cells",
        low=float(middle["correlation_low"]),
        high=float(middle["correlation_high"]),
        note=f"Edges of all cells. The interval is that of the middle pair of groups, resampling sources.{folds}",
    )
