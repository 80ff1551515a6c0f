"""Features matched by genes, and edges between matches that coincide: against loops, under the null, planted."""

from __future__ import annotations

from itertools import permutations, product
from math import isnan

import numpy as np
import pandas as pd
import polars as pl
import pytest

from cellcircuits.evidence import Evidence, make_evidence
from cellcircuits.findings.matching import ask, count_arrangements, match
from cellcircuits.measures.feature_matching import Matches, depth_groups, loadings, mutual_best
from cellcircuits.measures.matched_edges import MatchedEdges, matched_edges, permuted_shares, rate_strata
from cellcircuits.settings import FindingsSettings
from tests.made_up_evidence import filled, made_up_evidence
from tests.several_runs import gene_lists, made_up_run, with_genes

SETTINGS = FindingsSettings(permutations=40, match_min_cosine=0.2)
ENDS = ["source_layer", "source_feature", "target_layer", "target_feature"]


def reseeded(run: Evidence, seed: int, kept: float = 1.0, noise: float = 0.1) -> Evidence:
    """The same features in another order within each layer, with noisy gene scores, and a part of the edges."""
    rng = np.random.default_rng(seed)
    n_layers, n = run.n_layers, len(run.features) // run.n_layers
    order = np.array([rng.permutation(n) for _ in range(n_layers)])
    tables = {}
    for name in ("sources", "feature_genes"):
        table = run.table(name).copy()
        table["feature"] = order[table["layer"], table["feature"]]
        tables[name] = table
    tables["feature_genes"]["score"] *= np.exp(rng.normal(0, noise, len(tables["feature_genes"])))
    features = run.features.assign(feature=order[run.features["layer"], run.features["feature"]])
    edges = run.edges.drop("source", "target").to_pandas()
    edges = edges[rng.random(len(edges)) < kept].copy()
    for end in ("source", "target"):
        edges[f"{end}_feature"] = order[edges[f"{end}_layer"], edges[f"{end}_feature"]]
    return make_evidence(edges, features, tested=run.table("tested"), **tables)


# ------------------------------------------------------------------------------------------------ features


def slow_loadings(run: Evidence, genes: set[str]) -> dict[tuple[int, int], dict[str, float]]:
    found: dict[tuple[int, int], dict[str, float]] = {}
    for row in run.table("feature_genes").to_dict("records"):
        gene = row["symbol"].upper() or row["gene_id"]
        if gene in genes and row["score"] > 0:
            one = found.setdefault((row["layer"], row["feature"]), {})
            one[gene] = one.get(gene, 0.0) + row["score"]
    return found


def slow_cosine(a: dict[str, float], b: dict[str, float]) -> float:
    norm = [np.sqrt(sum(x * x for x in one.values())) for one in (a, b)]
    return sum(x * b.get(gene, 0.0) for gene, x in a.items()) / (norm[0] * norm[1])


def test_matches_equal_loops():
    first = with_genes(made_up_evidence(0, n_layers=3, n_features=15))
    second = reseeded(with_genes(made_up_evidence(0, n_layers=3, n_features=15)), 1, noise=0.6)
    both = [{r["symbol"].upper() for r in run.table("feature_genes").to_dict("records")} for run in (first, second)]
    a, b, n_genes = loadings(first, second)
    assert n_genes == len(both[0] & both[1])
    found = mutual_best(a, b, depth_groups(first, second, 6), (np.arange(45), np.arange(45)), 0.2)
    one, other = (slow_loadings(run, both[0] & both[1]) for run in (first, second))
    cosine = {(p, q): slow_cosine(one[p], other[q]) for p, q in product(one, other) if p[0] == q[0]}
    expected = {}
    for (p, q), value in cosine.items():
        nearest = value == max(cosine[p, r] for r in other if r[0] == p[0])
        if value >= 0.2 and nearest and value == max(cosine[r, q] for r in one if r[0] == q[0]):
            expected[p, q] = value
    place = [list(zip(run.features["layer"], run.features["feature"], strict=True)) for run in (first, second)]
    mine = {(place[0][i], place[1][j]): c for i, j, c in zip(found.first, found.second, found.cosine, strict=True)}
    assert set(mine) == set(expected) and len(mine) > 30
    assert all(mine[pair] == pytest.approx(expected[pair], rel=1e-5) for pair in mine)


def test_features_in_blocks_are_matched_alike(monkeypatch):
    runs = [made_up_run(seed, n_layers=2, n_features=50) for seed in (0, 1)]
    a, b, _ = loadings(*runs)
    rows = np.arange(100), np.arange(100)
    whole = mutual_best(a, b, depth_groups(*runs, 6), rows, 0.0)
    monkeypatch.setattr("cellcircuits.measures.feature_matching.ROWS_AT_ONCE", 7)
    parts = mutual_best(a, b, depth_groups(*runs, 6), rows, 0.0)
    assert np.array_equal(whole.first, parts.first) and np.array_equal(whole.second, parts.second)
    assert len(whole) > 10


def test_genes_are_told_by_symbol_whatever_its_case_and_by_identifier_without_one():
    features = filled("features", 2, feature=[0, 1])
    parts = []
    for symbols, ids in ((["CD3E", ""], ["x", "ENSG1"]), (["cd3e", ""], ["y", "ENSG1"])):
        genes = filled("feature_genes", 2, feature=[0, 1], symbol=symbols, gene_id=ids, score=[2.0, 3.0])
        parts.append(make_evidence(filled("edges", 0), features, feature_genes=genes))
    a, b, n_genes = loadings(*parts)
    assert n_genes == 2 and np.array_equal(a.toarray(), b.toarray()) and np.allclose(a.toarray().sum(axis=1), 1)


def test_equally_near_features_are_matched_once():
    """All features have one and the same list."""
    features = filled("features", 4, feature=np.arange(4), top_genes="A;B")
    run = make_evidence(filled("edges", 0), features, feature_genes=gene_lists(features).assign(score=1.0))
    a, b, _ = loadings(run, run)
    found = mutual_best(a, b, depth_groups(run, run, 6), (np.arange(4), np.arange(4)), 0.3)
    assert (found.first.tolist(), found.second.tolist()) == ([0], [0])


def test_depth_is_relative_where_models_differ():
    six, three = (made_up_evidence(0, n_layers=n, n_features=1, sources_per_layer=1) for n in (6, 3))
    assert depth_groups(six, six, 2)[0].tolist() == [0, 1, 2, 3, 4, 5]
    groups = depth_groups(six, three, 2)
    assert (groups[0].tolist(), groups[1].tolist()) == ([0, 0, 0, 1, 1, 1], [0, 1, 1])


# ------------------------------------------------------------------------------------------------ edges


def test_matched_edges_equal_loops():
    first = with_genes(made_up_evidence(0, n_layers=4, n_features=12, sources_per_layer=6, edges_per_source=12))
    second = reseeded(first, 1, kept=0.5)
    # the second run did not measure the highest layer from the lowest
    tested = second.table("tested")
    tested = tested.assign(n_tested=np.where(tested["target_layer"] - tested["source_layer"] == 3, 0, 1))
    second = Evidence(second.edges, second.features, second.tables | {"tested": tested})
    sources, targets, _ = match(first, second, SETTINGS)
    found = matched_edges(first, second, sources, targets)
    keys = []
    for run, s, t in ((first, sources.first, targets.first), (second, sources.second, targets.second)):
        numbers = {row: i for i, row in enumerate(s.tolist())}, {row: i for i, row in enumerate(t.tolist())}
        mine = {}
        for edge in run.edges.to_dicts():
            if edge["source"] in numbers[0] and edge["target"] in numbers[1]:
                i, j = numbers[0][edge["source"]], numbers[1][edge["target"]]
                layers = [
                    (other.features["layer"][a[i]], other.features["layer"][b[j]])
                    for other, a, b in (
                        (first, sources.first, targets.first),
                        (second, sources.second, targets.second),
                    )
                ]
                if all(x < y for x, y in layers) and layers[1][1] - layers[1][0] < 3:
                    mine[i * len(targets) + j] = edge["snr"]
        keys.append(mine)
    assert found.first.tolist() == sorted(keys[0]) and found.second.tolist() == sorted(keys[1])
    assert found.snr_first.tolist() == [keys[0][key] for key in sorted(keys[0])]
    a, b = found.found()
    assert found.first[a].tolist() == sorted(set(keys[0]) & set(keys[1])) == found.second[b].tolist() != []
    back = found.swapped()
    assert back.first is found.second and back.snr_second is found.snr_first


@pytest.mark.parametrize("sources_only", [False, True])
def test_chance_equals_all_permutations(sources_only):
    """Three sources and four targets, in strata of (2, 1) and (2, 2): every permutation within them."""
    rng = np.random.default_rng(0)
    first, second = rng.random((3, 4)) < 0.6, rng.random((3, 4)) < 0.6
    strata = np.array([0, 1, 0]), np.array([5, 5, 7, 7])
    edges = MatchedEdges(*(np.flatnonzero(one) for one in (first, second)), np.zeros(0), np.zeros(0), 4)
    every = [
        (first & second[np.ix_(s, t)]).sum()
        for s in permutations(range(3))
        for t in ([(0, 1, 2, 3)] if sources_only else permutations(range(4)))
        if (strata[0][list(s)] == strata[0]).all() and (strata[1][list(t)] == strata[1]).all()
    ]
    chance = permuted_shares(edges, *strata, sources_only, 3000, rng)
    assert chance.mean == pytest.approx(np.mean(every) / first.sum(), abs=0.02)
    assert chance.p_value == pytest.approx(np.mean(np.array(every) >= (first & second).sum()), abs=0.05)


def test_a_part_of_the_edges_carries_the_permutations(monkeypatch):
    rng = np.random.default_rng(0)
    first, second = rng.random((30, 100)) < 0.4, rng.random((30, 100)) < 0.4
    edges = MatchedEdges(*(np.flatnonzero(one) for one in (first, second)), np.zeros(0), np.zeros(0), 100)
    strata = np.zeros(30, dtype=int), np.zeros(100, dtype=int)
    monkeypatch.setattr("cellcircuits.measures.matched_edges.MOST_EDGES", 500)
    monkeypatch.setattr("cellcircuits.measures.matched_edges.MOST_CELLS", 2000)
    assert permuted_shares(edges, *strata, False, 100, rng).mean == pytest.approx(0.4, abs=0.04)


def test_strata_are_layers_and_classes_of_firing_rate():
    run = made_up_evidence(0, n_layers=2, n_features=9, sources_per_layer=2)
    strata, rate = rate_strata(run, np.arange(18), 3), run.features["firing_rate"].to_numpy()
    for layer in (0, 1):
        own = slice(9 * layer, 9 * layer + 9)
        assert [layer * 3 + i for i in range(3) for _ in range(3)] == strata[own][np.argsort(rate[own])].tolist()


# ------------------------------------------------------------------------------------------------ null and planted


@pytest.mark.parametrize("sources_only", [False, True])
def test_independent_edges_do_not_agree(sources_only):
    """Sources and targets of each run have edges of their own frequency, in strata of five sources and ten targets."""
    p, strata = [], (np.repeat(np.arange(4), 5), np.repeat(np.arange(6), 10))
    for draw in range(100):
        rng = np.random.default_rng(draw)
        odds = [np.exp(rng.normal(-1, 1, 20))[:, None] * np.exp(rng.normal(0, 1, 60)) for _ in "ab"]
        first, second = (np.flatnonzero(rng.random((20, 60)) < one / (1 + one)) for one in odds)
        edges = MatchedEdges(first, second, np.zeros(0), np.zeros(0), 60)
        p.append(permuted_shares(edges, *strata, sources_only, 39, rng).p_value)
    # 5 of 100 are expected, standard deviation 2.2
    assert sum(value <= 0.05 for value in p) <= 12
    assert 0.3 < np.mean(np.array(p) <= 0.5) < 0.7


def test_popular_targets_agree_but_not_by_source():
    """Every source acts on the same targets, in both runs: nothing depends on which source it is."""
    base = with_genes(made_up_evidence(0, n_layers=2, n_features=40, sources_per_layer=20))
    rng, runs = np.random.default_rng(0), {}
    sources = base.table("sources")["feature"].to_numpy()
    for name in "ab":
        hit = rng.random((20, 40)) < np.where(np.arange(40) < 10, 0.9, 0.1)
        source, target = np.nonzero(hit)
        ends = {"source_feature": sources[source], "target_layer": 1, "target_feature": target}
        edges = filled("edges", len(source), snr=rng.normal(size=len(source)), **ends)
        runs[name] = make_evidence(edges, base.features, **base.tables)
    row = ask(runs, SETTINGS).tables["matching"].iloc[0]
    assert row["p_value"] == 1 / 41 and row["share_found"] > row["chance_share"] + 0.1
    assert row["popularity_p_value"] > 0.05 and row["popularity_share"] == pytest.approx(row["share_found"], abs=0.05)


def test_reseeded_autoencoders_agree():
    first = made_up_run(0, n_layers=3, n_features=40, sources_per_layer=12)
    runs = {"one": first, "two": reseeded(first, 1, kept=0.7), "other": made_up_run(5, n_layers=3, n_features=40)}
    found = ask(runs, SETTINGS, ceiling=("two", "one"))
    table = found.tables["matching"].set_index(["first", "second"])
    row = table.loc[("one", "two")]
    assert row["n_sources"] == 24 and row["n_targets"] == 120 and row["share_sources"] == 1
    assert row["share_found"] == pytest.approx(0.7, abs=0.1) and table.loc[("two", "one"), "share_found"] == 1
    assert row["p_value"] == row["popularity_p_value"] == 1 / 41
    assert row["share_same_sign"] == 1 and row["sign_p_value"] < 0.01 and row["snr_correlation"] == pytest.approx(1)
    assert row["interval_low"] < row["share_found"] < row["interval_high"]
    assert table["is_ceiling"].tolist() == [True, True, False, False, False, False]
    assert found.answers[-1].value == row["share_found"]
    pairs = found.tables["matched_features"]
    assert (pairs["layer_first"] == pairs["layer_second"])[pairs["second"] == "two"].all()


# ------------------------------------------------------------------------------------------------ edge cases


def test_few_arrangements_are_no_test():
    assert count_arrangements(np.array([1, 1, 1, 5, 5, 7])) == 12
    assert count_arrangements(np.repeat(np.arange(100), 90)) == pytest.approx(1e300)
    run = made_up_run(0, sources_per_layer=3)
    found = ask({"a": run, "b": run}, SETTINGS)
    assert isnan(found.tables["matching"]["popularity_p_value"][0]) and isnan(found.answers[1].value)
    assert "ways only" in found.answers[1].note and found.answers[0].value == 1


def test_what_is_missing_is_said():
    run = made_up_run(0)
    bare = Evidence(run.edges, run.features, {"sources": run.table("sources")})
    empty = Evidence(run.edges.clear(), run.features, run.tables)
    for runs in ({"a": run}, {"a": run, "b": bare}, {"a": bare, "b": bare}, {"a": empty, "b": empty}):
        answers = ask(runs, SETTINGS).answers
        assert all(isnan(answer.value) and answer.note for answer in answers)
    assert "train.seed" in ask({"a": run, "b": run}, SETTINGS).answers[-1].note
    assert "no two of the runs" in ask({"a": run, "b": run}, SETTINGS, ("a", "z")).answers[-1].note


def test_one_edge_and_effects_that_are_no_numbers():
    run = made_up_run(0)
    one = Evidence(run.edges[:1], run.features, run.tables)
    row = ask({"a": one, "b": one}, SETTINGS).tables["matching"].iloc[0]
    assert (row["n_edges"], row["n_found"], row["share_found"]) == (1, 1, 1)
    assert isnan(row["sign_p_value"])
    silent = Evidence(run.edges.with_columns(snr=pl.lit(float("nan"))), run.features, run.tables)
    row = ask({"a": silent, "b": run}, SETTINGS).tables["matching"].iloc[0]
    assert row["share_found"] == 1 and isnan(row["share_same_sign"])


def test_the_same_seed_gives_the_same_tables():
    runs = {"a": made_up_run(0), "b": reseeded(made_up_run(0), 1)}
    first, second = (ask(runs, SETTINGS).tables for _ in "ab")
    assert all(first[name].equals(second[name]) for name in first)
    assert isinstance(match(runs["a"], runs["b"], SETTINGS)[0], Matches) and isinstance(first["matching"], pd.DataFrame)
