"""Differently selected sources at equal firing rates: against loops, under the null, planted."""

from __future__ import annotations

from math import isnan

import numpy as np
import polars as pl
import pytest
from scipy.stats import mannwhitneyu, rankdata

from cellcircuits.evidence import Evidence
from cellcircuits.findings.selection import Groups, ask, compare_groups, same_features, source_statistics
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import permutations_within, rank_classes, reweighted_sums, van_elteren
from tests.made_up_evidence import made_up_evidence

SETTINGS = FindingsSettings(permutations=100, selection_rate_bins=3)


def part(run: Evidence, rows: np.ndarray) -> Evidence:
    """The same run with only these rows of the features as sources."""
    features = run.features.iloc[rows]
    sources = run.table("sources").merge(features[["layer", "feature"]], on=["layer", "feature"])
    edges = run.edges.filter(pl.col("source").is_in(rows.tolist()))
    return Evidence(edges, run.features, run.tables | {"sources": sources})


def two_halves(seed: int = 0, **sizes: int) -> tuple[Evidence, dict[str, Evidence]]:
    run = made_up_evidence(seed, **({"sources_per_layer": 40} | sizes))
    chosen = np.random.default_rng(seed).permutation(run.source_rows)
    return run, {"a": part(run, np.sort(chosen[:70])), "b": part(run, np.sort(chosen[50:]))}


def test_statistics_of_sources_equal_loops():
    run, _ = two_halves()
    table = source_statistics(run).set_index("row")
    assert table.index.tolist() == run.source_rows.tolist()
    for row in run.source_rows:
        edges = [e for e in run.edges.to_dicts() if e["source"] == row]
        assert table.loc[row, "n_edges"] == len(edges) == 20
        assert table.loc[row, "share_negative"] == np.mean([e["mean_delta"] < 0 for e in edges])
        assert table.loc[row, "mean_abs_snr"] == pytest.approx(np.mean([abs(e["snr"]) for e in edges]), rel=1e-5)
        assert table.loc[row, "share_specific"] == np.mean([e["specific"] for e in edges])


def test_tables_equal_loops():
    run, runs = two_halves()
    table = ask(runs, SETTINGS).tables["selection"].set_index("statistic")
    sources = {name: set(one.source_rows.tolist()) for name, one in runs.items()}
    alone = sorted(sources["a"] - sources["b"]), sorted(sources["b"] - sources["a"])
    assert len(sources["a"] & sources["b"]) == 20
    rate, layer = run.features["firing_rate"], run.features["layer"]
    strata: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
    for here in (0, 1, 2):
        members = sorted((row for side in alone for row in side if layer[row] == here), key=lambda row: rate[row])
        for place, row in enumerate(members):
            stratum = strata.setdefault((here, int(3 * (place + 0.5) / len(members))), ([], []))
            stratum[row in alone[1]].append(row)
    statistics = source_statistics(run).set_index("row")
    for name, column in (
        ("edges per source", "n_edges"),
        ("mean |snr|", "mean_abs_snr"),
        ("share negative", "share_negative"),
    ):
        top, bottom = [0.0, 0.0], 0.0
        for members in strata.values():
            n = [len(side) for side in members]
            weight = n[0] * n[1] / sum(n)
            bottom += weight
            for side in (0, 1):
                if weight:
                    top[side] += weight * np.mean([statistics.loc[row, column] for row in members[side]])
        row = table.loc[name]
        assert row["standardised_first"] == pytest.approx(top[0] / bottom)
        assert row["ratio"] == pytest.approx(top[0] / top[1])
        assert row["mean_first"] == pytest.approx(statistics.loc[alone[0], column].mean())
        assert row["plain_ratio"] == pytest.approx(row["mean_first"] / row["mean_second"])
        assert (row["n_first"], row["n_second"], row["n_both"]) == (50, 50, 20)
        assert row["median_rate_first"] == np.median(rate[alone[0]])


def test_one_stratum_is_the_rank_sum_test():
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=60), 1)
    first = np.arange(60) < 25
    expected = mannwhitneyu(values[first], values[~first], method="asymptotic", use_continuity=False).pvalue
    assert van_elteren(values, first, np.zeros(60, dtype=int)) == pytest.approx(expected)


def test_van_elteren_equals_a_loop_and_its_permutations():
    rng = np.random.default_rng(1)
    values, first, strata = np.round(rng.normal(size=40), 1), rng.random(40) < 0.5, rng.integers(4, size=40)

    def statistic(first: np.ndarray) -> float:
        total = 0.0
        for stratum in range(4):
            inside = strata == stratum
            n, n_first = inside.sum(), (inside & first).sum()
            ranks = rankdata(values[inside])
            total += (ranks[first[inside]].sum() - n_first * (n + 1) / 2) / (n + 1)
        return total

    drawn = np.array([statistic(first[order]) for order in permutations_within(strata, 800, rng)])
    share = (np.abs(drawn) >= abs(statistic(first)) - 1e-12).mean()
    assert van_elteren(values, first, strata) == pytest.approx(share, abs=0.06)


def test_classes_of_ranks():
    values = np.array([5.0, 1.0, 3.0, 7.0, 7.0, 7.0, 2.0])
    group = np.array([0, 0, 0, 1, 1, 1, 2])
    assert rank_classes(values, group, 3).tolist() == [2, 0, 1, 1, 1, 1, 1]
    assert rank_classes(values[:0], group[:0], 3).tolist() == []


def test_permutations_stay_within_their_strata():
    strata, rng = np.array([3, 0, 3, 0, 3, 9]), np.random.default_rng(0)
    drawn = [tuple(order.tolist()) for order in permutations_within(strata, 600, rng)]
    assert all(sorted(order) == [0, 1, 2, 3, 4, 5] for order in drawn)
    assert all((strata[list(order)] == strata).all() for order in drawn)
    # 3! x 2! permutations, 50 of each expected, standard deviation 6.8
    assert len(set(drawn)) == 12 and all(23 < drawn.count(order) < 77 for order in set(drawn))


def test_weights_make_the_variance_of_the_mean():
    """Clusters reweighted: the variance of a mean of independent cluster means."""
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(50), 4)
    values = rng.normal(size=50)[cluster] + 0.2 * rng.normal(size=200)
    sums = reweighted_sums(np.column_stack([np.ones(200), values]), cluster, draws=4000, rng=rng)
    means = values.reshape(50, 4).mean(axis=1)
    assert (sums[:, 1] / sums[:, 0]).std() == pytest.approx(means.std() / np.sqrt(51), rel=0.06)


def test_p_is_uniform_although_firing_rates_differ():
    """The value depends on the firing rate alone, and the first run has sources of higher rates."""
    p, covered = [], 0
    for draw in range(300):
        rng = np.random.default_rng(draw)
        stratum = rng.integers(5, size=120)
        first = rng.random(120) < 0.15 + 0.15 * stratum
        groups = Groups(3 + stratum + rng.normal(size=120), first, stratum, np.ones(120))
        found = compare_groups(groups, 60, rng)
        p.append(found["p_value"])
        covered += found["low"] <= 1 <= found["high"]
    # 15 of 300 are expected, standard deviation 3.8
    assert 3 <= np.sum(np.array(p) <= 0.05) <= 28
    assert 115 <= np.sum(np.array(p) <= 0.5) <= 185
    assert covered >= 265


def test_a_real_difference_is_found_and_one_of_firing_rates_is_not():
    run, _ = two_halves(n_features=100, sources_per_layer=80)
    rate = run.features["firing_rate"].to_numpy()[run.source_rows]
    rng = np.random.default_rng(0)
    frequent = rng.random(len(rate)) < np.where(rate > np.median(rate), 0.8, 0.2)
    # edges in proportion to the rank of the firing rate
    keep = (np.argsort(np.argsort(rate)) + 1) / len(rate)
    share = dict(zip(run.source_rows.tolist(), keep, strict=True))
    edges = run.edges.filter(pl.Series([rng.random() < share[s] for s in run.edges["source"].to_list()]))
    thinned = Evidence(edges, run.features, run.tables)
    runs = {"frequent": part(thinned, run.source_rows[frequent]), "rare": part(thinned, run.source_rows[~frequent])}
    settings = FindingsSettings(permutations=100, selection_rate_bins=10)
    row = ask(runs, settings).tables["selection"].iloc[0]
    assert row["plain_ratio"] > 1.3 and row["ratio"] == pytest.approx(1, abs=0.15) and row["p_value"] > 0.05
    fewer = runs["rare"].edges.filter(pl.Series(rng.random(runs["rare"].edges.height) < 0.5))
    runs["rare"] = Evidence(fewer, run.features, runs["rare"].tables)
    found = ask(runs, settings)
    row = found.tables["selection"].iloc[0]
    assert row["p_value"] < 1e-6 and row["interval_low"] > 1.3
    assert found.answers[0].published == row["plain_ratio"]


def test_the_same_features_are_recognised():
    run, runs = two_halves()
    assert same_features(runs["a"], runs["b"])
    for other in (
        run.features.assign(firing_rate=run.features["firing_rate"] * 1.01),
        run.features.assign(top_genes="A;B"),
        run.features.iloc[:-1],
    ):
        assert not same_features(run, Evidence(run.edges, other, run.tables))


def test_what_is_missing_is_said():
    run, runs = two_halves()
    for asked in ({}, {"a": run}, {"a": run, "b": made_up_evidence(5)}, {"a": run, "b": run}):
        found = ask(asked, SETTINGS)
        assert found.tables["selection"].empty and len(found.answers) == 1
        assert isnan(found.answers[0].value) and "trace.select" in found.answers[0].note
    runs["b"] = Evidence(runs["b"].edges.clear(), run.features, runs["b"].tables)
    answers = ask(runs, SETTINGS).answers
    assert all(isnan(answer.value) and answer.note for answer in answers)


def test_runs_without_controls_and_effects_that_are_no_numbers():
    _, runs = two_halves()
    bare = {
        name: Evidence(one.edges.drop("specific", "specific_q"), one.features, one.tables) for name, one in runs.items()
    }
    table = ask(bare, SETTINGS).tables["selection"].set_index("statistic")
    assert table.loc["share specific", "n_first"] == 0 and isnan(table.loc["share specific", "ratio"])
    noise = {
        name: Evidence(one.edges.with_columns(snr=pl.lit(float("nan"))), one.features, one.tables)
        for name, one in runs.items()
    }
    table = ask(noise, SETTINGS).tables["selection"].set_index("statistic")
    assert table.loc["mean |snr|", "n_first"] == 0 and table.loc["edges per source", "n_first"] == 50


def test_equal_values_have_no_p():
    groups = Groups(np.ones(10), np.arange(10) < 5, np.zeros(10, dtype=int), np.ones(10))
    found = compare_groups(groups, 20, np.random.default_rng(0))
    assert found["ratio"] == 1 and isnan(found["p_value"])


def test_the_same_seed_gives_the_same_table():
    _, runs = two_halves()
    assert ask(runs, SETTINGS).tables["selection"].equals(ask(runs, SETTINGS).tables["selection"])
