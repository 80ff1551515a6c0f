"""What features fire on and what that is called, against loops over positions and Fisher's exact test."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import fisher_exact

import cellcircuits as cc
from cellcircuits.catalogue import (
    FiringSums,
    count_firings,
    enriched_terms,
    false_annotation_rate,
    name_features,
    top_genes,
)
from cellcircuits.references import GeneSets, read_gmt
from cellcircuits.settings import AnnotateSettings

pytestmark = pytest.mark.usefixtures("one_thread")


def gene_lists(lists: dict[int, list[int]]) -> pd.DataFrame:
    """{feature: tokens, best first} as the table of top genes."""
    rows = [(f, rank, token) for f, tokens in lists.items() for rank, token in enumerate(tokens, start=1)]
    frame = pd.DataFrame(rows, columns=["feature", "rank", "token"]).astype(int)
    return frame.assign(score=1.0, n_firings=10, n_positions=20)


def random_lists(rng: np.random.Generator, background: np.ndarray, n_lists: int, length: int) -> pd.DataFrame:
    return gene_lists({f: list(rng.choice(background, length, replace=False)) for f in range(n_lists)})


def symbols(n: int) -> np.ndarray:
    return np.array([f"Gene{i}" for i in range(n)])


def slow_q(p: list[float]) -> list[float]:
    """Benjamini-Hochberg by its definition: the smallest level at which the test is rejected."""
    ordered = sorted(p)
    bounds = [value * len(p) / rank for rank, value in enumerate(ordered, start=1)]
    return [min(bound for other, bound in zip(ordered, bounds, strict=True) if other >= value) for value in p]


def slow_terms(lists: dict[int, list[str]], background: set[str], terms: dict[str, set[str]], settings) -> dict:
    """{(feature, term): (overlap, list, term, p, q)} of the annotations."""
    tests = {}
    for feature, genes in lists.items():
        for name, members in terms.items():
            inside = members & background
            if settings.min_term_genes <= len(inside) <= settings.max_term_genes:
                query = set(genes)
                a, b, c = len(query & inside), len(query - inside), len(inside - query)
                d = len(background) - a - b - c
                p = fisher_exact([[a, b], [c, d]], alternative="greater").pvalue
                tests[feature, name] = (a, len(query), len(inside), p)
    q_values = slow_q([test[3] for test in tests.values()])
    return {
        key: (*test, q)
        for (key, test), q in zip(tests.items(), q_values, strict=True)
        if q <= settings.max_q and test[0] >= settings.min_overlap
    }


# ------------------------------------------------------------------------------------------------ firings


def test_firings_equal_a_loop_over_positions(demo_model, demo_tokens, quick_saes):
    tokens = demo_tokens.take([0, 200, 400, 600, 699])
    saes = {layer: quick_saes[layer] for layer in (0, 3)}
    reported = []
    sums = count_firings(demo_model, tokens, saes, 2, reported.append)
    firings, activations, cells = (defaultdict(float), defaultdict(float), defaultdict(set))
    for row in range(len(tokens)):
        cell = tokens.take([row])
        for layer, hidden in demo_model.run_layers(demo_model.embed(cell), cell, 0, 4):
            if layer not in saes:
                continue
            for position in np.flatnonzero(cell.gene_mask[0]):
                code, token = saes[layer].encode(hidden[0, position]), cell.ids[0, position]
                for feature, value in zip(code.indices.tolist(), code.values.tolist(), strict=True):
                    if value > 0:
                        firings[layer, feature, token] += 1
                        activations[layer, feature, token] += value
                        cells[layer, feature].add(row)
    assert sum(reported) == 5
    for layer, total in sums.items():
        expected_firings, expected_sums = (np.zeros(total.firings.shape) for _ in range(2))
        for (at, feature, token), count in firings.items():
            if at == layer:
                expected_firings[feature, token] = count
                expected_sums[feature, token] = activations[at, feature, token]
        # in another batch a value may change in its last digits, and a feature at the edge of the top k with it
        assert (expected_firings != total.firings.toarray()).mean() < 1e-4
        np.testing.assert_allclose(total.activations.toarray().sum(1), expected_sums.sum(1), rtol=2e-3, atol=0.05)
        n_cells = [len(cells[layer, f]) for f in range(len(total.n_cells))]
        assert np.abs(total.n_cells - n_cells).sum() <= 2


def test_top_genes_equal_a_loop():
    rng = np.random.default_rng(0)
    n_features, n_tokens = 7, 50
    firings = rng.poisson(6, size=(n_features, n_tokens)) * (rng.random((n_features, n_tokens)) < 0.5)
    activations = firings * rng.choice([0.5, 1.0, 2.0], size=firings.shape)
    per_token = firings.max(axis=0) + rng.integers(0, 10, n_tokens)
    sums = FiringSums(sp.csr_matrix(firings, dtype=float), sp.csr_matrix(activations), np.zeros(n_features, int))
    settings = AnnotateSettings(top_genes=5, min_firings=4)
    found = top_genes(sums, per_token, settings)
    expected = []
    for feature in range(n_features):
        enough = [t for t in range(n_tokens) if firings[feature, t] >= 4]
        score = {t: activations[feature, t] / (per_token[t] + 4) for t in enough}
        best = sorted(enough, key=lambda t: (-score[t], t))[:5]
        expected += [
            (feature, rank, t, firings[feature, t], per_token[t], score[t]) for rank, t in enumerate(best, start=1)
        ]
    columns = ["feature", "rank", "token", "n_firings", "n_positions", "score"]
    np.testing.assert_allclose(found[columns], expected)


def test_a_gene_with_little_support_is_drawn_towards_zero():
    """Strong on 4 of 4 positions comes after weaker on 100 of 100."""
    sums = FiringSums(sp.csr_matrix([[4.0, 100.0]]), sp.csr_matrix([[4 * 2.0, 100 * 1.0]]), np.ones(1, int))
    assert list(top_genes(sums, np.array([4, 100]), AnnotateSettings(min_firings=4))["token"]) == [0, 1]
    assert list(top_genes(sums, np.array([4, 100]), AnnotateSettings(min_firings=3))["token"]) == [0, 1]
    weaker = FiringSums(sums.firings, sp.csr_matrix([[4 * 1.5, 100 * 1.0]]), np.ones(1, int))
    assert list(top_genes(weaker, np.array([4, 100]), AnnotateSettings(min_firings=4))["token"]) == [1, 0]


# ------------------------------------------------------------------------------------------------ enrichment


def test_p_and_q_equal_fishers_test():
    rng = np.random.default_rng(1)
    background, names = np.arange(10, 130), symbols(140)
    terms = {f"t{i}": frozenset(f"GENE{g}" for g in rng.choice(140, rng.integers(4, 30))) for i in range(25)}
    planted = {f: [int(name[4:]) for name in sorted(terms[f"t{f}"])] for f in range(5)}
    lists = {f: list(dict.fromkeys(g for g in genes if g in background))[:8] for f, genes in planted.items()}
    lists |= {f: list(rng.choice(background, 8, replace=False)) for f in range(5, 12)}
    settings = AnnotateSettings(min_term_genes=6, max_term_genes=20, max_q=0.2)
    found = enriched_terms(gene_lists(lists), background, names, [GeneSets("c", terms)], settings)
    upper = {f: [names[g].upper() for g in genes] for f, genes in lists.items()}
    expected = slow_terms(upper, {names[g].upper() for g in background}, terms, settings)
    assert set(zip(found["feature"], found["term"], strict=True)) == set(expected) != set()
    for row in found.to_dict("records"):
        overlap, n_list, n_term, p, q = expected[row["feature"], row["term"]]
        assert (row["n_overlap"], row["n_list"], row["n_term"], row["n_background"]) == (overlap, n_list, n_term, 120)
        assert row["p_value"] == pytest.approx(p, rel=1e-9)
        assert row["q_value"] == pytest.approx(q, rel=1e-9)
        a, b, c = overlap + 0.5, n_list - overlap + 0.5, n_term - overlap + 0.5
        assert row["odds_ratio"] == pytest.approx(a * (121.5 - a - b - c) / (b * c) + a * 0.5 / (b * c))
        shared = sorted(names[g] for g in lists[row["feature"]] if names[g].upper() in terms[row["term"]])
        assert row["genes"] == ";".join(shared)


def test_small_overlaps_are_corrected_for_although_they_are_not_called():
    """One list, one term it fills, many it does not touch: q = p x number of terms."""
    terms = {"hit": frozenset(f"GENE{i}" for i in range(6))}
    terms |= {f"miss {j}": frozenset(f"GENE{i}" for i in range(20 + 6 * j, 26 + 6 * j)) for j in range(10)}
    found = enriched_terms(
        gene_lists({0: list(range(6))}), np.arange(100), symbols(100), [GeneSets("c", terms)], AnnotateSettings()
    )
    assert list(found["term"]) == ["hit"]
    assert found["q_value"][0] == pytest.approx(11 * found["p_value"][0])


def test_sets_are_cut_to_the_background():
    """Genes that could not be in a list do not count; a set that is left too small is not tested."""
    terms = {"cut": frozenset(f"GENE{i}" for i in range(40)), "gone": frozenset(f"GENE{i}" for i in range(46, 60))}
    found = enriched_terms(
        gene_lists({0: list(range(30, 36))}),
        np.arange(30, 50),
        symbols(60),
        [GeneSets("c", terms)],
        AnnotateSettings(max_q=1.0),
    )
    assert [(row["term"], row["n_term"], row["n_background"]) for row in found.to_dict("records")] == [("cut", 10, 20)]


def test_a_set_may_be_too_large():
    terms = {"large": frozenset(f"GENE{i}" for i in range(40))}
    settings = AnnotateSettings(max_q=1.0, max_term_genes=39)
    assert enriched_terms(
        gene_lists({0: list(range(9))}), np.arange(90), symbols(90), [GeneSets("c", terms)], settings
    ).empty


def test_the_smallest_overlap_that_is_called():
    terms = {"a": frozenset(f"GENE{i}" for i in range(5))}
    for least, n_found in ((3, 1), (4, 0)):
        settings = AnnotateSettings(min_overlap=least, max_q=1.0)
        found = enriched_terms(
            gene_lists({0: [0, 1, 2, 50, 51]}), np.arange(90), symbols(90), [GeneSets("c", terms)], settings
        )
        assert len(found) == n_found


def test_the_label_is_the_smallest_q_then_the_odds_ratio_then_the_name():
    same = frozenset(f"GENE{i}" for i in range(6))
    terms = {"twin b": same, "twin a": same, "weaker": frozenset(f"GENE{i}" for i in [0, 1, 2, *range(30, 34)])}
    collections = [GeneSets("second", terms), GeneSets("first", {"twin a": same})]
    found = enriched_terms(
        gene_lists({3: list(range(6))}), np.arange(80), symbols(80), collections, AnnotateSettings(max_q=0.9)
    )
    best_first = [tuple(row) for row in found[["term", "collection"]].itertuples(index=False)]
    assert best_first == [("twin a", "first"), ("twin a", "second"), ("twin b", "second"), ("weaker", "second")]


def test_ties_in_q_go_to_the_larger_odds_ratio():
    """q is cut at the q of the next larger p, so different overlaps can share one q."""
    terms = {f"t{j}": frozenset(f"GENE{i}" for i in range(6 - j, 12 - j)) for j in range(5)}
    found = enriched_terms(
        gene_lists({0: list(range(6))}), np.arange(30), symbols(30), [GeneSets("c", terms)], AnnotateSettings(max_q=1)
    )
    order = [(row["q_value"], -row["odds_ratio"], row["term"]) for row in found.to_dict("records")]
    assert order == sorted(order)


@pytest.mark.parametrize("collections", [[], [GeneSets("c", {"elsewhere": frozenset({"TP53", "MDM2"})})]])
def test_no_set_can_be_tested(collections):
    genes = gene_lists({0: [1, 2, 3]})
    assert enriched_terms(genes, np.arange(20), symbols(20), collections, AnnotateSettings()).empty
    assert false_annotation_rate(np.array([3]), np.arange(20), symbols(20), collections, AnnotateSettings()) == 0


def test_no_feature_has_genes():
    sets = [GeneSets("c", {"a": frozenset(f"GENE{i}" for i in range(9))})]
    assert enriched_terms(gene_lists({}), np.arange(20), symbols(20), sets, AnnotateSettings()).empty
    nothing = np.array([], dtype=int)
    assert false_annotation_rate(nothing, np.arange(20), symbols(20), sets, AnnotateSettings()) == 0


# ------------------------------------------------------------------------------------------------ false annotations


def many_terms(rng: np.random.Generator, n_genes: int, n_terms: int) -> list[GeneSets]:
    sizes = rng.integers(5, 60, n_terms)
    terms = {f"t{i}": frozenset(f"GENE{g}" for g in rng.choice(n_genes, size)) for i, size in enumerate(sizes)}
    return [GeneSets("c", terms)]


def test_random_lists_are_annotated_at_most_at_the_nominal_rate():
    """No list is related to any term: a layer with any annotation at all is a false discovery (rate at most max_q)."""
    called = []
    for draw in range(60):
        rng = np.random.default_rng(draw)
        background = np.arange(400)
        genes = random_lists(rng, background, n_lists=40, length=15)
        found = enriched_terms(genes, background, symbols(400), many_terms(rng, 400, 150), AnnotateSettings())
        called.append(len(found) > 0)
    # 3 of 60 are expected at most; 8 or more have a chance of 1 %
    assert sum(called) < 8


def test_the_reported_false_rate_is_small_with_many_terms():
    rng = np.random.default_rng(0)
    rate = false_annotation_rate(
        np.full(30, 20), np.arange(1000), symbols(1000), many_terms(rng, 1000, 500), AnnotateSettings(null_draws=400)
    )
    assert rate <= 0.02


def test_the_false_rate_shows_a_rule_that_is_too_loose():
    rng = np.random.default_rng(0)
    loose = AnnotateSettings(max_q=1.0, min_overlap=1)
    arguments = np.full(30, 20), np.arange(100), symbols(100), many_terms(rng, 100, 50)
    assert false_annotation_rate(*arguments, loose) == 1
    assert false_annotation_rate(*arguments, loose) == false_annotation_rate(*arguments, loose)


@pytest.mark.parametrize("name", ["h.all.v7.0.symbols.gmt", "GO_Biological_Process_2021.enrichr.gmt.gz"])
def test_published_sets_name_their_own_genes_and_nothing_else(real_data, name):
    collection = read_gmt(real_data / "genesets" / name)
    genes = np.array(sorted(set().union(*collection.terms.values())))
    rng = np.random.default_rng(0)
    background = np.sort(rng.choice(len(genes), min(3000, len(genes)), replace=False))
    present = set(genes[background])
    usable = sorted(term for term, members in collection.terms.items() if 25 <= len(members & present) <= 200)
    planted = [usable[i] for i in rng.choice(len(usable), 5, replace=False)]
    token_of = {genes[token]: token for token in background}
    lists = {
        f: [token_of[g] for g in rng.choice(sorted(collection.terms[term] & present), 20, replace=False)]
        for f, term in enumerate(planted)
    }
    lists |= {f: list(rng.choice(background, 20, replace=False)) for f in range(5, 25)}
    found = enriched_terms(gene_lists(lists), background, genes, [collection], AnnotateSettings())
    for feature, term in enumerate(planted):
        assert term in set(found["term"][found["feature"] == feature])
    # 20 unrelated lists beside 5 strong ones: at most a few are called by chance
    assert found["feature"][found["feature"] >= 5].nunique() <= 3
    assert false_annotation_rate(np.full(20, 20), background, genes, [collection], AnnotateSettings()) <= 0.02


# ------------------------------------------------------------------------------------------------ a whole layer


@pytest.fixture
def named(toy_cells):
    model = cc.load_model("toy")
    tokens = model.tokenize(toy_cells)
    saes = model.saes()
    sums = count_firings(model, tokens, saes, 16)
    # the genes on which feature 0 of layer 1 is strongest
    n_positions = np.bincount(tokens.ids[tokens.gene_mask], minlength=44)
    strength = sums[1].activations.toarray()[0] / (n_positions + 5)
    strong = frozenset(tokens.gene_symbols[np.argsort(-strength)[:6]])
    sets = [GeneSets("c", {"genes of 1/0": strong, "others": frozenset(f"GENE{i}" for i in range(9))})]
    settings = AnnotateSettings(top_genes=6, min_firings=5)
    return name_features(1, sums[1], tokens, np.full(6, 1.5), sets, settings), tokens, sums[1]


def test_the_features_table_counts_what_fired(named):
    table, tokens, sums = named[0]["features"], named[1], named[2]
    firings = sums.firings.toarray()
    assert list(table["layer"].unique()) == [1] and list(table["feature"]) == list(range(6))
    for row in table.to_dict("records"):
        mine = firings[row["feature"]]
        assert row["n_firings"] == mine.sum()
        assert row["firing_rate"] == pytest.approx(mine.sum() / tokens.n_positions)
        assert row["n_unique_genes"] == (mine > 0).sum()
        assert row["mean_activation"] == pytest.approx(sums.activations[row["feature"]].sum() / mine.sum())
        assert row["n_cells"] == sums.n_cells[row["feature"]] <= 60
        assert row["decoder_norm"] == 1.5


def test_the_features_table_carries_label_and_score(named):
    features, terms, genes = (named[0][name] for name in ("features", "terms", "feature_genes"))
    assert features["label"][0] == "genes of 1/0"
    for row in features.to_dict("records"):
        mine = terms[terms["feature"] == row["feature"]]
        assert row["n_terms"] == len(mine)
        assert row["top_genes"] == ";".join(genes["symbol"][genes["feature"] == row["feature"]])
        if len(mine):
            assert (row["label"], row["label_q"]) == (mine["term"].iloc[0], mine["q_value"].min())
            score = 10 * mine["collection"].nunique() + len(mine) - np.log10(mine["q_value"].min())
            assert row["annotation_score"] == pytest.approx(score)
        else:
            assert (row["label"], row["annotation_score"]) == ("", 0) and np.isnan(row["label_q"])


def test_the_summary_of_a_layer(named):
    features, terms = named[0]["features"], named[0]["terms"]
    summary = named[0]["summary"]
    assert summary["n_features"] == summary["n_alive"] == summary["n_with_gene_list"] == 6
    assert summary["n_annotated"] == terms["feature"].nunique() == (features["label"] != "").sum()
    assert summary["annotated_share"] == pytest.approx(summary["n_annotated"] / 6)
    assert summary["n_background_genes"] == 40


def test_a_layer_of_dead_features(toy_cells):
    tokens = cc.load_model("toy").tokenize(toy_cells)
    empty = sp.csr_matrix((6, len(tokens.gene_ids)))
    sets = [GeneSets("c", {"a": frozenset(f"GENE{i}" for i in range(9))})]
    found = name_features(0, FiringSums(empty, empty, np.zeros(6, int)), tokens, np.ones(6), sets, AnnotateSettings())
    assert (found["features"]["n_firings"] == 0).all() and (found["features"]["label"] == "").all()
    assert len(found["terms"]) == len(found["feature_genes"]) == 0
    assert found["summary"]["n_alive"] == found["summary"]["n_annotated"] == 0
