"""Strengths of two runs on the same share of their tested pairs: against loops, under the null, planted."""

from __future__ import annotations

from math import exp, isnan, log

import numpy as np
import polars as pl
import pytest

from cellcircuits.evidence import Evidence
from cellcircuits.findings.input_size import (
    Strengths,
    ask,
    common_pairs,
    drawn_means,
    published_ratio,
    strengths,
    strongest,
)
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import bootstrap_p
from tests.made_up_evidence import made_up_evidence

FEW = FindingsSettings(permutations=40)


def scaled(run: Evidence, factor: float) -> Evidence:
    columns = {name: pl.col(name) * factor for name in ("snr", "relative_effect")}
    return Evidence(run.edges.with_columns(**columns), run.features, run.tables)


def random_strengths(rng: np.random.Generator, n_sources: int = 25, tested: float = 100) -> Strengths:
    """Edges with strengths that differ between sources, as do the numbers of edges."""
    source = np.repeat(np.arange(n_sources), rng.integers(5, 25, n_sources)).astype(np.int32)
    values = rng.normal(size=len(source)) + rng.normal(0, 0.5, n_sources)[source]
    return Strengths(values.astype(np.float32), source, np.full(n_sources, tested))


def test_tables_equal_loops():
    runs = {"a": made_up_evidence(0), "b": made_up_evidence(1, n_features=40, sources_per_layer=6)}
    found = ask(runs, FEW)
    tested = {name: run.table("tested")["n_tested"].sum() for name, run in runs.items()}
    assert tested == {"a": 3600, "b": 1440}
    for measure, column in (("snr", "snr"), ("relative effect", "relative_effect")):
        values = {
            name: sorted((abs(e[column]) for e in run.edges.to_dicts() if e[column] == e[column]), reverse=True)
            for name, run in runs.items()
        }
        share = 0.5 * min(len(values[name]) / tested[name] for name in runs)
        row = found.tables["input_size"].set_index("measure").loc[measure]
        assert row["share_of_tested"] == pytest.approx(share)
        mean = {}
        for name in runs:
            kept = values[name][: round(share * tested[name])]
            mean[name] = exp(sum(log(value) for value in kept) / len(kept))
        assert row["mean_first"] == pytest.approx(mean["a"], rel=1e-4)
        assert row["ratio"] == pytest.approx(mean["a"] / mean["b"], rel=1e-4)
        assert row["interval_low"] < row["ratio"] < row["interval_high"]
        lists = {}
        for name, run in runs.items():
            groups = {}
            for e in run.edges.to_dicts():
                if e[column] == e[column]:
                    groups.setdefault((e["source"], e["target_layer"]), []).append(abs(e[column]))
            lists[name] = np.mean([v for one in groups.values() for v in sorted(one, reverse=True)[:50]])
        assert row["published_ratio"] == pytest.approx(lists["a"] / lists["b"], rel=1e-5)
        line = found.tables["input_size_curve"].query("run == 'b' and measure == @measure")
        for share_reached, value in zip(line["share_of_tested"], line["value"], strict=True):
            assert value == pytest.approx(values["b"][round(share_reached * 1440) - 1], rel=1e-4)
        assert line["share_of_tested"].max() == pytest.approx(len(values["b"]) / 1440)


def test_common_pairs_equal_loops():
    runs = {"a": made_up_evidence(0), "b": made_up_evidence(1)}
    logs, expected = {}, {}
    for name, run in runs.items():
        found = strengths(run, "snr")
        _, places = strongest(found, 0.1)
        assert len(places) == 360
        logs[name] = places, found.log[places]
        label = run.features["label"].to_numpy()
        for place in places:
            edge = run.edges.row(int(place), named=True)
            pair = label[edge["source"]], label[edge["target"]]
            if all(pair) and pair[0] != pair[1]:
                expected.setdefault(pair, {}).setdefault(name, []).append(log(abs(edge["snr"])))
    both = [np.mean(v["a"]) - np.mean(v["b"]) for v in expected.values() if len(v) == 2]
    mine = common_pairs(runs, logs)
    assert len(mine) == len(both) > 10
    assert sorted(mine["difference"]) == pytest.approx(sorted(both), abs=1e-4)


def test_a_long_list_is_cut_at_fifty():
    run = made_up_evidence(0, n_layers=2, n_features=200, sources_per_layer=2, edges_per_source=120)
    other = scaled(run, 1.0)
    top = [sorted(abs(one["snr"]), reverse=True)[:50] for _, one in run.edges.to_pandas().groupby("source")]
    half = Evidence(run.edges.filter(pl.col("snr").abs() >= 0.3), run.features, run.tables)
    assert published_ratio({"a": run, "b": other}, "snr") == 1
    assert published_ratio({"a": run, "b": half}, "snr") == pytest.approx(1) and np.mean(top) > 1


def test_drawn_means_equal_a_loop():
    """The same weights, sorted edge by edge; classes of strength make a small difference."""
    found = random_strengths(np.random.default_rng(0))
    drawn = drawn_means(found, 0.05, 20, np.random.default_rng(3))
    weights = np.random.default_rng(3).standard_exponential((20, 25), dtype=np.float32)
    for one, mine in zip(weights, drawn, strict=True):
        wanted, weight, total = 0.05 * (one * found.tested).sum(), 0.0, 0.0
        for place in np.argsort(-found.log):
            part = min(float(one[found.source[place]]), wanted - weight)
            weight, total = weight + part, total + part * float(found.log[place])
        assert mine == pytest.approx(total / weight, abs=0.02)


def test_p_is_uniform_where_runs_are_alike():
    p = []
    for draw in range(200):
        rng = np.random.default_rng(draw)
        # the second run tests half as many pairs per source
        one, two = random_strengths(rng), random_strengths(rng)
        share = min(one.share, two.share) / 2
        drawn = drawn_means(one, share, 60, rng) - drawn_means(two, share, 60, rng)
        p.append(bootstrap_p(strongest(one, share)[0] - strongest(two, share)[0], 0.0, drawn, 25, "two-sided"))
    # 10 of 200 are expected, standard deviation 3.1
    assert 1 <= np.sum(np.array(p) <= 0.05) <= 20
    assert 70 <= np.sum(np.array(p) <= 0.5) <= 130


def test_stronger_effects_are_found_and_dictionary_size_is_not():
    rng = np.random.default_rng(0)
    run = made_up_evidence(0, n_features=200, sources_per_layer=40, edges_per_source=60)
    row = ask({"a": scaled(run, 2.0), "b": run}, FEW).tables["input_size"].iloc[0]
    assert row["ratio"] == pytest.approx(2, rel=1e-3) and row["p_value"] < 0.001 and row["interval_low"] > 1
    assert row["common_ratio"] == pytest.approx(2, rel=1e-3) and row["common_p_value"] < 0.01
    # half of the targets, at random: what a smaller dictionary of the same features has
    kept = rng.random(len(run.features)) < 0.5
    tested = run.table("tested").assign(n_tested=(run.table("tested")["n_tested"] / 2).astype(int))
    edges = run.edges.filter(pl.Series(kept[run.edges["target"].to_numpy()]))
    half = Evidence(edges, run.features, run.tables | {"tested": tested})
    row = ask({"a": run, "b": half}, FEW).tables["input_size"].iloc[0]
    assert row["p_value"] > 0.05 and row["ratio"] == pytest.approx(1, abs=0.2)


def test_what_is_missing_is_said():
    run = made_up_evidence(0)
    untested = Evidence(run.edges, run.features, {"sources": run.table("sources")})
    empty = Evidence(run.edges.clear(), run.features, run.tables)
    silent = scaled(run, float("nan"))
    for other in (untested, empty, silent):
        found = ask({"a": run, "b": other}, FEW)
        assert all(isnan(answer.value) and answer.note for answer in found.answers) and len(found.answers) == 2
        if other is not silent:
            assert found.tables["input_size"]["share_of_tested"].eq(0).all()
    assert isnan(ask({"a": run}, FEW).answers[0].value)


def test_one_edge_no_labels_and_ties():
    run = made_up_evidence(0)
    one = Evidence(run.edges[:1], run.features, run.tables)
    found = ask({"a": run, "b": one}, FEW).tables["input_size"].iloc[0]
    assert found["share_of_tested"] == pytest.approx(0.5 / 3600)
    assert found["mean_second"] == pytest.approx(abs(run.edges["snr"][0]), rel=1e-5)
    bare = Evidence(run.edges, run.features.assign(label=""), run.tables)
    assert ask({"a": bare, "b": run}, FEW).tables["input_size"]["n_common_pairs"].eq(0).all()
    level = Evidence(run.edges.with_columns(snr=pl.lit(1.5)), run.features, run.tables)
    row = ask({"a": level, "b": level}, FEW).tables["input_size"].iloc[0]
    assert row["ratio"] == 1 and not row["p_value"] < 1


def test_the_same_seed_gives_the_same_tables():
    runs = {"a": made_up_evidence(0), "b": made_up_evidence(1)}
    first, second = (ask(runs, FEW).tables for _ in "ab")
    assert all(first[name].equals(second[name]) for name in first)
