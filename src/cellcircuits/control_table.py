"""What the rules find for control directions and on random weights, beside what they find for the sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pandas as pd

from cellcircuits.edge_calling import Blocks, call_edges, judged, meets_thresholds, statistics_of
from cellcircuits.formats import RANDOM_WEIGHTS
from cellcircuits.moments import Moments
from cellcircuits.pair_statistics import Statistics, pair_statistics
from cellcircuits.settings import EdgesSettings, Readout
from cellcircuits.specificity import specificity_of_directions
from cellcircuits.stats import benjamini_hochberg, count_discoveries
from cellcircuits.tables import empty_table, make_table

KINDS = ("own", "random", "feature", RANDOM_WEIGHTS)
SWEPT_SNR = (0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0)
SWEPT_AGREEMENT = (0.6, 0.7, 0.8, 0.9, 1.0)


def control_counts(controls: Moments, settings: EdgesSettings) -> pd.DataFrame:
    """Numbers of edges of each direction in the place of the sources of one layer.

    One row per direction: direction (own, random, feature), n_tested, edges_published, edges_exist, edges_specific (NaN
    without enough random directions). Each direction is corrected for on its own, as if it were the only one traced.
    """
    chosen = _readable(controls, settings)
    beyond = specificity_of_directions(controls, chosen.readout)
    rows = []
    for index, name in enumerate(controls.directions):
        statistics = statistics_of(controls.of_direction(index), chosen)
        row = {"direction": name.split(" ")[0], **_edges_by_rule(statistics, chosen), "edges_specific": np.nan}
        if beyond:
            tested = {layer: values["tested"] for layer, values in statistics.items()}
            exist = {layer: call_edges(values, _exists(chosen)) for layer, values in statistics.items()}
            p = [np.where(exist[layer], beyond[index][layer].p, 1.0)[t] for layer, t in tested.items()]
            row["edges_specific"] = (benjamini_hochberg(np.concatenate(p)) <= chosen.max_q).sum()
        rows.append(row)
    return pd.DataFrame(rows)


def source_counts(blocks: Blocks, settings: EdgesSettings, direction: str) -> pd.DataFrame:
    """The same of all sources of a layer without control directions, of which one block at a time is in memory.

    One row, named `direction`; edges_specific is NaN.
    """
    chosen = _readable(blocks[0](), settings)
    counted = [_edges_by_rule(statistics, chosen) for _, statistics in judged(blocks, chosen)]
    total = {name: sum(part[name] for part in counted) for name in counted[0]}
    return pd.DataFrame([{"direction": direction, **total, "edges_specific": np.nan}])


def _exists(settings: EdgesSettings) -> EdgesSettings:
    """The rule for the verdict `exists`."""
    return replace(settings, rule="calibrated", require_specific=False)


def _edges_by_rule(statistics: dict[int, Statistics], settings: EdgesSettings) -> dict[str, int]:
    """Numbers of tested pairs and of edges, over all target layers."""
    published = replace(settings, rule="published")
    return {
        "n_tested": sum(int(values["tested"].sum()) for values in statistics.values()),
        "edges_published": sum(int(call_edges(values, published).sum()) for values in statistics.values()),
        "edges_exist": sum(int(call_edges(values, _exists(settings)).sum()) for values in statistics.values()),
    }


def control_table(counts: Sequence[pd.DataFrame], context: str) -> pd.DataFrame:
    """Table `controls` from the counts of all source layers: sums over layers, means over directions of a kind."""
    numbers = ["n_tested", "edges_published", "edges_exist", "edges_specific"]
    total = counts[0].copy()
    total[numbers] = sum(part[numbers].to_numpy(dtype=float) for part in counts)
    grouped = total.groupby("direction")
    table = grouped[numbers].mean().reindex([kind for kind in KINDS if kind in grouped.groups]).reset_index()
    table["n_directions"] = table["direction"].map(grouped.size())
    table["context"] = context
    for verdict in ("exist", "specific"):
        table[f"share_{verdict}"] = table[f"edges_{verdict}"] / table["n_tested"].clip(lower=1)
    return make_table("controls", table)


def sweep(moments: Moments, settings: EdgesSettings, direction: str = "own") -> pd.DataFrame:
    """Edges of one source layer under the calibrated rule at every pair of swept thresholds."""
    chosen = replace(_readable(moments, settings), rule="calibrated", require_specific=False)
    statistics = pair_statistics(moments, chosen).values()
    n_tested = sum(int(values["tested"].sum()) for values in statistics)
    rows = []
    for snr in SWEPT_SNR:
        for agreement in SWEPT_AGREEMENT:
            rule = replace(chosen, min_snr=snr, min_agreement=agreement)
            p = np.concatenate([values["p_value"][meets_thresholds(values, rule)] for values in statistics])
            n = count_discoveries(p, n_tested, rule.max_q)
            rows.append({"direction": direction, "min_snr": snr, "min_agreement": agreement, "edges": n})
    return pd.DataFrame(rows)


def sample_size_curve(moments: Moments, settings: EdgesSettings) -> pd.DataFrame:
    """Edges of one source layer from the first group of cells, the first two, ... : table `sample_size`.

    Empty with one group. The thresholds stay; what changes is the number of cells.
    """
    rule = replace(settings, rule="calibrated", require_specific=False, unit="cell")
    if len(moments.groups) < 2:
        return empty_table("sample_size")
    everything = _called(moments, rule)
    rows = []
    for number in range(1, len(moments.groups) + 1):
        part = moments.of_groups(moments.groups[:number])
        called = _called(part, rule)
        kept = int((called & everything).sum())
        rows.append(
            {
                "source_layer": moments.source_layer,
                "n_groups": number,
                "n_cells": int(part.cells(readout=rule.readout).max(initial=0)),
                "n_edges": int(called.sum()),
                "n_kept": kept,
                "recall": kept / max(int(everything.sum()), 1),
            }
        )
    return make_table("sample_size", pd.DataFrame(rows))


def _called(moments: Moments, rule: EdgesSettings) -> np.ndarray:
    """bool (pair,) over all target layers."""
    statistics = statistics_of(moments, rule)
    return np.concatenate([call_edges(values, rule).ravel() for values in statistics.values()])


def _readable(moments: Moments, settings: EdgesSettings) -> EdgesSettings:
    """The settings with a readout and a unit that these moments have."""
    unit = settings.unit if len(moments.groups) > 1 else "cell"
    readout = settings.readout if settings.readout in moments.readouts else cast(Readout, moments.readouts[0])
    return replace(settings, readout=readout, unit=unit)
