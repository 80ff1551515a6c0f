"""The slow, obvious tracer: one cell, one feature, one full pass from the embedding, a hook on the source block.

Nothing here is shared with the engine but the weights: dense codes by sorting, loops over positions, plain Python sums.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from cellcircuits.autoencoders import TopKSAE
from cellcircuits.models.base import Model
from cellcircuits.tokens import Tokens


def dense_code(sae: TopKSAE, hidden: np.ndarray) -> np.ndarray:
    """Code of one position, (feature,): all but the k largest pre-activations are 0, negative ones too."""
    pre = (hidden - sae.b_in.numpy()) @ sae.W_enc.numpy() + sae.b_enc.numpy()
    code = np.zeros_like(pre)
    for feature in np.argsort(-pre)[: sae.k]:
        code[feature] = max(pre[feature], 0.0)
    return code


def full_pass(model: Model, cell: Tokens, source_layer: int, change: torch.Tensor | None) -> list[np.ndarray]:
    """Block outputs (position, d_model) of one full pass; `change` is added to the output of the source block."""
    states = []
    hidden = model.embed(cell)
    for layer in range(model.n_layers):
        ((_, hidden),) = model.run_layers(hidden, cell, layer, layer + 1)
        if layer == source_layer and change is not None:
            hidden = hidden + change
        states.append(hidden[0].numpy())
    return states


def cell_effect(
    model: Model, cell: Tokens, saes: dict[int, TopKSAE], source_layer: int, feature: int, target_layer: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """(delta, clean) of every target in one cell, averaged over source positions; None if the source is silent."""
    clean = full_pass(model, cell, source_layer, None)
    change = torch.zeros(1, *clean[0].shape)
    positions = []
    for position in range(len(clean[0])):
        if not cell.gene_mask[0, position]:
            continue
        activation = dense_code(saes[source_layer], clean[source_layer][position])[feature]
        if activation > 0:
            change[0, position] = -float(activation) * saes[source_layer].W_dec[feature]
            positions.append(position)
    if not positions:
        return None
    ablated = full_pass(model, cell, source_layer, change)
    sae = saes[target_layer]
    before = [dense_code(sae, clean[target_layer][p]) for p in positions]
    after = [dense_code(sae, ablated[target_layer][p]) for p in positions]
    delta = np.mean([a - b for a, b in zip(after, before, strict=True)], axis=0)
    return delta, np.mean(before, axis=0)


def edge_statistics(values: list[float]) -> dict[str, float]:
    """Statistics of one pair from its per-cell deltas, by the formulas as they are written in the documentation."""
    n = len(values)
    mean = sum(values) / n
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    positive, negative = sum(v > 0 for v in values), sum(v < 0 for v in values)
    agreeing = positive if mean > 0 else negative
    return {
        "n_cells": n,
        "n_positive": positive,
        "n_negative": negative,
        "mean_delta": mean,
        "sd_delta": sd,
        "snr": mean / max(sd, 1e-10),
        "consistency_published": max(positive, n - positive) / n,
        "sign_agreement": agreeing / max(positive + negative, 1),
        "responding_fraction": (positive + negative) / n,
    }
