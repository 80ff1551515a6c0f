"""Do edges join what fires together: the overlap, what it is expected to be, and what shared genes explain of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import hypergeom, kstest

from cellcircuits.settings import StructureSettings
from cellcircuits.structure.counting import StructureSums
from cellcircuits.structure.dependencies import (
    dependency_overlap,
    gene_strata,
    genes_shared,
    rate_bins,
    source_dependencies,
)


def overlap_of(n_sources=12, n_targets=400, seed=0, same=False):
    """Random dependent pairs and edges, or edges that are among the dependent pairs."""
    rng = np.random.default_rng(seed)
    sums = StructureSums(1000, {0: np.full(n_sources, 9), 1: rng.integers(1, 99, n_targets)})
    sums.per_token = np.full(30, 40)
    sums.by_token = {
        k: sp.csr_matrix(rng.poisson(1, (30, n)).astype(float)) for k, n in ((0, n_sources), (1, n_targets))
    }
    pairs = [(s, t) for s in range(n_sources) for t in range(n_targets)]
    dependent = rng.random(len(pairs)) < 0.2
    causal = rng.random(len(pairs)) < 0.3
    causal &= dependent | ~np.array(same)
    frame = pd.DataFrame(pairs, columns=["source_feature", "target_feature"])
    dependencies = frame.assign(n_together=100, pmi=np.where(dependent, 3.0, 1.0))
    edges = frame[causal].assign(source_layer=0, target_layer=1)
    return (
        dependency_overlap((0, 1), np.arange(n_sources), dependencies, edges, sums, StructureSettings()),
        dependent,
        causal,
    )


def test_overlap_with_edges_counts_and_expects():
    row, dependent, causal = overlap_of()
    d, c = (x.reshape(12, 400) for x in (dependent, causal))
    assert (row["n_dependent"], row["n_edges"], row["n_both"]) == (d.sum(), c.sum(), (d & c).sum())
    assert row["expected_both"] == pytest.approx(sum(d[s].sum() * c[s].sum() / 400 for s in range(12)))
    same, _, _ = overlap_of(same=True)
    assert same["n_both"] == same["n_edges"] and same["z_matched"] > 15


def test_overlap_is_calibrated_where_edges_are_random():
    rows = [overlap_of(seed=seed)[0] for seed in range(60)]
    for name in ("z_matched", "z_by_gene"):
        z = [row[name] for row in rows]
        assert abs(np.mean(z)) < 0.4 and 0.75 < np.std(z) < 1.25
        assert kstest(z, "norm").pvalue > 0.01


def by_gene_of(seed: int, through_genes: bool):
    """Sources and targets that each like some of 40 genes; edges go where genes are shared, or where PMI is high."""
    rng = np.random.default_rng(seed)
    n_sources, n_targets, n_genes, n_positions = 20, 480, 40, 6000
    gene = rng.integers(n_genes, size=n_positions)
    likes = [rng.random((n_genes, n)) < 0.1 for n in (n_sources, n_targets)]
    fires = [rng.random((n_positions, n.shape[1])) < 0.02 + 0.5 * n[gene] for n in likes]
    if not through_genes:  # something else than genes joins each source to some of its targets
        for source in range(n_sources):
            on = rng.random(n_positions) < 0.1
            fires[0][:, source] |= on
            fires[1][:, source * 24 : source * 24 + 12] |= on[:, None]
    sums = StructureSums(n_positions, {k: f.sum(axis=0) for k, f in enumerate(fires)})
    sums.per_token = np.bincount(gene, minlength=n_genes)
    member = sp.csr_matrix((np.ones(n_positions), (gene, np.arange(n_positions))), (n_genes, n_positions))
    sums.by_token = {k: sp.csr_matrix(member @ f.astype(float)) for k, f in enumerate(fires)}
    sums.with_sources[0, 1] = fires[0].T.astype(int) @ fires[1].astype(int)
    sources = np.arange(n_sources)
    table = source_dependencies((0, 1), sources, sums)
    shared = likes[0].T.astype(int) @ likes[1].astype(int)
    if through_genes:
        causal = rng.random(shared.shape) < 0.05 + 0.25 * (shared > 0)
    else:
        causal = (sources[:, None] == np.arange(n_targets) // 24) & (np.arange(n_targets) % 24 < 12)
    source, target = np.nonzero(causal)
    edges = pd.DataFrame({"source_feature": source, "target_feature": target, "source_layer": 0, "target_layer": 1})
    return dependency_overlap((0, 1), sources, table, edges, sums, StructureSettings(min_pmi=1.0)), sums, causal


def test_shared_genes_explain_the_overlap_of_edges_that_follow_genes():
    """Edges that know only of shared genes are far beyond draws at equal rates, and not beyond those at equal genes."""
    rows = [by_gene_of(seed, through_genes=True)[0] for seed in range(6)]
    assert min(row["z_matched"] for row in rows) > 5
    z = np.array([row["z_by_gene"] for row in rows])
    assert abs(z.mean()) < 1 and (np.abs(z) < 3).all()


def test_edges_that_follow_more_than_genes_are_beyond_the_null_by_gene():
    row = by_gene_of(0, through_genes=False)[0]
    assert row["z_by_gene"] > 8 and row["n_both"] > 2 * row["expected_by_gene"]


def test_strata_and_shared_genes_are_loops():
    row, sums, causal = by_gene_of(3, through_genes=True)
    sources, alive = np.arange(20), np.arange(480)
    shared = genes_shared((0, 1), sources, alive, sums)
    ours, theirs = (sums.by_token[k].toarray() for k in (0, 1))
    for s, t in [(0, 0), (3, 77), (19, 479)]:
        e = sum(ours[g, s] * theirs[g, t] / sums.per_token[g] for g in range(40))
        assert shared[s, t] == pytest.approx(e / sums.firings[1][t])
    by_rate = sorted(alive, key=lambda t: (sums.firings[1][t], t))
    tenths = [by_rate[48 * b : 48 * b + 48] for b in range(10)]
    strata = gene_strata(rate_bins(sums.firings[1]), shared)
    mean, variance = 0.0, 0.0
    dependent = np.zeros((20, 480), dtype=bool)
    table = source_dependencies((0, 1), sources, sums)
    table = table[(table["n_together"] >= 50) & (table["pmi"] >= 1)]
    dependent[table["source_feature"], table["target_feature"]] = True
    for s in sources:
        for tenth in tenths:
            ordered = sorted(tenth, key=lambda t: (shared[s, t], t))
            for group in (ordered[8 * b : 8 * b + 8] for b in range(6)):  # 48 targets: six of eight
                assert len(set(strata[s, group])) == 1
                a, b = dependent[s, group].sum(), causal[s, group].sum()
                mean += a * b / 8
                if a % 8 and b % 8:  # scipy warns where nothing can vary
                    variance += hypergeom(8, a, b).var()
    assert len(np.unique(strata[0])) == 60
    assert row["expected_by_gene"] == pytest.approx(mean)
    assert row["z_by_gene"] == pytest.approx((row["n_both"] - mean) / np.sqrt(variance))


def test_overlap_of_few_targets_and_of_none():
    """Fewer targets than bins: nothing can vary within the strata, and nothing is claimed."""
    for n_targets in (1, 5, 0):
        row, *_ = overlap_of(n_sources=3, n_targets=n_targets)
        assert row["n_both"] == row["expected_by_gene"] and np.isnan(row["z_by_gene"])
