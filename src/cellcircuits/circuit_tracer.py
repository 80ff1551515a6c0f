"""Circuits for the viewers of others: graph JSON of circuit-tracer, which Neuronpedia takes too.

What was made for language models is filled with what a cell model has; docs/atlas.md says what stands for what. Format
as published: Neuronpedia's apps/webapp/app/api/graph/graph-schema.json and circuit-tracer's graph_models.py.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellcircuits.errors import RunError

GENES_IN_NAME = 5
"""Top genes that stand for a feature without a label."""


@dataclass(frozen=True)
class Origin:
    """What the files say of where they come from."""

    model: str
    """Name of the model; characters other than letters, digits, "-" and "_" become "-"."""
    n_layers: int
    """Layers of the model."""
    width: int
    """Width of the residual stream."""
    cells: int
    """Cells from which the features were catalogued or edges measured."""
    created: str
    """When, in ISO 8601."""

    @property
    def model_id(self) -> str:
        """Name of the model as an identifier of Neuronpedia."""
        return re.sub(r"[^a-z0-9_]+", "-", self.model.lower()).strip("-")[:128] or "model"


def circuit_tracer_graph(
    edges: pd.DataFrame, features: pd.DataFrame, origin: Origin, slug: str, max_edges: int = 0
) -> dict[str, Any]:
    """The strongest edges as a graph of circuit-tracer.

    Parameters
    ----------
    edges, features
        The tables of a run.
    origin, slug
        What the graph says of itself; the file should be called <slug>.json.
    max_edges
        Edges of the largest |snr| that are kept (of equals the first); 0: all.

    Returns
    -------
    dict
        metadata, qParams, nodes, links. The weight of a link is -mean_delta (activation): positive where the source
        supports the target, as in attribution graphs. There is no prompt: effects are means over cells, so that every
        node stands at position 0 of a single token. `influence` is the share of the sum of |weight| that this node and
        those with larger sums of their own links have, which is how viewers prune.
    """
    if max_edges:
        strongest = edges["snr"].abs().sort_values(ascending=False, kind="stable").index[:max_edges]
        edges = edges.loc[edges.index.isin(strongest)]
    ends = [edges[[f"{end}_layer", f"{end}_feature"]].to_numpy(dtype=np.int64) for end in ("source", "target")]
    both = np.concatenate(ends)
    nodes, place = np.unique(both, axis=0, return_inverse=True)
    weight = -edges["mean_delta"].to_numpy(dtype=float)
    total = np.bincount(place.ravel(), np.tile(np.abs(weight), 2), minlength=len(nodes))
    known = features.set_index(["layer", "feature"])
    names = [_node_id(layer, feature) for layer, feature in nodes.tolist()]
    made = [
        _node(layer, feature, influence, known)
        for (layer, feature), influence in zip(nodes.tolist(), _influence(total), strict=True)
    ]
    source, target = np.split(place.ravel(), 2)
    links = [
        {"source": names[s], "target": names[t], "weight": w, "snr": snr, "q_value": q}
        for s, t, w, snr, q in zip(
            source, target, weight.tolist(), _plain(edges["snr"]), _plain(edges["q_value"]), strict=True
        )
    ]
    about = f"Mean ablation effects over {origin.cells:,} cells; no prompt"
    metadata = {
        "slug": slug,
        "scan": origin.model_id,
        "transcoder_list": [],
        "prompt_tokens": [f"mean over {origin.cells:,} cells"],
        "prompt": about,
        "schema_version": 1,
        "info": {
            "description": f"{about}. weight = clean - ablated activation of the target.",
            "generator": _GENERATOR,
        },
    }
    parameters = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return {"metadata": metadata, "qParams": parameters, "nodes": made, "links": links}


_GENERATOR = {"name": "cellcircuits"}


def _node_id(layer: int, feature: int) -> str:
    return f"{layer}_{feature}_0"


def _influence(total: np.ndarray) -> list[float]:
    """Cumulative share of the total, from the largest on (of equals the first)."""
    order = np.argsort(-total, kind="stable")
    share = np.empty(len(total))
    share[order] = np.cumsum(total[order]) / max(total.sum(), np.finfo(float).tiny)
    return share.tolist()


def _node(layer: int, feature: int, influence: float, known: pd.DataFrame) -> dict[str, Any]:
    row = known.loc[(layer, feature)] if (layer, feature) in known.index else None
    return {
        "node_id": _node_id(layer, feature),
        # Cantor's pairing of layer and feature, by which the viewers recognise a feature
        "feature": (layer + feature) * (layer + feature + 1) // 2 + feature,
        "layer": str(layer),
        "ctx_idx": 0,
        "feature_type": "cross layer transcoder",
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{feature}-0",
        "clerp": "" if row is None else feature_name(row["label"], row["top_genes"]),
        "influence": influence,
        "activation": None if row is None else float(row["mean_activation"]),
    }


def feature_name(label: str, top_genes: str) -> str:
    """The label of a feature, or its first top genes."""
    return label or ", ".join(top_genes.split(";")[:GENES_IN_NAME])


def _plain(values: pd.Series) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]


def write_circuit_tracer(graph: dict[str, Any], path: Path) -> None:
    """Write a graph; raises `RunError` if it cannot be written, and then a file that was there stays as it was."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(graph, allow_nan=False), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        partial.unlink(missing_ok=True)
