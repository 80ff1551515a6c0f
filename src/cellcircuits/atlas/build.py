"""Write the atlas: a static web site of the features and edges of one or more runs, that any web server can hold.

1. copy the pages (site/: HTML, CSS, ES modules), the figures and the reports,
2. write the tables as small compressed files under data/ (`run_data.py`), each page loads the few it needs,
3. write the overview into index.html as plain HTML, so that it can be read without a web server too.

All text from tables reaches the page as text, never as markup; the site loads nothing from anywhere else.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from cellcircuits.atlas.inputs import AtlasRun, Comparison, check_figures, check_inputs
from cellcircuits.atlas.overview import site_html
from cellcircuits.atlas.run_data import Shown, write_run
from cellcircuits.atlas.shards import compressed_json, encode_table, write_bytes
from cellcircuits.formats import FORMAT_VERSION
from cellcircuits.tables import ROWS, TABLES

SITE = Path(__file__).parent / "site"
FIGURES, INTERVENTIONS, DATA = "findings", "interventions", "data"
"""Folders of the site: findings/<run>/ and interventions/<run>/ hold figures and report, data/<run>/ the tables."""
COMPARISON = "comparison"
METHOD_TABLES = [
    "edges",
    "features",
    "feature_genes",
    "activation_bins",
    "cell_labels",
    "terms",
    "regulators",
    "interactions",
    "quality",
    "attenuation",
    "hubs",
    "signs",
    "circuits",
    "consensus",
    "modules",
    "module_labels",
    "answers",
]


def build_site(runs: list[AtlasRun], folder: Path, title: str, comparison: Comparison | None = None) -> None:
    """Write a complete static site into `folder`.

    Parameters
    ----------
    runs
        One or more runs; addresses without the name of a run mean the first.
    folder
        An existing, empty folder.
    title
        Heading of the site.
    comparison
        What the runs agree on; None: the page of comparisons shows their key numbers only.

    Raises
    ------
    RunError
        If the folder is not empty, or a table, figure or report cannot be used.
    """
    check_inputs(runs, folder)
    data = folder / DATA
    listed = []
    for run in runs:
        shown = {FIGURES: _shown(run.figures, run.report, folder, FIGURES, run.key)}
        if (part := run.interventions) is not None:
            shown[INTERVENTIONS] = _shown(part.figures, part.report, folder, INTERVENTIONS, run.key)
        listed.append(write_run(run, data / run.key, shown))
    site = {"title": title, "format_version": FORMAT_VERSION, "runs": listed, COMPARISON: None}
    if comparison is not None:
        check_figures(comparison.figures)
        figures = _copied(comparison.figures, folder, FIGURES, COMPARISON)
        site[COMPARISON] = {"n_pairs": len(comparison.consensus), "figures": figures}
        write_bytes(data / COMPARISON / "consensus.json.gz", encode_table(_ordered(comparison.consensus)))
        write_bytes(data / COMPARISON / "answers.json.gz", encode_table(comparison.answers))
    write_bytes(data / "site.json.gz", compressed_json(site))
    write_bytes(data / "columns.json.gz", encode_table(_column_meanings()))
    _copy_pages(runs, folder, title)


def _ordered(consensus: pd.DataFrame) -> pd.DataFrame:
    return consensus.sort_values(["source_label", "target_label"], kind="stable")


def _shown(figures: list[Path], report: Path | None, folder: Path, part: str, key: str) -> Shown:
    """Copy the figures and the report of a part of a run."""
    return Shown(_copied(figures, folder, part, key), _copied([report], folder, part, key)[0] if report else None)


def _copied(paths: list[Path], folder: Path, part: str, key: str) -> list[str]:
    """Copy files into <part>/<key>/; returns their addresses within the site."""
    target = folder / part / key
    target.mkdir(parents=True, exist_ok=True)
    for path in paths:
        shutil.copyfile(path, target / path.name)
    return [f"{part}/{key}/{quote(path.name)}" for path in paths]


def _column_meanings() -> pd.DataFrame:
    rows = [(table, ROWS[table], c.name, c.unit, c.meaning) for table in METHOD_TABLES for c in TABLES[table]]
    return pd.DataFrame(rows, columns=["table", "rows", "column", "unit", "meaning"])


def _copy_pages(runs: list[AtlasRun], folder: Path, title: str) -> None:
    """Copy what does not depend on the runs, then write index.html, the entry to all of it, last."""
    for path in sorted(p for p in SITE.rglob("*") if p.suffix in {".css", ".js"}):
        write_bytes(folder / path.relative_to(SITE), path.read_bytes())
    page = site_html((SITE / "index.html").read_text("utf-8"), title, runs)
    write_bytes(folder / "index.html", page.encode("utf-8", errors="replace"))
