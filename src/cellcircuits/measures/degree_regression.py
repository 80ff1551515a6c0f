"""Do some features have more edges than others of equal firing rate, number of genes and layer? Poisson regression."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student

from cellcircuits.measures.degree_strata import FEWEST_ALIKE, STRATUM_BINS
from cellcircuits.measures.loadings import nested_bins

FEWEST = 5
"""Fewest features with, and without, the mark."""
MARK = "disease"
VALUES_PER_BLOCK = 4_000_000


def degree_regression(
    degree: np.ndarray, mark: np.ndarray, features: pd.DataFrame, draws: int, seed: int
) -> pd.DataFrame:
    """Poisson regression of the number of edges on a mark, given what makes features have edges anyway.

    log(expected degree) = a_layer + b mark + c log10(firing rate) + d log10(1 + genes on which it fires). Numbers of
    edges vary more than Poisson numbers do, so standard errors are robust (sandwich, HC1), with t quantiles for as many
    features as are on the smaller side. With few of these the Wald test calls too much, so p of the mark is that of a
    permutation test: the sum of Pearson residuals (of the model without the mark) over marked features, marks permuted
    within layer and thirds of firing rate and number of genes; two-sided.

    Parameters
    ----------
    degree
        (feature,): number of edges.
    mark
        bool (feature,).
    features
        Rows of the table `features`; those that never fire are left out.

    Returns
    -------
    Columns term, coefficient, low, high, p_value, n_features, n_disease; without rows if there are fewer than 5
    features with or without the mark, no edge on one of these sides, or the fit does not converge.
    """
    import statsmodels.api as sm

    fires = features["firing_rate"].to_numpy() > 0
    degree, mark, features = degree[fires].astype(float), mark[fires].astype(float), features[fires]
    sides = [degree[mark == value] for value in (0.0, 1.0)]
    empty = pd.DataFrame(columns=["term", "coefficient", "low", "high", "p_value", "n_features", "n_disease"])
    if min(len(side) for side in sides) < FEWEST or not all(side.any() for side in sides):
        return empty
    design, names = _design(mark, features)
    with warnings.catch_warnings():
        # a fit that fails is left out below
        warnings.simplefilter("ignore")
        family = sm.families.Poisson()
        fit = sm.GLM(degree, design, family=family).fit(cov_type="HC1")
        without = sm.GLM(degree, design[:, 1:], family=family).fit()
    coefficient, error = fit.params[: len(names)], fit.bse[: len(names)]
    if not (fit.converged and without.converged) or not np.isfinite(error).all() or (error == 0).any():
        return empty
    width = student.ppf(0.975, min(len(side) for side in sides) - 1) * error
    p = 2 * norm.sf(np.abs(coefficient / error))
    p[0] = _permuted_p(without.resid_pearson, mark > 0, _strata(features), draws, np.random.default_rng(seed))
    return pd.DataFrame(
        {
            "term": names,
            "coefficient": coefficient,
            "low": coefficient - width,
            "high": coefficient + width,
            "p_value": p,
            "n_features": len(degree),
            "n_disease": int(mark.sum()),
        }
    )


def _strata(features: pd.DataFrame) -> np.ndarray:
    stratum = features["layer"].to_numpy(np.int64)
    for name in ("firing_rate", "n_unique_genes"):
        stratum = nested_bins(stratum, features[name].to_numpy(), STRATUM_BINS, FEWEST_ALIKE)
    return stratum


def _permuted_p(
    residual: np.ndarray, mark: np.ndarray, stratum: np.ndarray, draws: int, rng: np.random.Generator
) -> float:
    """Two-sided p of the sum of residuals over marked features, marks permuted within strata."""
    observed, mean = residual[mark].sum(), 0.0
    total = np.zeros(draws)
    for code in np.unique(stratum[mark]):
        values = residual[stratum == code]
        n_marked = int(mark[stratum == code].sum())
        mean += n_marked * values.mean()
        for start in range(0, draws, step := max(1, VALUES_PER_BLOCK // len(values))):
            copies = np.tile(values, (min(step, draws - start), 1))
            total[start : start + step] += rng.permuted(copies, axis=1)[:, :n_marked].sum(axis=1)
    # sums in another order differ by rounding
    as_far = np.abs(total - mean) >= np.abs(observed - mean) * (1 - 1e-9)
    return float((1 + as_far.sum()) / (1 + draws))


def _design(mark: np.ndarray, features: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Regressors (feature, regressor), and the names of those before the layers; constant ones are left out."""
    rate = np.log10(features["firing_rate"].to_numpy())
    genes = np.log10(1 + features["n_unique_genes"].to_numpy())
    kept = {MARK: mark} | {
        name: values - values.mean()
        for name, values in (("log10 firing rate", rate), ("log10 number of genes", genes))
        if np.ptp(values) > 0
    }
    layers = pd.get_dummies(features["layer"]).to_numpy(dtype=float)
    return np.column_stack([*kept.values(), layers]), list(kept)
