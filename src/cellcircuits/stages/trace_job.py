"""The computation of one part of a trace, in whatever process an executor calls it."""

from __future__ import annotations

import socket
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from cellcircuits.errors import RunError
from cellcircuits.models.base import Model
from cellcircuits.parts import read_plan, trace_part
from cellcircuits.run import INPUTS, Run
from cellcircuits.sae import TopKSAE, check_saes, load_saes
from cellcircuits.settings import Settings
from cellcircuits.stages.cells import run_model
from cellcircuits.tokens import Tokens, load_tokens
from cellcircuits.trace_plan import TracePlan


def trace_inputs(run: Run) -> dict[str, str]:
    """Hashes of the artifacts that a trace reads."""
    return {stage: run.stage_hash(stage) for stage in INPUTS["trace"]}


class _Opened(NamedTuple):
    """What every part of a run needs."""

    model: Model
    tokens: Tokens
    saes: dict[int, TopKSAE]


_opening = Lock()
_opened: dict[tuple, _Opened] = {}
"""What this process has open: one run at most."""


def trace_job(folder: str, settings: Settings, work: str, part: int) -> str | None:
    """Compute one part of the trace of the run in `folder`, in whatever process this is called.

    Model, cells and autoencoders are loaded once per process. The settings come along because those in the folder are
    changed only when the stage is done. Returns None, or why the part cannot be traced.

    Raises
    ------
    RunError, ModelError
        If this process sees no run folder, other inputs or other weights than those of the plan.
    """
    if not Path(work).is_dir():
        raise RunError(
            f"A worker on {socket.gethostname()} does not see {work}. Workers need the run folder under the same path, "
            "on a file system that all hosts share."
        )
    run, plan = Run(Path(folder), settings), read_plan(Path(work))
    opened = _open(run, plan)
    return trace_part(plan, part, Path(work), opened.model, opened.tokens, opened.saes, settings.trace)


def _open(run: Run, plan: TracePlan) -> _Opened:
    key = (run.folder, run.settings.model, *plan.inputs.items())
    with _opening:  # threads of a pool begin at the same time
        if key not in _opened:
            _opened.clear()
            _opened[key] = _load(run, plan)
        return _opened[key]


def _load(seen: Run, plan: TracePlan) -> _Opened:
    """Load from the run folder as this process sees it."""
    seen.require(*plan.inputs)
    if trace_inputs(seen) != plan.inputs:
        raise RunError(
            f"{seen.folder} was made anew since this trace was planned, or {socket.gethostname()} sees another folder "
            "there. Delete the parts of the trace and begin it again."
        )
    model = run_model(seen)
    saes = {layer: sae.to(model.device) for layer, sae in load_saes(seen.path("train")).items()}
    check_saes(saes, model.d_model, model.n_layers, seen.settings.cells.input_mode)
    return _Opened(model, load_tokens(seen.path("cells")), saes)


def close_models() -> None:
    """Forget what is open: the model of a stage that is done would fill the memory of the next one."""
    _opened.clear()
