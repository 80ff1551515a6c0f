"""What each verb of the command line does. Only here is anything printed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cellcircuits.errors import SettingsError
from cellcircuits.executors import open_executor
from cellcircuits.manifest import INPUTS, STAGES
from cellcircuits.opened import OpenRun, open_run
from cellcircuits.pipeline import run_pipeline, run_stage
from cellcircuits.progress import Progress, RichProgress
from cellcircuits.report import print_answers, print_plan, print_status, print_structure, print_summary
from cellcircuits.run import Run
from cellcircuits.settings import FindingsSettings, Settings, StructureSettings

if TYPE_CHECKING:
    from cellcircuits.circuit_tracer import Origin
    from cellcircuits.intervention_settings import InterventionSettings


def _console() -> Console:
    # wide tables stay whole when the output goes into a file
    return Console(width=None if sys.stdout.isatty() else 140)


@contextmanager
def _executor(settings: Settings, dask: str, workers: int, progress: Progress) -> Iterator[Executor | None]:
    """What --dask and --workers ask for."""
    if workers and not dask:
        raise SettingsError("--workers is for --dask local; give both.")
    threads, device = settings.trace.threads, settings.model.device
    if workers > 1 and not threads:
        progress.note(
            "Each worker computes with as many threads as torch takes for the whole machine. On CPUs, trace.threads = "
            "cores / workers is much faster."
        )
    with open_executor(dask, workers=workers, threads=threads, device=device) as executor:
        yield executor


def run(run: Run, until: str, dask: str = "", workers: int = 0) -> None:
    """Make everything that is missing; `dask` and `workers` are those of `open_executor`, for the trace."""
    progress = RichProgress()
    with run.locked(), _executor(run.settings, dask, workers, progress) as executor:
        run_pipeline(run, progress, until, executor)
    if until == STAGES[-1]:
        print_summary(open_run(run.folder), _console())
    _console().print(f"Run folder: {run.folder.resolve()}", highlight=False, soft_wrap=True)


def plan(settings: Settings, teraflops: float = 0.0) -> None:
    """Print the cost of a run; its time at so many 10^12 operations per second, 0: at this machine's rate."""
    from cellcircuits import plan as planned
    from cellcircuits.model_shape import model_shape

    if not 0 <= teraflops < inf:
        raise SettingsError(f"--teraflops is a rate in 10^12 operations per second, above 0; found {teraflops:g}.")
    taken = planned.interpreter_bytes()  # before cells are read
    shape = model_shape(settings)
    lengths = planned.cell_lengths(settings, shape)
    console = _console()
    console.print(
        f"{settings.model.family}: {shape.n_layers} layers of width {shape.d_model}; {len(lengths):,} cells of "
        f"{lengths.mean():,.0f} tokens on average",
        highlight=False,
    )
    tokens, times = planned.training_tokens(settings, lengths)
    if tokens:
        console.print(
            f"Each autoencoder learns from {tokens * times:,} tokens ({tokens:,}, {times} times)",
            highlight=False,
        )
    rate = teraflops * 1e12 or planned.matmul_rate()
    print_plan(planned.estimate(settings, shape, lengths), rate, taken, console, given=teraflops > 0)
    if not teraflops and planned.training_estimates_products(settings, shape):
        console.print("Training takes less than said: this processor multiplies bfloat16.", highlight=False)


def status(run: Run) -> None:
    """Print the state of every stage."""
    print_status(run, _console())


def summary(folder: Path) -> None:
    """Print the key numbers of a finished run."""
    opened = open_run(folder)
    opened.require("findings")
    print_summary(opened, _console())


def export(folder: Path, format: str, out: Path | None, max_edges: int = 0) -> None:
    """Write the edges or features of a run to a file or folder."""
    from cellcircuits.export import ENDINGS, export_edges

    opened = open_run(folder)
    if format == "neuronpedia":
        told = _export_features(opened, out or Path("neuronpedia"))
    elif format == "circuit-tracer":
        told = _export_circuit(opened, out or Path("circuit-tracer.json"), max_edges)
    else:
        path = out or Path(f"edges{ENDINGS[format]}")
        export_edges(opened.edges, opened.features, path, format)  # type: ignore[arg-type]
        told = f"{len(opened.edges):,} edges written to {path}"
    _console().print(told, highlight=False, soft_wrap=True)


def _export_features(opened: OpenRun, folder: Path) -> str:
    from cellcircuits.neuronpedia import write_neuronpedia
    from cellcircuits.tables import empty_table

    counted = (opened.path("annotate") / "activation_bins.parquet").is_file()  # runs of older versions have none
    bins = opened.activation_bins if counted else empty_table("activation_bins")
    origin = _origin(opened, "annotate")
    write_neuronpedia(opened.features, opened.feature_genes, bins, folder, origin, "cellcircuits-res")
    return f"{len(opened.features):,} features written to {folder / origin.model_id}"


def _export_circuit(opened: OpenRun, path: Path, max_edges: int) -> str:
    from cellcircuits.circuit_tracer import circuit_tracer_graph, write_circuit_tracer

    if max_edges < 0:
        raise SettingsError(f"--max-edges must be at least 0; found {max_edges}.")
    graph = circuit_tracer_graph(opened.edges, opened.features, _origin(opened, "edges"), path.stem, max_edges)
    write_circuit_tracer(graph, path)
    return f"{len(graph['links']):,} of {len(opened.edges):,} edges written to {path}"


def _origin(opened: OpenRun, stage: str) -> Origin:
    from cellcircuits.circuit_tracer import Origin

    cells, made = (opened.manifest(name) for name in ("cells", stage))
    assert cells is not None and made is not None  # the tables of the stage have been read
    record = cells["record"]
    n_cells = record["coverage"]["cells"]
    if stage == "edges":
        n_cells = min(n_cells, opened.settings.trace.n_cells or n_cells)
    return Origin(record["model"], record["n_layers"], record["d_model"], n_cells, made["created"])


def print_settings(settings: Settings) -> None:
    """Print all settings as TOML."""
    import tomli_w

    sys.stdout.write(tomli_w.dumps(settings.to_dict()))


def demo(out: Path, interventions: bool = False) -> None:
    """Run the demo."""
    from cellcircuits.demo import run_demo

    run_demo(out, RichProgress(), _console(), interventions)


def fetch(name: str, folder: Path | None) -> None:
    """Fetch a public resource; print where it is, its checksum and its licence."""
    from cellcircuits.resources import fetch_reference

    found = fetch_reference(name, folder)
    lines = (f"{found.source}: {found.path}", f"sha256 {found.sha256}", f"Licence: {found.licence}")
    for line in lines:
        _console().print(line, highlight=False, markup=False, soft_wrap=True)


def convert(source: Path, target: Path, trainer: str = "") -> None:
    """Write sparse autoencoders of any format as SAELens folders; print their layers and sizes."""
    from cellcircuits.sae import convert_saes, load_sae

    for path in convert_saes(source, target, trainer):
        sae = load_sae(path)
        line = f"{path}: {sae.n_features:,} features of width {sae.d_model} ({sae.saelens_config()['architecture']})"
        _console().print(line, highlight=False, markup=False, soft_wrap=True)


def structure(folder: Path, settings: StructureSettings) -> None:
    """Write the tables of `structure/` and print their rates."""
    from cellcircuits.structure_tables import write_structure

    opened = open_run(folder)
    with opened.locked():
        write_structure(opened, settings, RichProgress())
    print_structure(open_run(folder), _console())
    _console().print(f"Tables: {opened.path('structure').resolve()}", highlight=False, soft_wrap=True)


def interventions(folder: Path, settings: InterventionSettings) -> None:
    """Write `interventions/` and print its answers."""
    from cellcircuits.findings_report import REPORT
    from cellcircuits.intervention_report import print_interventions
    from cellcircuits.intervention_tables import intervene

    found = intervene(folder, settings, RichProgress())
    print_interventions(found, open_run(folder).path("interventions") / REPORT, _console())


def compare(folders: Sequence[Path], out: Path, settings: FindingsSettings) -> None:
    """Write the comparison of several runs and print its answers."""
    from cellcircuits.comparison import compare_runs
    from cellcircuits.findings_report import REPORT
    from cellcircuits.tables import read_table

    compare_runs(folders, out, settings)
    print_answers(read_table("answers", out), out / REPORT, _console())


def stage(run: Run, stage: str, settings: Settings, dask: str = "", workers: int = 0) -> None:
    """Make one stage, with its flags; the run keeps these settings from now on.

    The stages before it must be done; the stages after it become stale. `dask` and `workers` are those of
    `open_executor`, for the trace.
    """
    progress = RichProgress()
    with run.locked():
        changed = settings != run.settings
        if not changed and run.status(stage).state == "done":
            progress.note(f"{stage} is done already with these settings")
            return
        run.require(*INPUTS[stage])
        before = run.settings
        run.settings = settings
        try:
            with _executor(settings, dask, workers, progress) as executor:
                run_stage(run, stage, progress, executor)
        except BaseException:
            run.settings = before
            raise
        if changed:
            run.change_settings(settings)
    print_status(run, _console())


def serve_atlas(run: Run, port: int) -> None:
    """Serve the atlas on this machine until stopped."""
    from cellcircuits.atlas.serve import serve

    console = _console()

    def report(url: str) -> None:
        console.print(f"The atlas is at {url} (stop with Ctrl-C)", highlight=False)

    serve(run.path("atlas"), port=port, open_browser=True, report=report)
