"""Features as columns of AnnData: how strongly each fires in every cell, and on every gene."""

from __future__ import annotations

import scipy.sparse as sp

from cellcircuits.codes import stream_codes
from cellcircuits.models.base import Model
from cellcircuits.sae import TopKSAE
from cellcircuits.tokens import Tokens


def cell_scores(
    model: Model, tokens: Tokens, saes: dict[int, TopKSAE], batch_cells: int = 32, report=lambda n_cells: None
) -> dict[int, sp.csr_matrix]:
    """{layer: float32 (cell, feature)}: mean activation over the gene positions of every cell."""
    found: dict[int, list[sp.csr_matrix]] = {layer: [] for layer in saes}
    for batch in stream_codes(model, tokens, saes, batch_cells):
        for layer, codes in batch.codes.items():
            found[layer].append(batch.cell_means(codes))
        report(len(batch.by_cell[0]))
    return {layer: sp.csr_matrix(sp.vstack(parts)) for layer, parts in found.items()}
