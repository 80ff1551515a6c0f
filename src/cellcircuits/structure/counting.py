"""One pass over the cells: which features fire together, within a layer, with the next, and with traced sources.

All of it is sums of products of sparse codes, B_a' B_b for pairs and Z_a' Z_b for correlations, over batches of cells.
Memory is 4 bytes per pair of features, for every layer, every two neighbouring layers, and every traced source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.codes import CodeBatch, SparseSum, stream_codes
from cellcircuits.models.base import Model
from cellcircuits.settings import StructureSettings
from cellcircuits.tokens import Tokens

Pair = tuple[int, int]
"""A layer and a layer above it."""


@dataclass
class StructureSums:
    """What one pass counts."""

    n_positions: int = 0
    firings: dict[int, np.ndarray] = field(default_factory=dict)
    """{layer: int64 (feature,)}: positions at which it fires."""
    totals: dict[int, np.ndarray] = field(default_factory=dict)
    """{layer: float64 (feature,)}: sum of activations."""
    squares: dict[int, np.ndarray] = field(default_factory=dict)
    """{layer: float64 (feature,)}: sum of squared activations."""
    together: dict[int, np.ndarray] = field(default_factory=dict)
    """{layer: int32 (feature, feature)}: positions at which both fire."""
    by_token: dict[int, sp.csr_matrix] = field(default_factory=dict)
    """{layer: float64 (token, feature)}: positions of every gene at which the feature fires."""
    per_token: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """int64 (token,): positions of every gene."""
    products: dict[Pair, np.ndarray] = field(default_factory=dict)
    """{(layer, next): float32 (feature, feature)}: sum of products of activations."""
    sampled: dict[int, np.ndarray] = field(default_factory=dict)
    """{layer: int64 (sampled,)}: features of the null of correlations."""
    permuted: dict[Pair, np.ndarray] = field(default_factory=dict)
    """{(layer, next): float64 (sampled, feature)}: sum of products after positions were permuted within batches."""
    with_sources: dict[Pair, np.ndarray] = field(default_factory=dict)
    """{(source layer, target layer): int32 (source, feature)}: positions at which both fire."""
    states: dict[int, np.ndarray] = field(default_factory=dict)
    """{layer: float32 (position, d_model)}: activations of random positions."""

    def alive(self, layer: int) -> np.ndarray:
        """int64 (alive,): features of the layer that fire."""
        return np.flatnonzero(self.firings[layer])

    def correlation(self, pair: Pair, products: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Pearson correlation over positions from sums of products, (row, feature); 0 where a feature never fires."""
        (first, second), n = pair, self.n_positions
        covariance = products / n - np.outer(self.totals[first][rows] / n, self.totals[second] / n)
        scale = np.outer(self._deviation(first)[rows], self._deviation(second))
        return np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)

    def _deviation(self, layer: int) -> np.ndarray:
        n = self.n_positions
        return np.sqrt(np.maximum(self.squares[layer] / n - (self.totals[layer] / n) ** 2, 0.0))


def count_structure(
    model: Model,
    tokens: Tokens,
    saes: dict[int, SparseAutoencoder],
    batch_cells: int,
    settings: StructureSettings,
    sources: dict[int, np.ndarray] | None = None,
    report=lambda n_cells: None,
) -> StructureSums:
    """Count what `StructureSums` holds; `sources` are the traced features by layer, for `with_sources`."""
    rng = np.random.default_rng(settings.seed)
    sums, layers, sources = StructureSums(), sorted(saes), sources or {}
    for layer in layers:
        n = saes[layer].n_features
        sums.firings[layer] = np.zeros(n, dtype=np.int64)
        sums.totals[layer], sums.squares[layer] = np.zeros(n), np.zeros(n)
        sums.together[layer] = np.zeros((n, n), dtype=np.int32)
        sums.sampled[layer] = np.sort(rng.choice(n, min(settings.null_features, n), replace=False))
        for source in (s for s in sources if s < layer):
            sums.with_sources[source, layer] = np.zeros((len(sources[source]), n), dtype=np.int32)
    for first, second in pairwise(layers):
        shape = saes[first].n_features, saes[second].n_features
        sums.products[first, second] = np.zeros(shape, dtype=np.float32)
        sums.permuted[first, second] = np.zeros((len(sums.sampled[first]), shape[1]))
    sums.per_token = np.zeros(len(tokens.gene_ids), dtype=np.int64)
    by_token = {layer: SparseSum((len(tokens.gene_ids), saes[layer].n_features)) for layer in layers}
    states: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
    share = settings.svd_positions / max(tokens.n_positions, 1)
    for batch in stream_codes(model, tokens, saes, batch_cells):
        _add(sums, batch, layers, sources, rng)
        sums.per_token += np.bincount(batch.activations.token_ids, minlength=len(sums.per_token))
        genes = batch.by_token(len(sums.per_token))
        for layer, total in by_token.items():
            total.add(sp.csr_matrix(genes @ _ones(batch.codes[layer]), dtype=np.float64))
        n = len(batch.activations.cells)
        chosen = rng.choice(n, min(n, int(np.ceil(share * n))), replace=False)
        for layer in layers:
            states[layer].append(batch.activations.layers[layer][chosen].float().cpu().numpy())
        report(len(batch.by_cell[0]))
    sums.by_token = {layer: by_token.pop(layer).total() for layer in layers}
    sums.states = {layer: np.concatenate(states.pop(layer)) for layer in layers}
    return sums


def _add(
    sums: StructureSums,
    batch: CodeBatch,
    layers: Sequence[int],
    sources: dict[int, np.ndarray],
    rng: np.random.Generator,
) -> None:
    codes = {layer: sp.csr_matrix(batch.codes[layer], dtype=np.float64) for layer in layers}
    n_positions = codes[layers[0]].shape[0]
    sums.n_positions += n_positions
    fires = {layer: _ones(code) for layer, code in codes.items()}
    for layer, code in codes.items():
        sums.firings[layer] += np.bincount(code.indices, minlength=code.shape[1])
        sums.totals[layer] += np.bincount(code.indices, code.data, minlength=code.shape[1])
        sums.squares[layer] += np.bincount(code.indices, code.data**2, minlength=code.shape[1])
        sums.together[layer] += (fires[layer].T @ fires[layer]).toarray()
    for (source, target), total in sums.with_sources.items():
        total += (fires[source][:, sources[source]].T @ fires[target]).toarray()
    order = rng.permutation(n_positions)
    for (first, second), total in sums.products.items():
        total += (codes[first].T @ codes[second]).toarray()
        sampled = codes[first][:, sums.sampled[first]]
        sums.permuted[first, second] += (sampled[order].T @ codes[second]).toarray()


def _ones(codes: sp.csr_matrix) -> sp.csr_matrix:
    return sp.csr_matrix((np.ones(codes.nnz, dtype=np.int32), codes.indices, codes.indptr), codes.shape)
