"""Stage `findings`: every question in turn, each from tables to one table."""

from __future__ import annotations

import json

import numpy as np

from cellcircuits.evidence import make_evidence
from cellcircuits.findings.attenuation import attenuation
from cellcircuits.findings.circuits import circuits
from cellcircuits.findings.hubs import hubs
from cellcircuits.plots import write_plots
from cellcircuits.progress import Progress
from cellcircuits.run import Run
from cellcircuits.tables import read_table, write_table


def findings_stage(run: Run, progress: Progress) -> None:
    """Ask the biological questions of the run's edges; write `findings/`."""
    run.require("cells", "annotate", "trace", "edges")
    settings = run.settings.findings
    edges, tested, signs = (read_table(name, run.path("edges")) for name in ("edges", "tested", "signs"))
    features = read_table("features", run.path("annotate"))
    sources = read_table("sources", run.path("trace"))
    evidence = make_evidence(edges, features, sources=sources, tested=tested)
    cells = (run.manifest("cells") or {})["record"]
    found = {"signs": signs}
    with progress.task("Asking the questions", 3) as advance:
        rule = run.settings.edges
        found["attenuation"] = attenuation(evidence, rule.max_q if rule.rule == "calibrated" else np.nan)
        advance(1)
        found["hubs"] = hubs(evidence)
        advance(1)
        found["circuits"] = circuits(evidence)
        advance(1)
    significant = found["circuits"][found["circuits"]["q_value"] <= settings.max_q]
    summary = {
        "n_edges": len(edges),
        "n_label_pairs": len(found["circuits"]),
        "n_label_pairs_beyond_chance": len(significant),
        "n_label_pairs_beyond_chance_expected_false": settings.max_q * len(significant),
    }
    caption = f"{cells['model']}, {cells['coverage']['cells']:,} cells"
    with run.writing("findings", summary=summary) as folder:
        for name, table in found.items():
            write_table(name, table, folder)
        write_plots(edges, found["attenuation"], found["hubs"], cells["n_layers"], folder, caption)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
