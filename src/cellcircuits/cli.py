"""The command line: verbs and flags come from the stages and the settings; nothing is declared twice."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro

from cellcircuits.errors import CellCircuitsError
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.manifest import STAGES
from cellcircuits.resources import RESOURCES
from cellcircuits.run import create_run, open_folder
from cellcircuits.settings import (
    FindingsSettings,
    Settings,
    StructureSettings,
    read_settings,
    resolve_paths,
    with_section,
)

ABOUT_ALL = (
    "Find out how a single-cell foundation model computes: sparse autoencoders, causal tracing, calibrated edges, "
    "an atlas."
)
ABOUT = {
    "cells": "Pick cells and tokenise them for the model.",
    "train": "Train one sparse autoencoder per layer (or take over trained ones).",
    "annotate": "Catalogue and name the features.",
    "trace": "Ablate source features and measure every feature above them; resumes where it was stopped.",
    "edges": "Call edges from the traced moments.",
    "findings": "Ask the biological questions of the edges.",
    "atlas": "Write the static web site.",
}
RESOURCE_NAMES = tuple(RESOURCES)
Folder = tyro.conf.Positional[Path]
DASK_HELP = (
    'Who computes the parts of the trace: "local" starts worker processes on this host, "tcp://host:port" takes the '
    "workers of that Dask scheduler; empty: this process. Does not change the result."
)
WORKERS_HELP = "Worker processes of --dask local; 0: one per GPU, or else one per `threads` cores."
Dask = Annotated[str, tyro.conf.arg(help=DASK_HELP)]
Workers = Annotated[int, tyro.conf.arg(help=WORKERS_HELP)]


@dataclass(frozen=True)
class RunCommand:
    """Run every stage of a settings file that is not done yet, in order."""

    settings: tyro.conf.Positional[Path]
    """Settings file (TOML)."""
    out: Path = Path("runs/run")
    """Run folder; made if it is not there, resumed if it was made with the same settings."""
    until: Literal["cells", "train", "annotate", "trace", "edges", "findings", "atlas"] = "atlas"
    """Last stage to run."""
    dask: Dask = ""
    workers: Workers = 0


@dataclass(frozen=True)
class PlanCommand:
    """Print passes, operations, memory and disk of a settings file before anything starts."""

    settings: tyro.conf.Positional[Path]
    """Settings file (TOML). Data and checkpoint need not be there."""
    teraflops: float = 0.0
    """Rate with which the time is computed, in 10^12 operations per second, for other hardware; 0: this machine's."""


@dataclass(frozen=True)
class StatusCommand:
    """Show what is done, what is missing and how large it is."""

    run: Folder
    """Run folder."""


@dataclass(frozen=True)
class SummaryCommand:
    """Print the key numbers of a finished run, each beside its chance baseline."""

    run: Folder
    """Run folder."""


@dataclass(frozen=True)
class ExportCommand:
    """Write edges or features for other programs."""

    run: Folder
    """Run folder."""
    format: Literal["csv", "graphml", "cytoscape", "circuit-tracer", "neuronpedia"] = "csv"
    """Edges: CSV, GraphML (Gephi, Cytoscape, igraph), Cytoscape JSON, or graph JSON of circuit-tracer and Neuronpedia.
    Features: "neuronpedia", folders that Neuronpedia imports."""
    out: Path | None = None
    """File or folder to write; by default edges.<ending>, circuit-tracer.json or neuronpedia in the current folder."""
    max_edges: int = 2000
    """Strongest edges (largest |snr|) for circuit-tracer, whose viewers hold no more than some thousand; 0: all."""


@dataclass(frozen=True)
class SettingsCommand:
    """Print a settings file with every setting and its default."""


@dataclass(frozen=True)
class DemoCommand:
    """Run every stage on real cells with two small models that are shipped with the package (a few minutes)."""

    out: Path = Path("cellcircuits-demo")
    """Folder to write into; resumed if the demo was stopped there."""
    interventions: bool = False
    """Also change features in other ways: doses, groups, circuits, outputs (some minutes more)."""


@dataclass(frozen=True)
class FetchCommand:
    """Fetch a public collection of gene sets or a network, once; runs then find it by its name."""

    name: tyro.conf.Positional[Literal[RESOURCE_NAMES]]  # type: ignore[valid-type]
    """What to fetch."""
    folder: Path | None = None
    """Folder to keep it in; by default the user's cache, where runs look."""


@dataclass(frozen=True)
class ConvertCommand:
    """Write sparse autoencoders of other formats as SAELens folders, which runs and SAELens read."""

    source: Folder
    """Folder that holds one folder per layer: SAELens, sparsify, dictionary_learning, or published ones."""
    target: Folder
    """Folder to write L00, L01, ... into; must not exist."""
    trainer: str = ""
    """Where dictionary_learning trained several for one layer: the name of the folder to take (trainer_1)."""


@dataclass(frozen=True)
class StructureCommand:
    """Ask how the features of a run hang together: modules, persistence, dependencies, alignment, perturbations."""

    run: Folder
    """Run folder, annotated; with edges, they are compared with what fires together."""
    settings: Annotated[StructureSettings, tyro.conf.OmitArgPrefixes] = field(default_factory=StructureSettings)


@dataclass(frozen=True)
class InterventionsCommand:
    """Change features of a run in other ways: doses, groups, circuits; effects on genes; attribution; write a page."""

    run: Folder
    """Run folder with edges."""
    settings: Annotated[InterventionSettings, tyro.conf.OmitArgPrefixes] = field(default_factory=InterventionSettings)


@dataclass(frozen=True)
class CompareCommand:
    """Ask of two or more runs what they agree on: gene programs, features, strengths; write a page."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders with edges; two runs of one model that differ in train.seed alone are the ceiling of the others."""
    out: Path = Path("comparison")
    """Folder to write; a comparison that is there is replaced."""
    settings: Annotated[FindingsSettings, tyro.conf.OmitArgPrefixes] = field(default_factory=FindingsSettings)


def _stage_command(stage: str, default: Any) -> type:
    """A command for one stage whose flags are the stage's settings, but for entries of tables such as screens."""
    if stage == "findings":
        default = replace(default, screens=[])
    fields: list[Any] = [
        ("run", Annotated[Folder, tyro.conf.arg(help="Run folder.")]),
        ("settings", Annotated[type(default), tyro.conf.OmitArgPrefixes], field(default=default)),
    ]
    if stage == "atlas":
        fields.append(
            ("open", Annotated[bool, tyro.conf.arg(help="Serve the site on this machine and open it.")], False)
        )
        fields.append(("port", Annotated[int, tyro.conf.arg(help="Port to serve on; 0: any free one.")], 0))
    if stage == "trace":
        fields += [("dask", Dask, ""), ("workers", Workers, 0)]
    made = make_dataclass(f"{stage.title()}Command", fields, frozen=True)
    made.__doc__ = ABOUT[stage]
    return made


def _commands(settings: Settings) -> Any:
    """The union of all commands, for tyro; the defaults of stage flags are those of `settings`."""
    simple = {
        "run": RunCommand,
        "plan": PlanCommand,
        "status": StatusCommand,
        "summary": SummaryCommand,
        "export": ExportCommand,
        "settings": SettingsCommand,
        "demo": DemoCommand,
        "fetch": FetchCommand,
        "convert": ConvertCommand,
        "structure": StructureCommand,
        "interventions": InterventionsCommand,
        "compare": CompareCommand,
    }
    stages = {stage: _stage_command(stage, getattr(settings, stage)) for stage in STAGES}
    return Union[  # noqa: UP007 - built from a list
        tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in {**simple, **stages}.items())
    ]


def _run_settings(arguments: list[str]) -> Settings:
    """Settings of the run folder that a stage command names, so that its flags start from what the run has."""
    if arguments and arguments[0] in STAGES:
        for argument in arguments[1:]:
            if (Path(argument) / "run.json").exists():
                return open_folder(argument).settings
    return Settings()


def _changed_section(settings: Settings, stage: str, flags: Any) -> Any:
    """The section of a stage with what its flags say; screens have no flags, so they stay those of the run."""
    return replace(flags, screens=settings.findings.screens) if stage == "findings" else flags


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command `cellcircuits`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # progress bars of libraries would break ours
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        settings = _run_settings(arguments)
        command = tyro.cli(_commands(settings), prog="cellcircuits", args=arguments, description=ABOUT_ALL)
        _execute(command, settings)
    except CellCircuitsError as error:
        sys.stderr.write(f"cellcircuits: {error}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("\ncellcircuits: stopped. Finished parts are kept; the same command goes on from there.\n")
        raise SystemExit(130) from None


def _execute(command: Any, settings: Settings) -> None:
    from cellcircuits import commands

    match command:
        case RunCommand():
            run = create_run(command.out, read_settings(command.settings))
            commands.run(run, command.until, command.dask, command.workers)
        case PlanCommand():
            commands.plan(read_settings(command.settings), command.teraflops)
        case SettingsCommand():
            commands.print_settings(Settings())
        case DemoCommand():
            commands.demo(command.out, command.interventions)
        case FetchCommand():
            commands.fetch(command.name, command.folder)
        case CompareCommand():
            commands.compare(command.runs, command.out, command.settings)
        case ConvertCommand():
            commands.convert(command.source, command.target, command.trainer)
        case _:
            _execute_on_run(command, settings)


def _execute_on_run(command: Any, settings: Settings) -> None:
    from cellcircuits import commands

    match command:
        case StatusCommand():
            commands.status(open_folder(command.run))
        case SummaryCommand():
            commands.summary(command.run)
        case ExportCommand():
            commands.export(command.run, command.format, command.out, command.max_edges)
        case StructureCommand():
            commands.structure(command.run, command.settings)
        case InterventionsCommand():
            commands.interventions(command.run, command.settings)
        case _:
            _execute_stage(command, settings)


def _execute_stage(command: Any, settings: Settings) -> None:
    from cellcircuits import commands

    stage = type(command).__name__.removesuffix("Command").lower()
    run = open_folder(command.run)
    # paths given as flags are relative to where the command is called, those in the run's file are absolute
    section = _changed_section(settings, stage, command.settings)
    changed = resolve_paths(with_section(settings, stage, section), Path.cwd())
    where = (command.dask, command.workers) if stage == "trace" else ()
    commands.stage(run, stage, changed, *where)
    if stage == "atlas" and command.open:
        commands.serve_atlas(run, command.port)
