"""A small made-up atlas, with names that a careless page would run, break or lose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellcircuits.atlas.build import build_site
from cellcircuits.atlas.coordinates import map_features
from cellcircuits.atlas.inputs import AtlasRun, Comparison, Interventions
from cellcircuits.atlas.run_data import END_COLUMNS
from cellcircuits.tables import TABLES, make_table

SCRIPT = "<script>window.attacked = true</script>"
QUOTES = """Quotes " ' & <b>bold</b> $title"""
FOREIGN = "Ядро 細胞核 🧬"
LONG = "A very long name of a gene set " * 60
NAMES = [SCRIPT, QUOTES, FOREIGN, LONG, "Ribosome", ""]
SYMBOLS = ["LYZ", "CD3E", "HLA-DRA", SCRIPT, FOREIGN, "MS4A1", "NKG7", 'G"1']
SUMMARY = {
    "edges": {"n_edges": 1234567, "share_negative": 0.5, "missing": float("nan"), QUOTES: SCRIPT},
    "names": {"nested": {"deep": [1, 2]}, "rule": "calibrated"},
}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
N_LAYERS, N_FEATURES = 3, 70
SOURCE = (0, 65)
"""A feature with a hostile label, edges, and genes; in the second shard of its layer."""


def _features(rng: np.random.Generator) -> pd.DataFrame:
    rows = [(layer, feature) for layer in range(N_LAYERS) for feature in range(N_FEATURES)]
    columns: dict[str, Any] = {c.name: rng.random(len(rows)) for c in TABLES["features"] if c.dtype == "float64"}
    columns |= {c.name: rng.integers(1, 1000, len(rows)) for c in TABLES["features"] if c.dtype == "int64"}
    columns["layer"], columns["feature"] = zip(*rows, strict=True)
    columns["label"] = [SCRIPT if row == SOURCE else NAMES[row[1] % len(NAMES)] for row in rows]
    columns["label_q"] = np.where(np.array(columns["label"]) == "", np.nan, 1e-9)
    columns["top_genes"] = ["LYZ;" + SYMBOLS[feature % 8] for _, feature in rows]
    columns["n_firings"][7] = 0
    return make_table("features", columns)


def _edges(rng: np.random.Generator) -> pd.DataFrame:
    pairs = {(*SOURCE, 1, 0), (*SOURCE, 2, 64), (1, 0, 2, 64)}
    while len(pairs) < 200:
        source_layer = int(rng.integers(0, N_LAYERS - 1))
        target_layer = int(rng.integers(source_layer + 1, N_LAYERS))
        pairs.add((source_layer, int(rng.integers(0, 66)), target_layer, int(rng.integers(0, N_FEATURES))))
    ends = np.array(sorted(pairs))
    columns: dict[str, Any] = {c.name: rng.normal(size=len(ends)) for c in TABLES["edges"] if c.dtype == "float64"}
    columns |= {c.name: rng.integers(0, 100, len(ends)) for c in TABLES["edges"] if c.dtype == "int64"}
    columns |= {c.name: rng.random(len(ends)) < 0.5 for c in TABLES["edges"] if c.dtype == "bool"}
    columns |= dict(zip(END_COLUMNS, ends.T, strict=True))
    columns["relative_effect"][::7] = np.nan
    columns["snr"][3] = np.inf
    columns["q_value"] = 10.0 ** -rng.uniform(2, 200, len(ends))
    return make_table("edges", columns)


def fake_tables() -> dict[str, pd.DataFrame]:
    """Small tables with names that a careless page would run, break or lose."""
    rng = np.random.default_rng(0)
    features, edges = _features(rng), _edges(rng)
    genes_of = [
        (layer, feature, rank) for layer, feature in features[["layer", "feature"]].to_numpy() for rank in (1, 2)
    ]
    columns = [c.name for c in TABLES["feature_genes"]]
    listed = [(a, b, r, f"G{r}", "LYZ" if r == 1 else SYMBOLS[b % 8], 1 / r, 5, 50) for a, b, r in genes_of]
    terms = [(*SOURCE, "sets.gmt", SCRIPT, 3, 20, 40, 900, 9.5, 1e-9, 1e-7, "LYZ;CD3E", "")]
    regulators = [(*SOURCE, "net.tsv", SCRIPT, SCRIPT, 3, 20, 40, 900, 9.5, 1e-9, 1e-7, True, "LYZ;CD3E")]
    interactions = [(*SOURCE, SCRIPT, 20, 18, 30, 4.5, 1.5, 20000, 5e-5, 1e-3)]
    hubs = [("out", *SOURCE, SCRIPT, 9, 4.5, 0.1, 0.5), ("in", 2, 64, FOREIGN, 4, 2.0, 0.1, -0.5)]
    circuits = [(SCRIPT, LONG, 5, 1.2, 0.001, 0.01, -0.8, 0.9, "L0/F65 -> L2/F64", "LYZ", "CD3E")]
    bins = [(*SOURCE, 0.5, 0.7, 4), (*SOURCE, 1.0, 1.4, 40), (*SOURCE, 1.4, 2.0, 7)]
    labels = [
        (*SOURCE, SCRIPT, FOREIGN, 30, 0.9, 0.4, 0.1, 1e-9, 1e-7),
        (*SOURCE, "type", "B", 9, 0.3, 0, 0.1, 0.1, 0.2),
    ]
    quality = {c.name: [0.5] * N_LAYERS for c in TABLES["quality"]} | {"layer": range(N_LAYERS)}
    modules = [(*SOURCE, 0, 5, 3.0), (0, 64, 0, 5, 3.0), (0, 63, -1, 0, np.nan)]
    module_labels = [(0, 0, 2, 1, SCRIPT, 1, 0.01, 0.02, "LYZ;CD3E")]
    return {
        "edges": edges,
        "features": features,
        "feature_genes": make_table("feature_genes", pd.DataFrame(listed, columns=columns)),
        "terms": _table("terms", terms),
        "regulators": _table("regulators", regulators),
        "interactions": _table("interactions", interactions),
        "activation_bins": _table("activation_bins", bins),
        "cell_labels": _table("cell_labels", labels),
        "quality": make_table("quality", quality),
        "modules": _table("modules", modules),
        "module_labels": _table("module_labels", module_labels),
        "answers": made_up_answers(),
        "hubs": _table("hubs", hubs),
        "circuits": _table("circuits", circuits),
        "signs": _table("signs", [(QUOTES, 200, 0.61, 0.52, 0.7, 0.5)]),
        "attenuation": _table("attenuation", [(0, 1, 1, 30, 90, 3.0, 0.04, 0.002, 0.7, np.nan, 0.6)]),
    }


def made_up_answers() -> pd.DataFrame:
    """One answer of each verdict."""
    names = [c.name for c in TABLES["answers"]]
    plain = {c.name: "" if c.dtype == "string" else np.nan for c in TABLES["answers"]}
    share = {"value": 0.6, "baseline": 0.2, "baseline_is": "labels permuted", "low": 0.5, "high": 0.7, "p_value": 1e-3}
    share |= {"published": 0.9, "published_is": "the published share", "unit": "share", "note": QUOTES, "q_value": 2e-3}
    rows = [
        {"question": "do_hubs_exist", "asked": f"Are there hubs {SCRIPT}?", "verdict": "supported", **share},
        {"question": "do_hubs_exist", "asked": "Are they many?", "value": 3.0, "baseline": 3.1, "p_value": 0.8},
        {"question": "reach", "asked": "How far?", "note": "Trace more layers."},
        {"question": "reach", "asked": "How far on average?", "value": 2.0, "unit": "layers"},
    ]
    verdicts = ["supported", "not distinguishable from chance", "cannot be tested with these inputs"]
    verdicts.append("a description, not a test")
    filled = [plain | {"statistic": "share"} | row | {"verdict": v} for row, v in zip(rows, verdicts, strict=True)]
    return make_table("answers", pd.DataFrame(filled, columns=names))


def _table(name: str, rows: list[tuple]) -> pd.DataFrame:
    return make_table(name, pd.DataFrame(rows, columns=[c.name for c in TABLES[name]]))


def made_up_run(folder: Path, key: str = "first", tables: dict[str, pd.DataFrame] | None = None) -> AtlasRun:
    """A run of the fake tables; figure and report are written into `folder`."""
    tables = fake_tables() if tables is None else tables
    figure, report = folder / "signs_by_rule.png", folder / "report.html"
    figure.write_bytes(PNG)
    report.write_text("<!doctype html><title>r</title><style>p { color: red }</style><p>The report")
    provenance = {"stage": "cells", "settings": {"cells": {"data": SCRIPT}}, "inputs": {"cells": "a" * 64}}
    provenance |= {"hash": "b" * 64, "created": "2026-01-01", "package_version": "0.1", "record": {"n": 3}}
    provenance |= {"n_files": 2, "size_bytes": 1234567}
    return AtlasRun(
        key=key,
        name=f"{key} {QUOTES}",
        tables=tables,
        summary=SUMMARY,
        figures=[figure],
        report=report,
        provenance=[provenance],
        coordinates=map_features(tables["features"], tables["feature_genes"], {}, "pca"),
        interventions=Interventions(made_up_answers().tail(3), [figure], report) if key == "first" else None,
    )


def build_in(folder: Path, tables: dict[str, pd.DataFrame] | None = None, keys: tuple[str, ...] = ("first",)) -> Path:
    """An atlas of the fake tables, once for each key."""
    site = folder / "atlas"
    site.mkdir(parents=True)
    runs = [made_up_run(folder, key, tables) for key in keys]
    consensus = _table("consensus", [(SCRIPT, "Ribosome", 2, "first;second", 6, -0.25, 1, False, 0.5)])
    compared = Comparison(consensus, made_up_answers().head(1), [folder / "signs_by_rule.png"])
    build_site(runs, site, QUOTES, compared if len(keys) > 1 else None)
    return site
