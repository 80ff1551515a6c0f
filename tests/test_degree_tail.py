"""Tails of degrees: fits against slow likelihoods, samples of known families, too few features."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import optimize
from scipy.special import zeta
from scipy.stats import chi2, norm

from cellcircuits.answers import OPPOSITE, SUPPORTED, judge
from cellcircuits.evidence import make_evidence
from cellcircuits.figures.degree_tail import draw
from cellcircuits.findings.degree_tail import BEATEN, UNTOLD, _against, ask, best_family
from cellcircuits.measures.tails import cut_off_p, fit_tail, vuong_p
from cellcircuits.settings import FindingsSettings
from tests.made_up_evidence import made_up_evidence

SETTINGS = FindingsSettings(permutations=20)


def power_law(rng: np.random.Generator, n: int, alpha: float, x_min: int) -> np.ndarray:
    """Discrete power law, by inverting its distribution function on a table."""
    k = np.arange(x_min, 200_000)
    below = 1 - zeta(alpha, k + 1.0) / zeta(alpha, float(x_min))
    return k[np.minimum(np.searchsorted(below, rng.random(n)), len(k) - 1)]


def fitted(degrees: np.ndarray, draws: int = 0, seed: int = 0):
    tail = fit_tail(degrees, draws, np.random.default_rng(seed))
    assert tail is not None
    return tail


def test_the_tail_with_the_least_distance_is_taken():
    degrees = np.random.default_rng(0).geometric(0.1, 400)
    tail, best = fitted(degrees), (9.0, 0)
    for x_min in np.unique(degrees):
        above = np.sort(degrees[degrees >= x_min])
        if len(above) < 50 or above[0] == above[-1]:
            continue
        loss = lambda a, x=above, m=x_min: a * np.log(x).mean() + np.log(zeta(a, float(m)))  # noqa: E731
        alpha = optimize.minimize_scalar(loss, bounds=(1.05, 30), method="bounded").x
        values = np.unique(above)
        model = zeta(alpha, values + 1.0) / zeta(alpha, float(x_min))
        distance = max(abs(m - (above > v).mean()) for m, v in zip(model, values, strict=True))
        best = min(best, (distance, int(x_min)))
    assert tail.x_min == best[1] and tail.distance == pytest.approx(best[0], abs=2e-3)


@pytest.mark.parametrize(("alpha", "x_min"), [(1.8, 1), (2.5, 3), (4.0, 10)])
def test_the_exponent_is_found(alpha, x_min):
    tail = fitted(power_law(np.random.default_rng(1), 3000, alpha, x_min))
    n = tail.counts.sum()
    assert tail.alpha == pytest.approx(alpha, abs=4 * (alpha - 1) / np.sqrt(n) + 0.02)


def test_log_likelihoods_are_those_of_the_best_members():
    degrees = np.random.default_rng(2).geometric(0.05, 500)
    tail = fitted(degrees)
    x, n, x_min = tail.values.astype(float), tail.counts, tail.x_min
    total = {name: float(n @ values) for name, values in tail.log_likelihood.items()}
    k = np.arange(x_min, x_min + 3000)
    # every family sums to 1 over its support: compared with tables normalised by summing
    rate = 1 / (1 + n @ x / n.sum() - x_min)
    geometric = np.log(rate) + (x - x_min) * np.log(1 - rate)
    assert np.allclose(tail.log_likelihood["exponential"], geometric)

    def slow(parameters: np.ndarray, table) -> float:
        logs = table(k.astype(float), parameters)
        return -float(n @ (logs[(x - x_min).astype(int)] - np.log(np.exp(logs - logs.max()).sum()) - logs.max()))

    def log_normal(k: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        centre, sd = parameters[0], np.exp(parameters[1])
        steps = norm.sf((np.log(k - 0.5) - centre) / sd) - norm.sf((np.log(k + 0.5) - centre) / sd)
        return np.log(np.maximum(steps, 1e-300))

    def truncated(k: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        return -parameters[0] * np.log(k) - np.exp(parameters[1]) * k

    for name, table, start in (("log_normal", log_normal, (3.0, 0.0)), ("truncated", truncated, (0.3, -3.0))):
        best = optimize.minimize(slow, start, args=(table,), method="Nelder-Mead", options={"maxiter": 400})
        assert total[name] == pytest.approx(-best.fun, abs=0.02)
    assert total["truncated"] >= total["power_law"]


def test_a_power_law_fits_and_is_not_beaten():
    p, best = [], []
    for seed in range(10):
        tail = fitted(power_law(np.random.default_rng(seed), 800, 2.5, 2), draws=39, seed=seed)
        p.append(tail.fit_p)
        best.append(best_family([tail]))
    assert np.mean(p) > 0.25 and sum(value <= 0.1 for value in p) < 5
    assert sum(name in ("power law", UNTOLD) for name in best) >= 8


def test_other_families_are_told_from_a_power_law():
    together = [fitted(np.random.default_rng(seed).geometric(0.03, 3000)) for seed in range(15)]
    total, variance = np.sum([t.ratio("exponential") for t in together], axis=0)
    assert total < 0 and vuong_p(total, variance) < 0.01
    assert best_family(together) in (BEATEN, "truncated power law", "exponential")


def test_another_family_that_is_nearer_is_the_opposite_of_a_power_law():
    geometric = [fitted(np.random.default_rng(seed).geometric(0.03, 3000)) for seed in range(15)]
    heavy = [fitted(power_law(np.random.default_rng(seed), 3000, 2.2, 3)) for seed in range(3)]
    answers = [_against("in", tails, "exponential", 1, "") for tails in (geometric, heavy)]
    assert judge(answers, 0.05)["verdict"].tolist() == [OPPOSITE, SUPPORTED]


def test_a_heavy_tail_is_heavier_than_exponential():
    tail = fitted(power_law(np.random.default_rng(4), 2000, 2.2, 1))
    total, variance = tail.ratio("exponential")
    assert total > 0 and vuong_p(total, variance) < 1e-3


def test_p_of_the_comparisons():
    assert vuong_p(0.0, 0.0) == 1.0
    assert vuong_p(-1.959964, 1.0) == pytest.approx(0.05)
    assert cut_off_p(0.0) == cut_off_p(1.0) == 1.0
    assert cut_off_p(-2.0) == pytest.approx(0.5 * chi2.sf(4.0, 1))
    assert cut_off_p(-2.0, 2) == pytest.approx(0.5 * chi2.sf(4.0, 1) + 0.25 * chi2.sf(4.0, 2))


@pytest.mark.parametrize("degrees", [np.zeros(0, dtype=int), np.full(500, 7), np.arange(1, 40)])
def test_too_few_features_or_values(degrees):
    assert fit_tail(degrees, 5, np.random.default_rng(0)) is None


def test_two_values_are_a_tail():
    tail = fit_tail(np.repeat([3, 4], [60, 40]), 20, np.random.default_rng(0))
    assert tail is not None and tail.x_min == 3 and np.isfinite(tail.alpha)


def test_answers():
    evidence = made_up_evidence(n_layers=3, n_features=120, sources_per_layer=60, edges_per_source=60)
    keep = pl.Series(np.random.default_rng(0).random(evidence.edges.height)) < 0.5
    edges = evidence.edges.filter(keep).drop("source", "target")
    found = ask(make_evidence(edges, evidence.features, **evidence.tables), SETTINGS)
    table = found.tables["degree_tail"]
    assert set(table["direction"]) == {"in", "out"} and table["fit_p"].between(1 / 21, 1).all()
    for answer in found.answers:
        assert np.isfinite(answer.value) and 0 <= answer.p_value <= 1 and answer.note
    into = table[table["direction"] == "in"]
    ratio = (into["log_normal_ratio"] * into["n_tail"]).sum() / into["n_tail"].sum()
    assert found.answers[3].value == pytest.approx(ratio)
    assert ask(make_evidence(edges, evidence.features), SETTINGS).tables["degree_tail"].equals(table)
    assert set(draw(found)) == {"degree_tail"}


@pytest.mark.parametrize("n_edges", [0, 1])
def test_no_edges_no_tails(n_edges):
    evidence = made_up_evidence()
    found = ask(make_evidence(evidence.edges.head(n_edges).drop("source", "target"), evidence.features), SETTINGS)
    assert found.tables["degree_tail"].empty and all(np.isnan(answer.value) for answer in found.answers)
    assert len(found.answers) == 2 and draw(found)
