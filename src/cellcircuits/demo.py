"""The demo: both small models, every stage and question, on real cells; then what the two agree on."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from cellcircuits.atlas.build import COMPARISON
from cellcircuits.comparison import compare_runs
from cellcircuits.findings_report import REPORT
from cellcircuits.intervention_report import print_interventions
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.intervention_tables import write_interventions
from cellcircuits.opened import OpenRun, open_run
from cellcircuits.pipeline import run_pipeline
from cellcircuits.progress import Progress
from cellcircuits.report import print_answers, print_summary
from cellcircuits.run import Run, create_run
from cellcircuits.settings import Settings, StructureSettings, read_settings
from cellcircuits.structure_tables import write_structure
from cellcircuits.tables import read_table

DATA = Path(__file__).parent / "data"
FAMILIES = ("geneformer", "scgpt")
STRUCTURE = StructureSettings(max_cells=200, null_draws=200, rewirings=1)
"""Which features fire together, on fewer cells and with fewer draws than by default."""
ATLAS_TITLE = "Circuits of two small models in 700 blood cells"
INTERVENTIONS = InterventionSettings(
    n_features=8,
    n_cells=30,
    random_directions=6,
    interaction_pairs=3,
    interaction_triplets=1,
    output_control_cells=15,
    circuit_random=19,
    importance_hubs=6,
    importance_controls=1,
)
"""Interventions, on fewer features and cells than by default."""


def run_demo(out: Path, progress: Progress, console: Console, interventions: bool = False) -> None:
    """Run or resume the demo in `out`: a run folder for each model, what they agree on, and if asked interventions."""
    made = []
    for family in FAMILIES:
        progress.note(f"{family}: the small model that is shipped with the package, on 700 blood cells")
        run = create_run(out / family, _settings(family, out))
        with run.locked():
            _make(run, progress)
            if interventions:
                write_interventions(open_run(run.folder), INTERVENTIONS, progress)
        made.append(run)
    comparison = out / COMPARISON
    compare_runs([run.folder for run in made], comparison, made[0].settings.findings)
    with made[0].locked():
        run_pipeline(made[0], progress)
    runs = [open_run(run.folder) for run in made]
    for run in runs:
        print_summary(run, console)
        if run.status("interventions").state == "done":
            print_interventions(run.interventions, run.path("interventions") / REPORT, console)
    print_answers(read_table("answers", comparison), comparison / REPORT, console)
    _print_places(runs, out, console)


def _settings(family: str, out: Path) -> Settings:
    """Settings of a model's run; the atlas of the first shows the others too."""
    settings = read_settings(DATA / f"demo_{family}.toml")
    if family != FAMILIES[0]:
        return settings
    also = [str((out / other).resolve()) for other in FAMILIES[1:]]
    return replace(settings, atlas=replace(settings.atlas, also=also, title=ATLAS_TITLE))


def _make(run: Run, progress: Progress) -> None:
    """Every stage but the atlas; what fires together is found before the questions are asked, one of which needs it."""
    run_pipeline(run, progress, until="edges")
    if run.status("structure").state != "done":
        write_structure(open_run(run.folder), STRUCTURE, progress)
    run_pipeline(run, progress, until="findings")


def _print_places(runs: list[OpenRun], out: Path, console: Console) -> None:
    """Where everything is that was written."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    lines = [f"Peak memory {peak:.1f} GB. Written to {out.resolve()}:"]
    for stage in ("findings", "interventions"):
        pages = [run.path(stage) / REPORT for run in runs]
        lines += [f"  {stage}: {page.resolve()}" for page in pages if page.is_file()]
    lines.append(f"  comparison: {(out / COMPARISON / REPORT).resolve()}")
    page = (runs[0].path("atlas") / "index.html").resolve()
    lines.append(f"  atlas of both: {page}   (open with: cellcircuits atlas {runs[0].folder} --open)")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
