"""Write the atlas: a static web site of features and edges that any web server can hold.

1. copy the pages (site/: HTML, CSS, ES modules) and the plots,
2. write the tables as small compressed files under data/ (`shards.py`), each page loads the few it needs,
3. write the overview into index.html as plain HTML, so that it can be read without a web server too.

All text from tables reaches the page as text, never as markup; the site loads nothing from anywhere else.
"""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellcircuits.atlas.genes import index_genes
from cellcircuits.atlas.overview import overview_html
from cellcircuits.atlas.shards import compressed_json, encode_table, shard_width, write_by_feature, write_bytes
from cellcircuits.errors import RunError, listed
from cellcircuits.tables import FORMAT_VERSION, TABLES, empty_table

SITE = Path(__file__).parent / "site"

CIRCUITS_SHOWN = 500
CIRCUIT_MAX_Q = 0.05
"""The overview says how many circuits have at most this q: a list in order of q starts with something in any case."""
HUBS_SHOWN = 200
GENES_SHOWN = 3
"""Top genes that stand for a feature without a label."""

END_COLUMNS = ["source_layer", "source_feature", "target_layer", "target_feature"]
METHOD_TABLES = [
    "edges",
    "features",
    "feature_genes",
    "terms",
    "regulators",
    "interactions",
    "attenuation",
    "hubs",
    "signs",
    "circuits",
]


def build_atlas(
    tables: dict[str, pd.DataFrame], summary: dict[str, Any], plots: list[Path], folder: Path, title: str
) -> None:
    """Write a complete static site into `folder`.

    Parameters
    ----------
    tables
        Tables by name, with the columns of `tables.py`. `edges` and `features` are needed; the others may be missing
        or empty. With `sources`, a page can tell a feature without outgoing edges from one that was never ablated.
    summary
        Key numbers: {section: {name: value or text}}.
    plots
        PNG files, shown on the overview in this order.
    folder
        An existing, empty folder.
    title
        Heading of the site.

    Raises
    ------
    RunError
        If the folder is not empty, or a table or plot cannot be used.
    """
    _check(tables, plots, folder)
    tables = {name: tables[name] if name in tables else empty_table(name) for name in TABLES}
    edges = tables["edges"].sort_values(END_COLUMNS, kind="stable", ignore_index=True)
    features = _counted_features(tables["features"], edges, tables["sources"])
    data = folder / "data"
    shards = _write_features(features, tables, data) | _write_edges(edges, features, data)
    contents = {"title": title, "format_version": FORMAT_VERSION, "n_edges": len(edges), "shards": shards}
    contents["layers"] = features.groupby("layer").size().reset_index(name="n_features").to_dict("records")
    contents |= _write_genes(tables["feature_genes"], features, edges, data)
    contents |= _write_findings(tables, data)
    write_bytes(data / "contents.json.gz", compressed_json(contents))
    write_bytes(data / "columns.json.gz", encode_table(_column_meanings()))
    _copy_pages(tables, summary, plots, folder, title)


def _check(tables: dict[str, pd.DataFrame], plots: list[Path], folder: Path) -> None:
    missing = {"edges", "features"} - set(tables)
    if missing:
        raise RunError(f"The atlas needs the tables edges and features; missing: {listed(sorted(missing))}.")
    if not folder.is_dir() or any(folder.iterdir()):
        raise RunError(
            f"The atlas needs an existing, empty folder; {folder} is missing or not empty. Give another one."
        )
    wrong = [path for path in plots if path.suffix != ".png" or not path.is_file()]
    if wrong:
        raise RunError(f"Plots must be existing PNG files; these are not: {listed(wrong)}.")
    names = [path.name for path in plots]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RunError(f"Plots need different file names; found more than once: {listed(twice)}.")


def _counted_features(features: pd.DataFrame, edges: pd.DataFrame, sources: pd.DataFrame) -> pd.DataFrame:
    """Features with their numbers of outgoing and incoming edges, and whether they were ablated (-1: not known)."""
    features = features.sort_values(["layer", "feature"], kind="stable", ignore_index=True)
    place = pd.MultiIndex.from_frame(features[["layer", "feature"]])
    for name, end in (("n_out", "source"), ("n_in", "target")):
        count = edges.groupby([f"{end}_layer", f"{end}_feature"]).size()
        features[name] = count.reindex(place, fill_value=0).to_numpy()
    ablated = place.isin(pd.MultiIndex.from_frame(sources[["layer", "feature"]]))
    features["ablated"] = ablated.astype(int) if len(sources) else -1
    return features


def _write_features(features: pd.DataFrame, tables: dict[str, pd.DataFrame], data: Path) -> dict[str, Any]:
    """One table per layer to search in, and per shard all that a feature's page shows."""
    shown = ["layer", "feature", "label", "firing_rate", "n_cells", "top_genes", "n_out", "n_in"]
    for layer, rows in features.groupby("layer"):
        write_bytes(data / "layers" / f"L{layer:02d}.json.gz", encode_table(rows[shown]))
    terms_order = ["q_value", "p_value", "collection", "term"]
    return {
        "features": write_by_feature(features, "layer", "feature", data / "features", []),
        "feature_genes": write_by_feature(
            tables["feature_genes"], "layer", "feature", data / "feature_genes", ["rank", "gene_id"]
        ),
        "terms": write_by_feature(tables["terms"], "layer", "feature", data / "terms", terms_order),
        "regulators": write_by_feature(
            tables["regulators"], "layer", "feature", data / "regulators", ["q_value", "network", "target_set"]
        ),
        "interactions": write_by_feature(
            tables["interactions"], "layer", "feature", data / "interactions", ["network"]
        ),
    }


def _write_edges(edges: pd.DataFrame, features: pd.DataFrame, data: Path) -> dict[str, Any]:
    """Every edge twice, by its source and by its target, each with the name of the feature at the other end."""
    place = pd.MultiIndex.from_frame(features[["layer", "feature"]])
    label = features["label"].to_numpy(dtype=object)
    genes = features["top_genes"].str.split(";").str[:GENES_SHOWN].str.join(";").to_numpy(dtype=object)
    shards = {}
    for name, end, other in (("edges_out", "source", "target"), ("edges_in", "target", "source")):
        row = place.get_indexer(pd.MultiIndex.from_frame(edges[[f"{other}_layer", f"{other}_feature"]]))
        named = edges.assign(other_label="", other_genes="")
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
        limits = np.searchsorted(rows["gene"], np.arange(0, len(index.genes) + width, width))
        for number, (start, stop) in enumerate(pairwise(limits)):
            write_bytes(data / name / f"{number:04d}.json.gz", encode_table(rows.iloc[start:stop]))
    return {"n_genes": len(index.genes), "genes_per_shard": width}


def _write_findings(tables: dict[str, pd.DataFrame], data: Path) -> dict[str, float]:
    """The circuits with the smallest q and the features with the most edges; returns what the overview says of them."""
    circuits, hubs = tables["circuits"], tables["hubs"]
    by_evidence = ["q_value", "p_value", "n_edges", "source_label", "target_label"]
    circuits = circuits.sort_values(by_evidence, ascending=[True, True, False, True, True], kind="stable")
    write_bytes(data / "circuits.json.gz", encode_table(circuits.head(CIRCUITS_SHOWN)))
    by_degree = ["direction", "degree", "layer", "feature"]
    hubs = hubs.sort_values(by_degree, ascending=[False, False, True, True], kind="stable")
    write_bytes(data / "hubs.json.gz", encode_table(hubs.groupby("direction", sort=False).head(HUBS_SHOWN)))
    beyond_chance = int((circuits["q_value"] <= CIRCUIT_MAX_Q).sum())
    return {"n_circuits": len(circuits), "n_circuits_beyond_chance": beyond_chance, "circuit_max_q": CIRCUIT_MAX_Q}


def _column_meanings() -> pd.DataFrame:
    rows = [(table, c.name, c.unit, c.meaning) for table in METHOD_TABLES for c in TABLES[table]]
    return pd.DataFrame(rows, columns=["table", "column", "unit", "meaning"])


def _copy_pages(
    tables: dict[str, pd.DataFrame], summary: dict[str, Any], plots: list[Path], folder: Path, title: str
) -> None:
    """Copy what does not depend on the run, then write index.html, the entry to all of it, last."""
    for path in sorted(p for p in SITE.rglob("*") if p.suffix in {".css", ".js"}):
        write_bytes(folder / path.relative_to(SITE), path.read_bytes())
    (folder / "plots").mkdir()
    for path in plots:
        shutil.copyfile(path, folder / "plots" / path.name)
    page = overview_html((SITE / "index.html").read_text("utf-8"), title, summary, plots, tables)
    write_bytes(folder / "index.html", page.encode("utf-8", errors="replace"))
