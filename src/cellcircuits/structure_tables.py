"""The tables of `structure/` for a run: one pass over its cells, then one question per table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.cell_data import read_cells
from cellcircuits.errors import DataError, listed
from cellcircuits.manifest import file_hash
from cellcircuits.models.base import Model
from cellcircuits.opened import OpenRun
from cellcircuits.progress import Progress
from cellcircuits.run_model import run_model
from cellcircuits.scores import cell_scores
from cellcircuits.settings import StructureSettings
from cellcircuits.structure.alignment import layer_alignment
from cellcircuits.structure.counting import StructureSums, count_structure
from cellcircuits.structure.dependencies import dependency_overlap, source_dependencies
from cellcircuits.structure.modules import layer_modules, module_labels
from cellcircuits.structure.persistence import layer_persistence
from cellcircuits.structure.perturbation import perturbation_response
from cellcircuits.structure.unannotated import layer_unannotated
from cellcircuits.tables import STRUCTURE, empty_table, make_table, write_table

Tables = dict[str, list[pd.DataFrame]]
"""Tables by name, one frame for each layer or pair of layers."""


def write_structure(run: OpenRun, settings: StructureSettings, progress: Progress) -> None:
    """Ask how the features of a run hang together; write `structure/`.

    The run must be annotated. Where it has edges, the pairs traced are compared with what fires together.
    """
    run.require("cells", "train", "annotate")
    model = run_model(run)
    saes = {layer: sae.to(model.device) for layer, sae in run.saes.items()}
    tokens, edges = run.cells, run.status("edges").state == "done"
    if settings.max_cells and settings.max_cells < len(tokens):
        rows = np.random.default_rng(settings.seed).choice(len(tokens), settings.max_cells, replace=False)
        tokens = tokens.take(np.sort(rows))
    sources = {int(k): np.sort(v.to_numpy()) for k, v in run.sources.groupby("layer")["feature"]} if edges else {}
    tables: Tables = defaultdict(list)
    coverage = _perturbations(run, model, saes, settings, progress, tables) if settings.perturbations else {}
    with progress.task("Counting what fires together", len(tokens)) as advance:
        batch = run.settings.train.model_batch
        sums = count_structure(model, tokens, saes, batch, settings, sources, advance)
    decoders = {layer: sae.W_dec.cpu().numpy() for layer, sae in saes.items()}
    with progress.task("Modules, persistence, alignment", len(saes)) as advance:
        _layers(run, sums, decoders, settings, tables, advance)
    if edges:
        _dependencies(run, sums, sources, settings, tables)
    record = {"settings": asdict(settings), "n_cells": len(tokens), "edges": run.stage_hash("edges") if edges else ""}
    if settings.perturbations:
        record["perturbations_sha256"] = file_hash(Path(settings.perturbations))
        record["perturbations_coverage"] = coverage
    with run.writing("structure", **record) as folder:
        for name in STRUCTURE:
            found = pd.concat(tables[name], ignore_index=True) if tables[name] else empty_table(name)
            write_table(name, found, folder)


def _layers(
    run: OpenRun,
    sums: StructureSums,
    decoders: dict[int, np.ndarray],
    settings: StructureSettings,
    tables: Tables,
    advance: Callable[[float], None],
) -> None:
    for layer, decoder in decoders.items():
        features, genes, cells = (_of(layer, t) for t in (run.features, run.feature_genes, run.cell_labels))
        modules, rates = layer_modules(layer, sums, settings)
        labels = module_labels(modules, features, genes)
        found = {"modules": modules, "module_rates": rates, "module_labels": labels}
        found["svd_alignment"], found["svd_rates"] = layer_alignment(layer, decoder, sums, settings)
        pair = layer_unannotated(layer, features, genes, cells, modules, labels, settings)
        found["unannotated"], found["unannotated_rates"] = pair
        for name, table in found.items():
            tables[name].append(table)
        advance(1)
    for both in pairwise(sorted(decoders)):
        for name, table in zip(
            ("persistence", "persistence_rates"), layer_persistence(both, decoders, sums, settings), strict=True
        ):
            tables[name].append(table)


def _dependencies(
    run: OpenRun, sums: StructureSums, sources: dict[int, np.ndarray], settings: StructureSettings, tables: Tables
) -> None:
    rows = []
    for pair in sorted(sums.with_sources):
        found = source_dependencies(pair, sources[pair[0]], sums)
        tables["dependencies"].append(found)
        rows.append(dependency_overlap(pair, sources[pair[0]], found, run.edges, sums, settings))
    tables["dependency_overlap"].append(make_table("dependency_overlap", pd.DataFrame(rows)))


def _perturbations(
    run: OpenRun,
    model: Model,
    saes: dict[int, SparseAutoencoder],
    settings: StructureSettings,
    progress: Progress,
    tables: Tables,
) -> dict[str, object]:
    """Tables perturbations and perturbation_rates; returns how much of the screen the model can see."""
    # few genes of a targeted screen may be known to the model, and some cells may have none of them
    chosen = replace(
        run.settings.cells,
        data=settings.perturbations,
        where={},
        n_cells=0,
        stratify_by="",
        min_mapped_genes=settings.min_mapped_genes,
        empty_cells="drop",
    )
    adata, column = read_cells(chosen), settings.perturbation_column
    if column not in adata.obs:
        raise DataError(
            f"{settings.perturbations} has no obs column {column!r}; it has {listed(adata.obs.columns, 12)}. "
            "Set perturbation_column."
        )
    tokens = model.tokenize(adata, chosen)
    with progress.task("Scoring perturbed cells", len(tokens)) as advance:
        scores = cell_scores(model, tokens, saes, run.settings.train.model_batch, advance)
    for layer, found in scores.items():
        args = (tokens.obs[column], settings.control_label, _of(layer, run.feature_genes))
        pair = perturbation_response(
            layer, found, *args, settings.min_perturbed_cells, settings.seed, tokens.gene_symbols
        )
        for name, table in zip(("perturbations", "perturbation_rates"), pair, strict=True):
            tables[name].append(table)
    return dict(tokens.info)


def _of(layer: int, table: pd.DataFrame) -> pd.DataFrame:
    return table[table["layer"] == layer].reset_index(drop=True)
