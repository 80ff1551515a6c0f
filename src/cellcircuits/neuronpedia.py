"""Features for Neuronpedia: folders as its import reads them.

What was made for language models is filled with what a cell model has; docs/atlas.md says what stands for what. Format
as published: the export of utils/neuronpedia-utils and the database schema, apps/webapp/prisma/schema.prisma.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellcircuits.circuit_tracer import Origin, feature_name
from cellcircuits.errors import RunError

BATCH = 1024
"""Features per file, as Neuronpedia writes them."""
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
        "description": f"{feature_name(row['label'], row['top_genes'])}{enriched}",
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
