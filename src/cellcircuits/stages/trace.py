"""Stage `trace`: which features are ablated in which cells; computed in parts, by this process or by any executor.

A trace has several plans, each a folder of parts: the sources; control directions in their place; where a context is
frozen, what is traced exactly as well; and the model with random weights, where the run has autoencoders of it.
`cellcircuits.parts` computes what is planned and not there yet, and adds up.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.edge_calling import count_edges
from cellcircuits.errors import DataError, RunError
from cellcircuits.formats import RANDOM_WEIGHTS
from cellcircuits.manifest import INPUTS
from cellcircuits.models.base import Model
from cellcircuits.moments import Moments, moments_file, save_moments
from cellcircuits.parts import PLAN_FILE, merge, open_plan, read_plan, run_plan, trace_part
from cellcircuits.planning import control_plan, make_plan, random_weights_plan, restricted, sample_plans
from cellcircuits.progress import Progress
from cellcircuits.run import Run
from cellcircuits.run_model import run_model
from cellcircuits.sae import check_saes, load_saes
from cellcircuits.settings import EdgesSettings, Settings
from cellcircuits.stages.train import load_baseline
from cellcircuits.tables import make_table, read_table, write_table
from cellcircuits.tokens import Tokens, load_tokens
from cellcircuits.trace_plan import Sources, TracePlan

DESCRIPTIONS = {
    "": "Tracing",
    "controls": "Tracing control directions",
    "exact": "Tracing exactly, to compare",
    RANDOM_WEIGHTS: "Tracing the model with random weights",
}
"""What is shown while a plan is computed, by the name of its folder."""


def trace_stage(run: Run, progress: Progress, executor: Executor | None = None) -> None:
    """Trace the run's cells part by part.

    The parts are computed by `executor`, whose workers must see the run folder under the same path; None: one after the
    other in this process. The result has the same bits. Add them up; write `trace/`.
    """
    run.require("cells", "train", "annotate")
    features = read_table("features", run.path("annotate"))
    # workers have another current folder
    tracing = _Tracing(run, run.work_path("trace").absolute(), progress, executor)
    try:
        plans = _trace_plans(tracing, features)
    finally:
        _opened.clear()  # the model of a stage that is done would fill the memory of the next one
    _write(run, plans, tracing.work, features)
    run.discard_work("trace")


@dataclass(frozen=True)
class _Tracing:
    """Where and by whom the plans of a trace are computed."""

    run: Run
    work: Path
    progress: Progress
    executor: Executor | None

    def compute(self, name: str, plan: TracePlan) -> TracePlan:
        """Compute what is missing of one plan; returns it as it stands on disk."""
        settings, folder = self.run.settings.trace, self.work / name
        planned = replace(plan, threads=settings.threads or torch.get_num_threads())
        plan = open_plan(planned, folder, any_threads=settings.threads == 0)
        job = partial(trace_job, str(self.run.folder.absolute()), self.run.settings)
        failed = run_plan(plan, folder, job, self.executor, self.progress, DESCRIPTIONS.get(name, f"Tracing {name}"))
        if failed:
            raise DataError(
                f"{len(failed)} of {len(plan.parts)} parts could not be traced; the others are kept. "
                f"First: {next(iter(failed.values()))} Then the same command computes only what is missing."
            )
        return plan


def _trace_plans(tracing: _Tracing, features: pd.DataFrame) -> dict[str, TracePlan]:
    """Compute every plan; returns {name of its folder: plan}, "" for that of the sources."""
    run, settings = tracing.run, tracing.run.settings.trace
    record = (run.manifest("cells") or {})["record"]
    tokens = load_tokens(run.path("cells"))
    # all are made before any is computed: what cannot be done is known at once
    planned = make_plan(tokens, features, settings, record["n_layers"], _inputs(run))
    controls = control_plan(planned, features, settings, record.get("has_frozen_context", False))
    random = None
    if run.settings.train.random_weights:
        random_features = read_table("features", run.path("annotate") / RANDOM_WEIGHTS)
        random = random_weights_plan(planned, controls, features, random_features, settings)
    main = tracing.compute("", planned)
    plans = {"": main}
    if controls is not None:
        plans["controls"] = tracing.compute("controls", controls)
    if settings.context == "screen":
        found = _found_by_screen(main, tracing.work, settings.screen_min_edges, run.settings.edges)
        plans["exact"] = tracing.compute("exact", restricted(main, found))
    if settings.context == "frozen" and settings.fidelity_sources:
        plans |= {name: tracing.compute(name, plan) for name, plan in sample_plans(main, settings).items()}
    if random is not None:  # last: every worker has to load another model for it
        plans[RANDOM_WEIGHTS] = tracing.compute(RANDOM_WEIGHTS, random)
    return plans


def _found_by_screen(plan: TracePlan, work: Path, min_edges: int, rule: EdgesSettings) -> Sources:
    """Sources with so many edges in the frozen context; q is taken over the sources of a block."""
    found: Sources = {layer: [] for layer in plan.sources}
    for layer, _, moments in merge(plan, work):
        enough = count_edges(moments, rule) >= min_edges
        found[layer] += [int(feature) for feature in moments.source_features[enough]]
    return found


def _write(run: Run, plans: dict[str, TracePlan], work: Path, features: pd.DataFrame) -> None:
    """Add up the parts into `trace/`, a block at a time."""
    digest = hashlib.sha256(plans[""].to_json().encode()).hexdigest()
    passes = {"clean": 0, "ablated": 0}
    sources: list[pd.DataFrame] = []

    def count(moments: Moments) -> Moments:
        passes["ablated"] += int(moments.n_cells[:, 0].sum())
        return moments

    # the manifest, with what is counted below, is written when the block ends
    with run.writing("trace", plan=digest, passes=passes) as out:
        for name, plan in plans.items():
            passes["clean"] += len(plan.cells) * sum(bool(block) for block in plan.blocks)
            (out / f"{name}{'_' if name else ''}{PLAN_FILE}").write_text(plan.to_json() + "\n", encoding="utf-8")
            rows = []
            for layer, block, moments in merge(plan, work / name) if name else ():
                save_moments(count(moments), moments_file(out, layer, block, name))
                if name == RANDOM_WEIGHTS:
                    rows.append(_source_rows(moments, plan, plan.context))
                del moments  # before the next one is read
            if name == RANDOM_WEIGHTS:
                _write_sources(rows, read_table("features", run.path("annotate") / name), out / name)
        for layer, block, moments, exact in _sources_of(run, plans, work, out, count):
            save_moments(moments, moments_file(out, layer, block))
            sources.append(_source_rows(moments, plans[""], np.where(exact, "exact", plans[""].context)))
            del moments
        _write_sources(sources, features, out)


def _source_rows(moments: Moments, plan: TracePlan, context: str | np.ndarray) -> pd.DataFrame:
    """Rows of the table `sources`, without firing rates."""
    partners = plan.partners.get(moments.source_layer, {})
    columns = {"layer": moments.source_layer, "feature": moments.source_features, "n_cells": moments.cells()}
    matched = [partners.get(int(feature), -1) for feature in moments.source_features]
    return pd.DataFrame(columns | {"context": context, "matched_with": matched})


def _write_sources(rows: list[pd.DataFrame], features: pd.DataFrame, folder: Path) -> None:
    """Write the table `sources`, with the firing rates in the table of all features."""
    folder.mkdir(exist_ok=True)
    table = pd.concat(rows).sort_values(["layer", "feature"])
    known = features[["layer", "feature", "firing_rate"]]
    write_table("sources", make_table("sources", table.merge(known, on=["layer", "feature"], how="left")), folder)


def _sources_of(
    run: Run, plans: dict[str, TracePlan], work: Path, out: Path, count: Callable[[Moments], Moments]
) -> Iterator[tuple[int, int, Moments, np.ndarray]]:
    """(source layer, block, moments, which sources are exact although the context is frozen), block by block.

    After a screen the exact moments replace the frozen ones, which are kept beside them, to be compared.
    """
    screened = run.settings.trace.context == "screen"
    exact_of = merge(plans["exact"], work / "exact") if screened else iter(())
    for layer, block, moments in merge(plans[""], work):
        count(moments)
        exact = np.zeros(len(moments.source_features), dtype=bool)
        if screened and layer in plans["exact"].blocks[block]:
            _, _, found = next(exact_of)
            rows = np.flatnonzero(np.isin(moments.source_features, found.source_features))
            save_moments(moments.of_sources(rows), moments_file(out, layer, block, "frozen"))
            moments.replace_sources(rows, found)
            exact[rows] = True
        yield layer, block, moments, exact


def _inputs(run: Run) -> dict[str, str]:
    """Hashes of the artifacts that a trace reads."""
    return {stage: run.stage_hash(stage) for stage in INPUTS["trace"]}


class _Opened(NamedTuple):
    """What every part of a run needs."""

    model: Model
    tokens: Tokens
    saes: dict[int, SparseAutoencoder]


_opening = Lock()
_opened: dict[tuple, _Opened] = {}
"""What this process has open: one run at most, with one of its models."""


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
    key = (run.folder, run.settings.model, plan.random_weights, *plan.inputs.items())
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
    if plan.random_weights:
        model, saes = load_baseline(seen)
    else:
        model = run_model(seen)
        saes = {layer: sae.to(model.device) for layer, sae in load_saes(seen.path("train")).items()}
    check_saes(saes, model.d_model, model.n_layers, seen.settings.cells.input_mode)
    return _Opened(model, load_tokens(seen.path("cells"), columns=[]), saes)
