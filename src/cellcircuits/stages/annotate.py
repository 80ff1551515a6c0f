"""Stage `annotate`: catalogue and name the features of every autoencoder, those on random weights included."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellcircuits.annotation import Annotator
from cellcircuits.associations import association_columns, cell_labels
from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.baseline_table import baseline_row, permuted_labels
from cellcircuits.baselines import ICA_STEPS, SideBySide, fit_baselines, sample_states
from cellcircuits.catalogue import FiringSums, background_tokens, count_firings, name_features
from cellcircuits.formats import AUTOENCODER, RANDOM_WEIGHTS
from cellcircuits.manifest import file_hash
from cellcircuits.models.base import Model
from cellcircuits.networks import read_network
from cellcircuits.progress import Progress
from cellcircuits.references import gene_sets_path, network_path, read_gmt
from cellcircuits.run import Run
from cellcircuits.run_model import run_model
from cellcircuits.sae import load_saes
from cellcircuits.settings import AnnotateSettings
from cellcircuits.stages.train import load_baseline
from cellcircuits.tables import make_table, write_table
from cellcircuits.tokens import Tokens, load_tokens

Tables = dict[str, list[pd.DataFrame]]
"""Tables of the stage by name, one frame for each layer."""


def annotate_stage(run: Run, progress: Progress) -> None:
    """Catalogue and name the features of every autoencoder, and of its baselines; write `annotate/`."""
    run.require("cells", "train")
    settings, tokens = run.settings.annotate, load_tokens(run.path("cells"))
    if settings.max_cells and settings.max_cells < len(tokens):
        rows = np.random.default_rng(settings.seed).choice(len(tokens), settings.max_cells, replace=False)
        tokens = tokens.take(np.sort(rows))
    association_columns(tokens.obs, settings)  # a wrong column is better known now
    naming = _Naming(run, tokens, _annotator(tokens, settings), progress)
    model = run_model(run)
    saes = {layer: sae.to(model.device) for layer, sae in load_saes(run.path("train")).items()}
    record: dict[str, Any] = {}
    beside, steps = naming.baselines(model, saes)
    if settings.baselines:
        record["baselines"] = {"seed": settings.seed, "ica_steps": steps, "ica_steps_at_most": ICA_STEPS}
    found = naming.name(model, {layer: {AUTOENCODER: sae, **beside[layer]} for layer, sae in saes.items()})
    if run.settings.train.random_weights:
        random, baseline = load_baseline(run)
        alone = {layer: {RANDOM_WEIGHTS: sae} for layer, sae in baseline.items()}
        found |= naming.name(random, alone, " on random weights")
    _finish(run, found, record)


def _finish(run: Run, found: dict[str, _Named], record: dict[str, Any]) -> None:
    """Write what was found for every dictionary: the autoencoder's tables, the others' in folders of their names."""
    settings = run.settings.annotate
    own, others = found[AUTOENCODER], {kind: named for kind, named in found.items() if kind != AUTOENCODER}
    record |= {"summary": own.summary} | {kind: named.summary for kind, named in others.items()}
    record["gene_sets_sha256"] = {path: file_hash(gene_sets_path(path)) for path in settings.gene_sets}
    record["networks_sha256"] = {path: file_hash(network_path(path)) for path in settings.networks}
    order = sorted(found, key=[AUTOENCODER, RANDOM_WEIGHTS, *settings.baselines].index)
    rows = pd.DataFrame([row for kind in order for row in found[kind].rows])
    summary = own.summary | {kind: named.summary for kind, named in others.items()}
    with run.writing("annotate", **record) as folder:
        _write(own.tables, folder)
        for kind, named in others.items():
            _write(named.tables, folder / kind)
        write_table("baselines", make_table("baselines", rows), folder)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _annotator(tokens: Tokens, settings: AnnotateSettings) -> Annotator:
    """Gene sets and networks, cut to the genes that features of these cells could list."""
    collections = [read_gmt(path) for path in settings.gene_sets]
    networks = [read_network(path, settings.min_interaction_score) for path in settings.networks]
    symbols = tokens.gene_symbols[background_tokens(tokens.count_genes(), settings)]
    return Annotator(symbols, collections, networks, settings)


@dataclass
class _Named:
    """What was found of the features of one dictionary, over layers."""

    tables: Tables = field(default_factory=lambda: defaultdict(list))
    summary: dict[str, Any] = field(default_factory=dict)
    """{L00: what is counted of its features}."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the table baselines."""


@dataclass(frozen=True)
class _Naming:
    """What the features of all dictionaries are named with."""

    run: Run
    tokens: Tokens
    annotator: Annotator
    progress: Progress

    def baselines(
        self, model: Model, saes: dict[int, SparseAutoencoder]
    ) -> tuple[dict[int, dict[str, SparseAutoencoder]], dict[str, int]]:
        """{layer: {kind: dictionary}} of `annotate.baselines`, and {L00: steps of FastICA} where it was asked for."""
        settings, batch = self.run.settings.annotate, self.run.settings.train.model_batch
        if not settings.baselines:
            return {layer: {} for layer in saes}, {}
        found: dict[int, dict[str, SparseAutoencoder]] = {}
        steps: dict[str, int] = {}
        with self.progress.task("Fitting baselines", len(saes)) as advance:
            states = sample_states(model, self.tokens, list(saes), settings, batch)
            for layer, sae in saes.items():
                found[layer], taken = fit_baselines(states.pop(layer), sae, settings)
                steps |= {f"L{layer:02d}": number for number in taken.values()}
                advance(1)
        if late := [layer for layer, number in steps.items() if number >= ICA_STEPS]:
            self.progress.note(f"FastICA did not converge in {ICA_STEPS} steps at {', '.join(late)}")
        return found, steps

    def name(
        self, model: Model, dictionaries: dict[int, dict[str, SparseAutoencoder]], what: str = ""
    ) -> dict[str, _Named]:
        """{kind: what was found} for the features of all dictionaries, {layer: {kind: dictionary}}, from one pass."""
        settings = self.run.settings.annotate
        columns = association_columns(self.tokens.obs, settings, self.run.settings.cells.stratify_by)
        scored = _associated_cells(len(self.tokens), settings) if columns else np.zeros(0, dtype=np.int64)
        together = {layer: SideBySide(parts) for layer, parts in dictionaries.items()}
        batch = self.run.settings.train.model_batch
        with self.progress.task(f"Cataloguing features{what}", len(self.tokens)) as advance:
            sums = count_firings(model, self.tokens, together, batch, advance, scored)
        found: dict[str, _Named] = defaultdict(_Named)
        obs = self.tokens.obs.iloc[scored]
        with self.progress.task(f"Testing gene sets and networks{what}", len(together)) as advance:
            for layer, parts in together.items():
                for kind, own in parts.split(sums.pop(layer)).items():
                    self._add(found[kind], layer, kind, parts.parts[kind], own, obs, columns)
                advance(1)
        return dict(found)

    def _add(
        self,
        found: _Named,
        layer: int,
        kind: str,
        sae: SparseAutoencoder,
        sums: FiringSums,
        obs: pd.DataFrame,
        columns: list[str],
    ) -> None:
        settings, scores = self.run.settings.annotate, sums.scores
        norms = sae.W_dec.norm(dim=1).double().cpu().numpy()
        named = name_features(layer, sums, self.tokens, norms, self.annotator, settings)
        labels = cell_labels(layer, scores, obs, columns, settings.min_label_cells)
        null = permuted_labels(layer, scores, obs, columns, settings)
        summary = found.summary[f"L{layer:02d}"] = named.pop("summary")
        found.rows.append(baseline_row(layer, kind, summary, named["features"], labels, null, settings.max_q))
        for name, frame in {**named, "cell_labels": labels}.items():
            found.tables[name].append(frame)


def _associated_cells(n_cells: int, settings: AnnotateSettings) -> np.ndarray:
    """Rows of the cells whose scores are kept, ascending."""
    if not settings.associate_cells or n_cells <= settings.associate_cells:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(settings.seed).choice(n_cells, settings.associate_cells, replace=False))


def _write(tables: Tables, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, frames in tables.items():
        write_table(name, pd.concat(frames, ignore_index=True), folder)
