"""Are features the main axes of the activations? Decoder directions against the top right-singular vectors.

Few directions of a dictionary can lie near one of 50 axes: the share that does says little without what random
directions reach. `captured` asks more: how much of a direction lies in the space of all these axes together.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.settings import StructureSettings
from cellcircuits.structure.counting import StructureSums
from cellcircuits.structure.directions import draw_directions, draw_like, unit_rows
from cellcircuits.tables import make_table


def singular_axes(states: np.ndarray, n_axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Top right-singular vectors (axis, d_model) of the centred activations, and every axis' share of the variance."""
    centred = np.asarray(states, dtype=np.float64) - states.mean(axis=0, dtype=np.float64)
    variances, vectors = np.linalg.eigh(centred.T @ centred)
    shares = np.maximum(variances[::-1], 0.0) / max(variances.sum(), np.finfo(float).tiny)
    return vectors[:, ::-1][:, :n_axes].T, shares[:n_axes]


def layer_alignment(
    layer: int, decoder: np.ndarray, sums: StructureSums, settings: StructureSettings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables svd_alignment and svd_rates of one layer; the decoder is (feature, d_model)."""
    alive, states = sums.alive(layer), sums.states[layer]
    axes, shares = singular_axes(states, settings.svd_axes)
    directions = unit_rows(decoder[alive])
    cosine = np.abs(directions @ axes.T)
    captured = (cosine**2).sum(axis=1)
    columns = {"feature": alive, "axis": cosine.argmax(axis=1), "cosine": cosine.max(axis=1), "captured": captured}
    rng = np.random.default_rng(settings.seed)
    alike = np.abs(draw_directions(settings.null_draws, axes.shape[1], rng) @ axes.T)
    # positions are many; a few thousand of them have the same covariance but for noise
    chosen = states[rng.permutation(len(states))[:4096]]
    drawn = np.abs(draw_like(chosen - states.mean(axis=0), settings.null_draws, rng) @ axes.T)
    rates = {
        "layer": layer,
        "n_axes": len(axes),
        "variance_share": shares.sum(),
        "n_features": len(alive),
        "aligned_share": _aligned(cosine, settings),
        "null_aligned_share": _aligned(alike, settings),
        "drawn_aligned_share": _aligned(drawn, settings),
        "mean_captured": captured.mean() if len(alive) else np.nan,
        "null_captured": len(axes) / axes.shape[1],
        "drawn_captured": (drawn**2).sum(axis=1).mean(),
    }
    table = pd.DataFrame(columns).assign(layer=layer)
    return make_table("svd_alignment", table), make_table("svd_rates", pd.DataFrame([rates]))


def _aligned(cosine: np.ndarray, settings: StructureSettings) -> float:
    return float((cosine.max(axis=1) >= settings.min_axis_cosine).mean()) if len(cosine) else float("nan")
