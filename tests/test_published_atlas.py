"""The published atlases as tables, and the published numbers against their own files where these are present."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

import cellcircuits as cc
from cellcircuits.errors import DataError
from cellcircuits.references import GeneSets, read_gmt
from cellcircuits.tables import TABLES
from tests.scripts import load_script


def benchmark() -> ModuleType:
    return load_script("benchmarks/published_atlas.py")


GENES = [{"n": f"G{i}", "a": 9.0 - i, "fc": 10 + i} for i in range(7)]
RECORDS = [
    {"o": "TRRUST_TF_enrichment", "t": "transcription_factors", "p": 0.001, "or": 9.0, "n": 2, "g": ["G0", "G5"]},
    {"o": "GO_BP", "t": "b", "p": 0.01, "or": 5.0, "n": 3, "g": ["G2", "G1", "G0"]},
    {"o": "KEGG", "t": "a", "p": 0.01, "or": 7.0, "n": 2, "g": ["G0", "G1"]},
    {"o": "STRING_edges", "t": "pairwise_enrichment", "p": 0.05, "or": 0, "n": 0, "g": []},
]


def entry(i: int, **changes) -> dict:
    base = {"i": i, "d": False, "f": 0.25, "ma": 0.5, "fc": 100, "na": 0, "m": -1, "sv": False, "lb": "", "to": "none"}
    return base | {"tg": [{"n": gene["n"], "a": gene["a"]} for gene in GENES[:5]]} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two layers of three features; the annotations of layer 1 are missing."""
    counts = {"GO_BP": 1, "KEGG": 1, "Reactome": 0, "STRING": 1, "TRRUST": 1}
    layers = [
        {"layer": layer, "alive": 2, "dead": 1, "annotated": 1, "annotation_rate": 0.5, "ontology_counts": counts}
        for layer in (0, 1)
    ]
    files = {
        "global_summary.json": {"total_features": 6, "layers": layers},
        "layer_00_features.json": [
            entry(0),
            entry(1, na=4, lb="transcription_factors", to="TRRUST_TF_enrichment"),
            entry(2, d=True, f=0.0, ma=0.0, fc=0, tg=[]),
        ],
        "layer_00_annotations.json": {"1": {"genes": GENES, "anns": RECORDS}},
        "layer_01_features.json": [entry(0, na=2, lb="x", to="KEGG"), entry(1), entry(2, lb="y", to="STRING_edges")],
    }
    for name, content in files.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    return tmp_path


def test_features_have_our_columns(folder):
    features = cc.read_published_atlas(folder).features
    ours = [column.name for column in TABLES["features"]]
    assert list(features)[: len(ours)] == ours
    assert list(features["layer"]) == [0, 0, 0, 1, 1, 1] and list(features["feature"]) == [0, 1, 2] * 2
    assert features["mean_activation"].tolist()[:2] == [2.0, 2.0] and np.isnan(features["mean_activation"][2])
    assert features[["n_cells", "decoder_norm", "n_unique_genes"]].isna().all(axis=None)
    np.testing.assert_array_equal(features["n_terms"], [0, 2, 0, np.nan, np.nan, np.nan])
    assert list(features["n_records"]) == [0, 4, 0, 2, 0, 0]
    assert list(features["dead"]) == [False, False, True, False, False, False]


def test_the_label_follows_our_rule(folder):
    """Gene sets only; of equal q the larger odds ratio. Without records, the published label of a gene set."""
    features = cc.read_published_atlas(folder).features
    assert list(features["label"]) == ["", "a", "", "x", "", ""]
    assert features["label_q"][1] == 0.01 and features["label_odds_ratio"][1] == 7.0
    assert features["annotation_score"][1] == pytest.approx(10 * 2 + 2 - np.log10(0.01))


def test_genes_terms_and_other_records(folder):
    atlas = cc.read_published_atlas(folder)
    genes = atlas.feature_genes
    assert list(genes) == [column.name for column in TABLES["feature_genes"]]
    mine = genes[(genes["layer"] == 0) & (genes["feature"] == 1)]
    assert list(mine["symbol"]) == [f"G{i}" for i in range(7)] and list(mine["rank"]) == list(range(1, 8))
    assert list(mine["n_firings"]) == list(range(10, 17))
    other = genes[(genes["layer"] == 0) & (genes["feature"] == 0)]
    assert len(other) == 5 and other["n_firings"].isna().all()
    assert list(atlas.terms) == [column.name for column in TABLES["terms"]]
    assert list(atlas.terms["term"]) == ["a", "b"]
    assert list(atlas.terms["redundant_with"]) == ["", "a"]
    assert list(atlas.terms["genes"]) == ["G0;G1", "G0;G1;G2"] and list(atlas.terms["n_list"]) == [7, 7]
    assert list(atlas.other_records["ontology"]) == ["TRRUST_TF_enrichment", "STRING_edges"]
    assert atlas.totals == {"total_features": 6}
    assert list(atlas.layers["n_TRRUST"]) == [1, 1]


def test_a_folder_without_an_atlas(tmp_path):
    with pytest.raises(DataError, match=r"holds no published atlas: expected global_summary\.json"):
        cc.read_published_atlas(tmp_path)


def test_a_damaged_file(folder):
    (folder / "layer_00_features.json.gz").write_bytes(b"\x1f\x8bxx")
    with pytest.raises(DataError, match=r"Cannot read .*layer_00_features\.json\.gz: .*Expected a JSON file"):
        cc.read_published_atlas(folder)


def test_another_layout(folder):
    (folder / "layer_00_features.json.gz").write_bytes(gzip.compress(b'[{"index": 1}]'))
    with pytest.raises(DataError, match="has another layout than the published atlases"):
        cc.read_published_atlas(folder)


def test_an_atlas_without_layers(folder):
    for path in folder.glob("layer_*"):
        path.unlink()
    with pytest.raises(DataError, match=r"has no file layer_NN_features\.json"):
        cc.read_published_atlas(folder)


def test_the_background_is_recovered_from_odds_ratios():
    """Odds ratios of made-up terms, rounded as published, give the number of genes they were computed with."""
    rng = np.random.default_rng(0)
    for background in (6328, 12395):
        rows = []
        for term in range(40):
            size = int(rng.integers(20, 200))
            for a in (2, 3, 4, 5):
                ratio = a * (background - 20 - size + a) / ((20 - a) * (size - a))
                rows.append(("GO_BP", f"t{term}", a, 20, round(ratio, 2)))
        columns = ["collection", "term", "n_overlap", "n_list", "odds_ratio"]
        found, agree, possible = benchmark().recovered_background(pd.DataFrame(rows, columns=columns))
        assert (found, agree, possible) == (background, 40, 40)


@pytest.mark.parametrize(
    ("published", "found", "equal"),
    [(0.524, 0.5243, True), (0.524, 0.5251, False), (141, 141, True), (141, 142, False), (2.36, 2.3569, True)],
)
def test_numbers_are_compared_to_the_digits_published(published, found, equal):
    assert benchmark().same(published, found) == equal


def test_the_published_correction_annotates_random_lists():
    """Only overlaps of two or more count as tests there, so with many sets nearly every list passes."""
    rng = np.random.default_rng(0)
    terms = {f"t{i}": frozenset(f"G{g}" for g in rng.choice(3000, 25, replace=False)) for i in range(2000)}
    symbols = np.array([f"G{i}" for i in range(3000)], dtype=object)
    annotator = benchmark().Annotator(symbols, [GeneSets("c", terms)], [], benchmark().SETTINGS)
    genes = np.concatenate([rng.choice(3000, 20, replace=False) for _ in range(100)])
    lists = benchmark().gene_lists(np.repeat(np.arange(100), 20), genes, 3000)
    assert benchmark().published_rule(lists, annotator) > 0.9
    assert annotator.annotate(lists)["annotation_rates"]["share"][0] <= 0.02


# ------------------------------------------------------------------------------------------------ the real files


@cache
def real_atlas(folder: Path) -> cc.PublishedAtlas:
    return cc.read_published_atlas(folder)


@pytest.mark.parametrize(("name", "n_numbers"), [("geneformer", 25), ("scgpt", 13)])
def test_published_numbers_follow_from_the_files(real_data, name, n_numbers):
    folder = real_data / f"atlas_{name}"
    found = benchmark().recomputed_numbers(real_atlas(folder), folder)
    published = benchmark().PUBLISHED[name]
    assert len(published) == n_numbers and set(published) <= set(found)
    assert [key for key, value in published.items() if not benchmark().same(value, found[key])] == []


@pytest.mark.parametrize(("name", "n_layers"), [("geneformer", 5), ("scgpt", 12)])
def test_every_layer_agrees_with_the_summary(real_data, name, n_layers):
    atlas = real_atlas(real_data / f"atlas_{name}")
    table = benchmark().layer_agreement(atlas)
    assert len(table) == n_layers
    for column in ("alive", "dead", "annotated"):
        assert all(stated == counted for stated, counted in table[column])
    counts = atlas.layers.set_index("layer")
    for (layer, collection), rows in atlas.terms.groupby(["layer", "collection"]):
        assert len(rows) == counts[f"n_{collection}"][layer]


def test_published_labels_agree_with_our_rule(real_data):
    """They differ where the published label is no gene set, and where rounded q values are equal."""
    for name in ("geneformer", "scgpt"):
        features = real_atlas(real_data / f"atlas_{name}").features
        features = features[features["n_terms"] > 0]
        of_sets = features[features["published_ontology"].isin(["GO_BP", "KEGG", "Reactome"])]
        assert (of_sets["label"] == of_sets["published_label"]).mean() > 0.97
        assert len(of_sets) > 0.97 * len(features)


def test_the_published_background_is_that_of_the_listed_genes(real_data):
    """All terms agree on one number of genes: a few more than the files list, as they hide the lists of some."""
    atlas = real_atlas(real_data / "atlas_geneformer")
    for layer, expected in ((5, 6328), (15, 6305), (17, 6331)):
        background, agree, possible = benchmark().recovered_background(atlas.terms[atlas.terms["layer"] == layer])
        assert background == expected and agree == possible > 100
        listed = atlas.feature_genes[atlas.feature_genes["layer"] == layer]["symbol"].nunique()
        assert 0.98 * background < listed < background


def test_few_published_annotations_survive_the_correction_for_all_tests(real_data):
    atlas = real_atlas(real_data / "atlas_geneformer")
    sets = [read_gmt(real_data / "genesets" / "GO_Biological_Process_2021.enrichr.gmt.gz")]
    found = benchmark().retest(atlas, 17, sets, 20, benchmark().atlas_background(atlas))
    assert found["lists"] > 2000
    assert found["null_share"] <= 0.05 and found["null_share_at_cut"] <= 0.05
    assert 0.005 < found["share"] < 0.05
    assert found["published_rule"] > 0.8 and found["published_rule_null"] > 0.7
