"""Predictions against screens: every number against loops, calibration under the null, planted truth, edge cases."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, fisher_exact, kstest, mannwhitneyu, spearmanr

from cellcircuits.answers import UNTESTABLE, Found, judge
from cellcircuits.errors import DataError, SettingsError
from cellcircuits.figures.screens import draw
from cellcircuits.findings.screens import ask
from cellcircuits.networks import Targets
from cellcircuits.references import GeneSets
from cellcircuits.screen_settings import ScreenSettings
from cellcircuits.screening.responses import Responses, positions
from cellcircuits.screening.screen_pairs import (
    as_many_pairs,
    as_pairs,
    baseline_matrices,
    direct_targets,
    matched_pairs,
    mean_of_others,
)
from cellcircuits.screening.screen_published import published_check
from cellcircuits.screening.screen_statistics import (
    Agreement,
    Measured,
    Pairs,
    agreement,
    measured_responses,
    one_sided,
    other_rows,
    target_permutations,
)
from cellcircuits.screening.screen_summary import interval, overlap_p_values, summarise
from cellcircuits.screening.screens import screen_responses
from cellcircuits.screening.synthetic_screen import SyntheticScreen, synthetic_screen
from cellcircuits.settings import FindingsSettings, read_settings, settings_from_dict, write_settings
from cellcircuits.stats import benjamini_hochberg
from cellcircuits.tables import check_table, make_table
from tests.made_up_evidence import made_up_evidence

QUICK = FindingsSettings(permutations=200)
SETTINGS = ScreenSettings("made up.h5ad", control="non-targeting", perturbation_column="gene", guide_column="guide")
EVIDENCE = made_up_evidence(n_layers=2, n_features=5, sources_per_layer=2, edges_per_source=2)


def made_up_responses(rng: np.random.Generator, n_sources: int = 8, n_genes: int = 60, **changes: object) -> Responses:
    """Responses of random numbers; perturbed genes are among the measured ones; some are not measured, some tie."""
    genes = np.array([f"G{i}" for i in range(n_genes)], dtype=object)
    sources = genes[:n_sources]
    log_fc = rng.normal(size=(n_sources, n_genes)).round(1).astype(np.float32)
    log_fc[rng.random(log_fc.shape) < 0.05] = np.nan
    log_fc[np.arange(n_sources), np.arange(n_sources)] = -3
    q = np.where(np.isfinite(log_fc), rng.random(log_fc.shape) ** 3, np.nan).astype(np.float32)
    known = {
        "screen": "made up",
        "cell_line": "K562",
        "source_gene": sources,
        "kind": "knock-down",
        "n_cells": 60,
        "n_guides": 3,
        "log_fc": -3.0,
        "p_value": 0.0,
        "status": "verified",
        "used": True,
    }
    whole = {
        "screen": "made up",
        "cell_line": "K562",
        "kind": "knock-down",
        "sources": sources,
        "genes": genes,
        "log_fc": log_fc,
        "standard_error": np.ones_like(log_fc),
        "q_value": q,
        "expression": rng.normal(size=n_genes).astype(np.float32),
        "knock_downs": make_table("knock_downs", pd.DataFrame(known)),
        "used": np.ones(n_sources, dtype=bool),
        "coexpression": rng.uniform(-1, 1, log_fc.shape).astype(np.float32),
        "published_log_fc": (rng.normal(size=log_fc.shape) * 0.6).astype(np.float32),
    }
    return Responses(**(whole | changes))


def made_up_pairs(
    rng: np.random.Generator, n_sources: int = 8, n_genes: int = 60, per_source: int = 15
) -> pd.DataFrame:
    rows = [
        (f"G{s}", f"G{t}")
        for s in range(n_sources)
        for t in rng.choice(n_genes, size=per_source, replace=False)
        if s != t
    ]
    snr = rng.normal(-0.3, 1, len(rows)).round(1)
    columns = {"n_edges": rng.integers(1, 9, len(rows)), "mean_snr": snr, "mean_abs_snr": np.abs(snr).round(1)}
    return pd.DataFrame(rows, columns=["source_gene", "target_gene"]).assign(**columns, max_abs_snr=np.abs(snr))


def prepared(seed: int, **changes: object) -> tuple[Responses, Measured, pd.DataFrame, Pairs]:
    rng = np.random.default_rng(seed)
    responses = made_up_responses(rng, **changes)
    measured = measured_responses(responses, 0.05)
    table = matched_pairs(made_up_pairs(rng), responses, measured)
    return responses, measured, table, as_pairs(table)


# ------------------------------------------------------------------------------------------------ loops


def test_pairs_are_those_of_the_table_in_order():
    rng = np.random.default_rng(0)
    responses = made_up_responses(rng, used=np.arange(8) != 3)
    pairs = made_up_pairs(rng)
    shuffled = pd.concat([pairs, pairs.iloc[:5].assign(n_edges=99)]).sample(frac=1, random_state=1)
    shuffled["source_gene"] = shuffled["source_gene"].str.lower()
    found = matched_pairs(shuffled, responses, measured_responses(responses, 0.05))
    expected = []
    for row in pairs.to_dict("records"):
        s, t = int(row["source_gene"][1:]), int(row["target_gene"][1:])
        if s != 3 and np.isfinite(responses.log_fc[s, t]):
            expected.append((s, t, row["mean_snr"], row["mean_abs_snr"]))
    assert found[["source", "target", "predicted", "score"]].to_numpy().tolist() == [list(e) for e in sorted(expected)]
    assert (found["n_edges"] == 99).sum() >= 3
    activation = matched_pairs(pairs, replace(responses, kind="activation"), measured_responses(responses, 0.05))
    assert np.array_equal(activation["predicted"], -found["predicted"])


@pytest.mark.parametrize("shift", [0, 3])
def test_agreement_equals_loops(shift):
    _, measured, _, pairs = prepared(1)
    rows = (np.arange(8) + shift) % 8
    found = agreement(pairs, measured, rows)
    for s in range(8):
        mine = np.flatnonzero(pairs.source == s)
        n = correct = guess = fell = both = overlap = 0
        scores, sizes = [], []
        inside: dict[int, list[float]] = {}
        for i in mine:
            change = measured.log_fc[rows[s], pairs.target[i]]
            if np.isnan(change):
                continue
            scores.append(pairs.score[i])
            sizes.append(abs(change))
            inside.setdefault(int(measured.gene_bin[pairs.target[i]]), []).append(abs(change))
            overlap += bool(measured.responding[rows[s], pairs.target[i]])
            if change == 0 or pairs.predicted[i] == 0:
                continue
            n += 1
            correct += (pairs.predicted[i] > 0) == (change > 0)
            guess += pairs.predicted[i] < 0
            fell += change < 0
            both += pairs.predicted[i] < 0 and change < 0
        assert [found.n[s], found.correct[s], found.predicted_down[s], found.down[s], found.correct_down[s]] == [
            n,
            correct,
            guess,
            fell,
            both,
        ]
        assert found.spearman[s] == pytest.approx(spearmanr(scores, sizes).statistic)
        wins, compared, expected = 0.0, 0, 0.0
        targets = set(pairs.target[mine])
        for code, values in inside.items():
            genes = [g for g in range(60) if measured.gene_bin[g] == code and np.isfinite(measured.log_fc[rows[s], g])]
            outside = [abs(measured.log_fc[rows[s], g]) for g in genes if g not in targets]
            wins += sum((v > o) + 0.5 * (v == o) for v in values for o in outside)
            compared += len(values) * len(outside)
            expected += len(values) * np.mean([measured.responding[rows[s], g] for g in genes])
        assert found.auroc[s] == pytest.approx(wins / compared)
        assert found.overlap[s] == overlap and found.expected[s] == pytest.approx(expected)


def test_one_bin_gives_the_tests_of_scipy():
    _, measured, _, pairs = prepared(2, expression=np.full(60, np.nan, dtype=np.float32))
    own = agreement(pairs, measured, np.arange(8))
    p = overlap_p_values(pairs, measured, own.overlap)
    assert measured.n_bins == 1
    for s in range(8):
        listed = np.isin(np.arange(60), pairs.target[pairs.source == s])
        known = np.isfinite(measured.log_fc[s])
        size = np.abs(measured.log_fc[s])
        test = mannwhitneyu(size[known & listed], size[known & ~listed], alternative="greater", use_continuity=False)
        assert own.auroc_p[s] == pytest.approx(test.pvalue, rel=1e-6)
        hit = measured.responding[s]
        table = [[(known & a & b).sum() for b in (listed, ~listed)] for a in (hit, ~hit)]
        assert p[s] == pytest.approx(fisher_exact(table, "greater").pvalue)


def test_bins_keep_expression_and_p_of_the_overlap_equals_permutations_within_them():
    rng = np.random.default_rng(3)
    responses, measured, _, pairs = prepared(3)
    assert list(np.bincount(measured.gene_bin)) == [20, 20, 20]
    order = np.argsort(responses.expression)
    assert (np.diff(measured.gene_bin[order]) >= 0).all()
    own = agreement(pairs, measured, np.arange(8))
    exact = overlap_p_values(pairs, measured, own.overlap)
    s = int(np.argmax(own.overlap))
    known = np.isfinite(measured.log_fc[s])
    listed = np.isin(np.arange(60), pairs.target[pairs.source == s])
    reached = 0
    for _ in range(4000):
        hit = measured.responding[s].copy()
        for code in range(3):
            inside = known & (measured.gene_bin == code)
            hit[inside] = rng.permutation(hit[inside])
        reached += (hit & listed).sum() >= own.overlap[s]
    assert abs(reached / 4000 - exact[s]) < 4 * np.sqrt(exact[s] * (1 - exact[s]) / 4000)


def test_permuting_targets_equals_all_permutations():
    """Three perturbed genes with 4 targets each: every permutation within each of them."""
    guess = [np.array(x, dtype=bool) for x in ([1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0])]
    fell = [np.array(x, dtype=bool) for x in ([1, 1, 0, 0], [1, 0, 1, 1], [1, 0, 0, 1])]
    correct = [float((g == f).sum()) for g, f in zip(guess, fell, strict=True)]
    sums = np.zeros(1)
    means = []
    for g, f in zip(guess, fell, strict=True):
        each = np.array([(g == np.array(order)).sum() for order in permutations(f)])
        means.append(each.mean())
        sums = (sums[:, None] + each[None, :]).ravel()
    arrays = [np.array([v.sum() for v in x], dtype=float) for x in (guess, fell)]
    none = np.zeros(3)
    own = Agreement(np.full(3, 4.0), np.array(correct), *arrays, none, none, none, none, none, none)
    expected, p = target_permutations(own, 4000, np.random.default_rng(0))
    assert np.allclose(expected, means)
    exact = (sums >= sum(correct)).mean()
    assert abs(p - exact) < 4 * np.sqrt(exact * (1 - exact) / 4000)


def test_other_rows_give_every_gene_the_responses_of_others_once():
    used = np.array([True, True, False, True, True])
    found = other_rows(used, 20, np.random.default_rng(0))
    assert len(found) == 3
    for rows in found:
        assert sorted(rows[used]) == [0, 1, 3, 4] and (rows[used] != np.flatnonzero(used)).all()
    assert len({tuple(rows) for rows in found}) == 3
    assert len(other_rows(np.ones(50, dtype=bool), 20, np.random.default_rng(0))) == 20
    assert other_rows(np.array([True, False]), 20, np.random.default_rng(0)) == []


def test_summary_equals_loops_over_perturbed_genes():
    _, measured, _, pairs = prepared(4)
    used = np.ones(8, dtype=bool)
    summary = summarise(pairs, measured, used, 200, seed=7)
    row, own = summary.row, summary.own
    p, q = own.predicted_down.sum() / own.n.sum(), own.down.sum() / own.n.sum()
    assert row["accuracy"] == own.correct.sum() / own.n.sum()
    assert row["sign_bias_accuracy"] == pytest.approx(p * q + (1 - p) * (1 - q))
    assert row["excess"] == pytest.approx(row["accuracy"] - row["sign_bias_accuracy"])
    up, down = own.n - own.down, own.down
    right_up = own.correct - own.correct_down
    balanced = (right_up.sum() / up.sum() + own.correct_down.sum() / down.sum()) / 2
    assert row["balanced_accuracy"] == pytest.approx(balanced)
    assert row["majority_accuracy"] == max(up.sum(), down.sum()) / own.n.sum()
    others = [agreement(pairs, measured, rows) for rows in other_rows(used, 20, np.random.default_rng(7))]
    by_other = [sum(o.correct[s] for o in others) / sum(o.n[s] for o in others) for s in range(8)]
    assert row["other_source_accuracy"] == pytest.approx(
        sum(a * n for a, n in zip(by_other, own.n, strict=True)) / own.n.sum()
    )
    difference = [own.correct[s] - own.n[s] * by_other[s] for s in range(8)]
    signs = [sum(d * (1 if code >> i & 1 else -1) for i, d in enumerate(difference)) for code in range(256)]
    assert row["p_accuracy"] == pytest.approx(np.mean(np.array(signs) >= sum(difference) - 1e-9), abs=1 / 256)
    assert row["spearman"] == pytest.approx(own.spearman.mean())
    assert row["other_source_auroc"] == pytest.approx(np.mean([[o.auroc[s] for o in others] for s in range(8)]))
    assert row["enrichment"] == pytest.approx(own.overlap.sum() / own.expected.sum())
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]


def test_intervals_resample_whole_perturbed_genes():
    """The sd of the bootstrapped mean of n numbers is their sd / sqrt(n), and half the 95 % interval is 1.96 of it."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    weights = rng.multinomial(400, np.full(400, 1 / 400), size=2000).astype(float)
    low, high = interval(weights, (values, np.ones(400)), lambda s, n: s / n)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert np.isnan(interval(weights[:, :4], (values[:4], np.ones(4)), lambda s, n: s / n)).all()


def test_baselines_equal_loops():
    responses, measured, _, pairs = prepared(5, used=np.arange(8) != 2)
    found = mean_of_others(measured, responses.used)
    for s, g in [(0, 5), (1, 30), (2, 30), (7, 59)]:
        others = [measured.log_fc[t, g] for t in range(8) if t not in (s, 2) and np.isfinite(measured.log_fc[t, g])]
        if np.isfinite(measured.log_fc[s, g]) or s == 2:
            assert found[s, g] == pytest.approx(np.mean(others), rel=1e-5)
    many = as_many_pairs(pairs, found, measured)
    for s in (0, 7):
        known = [g for g in range(60) if np.isfinite(measured.log_fc[s, g])]
        best = sorted(sorted(known, key=lambda g: (-abs(found[s, g]), g))[: (pairs.source == s).sum()])
        assert list(many.target[many.source == s]) == best


def test_a_gene_s_own_transcript_is_no_response():
    """Neither for itself nor where its responses stand in for those to another gene."""
    responses = made_up_responses(np.random.default_rng(8))
    measured = measured_responses(replace(responses, q_value=np.zeros_like(responses.q_value)), 0.05)
    assert np.isnan(np.diag(measured.log_fc)).all() and not np.diag(measured.responding).any()
    others = ~np.eye(8, 60, dtype=bool)
    assert np.array_equal(measured.log_fc[others], responses.log_fc[others], equal_nan=True)
    own = pd.DataFrame(
        {"source_gene": ["G1"], "target_gene": ["G1"], "n_edges": 1, "mean_snr": -1.0, "mean_abs_snr": 1.0}
    )
    assert matched_pairs(own, responses, measured).empty


def test_genes_that_are_expressed_together_are_predicted_to_fall_together():
    responses = made_up_responses(np.random.default_rng(8))
    measured = measured_responses(responses, 0.05)
    for kind, sign in (("knock-down", -1), ("knock-out", -1), ("activation", 1)):
        found = baseline_matrices(replace(responses, kind=kind), measured)
        assert np.allclose(found["co-expression"], sign * responses.coexpression)
    assert list(baseline_matrices(replace(responses, coexpression=None), measured)) == ["other perturbations"]


def test_direct_targets_are_those_of_the_network():
    responses, _, table, _ = prepared(6)
    network = Targets(
        "chip", GeneSets("chip", {"G0_K562_hg19": frozenset({"G1", "G7"}), "G0_HepG2": frozenset({"G9"})})
    )
    kinds = direct_targets(table, responses, [network])
    for kind, source, target in zip(kinds, table["source"], table["target"], strict=True):
        expected = "" if source != 0 else "direct" if target in (1, 7, 9) else "indirect"
        assert kind == expected


def test_the_published_check_equals_loops():
    responses, _, _, _ = prepared(7)
    pairs = made_up_pairs(np.random.default_rng(7))
    found = published_check(pairs, responses)
    change, hits, a, b = responses.published_log_fc, [], [], []
    for row in pairs.to_dict("records"):
        value = change[int(row["source_gene"][1:]), int(row["target_gene"][1:])]
        if abs(value) >= 0.01:
            hits.append(np.sign(value) == np.sign(row["mean_snr"]))
            a.append(abs(row["mean_snr"]))
            b.append(abs(value))
    assert found.accuracy == np.mean(hits)
    assert found.spearman == pytest.approx(spearmanr(a, b).statistic)
    odds, small = [], 0
    for s in range(8):
        listed = np.isin([f"G{g}" for g in range(60)], pairs.loc[pairs["source_gene"] == f"G{s}", "target_gene"])
        large = np.abs(change[s]) > 0.5
        test = fisher_exact([[(a & b).sum() for b in (listed, ~listed)] for a in (large, ~large)], "greater")
        odds.append(test.statistic)
        small += test.pvalue < 0.05
    assert found.median_odds_ratio == pytest.approx(np.median(odds))
    assert (found.n_enriched, found.n_tested) == (small, 8)


def test_positions_do_not_mind_case_and_repeats():
    assert list(positions(np.array(["a", "B", "z"]), np.array(["b", "A", "B"], dtype=object))) == [1, 0, -1]


# ------------------------------------------------------------------------------------------------ null and truth

STATISTICS = ("p_accuracy", "p_excess", "p_spearman", "p_auroc", "p_enrichment")


def null_rows(n_sets: int, correlated: bool) -> pd.DataFrame:
    """Rows of the table `screens` where predictions know nothing of a source's own targets.

    If `correlated`, every gene has a tendency to fall and to respond, whatever is perturbed, predictions share it, and
    perturbed genes differ in how much they move: what a real screen does.
    """
    rows = []
    for seed in range(n_sets):
        rng = np.random.default_rng(1000 + seed)
        responses = made_up_responses(rng, n_sources=9, n_genes=80)
        gene, strength = rng.normal(size=80), np.exp(rng.normal(size=(9, 1)) / 2)
        shared = (strength * (gene + rng.normal(size=(9, 80)))) if correlated else rng.normal(size=(9, 80))
        q = np.where(np.abs(shared) > 1.8, 0.01, 0.5)
        responses = replace(responses, log_fc=shared.astype(np.float32), q_value=q.astype(np.float32))
        measured = measured_responses(responses, 0.05)
        pairs = made_up_pairs(rng, 9, 80, per_source=25)
        target = pairs["target_gene"].str[1:].astype(int).to_numpy()
        if correlated:
            pairs["mean_snr"] += gene[target]
            pairs["mean_abs_snr"] = pairs["mean_snr"].abs() + np.abs(gene[target])
        table = matched_pairs(pairs, responses, measured)
        rows.append(summarise(as_pairs(table), measured, responses.used, 100, seed).row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize("name", STATISTICS)
def test_p_is_uniform_where_predictions_know_nothing(name, null_table):
    p = null_table[name]
    assert kstest(p, "uniform").pvalue > 0.005
    assert (p <= 0.05).sum() <= binom.ppf(0.999, len(p), 0.05)


@pytest.fixture(scope="module")
def null_table() -> pd.DataFrame:
    return null_rows(40, correlated=False)


def test_genes_that_always_fall_do_not_count_as_predictions():
    """Where predictions know the tendency of a target, but nothing of the source, only the naive p are small."""
    table = null_rows(20, correlated=True)
    for name in ("p_accuracy", "p_spearman", "p_auroc", "p_enrichment"):
        assert (table[name] <= 0.05).sum() <= binom.ppf(0.999, len(table), 0.05), name
    assert table["accuracy"].mean() > 0.6 and table["other_source_accuracy"].mean() > 0.6
    assert (table["p_target_permuted"] <= 0.05).mean() > 0.9


def test_p_of_signs_is_one_sided():
    assert one_sided(np.full(6, 1.0), 100, 0) == 1 / 64
    assert one_sided(np.full(6, -1.0), 100, 0) > 0.98
    assert np.isnan(one_sided(np.array([np.nan]), 100, 0))


@pytest.fixture(scope="module")
def true_screen() -> SyntheticScreen:
    return synthetic_screen(3, n_genes=150, n_sources=10, effect=1.2, cell_lines=("K562", "RPE1"))


@pytest.fixture(scope="module")
def true_responses(true_screen) -> list[Responses]:
    return screen_responses(true_screen.cells, replace(SETTINGS, cell_line_columns=["cell_line"]))


@pytest.fixture(scope="module")
def true_answers(true_screen, true_responses) -> Found:
    pairs = predictions_of(true_screen, np.random.default_rng(0), share_right=0.9)
    return ask(EVIDENCE, QUICK, responses=true_responses, pairs=pairs)


def predictions_of(screen: SyntheticScreen, rng: np.random.Generator, share_right: float) -> pd.DataFrame:
    """All true pairs and as many other ones; the sign of a true one is right with this probability."""
    effects = screen.effects
    genes = screen.cells.var_names.to_numpy()
    sources = effects["source_gene"].to_numpy()
    snr = np.sign(effects["log_fc"]) * np.where(rng.random(len(effects)) < share_right, 1, -1)
    true = effects[["source_gene", "target_gene"]].assign(mean_snr=snr * rng.uniform(1, 2, len(effects)))
    other = pd.DataFrame({"source_gene": sources, "target_gene": rng.choice(genes, len(effects))})
    both = pd.concat([true, other.assign(mean_snr=rng.normal(0, 0.5, len(effects)))], ignore_index=True)
    both = both[both["source_gene"] != both["target_gene"]].drop_duplicates(["source_gene", "target_gene"])
    return both.assign(mean_abs_snr=both["mean_snr"].abs(), max_abs_snr=both["mean_snr"].abs(), n_edges=2)


def test_a_true_network_is_found_in_both_cell_lines(true_answers):
    found = true_answers
    for name, table in found.tables.items():
        check_table(name, table)
    table = found.tables["screens"]
    circuits = table[(table["predictor"] == "circuits") & (table["pairs"] == "all")]
    assert list(circuits["cell_line"]) == ["K562", "RPE1"]
    assert (circuits["accuracy"] > 0.62).all() and (circuits["other_source_accuracy"] < 0.57).all()
    assert (circuits["auroc"] > 0.65).all() and (circuits["other_source_auroc"].between(0.45, 0.55)).all()
    assert (circuits[list(STATISTICS)] < 0.02).all(axis=None)
    responding = table[(table["predictor"] == "circuits") & (table["pairs"] == "responding")]
    assert (responding["accuracy"] > 0.8).all() and responding["auroc"].isna().all()
    others = table[table["predictor"] == "co-expression"]
    assert (others["p_accuracy"] > 0.01).all()
    verdicts = judge(found.answers, 0.05)
    assert (verdicts.loc[verdicts["p_value"].notna(), "verdict"] == "supported").mean() > 0.8
    sources = found.tables["screen_sources"]
    assert (sources["enrichment_q"] <= 0.05).mean() > 0.8
    assert sources.groupby("cell_line")["auroc_p"].apply(
        lambda p: list(benjamini_hochberg(p.to_numpy()))
    ).explode().tolist() == (pytest.approx(sources["auroc_q"].tolist()))
    listed = found.tables["responses"]
    assert listed.groupby("cell_line").size().to_dict() == circuits.set_index("cell_line")["n_pairs"].to_dict()
    assert found.answers[0].published > 0.6


def test_no_network_is_found_where_there_is_none():
    """From cells to p: over seeds they are as uniform as chance makes them."""
    p = []
    for seed in range(12):
        screen = synthetic_screen(seed, n_genes=50, n_sources=6, n_targets=8, effect=0, cells_per_guide=15, n_guides=2)
        rng = np.random.default_rng(seed)
        screen.effects["log_fc"] = rng.choice([-1.0, 1.0], len(screen.effects))
        (responses,) = screen_responses(screen.cells, SETTINGS)
        measured = measured_responses(responses, 0.05)
        table = matched_pairs(predictions_of(screen, rng, 0.9), responses, measured)
        row = summarise(as_pairs(table), measured, responses.used, 20, seed).row
        p += [row[name] for name in STATISTICS[:4]]
    assert np.sum(np.array(p) <= 0.05) <= binom.ppf(0.999, len(p), 0.05)
    assert kstest(p, "uniform").pvalue > 0.001


def test_the_same_inputs_give_the_same_bytes(true_screen, true_responses, true_answers):
    pairs = predictions_of(true_screen, np.random.default_rng(0), 0.9).sample(frac=1, random_state=0)
    once, again = true_answers, ask(EVIDENCE, QUICK, responses=true_responses, pairs=pairs)
    for name, table in once.tables.items():
        pd.testing.assert_frame_equal(table, again.tables[name], check_exact=True)
    assert repr(once.answers) == repr(again.answers)


# ------------------------------------------------------------------------------------------------ edge cases


def test_without_a_screen_the_answer_says_how_to_give_one():
    found = ask(EVIDENCE, QUICK)
    assert [a.question for a in found.answers] == ["screens"]
    assert "[[findings.screens]]" in found.answers[0].note
    assert judge(found.answers, 0.05)["verdict"].tolist() == [UNTESTABLE]
    assert all(table.empty for table in found.tables.values()) and "screens" in found.tables


def test_nothing_to_compare_says_why():
    responses = made_up_responses(np.random.default_rng(0))
    pairs = made_up_pairs(np.random.default_rng(0))
    nothing = ask(EVIDENCE, QUICK, responses=[responses], pairs=pairs.iloc[:0])
    assert "predict no gene pair" in nothing.answers[0].note and nothing.tables["screens"].empty
    foreign = ask(EVIDENCE, QUICK, responses=[responses], pairs=pairs.assign(source_gene="XYZ"))
    assert "Perturbed: G0, G1" in foreign.answers[0].note and "sources of pairs: XYZ" in foreign.answers[0].note
    assert len(foreign.tables["knock_downs"]) == 8
    unused = replace(responses, used=np.zeros(8, dtype=bool))
    assert (
        "0 perturbations that are used (8 verified)"
        in ask(EVIDENCE, QUICK, responses=[unused], pairs=pairs).answers[0].note
    )
    with pytest.raises(DataError, match="lacks mean_snr; it has source_gene"):
        ask(EVIDENCE, QUICK, responses=[responses], pairs=pairs.drop(columns="mean_snr"))


@pytest.mark.parametrize("n", [1, 2, 6])
def test_few_pairs_and_one_perturbed_gene(n):
    responses = made_up_responses(np.random.default_rng(0))
    pairs = made_up_pairs(np.random.default_rng(0))
    mine = pairs[pairs["source_gene"] == "G1"].iloc[:n].assign(pmi=1.0)
    found = ask(EVIDENCE, QUICK, responses=[responses], pairs=mine)
    row = found.tables["screens"].iloc[0]
    assert row["n_sources"] <= 1 and np.isnan(row["accuracy_low"])
    # one perturbed gene can never be beyond chance
    assert not any(answer.p_value < 0.4 for answer in found.answers)
    alone = replace(responses, used=np.arange(8) == 1)
    lonely = ask(EVIDENCE, QUICK, responses=[alone], pairs=mine)
    assert np.isnan(lonely.answers[0].baseline) and np.isnan(lonely.answers[0].p_value)
    judge(lonely.answers, 0.05)


def test_ties_nan_and_constant_numbers():
    responses = made_up_responses(np.random.default_rng(0))
    flat = np.where(np.isnan(responses.log_fc), np.nan, 0.0).astype(np.float32)
    pairs = made_up_pairs(np.random.default_rng(0))
    pairs.loc[:20, "mean_snr"] = np.nan
    still = ask(EVIDENCE, QUICK, responses=[replace(responses, log_fc=flat, q_value=flat + 1)], pairs=pairs)
    row = still.tables["screens"].iloc[0]
    assert row["n_pairs"] == 0 and np.isnan(row["accuracy"]) and row["auroc"] == 0.5 and np.isnan(row["spearman"])
    judge(still.answers, 0.05)
    bare = replace(responses, coexpression=None, published_log_fc=None, expression=np.full(60, np.nan, np.float32))
    found = ask(EVIDENCE, QUICK, responses=[bare], pairs=pairs)
    assert "not matched by expression" in found.answers[3].note and np.isnan(found.answers[0].published)
    assert not (found.tables["screens"]["predictor"] == "co-expression").any()
    assert not any(answer.statistic.startswith("accuracy of circuits -") for answer in found.answers)


def test_direct_and_indirect_and_pmi_are_rows_of_their_own():
    responses = made_up_responses(np.random.default_rng(0))
    pairs = made_up_pairs(np.random.default_rng(0)).assign(pmi=lambda t: -t["mean_snr"])
    sets = {f"G{s}": frozenset(f"G{t}" for t in range(0, 60, 2)) for s in range(6)}
    networks = [Targets("chip", GeneSets("chip", sets))]
    found = ask(EVIDENCE, QUICK, responses=[responses], pairs=pairs, networks=networks)
    table = found.tables["screens"].set_index(["predictor", "pairs"])
    n = table.loc["circuits", "n_pairs"]
    known = found.tables["responses"].query("direct != ''")
    directed = known[(known["predicted"] != 0) & (known["log_fc"] != 0)]
    assert n["direct"] + n["indirect"] == len(directed) < n["all"]
    # with the sign of PMI the opposite of the circuits' sign, PMI predicts the same
    assert table.loc[("PMI", "all"), "accuracy"] == table.loc[("circuits", "all"), "accuracy"]
    assert np.isnan(table.loc[("PMI", "all"), "auroc"])
    (answer,) = [a for a in found.answers if "direct targets" in a.asked]
    share = known[(known["predicted"] != 0) & (known["log_fc"] != 0)].assign(
        right=lambda t: np.sign(t["predicted"]) == np.sign(t["log_fc"])
    )
    by = share.groupby(["source_gene", "direct"])["right"].mean().unstack()
    assert answer.value == pytest.approx((by["direct"] - by["indirect"]).dropna().mean())


# ------------------------------------------------------------------------------------------------ settings, figure


def test_screens_survive_the_settings_file(tmp_path):
    text = """
[findings]
permutations = 50
[[findings.screens]]
path = "screens/a.h5ad"
control = "non-targeting"
perturbation_column = "gene"
cell_line_columns = ["cell_line", "day"]
[[findings.screens]]
path = "/else/b.csv.gz"
kind = "activation"
"""
    (tmp_path / "s.toml").write_text(text)
    settings = read_settings(tmp_path / "s.toml")
    first, second = settings.findings.screens
    assert first.path == str(tmp_path / "screens" / "a.h5ad") and second.path == "/else/b.csv.gz"
    assert first.cell_line_columns == ["cell_line", "day"] and (second.kind, second.control) == ("activation", "")
    write_settings(settings, tmp_path / "t.toml")
    assert read_settings(tmp_path / "t.toml") == settings
    assert settings_from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, r"\[findings\] screens\.0\.path: Field required"),
        ({"path": "a.h5ad"}, r"\[findings\]: `control` must name the label of the control cells of a\.h5ad"),
        ({"path": "a.csv", "min_cell": 3}, r"\[findings\] screens\.0\.min_cell: Unexpected keyword argument; found 3"),
        ({"path": "a.csv", "max_p": 2}, r"`max_p` must lie between 0\.0 and 1\.0; found 2"),
        ({"path": "a.csv", "prior_count": 0}, r"`prior_count` must be at least 1e-06; found 0"),
        ({"path": "a.csv", "kind": "x"}, r"screens\.0\.kind: .*'knock-down', 'knock-out' or 'activation'"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_place(entry, message):
    with pytest.raises(SettingsError, match=message):
        settings_from_dict({"findings": {"screens": [entry]}})


def test_the_command_line_leaves_screens_to_the_file(capsys):
    from cellcircuits import cli
    from cellcircuits.settings import Settings

    screens = [replace(SETTINGS, path=f"{name}.h5ad") for name in "ab"]
    settings = replace(Settings(), findings=replace(Settings().findings, screens=screens))
    import tyro

    command = tyro.cli(cli._commands(settings), args=["findings", "run", "--max-q", "0.1"])
    changed = cli._changed_section(settings, "findings", command.settings)
    assert changed.max_q == 0.1 and changed.screens == screens
    with pytest.raises(SystemExit):
        tyro.cli(cli._commands(settings), args=["findings", "--help"])
    assert "--max-q" in (shown := capsys.readouterr().out) and "--path" not in shown


def texts(figure) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_the_figure_shows_value_and_chance(true_answers):
    found, figure = true_answers, draw(true_answers)["screens"]
    shown = texts(figure)
    row = found.tables["screens"].query("predictor == 'circuits' and pairs == 'all'")
    low, high = row["accuracy"].min() * 100, row["accuracy"].max() * 100
    assert f"{low:.0f} to {high:.0f} % of the targets change as predicted" in shown
    assert "made up, RPE1" in shown and "chance: responses to other perturbed genes" in shown
    points = np.concatenate([line.get_xdata() for line in figure.axes[0].lines if line.get_marker() == "o"])
    assert set(np.round(row["accuracy"] * 100, 9)) <= set(np.round(points.astype(float), 9))
    width, height = figure.get_size_inches()
    assert width <= 8.5 and height <= 6


def test_the_figure_of_nothing_says_what_is_missing():
    assert "[[findings.screens]]" in texts(draw(ask(EVIDENCE, QUICK))["screens"])
