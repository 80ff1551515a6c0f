"""What features do in other cells: the values that interventions put in the place of a feature's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.interventions.changes import Change
from cellcircuits.models.base import Model
from cellcircuits.tokens import Tokens


@dataclass(frozen=True)
class Reference:
    """Activations of one layer's features at the gene positions of some cells."""

    mean: torch.Tensor
    """float32 (feature,): mean over all gene positions."""
    mean_active: torch.Tensor
    """float32 (feature,): mean over those at which the feature is active; 0 for features that never are."""
    samples: dict[int, np.ndarray]
    """{feature: float32 (active position,)}: activations above 0, of the features asked for."""
    by_gene: dict[int, np.ndarray]
    """{feature: float32 (token,)}: mean activation at the positions of each gene, NaN for genes in no cell."""
    n_positions: int
    """Gene positions."""

    def replaced(
        self, features: np.ndarray, z: torch.Tensor, token_ids: np.ndarray, change: Change, seed: Sequence[int]
    ) -> torch.Tensor:
        """The new activations (position, feature) in the place of `z`, at positions whose tokens are `token_ids`.

        "mean" takes copies too, (copy, position, feature).

        What is drawn depends on `seed` and the feature, so it is the same whatever else is changed.

        Raises
        ------
        KeyError
            If the samples of a feature were not asked for.
        """
        every = change.positions == "all"
        if not len(features):
            return z
        if change.kind == "mean":
            return (self.mean if every else self.mean_active).to(z)[torch.from_numpy(features)].expand_as(z)
        if change.kind == "patch":
            donor = np.stack([self.by_gene[int(feature)][token_ids] for feature in features], axis=1)
            known = torch.from_numpy(donor).to(z)
            return torch.where(known.isnan(), z, known)
        drawn = np.stack([self._drawn(int(feature), len(z), every, seed) for feature in features], axis=1)
        return torch.from_numpy(drawn).to(z)

    def _drawn(self, feature: int, n: int, every: bool, seed: Sequence[int]) -> np.ndarray:
        """`n` activations of a feature, drawn from those above 0, or from those of `every` position."""
        rng, pool = np.random.default_rng([*seed, feature]), self.samples[feature]
        index = rng.integers(0, max(self.n_positions if every else len(pool), 1), size=n)
        padded = np.append(pool, np.float32(0.0))  # all positions beyond those of the pool are not active
        return padded[np.minimum(index, len(pool))]


@torch.no_grad()
def measure_reference(
    model: Model,
    cells: Tokens,
    saes: Mapping[int, SparseAutoencoder],
    features: Mapping[int, np.ndarray],
    advance: Callable[[float], None] = lambda _: None,
) -> dict[int, Reference]:
    """One clean pass over `cells`; single activations are kept of the `features` {layer: features} alone.

    Means are of all features of the layers that `features` names.
    """
    n_tokens = len(cells.gene_ids) or int(cells.ids.max()) + 1
    sums = {layer: _Sums(saes[layer], np.asarray(chosen, dtype=np.int64)) for layer, chosen in features.items()}
    genes = np.zeros(n_tokens, dtype=np.int64)
    for row in range(len(cells)):
        cell = cells.take([row])
        mask = cell.gene_mask[0]
        genes += np.bincount(cell.ids[0, mask], minlength=n_tokens)
        for layer, state in model.run_layers(model.embed(cell), cell, 0, max(sums, default=-1) + 1):
            if layer in sums:
                sums[layer].add(state[0, torch.from_numpy(mask)], cell.ids[0, mask])
        advance(1)
    return {layer: total.reference(genes) for layer, total in sums.items()}


class _Sums:
    """What is gathered of one layer."""

    def __init__(self, sae: SparseAutoencoder, chosen: np.ndarray) -> None:
        self.sae, self.chosen = sae, chosen
        self.total, self.firings = np.zeros(sae.n_features), np.zeros(sae.n_features)
        self.parts: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {int(feature): [] for feature in chosen}

    def add(self, hidden: torch.Tensor, token_ids: np.ndarray) -> None:
        """Add gene positions (position, d_model) with their tokens."""
        code = self.sae.encode(hidden)
        values, features = code.values.cpu().numpy().ravel(), code.indices.cpu().numpy().ravel()
        self.total += np.bincount(features, values, minlength=len(self.total))
        self.firings += np.bincount(features, values > 0, minlength=len(self.total))
        if not self.parts:
            return
        dense = code.dense(self.sae.n_features).cpu().numpy()
        for feature in self.parts:
            at = np.flatnonzero(dense[:, feature] > 0)
            self.parts[feature].append((dense[at, feature], token_ids[at]))

    def reference(self, genes: np.ndarray) -> Reference:
        """The same as values; `genes` (token,) is the number of positions of each gene."""
        samples, by_gene = {}, {}
        for feature, parts in self.parts.items():
            values = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, np.float32)
            tokens = np.concatenate([part[1] for part in parts]) if parts else np.zeros(0, np.int64)
            total = np.bincount(tokens, weights=values, minlength=len(genes))
            mean = np.divide(total, genes, out=np.full(len(genes), np.nan), where=genes > 0)
            samples[feature], by_gene[feature] = values, mean.astype(np.float32)
        n = int(genes.sum())
        means = self.total / max(n, 1), self.total / np.maximum(self.firings, 1)
        mean, mean_active = (torch.from_numpy(part).float() for part in means)
        return Reference(mean, mean_active, samples, by_gene, n)
