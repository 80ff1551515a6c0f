"""Pairs of genes: sums over edges against loops, support against permutations, calibration, planted support."""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.stats import binom

from cellcircuits.evidence import Evidence
from cellcircuits.figures.gene_pairs import draw
from cellcircuits.findings.gene_pairs import ask, shared_sets
from cellcircuits.measures.gene_products import pairs_of_genes
from cellcircuits.measures.loadings import nested_bins, quantile_bins, read_loadings
from cellcircuits.measures.measured_pairs import measured_gene_pairs
from cellcircuits.measures.network_support import DEGREE_BINS, GenePairs, network_matrix, network_support
from cellcircuits.networks import Interactions, Targets
from cellcircuits.references import GeneSets
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import permuted_sums
from tests.made_up_evidence import filled, made_up_evidence
from tests.made_up_genes import evidence_with_genes, random_sets

SETTINGS = FindingsSettings(permutations=200)


# ------------------------------------------------------------------------------------------------ from lists


def pairs_in_loops(evidence: Evidence, n_genes: int) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """{(source gene, target gene): [(snr, weight) of every edge]}."""
    lists = defaultdict(list)
    for row in evidence.table("feature_genes").sort_values("rank").to_dict("records"):
        lists[row["layer"], row["feature"]].append(row["symbol"])
    found = defaultdict(list)
    for row in evidence.edges.to_dicts():
        first = lists[row["source_layer"], row["source_feature"]][:n_genes]
        second = lists[row["target_layer"], row["target_feature"]][:n_genes]
        for (i, one), (j, other) in product(enumerate(first), enumerate(second)):
            if one != other:
                found[one, other].append((row["snr"], 1 / ((i + 1) * (j + 1))))
    return found


def test_pairs_equal_loops():
    evidence = evidence_with_genes(n_genes=40)
    settings = FindingsSettings(gene_pairs_genes=5)
    found = ask(evidence, settings).tables["gene_pairs"]
    expected = {
        pair: edges
        for pair, edges in pairs_in_loops(evidence, 5).items()
        if len(edges) >= 2 or max(abs(snr) for snr, _ in edges) > 2
    }
    assert set(zip(found["source_gene"], found["target_gene"], strict=True)) == set(expected) != set()
    for row in found.to_dict("records"):
        snr, weight = np.array(expected[row["source_gene"], row["target_gene"]]).T
        assert row["n_edges"] == len(snr)
        assert row["mean_snr"] == pytest.approx((snr * weight).sum() / len(snr), abs=1e-5)
        assert row["mean_abs_snr"] == pytest.approx((abs(snr) * weight).sum() / len(snr), rel=1e-5)
        assert row["max_abs_snr"] == pytest.approx(abs(snr).max(), rel=1e-6)
    # some pairs of one weak edge are cut off, some of one strong edge stay
    assert len(expected) < len(pairs_in_loops(evidence, 5))
    assert (found["n_edges"] == 1).any()


@pytest.mark.parametrize("n_kept", [1, 7, 200])
def test_the_best_pairs_are_kept(n_kept):
    """Also where the threshold rises from block to block."""
    evidence = evidence_with_genes(n_genes=150)
    ranks = read_loadings(evidence).best(5)
    everything = pairs_of_genes(evidence.edges, ranks, 10**6)
    found = pairs_of_genes(evidence.edges, ranks, n_kept)
    pd.testing.assert_frame_equal(found, everything[:n_kept])
    assert len(found) == n_kept < len(everything)


def test_edges_without_a_finite_snr_or_a_list_have_no_pairs():
    evidence = evidence_with_genes()
    broken = pl.when(pl.int_range(pl.len()) < 30).then(None).otherwise(pl.col("snr"))
    edges = evidence.edges.with_columns(snr=broken.cast(pl.Float32)).with_columns(
        snr=pl.when(pl.int_range(pl.len()) < 10).then(float("nan")).otherwise(pl.col("snr")),
        target=pl.when(pl.int_range(pl.len()) > 100).then(-1).otherwise(pl.col("target")).cast(pl.Int32),
    )
    found = ask(Evidence(edges, evidence.features, evidence.tables), SETTINGS)
    direct = ask(Evidence(evidence.edges[30:101], evidence.features, evidence.tables), SETTINGS)
    pd.testing.assert_frame_equal(found.tables["gene_pairs"], direct.tables["gene_pairs"])
    assert found.answers[0].note.startswith("From 71 of 600 edges")


def test_genes_that_share_a_symbol_are_one():
    evidence = evidence_with_genes()
    doubled = filled("feature_genes", 2, layer=0, feature=0, rank=[1, 2], symbol=["x", "X"], score=[2.0, 1.0])
    doubled["n_positions"] = [3, 5]
    loadings = read_loadings(Evidence(evidence.edges, evidence.features, {"feature_genes": doubled}))
    assert loadings.symbols.tolist() == ["X"] and loadings.n_positions.tolist() == [5]
    assert loadings.scores.toarray()[0].tolist() == [2.0] and loadings.ranks.toarray()[0].tolist() == [1]


# ------------------------------------------------------------------------------------------------ as measured


def effects() -> pd.DataFrame:
    return filled(
        "gene_effects",
        4,
        source_feature=[0, 0, 1, 1],
        gene=["a", "b", "a", "c"],
        mean_change=[0.1, 0.2, 0.4, 0.3],
        z_among_genes=[1.0, 2.0, 4.0, 3.0],
        removed_at=["X;b", "X;b", "d;X", ""],
    )


def test_measured_pairs_equal_loops():
    table = effects()
    sums = defaultdict(lambda: np.zeros(4))
    for row in table.to_dict("records"):
        for rank, gene in enumerate(row["removed_at"].split(";"), start=1):
            if gene and gene != row["gene"]:
                weighted = np.array([rank, row["z_among_genes"], row["mean_change"], 1]) / rank
                sums[gene.upper(), row["gene"].upper()] += weighted
    found = measured_gene_pairs(table, 100)
    assert len(found) == len(sums) == 4
    for row in found.to_dict("records"):
        n, z, change, weight = sums[row["source_gene"], row["target_gene"]]
        assert row["n_sources"] == round(n)
        assert (row["mean_z"], row["mean_change"]) == pytest.approx((z / weight, change / weight))
    assert found["mean_z"].is_monotonic_decreasing
    assert measured_gene_pairs(table, 2).equals(found[:2])


# ------------------------------------------------------------------------------------------------ support


def genes(n: int) -> np.ndarray:
    return np.array([f"G{i:03d}" for i in range(n)], dtype=object)


def random_network(rng: np.random.Generator, n: int, share: float) -> Targets:
    """Targets are unevenly common."""
    popular = rng.gamma(1, share, n).clip(0, 0.9)
    names = genes(n)
    return Targets("t", GeneSets("t", {name: frozenset(names[rng.random(n) < popular]) for name in names}))


def random_pairs(rng: np.random.Generator, n: int, share: float) -> GenePairs:
    """Target genes are unevenly common, and detected the more the more common they are."""
    popular = rng.gamma(1, share, n).clip(0, 0.9)
    listed = rng.random((n, n)) < popular
    np.fill_diagonal(listed, False)
    source, target = np.nonzero(listed)
    order = rng.permutation(len(source))
    return GenePairs(genes(n), quantile_bins(popular + rng.random(n), 4), source[order], target[order])


def test_support_equals_loops():
    rng = np.random.default_rng(0)
    pairs, network = random_pairs(rng, 40, 0.1), random_network(rng, 40, 0.15)
    row = network_support(pairs, network, 50, 0).row
    regulated = {name: set(targets) - {name} for name, targets in network.sets.terms.items()}
    degree = {gene: sum(gene in targets for targets in regulated.values()) for gene in pairs.symbols}
    universe = [gene for gene in pairs.symbols if degree[gene]]
    detection = dict(zip(pairs.symbols, pairs.detection, strict=True))
    strata = nested_bins(
        np.array([detection[g] for g in universe]), np.array([degree[g] for g in universe]), DEGREE_BINS
    )
    stratum = dict(zip(universe, strata, strict=True))
    named = [(pairs.symbols[s], pairs.symbols[t]) for s, t in zip(pairs.source, pairs.target, strict=True)]
    testable = [(s, t) for s, t in named if regulated[s] and degree[t]]
    found = [t in regulated[s] for s, t in testable]
    chance = []
    tables = defaultdict(lambda: np.zeros(2))
    for s, t in testable:
        others = [g for g in universe if g != s and stratum[g] == stratum[t]]
        chance.append(np.mean([g in regulated[s] for g in others]))
    for s, code in {(s, stratum[t]) for s, t in testable}:
        others = [g for g in universe if g != s and stratum[g] == code]
        predicted = np.array([(s, g) in set(testable) for g in others])
        true = np.array([g in regulated[s] for g in others])
        both, neither = (predicted & true).sum(), (~predicted & ~true).sum()
        tables[s] += np.array([both * neither, (predicted & ~true).sum() * (~predicted & true).sum()]) / len(others)
    assert (row["n_testable"], row["n_supported"]) == (len(testable), sum(found))
    assert row["share"] == pytest.approx(np.mean(found)) and row["chance_share"] == pytest.approx(np.mean(chance))
    agree, differ = np.sum(list(tables.values()), axis=0)
    assert row["odds_ratio"] == pytest.approx(agree / differ)
    assert row["odds_ratio_low"] < row["odds_ratio"] < row["odds_ratio_high"]
    assert row["share_low"] < row["share"] < row["share_high"]


def test_the_precision_curve_equals_loops():
    rng = np.random.default_rng(1)
    pairs, network = random_pairs(rng, 30, 0.1), random_network(rng, 30, 0.2)
    support = network_support(pairs, network, 20, 0)
    matrix = network_matrix(network, pairs.symbols).toarray()
    testable = matrix.any(axis=1)[pairs.source] & matrix.any(axis=0)[pairs.target]
    found = matrix[pairs.source, pairs.target][testable]
    for row in support.curve.to_dict("records"):
        assert row["precision"] == pytest.approx(found[: int(row["n_best"])].mean())
    assert support.curve["n_best"].iloc[-1] == testable.sum()
    assert support.curve["chance"].iloc[-1] == pytest.approx(support.row["chance_share"])


def test_interactions_have_no_direction_and_targets_have_one():
    names = np.array(["A", "B", "C"], dtype=object)
    both = network_matrix(Interactions("i", frozenset({("A", "B"), ("B", "X")})), names).toarray()
    assert sorted(zip(*np.nonzero(both), strict=True)) == [(0, 1), (1, 0)]
    sets = {"A_CELL1": frozenset({"B", "A"}), "A_CELL2": frozenset({"C"}), "X": frozenset({"A"})}
    one = network_matrix(Targets("t", GeneSets("t", sets)), names).toarray()
    assert sorted(zip(*np.nonzero(one), strict=True)) == [(0, 1), (0, 2)]


def test_p_of_unrelated_networks_is_uniform():
    """Common targets, popular network genes and shared targets give no support."""
    p = []
    for draw_number in range(120):
        rng = np.random.default_rng(draw_number)
        p.append(
            network_support(random_pairs(rng, 50, 0.1), random_network(rng, 50, 0.1), 99, draw_number).row["p_value"]
        )
    for level in (0.05, 0.2, 0.5):
        low, high = binom.ppf([0.005, 0.995], len(p), level)
        assert low <= sum(value <= level for value in p) <= high


def test_a_planted_network_is_found():
    rng = np.random.default_rng(0)
    pairs, network = random_pairs(rng, 60, 0.1), random_network(rng, 60, 0.05)
    terms = {name: set(targets) for name, targets in network.sets.terms.items()}
    for s, t in list(zip(pairs.source, pairs.target, strict=True))[::8]:
        terms[pairs.symbols[s]].add(pairs.symbols[t])
    planted = Targets("p", GeneSets("p", {name: frozenset(targets) for name, targets in terms.items()}))
    row = network_support(pairs, planted, 199, 0).row
    assert row["p_value"] == 1 / 200 and row["odds_ratio_low"] > 1 and row["share"] > 1.3 * row["chance_share"]


def test_permuted_sums_are_those_of_permutations():
    rng = np.random.default_rng(0)
    blocks = [rng.random((3, 3)), rng.random((1, 1)), rng.random((2, 2))]
    drawn = permuted_sums(blocks, 4000, np.random.default_rng(1))
    assert drawn.mean() == pytest.approx(sum(block.sum() / len(block) for block in blocks), abs=0.02)
    assert len(np.unique(drawn.round(9))) == 6 * 2


# ------------------------------------------------------------------------------------------------ the question


def test_status_is_the_published_one():
    evidence = evidence_with_genes(n_genes=30)
    sets = random_sets(3, 12, 10, n_genes=30)
    network = Interactions("i", frozenset({("G1", "G2"), ("G3", "G4")}))
    table = ask(evidence, SETTINGS, [network], [sets]).tables["gene_pairs"]
    for row in table.to_dict("records"):
        pair = {row["source_gene"], row["target_gene"]}
        shared = sum(pair <= genes for genes in sets.terms.values())
        known = pair in ({"G1", "G2"}, {"G3", "G4"})
        assert row["status"] == ("confirmed" if known else "plausible" if shared >= 2 else "novel")
    assert set(table["status"]) == {"confirmed", "plausible", "novel"}
    assert shared_sets(np.array(["G1"], dtype=object), [], np.array([0]), np.array([0])).tolist() == [0]


def test_both_kinds_of_pairs_are_asked():
    evidence = evidence_with_genes(n_genes=40)
    table = effects().assign(gene=["G1", "G2", "G3", "G4"], removed_at=["G5;G6"] * 4)
    evidence = Evidence(evidence.edges, evidence.features, evidence.tables | {"gene_effects": table})
    network = Interactions("i", frozenset({("G1", "G5"), ("G2", "G3"), ("G4", "G6")}))
    found = ask(evidence, SETTINGS, [network])
    assert found.tables["gene_pair_support"]["origin"].tolist() == ["lists", "measured"]
    assert [answer.unit for answer in found.answers] == ["pairs", "share", "share"]
    assert all(0 <= answer.baseline <= 1 for answer in found.answers[1:])
    again = ask(evidence, SETTINGS, [network])
    assert all(found.tables[name].equals(again.tables[name]) for name in found.tables)
    assert list(draw(found)) == ["gene_pairs"]


@pytest.mark.parametrize("rows", [0, 1])
def test_few_edges(rows):
    evidence = evidence_with_genes()
    few = Evidence(evidence.edges[:rows], evidence.features, evidence.tables)
    found = ask(few, SETTINGS, [Interactions("i", frozenset({("G1", "G2")}))])
    assert len(found.answers) == 3 and np.isnan(found.answers[2].value)
    draw(found)


def test_without_networks_or_lists_it_says_what_is_missing():
    found = ask(evidence_with_genes(), SETTINGS)
    assert set(found.tables["gene_pairs"]["status"]) == {""}
    assert "annotate.networks" in found.answers[1].note and "trace.readouts" in found.answers[2].note
    assert "gene lists" in ask(made_up_evidence(), SETTINGS).answers[0].note
    draw(found)


def test_a_network_of_other_genes_cannot_be_tested():
    found = ask(evidence_with_genes(), SETTINGS, [Interactions("i", frozenset({("X", "Y")}))])
    assert np.isnan(found.answers[1].value) and "None of the" in found.answers[1].note
    assert np.isnan(found.tables["gene_pair_support"]["q_value"]).all()


def test_bins():
    assert quantile_bins(np.array([1, 1, 1, 1, 5, 9]), 3).tolist() == [0, 0, 0, 0, 1, 1]
    assert quantile_bins(np.zeros(4), 3).tolist() == [0] * 4 and len(quantile_bins(np.zeros(0), 3)) == 0
    assert nested_bins(np.array([0, 0, 2, 2]), np.array([1, 2, 5, 5]), 2).tolist() == [0, 1, 2, 2]
