"""Features and circuits for the viewers of others: Neuronpedia's import folders, circuit-tracer's graph JSON.

What was made for language models is filled with what a cell model has; docs/atlas.md says what stands for what. Formats
as published: the graph schema of Neuronpedia (apps/webapp/app/api/graph/graph-schema.json) and circuit-tracer's
graph_models.py; Neuronpedia's export folders (utils/neuronpedia-utils) and its database schema.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellcircuits.errors import RunError

BATCH = 1024
"""Features per file, as Neuronpedia writes them."""
GENES_IN_NAME = 5
"""Top genes that stand for a feature without a label."""
NO_LISTS = (
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "neuron_alignment_indices",
    "neuron_alignment_l1",
    "neuron_alignment_values",
    "correlated_neurons_indices",
    "correlated_neurons_l1",
    "correlated_neurons_pearson",
    "correlated_features_indices",
    "correlated_features_l1",
    "correlated_features_pearson",
    "decoder_weights_dist",
    "neg_str",
    "neg_values",
    "pos_str",
    "pos_values",
    "topkCosSimIndices",
    "topkCosSimValues",
    "vector",
)
"""Fields that speak of logits, MLP neurons or vectors: empty lists."""


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
        "clerp": "" if row is None else _name(row["label"], row["top_genes"]),
        "influence": influence,
        "activation": None if row is None else float(row["mean_activation"]),
    }


def _name(label: str, top_genes: str) -> str:
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


def write_neuronpedia(
    features: pd.DataFrame, feature_genes: pd.DataFrame, bins: pd.DataFrame, folder: Path, origin: Origin, set_name: str
) -> None:
    """Write the features of every layer as a folder that Neuronpedia imports.

    Parameters
    ----------
    features, feature_genes, bins
        Tables `features`, `feature_genes` and `activation_bins` (may be empty).
    folder
        Folder to make: <folder>/<model>/<layer>-<set_name>/ holds model.jsonl, release.jsonl, sourceset.jsonl,
        source.jsonl, and features/, explanations/ and activations/ with batch-N.jsonl.gz.
    set_name
        Name of the source set, letters, digits and dashes.

    Raises
    ------
    RunError
        If the folder exists already or cannot be written.
    """
    if folder.exists():
        raise RunError(f"{folder} exists already; choose another folder with --out.")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        for layer, rows in features.sort_values(["layer", "feature"]).groupby("layer"):
            source = f"{layer}-{set_name}"
            target = partial / origin.model_id / source
            _write_heads(target, source, set_name, origin)
            genes = dict(list(feature_genes[feature_genes["layer"] == layer].groupby("feature")))
            counts = dict(list(bins[bins["layer"] == layer].sort_values("low").groupby("feature")))
            for number, start in enumerate(range(0, len(rows), BATCH)):
                batch = rows.iloc[start : start + BATCH].to_dict("records")
                own = {"modelId": origin.model_id, "layer": source}
                _write_lines(target, "features", number, (_neuron(row, counts, own, origin) for row in batch))
                _write_lines(
                    target, "explanations", number, (_explanation(row, own) for row in batch if _described(row))
                )
                listed = (row for row in batch if row["feature"] in genes)
                lists = (_activation(row, genes[row["feature"]], own, origin) for row in listed)
                _write_lines(target, "activations", number, lists)
        partial.rename(folder)
    except OSError as error:
        raise RunError(f"Cannot write {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


CREATOR = "cellcircuits"
"""Stands for the user of the instance that imports; Neuronpedia's import puts its own in its place."""


def _write_heads(target: Path, source: str, set_name: str, origin: Origin) -> None:
    """The four files that say what the features belong to."""
    made = {"creatorId": CREATOR, "createdAt": origin.created}
    release = f"{origin.model_id}-{set_name}"
    dataset = f"{origin.cells} cells"
    heads: dict[str, dict[str, Any]] = {
        "model": {
            "id": origin.model_id,
            "displayName": origin.model,
            "displayNameShort": origin.model,
            "layers": origin.n_layers,
            "neuronsPerLayer": 0,
            "dimension": origin.width,
            "owner": CREATOR,
            "instruct": False,
            "updatedAt": origin.created,
        },
        "release": {
            "name": release,
            "description": f"Sparse autoencoder features of {origin.model}",
            "descriptionShort": origin.model,
            "urls": [],
            "creatorName": CREATOR,
            "creatorNameShort": CREATOR,
        },
        "sourceset": {
            "modelId": origin.model_id,
            "name": set_name,
            "description": "Residual stream after each block",
            "creatorName": CREATOR,
            "releaseName": release,
            "visibility": "PUBLIC",
            "allowInferenceSearch": False,
        },
        "source": {
            "id": source,
            "modelId": origin.model_id,
            "setName": set_name,
            "visibility": "PUBLIC",
            "dataset": dataset,
            "num_prompts": origin.cells,
            "inferenceEnabled": False,
        },
    }
    target.mkdir(parents=True)
    for name, head in heads.items():
        (target / f"{name}.jsonl").write_text(json.dumps(head | made) + "\n", encoding="utf-8")


def _write_lines(target: Path, kind: str, number: int, rows: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    path = target / kind / f"batch-{number}.jsonl.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _neuron(
    row: dict[str, Any], counts: dict[int, pd.DataFrame], own: dict[str, str], origin: Origin
) -> dict[str, Any]:
    """A feature: how often and how strongly it is active."""
    found = counts.get(row["feature"])
    middle = [] if found is None else np.sqrt(found["low"] * found["high"]).round(6).tolist()
    heights = [] if found is None else found["n_positions"].tolist()
    highest = float(row["mean_activation"]) if found is None else float(found["high"].max())
    return {
        **own,
        "index": str(row["feature"]),
        "sourceSetName": own["layer"].partition("-")[2],
        "creatorId": CREATOR,
        "createdAt": origin.created,
        "maxActApprox": highest,
        "hasVector": False,
        "vectorLabel": None,
        "hookName": f"blocks.{row['layer']}.hook_resid_post",
        "frac_nonzero": float(row["firing_rate"]),
        "freq_hist_data_bar_heights": heights,
        "freq_hist_data_bar_values": middle,
        **{name: [] for name in NO_LISTS},
    }


def _described(row: dict[str, Any]) -> bool:
    return bool(row["label"] or row["top_genes"])


def _explanation(row: dict[str, Any], own: dict[str, str]) -> dict[str, Any]:
    """The label of a feature; of those without one, the top genes."""
    enriched = f" (gene set, q {row['label_q']:.2g})" if row["label"] else ""
    return {
        **own,
        "id": f"{own['modelId']}-{own['layer']}-{row['feature']}",
        "index": str(row["feature"]),
        "authorId": CREATOR,
        "description": f"{_name(row['label'], row['top_genes'])}{enriched}",
        "typeName": "gene_set_enrichment" if row["label"] else "top_genes",
        "explanationModelName": CREATOR,
    }


def _activation(row: dict[str, Any], genes: pd.DataFrame, own: dict[str, str], origin: Origin) -> dict[str, Any]:
    """The top genes with their scores, in place of the tokens of a text with their activations."""
    genes = genes.sort_values("rank")
    values = genes["score"].astype(float).round(6).tolist()
    return {
        **own,
        "id": f"{own['modelId']}-{own['layer']}-{row['feature']}-genes",
        "index": str(row["feature"]),
        "tokens": genes["symbol"].where(genes["symbol"] != "", genes["gene_id"]).tolist(),
        "values": values,
        "maxValue": max(values),
        "maxValueTokenIndex": int(np.argmax(values)),
        "minValue": min(values),
        "creatorId": CREATOR,
        "createdAt": origin.created,
        "dataSource": "top genes by score",
        "dataIndex": None,
        "binMin": None,
        "binMax": None,
        "binContains": None,
        "qualifyingTokenIndex": None,
        "dfaValues": [],
        "dfaTargetIndex": None,
        "dfaMaxValue": None,
        "lossValues": [],
        "logitContributions": None,
    }
