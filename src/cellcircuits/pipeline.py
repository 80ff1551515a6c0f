"""The stages in order."""

from __future__ import annotations

from concurrent.futures import Executor
from importlib import import_module
from pathlib import Path

from cellcircuits.errors import SettingsError
from cellcircuits.manifest import STAGES
from cellcircuits.networks import read_network
from cellcircuits.progress import Progress
from cellcircuits.references import read_gmt
from cellcircuits.run import Run

MODULES = {stage: f"cellcircuits.stages.{stage}" for stage in STAGES}
"""Module of each stage; its function is called <stage>_stage."""
MODEL_STAGES = ("train", "annotate", "trace")
"""Stages that take long, whose cost is told first."""


def run_stage(run: Run, stage: str, progress: Progress, executor: Executor | None = None) -> None:
    """Make one stage's artifact, whatever is there already. `executor` computes the parts of a trace."""
    # imported here: edges, findings and atlas work without torch
    function = getattr(import_module(MODULES[stage]), f"{stage}_stage")
    if stage == "trace":
        function(run, progress, executor)
    else:
        function(run, progress)


def run_pipeline(run: Run, progress: Progress, until: str = STAGES[-1], executor: Executor | None = None) -> None:
    """Make every artifact that is missing or stale, in order, up to and including `until`.

    `executor` computes the parts of the trace; everything else is computed in this process.
    """
    named = run.settings.annotate
    # a wrong file is better known now than after hours of training
    for path in named.gene_sets:
        read_gmt(path)
    for path in named.networks:
        read_network(path, named.min_interaction_score)
    _check_files_of_findings(run)
    stages = STAGES[: STAGES.index(until) + 1]
    todo = [stage for stage in stages if run.status(stage).state != "done"]
    for stage in todo:
        if stage in MODEL_STAGES and todo.index(stage) == _first_model_stage(todo):
            _announce(run, [stage for stage in MODEL_STAGES if stage in todo], progress)
        run_stage(run, stage, progress, executor)


def _check_files_of_findings(run: Run) -> None:
    """Screens must be there, and disease sets must be readable."""
    # imported here: pandas would slow down the command line's help
    from cellcircuits.disease_sets import read_disease_sets

    asked = run.settings.findings
    for path in asked.disease_sets:
        read_disease_sets(path, asked.disease_min_score, asked.disease_max_p)
    for screen in asked.screens:
        if not Path(screen.path).is_file():
            raise SettingsError(f"findings.screens names {screen.path}, and there is no such file. Correct its path.")


def _first_model_stage(todo: list[str]) -> int:
    return min(todo.index(stage) for stage in MODEL_STAGES if stage in todo)


def _announce(run: Run, stages: list[str], progress: Progress) -> None:
    """One line on the cost of these stages; nothing for models whose size is in no file that we know (plug-ins)."""
    from cellcircuits.model_shape import model_shape
    from cellcircuits.plan import estimate, matmul_rate
    from cellcircuits.report import readable_seconds
    from cellcircuits.tokens import load_tokens

    try:
        shape = model_shape(run.settings)
    except SettingsError:
        return
    costs = estimate(run.settings, shape, load_tokens(run.path("cells")).lengths)
    operations = sum(cost.operations for cost in costs if cost.stage in stages)
    progress.note(
        f"{', '.join(stages)}: {operations / 1e12:,.1f} T operations, "
        f"at least {readable_seconds(operations / matmul_rate())} on this machine"
    )
