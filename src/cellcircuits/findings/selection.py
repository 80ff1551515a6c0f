"""Does it matter how sources are selected? Two runs over the same features that ablate different ones."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import nan

import numpy as np
import pandas as pd
import polars as pl
from scipy.sparse import csr_array

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.measures.ordered import ordered_mean
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import REWEIGHTED_AT_ONCE, interval, rank_classes, van_elteren
from cellcircuits.tables import empty_table, make_table

QUESTION = "selection"
ASKED = "Do effects depend on how sources are selected?"
STATISTICS = {
    "edges per source": "n_edges",
    "share negative": "share_negative",
    "mean |snr|": "mean_abs_snr",
    "share specific": "share_specific",
}
"""Statistics of one source by name, none of which reads its annotation; the last three need an edge."""
PUBLISHED = (
    "the same ratio without regard to firing rates. The published random sources were drawn from the annotated, "
    "frequent features, and their rates were not compared"
)


@dataclass(frozen=True)
class Groups:
    """One statistic of the sources of two runs."""

    value: np.ndarray
    """(source,)."""
    in_first: np.ndarray
    """bool (source,)."""
    stratum: np.ndarray
    """int64 (source,): layer and class of firing rate."""
    rate: np.ndarray
    """(source,): firing rate."""


def ask(runs: dict[str, Evidence], settings: FindingsSettings) -> Found:
    """Table `selection`; four answers for every pair of runs over the same features with different sources."""
    rng = np.random.default_rng(settings.seed)
    rows = []
    for first, second in combinations(runs, 2):
        if same_features(runs[first], runs[second]):
            rows += _compare({name: runs[name] for name in (first, second)}, settings, rng)
    if not rows:
        note = (
            "No two of the runs have the same autoencoders (equal features, firing rates and top genes) and different "
            'sources. Run a trace once more with another trace.select ("annotated", "random", "matched") in a second '
            "run folder that takes the autoencoders of the first (train.saes)."
        )
        return Found({QUESTION: empty_table(QUESTION)}, [untestable(QUESTION, ASKED, "edges per source", note)])
    table = make_table(QUESTION, pd.DataFrame(rows))
    return Found({QUESTION: table}, [_answer(row) for row in rows])


def same_features(first: Evidence, second: Evidence) -> bool:
    """Whether two runs have the same features: equally many, with the same firing rates and top genes."""
    a, b = first.features, second.features
    if len(a) != len(b):
        return False
    same = [np.array_equal(a[name].to_numpy(), b[name].to_numpy()) for name in ("layer", "feature", "top_genes")]
    return all(same) and np.allclose(a["firing_rate"], b["firing_rate"], rtol=1e-6, atol=0, equal_nan=True)


def source_statistics(run: Evidence) -> pd.DataFrame:
    """One row per ablated feature: row, n_edges, share_negative, mean_abs_snr and share_specific.

    The last three are NaN without an edge, and where the run does not have them.
    """
    rows = pl.DataFrame({"source": run.source_rows[run.source_rows >= 0]}, schema={"source": pl.Int32})
    named = {
        "share_negative": ("mean_delta", pl.col("mean_delta") < 0),
        "mean_abs_snr": ("snr", pl.col("snr").cast(pl.Float64).abs().fill_nan(None)),
        "share_specific": ("specific", pl.col("specific")),
    }
    # without controls no edge has a q of specificity, and `specific` says nothing
    judged = "specific_q" in run.edges.columns and run.edges["specific_q"].is_finite().any()
    known = [name for name, (column, _) in named.items() if column in run.edges.columns]
    known = [name for name in known if name != "share_specific" or judged]
    found = run.edges.group_by("source").agg(
        pl.len().cast(pl.Int64).alias("n_edges"), *[ordered_mean(named[name][1]).alias(name) for name in known]
    )
    table = rows.join(found, on="source", how="left").with_columns(pl.col("n_edges").fill_null(0))
    missing = [pl.lit(nan).alias(name) for name in named if name not in known]
    return table.with_columns(missing).sort("source").fill_null(nan).to_pandas().rename(columns={"source": "row"})


def compare_groups(groups: Groups, draws: int, rng: np.random.Generator) -> dict[str, float]:
    """Standardised means of both runs, their ratio with a 95 % interval, and p.

    Mean of run r: sum over strata h of w_h mean_rh / sum of w_h, with w_h = n1 n2 / (n1 + n2), so that both runs have
    the same weights; strata with sources of only one run do not count. The interval gives every source a random weight
    (Bayesian bootstrap). p is that of van Elteren's rank-sum test within the strata.
    """
    names, stratum = np.unique(groups.stratum, return_inverse=True)
    sides = groups.in_first, ~groups.in_first
    n = [np.bincount(stratum[side], minlength=len(names)) for side in sides]
    both = (n[0] > 0) & (n[1] > 0)
    weight = np.where(both, n[0] * n[1] / np.maximum(n[0] + n[1], 1), 0.0)
    compared = [int(one[both].sum()) for one in n]
    result = dict(zip(("n_compared_first", "n_compared_second"), compared, strict=True))
    if not both.any():
        return result | dict.fromkeys(("first", "second", "ratio", "low", "high", "p_value"), nan)
    picks = [
        csr_array((np.ones(side.sum()), (stratum[side], np.flatnonzero(side))), shape=(len(names), len(stratum)))[both]
        for side in sides
    ]

    def means(weights: np.ndarray) -> list[np.ndarray]:
        by_stratum = [(pick @ (weights * groups.value[:, None])) / (pick @ weights) for pick in picks]
        return [weight[both] @ one / weight[both].sum() for one in by_stratum]

    first, second = (float(one[0]) for one in means(np.ones((len(stratum), 1))))
    at_once, drawn = max(1, REWEIGHTED_AT_ONCE // max(len(stratum), 1)), []
    for start in range(0, draws, at_once):
        a, b = means(rng.standard_exponential((len(stratum), min(at_once, draws - start))))
        drawn.append(a / np.where(b > 0, b, nan))
    low, high = interval(np.concatenate(drawn))
    p = van_elteren(groups.value, groups.in_first, groups.stratum)
    ratio = first / second if second > 0 else nan
    return result | {"first": first, "second": second, "ratio": ratio, "low": low, "high": high, "p_value": p}


def _compare(pair: dict[str, Evidence], settings: FindingsSettings, rng: np.random.Generator) -> list[dict]:
    """Rows of `selection`; none if both runs have the same sources."""
    own = [source_statistics(run) for run in pair.values()]
    n_both = len(np.intersect1d(own[0]["row"], own[1]["row"]))
    alone = [one[~one["row"].isin(other["row"])] for one, other in (own, own[::-1])]
    if not len(alone[0]) or not len(alone[1]):
        return []
    table = pd.concat([part.assign(in_first=side == 0) for side, part in enumerate(alone)], ignore_index=True)
    features = next(iter(pair.values())).features.iloc[table["row"]]
    layer, rate = features["layer"].to_numpy(), features["firing_rate"].to_numpy()
    stratum = layer * settings.selection_rate_bins + rank_classes(rate, layer, settings.selection_rate_bins)
    rows = []
    for statistic, column in STATISTICS.items():
        kept = table[column].notna().to_numpy()
        value = table[column].to_numpy(np.float64)[kept]
        groups = Groups(value, table["in_first"].to_numpy()[kept], stratum[kept], rate[kept])
        rows.append(_row(pair, statistic, n_both, groups, settings.permutations, rng))
    return rows


def _row(
    pair: dict[str, Evidence], statistic: str, n_both: int, groups: Groups, draws: int, rng: np.random.Generator
) -> dict:
    result = compare_groups(groups, draws, rng)
    sides = groups.in_first, ~groups.in_first
    mean, rate = ([float(f(x[side])) if side.any() else nan for side in sides] for f, x in _summaries(groups))
    return {
        **dict(zip(("first", "second"), pair, strict=True)),
        "statistic": statistic,
        "n_first": int(sides[0].sum()),
        "n_second": int(sides[1].sum()),
        "n_both": n_both,
        "n_compared_first": result["n_compared_first"],
        "n_compared_second": result["n_compared_second"],
        "median_rate_first": rate[0],
        "median_rate_second": rate[1],
        "mean_first": mean[0],
        "mean_second": mean[1],
        "standardised_first": result["first"],
        "standardised_second": result["second"],
        "ratio": result["ratio"],
        "interval_low": result["low"],
        "interval_high": result["high"],
        "p_value": result["p_value"],
        "plain_ratio": mean[0] / mean[1] if mean[1] > 0 else nan,
    }


def _summaries(groups: Groups) -> list[tuple]:
    return [(np.mean, groups.value), (np.median, groups.rate)]


def _answer(row: dict) -> Answer:
    first, second, statistic = row["first"], row["second"], row["statistic"]
    asked = f"Do the sources of {first} differ from those of {second} in {statistic}, at equal firing rates?"
    words = f"{statistic}: ratio of the means at equal layers and firing rates"
    if not np.isfinite(row["ratio"]):
        note = (
            f"No layer and class of firing rate has sources of both runs with this statistic that differ from 0 "
            f"({row['n_first']:,} and {row['n_second']:,} sources). Trace more sources, or lower selection_rate_bins."
        )
        return untestable(QUESTION, asked, words, note)
    return Answer(
        QUESTION,
        asked,
        words,
        value=row["ratio"],
        baseline=1.0,
        baseline_is="sources of either run alike within their layer and class of firing rate",
        low=row["interval_low"],
        high=row["interval_high"],
        p_value=row["p_value"],
        published=row["plain_ratio"],
        published_is=PUBLISHED,
        unit="ratio",
        note=f"{row['standardised_first']:.3g} against {row['standardised_second']:.3g}, from "
        f"{row['n_compared_first']:,} and {row['n_compared_second']:,} sources; {row['n_both']:,} sources of both runs "
        f"are left out.",
    )
