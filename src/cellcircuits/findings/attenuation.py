"""How far do effects reach? Edges by the distance between source and target layer."""

from __future__ import annotations

from math import nan

import numpy as np
import pandas as pd
import polars as pl
from scipy.stats import rankdata

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.measures.ordered import ordered_mean
from cellcircuits.settings import EdgesSettings, FindingsSettings
from cellcircuits.stats import bootstrap_sums, percentile_interval, symmetric_mean_test
from cellcircuits.tables import TABLES, make_table

ASKED = "Do effects fade with the distance between source and target layer?"
EVEN = "each source's edges spread evenly over its tested pairs at all distances; sources are the units"
PUBLISHED = (
    "the same of the published curve: mean edges per source and layer over those sources that have any edge there; "
    "leaving out sources without edges makes far layers look nearer"
)


def ask(evidence: Evidence, settings: FindingsSettings, rule: EdgesSettings | None = None) -> Found:
    """Tables `attenuation` and `attenuation_curve`, and whether edges prefer near layers.

    `rule` are the settings by which the edges were called; without it the defaults.
    """
    rule = rule or EdgesSettings()
    tables = {"attenuation": attenuation(evidence, rule.max_q if rule.rule == "calibrated" else nan)}
    tables["attenuation_curve"] = attenuation_curve(evidence, settings.permutations, settings.seed)
    return Found(tables, [_rank_answer(evidence, settings), _distance_answer(evidence, settings)])


def attenuation(evidence: Evidence, max_q: float) -> pd.DataFrame:
    """One row per pair of layers, with the number of pairs that could have been an edge.

    `chance_share` is the share of the tested pairs that would be false edges if the false discovery rate is at its
    bound: max_q x share_of_tested; with `max_q` NaN, for a rule without one, it is NaN. Layers have different numbers
    of features only if their autoencoders do.
    """
    pairs = ["source_layer", "target_layer"]
    described = evidence.edges.group_by(pairs, maintain_order=True).agg(
        n_edges=pl.len(),
        mean_abs_snr=ordered_mean(pl.col("snr").cast(pl.Float64).abs()),
        median_abs_relative_effect=pl.col("relative_effect").fill_nan(None).abs().median(),
        share_negative=ordered_mean(pl.col("mean_delta") < 0),
    )
    table = evidence.table("tested").merge(described.to_pandas(), on=pairs, how="left")
    table = table.sort_values(pairs, ignore_index=True)
    table["n_edges"] = table["n_edges"].fillna(0).astype("int64")
    table["distance"] = table["target_layer"] - table["source_layer"]
    table["edges_per_source"] = table["n_edges"] / table["n_sources"].clip(lower=1)
    table["share_of_tested"] = table["n_edges"] / table["n_tested"].clip(lower=1)
    table["chance_share"] = max_q * table["share_of_tested"]
    return make_table("attenuation", table.drop(columns=["n_tested", "n_responding"]))


def targets_per_source(evidence: Evidence) -> np.ndarray:
    """(source layer, target layer): targets tested per source; 0 where none was."""
    targets, tested = np.zeros((evidence.n_layers, evidence.n_layers)), evidence.table("tested")
    per_source = tested["n_tested"] / tested["n_sources"].clip(lower=1)
    targets[tested["source_layer"], tested["target_layer"]] = per_source
    return targets


def edges_by_layer(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """(int (source,): layer of each ablated source, int64 (source, layer): its edges to each layer)."""
    sources = evidence.source_rows[evidence.source_rows >= 0]
    edges, layers = evidence.edges, evidence.n_layers
    # the last place is for ends that are no feature, whose row is -1
    place = np.full(len(evidence.features) + 1, -1)
    place[sources] = np.arange(len(sources))
    row = place[edges["source"].to_numpy()]
    code = row[row >= 0] * layers + edges["target_layer"].to_numpy()[row >= 0]
    counts = np.bincount(code, minlength=len(sources) * layers).reshape(len(sources), layers)
    return evidence.features["layer"].to_numpy()[sources], counts


def by_distance(layer: np.ndarray, counts: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges of each source at each distance, and the same spread evenly over its tested pairs; (source, distance)."""
    observed, expected = np.zeros(counts.shape), np.zeros(counts.shape)
    for source_layer in np.unique(layer):
        mine, reach = layer == source_layer, targets[source_layer]
        there = np.flatnonzero(reach)
        share = reach[there] / max(reach.sum(), 1)
        observed[np.ix_(mine, there - source_layer)] = counts[np.ix_(mine, there)]
        expected[np.ix_(mine, there - source_layer)] = counts[mine][:, there].sum(axis=1, keepdims=True) * share
    return observed, expected


def published_curve(layer: np.ndarray, counts: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(distance,): mean over source layers of the mean edges of those sources that have any, NaN where none has.

    Kendiukhov 2026, `attenuation_curve_raw`.
    """
    sums, known = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
    for source_layer in np.unique(layer):
        mine = counts[layer == source_layer]
        n = (mine > 0).sum(axis=0)
        there = np.flatnonzero((targets[source_layer] > 0) & (n > 0))
        sums[there - source_layer] += mine.sum(axis=0)[there] / n[there]
        known[there - source_layer] += 1
    return np.divide(sums, known, out=np.full(len(sums), nan), where=known > 0)


def attenuation_curve(evidence: Evidence, draws: int, seed: int) -> pd.DataFrame:
    """Table `attenuation_curve`: edges at each distance beside an even spread."""
    layer, counts = edges_by_layer(evidence)
    targets, tested = targets_per_source(evidence), evidence.table("tested")
    observed, expected = by_distance(layer, counts, targets)
    sums = bootstrap_sums(np.stack([observed, expected], axis=1), draws, np.random.default_rng(seed))
    reached = tested.groupby(tested["target_layer"] - tested["source_layer"])["n_sources"].sum()
    published, rows = published_curve(layer, counts, targets), []
    for distance, n_sources in reached.items():
        n, mean = observed[:, distance].sum(), expected[:, distance].sum()
        positive = sums[:, 1, distance] > 0
        low, high = percentile_interval(sums[positive, 0, distance] / sums[positive, 1, distance])
        rows.append(
            {
                "distance": distance,
                "n_sources": n_sources,
                "n_edges": n,
                "n_expected": mean,
                "ratio": n / mean if mean > 0 else nan,
                "ratio_low": low,
                "ratio_high": high,
                "edges_per_source": n / max(n_sources, 1),
                "published": published[distance],
            }
        )
    names = [column.name for column in TABLES["attenuation_curve"]]
    return make_table("attenuation_curve", pd.DataFrame(rows, columns=names))


def distance_correlation(layer: np.ndarray, counts: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(source,): Spearman correlation of the share of tested pairs that are edges with the distance.

    NaN for sources with fewer than three target layers, or with the same share at all distances.
    """
    found = np.full(len(layer), nan)
    for source_layer in np.unique(layer):
        mine, there = np.flatnonzero(layer == source_layer), np.flatnonzero(targets[source_layer])
        if len(there) < 3:
            continue
        share = counts[np.ix_(mine, there)] / targets[source_layer][there]
        ranks = rankdata(share, axis=1) - (len(there) + 1) / 2
        place = np.arange(len(there)) - (len(there) - 1) / 2
        scale = np.sqrt((ranks**2).sum(axis=1) * (place**2).sum())
        found[mine] = np.divide(ranks @ place, scale, out=np.full(len(mine), nan), where=scale > 0)
    return found


def _rank_answer(evidence: Evidence, settings: FindingsSettings) -> Answer:
    statistic = "Mean over sources of the rank correlation of edge density with distance (negative: fading)"
    layer, counts = edges_by_layer(evidence)
    rho = distance_correlation(layer, counts, targets_per_source(evidence))
    rho = rho[~np.isnan(rho)]
    if len(rho) == 0:
        why = "No source has edges and three target layers; trace sources of a layer with three or more above it."
        return untestable("attenuation", ASKED, statistic, why)
    means = bootstrap_sums(rho, settings.permutations, np.random.default_rng(settings.seed)) / len(rho)
    low, high = percentile_interval(means)
    return Answer(
        "attenuation",
        ASKED,
        statistic,
        float(rho.mean()),
        0.0,
        EVEN,
        low,
        high,
        symmetric_mean_test(rho, settings.seed),
        claim="lower",
        note=f"{len(rho):,} sources with edges and at least three target layers. Target layers are shared by the "
        "sources: a layer whose features respond more readily is near for some and far for others.",
    )


def _distance_answer(evidence: Evidence, settings: FindingsSettings) -> Answer:
    statistic = "Mean distance of the edges"
    layer, counts = edges_by_layer(evidence)
    targets = targets_per_source(evidence)
    observed, expected = by_distance(layer, counts, targets)
    distance = np.arange(counts.shape[1])
    choice = np.array([(targets[source_layer] > 0).sum() > 1 for source_layer in range(len(targets))], dtype=bool)
    some = (observed.sum(axis=1) > 0) & choice[layer]
    if not some.any():
        why = "No source has edges and two target layers; trace sources of a layer with two or more above it."
        return untestable("attenuation", ASKED, statistic, why)
    per_source = np.stack([observed[some] @ distance, expected[some] @ distance, observed[some].sum(axis=1)], axis=1)
    total, chance, n = per_source.sum(axis=0)
    sums = bootstrap_sums(per_source, settings.permutations, np.random.default_rng(settings.seed))
    low, high = percentile_interval(sums[:, 0] / sums[:, 2])
    curve = np.nan_to_num(published_curve(layer, counts, targets))
    return Answer(
        "attenuation",
        ASKED,
        statistic,
        total / n,
        chance / n,
        EVEN,
        low,
        high,
        symmetric_mean_test(per_source[:, 0] - per_source[:, 1], settings.seed),
        claim="lower",
        published=float(curve @ distance / curve.sum()),
        published_is=PUBLISHED,
        unit="layers",
        note=f"{int(some.sum()):,} sources with edges and at least two target layers.",
    )
