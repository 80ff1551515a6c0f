"""Differential expression of many perturbations against one control, from summed counts of guides.

Replicates are guides (or random parts of the cells). With counts y of gene g in replicate i, library size L_i and prior
count c (Robinson et al. 2010 scale the prior with the library as well, so that no gene differs for depth alone):

    c_i = c L_i / mean(L),    x_ig = log2((y_ig + c_i) / (L_i + 2 c_i) 10^6)

One linear model per gene has a mean for every perturbation and for the control. A replicate has the weight
w_i = 1 / (a + b mean(L) / L_i): a is how guides differ, b what counting adds; both are 0 or above, and fitted to the
squared residuals of all genes together. Then, with W the summed weights of a group,

    log_fc = weighted mean of the perturbation - weighted mean of the control - median of this over genes
    s_g^2 = sum_i w_i residual_ig^2 / d,    d = replicates - groups
    t = log_fc / (s~_g sqrt(1 / W_perturbation + 1 / W_control))

The median is taken off so that most genes do not change: a logarithm of few counts is too low on average, and guides
have fewer counts than the control, so without it more than half of all genes would fall where nothing happens.
s~_g^2 is moderated (Smyth 2004) and t has d + d0 degrees of freedom. A perturbation with one guide can be tested,
because the variance comes from all perturbations and the control.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, nnls
from scipy.special import digamma, polygamma
from scipy.stats import t as student

CONTROL = 0
"""Group of the control replicates."""
MIN_GENES_FOR_MEDIAN = 20
"""With fewer measured genes the median says nothing of most genes, and is not taken off."""


@dataclass(frozen=True)
class Comparison:
    """Every perturbation against the control; rows are groups 1, 2, ..., columns genes; NaN where not measured."""

    log_fc: np.ndarray
    """float32 (perturbation, gene): log2."""
    standard_error: np.ndarray
    """float32 (perturbation, gene): of log_fc, moderated."""
    p_value: np.ndarray
    """float32 (perturbation, gene): two-sided."""
    expression: np.ndarray
    """float32 (gene,): mean log2 counts per million of the control."""


def log_expression(sums: np.ndarray, library: np.ndarray, prior_count: float) -> np.ndarray:
    """log2 counts per million with a prior in proportion to the library size, float64 (replicate, gene)."""
    prior = (prior_count * library / library.mean())[:, None]
    return np.log2((sums + prior) / (library[:, None] + 2 * prior) * 1e6)


def compare_with_control(
    sums: np.ndarray, library: np.ndarray, group: np.ndarray, measured: np.ndarray, prior_count: float
) -> Comparison:
    """Test every group against group 0.

    Parameters
    ----------
    sums
        (replicate, gene): summed counts.
    library
        (replicate,): summed counts over all genes, above 0.
    group
        int (replicate,): 0 for the control, 1, 2, ... for perturbations; the control needs two replicates.
    measured
        bool (gene,): genes that are tested; at least one.
    """
    values = log_expression(sums[:, measured], library, prior_count)
    weight = replicate_weights(values, library, group)
    mean, total, residual = _group_means(values, weight, group)
    freedom = len(values) - len(total)
    variance = (weight[:, None] * residual**2).sum(axis=0) / freedom
    moderated, more = moderated_variance(variance, freedom)
    log_fc = mean[1:] - mean[CONTROL]
    if measured.sum() >= MIN_GENES_FOR_MEDIAN:
        log_fc = log_fc - np.median(log_fc, axis=1, keepdims=True)
    error = np.sqrt(moderated[None, :] * (1 / total[1:, None] + 1 / total[CONTROL]))
    p = 2 * student.sf(np.abs(log_fc) / error, min(freedom + more, 1e9))

    def everywhere(found: np.ndarray) -> np.ndarray:
        full = np.full((*found.shape[:-1], len(measured)), np.nan, dtype=np.float32)
        full[..., measured] = found
        return full

    return Comparison(everywhere(log_fc), everywhere(error), everywhere(p), everywhere(mean[CONTROL]))


def _group_means(
    values: np.ndarray, weight: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weighted mean (group, gene), summed weight (group,), residuals (replicate, gene))."""
    membership = np.zeros((int(group.max()) + 1, len(group)))
    membership[group, np.arange(len(group))] = weight
    total = membership.sum(axis=1)
    mean = membership @ values / total[:, None]
    return mean, total, values - mean[group]


def replicate_weights(values: np.ndarray, library: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Weight of every replicate, mean 1: 1 / (a + b u_i) with u_i = mean(L) / L_i, fitted to squared residuals.

    A residual from the plain mean of n replicates also holds the noise of the others, so its square is on average
    v_i (1 - 2 / n) + (sum of v over the group) / n^2, which is linear in a and b for v_i = a + b u_i.
    """
    size = np.bincount(group)[group].astype(np.float64)
    _, _, residual = _group_means(values, np.ones(len(group)), group)
    several = size > 1
    scale = (residual**2).mean(axis=0)
    varies = scale > 1e-12
    if several.sum() < 3 or not varies.any():
        return np.ones(len(group))
    squares = (residual[:, varies] ** 2 / scale[varies]).mean(axis=1)[several]
    parts = np.column_stack([np.ones(len(group)), library.mean() / library])
    together = np.stack([np.bincount(group, part)[group] for part in parts.T], axis=1)
    expected = (parts * (1 - 2 / size)[:, None] + together / size[:, None] ** 2)[several]
    fitted = np.ones(int(several.sum()))
    for _ in range(3):
        # the sd of a squared residual is in proportion to its mean
        coefficients, _ = nnls(expected / fitted[:, None], squares / fitted)
        fitted = np.maximum(expected @ coefficients, 1e-6)
    weight = 1 / np.maximum(parts @ coefficients, 1e-6)
    return weight / weight.mean()


def moderated_variance(variance: np.ndarray, freedom: int) -> tuple[np.ndarray, float]:
    """(posterior variance (gene,), prior degrees of freedom d0) of Smyth 2004, moments of log variances.

    s~^2 = (d0 s0^2 + d s^2) / (d0 + d), where d0 solves trigamma(d0 / 2) = var(log s^2) - trigamma(d / 2), and is
    infinite where log variances vary no more than by chance. Genes without any variance do not take part in the fit.
    """
    positive = variance[variance > 1e-12]
    if len(positive) < 2:
        return np.maximum(variance, 1e-12), 0.0
    centred = np.log(positive) - digamma(freedom / 2) + np.log(freedom / 2)
    beyond = centred.var(ddof=1) - float(polygamma(1, freedom / 2))
    if beyond <= 1e-6:
        return np.full(len(variance), np.exp(centred.mean())), np.inf
    prior = 2 * brentq(lambda x: float(polygamma(1, x)) - beyond, 1e-4, 1e7)
    scale = np.exp(centred.mean() + digamma(prior / 2) - np.log(prior / 2))
    return (prior * scale + freedom * variance) / (prior + freedom), float(prior)
