"""The demo: both small models, every stage and question, on real cells; then what the two agree on."""

from __future__ import annotations

import resource
from pathlib import Path

from rich.console import Console

from cellcircuits.comparison import compare_runs
from cellcircuits.findings_report import REPORT
from cellcircuits.opened import OpenRun, open_run
from cellcircuits.pipeline import run_pipeline
from cellcircuits.progress import Progress
from cellcircuits.report import print_answers, print_summary
from cellcircuits.run import Run, create_run
from cellcircuits.settings import StructureSettings, read_settings
from cellcircuits.structure_tables import write_structure
from cellcircuits.tables import read_table

DATA = Path(__file__).parent / "data"
FAMILIES = ("geneformer", "scgpt")
STRUCTURE = StructureSettings(max_cells=200, null_draws=200, rewirings=1)
"""Which features fire together, on fewer cells and with fewer draws than by default."""


def run_demo(out: Path, progress: Progress, console: Console) -> None:
    """Run or resume the demo in `out`: a run folder for each model, and what they agree on."""
    runs = []
    for family in FAMILIES:
        progress.note(f"{family}: the small model that is shipped with the package, on 700 blood cells")
        run = create_run(out / family, read_settings(DATA / f"demo_{family}.toml"))
        with run.locked():
            _make(run, progress)
        runs.append(open_run(run.folder))
    comparison = out / "comparison"
    compare_runs([run.folder for run in runs], comparison, runs[0].settings.findings)
    for run in runs:
        print_summary(run, console)
    print_answers(read_table("answers", comparison), comparison / REPORT, console)
    _print_places(runs, out, console)


def _make(run: Run, progress: Progress) -> None:
    """Every stage; what fires together is found before the questions are asked, one of which needs it."""
    run_pipeline(run, progress, until="edges")
    if run.status("structure").state != "done":
        write_structure(open_run(run.folder), STRUCTURE, progress)
    run_pipeline(run, progress)


def _print_places(runs: list[OpenRun], out: Path, console: Console) -> None:
    """Where everything is that was written."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    lines = [f"Peak memory {peak:.1f} GB. Written to {out.resolve()}:"]
    for run in runs:
        lines.append(f"  findings: {(run.path('findings') / REPORT).resolve()}")
        page = (run.path("atlas") / "index.html").resolve()
        lines.append(f"  atlas: {page}   (open with: cellcircuits atlas {run.folder} --open)")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
