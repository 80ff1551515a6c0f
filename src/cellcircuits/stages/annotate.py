"""Stage `annotate`: catalogue and name the features of every autoencoder, those on random weights included."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellcircuits.annotation import Annotator
from cellcircuits.associations import association_columns, cell_labels
from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.catalogue import background_tokens, count_firings, name_features
from cellcircuits.formats import RANDOM_WEIGHTS
from cellcircuits.models.base import Model
from cellcircuits.networks import read_network
from cellcircuits.progress import Progress
from cellcircuits.references import gene_sets_path, network_path, read_gmt
from cellcircuits.run import Run, file_hash
from cellcircuits.run_model import run_model
from cellcircuits.sae import load_saes
from cellcircuits.settings import AnnotateSettings
from cellcircuits.stages.train import load_baseline
from cellcircuits.tables import write_table
from cellcircuits.tokens import Tokens, load_tokens

Tables = dict[str, list[pd.DataFrame]]
"""Tables of the stage by name, one frame for each layer."""


def annotate_stage(run: Run, progress: Progress) -> None:
    """Catalogue and name the features of every autoencoder; write `annotate/`."""
    run.require("cells", "train")
    settings, tokens = run.settings.annotate, load_tokens(run.path("cells"))
    if settings.max_cells and settings.max_cells < len(tokens):
        rows = np.random.default_rng(settings.seed).choice(len(tokens), settings.max_cells, replace=False)
        tokens = tokens.take(np.sort(rows))
    association_columns(tokens.obs, settings)  # a wrong column is better known now
    annotator = _annotator(tokens, settings)
    model = run_model(run)
    saes = {layer: sae.to(model.device) for layer, sae in load_saes(run.path("train")).items()}
    name_all = partial(_named, run, annotator, tokens, progress)
    tables, summary = name_all(model, saes)
    record: dict[str, Any] = {"summary": dict(summary)}
    if run.settings.train.random_weights:
        baseline, record[RANDOM_WEIGHTS] = name_all(*load_baseline(run), " on random weights")
        summary[RANDOM_WEIGHTS] = record[RANDOM_WEIGHTS]
    record["gene_sets_sha256"] = {path: file_hash(gene_sets_path(path)) for path in settings.gene_sets}
    record["networks_sha256"] = {path: file_hash(network_path(path)) for path in settings.networks}
    with run.writing("annotate", **record) as folder:
        _write(tables, folder)
        if run.settings.train.random_weights:
            _write(baseline, folder / RANDOM_WEIGHTS)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _annotator(tokens: Tokens, settings: AnnotateSettings) -> Annotator:
    """Gene sets and networks, cut to the genes that features of these cells could list."""
    collections = [read_gmt(path) for path in settings.gene_sets]
    networks = [read_network(path, settings.min_interaction_score) for path in settings.networks]
    symbols = tokens.gene_symbols[background_tokens(tokens.count_genes(), settings)]
    return Annotator(symbols, collections, networks, settings)


def _named(
    run: Run,
    annotator: Annotator,
    tokens: Tokens,
    progress: Progress,
    model: Model,
    saes: dict[int, SparseAutoencoder],
    what: str = "",
) -> tuple[Tables, dict[str, Any]]:
    """Tables of all features of a model, and {L00: what is counted of its features}."""
    settings = run.settings.annotate
    columns = association_columns(tokens.obs, settings, run.settings.cells.stratify_by)
    scored = _associated_cells(len(tokens), settings) if columns else np.zeros(0, dtype=np.int64)
    with progress.task(f"Cataloguing features{what}", len(tokens)) as advance:
        sums = count_firings(model, tokens, saes, run.settings.train.model_batch, advance, scored)
    tables: Tables = defaultdict(list)
    summary = {}
    with progress.task(f"Testing gene sets and networks{what}", len(saes)) as advance:
        for layer, sae in saes.items():
            norms = sae.W_dec.norm(dim=1).double().cpu().numpy()
            named = name_features(layer, sums[layer], tokens, norms, annotator, settings)
            obs, scores = tokens.obs.iloc[scored], sums.pop(layer).scores
            named["cell_labels"] = cell_labels(layer, scores, obs, columns, settings.min_label_cells)
            summary[f"L{layer:02d}"] = named.pop("summary")
            for name, frame in named.items():
                tables[name].append(frame)
            advance(1)
    return tables, summary


def _associated_cells(n_cells: int, settings: AnnotateSettings) -> np.ndarray:
    """Rows of the cells whose scores are kept, ascending."""
    if not settings.associate_cells or n_cells <= settings.associate_cells:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(settings.seed).choice(n_cells, settings.associate_cells, replace=False))


def _write(tables: Tables, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, frames in tables.items():
        write_table(name, pd.concat(frames, ignore_index=True), folder)
