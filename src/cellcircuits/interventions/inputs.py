"""What the experiments read of a run, each read when it is first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.errors import DataError, SettingsError, listed
from cellcircuits.intervention_settings import InterventionSettings, parse_feature
from cellcircuits.interventions.changes import WITH_REFERENCE, Change
from cellcircuits.interventions.engine import Intervener
from cellcircuits.interventions.reference import measure_reference
from cellcircuits.models.base import Model
from cellcircuits.opened import OpenRun
from cellcircuits.progress import Progress
from cellcircuits.run_model import run_model
from cellcircuits.tokens import Tokens

Feature = tuple[int, int]
"""(layer, feature)."""


class Inputs:
    """A run with edges, opened for interventions."""

    def __init__(self, run: OpenRun, settings: InterventionSettings, progress: Progress) -> None:
        self.run, self.settings, self.progress = run, settings, progress

    @cached_property
    def model(self) -> Model:
        """The model of the run."""
        return run_model(self.run)

    @cached_property
    def saes(self) -> dict[int, SparseAutoencoder]:
        """{layer: autoencoder}, on the model's device."""
        return {layer: sae.to(self.model.device) for layer, sae in self.run.saes.items()}

    @cached_property
    def change(self) -> Change:
        """What becomes of a feature's activation."""
        return Change(self.settings.kind, self.settings.amount, self.settings.positions)

    @cached_property
    def cell_rows(self) -> np.ndarray:
        """int64 (cell,): cells of the run in which interventions are made, in order."""
        return self._drawn(self.settings.to_group, self.settings.n_cells, 0)

    @cached_property
    def cells(self) -> Tokens:
        """Those cells."""
        return self.run.cells.take(self.cell_rows)

    @cached_property
    def reference_cells(self) -> Tokens:
        """Cells whose activations are put in the place of others."""
        return self.run.cells.take(self._drawn(self.settings.from_group, self.settings.reference_cells, 1))

    @cached_property
    def sources(self) -> list[Feature]:
        """Features to intervene on, in order of layer and number."""
        if self.settings.features:
            return sorted({self._checked(parse_feature(text)) for text in self.settings.features})
        return most_edges(self.run.edges, self.run.sources, self.settings.n_features, self.model.n_layers)

    def intervener(self, features: Sequence[Feature], change: Change | None = None) -> Intervener:
        """The engine; for changes that look at other cells, with what `features` do in them."""
        references = {}
        if (change or self.change).kind in WITH_REFERENCE:
            cells = self.reference_cells
            by_layer = {layer: np.array(chosen) for layer, chosen in self.by_layer(features).items()}
            with self.progress.task("Activations in other cells", len(cells)) as advance:
                references = measure_reference(self.model, cells, self.saes, by_layer, advance)
        return Intervener(self.model, self.saes, references, self.settings.batch_size, self.settings.seed)

    @staticmethod
    def by_layer(features: Sequence[Feature]) -> dict[int, list[int]]:
        """{layer: features}, both ascending."""
        found: dict[int, list[int]] = {}
        for layer, feature in sorted(set(features)):
            found.setdefault(layer, []).append(feature)
        return found

    def _drawn(self, group: str, n: int, stream: int) -> np.ndarray:
        """Rows of `n` random cells of a group, or of all."""
        rows, tokens = np.arange(len(self.run.cells)), self.run.cells
        if group:
            column = self.settings.group_by
            if column not in tokens.obs:
                raise DataError(f"The cells have no obs column {column!r}; they have {listed(tokens.obs.columns, 12)}.")
            labels = tokens.obs[column].astype(str)
            rows = np.flatnonzero(labels == group)
            if not len(rows):
                raise DataError(f"No cell has {column} = {group!r}; there are {listed(sorted(set(labels)), 12)}.")
        if n and n < len(rows):
            rows = np.sort(np.random.default_rng([self.settings.seed, stream]).choice(rows, n, replace=False))
        return rows

    def _checked(self, feature: Feature) -> Feature:
        layer, number = feature
        if layer not in self.saes:
            raise SettingsError(f"Layer {layer} has no autoencoder; there are some for {sorted(self.saes)}.")
        if number >= self.saes[layer].n_features:
            raise SettingsError(f"Features of layer {layer} are 0 to {self.saes[layer].n_features - 1}.")
        if layer >= self.model.n_layers - 1:
            raise SettingsError(f"Layer {layer} is the last: nothing above it could change. Choose a lower layer.")
        return feature


def most_edges(edges: pd.DataFrame, sources: pd.DataFrame, n: int, n_layers: int) -> list[Feature]:
    """The `n` sources with the most edges, as evenly over their layers as can be; ties by the smaller number.

    Raises
    ------
    DataError
        If no source is below the last layer.
    """
    degree = edges.groupby(["source_layer", "source_feature"]).size()
    table = sources.rename(columns={"layer": "source_layer", "feature": "source_feature"})
    table = table[table["source_layer"] < n_layers - 1].set_index(["source_layer", "source_feature"])
    table = table.assign(n_edges=degree.reindex(table.index).fillna(0).to_numpy()).reset_index()
    if table.empty:
        raise DataError("The run has no source below the last layer; trace some first, or name features.")
    table = table.sort_values(["n_edges", "source_feature"], ascending=[False, True], kind="stable")
    table["place"] = table.groupby("source_layer").cumcount()
    chosen = table.sort_values(["place", "n_edges", "source_layer"], ascending=[True, False, True], kind="stable")[:n]
    return sorted(zip(chosen["source_layer"].tolist(), chosen["source_feature"].tolist(), strict=True))
