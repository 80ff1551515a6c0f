"""Control directions: what a feature is compared with.

A control removes, at the positions where the feature is active and with the feature's own activation, another direction
of the same norm. It is FIXED over positions and cells: a direction drawn anew at every position cancels itself in the
mean, and would make any feature look special.
"""

from __future__ import annotations

import numpy as np
import torch

from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.moments import OWN


def direction_names(n_random: int, n_matched: int) -> tuple[str, ...]:
    """Names of the directions of each source: its own, random ones, those of other features."""
    random = tuple(f"random {i}" for i in range(n_random))
    return (OWN, *random, *(f"feature {i}" for i in range(n_matched)))


def control_directions(
    sae: SparseAutoencoder, layer: int, features: np.ndarray, matched: np.ndarray, n_random: int, seed: int
) -> torch.Tensor:
    """Directions (source, direction, d_model) in the order of `direction_names`, all as long as the source's own.

    Parameters
    ----------
    features
        int (source,).
    matched
        int (source, n_matched): features whose decoder directions serve as controls.
    n_random, seed
        Gaussian directions, drawn for every source anew, so that together they say much of each target; each depends
        on `seed`, layer, feature and its number only.
    """
    own = sae.W_dec[torch.as_tensor(features)]
    length = own.norm(dim=1)[:, None, None]
    drawn = [
        np.random.default_rng([seed, layer, int(feature), i]).standard_normal(sae.d_model)
        for feature in features
        for i in range(n_random)
    ]
    random = torch.from_numpy(np.array(drawn, dtype=np.float32).reshape(len(features), n_random, sae.d_model)).to(own)
    others = sae.W_dec[torch.as_tensor(matched.reshape(-1))].reshape(len(features), -1, sae.d_model)
    controls = torch.cat([random, others], dim=1)
    return torch.cat([own[:, None], torch.nn.functional.normalize(controls, dim=2) * length], dim=1)
