"""The exact sign test: against scipy, under null distributions, and as the p of edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

import cellcircuits as cc
from cellcircuits.edge_calling import statistics_of
from cellcircuits.settings import EdgesSettings
from cellcircuits.stats import one_sample_t, sign_flip, sign_test
from tests.test_controls import grouped
from tests.test_edge_calling import moments_of, random_deltas


def test_p_is_that_of_scipy():
    positive, negative = (part.ravel() for part in np.mgrid[0:15, 0:15])
    positive, negative = np.append(positive, [200, 3, 1000]), np.append(negative, [150, 400, 1000])
    for a, b, p in zip(positive, negative, sign_test(positive, negative), strict=True):
        expected = scipy_stats.binomtest(a, a + b, 0.5).pvalue if a + b else 1.0
        assert p == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [1, 5, 10])
def test_equal_effects_are_flipped_like_signs(n):
    """Where all that respond do so equally, the mean depends on the signs alone, and both exact tests agree."""
    signs = np.random.default_rng(n).choice([-1.0, 1.0], size=(n, 30))
    values = np.concatenate([signs, np.zeros((2, 30))])
    np.testing.assert_allclose(sign_test((signs > 0).sum(0), (signs < 0).sum(0)), sign_flip(values))


NULLS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "cauchy": lambda rng, size: rng.standard_cauchy(size),
    "sparse": lambda rng, size: rng.normal(size=size) * (rng.random(size) < 0.3),
    "sparse cauchy": lambda rng, size: rng.standard_cauchy(size) * (rng.random(size) < 0.3),
}
LEVELS = (0.2, 0.05, 0.01, 0.001)


def shares_at_levels(p: np.ndarray) -> np.ndarray:
    return np.array([(p <= level).mean() for level in LEVELS])


@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize("n", [6, 20, 60])
def test_it_holds_its_level_under_every_symmetric_null(name, n):
    values = NULLS[name](np.random.default_rng(n), (n, 40_000))
    shares = shares_at_levels(sign_test((values > 0).sum(0), (values < 0).sum(0)))
    error = np.sqrt(np.array(LEVELS) / values.shape[1])
    assert (shares <= np.array(LEVELS) + 3 * error).all()
    if n == 60 and "sparse" not in name:  # p is discrete, so the level is nearly used up only with many units
        assert shares[1] > 0.02


@pytest.mark.parametrize(
    ("name", "at_5_percent"), [("normal", (0.045, 0.055)), ("sparse", (0.02, 0.055)), ("cauchy", (0, 0.03))]
)
def test_what_the_documentation_says_of_the_t_test(name, at_5_percent):
    values = NULLS[name](np.random.default_rng(0), (20, 40_000))
    p = one_sample_t(values.mean(0), values.std(0, ddof=1), 20)
    assert at_5_percent[0] <= (p <= 0.05).mean() <= at_5_percent[1]
    five = np.array([1.0] * 5 + [0.0] * 15)
    assert one_sample_t(five.mean(), five.std(ddof=1), 20) == pytest.approx(0.021, abs=1e-3)
    assert sign_test(5, 0) == pytest.approx(2 / 32)


@pytest.mark.parametrize("unit", ["cell", "group"])
def test_edges_by_the_sign_test(unit):
    deltas, labels = random_deltas(3, n_cells=80), np.arange(80) % 8
    moments, rule = grouped(deltas, labels), EdgesSettings(test="sign", unit=unit)
    units = deltas if unit == "cell" else np.stack([deltas[labels == g].mean(axis=0) for g in range(8)])
    values = statistics_of(moments, rule)[1]
    expected = sign_test((units > 0).sum(axis=0), (units < 0).sum(axis=0))
    np.testing.assert_allclose(values["p_value"], expected)
    p = np.where((np.abs(values["snr"]) > 0.5) & (values["sign_agreement"] >= 0.7), expected, 1.0)
    q = scipy_stats.false_discovery_control(p.ravel()).reshape(p.shape)
    np.testing.assert_allclose(values["q_value"], q)
    assert not np.allclose(statistics_of(moments, EdgesSettings(unit=unit))[1]["p_value"], expected)


def test_all_signs_turned_give_the_same_edges():
    deltas = random_deltas(4)
    first, turned = (cc.edges(moments_of(d), test="sign") for d in (deltas, -deltas))
    keys = ["source_feature", "target_feature", "p_value", "q_value"]
    assert len(first) > 0 and first[keys].equals(turned[keys])
    np.testing.assert_allclose(first["mean_delta"], -turned["mean_delta"])
