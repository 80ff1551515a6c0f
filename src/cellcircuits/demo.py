"""The demo: both small models, every stage, on real cells; then what the two agree on."""

from __future__ import annotations

import resource
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cellcircuits.answers import Found
from cellcircuits.evidence import make_evidence
from cellcircuits.findings import consensus
from cellcircuits.opened import OpenRun, open_run
from cellcircuits.pipeline import run_pipeline
from cellcircuits.progress import Progress
from cellcircuits.report import print_summary
from cellcircuits.run import create_run
from cellcircuits.settings import FindingsSettings, read_settings
from cellcircuits.tables import write_table

DATA = Path(__file__).parent / "data"
FAMILIES = ("geneformer", "scgpt")


def run_demo(out: Path, progress: Progress, console: Console) -> None:
    """Run or resume the demo in `out`: a run folder for each model, and what they agree on."""
    runs = []
    for family in FAMILIES:
        progress.note(f"{family}: the small model that is shipped with the package, on 700 blood cells")
        run = create_run(out / family, read_settings(DATA / f"demo_{family}.toml"))
        with run.locked():
            run_pipeline(run, progress)
        runs.append(open_run(run.folder))
    agreement = compare_runs(dict(zip(FAMILIES, runs, strict=True)))
    for name in ("consensus", "consensus_overlap"):
        write_table(name, agreement.tables[name], out)
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


def compare_runs(runs: dict[str, OpenRun]) -> Found:
    """Agreement of runs on which gene program acts on which."""
    evidence = {
        name: make_evidence(run.edges, run.features, sources=run.sources, tested=run.tested)
        for name, run in runs.items()
    }
    return consensus.ask(evidence, FindingsSettings())


def print_consensus(found: Found, console: Console) -> None:
    """How many pairs of programs both models connect, beside chance."""
    row = found.tables["consensus_overlap"].iloc[0]
    table = Table(show_header=False, title="Agreement of the two models", title_justify="left")
    table.add_row("ordered pairs of programs connected", f"{row['n_first']:,} and {row['n_second']:,}")
    table.add_row(
        "connected in both",
        f"{row['n_shared']:,} (expected {row['n_expected']:.1f} if rewired at random; p = {row['p_value']:.2g})",
    )
    table.add_row(
        "same sign in both", f"{row['share_same_sign']:.0%} (expected {row['expected_same_sign']:.0%} if independent)"
    )
    console.print(table)
