"""The published feature atlases (Kendiukhov 2026) as tables: what their JSON files hold, in our columns.

One folder per atlas: `global_summary.json`, and per layer `layer_NN_features.json` and `layer_NN_annotations.json`,
each plain or gzip-compressed. Files may be missing: Geneformer's annotations of some layers are not public.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellcircuits.enrichment import annotation_scores, best_first, best_terms, redundant_terms
from cellcircuits.errors import DataError
from cellcircuits.settings import AnnotateSettings
from cellcircuits.tables import TABLES

COLLECTIONS = ("GO_BP", "KEGG", "Reactome")
"""Ontologies whose records are gene sets that were tested; of the others, one is a test of one set of all
transcription factors, and two count pairs without a test."""


@dataclass(frozen=True)
class PublishedAtlas:
    """A published atlas as tables."""

    features: pd.DataFrame
    """The columns of the table `features` (NaN for what the files do not hold: n_cells, decoder_norm, n_unique_genes;
    n_terms, label_q, label_odds_ratio and annotation_score where a layer's annotations are missing), then `dead`,
    `n_records`, `published_label`, `published_ontology`, `module` (-1: none) and `svd_aligned`. The label follows our
    rule; where annotations are missing it is the published one."""
    feature_genes: pd.DataFrame
    """The columns of `feature_genes`; score is the mean activation where the feature fires on the gene. 20 genes of
    features with an annotation, in layers with annotations; else 5. gene_id is empty, n_positions NaN, and n_firings
    NaN where only 5 are known."""
    terms: pd.DataFrame
    """The columns of `terms`: records of gene sets; n_term, n_background and p_value are NaN."""
    other_records: pd.DataFrame
    """Records that name no gene set: layer, feature, ontology, term, q_value (for pairs: their density), n_overlap."""
    layers: pd.DataFrame
    """Numbers by layer as published: alive, dead, annotated, annotation_rate, n_modules, variance_explained, ..."""
    totals: dict[str, int]
    """Totals as published."""


def read_published_atlas(folder: str | Path) -> PublishedAtlas:
    """Read the files of one published atlas.

    Raises
    ------
    DataError
        If the folder holds no atlas, or a file is damaged.
    """
    folder = Path(folder)
    summary = read_part(folder, "global_summary")
    if summary is None:
        raise DataError(
            f"{folder} holds no published atlas: expected global_summary.json and layer_NN_features.json, plain or .gz."
        )
    try:
        counts = pd.DataFrame(summary["layers"])
        ontologies = pd.DataFrame(list(counts.pop("ontology_counts"))).add_prefix("n_")
        counts = pd.concat([counts, ontologies], axis=1)
        totals = {key: int(value) for key, value in summary.items() if key != "layers"}
        parts = [_layer(folder, int(layer)) for layer in counts["layer"]]
        tables = {name: [part[name] for part in parts if part] for name in ("features", "genes", "terms", "other")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"A file of {folder} has another layout than the published atlases: {error!r}.") from error
    if not tables["features"]:
        raise DataError(f"{folder} has no file layer_NN_features.json.")
    joined = {name: _joined(frames) for name, frames in tables.items()}
    return PublishedAtlas(joined["features"], joined["genes"], joined["terms"], joined["other"], counts, totals)


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """The frames one after the other; those without rows, or a column without values, would change types."""
    frames = [frame for frame in frames if len(frame)] or frames[:1]
    return pd.DataFrame({name: np.concatenate([frame[name].to_numpy() for frame in frames]) for name in frames[0]})


def read_part(folder: Path, name: str) -> Any:
    """Content of <name>.json or <name>.json.gz; None if neither is there."""
    for path in (folder / f"{name}.json", folder / f"{name}.json.gz"):
        if path.exists():
            try:
                raw = path.read_bytes()
                return json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
            except (OSError, EOFError, zlib.error, ValueError) as error:
                raise DataError(f"Cannot read {path}: {error}. Expected a JSON file.") from error
    return None


def _layer(folder: Path, layer: int) -> dict[str, pd.DataFrame] | None:
    """Tables of one layer; None without its file of features."""
    entries = read_part(folder, f"layer_{layer:02d}_features")
    if entries is None:
        return None
    annotations = read_part(folder, f"layer_{layer:02d}_annotations")
    named = annotations or {}
    genes = [
        (layer, entry["i"], rank, "", gene["n"], gene["a"], gene.get("fc", np.nan), np.nan)
        for entry in entries
        for rank, gene in enumerate(named.get(str(entry["i"]), {"genes": entry["tg"]})["genes"], start=1)
    ]
    records = [
        (layer, int(feature), record, len(content["genes"]))
        for feature, content in named.items()
        for record in content["anns"]
    ]
    listed = pd.DataFrame(genes, columns=[column.name for column in TABLES["feature_genes"]])
    terms = _terms([record for record in records if record[2]["o"] in COLLECTIONS])
    other = [
        (layer, feature, record["o"], record["t"], record["p"], record["n"])
        for layer, feature, record, _ in records
        if record["o"] not in COLLECTIONS
    ]
    columns = ["layer", "feature", "ontology", "term", "q_value", "n_overlap"]
    features = _features(layer, entries, listed, terms, known=annotations is not None)
    return {"features": features, "genes": listed, "terms": terms, "other": pd.DataFrame(other, columns=columns)}


def _terms(records: list[tuple[int, int, dict[str, Any], int]]) -> pd.DataFrame:
    rows = [
        {
            "layer": layer,
            "feature": feature,
            "collection": record["o"],
            "term": record["t"],
            "n_overlap": record["n"],
            "n_list": n_list,
            "odds_ratio": record["or"],
            "q_value": record["p"],
            "genes": ";".join(sorted(record["g"])),
        }
        for layer, feature, record, n_list in records
    ]
    names = [column.name for column in TABLES["terms"]]
    terms = best_first(pd.DataFrame(rows, columns=names))
    unknown = ["n_term", "n_background", "p_value"]
    terms[unknown] = terms[unknown].astype(np.float64)
    return terms.assign(redundant_with=redundant_terms(terms, AnnotateSettings().redundant_share))


def _features(
    layer: int, entries: list[dict[str, Any]], genes: pd.DataFrame, terms: pd.DataFrame, known: bool
) -> pd.DataFrame:
    """Rows of features; `known`: the layer's annotations are there."""
    raw = pd.DataFrame(entries)
    best, by_feature = best_terms(terms), terms.groupby("feature")
    frame = pd.DataFrame({"layer": layer, "feature": raw["i"], "firing_rate": raw["f"], "n_firings": raw["fc"]})
    # published: mean over all positions; ours: where the feature is active
    fires = raw["f"].to_numpy() > 0
    frame["mean_activation"] = np.where(fires, raw["ma"] / np.where(fires, raw["f"], 1.0), np.nan)
    frame[["n_cells", "decoder_norm", "n_unique_genes"]] = np.nan
    feature = frame["feature"]
    if known:
        frame["n_terms"] = feature.map(by_feature.size()).fillna(0).astype(np.int64)
        frame["label"] = feature.map(best["term"]).fillna("")
        frame["annotation_score"] = feature.map(annotation_scores(terms)).fillna(0.0)
    else:
        frame["n_terms"] = frame["annotation_score"] = np.nan
        frame["label"] = raw["lb"].where(raw["to"].isin(COLLECTIONS), "")
    frame["label_q"] = feature.map(best["q_value"]).astype(float)
    frame["label_odds_ratio"] = feature.map(best["odds_ratio"]).astype(float)
    frame["top_genes"] = feature.map(genes.groupby("feature")["symbol"].agg(";".join)).fillna("")
    frame = frame[[column.name for column in TABLES["features"]]]
    names = {"d": "dead", "na": "n_records", "lb": "published_label", "to": "published_ontology"}
    more = raw.rename(columns=names | {"m": "module", "sv": "svd_aligned"})
    return pd.concat([frame, more[[*names.values(), "module", "svd_aligned"]]], axis=1)
