"""The atlas: files and shards hold the tables, text stays text, the same tables give the same bytes."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cellcircuits.atlas import build, genes, overview, shards
from cellcircuits.atlas.inputs import AtlasRun, run_keys
from cellcircuits.atlas.programs import index_programs
from cellcircuits.atlas.run_data import EDGE_COLUMNS, END_COLUMNS, _counted_features
from cellcircuits.atlas.security import META_POLICY
from cellcircuits.errors import RunError
from cellcircuits.tables import TABLES
from tests.made_up_atlas import PNG, QUOTES, SOURCE, build_in, fake_tables, made_up_run


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_in(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def data(site: Path) -> Path:
    """Folder of the tables of the run."""
    return site / "data" / "first"


def read(path: Path) -> Any:
    """Content of a file."""
    return json.loads(gzip.decompress(path.read_bytes()))


def unfolded(content: dict[str, Any]) -> pd.DataFrame:
    """A table of the three forms of columns, as docs/atlas.md describes them."""
    columns = {}
    for name, column in content["columns"].items():
        if isinstance(column, list):
            columns[name] = column
        elif "codes" in column:
            columns[name] = [column["values"][code] for code in column["codes"]]
        else:
            columns[name] = [column["constant"]] * content["length"]
    return pd.DataFrame(columns)


def read_rows(paths: list[Path]) -> pd.DataFrame:
    """All rows of several files."""
    frames = [unfolded(read(path)) for path in paths]
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)


def bytes_by_name(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ------------------------------------------------------------------------------------ files and tables

SHARDED = ["edges_out", "edges_in", "features", "feature_genes", "terms", "regulators", "interactions"]
SHARDED += ["activation_bins", "cell_labels"]


@pytest.mark.parametrize("name", SHARDED)
def test_shards_hold_the_rows_of_the_table(data: Path, name: str) -> None:
    expected = fake_tables()[name.removesuffix("_out").removesuffix("_in")]
    if name.startswith("edges"):
        expected = expected[EDGE_COLUMNS]
    rows = read_rows(sorted((data / name).rglob("*.json.gz")))
    keys = [c for c in [*END_COLUMNS, "layer", "feature", "rank", "label", "low"] if c in expected]
    found = rows.sort_values(keys, ignore_index=True)[list(expected)]
    expected = expected.sort_values(keys, ignore_index=True)
    for column in expected:
        if expected[column].dtype.kind == "f":  # what is missing everywhere comes back without a type
            found[column] = found[column].astype(float)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=10.0 ** (1 - shards.DIGITS), atol=0)


def test_contents_name_exactly_the_shards_that_exist(data: Path) -> None:
    contents = read(data / "contents.json.gz")
    assert set(contents["shards"]) == set(SHARDED)
    for table, entry in contents["shards"].items():
        named = {f"L{int(layer):02d}/{n:04d}.json.gz" for layer, ns in entry["shards"].items() for n in ns}
        folder = data / table
        assert named == {p.relative_to(folder).as_posix() for p in folder.rglob("*.gz")}
    for path in (data / "edges_out").rglob("*.gz"):
        features = read_rows([path])["source_feature"]
        assert {f // contents["shards"]["edges_out"]["features_per_shard"] for f in features} == {int(path.name[:4])}


def test_shards_have_fewer_features_where_features_have_many_edges(tmp_path: Path) -> None:
    frame = pd.DataFrame({"layer": 0, "feature": np.repeat(np.arange(64), 600), "value": 1.5})
    entry = shards.write_by_feature(frame, "layer", "feature", tmp_path, [])
    assert entry == {"features_per_shard": 4, "shards": {"0": list(range(16))}}
    assert read(tmp_path / "L00" / "0015.json.gz")["length"] == 4 * 600


def test_numbers_without_a_json_form_survive() -> None:
    frame = pd.DataFrame({"x": [np.nan, np.inf, -np.inf, -0.5, 1e-300], "text": ["é", None, "\ud800", "b", "c"]})
    columns = unfolded(json.loads(gzip.decompress(shards.encode_table(frame))))
    assert list(columns["x"])[1:] == [np.inf, -np.inf, -0.5, 1e-300] and np.isnan(columns["x"][0])
    assert list(columns["text"]) == ["é", "", "\ud800", "b", "c"]


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ([1.0, 1.0, 1.0], {"constant": 1}),
        ([np.nan] * 3, {"constant": None}),
        ([True, True], {"constant": True}),
        (["a"] * 4, {"constant": "a"}),
        (["b", "a", "b", "b"], {"values": ["b", "a"], "codes": [0, 1, 0, 0]}),
        (["b", "a", "c"], ["b", "a", "c"]),
        ([1.0, np.nan, 1.0], [1, None, 1]),
        ([7], [7]),
        ([], []),
    ],
)
def test_columns_that_repeat_are_short(values: list, form: object) -> None:
    assert json.loads(gzip.decompress(shards.encode_table(pd.DataFrame({"x": values}))))["columns"]["x"] == form


def test_features_count_their_edges(data: Path) -> None:
    rows = read_rows(sorted((data / "layers").glob("*.gz"))).set_index(["layer", "feature"])
    edges = fake_tables()["edges"]
    counted = edges.groupby(["source_layer", "source_feature"]).size()
    assert rows["n_out"].sum() == rows["n_in"].sum() == len(edges)
    assert rows.loc[SOURCE, "n_out"] == counted[SOURCE]
    assert rows["n_specific_out"].sum() == edges["specific"].sum() > 0
    assert rows["module"].value_counts()[0] == 2 and rows.loc[SOURCE, "module"] == 0


def test_layers_and_maps_have_the_same_features_in_the_same_order(data: Path) -> None:
    contents = read(data / "contents.json.gz")
    assert [layer["n_features"] for layer in contents["layers"]] == [70, 70, 70]
    assert sum(layer["n_firing"] for layer in contents["layers"]) == 3 * 70 - 1
    for layer in range(3):
        rows, places = (unfolded(read(data / name / f"L{layer:02d}.json.gz")) for name in ("layers", "map"))
        assert len(rows) == len(places) and list(rows["feature"]) == list(range(70))
        missing = places["x"].isna()
        assert list(rows["feature"][missing]) == ([7] if layer == 0 else [])


@pytest.mark.parametrize("limit", [3, 200])
def test_gene_index_equals_a_plain_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: int) -> None:
    monkeypatch.setattr(genes, "EDGES_PER_GENE", limit)
    monkeypatch.setattr(genes, "_EDGES_PER_CHUNK", 17)
    tables = fake_tables()
    features = _counted_features(made_up_run(tmp_path), tables["edges"])
    index = genes.index_genes(tables["feature_genes"], features, tables["edges"])
    have: dict[str, set] = {}
    for row in tables["feature_genes"].itertuples():
        have.setdefault(row.symbol, set()).add((row.layer, row.feature))
    assert list(index.genes["symbol"]) == sorted(have)
    for gene, row in index.genes.iterrows():
        members = have[row["symbol"]]
        both = [
            edge
            for edge in tables["edges"].itertuples()
            if (edge.source_layer, edge.source_feature) in members
            and (edge.target_layer, edge.target_feature) in members
        ]
        strongest = sorted((abs(edge.snr) for edge in both), reverse=True)[:limit]
        assert (row["n_features"], row["n_edges"]) == (len(members), len(both))
        assert list(index.edges.loc[index.edges["gene"] == gene, "snr"].abs()) == strongest


def test_program_index_equals_a_plain_search(tmp_path: Path) -> None:
    tables = fake_tables()
    features = _counted_features(made_up_run(tmp_path), tables["edges"])
    index = index_programs(tables["terms"], features, tables["circuits"])
    have: dict[str, set] = {}
    for row in features.itertuples():
        if row.label:
            have.setdefault(row.label, set()).add((row.layer, row.feature, True))
    for row in tables["terms"].itertuples():
        label = features.set_index(["layer", "feature"])["label"][row.layer, row.feature]
        have.setdefault(row.term, set()).add((row.layer, row.feature, row.term == label))
    assert list(index.programs["program"]) == sorted(have)
    for program, row in index.programs.iterrows():
        listed = index.features[index.features["program"] == program]
        found = set(listed[["layer", "feature", "labelled"]].itertuples(index=False, name=None))
        assert found == have[row["program"]] and row["n_features"] == len(found)
        assert row["n_labelled"] == sum(labelled for *_, labelled in found)
        pairs = index.pairs[index.pairs["program"] == program]
        circuits = tables["circuits"]
        ends = (circuits["source_label"] == row["program"]).sum(), (circuits["target_label"] == row["program"]).sum()
        assert tuple((pairs["direction"] == way).sum() for way in ("out", "in")) == ends
        assert row["n_pairs"] == sum(ends)


def test_same_tables_in_any_order_give_the_same_bytes(site: Path, tmp_path: Path) -> None:
    shuffled = {
        name: frame if name == "answers" else frame.sample(frac=1, random_state=1)
        for name, frame in fake_tables().items()
    }
    assert bytes_by_name(build_in(tmp_path, shuffled)) == bytes_by_name(site)


def test_several_runs_lie_beside_each_other(site: Path, tmp_path: Path) -> None:
    both = bytes_by_name(build_in(tmp_path, keys=("first", "second")))
    for name, content in bytes_by_name(site).items():
        if name.startswith(("data/first/", "findings/first/", "js/")):
            assert both[name] == content
    listed = json.loads(gzip.decompress(both["data/site.json.gz"]))
    assert [run["key"] for run in listed["runs"]] == ["first", "second"] and listed["comparison"]["n_pairs"] == 1
    assert {"data/second/contents.json.gz", "data/comparison/consensus.json.gz"} <= set(both)


def test_keys_of_runs_are_fit_for_addresses() -> None:
    names = ["My Run 1!", "my-run-1", "features", "Ядро", "12", "comparison", "a" * 90]
    assert run_keys(names) == ["my-run-1", "my-run-1-2", "run-features", "run", "run-12", "run-comparison", "a" * 40]


def test_atlas_of_empty_tables_can_be_built(tmp_path: Path) -> None:
    site = build_in(tmp_path, {name: frame.head(0) for name, frame in fake_tables().items()})
    assert read(site / "data" / "first" / "contents.json.gz")["layers"] == []
    assert "not tested in this run" in (site / "index.html").read_text("utf-8")


def test_atlas_of_edges_and_features_alone_can_be_built(tmp_path: Path) -> None:
    needed = {name: fake_tables()[name] for name in ("edges", "features")}
    build.build_site([AtlasRun("run-1", "only", needed)], tmp_path, "title")
    known = read(tmp_path / "data" / "run-1" / "contents.json.gz")["known"]
    assert known == {"controls": True, "groups": True, "modules": False, "map": False}


def test_unusable_input_is_refused_with_advice(tmp_path: Path) -> None:
    run = made_up_run(tmp_path)
    site = tmp_path / "site"
    site.mkdir()

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(RunError, match=match):
            build.build_site([AtlasRun(**{**vars(run), **changes})], site, "")

    with pytest.raises(RunError, match="is missing or not empty"):
        build.build_site([run], tmp_path / "absent", "")
    with pytest.raises(RunError, match="different keys fit for addresses"):
        build.build_site([run, run], site, "")
    refused("different keys fit for addresses", key="../up")
    refused("missing: edges", tables={"features": run.tables["features"]})
    refused("must be existing PNG files", figures=[tmp_path / "plot.svg"])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "signs_by_rule.png").write_bytes(PNG)
    refused("found more than once: signs_by_rule", figures=[*run.figures, tmp_path / "sub" / "signs_by_rule.png"])
    refused("must be an existing HTML file", report=tmp_path / "absent.html")
    assert not list(site.iterdir())


# ------------------------------------------------------------------------------------- text stays text


def test_overview_escapes_every_name(site: Path) -> None:
    page = (site / "index.html").read_text("utf-8")
    assert "<script>window" not in page and "<b>bold" not in page
    assert "&lt;script&gt;window.attacked = true&lt;/script&gt;" in page
    assert "Quotes &quot; &#x27; &amp; &lt;b&gt;bold&lt;/b&gt; $title" in page
    assert "1\u202f234\u202f567" in page and "not available" in page
    assert 'src="findings/first/signs_by_rule.png"' in page


@pytest.mark.parametrize("known", [True, False])
def test_overview_says_how_many_edges_are_specific(known: bool) -> None:
    tables = fake_tables()
    edges = tables["edges"].assign(specific_q=0.5 if known else np.nan)
    lead = overview._lead(edges, tables["features"])
    assert (f", {edges['specific'].sum()} of them beyond what random directions do." in lead) == known
    assert lead.startswith(f"{len(edges)} causal edges")


NAMESPACES = ("http://www.w3.org/2000/svg", "http://graphml.graphdrawing.org/xmlns")
"""Names of vocabularies, which nothing is loaded from."""


def test_pages_allow_no_foreign_or_inline_code(site: Path) -> None:
    page = (site / "index.html").read_text("utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None and policy[1] == META_POLICY
    assert "default-src 'none'" in policy[1] and "unsafe" not in policy[1]
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?! type=\"module\" src=\"js/app.js\">)", page)
    for path in [*site.rglob("*.js"), site / "style.css", site / "index.html"]:
        text = path.read_text("utf-8")
        for name in NAMESPACES:
            text = text.replace(name, "")
        assert not re.search(
            r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|inhibit", text
        ), path


def test_methods_tell_the_declared_meaning_of_every_column(site: Path) -> None:
    rows = read_rows([site / "data" / "columns.json.gz"])
    told = {(row.table, row.column): row.meaning for row in rows.itertuples()}
    assert told["edges", "mean_delta"].endswith("negative: the source supports the target")
    assert {table for table, _ in told} == set(build.METHOD_TABLES) <= set(TABLES)


def test_names_of_runs_reach_the_overview_as_text(tmp_path: Path) -> None:
    page = (build_in(tmp_path, keys=("first", "second")) / "index.html").read_text("utf-8")
    assert page.count('class="run" data-run=') == 2 and 'href="#/second"' in page
    assert QUOTES not in page and "second Quotes &quot;" in page
