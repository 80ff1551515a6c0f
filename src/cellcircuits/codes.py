"""What the features of every layer say at every gene position, streamed as sparse matrices; nothing is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.sparse as sp
import torch

from cellcircuits.activations import ActivationBatch, stream_activations
from cellcircuits.autoencoders import SparseCode
from cellcircuits.models.base import Model
from cellcircuits.tokens import Tokens


class Encoder(Protocol):
    """What gives a state its sparse code: an autoencoder, or several dictionaries side by side."""

    @property
    def n_features(self) -> int:
        """Features."""

    def encode(self, hidden: torch.Tensor) -> SparseCode:
        """Sparse code of hidden states (..., d_model)."""


@dataclass(frozen=True)
class CodeBatch:
    """Codes of one batch of cells, flattened over gene positions."""

    codes: dict[int, sp.csr_matrix]
    """{layer: float32 (position, feature)}, only activations above 0."""
    activations: ActivationBatch
    """What was encoded, with the gene and the cell of every position."""

    @cached_property
    def by_cell(self) -> tuple[np.ndarray, sp.csr_matrix]:
        """Rows of the cells of the batch in `Tokens`, and which positions are theirs, float32 (cell, position)."""
        cells = self.activations.cells
        starts = np.flatnonzero(np.diff(cells, prepend=-1))
        bounds = np.append(starts, len(cells))
        return cells[starts], _membership(np.arange(len(cells)), bounds, (len(starts), len(cells)))

    def cell_means(self, codes: sp.csr_matrix) -> sp.csr_matrix:
        """Mean activation over the gene positions of every cell of the batch, float32 (cell, feature)."""
        _, positions = self.by_cell
        return sp.diags_array(1 / np.diff(positions.indptr), dtype=np.float32) @ (positions @ codes)

    def by_token(self, n_tokens: int) -> sp.csr_matrix:
        """Which positions every gene is at, float32 (token, position)."""
        tokens = self.activations.token_ids
        bounds = np.concatenate([[0], np.cumsum(np.bincount(tokens, minlength=n_tokens))])
        return _membership(np.argsort(tokens, kind="stable"), bounds, (n_tokens, len(tokens)))


def _membership(columns: np.ndarray, bounds: np.ndarray, shape: tuple[int, int]) -> sp.csr_matrix:
    return sp.csr_matrix((np.ones(len(columns), dtype=np.float32), columns, bounds), shape=shape)


def sparse_codes(code: SparseCode, n_features: int) -> sp.csr_matrix:
    """The activations above 0 of a code of shape (position, k), as float32 (position, feature)."""
    values, indices = code.values.cpu().numpy(), code.indices.cpu().numpy()
    active = values > 0
    bounds = np.concatenate([[0], np.cumsum(active.sum(axis=1))])
    return sp.csr_matrix((values[active], indices[active].astype(np.int32), bounds), (len(values), n_features))


@torch.no_grad()
def stream_codes(
    model: Model,
    tokens: Tokens,
    saes: Mapping[int, Encoder],
    batch_cells: int,
    order: Sequence[int] | None = None,
) -> Iterator[CodeBatch]:
    """Yield the codes of all autoencoders for batches of cells, from one pass over the model.

    `order` gives the cells and their order; None: all of them.
    """
    rows = None if order is None else np.asarray(order)
    for batch in stream_activations(model, tokens, list(saes), batch_cells, rows):
        codes = {k: sparse_codes(saes[k].encode(hidden), saes[k].n_features) for k, hidden in batch.layers.items()}
        yield CodeBatch(codes, batch)


class SparseSum:
    """Sum of many sparse matrices of one shape. Sums of similar size are added, so that few entries move often."""

    def __init__(self, shape: tuple[int, int], dtype: type = np.float64) -> None:
        self.shape = shape
        self._empty = sp.csr_matrix(shape, dtype=dtype)
        self._sums: list[sp.csr_matrix] = []

    def add(self, matrix: sp.csr_matrix) -> None:
        """Add one matrix."""
        matrix.sort_indices()  # sorted rows are added in one sweep
        self._sums.append(matrix)
        while len(self._sums) > 1 and self._sums[-2].nnz <= 2 * self._sums[-1].nnz:
            last = self._sums.pop()
            self._sums[-1] = self._sums[-1] + last

    def total(self) -> sp.csr_matrix:
        """The sum of what was added so far."""
        while len(self._sums) > 1:
            last = self._sums.pop()
            self._sums[-1] = self._sums[-1] + last
        return self._sums[0] if self._sums else self._empty
