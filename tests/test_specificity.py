"""Moderated variances against a slow fit; p values against effects whose law is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy import optimize, special
from scipy import stats as scipy_stats

import cellcircuits as cc
from cellcircuits.controls import direction_names
from cellcircuits.specificity import moderated_variance, specificity, specificity_of_directions
from tests.test_edge_calling import moments_of

K = 16


def random_effects(seed: int, n_sources: int, n_targets: int, freedom: float = np.inf, k: int = K) -> np.ndarray:
    """(direction, source, target): normal over directions, with variances that are a product of two factors.

    With `freedom`, each pair strays from the product by an inverse chi-squared of so many degrees of freedom.
    """
    rng = np.random.default_rng(seed)
    variance = np.exp(rng.normal(0, 1, (n_sources, 1)) + rng.normal(-4, 1.5, (1, n_targets)))
    if np.isfinite(freedom):
        variance = variance * freedom / rng.chisquare(freedom, (n_sources, n_targets))
    return rng.normal(0.1, 1, (k, n_sources, n_targets)) * np.sqrt(variance)


def moments_with(effects: np.ndarray) -> cc.Moments:
    """Moments of one cell with these mean effects; the first direction is the sources' own."""
    k, n_sources, n_targets = effects.shape
    deltas = effects.transpose(1, 0, 2).reshape(1, n_sources * k, n_targets)
    labels = {"directions": direction_names(k - 1, 0), "readouts": ("computed",)}
    return replace(moments_of(deltas), source_features=np.arange(n_sources), **labels)


def slow_moderation(random: np.ndarray) -> tuple[np.ndarray, float]:
    """(variance, degrees of freedom) by a general least squares fit and loops; every pair has a variance."""
    k, n_sources, n_targets = random.shape
    d = k - 1
    sample = np.array([[np.var(random[:, s, t], ddof=1) for t in range(n_targets)] for s in range(n_sources)])
    logs = np.log(sample) - (special.digamma(d / 2) - np.log(d / 2))
    pairs = list(product(range(n_sources), range(n_targets)))
    design = np.zeros((len(pairs), n_sources + n_targets))
    for row, (source, target) in enumerate(pairs):
        design[row, [source, n_sources + target]] = 1
    solution, *_ = np.linalg.lstsq(design, logs.ravel(), rcond=None)
    fitted = (design @ solution).reshape(logs.shape)
    excess = ((logs - fitted) ** 2).sum() / ((n_sources - 1) * (n_targets - 1)) - special.polygamma(1, d / 2)
    most = (n_sources - 1) * d
    prior = most
    if excess > special.polygamma(1, most / 2):
        prior = optimize.brentq(lambda x: special.polygamma(1, x / 2) - excess, 1e-3, most)
    expected = np.exp(fitted + special.digamma(prior / 2) - np.log(prior / 2))
    return (prior * expected + d * sample) / (prior + d), prior + d


@pytest.mark.parametrize("freedom", [4.0, 20.0, np.inf])
def test_moderated_variances_equal_the_slow_ones(freedom):
    random = random_effects(1, 7, 11, freedom)
    found = moderated_variance(random, np.ones(7, dtype=bool))
    expected, degrees = slow_moderation(random)
    np.testing.assert_allclose(found.value, expected, rtol=1e-6)
    assert found.freedom == pytest.approx(degrees, rel=1e-6)


def test_pairs_without_variance_and_sources_without_cells_are_left_out():
    random = random_effects(2, 6, 9)
    alone = moderated_variance(random[:, :5], np.ones(5, dtype=bool))
    random[:, 5] = 0.0
    found = moderated_variance(random, np.array([True] * 5 + [False]))
    np.testing.assert_allclose(found.value[:5], alone.value)
    assert found.freedom == alone.freedom and (found.value[5] == 0).all()


def test_a_pair_without_variance_has_that_of_its_source_and_its_target():
    random = random_effects(2, 6, 9)
    whole = moderated_variance(random, np.ones(6, dtype=bool))
    random[:, 0, 0] = 0.25
    holed = moderated_variance(random, np.ones(6, dtype=bool))
    # the sample variance of 0 pulls it down, by 15 degrees of freedom of some 90
    assert 0.5 < holed.value[0, 0] / whole.value[0, 0] < 1.5
    np.testing.assert_allclose(holed.value[1:, 1:], whole.value[1:, 1:], rtol=0.3)


def test_one_source_is_judged_by_its_own_directions_alone():
    effects = random_effects(3, 1, 20)
    found = specificity(moments_with(effects), "source")[1]
    for target in range(20):
        own, *random = effects[:, 0, target]
        t = (own - np.mean(random)) / (np.std(random, ddof=1) * np.sqrt(1 + 1 / (K - 1)))
        assert found.z[0, target] == pytest.approx(t)
        assert found.p[0, target] == pytest.approx(2 * scipy_stats.t.sf(abs(t), K - 2))


@pytest.mark.parametrize("freedom", [6.0, np.inf])
def test_p_is_uniform_where_the_source_is_one_more_direction(freedom):
    p = np.concatenate(
        [specificity(moments_with(random_effects(s, 20, 100, freedom)), "source")[1].p.ravel() for s in range(20)]
    )
    for level in (0.2, 0.05, 0.01, 0.001):
        # pairs are independent; three standard errors, and what estimating the prior costs
        assert np.mean(p < level) == pytest.approx(level, abs=3 * np.sqrt(level / len(p)) + 0.1 * level)


def test_moderation_finds_what_the_sample_variance_cannot():
    effects = random_effects(5, 20, 100)
    spread = effects[1:].std(axis=0)
    effects[0, :, :3] += 7 * spread[:, :3]
    found = specificity(moments_with(effects), "source")[1]
    plain = (effects[0] - effects[1:].mean(0)) / (effects[1:].std(0, ddof=1) * np.sqrt(1 + 1 / (K - 1)))
    few = 2 * scipy_stats.t.sf(np.abs(plain[:, :3]), K - 2)
    assert (found.p[:, :3] < 1e-6).mean() > 0.85 > 0.4 > (few < 1e-6).mean()


def test_every_random_direction_is_judged_by_the_others():
    effects = random_effects(6, 4, 8, k=6)
    found = specificity_of_directions(moments_with(effects), "source")
    assert len(found) == 6
    # direction 2 is the second random one: the others take the place of the controls
    swapped = np.concatenate([effects[2:3], effects[1:2], effects[3:]])
    expected = specificity(moments_with(swapped), "source")[1]
    np.testing.assert_allclose(found[2][1].z, expected.z)
    np.testing.assert_allclose(found[2][1].p, expected.p)


def test_too_few_directions_say_nothing():
    assert specificity(moments_with(random_effects(0, 3, 4, k=4)), "source") is None
    assert specificity(replace(moments_with(random_effects(0, 3, 4)), readouts=("source",)), "source") is None
