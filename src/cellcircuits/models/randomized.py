"""A model with random weights: what autoencoders and edge rules find where nothing was learned.

The entries of every weight tensor (embeddings, projections, biases, gains of norms) are permuted within it. What an
initialisation chooses, the distribution of the entries of each tensor, stays to the bit; what training put into their
arrangement is gone.
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch

from cellcircuits.errors import ModelError
from cellcircuits.models.base import Model


@torch.no_grad()
def randomized(model: Model, seed: int) -> Model:
    """A copy of `model` whose weights are permuted within each tensor; `model` stays as it is.

    The tensors are those of `named_parameters`, so any model of torch parameters can be had; weights that are shared
    stay shared. The same seed gives the same weights.

    Raises
    ------
    ModelError
        If no weight changes: the model keeps its weights elsewhere, or they are constant.
    """
    copy = deepcopy(model)
    for number, (_, weights) in enumerate(sorted(copy.named_parameters())):
        order = np.random.default_rng([seed, number]).permutation(weights.numel())
        weights.copy_(weights.reshape(-1)[torch.from_numpy(order).to(weights.device)].reshape(weights.shape))
    if copy.fingerprint() == model.fingerprint():
        raise ModelError(
            f"Permuting the parameters of the model {model.name!r} changes nothing. Its weights must be torch "
            "parameters; leave train.random_weights out for this model."
        )
    return copy
