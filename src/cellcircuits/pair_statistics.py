"""What is known of every tested pair of source and target, from moments alone.

The unit of observation is a cell, or a group of cells (donor, batch, guide): then one observation is the mean over the
cells of a group. A delta of 0 is no response: signs are counted among the units that respond.

Of cells only sums are kept, so their signs cannot be flipped one by one as those of few groups are. What is exact and
follows from the counts is the sign test. The t test of the mean is the default: under symmetric nulls of 20 cells it
keeps its level where effects are normal or most cells do not respond, and stays below it where tails are heavy. Given
that few cells respond, all in one direction, its p is smaller than the share of sign patterns that are as extreme (5
equal effects among 20 cells: 0.02, and 2 of 32 patterns, 0.06). The sign test gives that share, and is not moved by
single large effects; but sizes do not add to its power.
"""

from __future__ import annotations

import numpy as np

from cellcircuits.errors import SettingsError
from cellcircuits.moments import ALL, SMALLEST_SD, Moments
from cellcircuits.settings import EdgesSettings
from cellcircuits.stats import one_sample_t, sign_flip, sign_test

Statistics = dict[str, np.ndarray]
"""{column: (source, target)}."""
FEW_UNITS = 20
"""Up to so many groups, p is that of a sign-flip test: their means need not be normal."""
CONFIDENCE_Z = 1.959963984540054
"""Two-sided 95 %."""


def pair_statistics(moments: Moments, settings: EdgesSettings, group: str = ALL) -> dict[int, Statistics]:
    """{target layer: {column: (source, target)}} for every pair; `tested` marks those with enough units.

    Raises
    ------
    SettingsError
        If the moments do not hold the readout, or groups are the unit and there is only one.
    """
    by_group = settings.unit == "group" and group == ALL
    if by_group and len(moments.groups) < 2:
        raise SettingsError('unit = "group" needs a trace with `group_by`; these moments have one group.')
    return {layer: _of_layer(moments, layer, settings, group, by_group) for layer in moments.sums}


def _of_layer(moments: Moments, layer: int, settings: EdgesSettings, group: str, by_group: bool) -> Statistics:
    readout = settings.readout
    n_cells = moments.cells(group, readout)[:, None]
    if by_group:
        values, minimum = _over_groups(moments, layer, readout), settings.min_groups
    else:
        values, minimum = _over_cells(moments, layer, readout, group), settings.min_cells
    n, mean, sd = values["n_units"], values["mean_delta"], values["sd_delta"]
    positive, negative = values["n_positive"], values["n_negative"]
    if settings.test == "sign":
        values["p_value"] = sign_test(positive, negative)
    clean = moments.mean_clean(layer, group=group, readout=readout)
    values["snr"] = mean / np.maximum(sd, SMALLEST_SD)
    # large-sample standard error of a standardised mean
    error = CONFIDENCE_Z * np.sqrt(1 / np.maximum(n, 1) + values["snr"] ** 2 / (2 * np.maximum(n, 2)))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(clean > 0, mean / clean, np.nan)
    return values | {
        "n_cells": np.broadcast_to(n_cells, mean.shape),
        "snr_low": values["snr"] - error,
        "snr_high": values["snr"] + error,
        "clean_activation": clean,
        "relative_effect": relative,
        "sign_agreement": _sign_agreement(mean, positive, negative),
        "responding_fraction": (positive + negative) / np.maximum(n, 1),
        "consistency_published": np.maximum(positive, n - positive) / np.maximum(n, 1),
        "tested": n >= minimum,
        **_beyond_passthrough(moments, layer, group),
    }


def _over_cells(moments: Moments, layer: int, readout: str, group: str) -> Statistics:
    """Mean, spread, signs and p with cells as units."""
    which = {"group": group, "readout": readout}
    mean, sd = moments.mean(layer, **which), moments.sd(layer, **which)
    n = np.broadcast_to(moments.cells(**which)[:, None], mean.shape).astype(float)
    return {
        "n_units": n,
        "mean_delta": mean,
        "sd_delta": sd,
        "n_positive": moments.statistic(layer, "n_positive", **which),
        "n_negative": moments.statistic(layer, "n_negative", **which),
        "p_value": one_sample_t(mean, sd, n),
    }


def group_means(moments: Moments, layer: int, readout: str) -> np.ndarray:
    """Mean delta of each group, (group, source, target); NaN where the source is active in no cell of a group."""
    sums = np.stack([moments.statistic(layer, "sum_delta", name, readout) for name in moments.groups])
    n = np.stack([moments.cells(name, readout) for name in moments.groups])[:, :, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n > 0, sums / n, np.nan)


def _over_groups(moments: Moments, layer: int, readout: str) -> Statistics:
    """The same with groups as units, each by the mean over its cells."""
    means = group_means(moments, layer, readout)
    there = ~np.isnan(means)
    n = there.sum(axis=0).astype(float)
    filled = np.where(there, means, 0.0)
    mean = filled.sum(axis=0) / np.maximum(n, 1)
    squares = np.where(there, (means - mean) ** 2, 0.0).sum(axis=0)
    sd = np.sqrt(squares / np.maximum(n - 1, 1))
    p = sign_flip(filled) if len(means) <= FEW_UNITS else one_sample_t(mean, sd, n)
    return {
        "n_units": n,
        "mean_delta": mean,
        "sd_delta": sd,
        "n_positive": (filled > 0).sum(axis=0).astype(float),
        "n_negative": (filled < 0).sum(axis=0).astype(float),
        "p_value": p,
    }


def _sign_agreement(mean: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Share of responding units whose sign is that of the mean; 0 where none responds."""
    agreeing = np.where(mean > 0, positive, np.where(mean < 0, negative, 0.0))
    return agreeing / np.maximum(positive + negative, 1)


def _beyond_passthrough(moments: Moments, layer: int, group: str) -> Statistics:
    """Mean change before TopK, split into what persists and what is computed; NaN where it was not measured."""
    nothing = np.full(moments.statistic(layer, "sum_delta", group, moments.readouts[0]).shape, np.nan)
    means = {
        name: moments.mean(layer, group=group, readout=name) if name in moments.readouts else nothing
        for name in ("pre", "computed")
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(means["pre"] != 0, means["computed"] / means["pre"], np.nan)
    return {
        "pre_delta": means["pre"],
        "passthrough_delta": means["pre"] - means["computed"],
        "computed_delta": means["computed"],
        "computed_share": share,
    }
