"""Is an effect more than what any direction of the same norm would do to this target?

For a source and a target let c_1 ... c_K be the mean effects of K random directions, each fixed over positions and
cells and removed in place of the source, and m that of the source's own direction. Under the hypothesis that the source
is one more such direction, with effects normal over directions,

    T = (m - mean(c)) / (sd(c) sqrt(1 + 1/K))

has a t distribution with K - 1 degrees of freedom. Effects are those that the blocks compute, before TopK (readout
"computed"): the removed vector that merely persists, the competition of TopK and the floor at 0 are left out. For
effects at other positions (readout "other") nothing persists, and the activation itself is taken.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats as scipy_stats

from cellcircuits.moments import OWN, Moments

FEWEST_DIRECTIONS = 3
"""Random directions below which nothing is said."""


class Specificity(NamedTuple):
    """How far a source is from random directions, for every pair of one target layer."""

    z: np.ndarray
    """(source, target): T."""
    p: np.ndarray
    """(source, target): two-sided."""


def compared_readout(controls: Moments, readout: str) -> str | None:
    """The readout at which effects of `readout` are compared with controls; None where that was not traced."""
    wanted = "other" if readout == "other" else "computed"
    return wanted if wanted in controls.readouts else None


def specificity(controls: Moments, readout: str) -> dict[int, Specificity] | None:
    """{target layer: Specificity} of the sources' own directions, or None where too little was traced.

    `controls` has the directions "own" and "random 0" ... .
    """
    found = specificity_of_directions(controls, readout)
    return found[controls.directions.index(OWN)] if found else None


def specificity_of_directions(controls: Moments, readout: str) -> list[dict[int, Specificity]]:
    """The same for every direction in turn; a random one is compared with all other random ones.

    That says what the test finds where there is nothing to find. Empty where too little was traced.
    """
    compared = compared_readout(controls, readout)
    random = [i for i, name in enumerate(controls.directions) if name.startswith("random")]
    if compared is None or len(random) <= FEWEST_DIRECTIONS:
        return []
    step = len(controls.directions)
    found: list[dict[int, Specificity]] = [{} for _ in range(step)]
    for layer in controls.sums:
        means = controls.mean(layer, readout=compared)
        for direction in range(step):
            others = np.stack([means[i::step] for i in random if i != direction])
            found[direction][layer] = _against(means[direction::step], others)
    return found


def _against(own: np.ndarray, random: np.ndarray) -> Specificity:
    """`own` (source, target) against `random` (direction, source, target)."""
    k = len(random)
    mean, sd = random.mean(axis=0), random.std(axis=0, ddof=1)
    # equal control effects leave a spread of rounding
    sd = np.where(sd > 1e-12 * np.abs(mean), sd, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(own == mean, 0.0, (own - mean) / (sd * np.sqrt(1 + 1 / k)))
    return Specificity(z, 2 * scipy_stats.t.sf(np.abs(z), k - 1))
