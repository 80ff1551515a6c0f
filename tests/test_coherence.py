"""Coherence: every sum against loops, p under null data, and what happens without data."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import stats as scipy_stats

from cellcircuits.evidence import Evidence
from cellcircuits.figures.coherence import draw
from cellcircuits.findings.coherence import annotated_edges, ask, bootstrap_mean, compare, p_over_sources, published_row
from cellcircuits.measures.feature_strata import feature_strata
from cellcircuits.measures.matched_targets import matched_targets, p_greater, p_two_sided
from cellcircuits.measures.published_edges import strongest_edges
from cellcircuits.measures.term_similarity import APART, INFORMATION, SHARED, term_similarity
from cellcircuits.settings import FindingsSettings
from tests.made_up_evidence import filled, made_up_evidence

QUICK = FindingsSettings(permutations=50, min_stratum=4)


def made_up_terms(seed: int, features: pd.DataFrame, n_terms: int = 6, share: float = 0.6) -> pd.DataFrame:
    """Each feature has some of the gene sets; some have none."""
    rng = np.random.default_rng(seed)
    has = rng.random((len(features), n_terms)) < rng.uniform(0.1, 0.5, n_terms)
    has[rng.random(len(features)) > share] = False
    row, term = np.nonzero(has)
    layer, feature = (features[name].to_numpy()[row] for name in ("layer", "feature"))
    names = np.array([f"set {t}" for t in range(n_terms)], dtype=object)[term]
    return filled("terms", len(row), layer=layer, feature=feature, collection=np.full(len(row), "c"), term=names)


def made_up(seed: int, **shape: int) -> Evidence:
    evidence = made_up_evidence(seed, **shape)
    return replace(evidence, tables=evidence.tables | {"terms": made_up_terms(seed, evidence.features)})


def slow(evidence: Evidence) -> tuple[dict, dict, dict]:
    """Sets of terms and of genes by row of the features, and the information of each term."""
    key = {(r.layer, r.feature): i for i, r in enumerate(evidence.features.itertuples())}
    terms: dict[int, set[str]] = {}
    for r in evidence.table("terms").itertuples():
        terms.setdefault(key[r.layer, r.feature], set()).add(r.term)
    genes = {i: set(text.split(";")) for i, text in enumerate(evidence.features["top_genes"])}
    names = {t for found in terms.values() for t in found}
    bits = {t: -np.log2(sum(t in found for found in terms.values()) / (len(terms) + 1)) for t in names}
    return terms, genes, bits


def slow_value(measure: str, s: int, t: int, terms: dict, genes: dict, bits: dict) -> float | None:
    if measure.startswith(APART) and genes[s] & genes[t]:
        return None
    if measure.endswith(SHARED):
        return float(bool(terms[s] & terms[t]))
    return sum(bits[x] for x in terms[s] & terms[t]) / sum(bits[x] for x in terms[s] | terms[t])


@pytest.mark.parametrize("measure", [SHARED, INFORMATION, APART + SHARED, APART + INFORMATION])
def test_every_sum_equals_loops(measure):
    evidence = made_up(1, n_layers=3, n_features=30, sources_per_layer=5, edges_per_source=12)
    similarity = term_similarity(evidence)
    edges = annotated_edges(evidence.edges, similarity)
    compared = compare(edges, evidence.features, similarity, QUICK)
    terms, genes, bits = slow(evidence)
    layer, rate = (evidence.features[name].to_numpy() for name in ("layer", "firing_rate"))
    n_terms = np.array([len(terms.get(i, ())) for i in range(len(layer))])
    stratum = feature_strata(layer, n_terms > 0, [n_terms, rate], 4, 4)
    assert len(np.unique(stratum)) > 6
    pairs = [(s, t) for s, t in zip(evidence.edges["source"], evidence.edges["target"], strict=True)]
    pairs = [(s, t) for s, t in pairs if s in terms and t in terms]
    assert sorted(pairs) == sorted(zip(edges["source"], edges["target"], strict=True)) and len(pairs) > 20
    totals = {name: np.zeros(2) for name in ("", "matched_", "other_")}
    for s, t in pairs:
        like = [u for u in terms if stratum[u] == stratum[t]]
        for over, features, weight in (("", [t], 1.0), ("matched_", like, 1 / len(like))):
            values = [slow_value(measure, s, u, terms, genes, bits) for u in features]
            known = [v for v in values if v is not None]
            totals[over] += weight * np.array([sum(known), len(known)])
    for s, one in product({s for s, _ in pairs}, (1, 2)):
        reached = [t for source, t in pairs if source == s and layer[t] == one]
        others = [u for u in terms if layer[u] == one and u not in reached]
        value = [slow_value(measure, s, u, terms, genes, bits) for u in others]
        known = [v for v in value if v is not None]
        n = sum(slow_value(measure, s, t, terms, genes, bits) is not None for t in reached)
        totals["other_"] += np.array([np.mean(known) * n, n]) if known and n else 0
    for over, (value, n) in totals.items():
        assert compared.mean(measure, over) == pytest.approx(value / n), over


def test_draws_are_all_exchanges():
    """Three targets of one stratum, two sources: the six permutations, each as often as the others."""
    rng = np.random.default_rng(0)
    value = rng.random((2, 3))
    layer, stratum = np.array([0, 0, 1, 1, 1]), np.array([-1, -1, 0, 0, 0])
    source, target = np.array([0, 0, 1]), np.array([2, 3, 3])

    def measure(sources, features):
        from scipy import sparse

        return {"m": (sparse.csr_array(value[np.ix_(sources, features - 2)]), None)}

    found = matched_targets(source, target, layer, stratum, measure, 3000, 0)
    every = [np.mean([value[s, p[t - 2]] for s, t in zip(source, target, strict=True)]) for p in permutations(range(3))]
    assert np.mean(every) == pytest.approx(found.mean("m", "matched_"))
    for mean in every:
        assert np.isclose(found.draws["m"], mean).mean() == pytest.approx(1 / 6, abs=0.03)


def test_published_share_and_its_chance_equal_loops():
    evidence = made_up(3)
    similarity = term_similarity(evidence)
    edges = strongest_edges(annotated_edges(evidence.edges, similarity), 2)
    row = published_row(edges, evidence.features, similarity, QUICK)
    terms, _, _ = slow(evidence)
    layer = evidence.features["layer"].to_numpy()
    shares, chances = [], []
    for s, t in zip(edges["source"], edges["target"], strict=True):
        pairs = product(*([u for u in terms if layer[u] == layer[end]] for end in (s, t)))
        shares.append(bool(terms[s] & terms[t]))
        chances.append(np.mean([bool(terms[a] & terms[b]) for a, b in pairs]))
    assert (row["value"], row["matched"]) == pytest.approx((np.mean(shares), np.mean(chances)))


def test_strongest_edges_equal_loops():
    evidence = made_up_evidence(0)
    frame = evidence.edges.to_pandas()
    frame["size"] = frame["snr"].abs()
    kept = frame.sort_values("size").groupby(["source", "target_layer"]).tail(3)
    found = strongest_edges(evidence.edges, 3)
    assert sorted(zip(found["source"], found["target"], strict=True)) == sorted(
        zip(kept["source"], kept["target"], strict=True)
    )


def test_p_is_uniform_where_edges_know_nothing():
    p = {"matched": [], "non_edges": []}
    for seed in range(60):
        evidence = made_up(seed, n_layers=2, n_features=60, sources_per_layer=25, edges_per_source=15)
        similarity = term_similarity(evidence)
        edges = annotated_edges(evidence.edges, similarity)
        compared = compare(edges, evidence.features, similarity, replace(QUICK, min_stratum=10))
        p["matched"].append(p_greater(compared.mean(SHARED), compared.draws[SHARED]))
        p["non_edges"].append(p_over_sources(compared.sums[compared.sums["measure"] == SHARED]))
    for name, values in p.items():
        assert scipy_stats.kstest(values, "uniform").pvalue > 0.01, name
        # 60 draws at 0.05: more than 8 have a chance of 0.4 %
        assert np.sum(np.array(values) <= 0.05) <= 8, name


def planted(seed: int) -> Evidence:
    """Of the edges of `made_up`, those whose ends share no gene set are mostly gone."""
    evidence = made_up(seed)
    terms, _, _ = slow(evidence)
    ends = zip(evidence.edges["source"], evidence.edges["target"], strict=True)
    alike = np.array([bool(terms.get(s, set()) & terms.get(t, set())) for s, t in ends])
    kept = alike | (np.random.default_rng(seed).random(len(alike)) < 0.4)
    return replace(evidence, edges=evidence.edges.filter(pl.Series(kept)))


def test_planted_coherence_is_found():
    found = ask(planted(0), QUICK)
    for answer in found.answers[:3]:
        assert answer.value > 1.1 * answer.baseline and answer.p_value <= 0.02
        assert answer.low < answer.value < answer.high


def test_features_with_many_gene_sets_alone_are_no_coherence():
    """Targets with the most gene sets: more common sets than among all features, no more than among their like."""
    evidence = made_up(5, n_features=120, sources_per_layer=30, edges_per_source=60)
    n_terms = term_similarity(evidence).n_terms
    rich = n_terms[evidence.edges["target"].to_numpy()] >= 3
    evidence = replace(evidence, edges=evidence.edges.filter(pl.Series(rich)))
    row = ask(evidence, replace(QUICK, min_stratum=10)).tables["coherence"].set_index("pairs").loc["all"].iloc[0]
    assert row["value"] > 1.15 * row["non_edges"] and row["non_edges_p"] < 0.001
    assert row["matched_p"] > 0.05 and row["value"] == pytest.approx(row["matched"], rel=0.1)


def test_layers_add_up():
    found = ask(made_up(2), QUICK)
    table, layers = found.tables["coherence"], found.tables["coherence_layers"]
    for column, name in (("value", "share"), ("matched", "matched_share"), ("non_edges", "non_edges_share")):
        assert np.average(layers[name], weights=layers["n_edges"]) == pytest.approx(table[column][0])
    assert layers["n_edges"].sum() == table["n_edges"][0]


def test_strata_keep_layers_apart_and_equal_values_together():
    rng = np.random.default_rng(0)
    layer, member = np.repeat([0, 1], 50), rng.random(100) < 0.8
    count = rng.integers(1, 4, 100).astype(float)
    stratum = feature_strata(layer, member, [count, rng.random(100)], 3, 5)
    assert ((stratum >= 0) == member).all() and stratum.max() > 5
    for one in range(stratum.max() + 1):
        assert len(np.unique(layer[stratum == one])) == 1
    assert len(np.unique(feature_strata(layer, member, [np.ones(100)], 3, 5)[member])) == 2


@pytest.mark.parametrize(
    ("tables", "words"),
    [({}, "annotate.gene_sets"), ({"terms": filled("terms", 1, layer=[99], term=["x"])}, "No edge joins")],
)
def test_what_is_missing_is_said(tables, words):
    evidence = made_up_evidence()
    (answer,) = ask(replace(evidence, tables=evidence.tables | tables), QUICK).answers
    assert np.isnan(answer.value) and words in answer.note


@pytest.mark.parametrize("n_edges", [0, 1, 2])
def test_few_edges(n_edges):
    evidence = made_up(0, n_layers=2)
    edges = annotated_edges(evidence.edges, term_similarity(evidence))[:n_edges]
    found = ask(replace(evidence, edges=edges), QUICK)
    assert len(found.answers) == (4 if n_edges else 1)
    if n_edges:
        assert found.tables["coherence"]["n_edges"][0] == n_edges
        assert np.isnan(found.answers[0].low)
        draw(found)


def test_sources_are_the_units():
    sums = pd.DataFrame({"source": [1, 2], "value": [3.0, 2.0], "n": 4.0, "other_value": 10.0, "other_n": 40.0})
    # two sources, both above: 2 of 4 sign patterns are as extreme
    assert p_over_sources(sums) == 0.5
    assert np.isnan(p_over_sources(sums[:1]))
    assert np.isnan(bootstrap_mean(np.ones(1), np.ones(1), QUICK)).all()
    low, high = bootstrap_mean(np.array([0.0, 4.0]), np.array([4.0, 4.0]), QUICK)
    assert (low, high) == (0.0, 1.0)


def test_p_of_two_sides():
    draws = np.arange(99.0)
    assert p_two_sided(98.0, draws) == p_two_sided(0.0, draws) == pytest.approx(2 * 2 / 100)
    assert p_two_sided(49.0, draws) == 1.0


def test_the_same_seed_gives_the_same_tables():
    first, second = (ask(made_up(4), QUICK).tables for _ in range(2))
    assert all(first[name].equals(second[name]) for name in first)


def test_figures_of_made_up_and_of_missing_data():
    assert set(draw(ask(made_up(0), QUICK))) == {"coherence"}
    assert set(draw(ask(made_up_evidence(), QUICK))) == {"coherence"}
