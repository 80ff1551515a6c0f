"""The stages in order."""

from __future__ import annotations

from importlib import import_module

from cellcircuits.progress import Progress
from cellcircuits.run import STAGES, Run

MODULES = {stage: f"cellcircuits.stages.{stage}" for stage in STAGES}
"""Module of each stage; its function is called <stage>_stage."""


def run_stage(run: Run, stage: str, progress: Progress) -> None:
    """Make one stage's artifact, whatever is there already."""
    # imported here: edges, findings and atlas work without torch
    function = getattr(import_module(MODULES[stage]), f"{stage}_stage")
    function(run, progress)


def run_pipeline(run: Run, progress: Progress, until: str = STAGES[-1]) -> None:
    """Make every artifact that is missing or stale, in order, up to and including `until`."""
    for stage in STAGES[: STAGES.index(until) + 1]:
        if run.status(stage).state != "done":
            run_stage(run, stage, progress)
