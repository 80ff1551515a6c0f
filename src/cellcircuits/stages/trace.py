"""Stage `trace`: which features are ablated in which cells, in parts that can be stopped and resumed.

The plan (cells, sources, targets, parts) is made once and written first. A part is a fixed set of cells; it is computed
on its own and saved whole. Resuming means computing the parts that are planned but not there. At the end the parts are
added in the order of the plan, so the result has the same bits however often the work was stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellcircuits.ablate import trace_cells
from cellcircuits.errors import CellCircuitsError, DataError, RunError, SettingsError, listed
from cellcircuits.models.base import Model
from cellcircuits.moments import Moments, load_moments, save_moments
from cellcircuits.progress import Progress
from cellcircuits.run import INPUTS, Run
from cellcircuits.sae import TopKSAE, check_saes, load_saes
from cellcircuits.selection import default_source_layers, pick_sources, select_cells
from cellcircuits.settings import TraceSettings
from cellcircuits.stages.cells import run_model
from cellcircuits.tables import make_table, read_table, write_table
from cellcircuits.tokens import Tokens, load_tokens


@dataclass(frozen=True)
class TracePlan:
    """Everything that decides the result of a trace."""

    cells: list[int]
    """Rows of the traced cells in the run's tokens."""
    sources: dict[int, list[int]]
    """{source layer: features}."""
    targets: dict[int, list[int]]
    """{source layer: target layers}."""
    cells_per_part: int
    context: str
    inputs: dict[str, str]
    """Hashes of the artifacts that are traced."""

    @property
    def parts(self) -> list[list[int]]:
        """Rows of the cells of each part."""
        step = self.cells_per_part
        return [self.cells[start : start + step] for start in range(0, len(self.cells), step)]

    def to_json(self) -> str:
        """The plan as text; equal plans have equal text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)


def make_plan(
    tokens: Tokens, features: pd.DataFrame, settings: TraceSettings, n_layers: int, inputs: dict
) -> TracePlan:
    """Draw cells and pick sources. `features` is the features table; layers without features have no autoencoder.

    Raises
    ------
    SettingsError, DataError
        If layers, labels or numbers do not fit the run.
    """
    layers = sorted(int(layer) for layer in features["layer"].unique())
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
    n_cells = 0 if settings.n_cells >= len(tokens) else settings.n_cells
    rows = select_cells(tokens.obs, {}, n_cells, settings.stratify_by, settings.seed)
    rng = np.random.default_rng(settings.seed)
    sources = {
        layer: [int(f) for f in pick_sources(features[features["layer"] == layer], settings, rng)]
        for layer in source_layers
    }
    empty = [layer for layer, chosen in sources.items() if not chosen]
    if empty:
        raise SettingsError(
            f"No feature of layer {listed(empty)} can be a source (select = {settings.select!r}, "
            f"min_firing_rate = {settings.min_firing_rate}). Lower min_firing_rate or choose another `select`."
        )
    return TracePlan([int(row) for row in rows], sources, targets, settings.cells_per_part, settings.context, inputs)


def trace_stage(run: Run, progress: Progress) -> None:
    """Trace the run's cells part by part; write `trace/`."""
    run.require("cells", "train", "annotate")
    tokens, saes, model = load_tokens(run.path("cells")), load_saes(run.path("train")), run_model(run)
    check_saes(saes, model.d_model, model.n_layers, run.settings.cells.input_mode)
    features = read_table("features", run.path("annotate"))
    inputs = {stage: run.stage_hash(stage) for stage in INPUTS["trace"]}
    plan = make_plan(tokens, features, run.settings.trace, model.n_layers, inputs)
    work = _open_work(run, plan)
    failed = _trace_parts(plan, work, model, tokens, saes, run.settings.trace, progress)
    if failed:
        raise DataError(
            f"{len(failed)} of {len(plan.parts)} parts could not be traced; the others are kept. First: {failed[0]}"
        )
    totals = _merge(plan, work)
    with run.writing(
        "trace", plan=hashlib.sha256(plan.to_json().encode()).hexdigest(), passes=_passes(plan, totals)
    ) as out:
        (out / "plan.json").write_text(plan.to_json() + "\n", encoding="utf-8")
        for layer, moments in totals.items():
            save_moments(moments, out / f"moments_L{layer:02d}.safetensors")
        write_table("sources", _source_rows(totals, features), out)
    shutil.rmtree(work)


def _open_work(run: Run, plan: TracePlan) -> Path:
    """The folder of finished parts, made or checked to belong to this plan."""
    work = run.work_path("trace")
    try:
        work.mkdir(exist_ok=True)
        path = work / "plan.json"
        if path.exists() and path.read_text(encoding="utf-8") != plan.to_json():
            raise RunError(
                f"{work} holds parts of a trace with other settings or inputs. Restore those to go on with it, "
                "or delete the folder to begin anew."
            )
        if not path.exists():
            _write_atomically(path, lambda partial: partial.write_text(plan.to_json(), encoding="utf-8"))
    except OSError as error:
        raise RunError(f"Cannot write {work}: {error.strerror or error}.") from error
    return work


def _part_file(work: Path, part: int, layer: int) -> Path:
    return work / f"part{part:05d}_L{layer:02d}.safetensors"


def _write_atomically(path: Path, write) -> None:
    """Call `write(partial)` and rename what it wrote to `path`, so that `path` is complete or absent."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _trace_parts(
    plan: TracePlan,
    work: Path,
    model: Model,
    tokens: Tokens,
    saes: dict[int, TopKSAE],
    settings: TraceSettings,
    progress: Progress,
) -> list[str]:
    """Compute the parts that are not there yet; returns the errors of those that could not be."""
    sources = {layer: np.array(chosen, dtype=np.int64) for layer, chosen in plan.sources.items()}
    missing = [
        part
        for part in range(len(plan.parts))
        if not all(_part_file(work, part, layer).exists() for layer in plan.sources)
    ]
    failed = []
    with progress.task("Tracing", len(plan.parts)) as advance:
        advance(len(plan.parts) - len(missing))
        for part in missing:
            rows = plan.parts[part]
            try:
                found = trace_cells(model, tokens.take(rows), saes, sources, plan.targets, settings)
            except CellCircuitsError as error:
                failed.append(str(error))
                continue
            try:
                for layer, moments in found.items():
                    _write_atomically(_part_file(work, part, layer), lambda p, m=moments: save_moments(m, p))
            except OSError as error:
                raise RunError(f"Cannot write part {part} into {work}: {error}. Finished parts are kept.") from error
            advance(1)
    return failed


def _merge(plan: TracePlan, work: Path) -> dict[int, Moments]:
    """Sum of all parts, in the order of the plan."""
    totals: dict[int, Moments] = {}
    for layer in plan.sources:
        for part in range(len(plan.parts)):
            moments = load_moments(_part_file(work, part, layer))
            totals[layer] = totals[layer] + moments if layer in totals else moments
    return totals


def _passes(plan: TracePlan, totals: dict[int, Moments]) -> dict[str, int]:
    return {"clean": len(plan.cells), "ablated": int(sum(moments.n_cells.sum() for moments in totals.values()))}


def _source_rows(totals: dict[int, Moments], features: pd.DataFrame) -> pd.DataFrame:
    rows = [
        pd.DataFrame({"layer": layer, "feature": moments.source_features, "n_cells": moments.cells()})
        for layer, moments in totals.items()
    ]
    known = features[["layer", "feature", "firing_rate"]]
    return make_table("sources", pd.concat(rows).merge(known, on=["layer", "feature"], how="left"))
