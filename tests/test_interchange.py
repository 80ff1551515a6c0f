"""Exports for the viewers of others: what is written fits their published schemas and says the same as the tables."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cellcircuits.circuit_tracer import Origin, circuit_tracer_graph, write_circuit_tracer
from cellcircuits.errors import RunError
from cellcircuits.neuronpedia import write_neuronpedia
from tests.made_up_atlas import LONG, SCRIPT, SOURCE, fake_tables

ORIGIN = Origin("My Model V2 (100M)", 3, 96, 1234, "2026-01-01T00:00:00+00:00")
NUMBER = (int, float)
# Required fields and types: the graph schema that Neuronpedia publishes for uploads (graph-schema.json, version 1.0.0),
# and the fields without a default of circuit-tracer's models (graph_models.py).
GRAPH = {"metadata": dict, "qParams": dict, "nodes": list, "links": list}
METADATA = {"slug": str, "scan": str, "prompt_tokens": list, "prompt": str, "transcoder_list": list}
PARAMETERS = {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str}
NODE = {
    "node_id": str,
    "feature": int,
    "layer": str,
    "ctx_idx": int,
    "feature_type": str,
    "jsNodeId": str,
    "clerp": str,
    "influence": (*NUMBER, type(None)),
    "activation": (*NUMBER, type(None)),
    "token_prob": float,
    "is_target_logit": bool,
    "run_idx": int,
    "reverse_ctx_idx": int,
}
LINK = {"source": str, "target": str, "weight": NUMBER}
# Columns of Neuronpedia's database without a default, and those of its export of features (export-data.py).
HEADS = {
    "model": {"id": str, "creatorId": str, "layers": int, "neuronsPerLayer": int, "owner": str},
    "release": {"name": str, "description": str, "creatorName": str, "creatorId": str, "urls": list},
    "sourceset": {"modelId": str, "name": str, "description": str, "creatorName": str, "creatorId": str},
    "source": {"id": str, "modelId": str, "setName": str, "creatorId": str},
}
NEURON = dict.fromkeys(
    "freq_hist_data_bar_heights freq_hist_data_bar_values logits_hist_data_bar_heights logits_hist_data_bar_values "
    "neuron_alignment_indices neuron_alignment_l1 neuron_alignment_values correlated_neurons_indices "
    "correlated_neurons_l1 correlated_neurons_pearson decoder_weights_dist neg_str neg_values pos_str pos_values "
    "topkCosSimIndices topkCosSimValues vector".split(),
    list,
) | {"modelId": str, "layer": str, "index": str, "maxActApprox": float, "creatorId": str, "frac_nonzero": float}
NEURON |= {"sourceSetName": str, "hookName": str, "hasVector": bool}
EXPLANATION = {"id": str, "modelId": str, "layer": str, "index": str, "authorId": str, "description": str}
ACTIVATION = {"tokens": list, "values": list, "maxValue": float, "maxValueTokenIndex": int, "minValue": float}


def fits(row: dict[str, Any], schema: dict[str, Any]) -> None:
    """Raise unless a row has the required fields, of the right types."""
    assert set(schema) <= set(row)
    for name, kind in schema.items():
        value = row[name]
        assert isinstance(value, kind), (name, value)
        assert not (isinstance(value, bool) and kind in (NUMBER, int)), name


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    return fake_tables()


def test_a_graph_fits_the_schemas_and_has_every_edge(tables):
    graph = circuit_tracer_graph(tables["edges"], tables["features"], ORIGIN, "my-graph")
    for part, schema in ((graph, GRAPH), (graph["metadata"], METADATA), (graph["qParams"], PARAMETERS)):
        fits(part, schema)
    for node in graph["nodes"]:
        fits(node, NODE)
    for link in graph["links"]:
        fits(link, LINK)
    assert graph["metadata"]["scan"] == "my-model-v2-100m" and len(graph["metadata"]["prompt_tokens"]) == 1
    ids = [node["node_id"] for node in graph["nodes"]]
    assert len(set(ids)) == len(ids) == len({node["feature"] for node in graph["nodes"]})
    expected = {
        (f"{e.source_layer}_{e.source_feature}_0", f"{e.target_layer}_{e.target_feature}_0"): -e.mean_delta
        for e in tables["edges"].itertuples()
    }
    assert {(link["source"], link["target"]): link["weight"] for link in graph["links"]} == expected
    assert {end for pair in expected for end in pair} == set(ids)
    node = next(node for node in graph["nodes"] if node["node_id"] == f"{SOURCE[0]}_{SOURCE[1]}_0")
    assert (node["clerp"], node["layer"]) == (SCRIPT, str(SOURCE[0]))
    json.dumps(graph, allow_nan=False)


def test_influence_is_the_cumulative_share_of_links(tables):
    graph = circuit_tracer_graph(tables["edges"], tables["features"], ORIGIN, "s")
    total = {node["node_id"]: 0.0 for node in graph["nodes"]}
    for link in graph["links"]:
        total[link["source"]] += abs(link["weight"])
        total[link["target"]] += abs(link["weight"])
    share = 0.0
    influence = {node["node_id"]: node["influence"] for node in graph["nodes"]}
    for name in sorted(total, key=lambda name: -total[name]):
        share += total[name] / sum(total.values())
        assert influence[name] == pytest.approx(share)


@pytest.mark.parametrize("max_edges", [1, 7])
def test_only_the_strongest_edges_are_kept(tables, max_edges):
    graph = circuit_tracer_graph(tables["edges"], tables["features"], ORIGIN, "s", max_edges)
    strongest = tables["edges"].assign(size=tables["edges"]["snr"].abs()).nlargest(max_edges, "size")
    assert sorted(link["weight"] for link in graph["links"]) == sorted(-strongest["mean_delta"])
    used = {link[end] for link in graph["links"] for end in ("source", "target")}
    assert used == {node["node_id"] for node in graph["nodes"]}


def test_a_graph_without_edges_or_features(tables):
    empty = circuit_tracer_graph(tables["edges"].head(0), tables["features"], ORIGIN, "s", 10)
    assert (empty["nodes"], empty["links"]) == ([], [])
    unknown = circuit_tracer_graph(tables["edges"].head(1), tables["features"].head(0), ORIGIN, "s")
    assert [node["clerp"] for node in unknown["nodes"]] == ["", ""]
    assert [node["activation"] for node in unknown["nodes"]] == [None, None]


def test_a_graph_that_cannot_be_written_changes_nothing(tmp_path):
    with pytest.raises(RunError, match=r"Cannot write .*graph\.json: No such file"):
        write_circuit_tracer({}, tmp_path / "absent" / "graph.json")
    write_circuit_tracer({"nodes": []}, tmp_path / "graph.json")
    assert [path.name for path in tmp_path.iterdir()] == ["graph.json"]


def lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of JSON lines."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def written(tables, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("cellcircuits.neuronpedia.BATCH", 40)
    chosen = (tables[name] for name in ("features", "feature_genes", "activation_bins"))
    write_neuronpedia(*chosen, tmp_path / "out", ORIGIN, "set-1")
    return tmp_path / "out" / "my-model-v2-100m"


def test_neuronpedia_gets_every_layer_with_its_heads(written):
    assert sorted(path.name for path in written.iterdir()) == ["0-set-1", "1-set-1", "2-set-1"]
    for source in written.iterdir():
        for name, schema in HEADS.items():
            (head,) = lines(source / f"{name}.jsonl")
            fits(head, schema)
        (head,) = lines(source / "source.jsonl")
        assert (head["id"], head["setName"], head["modelId"]) == (source.name, "set-1", written.name)


def test_neuronpedia_gets_every_feature_with_its_numbers(written, tables):
    for layer, rows in tables["features"].groupby("layer"):
        files = [written / f"{layer}-set-1" / "features" / f"batch-{n}.jsonl.gz" for n in (0, 1)]
        found = [row for path in files for row in lines(path)]
        assert [len(lines(path)) for path in files] == [40, 30]
        for row in found:
            fits(row, NEURON)
            assert len(row["freq_hist_data_bar_heights"]) == len(row["freq_hist_data_bar_values"])
        assert [int(row["index"]) for row in found] == list(rows["feature"])
        np.testing.assert_allclose([row["frac_nonzero"] for row in found], rows["firing_rate"])
    own = lines(written / "0-set-1" / "features" / "batch-1.jsonl.gz")[SOURCE[1] - 40]
    assert own["freq_hist_data_bar_heights"] == [4, 40, 7] and own["maxActApprox"] == 2.0
    assert own["freq_hist_data_bar_values"][1] == pytest.approx(1.4**0.5, abs=1e-6)


def test_neuronpedia_gets_labels_and_top_genes(written, tables):
    source = written / "0-set-1"
    explained = {row["index"]: row for path in sorted((source / "explanations").iterdir()) for row in lines(path)}
    listed = {row["index"]: row for path in sorted((source / "activations").iterdir()) for row in lines(path)}
    for row in explained.values():
        fits(row, EXPLANATION)
    for row in listed.values():
        fits(row, ACTIVATION)
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"]
    assert explained["65"]["description"] == f"{SCRIPT} (gene set, q 1e-09)"
    assert explained["3"]["description"].startswith(LONG) and explained["5"]["typeName"] == "top_genes"
    mine = tables["feature_genes"].query("layer == 0 and feature == 65")
    assert listed["65"]["tokens"] == list(mine["symbol"]) and listed["65"]["values"] == list(mine["score"])


def test_the_same_tables_give_the_same_bytes_and_nothing_is_overwritten(written, tables, tmp_path):
    chosen = [tables[name] for name in ("features", "feature_genes", "activation_bins")]
    write_neuronpedia(*(t.sample(frac=1, random_state=0) for t in chosen), tmp_path / "again", ORIGIN, "set-1")
    for path in (p for p in written.rglob("*") if p.is_file()):
        assert (tmp_path / "again" / written.name / path.relative_to(written)).read_bytes() == path.read_bytes()
    with pytest.raises(RunError, match="exists already; choose another folder"):
        write_neuronpedia(*chosen, tmp_path / "again", ORIGIN, "set-1")
