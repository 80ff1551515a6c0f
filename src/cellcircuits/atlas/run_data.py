"""The tables of one run as files under data/<run>/; docs/atlas.md describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cellcircuits.atlas.genes import index_genes
from cellcircuits.atlas.inputs import AtlasRun
from cellcircuits.atlas.overview import flat_summary
from cellcircuits.atlas.programs import index_programs
from cellcircuits.atlas.shards import (
    compressed_json,
    encode_table,
    shard_width,
    write_by_feature,
    write_by_item,
    write_bytes,
)

CIRCUITS_SHOWN = 500
CIRCUIT_MAX_Q = 0.05
"""The overview says how many circuits have at most this q: a list in order of q starts with something in any case."""
HUBS_SHOWN = 200
GENES_SHOWN = 3
"""Top genes that stand for a feature without a label."""
GENES_SEARCHED = 10
"""Top genes of a feature that the list of features shows and searches."""
LABELS_SHOWN = 12
"""Labels of cells on the page of a feature: those whose AUROC is farthest from 0.5."""

END_COLUMNS = ["source_layer", "source_feature", "target_layer", "target_feature"]
EDGE_COLUMNS = [
    *END_COLUMNS,
    "n_cells",
    "mean_delta",
    "relative_effect",
    "snr",
    "snr_low",
    "snr_high",
    "sign_agreement",
    "responding_fraction",
    "q_value",
    "computed_share",
    "specific_z",
    "specific_q",
    "specific",
    "heterogeneity_q",
    "stability",
]
"""What the pages show of an edge; the other columns follow from these or are for other programs."""


class Shown(NamedTuple):
    """What is copied beside the tables, as addresses within the site."""

    figures: list[str]
    report: str | None


def write_run(run: AtlasRun, data: Path, shown: dict[str, Shown]) -> dict[str, Any]:
    """Write all files of a run into `data`; returns what the list of runs says of it.

    `shown` has the parts "findings" and, where the run has them, "interventions".
    """
    edges = run.table("edges").sort_values(END_COLUMNS, kind="stable", ignore_index=True)
    features = _counted_features(run, edges)
    shards = _write_features(features, run, data) | _write_edges(edges, features, data)
    known = {"controls": bool(edges["specific_q"].notna().any()), "groups": bool(edges["stability"].notna().any())}
    known |= {"modules": not run.table("modules").empty, "map": run.coordinates is not None}
    contents: dict[str, Any] = {"key": run.key, "name": run.name, "n_edges": len(edges), "known": known}
    contents |= {"shards": shards, **shown["findings"]._asdict(), "layers": _layers(features), "interventions": None}
    if run.interventions is not None:
        contents["interventions"] = shown["interventions"]._asdict()
        write_bytes(data / "intervention_answers.json.gz", encode_table(run.interventions.answers))
    contents |= _write_genes(run.table("feature_genes"), features, edges, data)
    contents |= _write_programs(run, features, data)
    contents |= _write_findings(run, data)
    _write_map(run, features, data)
    write_bytes(data / "summary.json.gz", encode_table(flat_summary(run.summary)))
    write_bytes(data / "provenance.json.gz", compressed_json(run.provenance))
    write_bytes(data / "contents.json.gz", compressed_json(contents))
    return {
        "key": run.key,
        "name": run.name,
        "n_layers": len(contents["layers"]),
        "n_features": len(features),
        "n_edges": len(edges),
        "interventions": run.interventions is not None,
    }


def _counted_features(run: AtlasRun, edges: pd.DataFrame) -> pd.DataFrame:
    """Features with their numbers of edges, their module (-1: none), and whether they were ablated (-1: not known)."""
    features = run.table("features").sort_values(["layer", "feature"], kind="stable", ignore_index=True)
    place = pd.MultiIndex.from_frame(features[["layer", "feature"]])
    specific = edges[edges["specific"]]
    for name, end, rows in (
        ("n_out", "source", edges),
        ("n_in", "target", edges),
        ("n_specific_out", "source", specific),
        ("n_specific_in", "target", specific),
    ):
        count = rows.groupby([f"{end}_layer", f"{end}_feature"]).size()
        features[name] = count.reindex(place, fill_value=0).to_numpy()
    sources, modules = run.table("sources"), run.table("modules")
    ablated = place.isin(pd.MultiIndex.from_frame(sources[["layer", "feature"]]))
    features["ablated"] = ablated.astype(int) if len(sources) else -1
    module = modules.set_index(["layer", "feature"])["module"]
    features["module"] = module.reindex(place).fillna(-1).to_numpy(dtype=np.int64)
    return features


def _layers(features: pd.DataFrame) -> list[dict[str, int]]:
    """Counts of every layer."""
    groups = features.groupby("layer")
    counts = pd.DataFrame(
        {
            "n_features": groups.size(),
            "n_firing": features["n_firings"].gt(0).groupby(features["layer"]).sum(),
            "n_labelled": features["label"].ne("").groupby(features["layer"]).sum(),
            "n_edges_out": groups["n_out"].sum(),
            "n_edges_in": groups["n_in"].sum(),
        }
    )
    return counts.astype(int).reset_index().to_dict("records")


def _write_features(features: pd.DataFrame, run: AtlasRun, data: Path) -> dict[str, Any]:
    """One table per layer to search in, and per shard all that a feature's page shows."""
    shown = ["layer", "feature", "label", "firing_rate", "top_genes", "n_out", "n_in", "n_specific_out", "module"]
    short = features[shown].assign(top_genes=_first_genes(features["top_genes"], GENES_SEARCHED))
    for layer, rows in short.groupby("layer"):
        write_bytes(data / "layers" / f"L{layer:02d}.json.gz", encode_table(rows))
    labels = run.table("cell_labels")
    labels = labels.assign(farness=-(labels["auroc"] - 0.5).abs())
    labels = labels.sort_values(["layer", "feature", "farness", "column", "label"], kind="stable")
    labels = labels[labels.groupby(["layer", "feature"]).cumcount() < LABELS_SHOWN]
    orders = {
        "features": (features, []),
        "feature_genes": (run.table("feature_genes"), ["rank", "gene_id"]),
        "activation_bins": (run.table("activation_bins"), ["low"]),
        "cell_labels": (labels.drop(columns="farness"), ["q_value", "column", "label"]),
        "terms": (run.table("terms"), ["q_value", "p_value", "collection", "term"]),
        "regulators": (run.table("regulators"), ["q_value", "network", "target_set"]),
        "interactions": (run.table("interactions"), ["network"]),
    }
    return {name: write_by_feature(rows, "layer", "feature", data / name, by) for name, (rows, by) in orders.items()}


def _first_genes(genes: pd.Series, n: int) -> pd.Series:
    return genes.str.split(";", n=n).str[:n].str.join(";")


def _write_edges(edges: pd.DataFrame, features: pd.DataFrame, data: Path) -> dict[str, Any]:
    """Every edge twice, by its source and by its target, each with the name of the feature at the other end."""
    place = pd.MultiIndex.from_frame(features[["layer", "feature"]])
    label = features["label"].to_numpy(dtype=object)
    genes = _first_genes(features["top_genes"], GENES_SHOWN).to_numpy(dtype=object)
    genes = np.where(label == "", genes, "")  # genes stand for a feature without a label
    shards = {}
    for name, end, other in (("edges_out", "source", "target"), ("edges_in", "target", "source")):
        row = place.get_indexer(pd.MultiIndex.from_frame(edges[[f"{other}_layer", f"{other}_feature"]]))
        named = edges[EDGE_COLUMNS].assign(other_label="", other_genes="")
        named.loc[row >= 0, "other_label"] = label[row[row >= 0]]
        named.loc[row >= 0, "other_genes"] = genes[row[row >= 0]]
        order = [f"{other}_layer", f"{other}_feature"]
        shards[name] = write_by_feature(named, f"{end}_layer", f"{end}_feature", data / name, order)
    return shards


def _write_genes(
    feature_genes: pd.DataFrame, features: pd.DataFrame, edges: pd.DataFrame, data: Path
) -> dict[str, Any]:
    """The list of genes, and shards of the features and edges of a few genes each."""
    index = index_genes(feature_genes, features, edges)
    write_bytes(data / "genes.json.gz", encode_table(index.genes))
    width = shard_width(len(index.features) + len(index.edges), len(index.genes))
    for name, rows in (("gene_features", index.features), ("gene_edges", index.edges)):
        write_by_item(rows, "gene", len(index.genes), width, data / name)
    return {"n_genes": len(index.genes), "genes_per_shard": width}


def _write_programs(run: AtlasRun, features: pd.DataFrame, data: Path) -> dict[str, Any]:
    """The list of programs, and shards of the features and pairs of a few programs each."""
    index = index_programs(run.table("terms"), features, run.table("circuits"))
    write_bytes(data / "programs.json.gz", encode_table(index.programs))
    width = shard_width(len(index.features) + len(index.pairs), len(index.programs))
    for name, rows in (("program_features", index.features), ("program_pairs", index.pairs)):
        write_by_item(rows, "program", len(index.programs), width, data / name)
    return {"n_programs": len(index.programs), "programs_per_shard": width}


def _write_findings(run: AtlasRun, data: Path) -> dict[str, Any]:
    """Answers, the circuits with the smallest q and the features with the most edges; returns what is said of them."""
    circuits, hubs = run.table("circuits"), run.table("hubs")
    by_evidence = ["q_value", "p_value", "n_edges", "source_label", "target_label"]
    circuits = circuits.sort_values(by_evidence, ascending=[True, True, False, True, True], kind="stable")
    write_bytes(data / "circuits.json.gz", encode_table(circuits.head(CIRCUITS_SHOWN)))
    by_degree = ["direction", "degree", "layer", "feature"]
    hubs = hubs.sort_values(by_degree, ascending=[False, False, True, True], kind="stable")
    write_bytes(data / "hubs.json.gz", encode_table(hubs.groupby("direction", sort=False).head(HUBS_SHOWN)))
    answers = run.table("answers")
    write_bytes(data / "answers.json.gz", encode_table(answers))
    beyond_chance = int((circuits["q_value"] <= CIRCUIT_MAX_Q).sum())
    return {
        "n_circuits": len(circuits),
        "n_circuits_beyond_chance": beyond_chance,
        "circuit_max_q": CIRCUIT_MAX_Q,
        "n_answers": len(answers),
    }


def _write_map(run: AtlasRun, features: pd.DataFrame, data: Path) -> None:
    """Coordinates by layer, in the order of the layer's features, and the names of the modules."""
    if run.coordinates is not None:
        ends = ["layer", "feature"]
        placed = features[ends].merge(run.coordinates, on=ends, how="left")
        for layer, rows in placed.groupby("layer"):
            write_bytes(data / "map" / f"L{layer:02d}.json.gz", encode_table(rows[["x", "y", "method"]]))
    modules = run.table("module_labels").sort_values(["layer", "module"], kind="stable")
    write_bytes(data / "modules.json.gz", encode_table(modules))
