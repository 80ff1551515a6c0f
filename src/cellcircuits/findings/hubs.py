"""Do a few features carry most edges, beyond what their firing rate explains?"""

from __future__ import annotations

from math import nan

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.measures.rate_model import Degrees, fit_rate_model
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import gini, percentile_interval
from cellcircuits.tables import TABLES, make_table

TOP = 20
"""Features whose share of the edges is reported."""
FEWEST = 30
"""Features with which a firing-rate model is fitted: layers, a slope and a curvature."""
NUMBERS_DRAWN = 15_000_000
"""Random degrees drawn in all, at most: with many features fewer draws, but never fewer than LEAST_DRAWS."""
LEAST_DRAWS = 200
DIRECTIONS = {"out": "sources", "in": "targets"}
ASKED = {
    "out": "Do a few sources carry most edges, beyond what their firing rate explains?",
    "in": "Do a few targets receive most edges, beyond what their firing rate explains?",
}
CHANCE = (
    "degrees drawn from a Poisson regression on layer, log firing rate and its square; the number of reachable targets "
    "(sources) is kept, and edges of a feature are independent of each other given its rate"
)


def ask(evidence: Evidence, settings: FindingsSettings) -> Found:
    """Tables `hubs` and `hub_rates`, and for both directions whether edges are concentrated beyond firing rates."""
    rows, answers = [], []
    for direction in DIRECTIONS:
        degrees = feature_degrees(evidence, direction)
        if len(degrees.degree) < FEWEST or degrees.degree.sum() == 0:
            why = f"Fewer than {FEWEST} {DIRECTIONS[direction]} that fire in layers with edges; trace more sources."
            answers.append(untestable("hubs", ASKED[direction], "Gini coefficient of the degree per layer", why))
            continue
        rows.append(rates(degrees, direction, settings))
        answers += _answers(rows[-1], degrees)
    names = [column.name for column in TABLES["hub_rates"]]
    tables = {"hubs": hubs(evidence), "hub_rates": make_table("hub_rates", pd.DataFrame(rows, columns=names))}
    return Found(tables, answers)


def hubs(evidence: Evidence) -> pd.DataFrame:
    """Out-degree of every source and in-degree of every target with an edge, highest first.

    Degrees are divided by the number of layers that could be reached (out) or that had sources below (in): a feature
    of an early layer has more layers above it. Features that fire often are measured in more cells and positions and
    have more edges for that reason alone; `degree_residual` is what is left of log10(1 + degree per layer) after a
    straight line in log10(firing rate), fitted for each direction. Features that never fired (an ablation can still
    wake them) have none.
    """
    tested, features = evidence.table("tested"), evidence.features
    above = tested.groupby("source_layer")["target_layer"].nunique()
    below = tested.groupby("target_layer")["source_layer"].nunique()
    sources = evidence.source_rows[evidence.source_rows >= 0]
    in_degree = degree_of(evidence, "in")
    targets = np.flatnonzero(in_degree)
    parts = []
    for direction, rows, degree, n_layers in (
        ("out", sources, degree_of(evidence, "out")[sources], above),
        ("in", targets, in_degree[targets], below),
    ):
        part = features.loc[rows, ["layer", "feature", "label", "firing_rate"]].assign(direction=direction)
        part["degree"] = degree
        part["degree_per_layer"] = degree / part["layer"].map(n_layers).fillna(1)
        parts.append(part.assign(degree_residual=_residual(part)))
    table = pd.concat(parts, ignore_index=True).sort_values(
        ["direction", "degree_per_layer", "layer", "feature"], ascending=[False, False, True, True], ignore_index=True
    )
    return make_table("hubs", table)


def _residual(frame: pd.DataFrame) -> np.ndarray:
    """Residuals of log10(1 + degree per layer) on log10(firing rate), NaN where the rate is 0.

    They are 0 where a line cannot be fitted: for fewer than three features, or if all have the same rate.
    """
    rate = frame["firing_rate"].to_numpy()
    fires = rate > 0
    residual = np.where(fires, 0.0, np.nan)
    if fires.sum() >= 3 and np.unique(rate[fires]).size >= 2:
        x, y = np.log10(rate[fires]), np.log10(1 + frame["degree_per_layer"].to_numpy()[fires])
        slope, intercept = np.polyfit(x, y, 1)
        residual[fires] = y - (slope * x + intercept)
    return residual


def degree_of(evidence: Evidence, direction: str) -> np.ndarray:
    """int64 (feature row,): number of edges that leave ("out") or reach ("in") each feature."""
    rows = evidence.edges["source" if direction == "out" else "target"].to_numpy()
    return np.bincount(rows[rows >= 0], minlength=len(evidence.features))


def feature_degrees(evidence: Evidence, direction: str) -> Degrees:
    """Ablated sources ("out"), or all features of target layers, with an edge or without ("in")."""
    tested, features = evidence.table("tested"), evidence.features
    mine, other = ("source_layer", "target_layer") if direction == "out" else ("target_layer", "source_layer")
    # a source is tested against all targets of a layer, a target against all its sources
    tested = tested.assign(reach=tested["n_tested"] / tested["n_sources"].clip(lower=1))
    reach = tested.groupby(mine)["reach" if direction == "out" else "n_sources"].sum()
    n_layers = tested[tested["n_tested"] > 0].groupby(mine)[other].nunique()
    everything = np.arange(len(features)) if direction == "in" else evidence.source_rows[evidence.source_rows >= 0]
    layer, rate = (features[name].to_numpy()[everything] for name in ("layer", "firing_rate"))
    degree = degree_of(evidence, direction)[everything]
    has_edges = np.bincount(layer, degree, minlength=evidence.n_layers) > 0
    used = (rate > 0) & has_edges[layer] & np.isin(layer, n_layers.index)
    layers = layer[used]
    return Degrees(degree[used], n_layers.loc[layers].to_numpy(), reach.loc[layers].to_numpy(float), layers, rate[used])


def concentration(degree: np.ndarray, n_layers: np.ndarray) -> np.ndarray:
    """Gini coefficient of the degrees per layer, and share of the edges of the TOP features; (2, ...).

    `degree` is (..., feature), `n_layers` (feature,).
    """
    top = min(TOP, degree.shape[-1])
    most = np.partition(degree, -top, axis=-1)[..., -top:].sum(axis=-1)
    total = degree.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([gini(degree / n_layers), np.where(total > 0, most / total, nan)])


def drawn_concentration(mean: np.ndarray, n_layers: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """`concentration` of Poisson degrees with these means, (2, draw)."""
    at_once = max(1, 2_000_000 // len(mean))
    parts = [
        concentration(rng.poisson(mean, size=(min(at_once, draws - start), len(mean))), n_layers)
        for start in range(0, draws, at_once)
    ]
    return np.concatenate(parts, axis=1)


def rates(degrees: Degrees, direction: str, settings: FindingsSettings) -> dict:
    """Row of the table `hub_rates`."""
    rng, n = np.random.default_rng(settings.seed), len(degrees.degree)
    draws = int(np.clip(NUMBERS_DRAWN // n, min(LEAST_DRAWS, settings.permutations), settings.permutations))
    model = fit_rate_model(degrees)
    observed = concentration(degrees.degree, degrees.n_layers)
    drawn = drawn_concentration(model.mean, degrees.n_layers, draws, rng)
    # an equal value in another order of summation may differ by rounding
    p = (1 + (drawn >= observed[:, None] - 1e-12).sum(axis=1)) / (1 + draws)
    correlation = scipy_stats.spearmanr(degrees.rate, degrees.per_layer) if _vary(degrees) else (nan, nan)
    resampled = _resampled(degrees, draws, rng)
    gini_interval, top_interval, rank_interval = (percentile_interval(values) for values in resampled)
    return {
        "direction": direction,
        "n_features": n,
        "n_edges": int(degrees.degree.sum()),
        "gini": observed[0],
        "gini_low": gini_interval[0],
        "gini_high": gini_interval[1],
        "gini_rate": drawn[0].mean(),
        "gini_p": p[0],
        "top_share": observed[1],
        "top_low": top_interval[0],
        "top_high": top_interval[1],
        "top_rate": drawn[1].mean(),
        "top_p": p[1],
        "deviance_explained": model.deviance_explained,
        "dispersion": model.dispersion,
        "dispersion_p": model.dispersion_p,
        "spearman": correlation[0],
        "spearman_low": rank_interval[0],
        "spearman_high": rank_interval[1],
        "spearman_p": correlation[1],
        "n_draws": draws,
    }


def _vary(degrees: Degrees) -> bool:
    return np.ptp(degrees.rate) > 0 and np.ptp(degrees.per_layer) > 0


def _resampled(degrees: Degrees, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Both values of `concentration` and the rank correlation, resampling features; (3, draw).

    Ranks are those among all features, so that a correlation costs no sorting.
    """
    n = len(degrees.degree)
    ranks = [scipy_stats.rankdata(values) - (n + 1) / 2 for values in (degrees.rate, degrees.per_layer)]
    found = np.full((3, draws), nan)
    for draw in range(draws):
        chosen = rng.integers(n, size=n)
        found[:2, draw] = concentration(degrees.degree[chosen], degrees.n_layers[chosen])
        a, b = ranks[0][chosen], ranks[1][chosen]
        if np.ptp(a) > 0 and np.ptp(b) > 0:
            found[2, draw] = np.corrcoef(a, b)[0, 1]
    return found


def _answers(row: dict, degrees: Degrees) -> list[Answer]:
    direction, features = row["direction"], DIRECTIONS[row["direction"]]
    share = row["deviance_explained"]
    explained = "Within layers all degrees are the same. "
    if not np.isnan(share):
        explained = (
            f"Within layers, the firing rate explains {100 * share:.0f} % of the deviance of the degrees; what is left "
            f"has variance = mean + {row['dispersion']:.2g} mean^2. "
        )
    explained += (
        "Edges of a feature are not independent (targets move together), which alone makes degrees more unequal than "
        "Poisson."
    )
    raw = float(gini(degrees.degree))
    return [
        Answer(
            "hubs",
            ASKED[direction],
            f"Gini coefficient of the degree per layer of {row['n_features']:,} {features}",
            value=row["gini"],
            baseline=row["gini_rate"],
            baseline_is=CHANCE,
            low=row["gini_low"],
            high=row["gini_high"],
            p_value=row["gini_p"],
            published=raw,
            published_is="Gini coefficient of the raw degree; features with more layers to reach have more edges",
            note=explained,
        ),
        Answer(
            "hubs",
            ASKED[direction],
            f"Share of the edges of the {min(TOP, row['n_features'])} {features} with the most edges",
            value=row["top_share"],
            baseline=row["top_rate"],
            baseline_is=CHANCE,
            low=row["top_low"],
            high=row["top_high"],
            p_value=row["top_p"],
            unit="share",
            note=explained,
        ),
        Answer(
            question="hubs",
            asked=f"Do {features} that fire more often have more edges?",
            statistic="Rank correlation of firing rate and degree per layer",
            value=row["spearman"],
            baseline=0.0,
            baseline_is="firing rates permuted over features",
            low=row["spearman_low"],
            high=row["spearman_high"],
            p_value=row["spearman_p"],
            claim="higher",
            note="Features that fire in more cells are measured more precisely: with a correlation near 1, hubs are "
            "first of all features that fire often.",
        ),
    ]
