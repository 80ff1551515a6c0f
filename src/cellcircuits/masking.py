"""Which genes of a cell are hidden from the model when it is asked to predict them."""

from __future__ import annotations

import numpy as np

from cellcircuits.tokens import Tokens


def draw_masks(cells: Tokens, share: float, seed: int) -> np.ndarray:
    """bool (cell, position): a random `share` of the gene positions of every cell, at least one.

    The draw of a cell depends on `seed` and its number alone. Cells without a gene position have none.
    """
    masks = np.zeros(cells.ids.shape, dtype=bool)
    for number in range(len(cells)):
        places = np.flatnonzero(cells.gene_mask[number])
        n = min(max(1, round(share * len(places))), len(places))
        masks[number, np.random.default_rng([seed, number]).choice(places, n, replace=False)] = True
    return masks
