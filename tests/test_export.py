"""Edges for other programs: what is written can be read back with the same numbers, or nothing is changed."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from cellcircuits.errors import RunError, SettingsError
from cellcircuits.export import ENDINGS, export_edges
from cellcircuits.tables import TABLES, make_table

LABELS = ["interferon, type I", 'the "b" & <c> set', "", "Rezeptor für IL-2"]
IDS = ("source_layer", "source_feature", "target_layer", "target_feature")


@pytest.fixture
def features() -> pd.DataFrame:
    columns = {column.name: np.zeros(8) for column in TABLES["features"]}
    columns |= {"layer": np.repeat([0, 3], 4), "feature": np.tile(np.arange(4), 2), "label": LABELS * 2}
    columns |= {"top_genes": [f"CD{i};HLA-{i}" for i in range(8)], "firing_rate": np.arange(8) / 10}
    return make_table("features", columns)


@pytest.fixture
def edges() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    columns = {column.name: rng.normal(size=5) for column in TABLES["edges"]}
    columns |= {"source_layer": np.zeros(5), "source_feature": [0, 0, 1, 2, 3], "target_layer": np.full(5, 3)}
    columns |= {"target_feature": [0, 1, 1, 1, 2], "n_cells": [20, 30, 40, 50, 60]}
    columns |= {"relative_effect": [0.25, np.nan, -1 / 3, 1e-12, -5.0]}
    return make_table("edges", columns)


def node(layer: int, feature: int) -> str:
    return f"L{layer}_F{feature}"


def expected_edges(edges: pd.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """{(source, target): numbers without NaN}."""
    found = {}
    for row in edges.to_dict("records"):
        ends = [node(row[f"{end}_layer"], row[f"{end}_feature"]) for end in ("source", "target")]
        found[tuple(ends)] = {k: v for k, v in row.items() if k not in IDS and not np.isnan(v)}
    return found


def expected_nodes(edges: pd.DataFrame, features: pd.DataFrame) -> dict[str, dict]:
    """{name: what is known of it} of the features that have an edge."""
    known = {node(row["layer"], row["feature"]): row for row in features.to_dict("records")}
    keys = ("layer", "feature", "label", "firing_rate", "top_genes")
    return {name: {key: known[name][key] for key in keys} for pair in expected_edges(edges) for name in pair}


def test_csv(tmp_path, edges, features):
    export_edges(edges, features, tmp_path / "edges.csv", "csv")
    found = pd.read_csv(tmp_path / "edges.csv", keep_default_na=False, na_values=[""])
    pd.testing.assert_frame_equal(found[list(edges)], edges)
    text = pd.read_csv(tmp_path / "edges.csv", keep_default_na=False)
    for row, edge in zip(text.to_dict("records"), edges.to_dict("records"), strict=True):
        for end in ("source", "target"):
            assert row[f"{end}_label"] == LABELS[edge[f"{end}_feature"]]
            assert row[f"{end}_genes"].startswith("CD")
    assert b"\r" not in (tmp_path / "edges.csv").read_bytes()


def test_graphml(tmp_path, edges, features):
    export_edges(edges, features, tmp_path / "edges.graphml", "graphml")
    graph = nx.read_graphml(tmp_path / "edges.graphml")
    assert graph.is_directed() and not graph.is_multigraph()
    assert dict(graph.edges) == expected_edges(edges)
    assert dict(graph.nodes) == expected_nodes(edges, features)


def test_cytoscape(tmp_path, edges, features):
    export_edges(edges, features, tmp_path / "edges.cyjs", "cytoscape")
    content = json.loads((tmp_path / "edges.cyjs").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["directed"] is True and content["multigraph"] is False
    found = {(e["data"].pop("source"), e["data"].pop("target")): e["data"] for e in content["elements"]["edges"]}
    assert found == expected_edges(edges)
    nodes = {n["data"].pop("id"): n["data"] for n in content["elements"]["nodes"]}
    # networkx adds value and name, which repeat the id
    assert all(data.pop("value") == data.pop("name") == name for name, data in nodes.items())
    assert nodes == expected_nodes(edges, features)


@pytest.mark.parametrize("format", ENDINGS)
def test_no_edges(tmp_path, edges, features, format):
    export_edges(edges.iloc[:0], features, tmp_path / "edges", format)
    if format == "csv":
        assert list(pd.read_csv(tmp_path / "edges"))[: len(edges.columns)] == list(edges)
    elif format == "graphml":
        assert len(nx.read_graphml(tmp_path / "edges")) == 0
    else:
        assert json.loads((tmp_path / "edges").read_text())["elements"] == {"nodes": [], "edges": []}


@pytest.mark.parametrize("format", ENDINGS)
def test_the_same_edges_give_the_same_bytes(tmp_path, edges, features, format):
    for name in ("a", "b"):
        export_edges(edges, features, tmp_path / name, format)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("format", ENDINGS)
def test_a_failure_leaves_the_old_file(tmp_path, edges, features, format, monkeypatch):
    path = tmp_path / "edges.out"
    path.write_text("old")

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(RunError, match=r"Cannot write .*edges\.out: No space left on device"):
        export_edges(edges, features, path, format)
    assert [p.name for p in tmp_path.iterdir()] == ["edges.out"]
    assert path.read_text() == "old"


def test_a_folder_that_is_not_there(tmp_path, edges, features):
    with pytest.raises(RunError, match=r"Cannot write .*edges\.csv: .*(No such file|non-existent directory)"):
        export_edges(edges, features, tmp_path / "absent" / "edges.csv", "csv")


def test_an_old_file_is_replaced(tmp_path, edges, features):
    path = Path(tmp_path / "edges.csv")
    path.write_text("old")
    export_edges(edges, features, path, "csv")
    assert path.read_text().startswith("source_layer,")


def test_an_unknown_format(tmp_path, edges, features):
    with pytest.raises(SettingsError, match="There is no format 'gexf'; choose one of csv, graphml, cytoscape"):
        export_edges(edges, features, tmp_path / "edges", "gexf")
    assert not list(tmp_path.iterdir())
