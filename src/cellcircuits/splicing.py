"""Reconstructions in the place of states: how much of what the model makes of a layer do they keep?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import nan

import numpy as np
import torch

from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.masking import draw_masks
from cellcircuits.models.base import Model
from cellcircuits.settings import FINAL_BATCH
from cellcircuits.tokens import Tokens

MASKED_SHARE = 0.15
"""Gene positions that are masked for the loss, as in the training of the models."""
Means = Mapping[int, torch.Tensor]
"""{layer: mean state (d_model,)}."""


@torch.no_grad()
def final_state_recovered(
    model: Model, tokens: Tokens, saes: Mapping[int, SparseAutoencoder], means: Means
) -> dict[int, float]:
    """{layer: 1 - sum |h_L(spliced) - h_L|^2 / sum |h_L(mean) - h_L|^2} over the gene positions of `tokens`.

    1: nothing that the layers above make of the state is lost; 0: as much is lost as with the mean state at every gene
    position, the same in all cells; below 0: more. Special tokens keep their states.
    """
    lost = {layer: np.zeros(2) for layer in saes}
    for rows in _batches(len(tokens)):
        batch = tokens.take(rows)
        mask = torch.from_numpy(batch.gene_mask).to(model.device)
        states = _states(model, batch, saes)
        final = states[model.n_layers - 1][mask].double()
        for layer, place, output in _spliced(model, batch, states, saes, means):
            lost[layer][place] += float((output[mask].double() - final).square().sum())
    return {layer: float(1 - spliced / mean) if mean > 0 else nan for layer, (spliced, mean) in lost.items()}


@torch.no_grad()
def loss_recovered(
    model: Model, tokens: Tokens, saes: Mapping[int, SparseAutoencoder], means: Means, seed: int
) -> dict[int, float]:
    """{layer: 1 - (loss with the reconstruction - loss) / (loss with the mean state - loss)}, of masked genes.

    Losses are means over cells. NaN where the mean state does not make the loss larger: then nothing could be lost.
    """
    losses = {layer: np.zeros(2) for layer in saes}
    clean, masks = 0.0, draw_masks(tokens, MASKED_SHARE, seed)
    for rows in _batches(len(tokens)):
        batch = tokens.take(rows)
        at = masks[rows, : batch.ids.shape[1]]
        masked = model.mask(batch, at)
        states = _states(model, masked, saes)
        clean += float(model.masked_loss(states[model.n_layers - 1], batch, at).double().sum())
        for layer, place, output in _spliced(model, masked, states, saes, means):
            losses[layer][place] += float(model.masked_loss(output, batch, at).double().sum())
    return {
        layer: float(1 - (spliced - clean) / (mean - clean)) if mean > clean else nan
        for layer, (spliced, mean) in losses.items()
    }


def _batches(n: int) -> list[np.ndarray]:
    return np.split(np.arange(n), np.arange(FINAL_BATCH, n, FINAL_BATCH))


def _states(model: Model, batch: Tokens, saes: Mapping[int, SparseAutoencoder]) -> dict[int, torch.Tensor]:
    """States of the layers with an autoencoder and of the last."""
    return {
        layer: state.clone()
        for layer, state in model.run_layers(model.embed(batch), batch, 0, model.n_layers)
        if layer in saes or layer == model.n_layers - 1
    }


def _spliced(
    model: Model, batch: Tokens, states: Mapping[int, torch.Tensor], saes: Mapping[int, SparseAutoencoder], means: Means
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """(layer, 0, output of the last block with its reconstruction at all gene positions), (layer, 1, with its mean)."""
    mask = torch.from_numpy(batch.gene_mask).to(model.device)
    for layer, sae in saes.items():
        rows = states[layer][mask]
        for place, put in enumerate((sae.decode(sae.encode(rows)), means[layer].expand_as(rows))):
            changed = states[layer].clone()
            changed[mask] = put
            for _, state in model.run_layers(changed, batch, layer + 1, model.n_layers):
                changed = state
            yield layer, place, changed
