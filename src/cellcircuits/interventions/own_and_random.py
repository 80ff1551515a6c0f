"""A source's own direction beside random ones of the same norm, removed at the same positions of the same cells.

Conditions are (direction, source) pairs, sources fastest: first the own direction of every source, then random 0, ...
"""

from __future__ import annotations

import numpy as np

from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.interventions.changes import Change, Condition, condition
from cellcircuits.interventions.inputs import Feature
from cellcircuits.interventions.observations import Observations
from cellcircuits.settings import EdgesSettings
from cellcircuits.specificity import FEWEST_DIRECTIONS, against_random
from cellcircuits.stats import benjamini_hochberg

DRAWS = 9999
"""Random choices of the direction that is called a source's own."""


def directions(sources: list[Feature], change: Change, n_random: int) -> list[Condition]:
    """All conditions, in the order of the module's heading."""
    return [condition([source], change, random=number) for number in range(-1, n_random) for source in sources]


def by_direction(observed: Observations, n_sources: int) -> list[Observations]:
    """Sums (source, target) of each direction, the own one first."""
    parts = []
    for start in range(0, len(observed.n), n_sources):
        part = Observations(0, 0)
        part.sums = {name: values[start : start + n_sources] for name, values in observed.sums.items()}
        parts.append(part)
    return parts


def responding(found: dict[str, np.ndarray], max_q: float) -> np.ndarray:
    """bool (source, target): pairs that respond, as edges are called."""
    rule = EdgesSettings()
    strong = (np.abs(found["snr"]) > rule.min_snr) & (found["sign_agreement"] >= rule.min_agreement)
    return found["tested"] & strong & (found["q_value"] <= max_q)


def judged(own: Observations, compared: list[Observations], settings: InterventionSettings) -> dict[str, np.ndarray]:
    """{column: (source, target)}: statistics of the own directions, and whether they are beyond random ones.

    A pair is `specific` if it responds and its mean is further from those of the random directions than another random
    one would be (see `specificity`); q is over all tested pairs, those that do not respond with p = 1. `compared` are
    sums of all directions, the own one first, over the same cells, which may be some of those of `own`.
    """
    found = own.statistics(settings.min_cells)
    found["responds"] = responding(found, settings.max_q)
    shape = found["n_cells"].shape
    random = np.array([part.mean for part in compared[1:]]).reshape(len(compared) - 1, *shape)
    found["random_mean"] = random.mean(axis=0) if len(random) else np.full(shape, np.nan)
    found["specific_z"], found["specific_q"] = np.full(shape, np.nan), np.full(shape, np.nan)
    if len(random) > FEWEST_DIRECTIONS:
        measured: np.ndarray = compared[0].n.sum(axis=1) > 0
        beyond = against_random(compared[0].mean, random, measured)
        tested = found["tested"]
        found["specific_z"] = beyond.z
        found["specific_q"] = np.ones(shape)
        found["specific_q"][tested] = benjamini_hochberg(np.where(found["responds"], beyond.p, 1.0)[tested])
    found["specific"] = found["responds"] & (found["specific_q"] <= settings.max_q)
    return found


def own_is_larger(values: np.ndarray, seed: int, draws: int = DRAWS) -> float:
    """One-sided p that `values` (direction, source), own direction first, are larger for the own directions.

    Under the null a source's own direction is one more random direction, so that any of them could have been called
    its own: the sum over sources is compared with sums of one direction of each source, drawn at random. Sources with
    a NaN are left out. NaN without sources or random directions.
    """
    values = values[:, np.isfinite(values).all(axis=0)]
    n_directions, n_sources = values.shape
    if n_directions < 2 or not n_sources:
        return float("nan")
    called_own = np.random.default_rng(seed).integers(n_directions, size=(draws, n_sources))
    sums = values[called_own, np.arange(n_sources)].sum(axis=1)
    # sums in another order differ by rounding
    least = values[0].sum() - 1e-9 * np.abs(values).sum()
    return float((1 + (sums >= least).sum()) / (1 + draws))
