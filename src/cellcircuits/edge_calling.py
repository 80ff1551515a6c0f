"""From moments to edges: effect, signs, p, q, and the two rules.

published    |mean/sd| > 0.5 and max(n+, n - n+)/n > 0.7, at least two cells (Kendiukhov 2026). Zeros count as
             negative, so the rule favours negative edges.
calibrated   q <= 0.05, at least 20 cells, |mean/sd| > 0.5, and at least 70 % of the RESPONDING cells with the sign of
             the mean. Turning all signs around gives the same edges.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from cellcircuits.moments import Moments
from cellcircuits.settings import EdgesSettings
from cellcircuits.stats import benjamini_hochberg, cluster_bootstrap, one_sample_t
from cellcircuits.tables import make_table

PUBLISHED_MIN_CELLS = 2
BOOTSTRAP_DRAWS = 500


def edges(moments: Moments, settings: EdgesSettings | None = None, **changes: Any) -> pd.DataFrame:
    """Edges of one source layer: all tested pairs that pass the rule, with no limit to their number.

    Parameters
    ----------
    moments
        Sums over cells, from `trace`.
    settings, changes
        `EdgesSettings`, or single fields of it, for example `rule="published"`.

    Returns
    -------
    pandas.DataFrame
        One row per edge with the columns of `tables.EDGES`, in order of target layer, source and target. The unit of
        observation is the cell. `mean_delta` is ablated - clean: negative means that the source supports the target.
    """
    settings = EdgesSettings(**{**vars(settings or EdgesSettings()), **changes})
    statistics = pair_statistics(moments, settings.min_cells)
    passing = {layer: call_edges(values, settings) for layer, values in statistics.items()}
    parts = [_rows(moments, layer, statistics[layer], passing[layer]) for layer in statistics]
    return make_table("edges", pd.concat(parts, ignore_index=True))


def pair_statistics(moments: Moments, min_cells: int) -> dict[int, dict[str, np.ndarray]]:
    """{target layer: {column: (source, target)}} for every pair; `tested` marks those with enough cells."""
    n = moments.cells()[:, None].astype(float)
    result = {}
    for layer in moments.sums:
        mean, sd = moments.mean(layer), moments.sd(layer)
        positive, negative = moments.statistic(layer, "n_positive"), moments.statistic(layer, "n_negative")
        clean, responding = moments.mean_clean(layer), positive + negative
        with np.errstate(divide="ignore", invalid="ignore"):
            result[layer] = {
                "n_cells": np.broadcast_to(n, mean.shape),
                "n_positive": positive,
                "n_negative": negative,
                "mean_delta": mean,
                "sd_delta": sd,
                "snr": moments.snr(layer),
                "clean_activation": clean,
                "relative_effect": np.where(clean > 0, mean / clean, np.nan),
                "sign_agreement": _sign_agreement(mean, positive, negative),
                "responding_fraction": responding / np.maximum(n, 1),
                "consistency_published": np.maximum(positive, n - positive) / np.maximum(n, 1),
                "p_value": one_sample_t(mean, sd, n),
                "tested": np.broadcast_to(n >= min_cells, mean.shape),
            }
    _add_q_values(result)
    return result


def _sign_agreement(mean: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Share of responding cells whose sign is that of the mean; 0 where no cell responds."""
    agreeing = np.where(mean > 0, positive, np.where(mean < 0, negative, 0.0))
    return agreeing / np.maximum(positive + negative, 1)


def _add_q_values(statistics: dict[int, dict[str, np.ndarray]]) -> None:
    """q over all tested pairs of the source layer together; 1 where a pair has too few cells to be tested."""
    tested = np.concatenate([v["tested"].ravel() for v in statistics.values()])
    p = np.concatenate([v["p_value"].ravel() for v in statistics.values()])
    q = np.ones_like(p)
    q[tested] = benjamini_hochberg(p[tested])
    splits = np.cumsum([v["p_value"].size for v in statistics.values()])[:-1]
    for values, part in zip(statistics.values(), np.split(q, splits), strict=True):
        values["q_value"] = part.reshape(values["p_value"].shape)


def call_edges(values: dict[str, np.ndarray], settings: EdgesSettings) -> np.ndarray:
    """bool (source, target): which pairs pass the rule."""
    strong = np.abs(values["snr"]) > settings.min_snr
    if settings.rule == "published":
        enough = values["n_cells"] >= PUBLISHED_MIN_CELLS
        return strong & enough & (values["consistency_published"] > settings.min_agreement)
    return (
        strong
        & values["tested"]
        & (values["q_value"] <= settings.max_q)
        & (values["sign_agreement"] >= settings.min_agreement)
    )


def count_edges(moments: Moments, settings: EdgesSettings) -> np.ndarray:
    """Number of edges of each source, int (source,)."""
    statistics = pair_statistics(moments, settings.min_cells)
    return np.sum([call_edges(values, settings).sum(axis=1) for values in statistics.values()], axis=0)


def _rows(moments: Moments, layer: int, values: dict[str, np.ndarray], passing: np.ndarray) -> pd.DataFrame:
    source, target = np.nonzero(passing)
    columns: dict[str, Any] = {
        "source_layer": np.full(len(source), moments.source_layer),
        "source_feature": moments.source_features[source],
        "target_layer": np.full(len(source), layer),
        "target_feature": target,
    }
    columns |= {name: array[source, target] for name, array in values.items() if name != "tested"}
    return pd.DataFrame(columns)


def count_pairs(moments: Moments, settings: EdgesSettings) -> pd.DataFrame:
    """Per target layer: sources and pairs that could be tested, and those that respond in any cell."""
    minimum = PUBLISHED_MIN_CELLS if settings.rule == "published" else settings.min_cells
    enough = moments.cells() >= minimum
    rows = []
    for layer, sums in moments.sums.items():
        responding = (moments.statistic(layer, "n_positive") + moments.statistic(layer, "n_negative")) > 0
        rows.append(
            {
                "source_layer": moments.source_layer,
                "target_layer": layer,
                "n_sources": int(enough.sum()),
                "n_tested": int(enough.sum()) * sums.shape[-1],
                "n_responding": int(responding[enough].sum()),
            }
        )
    return make_table("tested", pd.DataFrame(rows))


def mirrored(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same statistics if every cell's delta had the other sign (those on which the rules depend)."""
    n, positive, negative = values["n_cells"], values["n_negative"], values["n_positive"]
    return values | {
        "n_positive": positive,
        "n_negative": negative,
        "snr": -values["snr"],
        "mean_delta": -values["mean_delta"],
        "consistency_published": np.maximum(positive, n - positive) / np.maximum(n, 1),
    }


def _weighted_share(values: np.ndarray, weights: np.ndarray) -> float:
    return float((weights * values).sum() / max(weights.sum(), 1))


def sign_shares(totals: list[Moments], settings: EdgesSettings, seed: int = 0) -> pd.DataFrame:
    """Share of negative edges under both rules, each beside the share that the rule itself makes.

    The chance share keeps the size of every effect and gives it a random sign: a rule that treats both signs alike
    has 0.5. The interval resamples sources.
    """
    rows = []
    for rule in ("published", "calibrated"):
        chosen = replace(settings, rule=rule)
        negative, clusters, passes = [], [], {"negative": 0, "positive": 0}
        for moments in totals:
            for values in pair_statistics(moments, settings.min_cells).values():
                called = call_edges(values, chosen)
                sign = np.sign(values["mean_delta"])
                negative.append(sign[called] < 0)
                clusters.append(np.nonzero(called)[0] + 1_000_000 * moments.source_layer)
                turned = call_edges(mirrored(values), chosen)
                passes["negative"] += int((called & (sign < 0)).sum() + (turned & (sign > 0)).sum())
                passes["positive"] += int((called & (sign > 0)).sum() + (turned & (sign < 0)).sum())
        is_negative = np.concatenate(negative).astype(float)
        low, high = cluster_bootstrap(
            np.concatenate(clusters),
            partial(_weighted_share, is_negative),
            BOOTSTRAP_DRAWS,
            np.random.default_rng(seed),
        )
        rows.append(
            {
                "rule": rule,
                "n_edges": len(is_negative),
                "share_negative": is_negative.mean() if len(is_negative) else np.nan,
                "interval_low": low,
                "interval_high": high,
                "chance_share": passes["negative"] / max(sum(passes.values()), 1),
            }
        )
    return make_table("signs", pd.DataFrame(rows))
