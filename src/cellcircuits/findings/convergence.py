"""Do edges converge on fewer targets than chance?

Chance keeps how many targets each source has in each layer, and lets it pick other ones: all that fire alike
("uniform"), or in proportion to their firing rate ("rate"). Picking k of N targets one after the other with weights w
includes target t with probability 1 - exp(-c w_t), where c is such that these sum to k (Rosen 1972); with equal weights
this is k / N exactly. So the number of distinct targets has a mean and a variance in closed form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
import polars as pl
from scipy import stats as scipy_stats

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.measures.picks import PickScales, inclusion, pick_scales
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import benjamini_hochberg, gini
from cellcircuits.tables import TABLES, make_table

PUBLISHED_EDGES = 50
"""Edges per source and target layer, largest |snr| first, from which the published in-degree is counted."""
NUMBERS_DRAWN = 20_000_000
"""In-degrees drawn in all, at most: with many targets fewer draws, but never fewer than LEAST_DRAWS."""
LEAST_DRAWS = 20
PARTS = 20
"""Parts of the sources that are left out in turn for intervals."""
NULLS = ("uniform", "rate")
ASKED = "Do edges converge on fewer targets than chance?"
KEPT = "number of targets of each source in each layer kept; targets picked "
HOW = {"uniform": KEPT + "at random among those that fire", "rate": KEPT + "in proportion to their firing rate"}


def ask(evidence: Evidence, settings: FindingsSettings) -> Found:
    """Table `convergence`, and whether fewer targets are reached, by more sources each, than chance allows."""
    pairs = list(layer_pairs(evidence))
    names = [column.name for column in TABLES["convergence"]]
    if not pairs:
        why = "No edges reach targets that fire; look at the table tested, and loosen the rule or trace more cells."
        statistic = "Share of the targets that fire that any edge reaches"
        empty = make_table("convergence", pd.DataFrame(columns=names))
        return Found({"convergence": empty}, [untestable("convergence", ASKED, statistic, why)])
    rng = np.random.default_rng(settings.seed)
    least = min(LEAST_DRAWS, settings.permutations)
    draws = int(np.clip(NUMBERS_DRAWN // (2 * sum(len(p.weight) for p in pairs)), least, settings.permutations))
    scales = {pair.target_layer: pick_scales(pair.weight) for pair in pairs}
    chances = [
        {null: chance_of(pair, scales[pair.target_layer] if null == "rate" else None, draws, rng) for null in NULLS}
        for pair in pairs
    ]
    rows = [_row(pair, chance) for pair, chance in zip(pairs, chances, strict=True)]
    table = pd.DataFrame(rows)
    table["q_rate"] = benjamini_hochberg(table["p_rate"].to_numpy())
    return Found({"convergence": make_table("convergence", table)}, _answers(pairs, chances, table, draws))


def strongest_edges(edges: pl.DataFrame, n: int = PUBLISHED_EDGES) -> pl.DataFrame:
    """The `n` edges with the largest |snr| of every source in every target layer; of equal ones the first."""
    rank = pl.col("snr").abs().rank("ordinal", descending=True).over("source", "target_layer")
    return edges.filter(rank <= n)


@dataclass(frozen=True)
class LayerPair:
    """Edges between two layers."""

    source_layer: int
    target_layer: int
    out_degree: np.ndarray
    """int64 (source,): edges of each source with any."""
    weight: np.ndarray
    """float64 (target,): firing rate of all targets that fire."""
    in_degree: np.ndarray
    """int64 (target,)"""
    by_part: np.ndarray
    """int64 (part, target): in-degree from each part of the sources."""
    published: np.ndarray
    """int64 (target,): in-degree of the strongest edges alone."""


def layer_pairs(evidence: Evidence) -> Iterator[LayerPair]:
    """Every pair of layers with edges to targets that fire, in order."""
    rate, layer = (evidence.features[name].to_numpy() for name in ("firing_rate", "layer"))
    fires = pl.Series(rate > 0)
    edges = evidence.edges.filter((pl.col("source") >= 0) & (pl.col("target") >= 0))
    edges = edges.filter(fires.gather(edges["target"]))
    # a source is in the same part in all pairs of layers
    sources = np.unique(edges["source"].to_numpy())
    part_of = np.zeros(len(rate), dtype=np.int64)
    part_of[sources] = np.arange(len(sources)) % PARTS
    strongest = strongest_edges(edges).partition_by("source_layer", "target_layer", as_dict=True)
    for (source_layer, target_layer), part in sorted(
        edges.select("source_layer", "target_layer", "source", "target")
        .partition_by("source_layer", "target_layer", as_dict=True)
        .items()
    ):
        targets = np.flatnonzero((layer == target_layer) & (rate > 0))
        column = np.searchsorted(targets, part["target"].to_numpy())
        source, n = part["source"].to_numpy(), len(targets)
        out_degree = np.bincount(source)
        by_part = np.bincount(part_of[source] * n + column, minlength=PARTS * n).reshape(PARTS, n)
        top = np.searchsorted(targets, strongest[source_layer, target_layer]["target"].to_numpy())
        yield LayerPair(
            int(source_layer),
            int(target_layer),
            out_degree[out_degree > 0],
            rate[targets],
            by_part.sum(axis=0),
            by_part,
            np.bincount(top, minlength=n),
        )


@dataclass(frozen=True)
class Chance:
    """What a null makes of one pair of layers."""

    distinct: float
    """Mean number of distinct targets."""
    variance: float
    """Its variance."""
    gini: np.ndarray
    """float64 (draw,)"""
    largest: np.ndarray
    """int64 (draw,): largest in-degree."""


def chance_of(pair: LayerPair, scales: PickScales | None, draws: int, rng: np.random.Generator) -> Chance:
    """Mean and variance of the number of distinct targets, and draws of in-degrees; without `scales`, of equal picks.

    With p the chances that a source has a target, q_t = prod over sources of (1 - p_st) is the chance that none has
    target t. If sources picked every target on its own, the number of targets missed would have variance
    sum q (1 - q); that each picks exactly its number takes (sum over t of q_t p_st)^2 / sum over t of p_st (1 - p_st)
    away for every source s. In-degrees are drawn from binomial distributions with the mean and the variance of the sum
    of the sources' picks.
    """
    degrees, n_sources = np.unique(pair.out_degree, return_counts=True)
    if scales is None or np.ptp(scales.weight) == 0:
        p = np.tile((degrees / len(pair.weight))[:, None], len(pair.weight))
    else:
        p = inclusion(scales, degrees)
    with np.errstate(divide="ignore"):
        missed = np.exp(n_sources @ np.log1p(-p))
    spread, shared = (p * (1 - p)).sum(axis=1), (p @ missed) ** 2
    fixed = n_sources @ np.divide(shared, spread, out=np.zeros(len(p)), where=spread > 1e-12)
    variance = max(float((missed * (1 - missed)).sum() - fixed), 0.0)
    mean, squares = n_sources @ p, n_sources @ p**2
    trials = np.ceil(mean**2 / squares - 1e-9).astype(np.int64)
    ginis, largest = [], []
    at_once = max(1, 2_000_000 // len(mean))
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start), len(mean)
        drawn = rng.binomial(trials, np.minimum(mean / trials, 1.0), size=size)
        ginis.append(gini(drawn))
        largest.append(drawn.max(axis=1))
    return Chance(float((1 - missed).sum()), variance, np.concatenate(ginis), np.concatenate(largest))


def fewer_p(distinct: float, mean: float, variance: float) -> float:
    """Chance of at most so many distinct targets: normal approximation with continuity correction; 1 if none varies."""
    if variance <= 1e-9:
        return 1.0
    return float(scipy_stats.norm.cdf((distinct + 0.5 - mean) / np.sqrt(variance)))


def larger_p(value: float, drawn: np.ndarray) -> float:
    """Chance of a value at least as large as this, by the mean and the spread of normal draws (t distribution)."""
    known = drawn[~np.isnan(drawn)]
    spread = known.std(ddof=1) if len(known) > 1 else 0.0
    if spread <= 1e-12:
        return 1.0
    t = (value - known.mean()) / (spread * np.sqrt(1 + 1 / len(known)))
    return float(scipy_stats.t.sf(t, len(known) - 1))


def _row(pair: LayerPair, chance: dict[str, Chance]) -> dict:
    distinct = int((pair.in_degree > 0).sum())
    row = {
        "source_layer": pair.source_layer,
        "target_layer": pair.target_layer,
        "n_sources": len(pair.out_degree),
        "n_targets": len(pair.weight),
        "n_edges": int(pair.in_degree.sum()),
        "n_distinct": distinct,
        "gini": float(gini(pair.in_degree)),
        "max_in_degree": int(pair.in_degree.max()),
        "published_edges": int(pair.published.sum()),
        "published_distinct": int((pair.published > 0).sum()),
        "published_max": int(pair.published.max()),
    }
    for null, made in chance.items():
        row |= {
            f"distinct_{null}": made.distinct,
            f"p_{null}": fewer_p(distinct, made.distinct, made.variance),
            f"gini_{null}": float(np.nanmean(made.gini)) if not np.isnan(made.gini).all() else nan,
            f"max_{null}": float(made.largest.mean()),
        }
    return row


def _left_out(pairs: list[LayerPair], statistic) -> float:
    """Standard error by leaving out one part of the sources at a time (delete-a-group jackknife)."""
    parts = np.flatnonzero(sum(pair.by_part.sum(axis=1) for pair in pairs))
    if len(parts) < 2:
        return nan
    values = np.array([statistic([pair.in_degree - pair.by_part[part] for pair in pairs]) for part in parts])
    return float(np.sqrt((len(parts) - 1) / len(parts) * ((values - values.mean()) ** 2).sum()))


def _mean_gini(in_degrees: list[np.ndarray]) -> float:
    """Mean Gini coefficient over pairs of layers, each counted by its edges."""
    edges = np.array([degrees.sum() for degrees in in_degrees], dtype=float)
    ginis = np.array([gini(degrees) if degrees.any() else 0.0 for degrees in in_degrees])
    return float(edges @ ginis / max(edges.sum(), 1))


def _answers(pairs: list[LayerPair], chances: list[dict[str, Chance]], table: pd.DataFrame, draws: int) -> list[Answer]:
    n_targets, distinct = int(table["n_targets"].sum()), int(table["n_distinct"].sum())
    error = _left_out(pairs, lambda degrees: sum(int((d > 0).sum()) for d in degrees) / n_targets)
    published = table["published_distinct"].sum() / n_targets
    answers = []
    for null in NULLS:
        mean = sum(chance[null].distinct for chance in chances)
        variance = sum(chance[null].variance for chance in chances)
        answers.append(
            Answer(
                "convergence",
                ASKED,
                f"Share of the targets that fire that any edge reaches ({null} picks)",
                distinct / n_targets,
                mean / n_targets,
                HOW[null],
                max(distinct / n_targets - 1.96 * error, 0.0),
                min(distinct / n_targets + 1.96 * error, 1.0),
                fewer_p(distinct, mean, variance),
                published,
                f"targets that any of the {PUBLISHED_EDGES} strongest edges per source and layer reaches: the cut, "
                "not the model, bounds it",
                "share",
                "A value below the baseline is convergence. Targets are counted once per layer of their sources.",
            )
        )
    share = table["n_edges"].to_numpy() / table["n_edges"].sum()
    drawn = share @ np.array([chance["rate"].gini for chance in chances])
    value, error = _mean_gini([pair.in_degree for pair in pairs]), _left_out(pairs, _mean_gini)
    answers.append(
        Answer(
            "convergence",
            "Do a few targets receive more of the edges than chance?",
            "Mean Gini coefficient of the in-degrees of a pair of layers, by edges",
            value,
            float(np.nanmean(drawn)) if not np.isnan(drawn).all() else nan,
            HOW["rate"] + f" ({draws:,} draws)",
            value - 1.96 * error,
            min(value + 1.96 * error, 1.0),
            larger_p(value, drawn),
            _mean_gini([pair.published for pair in pairs]),
            f"the same of the {PUBLISHED_EDGES} strongest edges per source and layer",
            note="Picked at random, whatever the firing rate, it would be "
            f"{float(share @ table['gini_uniform'].fillna(0)):.2f}.",
        )
    )
    return answers
