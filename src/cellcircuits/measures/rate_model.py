"""What the firing rate explains of how many edges a feature has: a Poisson regression of degrees."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import numpy as np
from scipy import stats as scipy_stats


@dataclass(frozen=True)
class Degrees:
    """Features that fire and could have edges, in layers that have any."""

    degree: np.ndarray
    """int64 (feature,)"""
    n_layers: np.ndarray
    """int64 (feature,): layers that it could reach, or be reached from."""
    n_pairs: np.ndarray
    """float64 (feature,): targets tested of a source, or sources tested of a target."""
    layer: np.ndarray
    """int64 (feature,)"""
    rate: np.ndarray
    """float64 (feature,): firing rate."""

    @property
    def per_layer(self) -> np.ndarray:
        """float64 (feature,): degree / n_layers."""
        return self.degree / self.n_layers


@dataclass(frozen=True)
class RateModel:
    """Poisson regression of the degree on layer, log firing rate and its square."""

    mean: np.ndarray
    """float64 (feature,)"""
    deviance_explained: float
    dispersion: float
    dispersion_p: float


def fit_rate_model(degrees: Degrees) -> RateModel:
    """log mean = log pairs + layer + b x + c x^2 with x = log firing rate, standardised.

    Overdispersion: variance = mean + a mean^2; a = sum of ((y - m)^2 - y) / sum of m^2, and its test by the regression
    of ((y - m)^2 - y) / m on m without intercept (Cameron and Trivedi 1990).
    """
    import statsmodels.api as sm

    layers = np.unique(degrees.layer)
    design = (degrees.layer[:, None] == layers).astype(float)
    per_pair = degrees.degree / degrees.n_pairs
    if all(np.ptp(per_pair[degrees.layer == layer]) < 1e-12 for layer in layers):
        # nothing varies within layers, so there is nothing to explain
        return RateModel(degrees.degree.astype(float), nan, 0.0, 1.0)
    # a layer whose features all have no edges was left out, so that every coefficient is finite
    x = np.log(degrees.rate)
    x = (x - x.mean()) / x.std() if np.ptp(x) > 1e-9 else np.zeros(len(x))
    shape = np.column_stack([design, x, x**2]) if x.any() else design
    y, offset = degrees.degree.astype(float), np.log(degrees.n_pairs)
    full = sm.GLM(y, shape, family=sm.families.Poisson(), offset=offset).fit()
    layer_only = sm.GLM(y, design, family=sm.families.Poisson(), offset=offset).fit()
    mean = np.asarray(full.mu)
    excess = (y - mean) ** 2 - y
    slope = sm.OLS(excess / mean, mean).fit()
    explained = 1 - full.deviance / layer_only.deviance if layer_only.deviance > 0 else nan
    p = float(scipy_stats.norm.sf(slope.tvalues[0]))
    return RateModel(mean, float(explained), float(max(0.0, excess.sum() / (mean**2).sum())), p)
