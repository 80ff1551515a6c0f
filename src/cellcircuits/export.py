"""Edges for other programs: CSV, GraphML (Gephi, Cytoscape, igraph), Cytoscape JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import pandas as pd

from cellcircuits.errors import RunError, SettingsError
from cellcircuits.findings.circuits import labelled_edges

Format = Literal["csv", "graphml", "cytoscape"]
ENDINGS: dict[str, str] = {"csv": ".csv", "graphml": ".graphml", "cytoscape": ".cyjs"}


def export_edges(edges: pd.DataFrame, features: pd.DataFrame, path: str | Path, format: Format) -> None:
    """Write all edges with the labels and top genes of both ends to one file.

    GraphML and Cytoscape JSON are directed graphs: a node per feature (id "L3_F17"; layer, feature, label, firing
    rate, top genes), an edge per edge with every numeric column. Columns that are NaN are left out of an edge.

    Raises
    ------
    SettingsError
        If there is no such format.
    RunError
        If the file cannot be written; a file that was there stays as it was.
    """
    if format not in ENDINGS:
        raise SettingsError(f"There is no format {format!r}; choose one of {', '.join(ENDINGS)}.")
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if format == "csv":
            labelled_edges(edges, features).to_csv(partial, index=False, lineterminator="\n")
        else:
            _write_graph(_graph(edges, features), partial, format)
        os.replace(partial, path)
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        partial.unlink(missing_ok=True)


def _graph(edges: pd.DataFrame, features: pd.DataFrame):
    import networkx as nx

    graph = nx.DiGraph()
    ends = [
        edges[[f"{end}_layer", f"{end}_feature"]].set_axis(["layer", "feature"], axis=1) for end in ("source", "target")
    ]
    present = pd.concat(ends).drop_duplicates().merge(features, on=["layer", "feature"], how="left")
    for node in present.sort_values(["layer", "feature"]).to_dict("records"):
        kept = ("layer", "feature", "label", "firing_rate", "top_genes")
        graph.add_node(_node(node["layer"], node["feature"]), **{key: node[key] for key in kept})
    for edge in edges.to_dict("records"):
        source = _node(edge["source_layer"], edge["source_feature"])
        target = _node(edge["target_layer"], edge["target_feature"])
        graph.add_edge(
            source, target, **{k: v for k, v in edge.items() if v == v and not k.endswith(("layer", "feature"))}
        )
    return graph


def _node(layer: int, feature: int) -> str:
    return f"L{layer}_F{feature}"


def _write_graph(graph, path: Path, format: Format) -> None:
    import networkx as nx

    if format == "graphml":
        nx.write_graphml(graph, path)
    else:
        path.write_text(json.dumps(nx.cytoscape_data(graph)), encoding="utf-8")
