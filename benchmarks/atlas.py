"""How fast is a large atlas? Builds a made-up one and measures its pages in Chromium, from the local server.

python benchmarks/atlas.py --features 100000 --edges 1000000

Every page is opened in a new browser context, so that nothing is cached. Times are the page's own, from the start of
the navigation until all of its content is there (the mark "view-ready"); automation does not count.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellcircuits.atlas.build import build_site
from cellcircuits.atlas.coordinates import map_features
from cellcircuits.atlas.inputs import AtlasRun
from cellcircuits.atlas.serve import make_server
from cellcircuits.tables import TABLES, empty_table, make_table

LAYERS = 18
GENES, GENES_PER_LIST = 8000, 20
PROGRAMS, TERMS_PER_FEATURE = 1500, 4
CELL_TYPES = 20
SOURCES_PER_LAYER = 300
"""Ablated features of a layer; 1,000,000 edges are then about 200 for each."""
ROUNDS = 7
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LIMITS = {"first view": 2.0, "feature": 1.0, "hub": 1.0}
MOST_MEGABYTES = 200


def filled(name: str, rng: np.random.Generator, n: int, **columns: object) -> pd.DataFrame:
    """A declared table, with random numbers where nothing is given."""
    made: dict[str, Any] = {}
    for column in TABLES[name]:
        if column.dtype == "string":
            made[column.name] = np.full(n, "", dtype=object)
        elif column.dtype == "bool":
            made[column.name] = rng.random(n) < 0.1
        else:
            made[column.name] = rng.normal(size=n) if column.dtype == "float64" else rng.integers(0, 300, n)
    return make_table(name, made | columns)


def made_up_run(n_features: int, n_edges: int, seed: int) -> AtlasRun:
    """A run of this size with names and degrees as uneven as real ones."""
    rng = np.random.default_rng(seed)
    per_layer = n_features // LAYERS
    n = per_layer * LAYERS
    layer, feature = np.repeat(np.arange(LAYERS), per_layer), np.tile(np.arange(per_layer), LAYERS)
    symbols = np.array([f"GENE{i}" for i in range(GENES)], dtype=object)
    programs = np.array(
        [f"regulation of made-up process number {i} (GO:{i:07d})" for i in range(PROGRAMS)], dtype=object
    )
    chosen = rng.zipf(1.3, size=(n, GENES_PER_LIST)) % GENES
    term = rng.zipf(1.4, size=(n, TERMS_PER_FEATURE)) % PROGRAMS
    labelled = rng.random(n) < 0.6
    ends = {"layer": layer, "feature": feature}
    tables = {
        "features": filled(
            "features",
            rng,
            n,
            **ends,
            label=np.where(labelled, programs[term[:, 0]], ""),
            firing_rate=np.exp(rng.normal(-4.5, 1, n)),
            n_firings=rng.integers(1, 10**6, n),
            top_genes=[";".join(row) for row in symbols[chosen]],
        ),
        "edges": made_up_edges(rng, n_edges, per_layer),
    }
    repeated = {name: np.repeat(values, GENES_PER_LIST) for name, values in ends.items()}
    ids = np.array([f"ENSG{i:011d}" for i in range(GENES)], dtype=object)
    ranks = np.tile(np.arange(1, GENES_PER_LIST + 1), n)
    genes = {"symbol": symbols[chosen.ravel()], "gene_id": ids[chosen.ravel()], "rank": ranks}
    tables["feature_genes"] = filled("feature_genes", rng, n * GENES_PER_LIST, **repeated, **genes)
    rows = np.flatnonzero(labelled)
    repeated = {name: np.repeat(values[rows], TERMS_PER_FEATURE) for name, values in ends.items()}
    names = {
        "term": programs[term[rows].ravel()],
        "collection": "GO_Biological_Process_2023",
        "genes": "GENE1;GENE2;GENE3",
    }
    terms = filled("terms", rng, len(rows) * TERMS_PER_FEATURE, **repeated, **names)
    tables["terms"] = terms.drop_duplicates(["layer", "feature", "term"], ignore_index=True)
    repeated = {name: np.repeat(values, CELL_TYPES) for name, values in ends.items()}
    types = np.array([f"cell type {i}" for i in range(CELL_TYPES)], dtype=object)
    auroc = rng.beta(5, 5, n * CELL_TYPES)
    about = {"label": np.tile(types, n), "column": "cell_type", "auroc": auroc}
    tables["cell_labels"] = filled("cell_labels", rng, n * CELL_TYPES, **repeated, **about)
    repeated = {name: np.repeat(values, 10) for name, values in ends.items()}
    low = np.tile(2.0 ** (np.arange(10) / 2), n)
    tables["activation_bins"] = filled("activation_bins", rng, 10 * n, **repeated, low=low, high=low * 2**0.5)
    tables["circuits"] = made_up_circuits(rng, programs)
    map_of = map_features(tables["features"], empty_table("feature_genes"), directions(rng, per_layer), "pca")
    return AtlasRun("run-1", "a made-up run", tables, {"edges": {"n_edges": n_edges}}, coordinates=map_of)


def directions(rng: np.random.Generator, per_layer: int) -> dict[int, np.ndarray]:
    """Random decoder rows."""
    return {layer: rng.normal(size=(per_layer, 64)).astype(np.float32) for layer in range(LAYERS)}


def made_up_edges(rng: np.random.Generator, n_edges: int, per_layer: int) -> pd.DataFrame:
    """Edges from some features of every layer to features of all layers above; degrees are uneven."""
    source_layer = rng.integers(0, LAYERS - 1, n_edges)
    target_layer = source_layer + 1 + (rng.random(n_edges) * (LAYERS - 1 - source_layer)).astype(int)
    ends = {
        "source_layer": source_layer,
        "source_feature": (rng.beta(1, 3, n_edges) * min(SOURCES_PER_LAYER, per_layer)).astype(int),
        "target_layer": target_layer,
        "target_feature": (rng.beta(1, 2, n_edges) * per_layer).astype(int),
    }
    edges = filled("edges", rng, n_edges, **ends, q_value=10 ** -rng.uniform(2, 60, n_edges))
    return edges.drop_duplicates(list(ends), ignore_index=True)


def made_up_circuits(rng: np.random.Generator, programs: np.ndarray) -> pd.DataFrame:
    """Pairs of programs."""
    pairs = pd.DataFrame({"source_label": rng.choice(programs, 40_000), "target_label": rng.choice(programs, 40_000)})
    pairs = pairs.drop_duplicates(ignore_index=True)
    ends = {name: pairs[name] for name in pairs}
    return filled("circuits", rng, len(pairs), **ends, strongest="L0/F1 -> L1/F2", q_value=rng.random(len(pairs)))


def routes(run: AtlasRun) -> dict[str, str]:
    """Views by name."""
    edges = run.table("edges")
    hub = edges.groupby(["source_layer", "source_feature"]).size().idxmax()
    gene = run.table("feature_genes")["symbol"].mode()[0]
    program = run.table("features")["label"].loc[lambda label: label != ""].mode()[0]
    return {
        "first view": "#/",
        "feature": "#/feature/9/17",
        "hub": f"#/feature/{hub[0]}/{hub[1]}",
        "map": "#/map/9",
        "features of a layer": "#/features?layer=9",
        "search in all layers": "#/features?layer=all&search=GENE17",
        "circuit, 1 step": f"#/circuit/feature/{hub[0]}/{hub[1]}",
        "circuit, 3 steps": f"#/circuit/feature/{hub[0]}/{hub[1]}?depth=3",
        "gene on most lists": f"#/gene/{gene}",
        "program of most features": f"#/program/{program.replace(' ', '%20')}",
    }


def measure(site: Path, views: dict[str, str]) -> dict[str, list[float]]:
    """Seconds until a view is there (median and slowest of ROUNDS), and megabytes that were sent for it."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("chromium is not on PATH")
    found: dict[str, list[float]] = {}
    with make_server(site) as server, sync_playwright() as tools:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = tools.chromium.launch(executable_path=path, args=FLAGS)
        for name, route in views.items():
            times, sent = [], 0
            for _ in range(ROUNDS):
                context = browser.new_context(viewport={"width": 1200, "height": 800})
                page = context.new_page()
                sizes: list[int] = []
                page.on("response", lambda r, sizes=sizes: sizes.append(int(r.headers.get("content-length", 0))))
                page.goto(server.url + route)
                page.wait_for_selector("body[data-ready=yes]")
                times.append(page.evaluate("performance.getEntriesByName('view-ready')[0].startTime") / 1000)
                if page.locator("[role=alert]").count():
                    raise SystemExit(f"{name}: {page.inner_text('main')[:300]}")
                sent = sum(sizes)
                context.close()
            found[name] = [statistics.median(times), max(times), sent / 1e6]
        browser.close()
        server.shutdown()
    return found


def build(site: Path, n_features: int, n_edges: int) -> None:
    """Write the atlas and, beside it, its views; print what that took."""
    run = made_up_run(n_features, n_edges, seed=0)
    print(f"{len(run.table('features')):,} features, {len(run.table('edges')):,} edges", flush=True)
    site.mkdir(parents=True)
    start, worked = time.perf_counter(), time.process_time()
    build_site([run], site, "A large atlas")
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"built in {seconds:.0f} s ({worked:.0f} s of one core), peak memory {peak:.1f} GB", flush=True)
    views_file(site).write_text(json.dumps(routes(run)))


def views_file(site: Path) -> Path:
    """Where the views of an atlas are kept."""
    return site.with_name(f"{site.name}.views.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=100_000)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="write the atlas there and keep it; one that is there is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        site = options.keep or Path(temporary) / "atlas"
        if not site.exists():
            build(site, options.features, options.edges)
        files = [path for path in site.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / 1e6
        print(f"{len(files):,} files, {size:.0f} MB (at most {MOST_MEGABYTES}: {size <= MOST_MEGABYTES})", flush=True)
        print("| view | median s | slowest s | MB sent |\n|---|---|---|---|")
        for name, (median, slowest, sent) in measure(site, json.loads(views_file(site).read_text())).items():
            limit = f" (at most {LIMITS[name]:g} s: {median <= LIMITS[name]})" if name in LIMITS else ""
            print(f"| {name}{limit} | {median:.2f} | {slowest:.2f} | {sent:.2f} |", flush=True)


if __name__ == "__main__":
    main()
