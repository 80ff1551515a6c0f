"""Disease: loadings of gene sets, shared diseases and degrees against loops and permutations; the reader of sets."""

from __future__ import annotations

import gzip
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import binom, fisher_exact

from cellcircuits.disease_sets import read_disease_sets
from cellcircuits.enrichment import BackgroundSets, cut_to_background
from cellcircuits.errors import DataError
from cellcircuits.evidence import Evidence
from cellcircuits.figures.disease import draw
from cellcircuits.findings.disease import ask
from cellcircuits.measures.degree_regression import degree_regression
from cellcircuits.measures.degree_strata import degree_strata
from cellcircuits.measures.loading_enrichment import LoadingNull, called_by_chance, loading_tests, pearson_tail
from cellcircuits.measures.loadings import read_loadings
from cellcircuits.measures.published_disease import DiseaseEdges, labels_with_disease, same_disease_odds
from cellcircuits.measures.shared_labels import count_tail, shared_labels
from cellcircuits.references import GeneSets
from cellcircuits.settings import FindingsSettings
from tests.made_up_evidence import made_up_evidence
from tests.made_up_genes import evidence_with_genes, gene_table, random_sets

SETTINGS = FindingsSettings(permutations=99, disease_draws=30)


# ------------------------------------------------------------------------------------------------ loadings of sets


def random_loadings(rng: np.random.Generator, n_features: int, n_genes: int, length: int) -> tuple:
    """(scores (feature, gene), strata); common genes are on more lists."""
    weight = 1 / np.arange(5, n_genes + 5)
    stratum = np.arange(n_genes) * 4 // n_genes
    rows = [rng.choice(n_genes, length, replace=False, p=weight / weight.sum()) for _ in range(n_features)]
    scores = rng.gamma(2, 1, (n_features, length))
    owner = np.repeat(np.arange(n_features), length)
    matrix = sp.csr_matrix((scores.ravel(), (owner, np.concatenate(rows))), (n_features, n_genes))
    return matrix, stratum


def set_table(members: np.ndarray) -> BackgroundSets:
    names = pd.DataFrame({"collection": "c", "term": [f"s{i}" for i in range(members.shape[1])]})
    return BackgroundSets(names.assign(n_term=members.sum(axis=0)), sp.csr_matrix(members.astype(np.int32)))


def permuted(rng: np.random.Generator, stratum: np.ndarray) -> np.ndarray:
    image = np.arange(len(stratum))
    for code in np.unique(stratum):
        inside = np.flatnonzero(stratum == code)
        image[inside] = rng.permutation(inside)
    return image


def test_moments_are_those_of_permutations():
    rng = np.random.default_rng(0)
    scores, stratum = random_loadings(rng, 3, 40, 8)
    members = (rng.random((40, 2)) < [0.15, 0.4]).astype(float)
    null = LoadingNull(scores, stratum)
    sizes = null.sizes(sp.csr_matrix(members))
    drawn = np.array([scores @ members[permuted(rng, stratum)] for _ in range(8000)])
    for feature in range(3):
        for column in range(2):
            values = drawn[:, feature, column]
            mean, sd, skewness = (v[0] for v in null.moments(np.array([feature]), sizes[[column]]))
            assert mean == pytest.approx(values.mean(), rel=0.02) and sd == pytest.approx(values.std(), rel=0.02)
            assert skewness == pytest.approx(((values - values.mean()) ** 3).mean() / values.std() ** 3, abs=0.1)


def test_p_is_that_of_permutations():
    """By convolution where small, a little too large; from three moments elsewhere, within a third."""
    rng = np.random.default_rng(1)
    scores, stratum = random_loadings(rng, 200, 80, 10)
    members = (rng.random((80, 12)) < np.linspace(0.05, 0.25, 12)).astype(float)
    tests = loading_tests(LoadingNull(scores, stratum), set_table(members))
    drawn = np.array([scores @ members[permuted(rng, stratum)] for _ in range(3000)])
    observed = scores @ members
    assert len(tests.p) == (observed > 0).sum() and tests.n_tests == 2400
    exact = np.array(
        [(drawn[:, f, s] >= observed[f, s] - 1e-9).mean() for f, s in zip(tests.feature, tests.set, strict=True)]
    )
    assert np.allclose(tests.loading, observed[tests.feature, tests.set])
    overlap = (scores > 0).astype(float) @ members
    assert np.array_equal(tests.n_overlap, overlap[tests.feature, tests.set])
    small = tests.p < 0.01
    error = 3 * np.sqrt(np.maximum(exact, tests.p) / 3000)
    assert small.sum() >= 3 and (tests.p[small] >= exact[small] - error[small]).all()
    assert (tests.p[small] <= 2 * exact[small] + error[small]).all()
    assert (np.abs(tests.p - exact)[~small] <= 0.35 * exact[~small] + error[~small]).mean() > 0.95


def test_p_of_unrelated_sets_is_uniform_or_larger():
    rng = np.random.default_rng(2)
    scores, stratum = random_loadings(rng, 1500, 300, 15)
    # more often of genes that are common, but within a stratum of any of them
    members = (rng.random((300, 40)) < np.array([0.3, 0.15, 0.08, 0.05])[stratum][:, None]).astype(float)
    tests = loading_tests(LoadingNull(scores, stratum), set_table(members))
    for level in (1e-4, 1e-3, 0.01):
        assert (tests.p <= level).sum() <= 1.3 * level * tests.n_tests + 8
    assert 0.03 < (tests.p <= 0.05).sum() / tests.n_tests < 0.07
    assert (tests.q <= 0.05).sum() <= 3


def test_the_tail_of_three_moments():
    z = np.array([-1.0, 0.0, 2.0, 5.0])
    assert pearson_tail(z, np.zeros(4)) == pytest.approx([0.841345, 0.5, 0.0227501, 2.8665e-7], rel=1e-4)
    # skewness 2: exponential, z = x - 1
    assert pearson_tail(z, np.full(4, 2.0)) == pytest.approx(np.exp(-(z + 1)))


def test_features_called_by_chance_equal_loops():
    rng = np.random.default_rng(3)
    scores, stratum = random_loadings(rng, 60, 60, 8)
    sets = set_table((rng.random((60, 4)) < 0.15).astype(float))
    null = LoadingNull(scores, stratum)
    for cut in (0.05, 0.009):
        counts = called_by_chance(null, sets, cut, 15, np.random.default_rng(5))
        again, expected = np.random.default_rng(5), []
        order = np.argsort(stratum, kind="stable")
        for _ in range(15):
            image = np.empty(60, dtype=int)
            image[order] = np.concatenate([again.permutation(order[stratum[order] == code]) for code in range(4)])
            moved = BackgroundSets(sets.names, sets.members.tocsr()[image])
            tests = loading_tests(null, moved)
            expected.append(len(set(tests.feature[tests.p <= cut])))
        assert counts.tolist() == expected and sum(expected) > 0


# ------------------------------------------------------------------------------------------------ shared labels


def random_graph(rng: np.random.Generator, n: int = 60) -> tuple:
    """(source, target, labels, stratum): uneven degrees, labels that go together."""
    layer = np.arange(n) * 3 // n
    stratum = layer * 2 + rng.integers(0, 2, n)
    pull = rng.gamma(1, 0.06, n)
    source, target = np.nonzero((layer[:, None] < layer) & (rng.random((n, n)) < pull[:, None] + pull))
    labels = (rng.random((n, 3)) < [0.35, 0.2, 0.1]).astype(float)
    labels[:, 2] = np.maximum(labels[:, 2], labels[:, 1] * (rng.random(n) < 0.5))
    return source, target, labels, np.unique(stratum, return_inverse=True)[1]


def test_shared_labels_are_those_of_permutations():
    rng = np.random.default_rng(0)
    source, target, labels, stratum = random_graph(rng)
    found = shared_labels(source, target, sp.csr_matrix(labels), stratum)
    drawn = np.array(
        [(p[source] * p[target]).sum(axis=0) for p in (labels[permuted(rng, stratum)] for _ in range(6000))]
    )
    assert np.array_equal(found.observed, (labels[source] * labels[target]).sum(axis=0))
    assert found.expected == pytest.approx(drawn.mean(axis=0), rel=0.02)
    assert found.sd == pytest.approx(drawn.std(axis=0), rel=0.03)
    assert found.total_sd == pytest.approx(drawn.sum(axis=1).std(), rel=0.03)
    per_source = np.bincount(source, (labels[source] * labels[target]).sum(axis=1), minlength=60)
    assert np.array_equal(found.per_source, per_source)
    exact = (drawn.sum(axis=1) >= found.observed.sum()).mean()
    assert found.total_p == pytest.approx(exact, abs=0.04)


def test_p_of_unrelated_labels_is_uniform_or_larger():
    p = []
    for number in range(150):
        source, target, labels, stratum = random_graph(np.random.default_rng(number))
        p.append(shared_labels(source, target, sp.csr_matrix(labels), stratum).total_p)
    p = np.array(p)
    for level in (0.05, 0.2, 0.5):
        assert (p <= level).sum() <= binom.ppf(0.995, len(p), level)
    assert (p <= 0.5).sum() >= binom.ppf(0.001, len(p), 0.35)


def test_planted_shared_labels_are_found():
    rng = np.random.default_rng(0)
    source, target, labels, stratum = random_graph(rng)
    same = (labels[source] * labels[target]).sum(axis=1) > 0
    kept = same | (rng.random(len(source)) < 0.15)
    found = shared_labels(source[kept], target[kept], sp.csr_matrix(labels), stratum)
    assert found.total_p < 0.01 and found.observed.sum() > 1.3 * found.expected.sum()


def test_ends_in_one_stratum_are_refused():
    with pytest.raises(ValueError, match="both ends in one stratum"):
        shared_labels(np.array([0]), np.array([1]), sp.csr_matrix(np.ones((2, 1))), np.zeros(2, dtype=int))


def test_tails_of_counts():
    poisson = count_tail(np.array([3]), np.array([1.0]), np.array([1.0]))
    assert poisson == pytest.approx(1 - np.exp(-1) * 2.5)
    wide = count_tail(np.array([3, 0]), np.array([1.0, 1.0]), np.array([2.0, 2.0]))
    assert wide[0] > poisson[0] and wide[1] == 1
    narrow = count_tail(np.array([25]), np.array([20.0]), np.array([2.0]))
    exact = binom.sf(24, 25, 0.8)
    assert exact < narrow[0] < count_tail(np.array([25]), np.array([20.0]), np.array([np.sqrt(20)]))[0]
    assert count_tail(np.array([0, 2]), np.zeros(2), np.zeros(2)).tolist() == [1, 0]


# ------------------------------------------------------------------------------------------------ degrees


def regression_data(seed: int, effect: float = 0.0, n: int = 300) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Degrees that follow the firing rate, with more than Poisson noise; marks follow the firing rate too."""
    rng = np.random.default_rng(seed)
    rate = np.exp(rng.normal(-4.5, 1, n))
    features = pd.DataFrame({"layer": np.arange(n) % 3, "firing_rate": rate, "n_unique_genes": rng.integers(5, 200, n)})
    mark = rng.random(n) < 0.1 * np.clip(rate / np.median(rate), 0.5, 2)
    mean = 3 * (rate / np.median(rate)) ** 0.8 * np.exp(effect * mark)
    return rng.negative_binomial(1.0, 1 / (1 + mean)), mark, features


def test_the_regression_equals_statsmodels():
    import statsmodels.formula.api as smf

    degree, mark, features = regression_data(0, 0.7)
    found = degree_regression(degree, mark, features, 50, 0)
    frame = features.assign(y=degree, mark=mark.astype(float), rate=np.log10(features["firing_rate"]))
    frame["genes"] = np.log10(1 + frame["n_unique_genes"])
    import statsmodels.api as sm

    fit = smf.glm("y ~ mark + rate + genes + C(layer)", frame, family=sm.families.Poisson()).fit(cov_type="HC1")
    assert found["coefficient"].to_numpy() == pytest.approx(fit.params[["mark", "rate", "genes"]].to_numpy(), rel=1e-4)
    assert found["term"].tolist()[0] == "disease" and (found["n_disease"] == mark.sum()).all()


def test_p_of_unrelated_marks_is_uniform():
    p = np.array([degree_regression(*regression_data(seed), 99, seed)["p_value"].iloc[0] for seed in range(100)])
    for level in (0.05, 0.2, 0.5):
        assert binom.ppf(0.002, len(p), level) <= (p <= level).sum() <= binom.ppf(0.998, len(p), level)


def test_a_planted_difference_is_found():
    row = degree_regression(*regression_data(1, 1.0), 99, 0).iloc[0]
    assert row["p_value"] == 0.01 and row["low"] > 0 and 0.5 < row["coefficient"] < 1.5


@pytest.mark.parametrize("case", ["few marked", "no edges", "never fires"])
def test_what_cannot_be_regressed(case):
    degree, mark, features = regression_data(0)
    if case == "few marked":
        mark = np.arange(len(mark)) < 4
    if case == "no edges":
        degree = np.where(mark, 0, degree)
    if case == "never fires":
        features = features.assign(firing_rate=0.0)
    assert degree_regression(degree, mark, features, 20, 0).empty


# ------------------------------------------------------------------------------------------------ the question


def planted_evidence() -> tuple[Evidence, GeneSets]:
    """Every fifth feature lists genes of one disease; their edges lead to one another more often than to others."""
    evidence = evidence_with_genes(n_genes=150, list_size=10, n_features=80, sources_per_layer=25, edges_per_source=25)
    features, rng = evidence.features, np.random.default_rng(0)
    marked = features["feature"].to_numpy() % 5 == 0
    own = [f"G{g}" for g in range(100, 115)]
    lists = np.where(marked, [";".join(rng.permutation(own)[:10]) for _ in marked], features["top_genes"])
    features = features.assign(top_genes=lists)
    source, target = (marked[evidence.edges[end].to_numpy()] for end in ("source", "target"))
    kept = (source & target) | (rng.random(len(source)) < 0.4)
    tables = evidence.tables | {"feature_genes": gene_table(features)}
    sets = random_sets(1, 5, 15, n_genes=100)
    terms = {"planted": frozenset(own)} | sets.terms
    return Evidence(evidence.edges.filter(kept), features, tables), GeneSets("made up", terms)


def test_a_planted_disease_is_found():
    evidence, sets = planted_evidence()
    found = ask(evidence, SETTINGS, [sets])
    table = found.tables["disease"].query("disease == 'planted'")
    assert len(table) >= 60 and (table["feature"] % 5 == 0).all()
    enriched, *_, same = found.answers
    assert enriched.p_value == pytest.approx(1 / 31) and enriched.value > 0.15 > enriched.baseline
    assert same.p_value < 1e-3 and same.value > 1.3 and same.published > 1
    row = found.tables["disease_sets"].iloc[0]
    assert row["disease"] == "planted" and row["q_value"] < 0.01
    again = ask(evidence, SETTINGS, [sets])
    assert all(found.tables[name].equals(again.tables[name]) for name in found.tables)
    assert list(draw(found)) == ["disease"]


def test_the_table_equals_loops():
    evidence, sets = planted_evidence()
    table = ask(evidence, SETTINGS, [sets]).tables["disease"]
    genes = evidence.table("feature_genes")
    for row in table.iloc[:: max(1, len(table) // 10)].to_dict("records"):
        own = genes[(genes["layer"] == row["layer"]) & (genes["feature"] == row["feature"])]
        shared = own[own["symbol"].isin(sets.terms[row["disease"]])]
        assert row["genes"] == ";".join(sorted(shared["symbol"]))
        assert (row["n_overlap"], row["n_list"]) == (len(shared), len(own))
        assert row["loading"] == pytest.approx(shared["score"].sum(), rel=1e-5)
        assert row["n_set"] == len(sets.terms[row["disease"]] & set(genes["symbol"]))


def test_strata_keep_layers_and_sources_apart():
    evidence = evidence_with_genes()
    stratum = degree_strata(evidence)
    ablated = np.isin(np.arange(len(stratum)), evidence.source_rows)
    for code in np.unique(stratum):
        inside = stratum == code
        assert len(set(evidence.features["layer"][inside])) == 1 and len(set(ablated[inside])) == 1
    assert len(np.unique(stratum)) > 12


def test_published_statistics_equal_loops():
    evidence = evidence_with_genes()
    sets = random_sets(0, 6, 15)
    loadings = read_loadings(evidence)
    background = cut_to_background(loadings.symbols, [sets], 5, 1000)
    edges = DiseaseEdges(evidence.edges["source"].to_numpy(), evidence.edges["target"].to_numpy())
    used = sorted(set(edges.source.tolist()) | set(edges.target.tolist()))
    genes: dict[str, set[str]] = {}
    for row in used:
        if evidence.features["label"][row]:
            genes.setdefault(evidence.features["label"][row], set()).update(
                evidence.features["top_genes"][row].split(";")
            )
    everything = set().union(*genes.values())
    called = 0
    for own in genes.values():
        p = []
        for term in sets.terms.values():
            a = len(own & term)
            b, c = len(own) - a, len(term & everything) - a
            p.append(fisher_exact([[a, b], [c, len(everything) - a - b - c]], "greater").pvalue)
        called += min(p) < 0.05
    assert labels_with_disease(evidence, edges, loadings.scores > 0, background.members) == (called, len(genes))
    marks = np.random.default_rng(0).random((len(evidence.features), 3)) < 0.1
    layer = evidence.features["layer"].to_numpy()
    are_edges = set(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
    counts = Counter(
        ((s, t) in are_edges, bool((marks[s] & marks[t]).any()))
        for s in evidence.source_rows.tolist()
        for t in range(len(layer))
        if layer[s] < layer[t]
    )
    a, b, c, d = (counts[key] + 0.5 for key in ((True, True), (True, False), (False, True), (False, False)))
    assert same_disease_odds(evidence, edges, sp.csr_matrix(marks.astype(float))) == pytest.approx(a * d / (b * c))


def test_unrelated_sets_give_nothing():
    called = [
        ask(evidence_with_genes(seed), SETTINGS, [random_sets(seed, 8, 12)]).answers[0].p_value for seed in range(8)
    ]
    assert sum(p <= 0.05 for p in called) <= 2


@pytest.mark.parametrize("case", ["no sets", "no lists", "other genes", "no edges", "one edge", "one layer"])
def test_what_cannot_be_asked(case):
    evidence, sets = planted_evidence()
    if case == "no lists":
        evidence = made_up_evidence()
    if case in ("no edges", "one edge"):
        evidence = Evidence(evidence.edges[: int(case == "one edge")], evidence.features, evidence.tables)
    if case == "one layer":
        features = evidence.features[evidence.features["layer"] == 0]
        evidence = Evidence(evidence.edges[:0], features, {"feature_genes": gene_table(features)})
    given = {"no sets": [], "other genes": [GeneSets("x", {"x": frozenset({"X"})})]}.get(case, [sets])
    found = ask(evidence, SETTINGS, given)
    missing = {"no sets": "findings.disease_sets", "other genes": "disease_min_genes", "no lists": "No feature lists"}
    assert len(found.answers) == 4 and missing.get(case, "") in found.answers[0].note
    assert np.isnan(found.answers[1].value)
    assert np.isnan(found.answers[3].value) or case == "one edge"
    draw(found)


# ------------------------------------------------------------------------------------------------ the reader


def test_open_targets_and_gwas_tables(tmp_path):
    (tmp_path / "ot.tsv").write_text(
        "diseaseName\tapprovedSymbol\tscore\nAsthma\tIl13\t0.9\nAsthma\tTP53\t0.1\nGout\tABCG2\t0.8\n"
    )
    assert read_disease_sets(tmp_path / "ot.tsv", 0.5).terms == {"Asthma": {"IL13"}, "Gout": {"ABCG2"}}
    assert read_disease_sets(tmp_path / "ot.tsv").terms["Asthma"] == {"IL13", "TP53"}
    rows = ["DISEASE/TRAIT\tMAPPED_GENE\tP-VALUE", "Lupus\tIRF5 - TNPO3\t3e-10", 'Lupus\t"STAT4, STAT1"\t1e-9']
    text = "\n".join([*rows, "Lupus\tX1\t1e-3", ""])
    (tmp_path / "gwas.tsv.gz").write_bytes(gzip.compress(text.encode()))
    sets = read_disease_sets(tmp_path / "gwas.tsv.gz", max_p=5e-8)
    assert sets.name == "gwas" and sets.terms == {"Lupus": {"IRF5", "TNPO3", "STAT4", "STAT1"}}
    frame = pd.DataFrame({"disease": ["a", "a", None], "symbol": ["NKX2-5", "HLA-DRA", "B"], "score": [1.0, 0.2, 1.0]})
    frame.to_parquet(tmp_path / "d.parquet")
    assert read_disease_sets(tmp_path / "d.parquet").terms == {"a": {"NKX2-5", "HLA-DRA"}}
    frame.dropna().to_csv(tmp_path / "d.csv", index=False)
    assert read_disease_sets(tmp_path / "d.csv", 0.5).terms == {"a": {"NKX2-5"}}
    (tmp_path / "d.gmt").write_text("a\t-\tTP53\n")
    assert read_disease_sets(tmp_path / "d.gmt").terms == {"a": {"TP53"}}


@pytest.mark.parametrize(
    ("text", "limits", "message"),
    [
        ("a,b\n1,2\n", {}, "has no column of diseases; its columns are a, b"),
        ("disease,b\n1,2\n", {}, "has no column of gene symbols"),
        ("disease,symbol\nx,TP53\n", {"min_score": 0.5}, r"no column of scores .*disease_min_score cannot be applied"),
        ("disease,symbol\nx,TP53\n", {"max_p": 0.5}, r"no column of p .*disease_max_p cannot be applied"),
        (
            "disease,symbol,score\nx,TP53,high\n",
            {"min_score": 0.5},
            "row 1: expected a number in 'score', found 'high'",
        ),
        ("disease,symbol,score\nx,TP53,0.1\n", {"min_score": 0.5}, "holds no disease gene within the limits"),
        ("disease,symbol\nx,ENSG00000141510\n", {}, "holds identifiers"),
        ("", {}, "Cannot read the disease genes"),
    ],
)
def test_what_is_no_table_of_diseases(tmp_path, text, limits, message):
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_disease_sets(tmp_path / "d.csv", **limits)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "d.parquet").write_bytes(b"no parquet")
    for name in ("d.parquet", "absent.tsv", "absent.parquet"):
        with pytest.raises(DataError, match="Cannot read the disease genes"):
            read_disease_sets(tmp_path / name)
