"""How much of each gene the cells express, named as the model names genes."""

from __future__ import annotations

import anndata as ad
import numpy as np
import scipy.sparse as sp

from cellcircuits.counts import Counts, read_counts
from cellcircuits.settings import CellsSettings
from cellcircuits.tokens import Tokens

COUNTS_PER_CELL = 10_000


def cell_expression(
    adata: ad.AnnData, settings: CellsSettings, tokens: Tokens, n_cells: int, seed: int
) -> tuple[sp.csr_matrix, np.ndarray]:
    """log(1 + 10,000 count / counts of the cell) of some cells, and the symbols of the genes.

    Parameters
    ----------
    adata
        The cells of a run, with counts where `settings` says.
    tokens
        Tokens of the run: their `gene_ids` and `gene_symbols` name the genes of the model.
    n_cells
        Cells that are drawn; 0, or more than there are: all.
    seed
        Seed of the draw.

    Returns
    -------
    float32 (cell, gene) and object (gene,): genes of the data that the model knows, by Ensembl id or else by symbol,
    under the model's symbols.

    Raises
    ------
    DataError
        If there are no counts (see `read_counts`).
    """
    counts = read_counts(adata, settings)
    rows = np.arange(counts.matrix.shape[0])
    if 0 < n_cells < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(len(rows), n_cells, replace=False))
    token = _model_tokens(counts, tokens)
    known = np.flatnonzero(token >= 0)
    matrix = sp.csr_matrix(counts.matrix[rows][:, known])
    matrix.data *= np.repeat(COUNTS_PER_CELL / counts.n_counts[rows], np.diff(matrix.indptr))
    matrix.data = np.log1p(matrix.data)
    return matrix.astype(np.float32), tokens.gene_symbols[token[known]].astype(object)


def _model_tokens(counts: Counts, tokens: Tokens) -> np.ndarray:
    """int64 (gene of the data,): token, -1 where the model does not know the gene."""
    found = np.full(counts.matrix.shape[1], -1, dtype=np.int64)
    for names in (counts.ensembl_ids, counts.symbols):
        for vocabulary in (tokens.gene_ids, tokens.gene_symbols):
            if names is None or not len(vocabulary):
                continue
            place = {str(name).upper(): token for token, name in reversed(list(enumerate(vocabulary))) if name}
            matched = np.array([place.get(str(name).upper(), -1) for name in names], dtype=np.int64)
            found = np.where(found >= 0, found, matched)
    return found
