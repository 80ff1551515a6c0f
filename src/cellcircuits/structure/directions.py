"""Directions: unit vectors, random ones, and those with the covariance of given vectors."""

from __future__ import annotations

import numpy as np


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """float64 (row, d), each row of norm 1; rows of zeros stay."""
    vectors = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)


def draw_directions(n: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Random directions, all alike, (n, width)."""
    return unit_rows(rng.standard_normal((n, width)))


def draw_like(vectors: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Random directions with the second moments of `vectors` (row, width): sums of the rows with random weights."""
    return unit_rows(rng.standard_normal((n, len(vectors))) @ vectors)
