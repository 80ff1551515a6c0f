"""Stage `trace`: which features are ablated in which cells; computed in parts, by this process or by any executor.

The plan is made once and written first; `cellcircuits.parts` computes what is planned and not there yet, and adds up.
"""

from __future__ import annotations

import hashlib
import socket
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from cellcircuits.errors import DataError, RunError, SettingsError, listed
from cellcircuits.models.base import Model
from cellcircuits.moments import moments_file, save_moments
from cellcircuits.parts import PLAN_FILE, merge, open_plan, read_plan, run_plan, trace_part
from cellcircuits.progress import Progress
from cellcircuits.run import INPUTS, Run
from cellcircuits.sae import TopKSAE, check_saes, load_saes
from cellcircuits.selection import default_source_layers, pick_sources, select_cells
from cellcircuits.settings import Settings, TraceSettings
from cellcircuits.stages.cells import run_model
from cellcircuits.tables import make_table, read_table, write_table
from cellcircuits.tokens import Tokens, load_tokens
from cellcircuits.trace_plan import MEGABYTE, TracePlan, bytes_per_source, split_into_blocks


def make_plan(
    tokens: Tokens, features: pd.DataFrame, settings: TraceSettings, n_layers: int, inputs: dict[str, str]
) -> TracePlan:
    """Draw cells, pick sources and split them into blocks.

    `features` has a row for every feature; layers without features have no autoencoder.

    Raises
    ------
    SettingsError, DataError
        If layers, labels or numbers do not fit the run.
    """
    widths = {int(layer): int(size) for layer, size in features.groupby("layer").size().items()}
    targets = _targets(sorted(widths), settings, n_layers)
    n_cells = 0 if settings.n_cells >= len(tokens) else settings.n_cells
    rows = select_cells(tokens.obs, {}, n_cells, settings.stratify_by, settings.seed)
    rng = np.random.default_rng(settings.seed)
    sources = {
        layer: [int(f) for f in pick_sources(features[features["layer"] == layer], settings, rng)] for layer in targets
    }
    empty = [layer for layer, chosen in sources.items() if not chosen]
    if empty:
        raise SettingsError(
            f"No feature of layer {listed(empty)} can be a source (select = {settings.select!r}, "
            f"min_firing_rate = {settings.min_firing_rate}). Lower min_firing_rate or choose another `select`."
        )
    source_bytes = {
        layer: bytes_per_source(sum(widths[t] for t in chosen), len(settings.readouts))
        for layer, chosen in targets.items()
    }
    return TracePlan(
        cells=[int(row) for row in rows],
        blocks=split_into_blocks(sources, source_bytes, settings.block_megabytes * MEGABYTE),
        targets=targets,
        cells_per_part=settings.cells_per_part,
        context=settings.context,
        readouts=list(settings.readouts),
        threads=settings.threads or torch.get_num_threads(),
        inputs=inputs,
    )


def _targets(layers: list[int], settings: TraceSettings, n_layers: int) -> dict[int, list[int]]:
    """{source layer: target layers}, from the layers that have an autoencoder."""
    source_layers = settings.source_layers or default_source_layers(layers, n_layers)
    unknown = sorted({*source_layers, *settings.target_layers} - set(layers))
    if unknown:
        raise SettingsError(f"Layer {listed(unknown)} has no autoencoder; there are some for {layers}.")
    targets = {}
    for layer in source_layers:
        above = [t for t in layers if t > layer]
        targets[layer] = [t for t in (settings.target_layers or above) if t in above]
        if not targets[layer]:
            raise SettingsError(f"There is no layer to measure above source layer {layer} (autoencoders: {layers}).")
    return targets


def trace_stage(run: Run, progress: Progress, executor: Executor | None = None) -> None:
    """Trace the run's cells part by part.

    The parts are computed by `executor`, whose workers must see the run folder under the same path; None: one after the
    other in this process. The result has the same bits. Add them up; write `trace/`.
    """
    run.require("cells", "train", "annotate")
    features = read_table("features", run.path("annotate"))
    n_layers = (run.manifest("cells") or {})["record"]["n_layers"]
    planned = make_plan(load_tokens(run.path("cells")), features, run.settings.trace, n_layers, _inputs(run))
    # workers have another current folder
    work = run.work_path("trace").absolute()
    plan = open_plan(planned, work, any_threads=run.settings.trace.threads == 0)
    job = partial(trace_job, str(run.folder.absolute()), run.settings)
    try:
        failed = run_plan(plan, work, job, executor, progress, "Tracing")
    finally:
        _opened.clear()  # the model of a stage that is done would fill the memory of the next one
    if failed:
        raise DataError(
            f"{len(failed)} of {len(plan.parts)} parts could not be traced; the others are kept. "
            f"First: {next(iter(failed.values()))} Then the same command computes only what is missing."
        )
    _write(run, plan, work, features)
    run.discard_work("trace")


def _inputs(run: Run) -> dict[str, str]:
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
    if _inputs(seen) != plan.inputs:
        raise RunError(
            f"{seen.folder} was made anew since this trace was planned, or {socket.gethostname()} sees another folder "
            "there. Delete the parts of the trace and begin it again."
        )
    model = run_model(seen)
    saes = {layer: sae.to(model.device) for layer, sae in load_saes(seen.path("train")).items()}
    check_saes(saes, model.d_model, model.n_layers, seen.settings.cells.input_mode)
    return _Opened(model, load_tokens(seen.path("cells")), saes)


def _write(run: Run, plan: TracePlan, work: Path, features: pd.DataFrame) -> None:
    """Add up the parts into `trace/`, a block at a time."""
    passes = {"clean": len(plan.cells) * len(plan.blocks), "ablated": 0}
    digest = hashlib.sha256(plan.to_json().encode()).hexdigest()
    sources = []
    # the manifest, with what is counted below, is written when the block ends
    with run.writing("trace", plan=digest, passes=passes) as out:
        (out / PLAN_FILE).write_text(plan.to_json() + "\n", encoding="utf-8")
        for layer, block, moments in merge(plan, work):
            save_moments(moments, moments_file(out, layer, block))
            passes["ablated"] += int(moments.n_cells.sum())
            columns = {"layer": layer, "feature": moments.source_features, "n_cells": moments.cells()}
            sources.append(pd.DataFrame(columns))
            del moments  # before the next one is read
        table = pd.concat(sources).sort_values(["layer", "feature"])
        known = features[["layer", "feature", "firing_rate"]]
        write_table("sources", make_table("sources", table.merge(known, on=["layer", "feature"], how="left")), out)
