"""Chances to be picked when some of many are picked one after the other with unequal weights.

Picking k of N with weights w includes item t with probability 1 - exp(-c w_t), where c is such that these sum to k
(Rosen 1972, large N); with equal weights this is k / N exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PickScales:
    """How many targets are picked at every c of 1 - exp(-c w)."""

    weight: np.ndarray
    """float64 (target,): weights, of sum 1."""
    log_c: np.ndarray
    log_picked: np.ndarray
    """Logarithm of the number of targets picked at each c."""


def pick_scales(weight: np.ndarray) -> PickScales:
    """A grid of c from less than one pick to what takes the rarest target with certainty."""
    weight = weight / weight.sum()
    log_c = np.linspace(np.log(0.5), np.log(40 / weight.min()), 300)
    picked = np.array([-np.expm1(-c * weight).sum() for c in np.exp(log_c)])
    return PickScales(weight, log_c, np.log(picked))


def inclusion(scales: PickScales, out_degree: np.ndarray) -> np.ndarray:
    """(source, target): probability that each source has each target, when it picks its number of them by weight.

    1 - exp(-c w), with c by interpolation and two Newton steps so that the probabilities sum to the number.
    """
    weight = scales.weight
    wanted = np.minimum(out_degree, len(weight) * (1 - 1e-9)).astype(float)
    c = np.exp(np.interp(np.log(wanted), scales.log_picked, scales.log_c))
    for _ in range(2):
        left = np.exp(-c[:, None] * weight)
        c = np.maximum(c + (wanted - (1 - left).sum(axis=1)) / np.maximum(left @ weight, 1e-300), 0.5 * c)
    return -np.expm1(-c[:, None] * weight)
