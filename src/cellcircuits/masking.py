"""Which genes of a cell are hidden from the model when it is asked to predict them."""

from __future__ import annotations

import numpy as np

from cellcircuits.errors import DataError
from cellcircuits.tokens import Tokens


def draw_masks(cells: Tokens, share: float, seed: int) -> np.ndarray:
    """bool (cell, position): the gene positions to hide, a `share` of each cell's, at least one.

    What is drawn for a cell depends on `seed` and its place among `cells`.

    Raises
    ------
    DataError
        If a cell has no gene.
    """
    masks = np.zeros(cells.ids.shape, dtype=bool)
    for row in range(len(cells)):
        genes = np.flatnonzero(cells.gene_mask[row])
        if not len(genes):
            raise DataError(f"Cell {cells.obs.index[row]!r} has no gene that could be hidden. Leave it out of the run.")
        n = max(1, round(share * len(genes)))
        masks[row, np.random.default_rng([seed, row]).choice(genes, n, replace=False)] = True
    return masks
