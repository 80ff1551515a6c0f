"""Strata of like features: of one layer, and with like covariates. Within them a permutation may exchange features."""

from __future__ import annotations

import numpy as np


def feature_strata(
    layer: np.ndarray, member: np.ndarray, covariates: list[np.ndarray], bins: int, least: int
) -> np.ndarray:
    """int32 (feature,): stratum of each member, -1 for the others.

    The members of a layer are cut at quantiles of the first covariate, each of these parts at quantiles of the second,
    and so on: into `bins` parts, or into fewer, so that a part has about `least` features. Equal values stay together.

    Parameters
    ----------
    layer
        int (feature,).
    member
        bool (feature,): features that take part.
    covariates
        float (feature,) each.
    """
    stratum = np.full(len(layer), -1, dtype=np.int32)
    parts = [np.flatnonzero(member & (layer == one)) for one in np.unique(layer[member])]
    for covariate in covariates:
        parts = [piece for part in parts for piece in _cut(part, covariate[part], bins, least)]
    for number, part in enumerate(parts):
        stratum[part] = number
    return stratum


def _cut(part: np.ndarray, values: np.ndarray, bins: int, least: int) -> list[np.ndarray]:
    n = min(bins, len(part) // least)
    if n < 2:
        return [part]
    edges = np.unique(np.quantile(values, np.arange(1, n) / n))
    place = np.searchsorted(edges, values, side="left")
    return [part[place == one] for one in np.unique(place)]
