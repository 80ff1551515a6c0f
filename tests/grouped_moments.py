"""Moments of made-up cells in groups, with or without a difference between groups."""

from __future__ import annotations

import numpy as np

from cellcircuits.moments import Moments


def grouped_deltas(
    seed: int, sizes: tuple[int, ...], n_sources: int = 6, n_targets: int = 60, shift: float = 0.0, shifted: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """(deltas (cell, source, target), group of each cell). In group 0 a share `shifted` of the effects is larger."""
    rng = np.random.default_rng(seed)
    shape = n_sources, n_targets
    effect = rng.normal(0, 0.8, shape) * (rng.random(shape) < 0.4)
    noise, responding = rng.uniform(0.5, 1.5, shape), rng.uniform(0.5, 1, shape)
    more = shift * (rng.random(shape) < shifted)
    group = np.repeat(np.arange(len(sizes)), sizes)
    mean = effect + (group == 0)[:, None, None] * more
    deltas = mean + noise * rng.normal(size=(len(group), *shape))
    return deltas * (rng.random((len(group), *shape)) < responding), group


def grouped_moments(deltas: np.ndarray, group: np.ndarray, names: tuple[str, ...], layer: int = 1) -> Moments:
    """Moments from deltas (cell, source, target) and the group of each cell; sources of layer 0."""
    sums, n_cells = [], []
    for one in range(len(names)):
        part = deltas[group == one]
        n_cells.append(np.full(part.shape[1], len(part)))
        ones = np.full(part.shape[1:], float(len(part)))
        sums.append(np.stack([part.sum(0), (part**2).sum(0), (part > 0).sum(0), (part < 0).sum(0), ones]))
    features = np.arange(deltas.shape[1])
    return Moments(0, features, np.stack(n_cells)[:, None], {layer: np.stack(sums, axis=1)[:, :, None]}, groups=names)
