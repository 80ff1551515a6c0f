"""Differential expression of pseudobulk: against loops and ordinary tests, uniform p under the null, known truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, ttest_ind

from cellcircuits.screening.pseudobulk import (
    compare_with_control,
    log_expression,
    moderated_variance,
    replicate_weights,
)


def null_counts(rng: np.random.Generator, sizes: list[int], n_genes: int = 60, guide_sd: float = 0.0):
    """(sums, library, group): replicates of 5 groups with these numbers of cells, nothing differs."""
    share = rng.dirichlet(np.ones(n_genes))
    depth = 300.0 * np.array(sizes)
    level = share * np.exp(guide_sd * rng.normal(size=(len(sizes), n_genes)))
    sums = rng.poisson(depth[:, None] * level).astype(float)
    group = np.repeat(np.arange(5), len(sizes) // 5)
    return sums, sums.sum(axis=1), group


def test_log_expression_equals_the_formula():
    sums, library = np.array([[3.0, 7.0], [0.0, 40.0]]), np.array([10.0, 40.0])
    found = log_expression(sums, library, prior_count=2.0)
    for i in range(2):
        prior = 2.0 * library[i] / 25
        for g in range(2):
            assert found[i, g] == pytest.approx(np.log2((sums[i, g] + prior) / (library[i] + 2 * prior) * 1e6))


def test_no_depth_makes_a_difference():
    """A gene without counts, and one with the same share of all counts, do not differ."""
    found = log_expression(np.array([[0.0, 5.0], [0.0, 500.0]]), np.array([5.0, 500.0]), 2.0)
    assert np.allclose(found[0], found[1])


def test_equal_weights_and_no_moderation_give_student(monkeypatch):
    """With one perturbation, the model is the two-sample t test with equal variances."""
    rng = np.random.default_rng(0)
    sums, library = rng.poisson(50, size=(7, 30)).astype(float), np.full(7, 1500.0)
    group = np.array([0, 0, 0, 0, 1, 1, 1])
    monkeypatch.setattr(
        "cellcircuits.screening.pseudobulk.moderated_variance", lambda variance, freedom: (variance, 0.0)
    )
    monkeypatch.setattr("cellcircuits.screening.pseudobulk.replicate_weights", lambda values, *_: np.ones(len(values)))
    monkeypatch.setattr("cellcircuits.screening.pseudobulk.MIN_GENES_FOR_MEDIAN", 1000)
    found = compare_with_control(sums, library, group, np.ones(30, dtype=bool), 2.0)
    values = log_expression(sums, library, 2.0)
    for g in range(30):
        t = ttest_ind(values[4:, g], values[:4, g])
        assert found.log_fc[0, g] == pytest.approx(values[4:, g].mean() - values[:4, g].mean(), rel=1e-5)
        assert found.p_value[0, g] == pytest.approx(t.pvalue, rel=1e-4)
        assert found.expression[g] == pytest.approx(values[:4, g].mean(), rel=1e-6)
        assert found.standard_error[0, g] == pytest.approx(abs(found.log_fc[0, g] / t.statistic), rel=1e-4)


def test_the_median_gene_does_not_change_and_the_unmeasured_are_nan():
    rng = np.random.default_rng(1)
    sums, library, group = null_counts(rng, [20] * 15)
    measured = rng.random(60) < 0.8
    found = compare_with_control(sums, library, group, measured, 2.0)
    assert np.isnan(found.log_fc[:, ~measured]).all() and np.isfinite(found.log_fc[:, measured]).all()
    assert np.allclose(np.median(found.log_fc[:, measured], axis=1), 0, atol=1e-6)
    assert np.array_equal(np.isnan(found.p_value), np.isnan(found.log_fc))


def test_replicates_with_few_counts_weigh_less_where_counting_is_all_the_noise():
    rng = np.random.default_rng(2)
    sums, library, group = null_counts(rng, [10, 100, 100] * 5)
    weight = replicate_weights(log_expression(sums, library, 2.0), library, group)
    assert weight.mean() == pytest.approx(1)
    assert weight[0::3].max() < weight[1::3].min() / 3
    # guides that differ far more than counting does weigh the same
    sums, library, group = null_counts(rng, [200, 2000, 2000] * 5, guide_sd=1.0)
    weight = replicate_weights(log_expression(sums, library, 2.0), library, group)
    assert weight[0::3].mean() > 0.7 * weight[1::3].mean()


def test_moderation_recovers_what_made_the_variances():
    """Variances drawn as d0 s0^2 / chi^2(d0), seen with d degrees of freedom: the fit finds d0 and s0^2."""
    rng = np.random.default_rng(3)
    true = 10 * 0.5 / rng.chisquare(10, size=20_000)
    seen = true * rng.chisquare(6, size=20_000) / 6
    posterior, prior = moderated_variance(seen, 6)
    assert prior == pytest.approx(10, rel=0.1)
    scale = (posterior * (prior + 6) - 6 * seen) / prior
    assert np.allclose(scale, scale[0]) and scale[0] == pytest.approx(0.5, rel=0.05)
    assert np.mean((posterior - true) ** 2) < np.mean((seen - true) ** 2)


def test_variances_that_differ_by_chance_alone_become_one():
    """Some seeds look more equal than chance: then there is one variance for all, near the true one."""
    rng = np.random.default_rng(4)
    fits = [moderated_variance(rng.chisquare(8, size=300) / 8, 8) for _ in range(20)]
    equal = [posterior for posterior, prior in fits if np.isinf(prior)]
    assert len(equal) >= 3
    assert all(np.ptp(posterior) == 0 and posterior[0] == pytest.approx(1, rel=0.1) for posterior in equal)


def test_no_variance_is_no_crash():
    posterior, prior = moderated_variance(np.zeros(5), 3)
    assert prior == 0 and (posterior > 0).all()


@pytest.mark.parametrize(("sizes", "guide_sd"), [([40] * 15, 0.0), ([15, 60, 120] * 5, 0.0), ([60, 60, 60] * 5, 0.15)])
def test_p_is_uniform_where_nothing_differs(sizes, guide_sd):
    """One gene of each of many null screens, so that the tests are independent."""
    rng = np.random.default_rng(5)
    measured = np.ones(60, dtype=bool)
    p = []
    for _ in range(150):
        sums, library, group = null_counts(rng, sizes, guide_sd=guide_sd)
        common = np.flatnonzero(sums[group == 0].sum(axis=0) >= 50)
        p.append(compare_with_control(sums, library, group, measured, 2.0).p_value[rng.integers(4), rng.choice(common)])
    assert kstest(p, "uniform").pvalue > 0.01
    # binomial: 99.9 % of 150 tests at 0.05 give 15 or fewer
    assert 1 <= np.sum(np.array(p) <= 0.05) <= 15


def test_a_perturbation_with_one_guide_is_tested():
    rng = np.random.default_rng(6)
    sums, library, _ = null_counts(rng, [100] * 10)
    group = np.array([0] * 8 + [1, 2])
    gene = int(np.argmax(sums[:8].sum(axis=0)))
    sums[8, gene] /= 4
    found = compare_with_control(sums, library, group, np.ones(60, dtype=bool), 2.0)
    assert found.p_value[0, gene] < 1e-4 and found.log_fc[0, gene] < -1.5
    assert found.p_value[1, gene] > 0.01
