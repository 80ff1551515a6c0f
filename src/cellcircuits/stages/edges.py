"""Stage `edges`: call edges from the moments of a trace. Needs no torch."""

from __future__ import annotations

import json

import pandas as pd

from cellcircuits.edge_calling import count_pairs, edges, sign_shares
from cellcircuits.moments import load_trace
from cellcircuits.progress import Progress
from cellcircuits.run import Run
from cellcircuits.tables import write_table


def edges_stage(run: Run, progress: Progress) -> None:
    """Call edges from the run's moments; write `edges/`."""
    run.require("trace")
    settings, totals = run.settings.edges, load_trace(run.path("trace"))
    with progress.task("Calling edges", len(totals)) as advance:
        found = []
        for moments in totals:
            found.append(edges(moments, settings))
            advance(1)
    table = pd.concat(found, ignore_index=True)
    tested = pd.concat([count_pairs(moments, settings) for moments in totals], ignore_index=True)
    signs = sign_shares(totals, settings)
    summary = {
        "rule": settings.rule,
        "n_tested": int(tested["n_tested"].sum()),
        "n_responding": int(tested["n_responding"].sum()),
        "n_edges": len(table),
        "n_sources": int(sum(len(moments.source_features) for moments in totals)),
        "n_sources_with_too_few_cells": int(sum((m.cells() < settings.min_cells).sum() for m in totals)),
        "signs": signs.to_dict("records"),
    }
    with run.writing("edges", summary=summary) as folder:
        write_table("edges", table, folder)
        write_table("tested", tested, folder)
        write_table("signs", signs, folder)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
