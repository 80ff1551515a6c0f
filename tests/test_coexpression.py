"""Co-expression: correlations of lists, ranks and comparisons with pairs that are no edge, against loops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from scipy.stats import binom, rankdata, spearmanr

from cellcircuits.demo_data import demo_cells
from cellcircuits.evidence import Evidence
from cellcircuits.expression import cell_expression
from cellcircuits.figures.coexpression import draw
from cellcircuits.findings.coexpression import ask, edge_table, residuals
from cellcircuits.measures.candidate_targets import ScoredEdges, compare_candidates
from cellcircuits.measures.gene_correlation import ListCorrelation, list_correlation
from cellcircuits.measures.loadings import read_loadings
from cellcircuits.settings import CellsSettings, FindingsSettings
from cellcircuits.tokens import Tokens
from tests.made_up_evidence import made_up_evidence
from tests.made_up_genes import evidence_with_genes

SETTINGS = FindingsSettings(permutations=99, coexpression_genes=5)


def expression(
    seed: int = 0, n_genes: int = 120, n_cells: int = 60, n_groups: int = 6
) -> tuple[sp.csr_matrix, np.ndarray]:
    """Genes in groups that vary together; the last two do not vary."""
    rng = np.random.default_rng(seed)
    programs = rng.normal(size=(n_cells, n_groups))
    values = np.maximum(programs[:, np.arange(n_genes) % n_groups] + rng.normal(size=(n_cells, n_genes)), 0)
    values[:, -2:] = [0.0, 1.0]
    return sp.csr_matrix(values.astype(np.float32)), np.array([f"g{i}" for i in range(n_genes)], dtype=object)


def lists_in_loops(evidence: Evidence, matrix: sp.csr_matrix, n_genes: int = 5) -> dict[int, list[int]]:
    """{feature row: columns of its top genes that vary}."""
    table = evidence.table("feature_genes").sort_values("rank")
    features = {
        key: row for row, key in enumerate(zip(evidence.features["layer"], evidence.features["feature"], strict=True))
    }
    varies = np.ptp(matrix.toarray(), axis=0) > 0
    found: dict[int, list[int]] = {row: [] for row in features.values()}
    for row in table[table["rank"] <= n_genes].to_dict("records"):
        gene = int(row["symbol"][1:])
        if varies[gene]:
            found[features[row["layer"], row["feature"]]].append(gene)
    return found


def r_of(matrix: sp.csr_matrix) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.abs(np.corrcoef(matrix.toarray().astype(float).T))


def test_correlations_of_lists_equal_loops():
    evidence = evidence_with_genes()
    matrix, names = expression()
    edges = edge_table(evidence, list_correlation(read_loadings(evidence), 5, matrix, names))
    own, r = lists_in_loops(evidence, matrix), r_of(matrix)
    assert edges.height > 500 and (edges["shared"] > 0).any() and min(map(len, own.values())) < 5
    for row in edges.to_dicts()[::7]:
        pairs = [(a, b) for a in own[row["source"]] for b in own[row["target"]]]
        different = [r[a, b] for a, b in pairs if a != b]
        assert row["mean"] == pytest.approx(np.mean(different), abs=1e-5)
        assert row["largest"] == pytest.approx(max(different), abs=1e-5)
        assert row["shared"] == len(pairs) - len(different)


def test_means_of_all_candidates_are_those_of_pairs():
    evidence = evidence_with_genes()
    lists = list_correlation(read_loadings(evidence), 5, *expression())
    sources, targets = np.array([0, 3, 8]), np.arange(100, 180)
    means = lists.means(lists.sums(sources), targets)
    mean, _, _ = lists.of_pairs(np.repeat(sources, len(targets)), np.tile(targets, 3))
    assert np.allclose(means.ravel(), np.nan_to_num(mean), atol=1e-6)


def test_a_feature_with_only_the_same_gene_has_none():
    lists = ListCorrelation(np.zeros((2, 2), np.float32), np.array([[0, 2], [0, 2], [0, 1]], np.int32))
    mean, _, shared = lists.of_pairs(np.array([0, 0]), np.array([1, 2]))
    assert np.isnan(mean[0]) and mean[1] == 0 and shared.tolist() == [1, 1]


def scored(seed: int, effect: float = 0.0) -> tuple[ScoredEdges, np.ndarray, np.ndarray, np.ndarray, ListCorrelation]:
    """Six sources, targets in three strata; popular targets; with `effect`, edges favour co-expression."""
    rng = np.random.default_rng(seed)
    n = 66
    r = np.abs(np.corrcoef(rng.normal(size=(40, 8)))).astype(np.float32)
    np.fill_diagonal(r, 0)
    lists = ListCorrelation(r, np.array([rng.choice(40, 4, replace=False) for _ in range(n)], dtype=np.int32))
    stratum = np.where(np.arange(n) < 6, -1, np.arange(n) % 3)
    sources, targets = np.arange(6), np.arange(6, n)
    means = lists.means(lists.sums(sources), targets)
    odds = rng.normal(size=(1, 60)) + effect * (rankdata(means, axis=1) / 60 - 0.5)
    row, column = np.nonzero(rng.random((6, 60)) < 1 / (1 + np.exp(-odds)))
    y = rng.normal(size=len(row)) + effect * rankdata(means[row, column]) / len(row)
    edges = ScoredEdges(row, targets[column], y[None] - y.mean(), np.sort(means[row, column]))
    return edges, sources, stratum, np.ones((6, 3), dtype=bool), lists


def test_comparisons_equal_loops():
    edges, sources, stratum, reached, lists = scored(0)
    found = compare_candidates(edges, sources, stratum, reached, lists, 50, 0)
    are_edges = set(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
    wins, compared = np.zeros(6), np.zeros(6)
    for source in sources:
        means = lists.means(lists.sums(sources), np.arange(66))[source]
        for one, other in combinations(range(6, 66), 2):
            a, b = (source, one) in are_edges, (source, other) in are_edges
            if stratum[one] == stratum[other] and a != b:
                edge, none = (one, other) if a else (other, one)
                wins[source] += (means[edge] > means[none]) + 0.5 * (means[edge] == means[none])
                compared[source] += 1
    assert found.concordant == pytest.approx(wins) and found.compared == pytest.approx(compared)
    assert found.auroc == pytest.approx(wins.sum() / compared.sum()) and found.n_edges == len(are_edges)


def test_the_expected_sum_is_that_of_permutations():
    edges, sources, stratum, reached, lists = scored(1)
    found = compare_candidates(edges, sources, stratum, reached, lists, 50, 0)
    means = lists.means(lists.sums(sources), np.arange(66))
    share = np.searchsorted(edges.known, means, side="right") / len(edges.known)
    rng, sums = np.random.default_rng(0), []
    for _ in range(4000):
        image = np.arange(66)
        for code in range(3):
            inside = np.flatnonzero(stratum == code)
            image[inside] = rng.permutation(inside)
        sums.append(edges.weights[0] @ share[edges.source, image[edges.target]])
    sums = np.array(sums) / found.n_edges
    assert found.expected[0] == pytest.approx(sums.mean(), abs=4 * sums.std() / np.sqrt(4000))
    observed = edges.weights[0] @ share[edges.source, edges.target] / found.n_edges
    exact = (np.abs(sums - sums.mean()) >= abs(observed - sums.mean())).mean()
    assert found.p_weights[0] == pytest.approx(exact, abs=0.2)


def test_p_of_unrelated_edges_is_uniform():
    """Popular targets alone make no difference."""
    found = [compare_candidates(*scored(seed), 99, seed) for seed in range(150)]
    for p in (np.array([f.p_auroc for f in found]), np.array([f.p_weights[0] for f in found])):
        for level in (0.05, 0.2, 0.5):
            assert binom.ppf(0.002, len(p), level) <= (p <= level).sum() <= binom.ppf(0.998, len(p), level)
    assert np.mean([f.auroc for f in found]) == pytest.approx(0.5, abs=0.02)


def test_planted_coexpression_is_found():
    found = compare_candidates(*scored(0, effect=3.0), 99, 0)
    assert found.p_auroc == 0.01 and found.auroc > 0.6 and found.p_weights[0] <= 0.02


def test_residuals_are_those_of_least_squares():
    rng = np.random.default_rng(0)
    a, b, y = rng.normal(size=(3, 40))
    design = np.column_stack([np.ones(40), a, b])
    expected = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    assert residuals(y, [a, b]) == pytest.approx(expected)
    assert residuals(y, [np.ones(40), a]) == pytest.approx(residuals(y, [a]))


def test_the_answers_equal_simple_formulas():
    evidence = evidence_with_genes()
    matrix, names = expression()
    found = ask(evidence, SETTINGS, matrix, names)
    edges = edge_table(evidence, list_correlation(read_loadings(evidence), 5, matrix, names))
    y, x, s, t = (edges[name].to_numpy() for name in ("abs_snr", "mean", "source_rate", "target_rate"))
    spearman, partial, auroc = found.answers
    assert spearman.value == pytest.approx(spearmanr(y, x).statistic, abs=1e-6)
    assert spearman.low < spearman.value < spearman.high and abs(spearman.baseline) < 0.1
    given = [rankdata(s), rankdata(t)]
    expected = np.corrcoef(residuals(rankdata(y), given), residuals(rankdata(x), given))[0, 1]
    assert partial.value == pytest.approx(expected, abs=1e-6)
    largest = np.where(edges["shared"].to_numpy() > 0, 1, edges["largest"].to_numpy())
    assert spearman.published == pytest.approx(np.corrcoef(largest, y)[0, 1] ** 2, abs=1e-5)
    assert auroc.low < auroc.value < auroc.high and auroc.baseline == 0.5
    assert min(answer.p_value for answer in found.answers) > 0.01
    table, bins = found.tables["coexpression"], found.tables["coexpression_bins"]
    assert table["n_edges"].sum() == bins["n_edges"].sum() == edges.height
    first = edges.filter((pl.col("source_layer") == 0) & (pl.col("target_layer") == 1))
    assert table["spearman"][0] == pytest.approx(spearmanr(first["abs_snr"], first["mean"]).statistic, abs=1e-6)
    assert bins["correlation_low"].is_monotonic_increasing and len(bins) == 10
    lowest = y[np.argsort(x, kind="stable")[: bins["n_edges"][0]]]
    assert bins["abs_snr_median"][0] == pytest.approx(np.median(lowest), abs=0.05)
    again = ask(evidence, SETTINGS, matrix, names)
    assert (
        all(found.tables[name].equals(again.tables[name]) for name in found.tables) and found.answers == again.answers
    )
    assert list(draw(found)) == ["coexpression"]


def test_effects_that_follow_coexpression_are_found():
    evidence = evidence_with_genes()
    matrix, names = expression()
    edges = edge_table(evidence, list_correlation(read_loadings(evidence), 5, matrix, names))
    strength = edges.select("source", "target", snr=pl.col("mean").rank() / edges.height + 1).cast({"snr": pl.Float32})
    planted = evidence.edges.drop("snr").join(strength, on=["source", "target"])
    found = ask(Evidence(planted, evidence.features, evidence.tables), SETTINGS, matrix, names)
    assert found.answers[0].value > 0.99 and found.answers[0].p_value == found.answers[1].p_value == 0.01


@pytest.mark.parametrize(
    "case", ["no expression", "no lists", "no edges", "one edge", "other genes", "equal cells", "nan"]
)
def test_what_cannot_be_asked(case):
    evidence = made_up_evidence() if case == "no lists" else evidence_with_genes()
    matrix, names = expression()
    if case in ("no edges", "one edge"):
        evidence = Evidence(evidence.edges[: int(case == "one edge")], evidence.features, evidence.tables)
    if case == "nan":
        edges = evidence.edges.with_columns(snr=pl.lit(float("nan"), pl.Float32))
        evidence = Evidence(edges, evidence.features, evidence.tables)
    if case == "other genes":
        names = np.array([f"X{i}" for i in range(len(names))], dtype=object)
    if case == "equal cells":
        matrix = sp.csr_matrix(np.ones(matrix.shape, np.float32))
    found = ask(evidence, SETTINGS) if case == "no expression" else ask(evidence, SETTINGS, matrix, names)
    assert len(found.answers) == 3 and all(np.isnan(answer.value) and answer.note for answer in found.answers)
    draw(found)


def test_strengths_that_are_all_equal():
    evidence = evidence_with_genes()
    edges = evidence.edges.with_columns(snr=pl.lit(1.0, pl.Float32))
    found = ask(Evidence(edges, evidence.features, evidence.tables), SETTINGS, *expression())
    assert np.isnan(found.answers[0].value) and np.isfinite(found.answers[2].value)
    draw(found)


# ------------------------------------------------------------------------------------------------ expression


def test_expression_of_the_demo_cells():
    adata = demo_cells()
    ids = np.array(["", *adata.var["ensembl_id"][:50], "ENSG99999999999"], dtype=str)
    symbols = np.array(["", *[f"S{i}" for i in range(50)], "NONE"], dtype=str)
    tokens = Tokens(np.ones((1, 1), np.int32), np.ones((1, 1), bool), gene_ids=ids, gene_symbols=symbols)
    matrix, names = cell_expression(adata, CellsSettings(), tokens, 30, 0)
    known = [i for i in range(50) if ids[i + 1]]
    assert (
        names.tolist() == [f"S{i}" for i in known] and matrix.shape == (30, len(known)) and matrix.dtype == np.float32
    )
    whole, _ = cell_expression(adata, CellsSettings(), tokens, 0, 0)
    counts = adata.X.toarray()[:, known] * 10_000 / adata.obs["n_counts"].to_numpy()[:, None]
    assert np.allclose(whole.toarray(), np.log1p(counts), atol=1e-4)
    rows = np.sort(np.random.default_rng(0).choice(700, 30, replace=False))
    assert np.array_equal(matrix.toarray(), whole.toarray()[rows])
    frame = pd.DataFrame({"names": names})
    assert frame["names"].is_unique


def test_genes_without_an_id_are_known_by_their_symbol():
    adata = demo_cells()[:20]
    adata.var = adata.var.drop(columns="ensembl_id")
    symbols = np.array(["", str(adata.var_names[3]).lower()], dtype=str)
    tokens = Tokens(
        np.ones((1, 1), np.int32), np.ones((1, 1), bool), gene_ids=np.array(["", "E"]), gene_symbols=symbols
    )
    matrix, names = cell_expression(adata, CellsSettings(), tokens, 0, 0)
    assert names.tolist() == [symbols[1]] and matrix.shape == (20, 1)
