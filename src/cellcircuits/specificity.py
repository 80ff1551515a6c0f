"""Is an effect more than what any direction of the same norm would do to this target?

For a source and a target let c_1 ... c_K be the mean effects of K random directions, each fixed over positions and
cells and removed in place of the source, and m that of the source's own direction. Under the hypothesis that the source
is one more such direction, with effects normal over directions,

    T = (m - mean(c)) / sqrt(v (1 + 1/K))

has a t distribution, where v estimates the variance of c. With the sample variance alone it has K - 1 degrees of
freedom, too few for small p. But every source draws its own directions, so what other sources say of the same target,
and other targets of the same source, says much of the variance too: see `moderated_variance`.

Effects are those that the blocks compute, before TopK (readout "computed"): the removed vector that merely persists,
the competition of TopK and the floor at 0 are left out. For effects at other positions (readout "other") nothing
persists, and the activation itself is taken.

Source of the moderation: Smyth 2004, doi 10.2202/1544-6115.1027, with a prior variance for each source and target.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import optimize, special
from scipy import stats as scipy_stats

from cellcircuits.moments import OWN, Moments

FEWEST_DIRECTIONS = 3
"""With so many random directions or fewer nothing is said: each of them is compared with this many others at least."""
FIT_ROUNDS = 30
"""Alternations of the fit by source and by target; without missing pairs the first is exact."""


class Specificity(NamedTuple):
    """How far a source is from random directions, for every pair of one target layer."""

    z: np.ndarray
    """(source, target): T."""
    p: np.ndarray
    """(source, target): two-sided."""


class Variance(NamedTuple):
    """Variances that borrow strength from each other."""

    value: np.ndarray
    """(source, target)."""
    freedom: float
    """Degrees of freedom of each."""


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
    measured = controls.cells(readout=compared)[::step] > 0
    for layer in controls.sums:
        means = controls.mean(layer, readout=compared)
        everyone = None
        for direction in range(step):
            if direction in random:
                others = np.stack([means[i::step] for i in random if i != direction])
                found[direction][layer] = against_random(means[direction::step], others, measured)
                continue
            if everyone is None:
                random_means = np.stack([means[i::step] for i in random])
                everyone = random_means, moderated_variance(random_means, measured)
            found[direction][layer] = against_random(means[direction::step], everyone[0], measured, everyone[1])
    return found


def against_random(
    own: np.ndarray, random: np.ndarray, measured: np.ndarray, variance: Variance | None = None
) -> Specificity:
    """Mean effects `own` (source, target) against those of `random` directions (direction, source, target).

    `measured` and `variance` are those of `moderated_variance`, which makes the latter where it is not given.
    """
    variance = variance or moderated_variance(random, measured)
    mean = random.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(own == mean, 0.0, (own - mean) / np.sqrt(variance.value * (1 + 1 / len(random))))
    return Specificity(z, 2 * scipy_stats.t.sf(np.abs(z), variance.freedom))


def moderated_variance(random: np.ndarray, measured: np.ndarray) -> Variance:
    """Variance over directions of each pair, drawn towards what its source and its target have in general.

    The sample variance s2 of a pair has d = K - 1 degrees of freedom. Its prior is the product of a factor of the
    source (how much is removed, at how many positions) and one of the target (how easily it is moved), fitted to
    log s2; how far pairs stray from it beyond chance says how many degrees of freedom d0 the prior is worth:

        v = (d0 prior + d s2) / (d0 + d),   with d0 + d degrees of freedom

    d0 is at most (number of sources - 1) d, what the other sources have measured; with one source v is s2.

    Parameters
    ----------
    random
        Mean effects (direction, source, target).
    measured
        bool (source,): sources that were active in any cell; the others have no effects.
    """
    freedom = len(random) - 1
    mean, sample = random.mean(axis=0), random.var(axis=0, ddof=1)
    # equal control effects leave a spread of rounding
    sample = np.where(sample > 1e-24 * mean**2, sample, 0.0)
    known = (sample > 0) & measured[:, None]
    rows, columns = known.any(axis=1).sum(), known.any(axis=0).sum()
    if rows < 2 or columns < 2:
        return Variance(sample, freedom)
    # the mean of log(chi-squared / d) is not 0
    log_sample = np.log(np.where(known, sample, 1.0)) - special.digamma(freedom / 2) + np.log(freedom / 2)
    fitted = _by_source_and_target(log_sample, known)
    left = known.sum() - rows - columns + 1
    spread = ((log_sample - fitted)[known] ** 2).sum() / max(left, 1) - special.polygamma(1, freedom / 2)
    prior_freedom = min(_inverse_trigamma(spread), (rows - 1) * freedom)
    shift = special.digamma(prior_freedom / 2) - np.log(prior_freedom / 2)
    prior = np.exp(fitted + shift)
    value = (prior_freedom * prior + freedom * sample) / (prior_freedom + freedom)
    # where its own directions do nothing at all, a pair has the prior of others
    fits = known.any(axis=1, keepdims=True) & known.any(axis=0, keepdims=True)
    return Variance(np.where(fits, value, sample), prior_freedom + freedom)


def _by_source_and_target(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Least squares fit of `values` (source, target), where `known`: one number per source plus one per target."""
    of_source, of_target = np.zeros((len(values), 1)), np.zeros((1, values.shape[1]))
    in_row, in_column = (np.maximum(known.sum(axis=axis, keepdims=True), 1) for axis in (1, 0))
    for _ in range(1 if known.all() else FIT_ROUNDS):
        of_target = np.where(known, values - of_source, 0).sum(axis=0, keepdims=True) / in_column
        of_source = np.where(known, values - of_target, 0).sum(axis=1, keepdims=True) / in_row
    return of_source + of_target


def _inverse_trigamma(spread: float) -> float:
    """Degrees of freedom d0 with trigamma(d0 / 2) = `spread`; infinite where there is no spread beyond chance."""
    if spread <= 1e-6:
        return np.inf
    return float(2 * np.exp(optimize.brentq(lambda x: special.polygamma(1, np.exp(x)) - spread, -20, 20)))
