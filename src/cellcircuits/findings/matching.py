"""Do runs agree on which feature acts on which, when features are matched by their genes rather than by labels?"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import nan

import numpy as np
import pandas as pd
from scipy.special import gammaln

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.measures.feature_matching import Matches, depth_groups, loadings, mutual_best
from cellcircuits.measures.matched_edges import MatchedEdges, matched_edges, permuted_shares, rate_strata
from cellcircuits.measures.paired_effects import rank_correlation, sign_agreement
from cellcircuits.measures.program_overlap import share_interval
from cellcircuits.settings import FindingsSettings
from cellcircuits.tables import empty_table, make_table

QUESTION = "matching"
STATISTIC = "share of the first run's edges between matched features whose partners are an edge of the second"
FEWEST_ARRANGEMENTS = 20
"""With fewer ways to permute no p could be below 0.05."""
PERMUTED = "partners permuted among the second run's matched features of the same layer and class of firing rate"
CEILING_MISSING = (
    "Not measured: how much reseeded autoencoders of one model agree. Train and trace a second run with another "
    "train.seed, and name both as the ceiling."
)


def ask(runs: dict[str, Evidence], settings: FindingsSettings, ceiling: tuple[str, str] | None = None) -> Found:
    """Tables `matching` and `matched_features`; four answers per pair of runs.

    `ceiling` names two of the runs that are the same model with autoencoders of different train.seed.
    """
    asked = "Do matched features of the runs act on matched features?"
    if len(runs) < 2:
        return Found(
            {}, [untestable(QUESTION, asked, STATISTIC, "Matching needs two runs or more. Name a second run.")]
        )
    rng = np.random.default_rng(settings.seed)
    rows, features, answers = [], [], []
    for first, second in combinations(runs, 2):
        a, b = runs[first], runs[second]
        sources, targets, n_genes = match(a, b, settings)
        names = {"first": first, "second": second, "is_ceiling": {first, second} == set(ceiling or ())}
        features += [_features(names, role, a, b, m) for role, m in (("source", sources), ("target", targets))]
        edges = matched_edges(a, b, sources, targets)
        shared = {"n_genes": n_genes, "median_cosine": float(np.median(targets.cosine)) if len(targets) else nan}
        there = _compare(edges, a, b, sources, targets, settings, rng)
        back = _compare(edges.swapped(), b, a, sources.swapped(), targets.swapped(), settings, rng)
        rows += [names | shared | there, names | {"first": second, "second": first} | shared | back]
        answers += _answers(rows[-2], rows[-1])
    tables = {
        QUESTION: make_table(QUESTION, pd.DataFrame(rows)),
        "matched_features": pd.concat(features, ignore_index=True) if features else empty_table("matched_features"),
    }
    return Found(tables, [*answers, *_ceiling_answers(tables[QUESTION], runs, ceiling)])


def match(first: Evidence, second: Evidence, settings: FindingsSettings) -> tuple[Matches, Matches, int]:
    """(matches of ablated features, matches of all features, genes by which they are compared).

    Only ablated features can be sources, so these are matched among each other; targets among all features. Both
    within the same part of the model's depth.
    """
    a, b, n_genes = loadings(first, second)
    groups = depth_groups(first, second, settings.match_depth_bins)
    ablated = first.source_rows[first.source_rows >= 0], second.source_rows[second.source_rows >= 0]
    every = np.arange(len(first.features)), np.arange(len(second.features))
    least = settings.match_min_cosine
    return mutual_best(a, b, groups, ablated, least), mutual_best(a, b, groups, every, least), n_genes


def _compare(
    edges: MatchedEdges,
    first: Evidence,
    second: Evidence,
    sources: Matches,
    targets: Matches,
    settings: FindingsSettings,
    rng: np.random.Generator,
) -> dict:
    """Row of `matching`: are the edges of `first` found in `second`?"""
    draws = settings.permutations
    in_first, in_second = edges.found()
    source, target = edges.first // edges.n_targets, edges.first % edges.n_targets
    low, high = share_interval(
        np.bincount(source[in_first], minlength=len(sources)), np.bincount(source, minlength=len(sources)), draws, rng
    )
    strata = [rate_strata(second, m.second, settings.match_rate_bins) for m in (sources, targets)]
    both, popularity = (permuted_shares(edges, strata[0], strata[1], alone, draws, rng) for alone in (False, True))
    arrangements = count_arrangements(strata[0])
    ends = source[in_first], target[in_first]
    snr = edges.snr_first[in_first], edges.snr_second[in_second]
    signs = sign_agreement(*snr, *ends, draws, rng)
    correlation = rank_correlation(*snr, *ends, draws, rng)
    listed = np.unique(first.table("feature_genes")[["layer", "feature"]].to_numpy(), axis=0)
    return {
        "n_sources": len(sources),
        "n_targets": len(targets),
        "share_sources": len(sources) / max(len(first.source_rows), 1),
        "share_targets": len(targets) / max(len(listed), 1),
        "n_edges": len(edges.first),
        "n_found": len(in_first),
        "share_found": len(in_first) / len(edges.first) if len(edges.first) else nan,
        "chance_share": both.mean,
        "p_value": both.p_value,
        "popularity_share": popularity.mean,
        "popularity_p_value": popularity.p_value if arrangements >= FEWEST_ARRANGEMENTS else nan,
        "n_arrangements": arrangements,
        "interval_low": low,
        "interval_high": high,
        "share_same_sign": signs.value,
        "expected_same_sign": signs.expected,
        "sign_low": signs.low,
        "sign_high": signs.high,
        "sign_p_value": signs.p_value,
        "snr_correlation": correlation.value,
        "correlation_low": correlation.low,
        "correlation_high": correlation.high,
        "correlation_p_value": correlation.p_value,
    }


def count_arrangements(strata: np.ndarray) -> float:
    """Permutations within these strata: product of the factorials of their sizes, 1e300 at most."""
    logarithm = gammaln(1.0 + np.unique(strata, return_counts=True)[1]).sum()
    return float(np.exp(min(logarithm, 300 * np.log(10))).round())


def _features(names: dict, role: str, first: Evidence, second: Evidence, matches: Matches) -> pd.DataFrame:
    """Rows of `matched_features`."""
    columns: dict[str, object] = {"role": role, "cosine": matches.cosine}
    for side, run, rows in (("first", first, matches.first), ("second", second, matches.second)):
        columns[side] = np.full(len(matches), names[side], dtype=object)
        for name in ("layer", "feature", "label"):
            columns[f"{name}_{side}"] = run.features[name].to_numpy()[rows]
    return make_table("matched_features", pd.DataFrame(columns))


def _answers(row: dict, back: dict) -> list[Answer]:
    first, second = row["first"], row["second"]
    asked = f"Do features of {first} act on the features whose partners in {second} do?"
    matched = (
        f"{row['n_sources']:,} ablated features ({row['share_sources']:.1%} of {first}'s) and {row['n_targets']:,} "
        f"targets ({row['share_targets']:.1%}) have a partner, by {row['n_genes']:,} genes"
    )
    if not row["n_edges"]:
        more = "Trace more sources in both runs, or lower findings.match_min_cosine."
        note = f"No edge of {first} joins features that are matched: {matched}. {more}"
        return [untestable(QUESTION, asked, STATISTIC, note)]
    share = Answer(
        QUESTION,
        asked,
        STATISTIC,
        value=row["share_found"],
        baseline=row["chance_share"],
        baseline_is=f"{PERMUTED}, of sources and of targets",
        low=row["interval_low"],
        high=row["interval_high"],
        p_value=row["p_value"],
        unit="share",
        note=f"{row['n_found']:,} of {row['n_edges']:,} edges; {matched}. The other way around "
        f"{back['share_found']:.1%}, by chance {back['chance_share']:.1%}. The published consensus uses labels only.",
    )
    asked = f"Does it matter which source of {first} it is, beyond how many edges each target has?"
    if not np.isfinite(row["popularity_p_value"]):
        few = (
            f"The matched sources can be permuted in {row['n_arrangements']:.0f} ways only. Trace more sources in both "
            "runs, or lower findings.match_rate_bins."
        )
        return [share, untestable(QUESTION, asked, STATISTIC, few), *_effect_answers(row)]
    which = replace(
        share,
        asked=asked,
        baseline=row["popularity_share"],
        baseline_is=f"{PERMUTED}, of sources only: every target keeps its number of edges",
        p_value=row["popularity_p_value"],
        note="Targets that answer to any removal make edges agree without any circuit; this baseline has them.",
    )
    return [share, which, *_effect_answers(row)]


def _effect_answers(row: dict) -> list[Answer]:
    """Signs and sizes of the effects found in both."""
    who = f"{row['first']} and {row['second']}"
    asked = f"Do the edges between matched features that {who} share have the same sign?"
    statistic = "share of the edges found in both runs whose snr has the same sign"
    if not row["n_found"]:
        return [untestable(QUESTION, asked, statistic, "No edge is found in both runs.")]
    sign = Answer(
        QUESTION,
        asked,
        statistic,
        value=row["share_same_sign"],
        baseline=row["expected_same_sign"],
        baseline_is="signs drawn independently, with each run's share of negative ones",
        low=row["sign_low"],
        high=row["sign_high"],
        p_value=row["sign_p_value"],
        claim="higher",
        unit="share",
        note=f"{row['n_found']:,} edges.",
    )
    size = Answer(
        QUESTION,
        f"Do the edges between matched features that {who} share have similar effects?",
        "Spearman correlation of snr over the edges found in both runs",
        value=row["snr_correlation"],
        baseline=0.0,
        baseline_is="effects drawn independently",
        low=row["correlation_low"],
        high=row["correlation_high"],
        p_value=row["correlation_p_value"],
        claim="higher",
        note=f"{row['n_found']:,} edges.",
    )
    return [sign, size] if np.isfinite(row["snr_correlation"]) else [sign]


def _ceiling_answers(table: pd.DataFrame, runs: dict[str, Evidence], ceiling: tuple[str, str] | None) -> list[Answer]:
    """The share of edges found again between reseeded autoencoders: what any two runs can reach at most."""
    asked = "How much do reseeded autoencoders of one model agree?"
    if ceiling is None:
        return [untestable(QUESTION, asked, STATISTIC, CEILING_MISSING)]
    rows = table[table["is_ceiling"]]
    if rows.empty or not rows["n_edges"].iloc[0]:
        note = f"{' and '.join(ceiling)} are no two of the runs {', '.join(runs)}, or share no matched edges."
        return [untestable(QUESTION, asked, STATISTIC, note)]
    row = rows.iloc[0]
    return [
        Answer(
            QUESTION,
            asked,
            STATISTIC,
            value=row["share_found"],
            baseline=row["chance_share"],
            baseline_is=f"{PERMUTED}, of sources and of targets",
            low=row["interval_low"],
            high=row["interval_high"],
            unit="share",
            note=f"The ceiling: {' and '.join(ceiling)} differ in the seed of their autoencoders only.",
        )
    ]
