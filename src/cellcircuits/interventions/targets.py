"""What attribution looks at: one number per cell, of a feature of a layer or of a gene that the model predicts.

    feature  v = mean over p in T of a(p);  a: pre-activation of the feature (linear in the state, before TopK or a
             threshold), T: gene positions at which the feature is active in the clean pass
    gene     v = mean over p in T of what the head says of the gene;  T: positions of the gene

T is that of the clean pass whatever is changed below, and a cell without T has no v.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch

from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.errors import DataError, SettingsError, listed
from cellcircuits.intervention_settings import parse_target
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.models.base import Model
from cellcircuits.readouts import ROUNDING
from cellcircuits.tokens import Tokens


class Target(ABC):
    """One number per cell."""

    name: str
    """As it is written in the settings."""
    top: int
    """The layer whose output it is a function of."""
    unit: str
    """Unit of the number, in words."""

    @abstractmethod
    def layers(self, saes: dict[int, SparseAutoencoder]) -> list[int]:
        """Layers with an autoencoder whose features can drive it, ascending."""

    @abstractmethod
    def where(self, cell: Tokens, clean: torch.Tensor) -> torch.Tensor:
        """T as bool (position,), by the clean output `clean` (1, position, d_model) of layer `top`."""

    @abstractmethod
    def value(self, states: torch.Tensor, cell: Tokens, at: torch.Tensor) -> torch.Tensor:
        """v of each copy, (copy,), from its states (copy, position, d_model); `at` is T and holds a position."""

    @abstractmethod
    def change(self, states: torch.Tensor, clean: torch.Tensor, cell: Tokens, at: torch.Tensor) -> torch.Tensor:
        """v - v(clean) of each copy, (copy,); 0 where it is no more than what rounding leaves."""


class FeatureTarget(Target):
    """A feature: mean pre-activation where it is active."""

    unit = "activation"

    def __init__(self, layer: int, feature: int, sae: SparseAutoencoder) -> None:
        self.name, self.top, self.feature, self.sae = f"{layer}:{feature}", layer, feature, sae

    def layers(self, saes: dict[int, SparseAutoencoder]) -> list[int]:
        return [layer for layer in sorted(saes) if layer < self.top]

    def where(self, cell: Tokens, clean: torch.Tensor) -> torch.Tensor:
        code = self.sae.encode(clean[0])
        active = ((code.indices == self.feature) & (code.values > 0)).any(dim=-1)
        return active & torch.from_numpy(cell.gene_mask[0]).to(active.device)

    def value(self, states: torch.Tensor, cell: Tokens, at: torch.Tensor) -> torch.Tensor:
        # pre-activations are linear in the state, so the mean state is enough
        mean = states[:, at].mean(dim=1) - self.sae.b_in
        return mean @ self.sae.W_enc[:, self.feature] + self.sae.b_enc[self.feature]

    def change(self, states: torch.Tensor, clean: torch.Tensor, cell: Tokens, at: torch.Tensor) -> torch.Tensor:
        encoder, now = self.sae.W_enc[:, self.feature], states[:, at]
        moved = (now - clean[:, at]).mean(dim=1) @ encoder
        rounding = ROUNDING * (now.square().mean(dim=1) @ encoder.square()).sqrt()
        return moved.masked_fill(moved.abs() <= rounding, 0.0)


class GeneTarget(Target):
    """A gene: what the model's head says of it where it stands."""

    def __init__(self, symbol: str, token: int, model: Model) -> None:
        self.name, self.token, self.model = f"gene:{symbol}", token, model
        self.top, self.unit = model.n_layers - 1, model.output_name

    def layers(self, saes: dict[int, SparseAutoencoder]) -> list[int]:
        return sorted(saes)

    def where(self, cell: Tokens, clean: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy((cell.ids[0] == self.token) & cell.gene_mask[0]).to(clean.device)

    def value(self, states: torch.Tensor, cell: Tokens, at: torch.Tensor) -> torch.Tensor:
        return self.model.gene_outputs(states, cell)[:, at].mean(dim=1)

    def change(self, states: torch.Tensor, clean: torch.Tensor, cell: Tokens, at: torch.Tensor) -> torch.Tensor:
        was = self.value(clean, cell, at)
        moved = self.value(states, cell, at) - was
        return moved.masked_fill(moved.abs() <= ROUNDING * was.abs(), 0.0)


def chosen_target(inputs: Inputs) -> Target | None:
    """The target of the settings; without one the feature with the most incoming edges, None if there is no edge.

    Raises
    ------
    SettingsError
        If the layer or feature does not exist, no autoencoder is below it, or the model predicts no genes.
    DataError
        If the cells do not know the gene.
    """
    if not inputs.settings.attribution_target:
        ends = ["target_layer", "target_feature"]
        counts = inputs.run.edges.groupby(ends).size().rename("n").reset_index()
        if counts.empty:
            return None
        most = counts.sort_values(["n", *ends], ascending=[False, True, True]).iloc[0]
        return _feature(inputs, int(most["target_layer"]), int(most["target_feature"]))
    asked = parse_target(inputs.settings.attribution_target)
    return _gene(inputs, asked) if isinstance(asked, str) else _feature(inputs, *asked)


def _feature(inputs: Inputs, layer: int, feature: int) -> FeatureTarget:
    saes = inputs.saes
    if layer not in saes:
        raise SettingsError(
            f"attribution_target: layer {layer} has no autoencoder; there are some for layers {sorted(saes)}."
        )
    if feature >= saes[layer].n_features:
        raise SettingsError(
            f"attribution_target: features of layer {layer} are 0 to {saes[layer].n_features - 1}; found {feature}."
        )
    if layer == min(saes):
        raise SettingsError(
            f"attribution_target: no layer below {layer} has an autoencoder, so nothing can be attributed to features. "
            f"Name a feature of a higher layer ({listed(sorted(saes)[1:])})."
        )
    return FeatureTarget(layer, feature, saes[layer])


def _gene(inputs: Inputs, symbol: str) -> GeneTarget:
    model, cells = inputs.model, inputs.run.cells
    if not model.output_name:
        raise SettingsError(
            f'The model {model.name!r} has no output head here, so "gene:{symbol}" cannot be a target. '
            'Name a feature, "layer:feature".'
        )
    for names in (cells.gene_symbols, cells.gene_ids):
        tokens = np.flatnonzero(np.asarray(names) == symbol)
        if len(tokens):
            return GeneTarget(symbol, int(tokens[0]), model)
    known = [name for name in cells.gene_symbols if name]
    raise DataError(f"attribution_target: the model knows no gene {symbol!r}; it knows {listed(known, 8)}.")
