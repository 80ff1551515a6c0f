"""Stage `edges`: call edges from the moments of a trace, and say what control directions make. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellcircuits.control_table import control_counts, control_table, sample_size_curve, source_counts, sweep
from cellcircuits.edge_calling import Blocks, count_pairs, edges_of_layer, sign_shares
from cellcircuits.fidelity import fidelity
from cellcircuits.formats import RANDOM_WEIGHTS
from cellcircuits.gene_effects import gene_effects
from cellcircuits.moments import OWN, Moments, load_moments, trace_files
from cellcircuits.progress import Progress
from cellcircuits.run import Run
from cellcircuits.settings import EdgesSettings
from cellcircuits.specificity import Specificity, specificity
from cellcircuits.tables import empty_table, make_table, write_table

Parts = dict[str, list[pd.DataFrame]]
"""Tables of the stage by name, in pieces."""
NAMES = ("edges", "tested", "signs", "controls", "sweep", "sample_size", "fidelity", "gene_effects")


def edges_stage(run: Run, progress: Progress) -> None:
    """Call edges from the run's moments; write `edges/`."""
    run.require("cells", "trace")
    tables = {name: _joined(name, parts) for name, parts in call_trace(run, progress).items()}
    summary = _summary(tables, run)
    with run.writing("edges", summary=summary) as out:
        for name, table in tables.items():
            write_table(name, table, out)
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def call_trace(run: Run, progress: Progress) -> Parts:
    """Every table, layer by layer; of the sources one block is in memory at a time, of controls one layer."""
    settings, folder = run.settings.edges, run.path("trace")
    symbols = pd.read_parquet(run.path("cells") / "genes.parquet")["symbol"].to_numpy(dtype=str)
    blocks = {layer: [partial(load_moments, path) for path in paths] for layer, paths in trace_files(folder).items()}
    controls, random = trace_files(folder, "controls"), trace_files(folder, RANDOM_WEIGHTS)
    parts: Parts = {name: [] for name in NAMES}
    counts = []
    with progress.task("Calling edges", len(blocks)) as advance:
        for layer, loads in blocks.items():
            beyond, own, counted = None, None, []
            if layer in controls:
                moments = _load_layer(controls[layer])
                counted.append(_judge_controls(moments, settings, parts))
                beyond, own = specificity(moments, settings.readout), moments.of_direction(0)
                del moments  # many times as large as the sources
            if layer in random:
                counted += _judge_random_weights(run, layer, random[layer], bool(counted))
            counts += [pd.concat(counted, ignore_index=True)] if counted else []
            _call_layer(loads, beyond, settings, symbols, parts)
            _compare_contexts(run, layer, own, parts)
            advance(1)
    parts["signs"].append(sign_shares(list(blocks.values()), settings))
    if counts:
        # what is traced on random weights has the context of the controls
        parts["controls"].append(
            control_table(counts, _plan(run, "controls" if controls else RANDOM_WEIGHTS)["context"])
        )
    return parts


def _load_layer(paths: Sequence[Path]) -> Moments:
    return Moments.join([load_moments(path) for path in paths])


def _judge_controls(controls: Moments, settings: EdgesSettings, parts: Parts) -> pd.DataFrame:
    """Counts of edges of every direction; random ones also go into the sweep of thresholds."""
    random = [i for i, name in enumerate(controls.directions) if name.startswith("random")]
    swept = [sweep(controls.of_direction(i), settings, "random") for i in random]
    if swept:
        mean = swept[0].assign(edges=np.mean([part["edges"] for part in swept], axis=0))
        parts["sweep"].append(mean)
    return control_counts(controls, settings)


def _judge_random_weights(run: Run, layer: int, paths: Sequence[Path], has_own: bool) -> list[pd.DataFrame]:
    """Counts of edges of the model with random weights; without controls, of the sources as well, to compare."""
    settings = run.settings.edges
    found = source_counts([partial(load_moments, path) for path in paths], settings, RANDOM_WEIGHTS)
    if has_own:
        return [found]
    load = partial(_before_screen, run.settings.trace.context == "screen")
    own = [partial(load, path) for path in trace_files(run.path("trace"))[layer]]
    return [source_counts(own, settings, OWN), found]


def _before_screen(screened: bool, path: Path) -> Moments:
    """Moments of a block of sources in the context of the plan: after a screen some were replaced by exact ones."""
    moments, frozen = load_moments(path), path.with_name(path.name.replace("moments", "frozen"))
    if screened and frozen.exists():
        found = load_moments(frozen)
        moments.replace_sources(np.flatnonzero(np.isin(moments.source_features, found.source_features)), found)
    return moments


def _call_layer(
    blocks: Blocks,
    beyond: dict[int, Specificity] | None,
    settings: EdgesSettings,
    symbols: np.ndarray,
    parts: Parts,
) -> None:
    """Edges of one source layer, and what is counted of its pairs."""
    parts["edges"].append(edges_of_layer(blocks, settings, beyond))
    for load in blocks:
        moments = load()
        parts["tested"].append(count_pairs(moments, settings))
        parts["sweep"].append(sweep(moments, settings))
        parts["sample_size"].append(sample_size_curve(moments, settings))
        parts["gene_effects"].append(gene_effects(moments, symbols, settings.min_cells))


def _compare_contexts(run: Run, layer: int, own: Moments | None, parts: Parts) -> None:
    """What the frozen context leaves out, from sources traced in both.

    `own` are the sources as they were traced among the controls, if there are any.
    """
    folder, settings = run.path("trace"), run.settings.edges
    exact, frozen = (trace_files(folder, kind).get(layer, []) for kind in ("exact", "frozen"))
    if exact and frozen:
        parts["fidelity"].append(fidelity(_load_layer(exact), _load_layer(frozen), settings))
    elif run.settings.trace.context == "exact" and own is not None and _in_frozen_context_of_same_cells(run):
        parts["fidelity"].append(fidelity(_load_layer(trace_files(folder)[layer]), own, settings))


def _in_frozen_context_of_same_cells(run: Run) -> bool:
    """Whether controls were traced in a frozen context, and in the cells of the sources."""
    controls = _plan(run, "controls")
    return controls["context"] == "frozen" and controls["cells"] == _plan(run)["cells"]


def _plan(run: Run, kind: str = "") -> dict[str, Any]:
    """The plan of the sources, or of another part of the trace."""
    name = f"{kind}_plan.json" if kind else "plan.json"
    return json.loads((run.path("trace") / name).read_text(encoding="utf-8"))


def _joined(name: str, parts: list[pd.DataFrame]) -> pd.DataFrame:
    """One table; pieces that count the same thing in several blocks or layers are added."""
    added = {"tested": ["source_layer", "target_layer"], "sweep": ["direction", "min_snr", "min_agreement"]}
    if not parts:
        return empty_table(name)
    table = pd.concat(parts, ignore_index=True)
    if name in added:
        table = table.groupby(added[name], sort=False).sum().reset_index()
    if name == "sample_size":
        table = _added_sample_sizes(table)
    return make_table(name, table)


def _added_sample_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """Blocks of a layer together."""
    how = {"n_cells": "max", "n_edges": "sum", "n_kept": "sum"}
    added = table.groupby(["source_layer", "n_groups"]).agg(how).reset_index()
    everything = added.groupby("source_layer")["n_edges"].transform("last")
    return added.assign(recall=added["n_kept"] / everything.clip(lower=1))


def _summary(tables: dict[str, pd.DataFrame], run: Run) -> dict[str, Any]:
    settings, tested, found = run.settings.edges, tables["tested"], tables["edges"]
    sources = pd.read_parquet(run.path("trace") / "sources.parquet")
    known = found["specific_q"].notna().any()
    return {
        "rule": settings.rule,
        "readout": settings.readout,
        "unit": settings.unit,
        "n_tested": int(tested["n_tested"].sum()),
        "n_responding": int(tested["n_responding"].sum()),
        "n_edges": len(found),
        "n_specific": int(found["specific"].sum()) if known else None,
        "n_sources": len(sources),
        "n_sources_with_too_few_cells": int((sources["n_cells"] < settings.min_cells).sum()),
        "signs": tables["signs"].to_dict("records"),
        "controls": json.loads(tables["controls"].to_json(orient="records")),
        "fidelity": _mean_fidelity(tables["fidelity"]),
    }


def _mean_fidelity(table: pd.DataFrame) -> dict[str, float] | None:
    """The frozen context against the exact one: means over pairs of layers; None where both were not traced."""
    if table.empty:
        return None
    return {name: float(table[name].mean()) for name in ("correlation", "recall", "jaccard", "sign_agreement")}
