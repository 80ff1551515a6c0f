"""From moments to edges: the two rules and the two verdicts.

published    |mean/sd| > 0.5 and max(n+, n - n+)/n > 0.7, at least two cells (Kendiukhov 2026). Zeros count as
             negative, so the rule favours negative edges.
calibrated   q <= 0.05, at least 20 cells, |mean/sd| > 0.5, and at least 70 % of the RESPONDING cells with the sign of
             the mean. Turning all signs around gives the same edges.

Verdicts of an edge: it exists (the effect differs from zero; the rule), and it is specific (the effect is beyond what
random directions of the same norm do to this target; needs the moments of control directions).

Both q are over all tested pairs, and each edge must pass more than its q. Dropping pairs from a list that was corrected
without these conditions would void the bound: what is left of it may be mostly false. So a pair that does not meet them
enters with p = 1, and q bounds the share of false ones among what is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from cellcircuits.moments import ALL, Moments
from cellcircuits.pair_statistics import Statistics, pair_statistics
from cellcircuits.robustness import heterogeneity, stability
from cellcircuits.settings import EdgesSettings
from cellcircuits.specificity import Specificity, specificity
from cellcircuits.stats import benjamini_hochberg, cluster_bootstrap
from cellcircuits.tables import TABLES, make_table

PUBLISHED_MIN_CELLS = 2
BOOTSTRAP_DRAWS = 500
Blocks = Sequence[Callable[[], Moments]]
"""Functions that give the moments of the blocks of sources of one layer, one at a time."""


def edges(
    moments: Moments,
    settings: EdgesSettings | None = None,
    *,
    controls: Moments | None = None,
    group: str = ALL,
    **changes: Any,
) -> pd.DataFrame:
    """Edges of one source layer: all tested pairs that pass the rule, with no limit to their number.

    Parameters
    ----------
    moments
        Sums over cells, from `trace`.
    settings, changes
        `EdgesSettings`, or single fields of it, for example `rule="published"`.
    controls
        Moments of control directions in the place of the same sources, from `trace_controls`; without them nothing is
        said on whether an edge is specific.
    group
        Use the cells of this group alone.

    Returns
    -------
    pandas.DataFrame
        One row per edge with the columns of the table `edges`, in order of target layer, source and target.
        `mean_delta` is ablated - clean: negative means that the source supports the target.

    Raises
    ------
    SettingsError
        If the moments lack the readout or the groups asked for.
    """
    settings = EdgesSettings(**{**vars(settings or EdgesSettings()), **changes})
    beyond = None if controls is None else specificity(controls, settings.readout)
    return edges_of_layer([lambda: moments], settings, beyond, group)


def edges_of_layer(
    blocks: Blocks, settings: EdgesSettings, beyond: dict[int, Specificity] | None, group: str = ALL
) -> pd.DataFrame:
    """Edges of all sources of one layer, of which one block at a time is in memory.

    `beyond` holds the sources in the order of the blocks.
    """
    found = [
        _rows(moments, layer, values, settings)
        for moments, statistics in judged(blocks, settings, beyond, group)
        for layer, values in statistics.items()
    ]
    table = pd.concat(found, ignore_index=True)
    p = table.pop("heterogeneity_p").to_numpy()
    table["heterogeneity_q"] = np.nan
    known = ~np.isnan(p)
    table.loc[known, "heterogeneity_q"] = benjamini_hochberg(p[known])
    order = ["target_layer", "source_feature", "target_feature"]
    return make_table("edges", table.sort_values(order, ignore_index=True))


def judged(
    blocks: Blocks, settings: EdgesSettings, beyond: dict[int, Specificity] | None = None, group: str = ALL
) -> Iterator[tuple[Moments, dict[int, Statistics]]]:
    """The statistics of each block of sources of one layer, with q over all of them.

    Every block is loaded twice: q needs the p of all pairs, so they are gathered first.
    """
    verdicts = _Verdicts(settings, beyond)
    for load in blocks:
        verdicts.gather(pair_statistics(load(), settings, group))
    verdicts.correct()
    for number, load in enumerate(blocks):
        moments = load()
        yield moments, verdicts.apply(number, pair_statistics(moments, settings, group))


class _Verdicts:
    """q values over all tested pairs of a source layer, gathered and given back block by block."""

    def __init__(self, settings: EdgesSettings, beyond: dict[int, Specificity] | None) -> None:
        self.settings, self.beyond = settings, beyond
        self.tested: list[np.ndarray] = []
        self.p: list[np.ndarray] = []
        self.p_beyond: list[np.ndarray] = []
        self.first_source = [0]

    def gather(self, statistics: dict[int, Statistics]) -> None:
        """Take the p of the next block."""
        first = self.first_source[-1]
        for layer, values in statistics.items():
            self.tested.append(values["tested"].ravel())
            self.p.append(np.where(meets_thresholds(values, self.settings), values["p_value"], 1.0).ravel())
            n = len(values["p_value"])
            if self.beyond is not None:
                self.p_beyond.append(self.beyond[layer].p[first : first + n].ravel())
        self.first_source.append(first + n)

    def correct(self) -> None:
        """Benjamini-Hochberg over all tested pairs; 1 where a pair has too few units to be tested."""
        tested, last = np.concatenate(self.tested), np.cumsum([part.size for part in self.tested])[:-1]
        q = np.ones(tested.size)
        q[tested] = benjamini_hochberg(np.concatenate(self.p)[tested])
        self.q = {"q_value": np.split(q, last)}
        if self.p_beyond:
            exists = q <= self.settings.max_q
            q = np.ones(tested.size)
            q[tested] = benjamini_hochberg(np.where(exists, np.concatenate(self.p_beyond), 1.0)[tested])
            self.q["specific_q"] = np.split(q, last)

    def apply(self, block: int, statistics: dict[int, Statistics]) -> dict[int, Statistics]:
        """Add q_value and the verdict on specificity to the statistics of a block."""
        first, last = self.first_source[block : block + 2]
        for place, (layer, values) in enumerate(statistics.items(), start=block * len(statistics)):
            shape = values["p_value"].shape
            nothing = np.full(shape, np.nan)
            values["q_value"] = self.q["q_value"][place].reshape(shape)
            values["specific_z"] = nothing if self.beyond is None else self.beyond[layer].z[first:last]
            values["specific_q"] = nothing if self.beyond is None else self.q["specific_q"][place].reshape(shape)
            values["specific"] = values["specific_q"] <= self.settings.max_q
        return statistics


def meets_thresholds(values: Statistics, settings: EdgesSettings) -> np.ndarray:
    """bool (source, target): which pairs meet what the calibrated rule asks for besides q."""
    strong = np.abs(values["snr"]) > settings.min_snr
    return strong & values["tested"] & (values["sign_agreement"] >= settings.min_agreement)


def call_edges(values: Statistics, settings: EdgesSettings) -> np.ndarray:
    """bool (source, target): which pairs pass the rule."""
    if settings.rule == "published":
        strong = np.abs(values["snr"]) > settings.min_snr
        enough = values["n_units"] >= PUBLISHED_MIN_CELLS
        return strong & enough & (values["consistency_published"] > settings.min_agreement)
    passing = meets_thresholds(values, settings) & (values["q_value"] <= settings.max_q)
    return passing & values["specific"] if settings.require_specific else passing


def statistics_of(moments: Moments, settings: EdgesSettings) -> dict[int, Statistics]:
    """The statistics of all sources of a layer with q, without a verdict on specificity."""
    ((_, statistics),) = judged([lambda: moments], settings)
    return statistics


def count_edges(moments: Moments, settings: EdgesSettings) -> np.ndarray:
    """Number of edges of each source, int (source,), without the verdict on specificity."""
    rule = replace(settings, require_specific=False)
    return np.sum([call_edges(v, rule).sum(axis=1) for v in statistics_of(moments, rule).values()], axis=0)


def _rows(moments: Moments, layer: int, values: Statistics, settings: EdgesSettings) -> pd.DataFrame:
    source, target = np.nonzero(call_edges(values, settings))
    columns: dict[str, Any] = {
        "source_layer": np.full(len(source), moments.source_layer),
        "source_feature": moments.source_features[source],
        "target_layer": np.full(len(source), layer),
        "target_feature": target,
    }
    wanted = {column.name for column in TABLES["edges"]}
    columns |= {name: array[source, target] for name, array in values.items() if name in wanted}
    pairs = source, target
    columns["heterogeneity_p"] = heterogeneity(moments, layer, settings.readout, pairs)
    columns["stability"] = stability(moments, layer, settings, pairs)
    return pd.DataFrame(columns)


def count_pairs(moments: Moments, settings: EdgesSettings) -> pd.DataFrame:
    """Per target layer: sources and pairs that could be tested, and those that respond in any unit."""
    rows = []
    for layer, values in pair_statistics(moments, settings).items():
        published = values["n_units"] >= PUBLISHED_MIN_CELLS
        enough = published if settings.rule == "published" else values["tested"]
        responding = (values["n_positive"] + values["n_negative"]) > 0
        rows.append(
            {
                "source_layer": moments.source_layer,
                "target_layer": layer,
                "n_sources": int(enough.any(axis=1).sum()),
                "n_tested": int(enough.sum()),
                "n_responding": int((enough & responding).sum()),
            }
        )
    return make_table("tested", pd.DataFrame(rows))


def mirrored(values: Statistics) -> Statistics:
    """The same statistics if every unit's delta had the other sign (those on which the rules depend)."""
    n, positive, negative = values["n_units"], values["n_negative"], values["n_positive"]
    return values | {
        "n_positive": positive,
        "n_negative": negative,
        "snr": -values["snr"],
        "mean_delta": -values["mean_delta"],
        "consistency_published": np.maximum(positive, n - positive) / np.maximum(n, 1),
    }


def _weighted_share(values: np.ndarray, weights: np.ndarray) -> float:
    return float((weights * values).sum() / max(weights.sum(), 1))


def sign_shares(layers: Sequence[Blocks], settings: EdgesSettings, seed: int = 0) -> pd.DataFrame:
    """Share of negative edges under both rules, each beside the share that the rule itself makes.

    `layers` are the blocks of each source layer.

    The chance share keeps the size of every effect and gives it a random sign: a rule that treats both signs alike
    has 0.5. The interval resamples sources.
    """
    rows = []
    for rule in ("published", "calibrated"):
        chosen = replace(settings, rule=rule, require_specific=False)
        negative, clusters, passes = [], [], {"negative": 0, "positive": 0}
        for moments, statistics in (found for blocks in layers for found in judged(blocks, chosen)):
            for values in statistics.values():
                called = call_edges(values, chosen)
                sign = np.sign(values["mean_delta"])
                negative.append(sign[called] < 0)
                features = moments.source_features[np.nonzero(called)[0]]
                clusters.append(features + 1_000_000 * moments.source_layer)
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
