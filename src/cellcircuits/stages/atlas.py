"""Stage `atlas`: the static web site of a run. Needs no torch."""

from __future__ import annotations

from cellcircuits.atlas.build import build_atlas
from cellcircuits.opened import OpenRun
from cellcircuits.progress import Progress
from cellcircuits.run import Run
from cellcircuits.summary import summarise


def atlas_stage(run: Run, progress: Progress) -> None:
    """Write the site from the run's tables; write `atlas/`."""
    run.require("annotate", "trace", "edges", "findings")
    opened = OpenRun(run.folder, run.settings)
    tables = {
        "features": opened.features,
        "feature_genes": opened.feature_genes,
        "terms": opened.terms,
        "regulators": opened.regulators,
        "interactions": opened.interactions,
        "edges": opened.edges,
        "attenuation": opened.findings.attenuation,
        "hubs": opened.findings.hubs,
        "signs": opened.findings.signs,
        "circuits": opened.findings.circuits,
        "sources": opened.sources,
    }
    plots = sorted(run.path("findings").glob("*.png"))
    with progress.task("Writing the atlas", 1) as advance, run.writing("atlas") as folder:
        build_atlas(tables, summarise(opened), plots, folder, run.settings.atlas.title)
        advance(1)
