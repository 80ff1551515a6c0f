"""Gene sets enriched in gene lists, against Fisher's exact test one by one; redundancy, labels, false rates."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from scipy.stats import fisher_exact

from cellcircuits.annotation import Annotator
from cellcircuits.calibration import null_lists
from cellcircuits.calibration import random_lists as random_weighted
from cellcircuits.enrichment import gene_lists, redundant_terms
from cellcircuits.references import GeneSets, read_gmt
from cellcircuits.settings import AnnotateSettings
from cellcircuits.stats import benjamini_hochberg, counted_benjamini_hochberg, hypergeometric_enrichment


def listed(lists: dict[int, list[int]]) -> pd.DataFrame:
    """{feature: tokens, best first} as the table of top genes."""
    rows = [(f, rank, token) for f, tokens in lists.items() for rank, token in enumerate(tokens, start=1)]
    frame = pd.DataFrame(rows, columns=["feature", "rank", "token"]).astype(int)
    return frame.assign(score=1.0, n_firings=10, n_positions=20)


def random_lists(rng: np.random.Generator, background: np.ndarray, n_lists: int, length: int) -> pd.DataFrame:
    return listed({f: list(rng.choice(background, length, replace=False)) for f in range(n_lists)})


def symbols(n: int) -> np.ndarray:
    return np.array([f"Gene{i}" for i in range(n)])


def annotated(genes, background, names, collections, settings) -> dict[str, pd.DataFrame]:
    """All tables of lists of tokens."""
    lists = gene_lists(genes["feature"], np.searchsorted(background, genes["token"]), len(background))
    return Annotator(names[background], collections, [], settings).annotate(lists)


def found_terms(genes, background, names, collections, settings) -> pd.DataFrame:
    return annotated(genes, background, names, collections, settings)["terms"]


def null_share(lengths, background, names, collections, settings) -> float:
    """Share of random lists of these lengths that are annotated."""
    genes = listed({f: list(background[:length]) for f, length in enumerate(lengths)})
    return annotated(genes, background, names, collections, settings)["annotation_rates"]["null_share"][0]


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


# ------------------------------------------------------------------------------------------------ enrichment


def test_p_and_q_equal_fishers_test():
    rng = np.random.default_rng(1)
    background, names = np.arange(10, 130), symbols(140)
    terms = {f"t{i}": frozenset(f"GENE{g}" for g in rng.choice(140, rng.integers(4, 30))) for i in range(25)}
    planted = {f: [int(name[4:]) for name in sorted(terms[f"t{f}"])] for f in range(5)}
    lists = {f: list(dict.fromkeys(g for g in genes if g in background))[:8] for f, genes in planted.items()}
    lists |= {f: list(rng.choice(background, 8, replace=False)) for f in range(5, 12)}
    settings = AnnotateSettings(min_term_genes=6, max_term_genes=20, max_q=0.2)
    found = found_terms(listed(lists), background, names, [GeneSets("c", terms)], settings)
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
    found = found_terms(
        listed({0: list(range(6))}), np.arange(100), symbols(100), [GeneSets("c", terms)], AnnotateSettings()
    )
    assert list(found["term"]) == ["hit"]
    assert found["q_value"][0] == pytest.approx(11 * found["p_value"][0])


def test_sets_are_cut_to_the_background():
    """Genes that could not be in a list do not count; a set that is left too small is not tested."""
    terms = {"cut": frozenset(f"GENE{i}" for i in range(40)), "gone": frozenset(f"GENE{i}" for i in range(46, 60))}
    found = found_terms(
        listed({0: list(range(30, 36))}),
        np.arange(30, 50),
        symbols(60),
        [GeneSets("c", terms)],
        AnnotateSettings(max_q=1.0),
    )
    assert [(row["term"], row["n_term"], row["n_background"]) for row in found.to_dict("records")] == [("cut", 10, 20)]


def test_a_set_may_be_too_large():
    terms = {"large": frozenset(f"GENE{i}" for i in range(40))}
    settings = AnnotateSettings(max_q=1.0, max_term_genes=39)
    assert found_terms(listed({0: list(range(9))}), np.arange(90), symbols(90), [GeneSets("c", terms)], settings).empty


def test_the_smallest_overlap_that_is_called():
    terms = {"a": frozenset(f"GENE{i}" for i in range(5))}
    for least, n_found in ((3, 1), (4, 0)):
        settings = AnnotateSettings(min_overlap=least, max_q=1.0)
        found = found_terms(
            listed({0: [0, 1, 2, 50, 51]}), np.arange(90), symbols(90), [GeneSets("c", terms)], settings
        )
        assert len(found) == n_found


def test_the_label_is_the_smallest_q_then_the_odds_ratio_then_the_name():
    same = frozenset(f"GENE{i}" for i in range(6))
    terms = {"twin b": same, "twin a": same, "weaker": frozenset(f"GENE{i}" for i in [0, 1, 2, *range(30, 34)])}
    collections = [GeneSets("second", terms), GeneSets("first", {"twin a": same})]
    found = found_terms(
        listed({3: list(range(6))}), np.arange(80), symbols(80), collections, AnnotateSettings(max_q=0.9)
    )
    best_first = [tuple(row) for row in found[["term", "collection"]].itertuples(index=False)]
    assert best_first == [("twin a", "first"), ("twin a", "second"), ("twin b", "second"), ("weaker", "second")]


def test_ties_in_q_go_to_the_larger_odds_ratio():
    """q is cut at the q of the next larger p, so different overlaps can share one q."""
    terms = {f"t{j}": frozenset(f"GENE{i}" for i in range(6 - j, 12 - j)) for j in range(5)}
    found = found_terms(
        listed({0: list(range(6))}), np.arange(30), symbols(30), [GeneSets("c", terms)], AnnotateSettings(max_q=1)
    )
    order = [(row["q_value"], -row["odds_ratio"], row["term"]) for row in found.to_dict("records")]
    assert order == sorted(order)


@pytest.mark.parametrize("collections", [[], [GeneSets("c", {"elsewhere": frozenset({"TP53", "MDM2"})})]])
def test_no_set_can_be_tested(collections):
    genes = listed({0: [1, 2, 3]})
    assert found_terms(genes, np.arange(20), symbols(20), collections, AnnotateSettings()).empty
    assert null_share(np.array([3]), np.arange(20), symbols(20), collections, AnnotateSettings()) == 0


def test_no_feature_has_genes():
    sets = [GeneSets("c", {"a": frozenset(f"GENE{i}" for i in range(9))})]
    assert found_terms(listed({}), np.arange(20), symbols(20), sets, AnnotateSettings()).empty
    nothing = np.array([], dtype=int)
    assert null_share(nothing, np.arange(20), symbols(20), sets, AnnotateSettings()) == 0


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
        found = found_terms(genes, background, symbols(400), many_terms(rng, 400, 150), AnnotateSettings())
        called.append(len(found) > 0)
    # 3 of 60 are expected at most; 8 or more have a chance of 1 %
    assert sum(called) < 8


def test_the_reported_false_rate_is_small_with_many_terms():
    rng = np.random.default_rng(0)
    rate = null_share(
        np.full(30, 20), np.arange(1000), symbols(1000), many_terms(rng, 1000, 500), AnnotateSettings(null_draws=400)
    )
    assert rate <= 0.02


def test_the_false_rate_shows_a_rule_that_is_too_loose():
    rng = np.random.default_rng(0)
    loose = AnnotateSettings(max_q=1.0, min_overlap=1)
    arguments = np.full(30, 20), np.arange(100), symbols(100), many_terms(rng, 100, 50)
    assert null_share(*arguments, loose) == 1
    assert null_share(*arguments, loose) == null_share(*arguments, loose)


def test_random_lists_have_the_sizes_and_the_weights_asked_for():
    rng = np.random.default_rng(0)
    weights = np.array([0, 1, 1, 4, 4.0])
    drawn = random_weighted(np.full(4000, 1), weights, rng).genes.toarray()
    assert (drawn.sum(axis=1) == 1).all() and drawn[:, 0].sum() == 0
    # 4000 draws: a share of 0.4 has a standard deviation of 0.008
    np.testing.assert_allclose(drawn.mean(axis=0), weights / 10, atol=0.03)
    sizes = rng.integers(1, 5, 1300)
    assert (random_weighted(sizes, weights, rng).sizes == sizes).all()


def test_drawing_without_replacement_follows_the_weights_of_what_is_left():
    """The second gene is drawn from those that are left, in proportion to their weights."""
    weights = np.array([1.0, 2, 5])
    drawn = random_weighted(np.full(20000, 2), weights, np.random.default_rng(1)).genes.toarray()
    first, total = weights / 8, np.zeros(3)
    for gene in range(3):
        for other in range(3):
            if other != gene:
                total[[gene, other]] += first[gene] * weights[other] / (8 - weights[gene])
    np.testing.assert_allclose(drawn.mean(axis=0), total, atol=0.015)


def test_the_rates_count_lists_with_a_call():
    """Three real circuits among ten lists: the rates, and random lists judged by the cut that these led to."""
    rng = np.random.default_rng(2)
    terms = {f"t{i}": frozenset(f"GENE{g}" for g in range(20 * i, 20 * i + 12)) for i in range(8)}
    lists = {f: list(range(20 * f, 20 * f + 8)) for f in range(3)}
    lists |= {f: list(rng.choice(np.arange(160, 400), 8, replace=False)) for f in range(3, 10)}
    sets = [GeneSets("first", dict(list(terms.items())[:2])), GeneSets("second", dict(list(terms.items())[2:]))]
    settings = AnnotateSettings(null_draws=300)
    found = annotated(listed(lists), np.arange(400), symbols(400), sets, settings)["annotation_rates"]
    rows = found.set_index("source")
    assert list(rows.index) == ["all", "first", "second"]
    assert list(rows["n_tests"]) == [8, 2, 6]
    assert list(rows["n_annotated"]) == [3, 2, 1] and (rows["n_lists"] == 10).all()
    assert rows["share"].tolist() == [0.3, 0.2, 0.1]
    cut = 8 * 10  # tests; three are called, so p must be at most 0.05 x 3 / 80
    drawn = null_lists(gene_lists(*lists_as_pairs(lists), 400), settings)
    for column, chosen in (("null_share_at_cut", drawn.uniform), ("listed_share_at_cut", drawn.listed)):
        called = 0
        for genes in chosen.genes.toarray().astype(bool):
            overlaps = [genes[20 * i : 20 * i + 12].sum() for i in range(8)]
            p = [slow_p(overlap, 8, 12, 400) for overlap in overlaps]
            called += any(value <= 0.05 * 3 / cut and n >= 2 for value, n in zip(p, overlaps, strict=True))
        assert rows[column]["all"] == pytest.approx(called / 300)
    assert rows["listed_share_at_cut"]["all"] > rows["null_share_at_cut"]["all"]


def lists_as_pairs(lists: dict[int, list[int]]) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.array([(f, gene) for f, genes in lists.items() for gene in genes])
    return pairs[:, 0], pairs[:, 1]


def slow_p(overlap: int, n_list: int, n_term: int, n_background: int) -> float:
    table = [[overlap, n_list - overlap], [n_term - overlap, n_background - n_list - n_term + overlap]]
    return fisher_exact(table, alternative="greater").pvalue


@pytest.mark.parametrize("n_background", [30, 400, 20_000])
def test_the_tail_equals_fishers_test(n_background):
    rng = np.random.default_rng(n_background)
    n_list = rng.integers(1, 25, 200)
    n_term = rng.integers(1, min(n_background, 3000), 200)
    least, most = np.maximum(n_list + n_term - n_background, 0), np.minimum(n_list, n_term)
    overlap = rng.integers(least, most + 1)
    found = hypergeometric_enrichment(overlap, n_list, n_term, n_background)
    expected = [slow_p(*three, n_background) for three in zip(overlap, n_list, n_term, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_counted_q_equals_q_of_all_tests():
    rng = np.random.default_rng(0)
    distinct, counts = np.sort(rng.random(30)) ** 3, rng.integers(1, 9, 30)
    order = rng.permutation(30)
    q = counted_benjamini_hochberg(distinct[order], counts[order], n_ones=500)
    every = benjamini_hochberg(np.concatenate([np.repeat(distinct, counts), np.ones(500)]))
    first = np.cumsum(counts) - counts
    np.testing.assert_allclose(q, every[first][order], rtol=1e-12)
    assert len(counted_benjamini_hochberg(np.zeros(0), np.zeros(0), 5)) == 0


def slow_redundant(terms: list[tuple[str, set[str]]], share: float) -> dict[str, str]:
    kept, found = [], {}
    for name, genes in terms:
        found[name] = ""
        for other, known in kept:
            if sum(gene in known for gene in genes) / len(genes) > share:
                found[name] = other
                break
        if not found[name]:
            kept.append((name, genes))
    return found


def test_redundant_terms_share_most_of_their_genes_with_a_better_one():
    rng = np.random.default_rng(5)
    rows, expected = [], []
    for feature in range(6):
        terms = [(f"t{i}", {f"G{g}" for g in rng.choice(9, rng.integers(2, 6), replace=False)}) for i in range(8)]
        rows += [(feature, name, ";".join(sorted(genes))) for name, genes in terms]
        expected += slow_redundant(terms, 0.5).values()
    found = redundant_terms(pd.DataFrame(rows, columns=["feature", "term", "genes"]), 0.5)
    assert found == expected
    assert "" in found and len(set(found)) > 3


def test_exactly_half_is_not_most():
    terms = pd.DataFrame({"feature": [0, 0, 0], "term": ["a", "b", "c"], "genes": ["A;B", "B;C", "A;B;D"]})
    assert redundant_terms(terms, 0.5) == ["", "", "a"]
    assert redundant_terms(terms, 0.4) == ["", "a", "a"]
    assert redundant_terms(terms, 1.0) == ["", "", ""]


def test_two_genes_with_one_symbol_are_both_in_the_set():
    names = np.array(["A", "a", "B", "C", "D", "E", *(f"X{i}" for i in range(60))])
    sets = [GeneSets("c", {"t": frozenset("ABCDE")})]
    found = found_terms(listed({0: [0, 1, 2, 3]}), np.arange(66), names, sets, AnnotateSettings(max_q=1.0))
    assert (found["n_overlap"][0], found["n_term"][0]) == (4, 6)


def test_thousands_of_features_and_terms_take_seconds():
    rng = np.random.default_rng(0)
    n_genes, n_lists, n_terms = 12_000, 4_608, 6_000
    sizes = np.minimum(rng.geometric(1 / 60, n_terms) + 4, 500)
    terms = {f"t{i}": frozenset(f"GENE{g}" for g in rng.integers(0, n_genes, size)) for i, size in enumerate(sizes)}
    genes = np.argsort(rng.random((n_lists, n_genes), dtype=np.float32), axis=1)[:, :20]
    genes[:300] = [
        [int(g[4:]) for g in sorted(terms[f"t{i}"])][:20] + [0] * max(0, 20 - len(terms[f"t{i}"])) for i in range(300)
    ]
    lists = gene_lists(np.repeat(np.arange(n_lists), 20), genes.ravel(), n_genes)
    annotator = Annotator(symbols(n_genes), [GeneSets("c", terms)], [], AnnotateSettings())
    start = time.perf_counter()
    found = annotator.annotate(lists)
    # about 2 s; the limit leaves room for a busy machine
    assert time.perf_counter() - start < 30
    assert found["terms"]["feature"].nunique() > 250


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
    found = found_terms(listed(lists), background, genes, [collection], AnnotateSettings())
    for feature, term in enumerate(planted):
        assert term in set(found["term"][found["feature"] == feature])
    # 20 unrelated lists beside 5 strong ones: at most a few are called by chance
    assert found["feature"][found["feature"] >= 5].nunique() <= 3
    assert null_share(np.full(20, 20), background, genes, [collection], AnnotateSettings()) <= 0.02
