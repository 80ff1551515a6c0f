"""The demo: both small models, every stage, on real cells; then what the two agree on."""

from __future__ import annotations

import json
import resource
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cellcircuits.findings.circuits import labelled_edges
from cellcircuits.findings.consensus import Consensus, consensus
from cellcircuits.opened import OpenRun, open_run
from cellcircuits.pipeline import run_pipeline
from cellcircuits.progress import Progress
from cellcircuits.report import print_summary
from cellcircuits.run import create_run
from cellcircuits.settings import read_settings
from cellcircuits.tables import write_table

DATA = Path(__file__).parent / "data"
FAMILIES = ("geneformer", "scgpt")
REWIRINGS = 1000
"""Random graphs with which the agreement of the two models is compared."""


def run_demo(out: Path, progress: Progress, console: Console) -> None:
    """Run or resume the demo in `out`: a run folder for each model, and what they agree on."""
    runs = []
    for family in FAMILIES:
        progress.note(f"{family}: the small model that is shipped with the package, on 700 blood cells")
        run = create_run(out / family, read_settings(DATA / f"demo_{family}.toml"))
        with run.locked():
            run_pipeline(run, progress)
        runs.append(open_run(run.folder))
    agreement = compare_runs(*runs)
    write_table("consensus", agreement.pairs, out)
    numbers = {k: v for k, v in asdict(agreement).items() if k != "pairs"}
    (out / "consensus.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    for run in runs:
        print_summary(run, console)
    print_consensus(agreement, console)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    console.print(f"Peak memory {peak:.1f} GB. Written to {out.resolve()}:", highlight=False, soft_wrap=True)
    for run in runs:
        page = (run.path("atlas") / "index.html").resolve()
        console.print(
            f"  atlas: {page}   (open with: cellcircuits atlas {run.folder} --open)", highlight=False, soft_wrap=True
        )


def compare_runs(first: OpenRun, second: OpenRun) -> Consensus:
    """Agreement of two runs on which gene program acts on which."""
    tables = [labelled_edges(run.edges, run.features) for run in (first, second)]
    return consensus(tables[0], tables[1], draws=REWIRINGS, seed=0)


def print_consensus(found: Consensus, console: Console) -> None:
    """How many pairs of programs both models connect, beside chance."""
    table = Table(show_header=False, title="Agreement of the two models", title_justify="left")
    table.add_row("ordered pairs of programs connected", f"{found.n_first:,} and {found.n_second:,}")
    table.add_row(
        "connected in both",
        f"{found.n_shared:,} (expected {found.n_expected:.1f} if rewired at random; p = {found.p_value:.2g})",
    )
    table.add_row(
        "same sign in both", f"{found.share_same_sign:.0%} (expected {found.expected_same_sign:.0%} if independent)"
    )
    console.print(table)
