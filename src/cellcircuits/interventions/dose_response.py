"""How do effects grow with the dose? The activation of a feature is multiplied by several factors."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.interventions.changes import Change, condition
from cellcircuits.interventions.features import feature_changes
from cellcircuits.interventions.inputs import Feature, Inputs
from cellcircuits.stats import benjamini_hochberg, one_sample_t, symmetric_mean_test
from cellcircuits.tables import TABLES, make_table

ASKED = "Do effects grow with the dose?"
LINEAR_ASKED = "Do effects depart from proportion to the dose?"
TREND = "Mean over sources of the rank correlation of dose and effect above dose 1, against the direction of removal"
CHANCE = "no trend: doses in random order within every cell have a mean of 0; sources are the units"
CONFIDENCE_Z = 1.959963984540054


def ask(inputs: Inputs) -> Found:
    """Tables `dose_response` and `dose_trends`, and whether effects follow the dose."""
    pairs = followed(inputs)
    doses = np.array(sorted({0.0, *inputs.settings.doses} - {1.0}))
    if pairs.empty:
        why = "The sources have no edge to follow. Name features with edges, or call edges by a weaker rule."
        return Found(
            {name: make_table(name, {c.name: [] for c in TABLES[name]}) for name in ("dose_response", "dose_trends")},
            [untestable("dose_response", ASKED, TREND, why)],
        )
    effects = cell_effects(inputs, pairs, doses)
    trends = _trends(inputs, pairs, doses, effects)
    tables = {"dose_response": _table(inputs, pairs, doses, effects), "dose_trends": trends}
    return Found(tables, [_trend_answer(inputs, trends), _linear_answer(inputs, trends)])


def followed(inputs: Inputs) -> pd.DataFrame:
    """The strongest edges of each source: source_layer, source_feature, target_layer, target_feature, in order."""
    ends = ["source_layer", "source_feature", "target_layer", "target_feature"]
    wanted = pd.DataFrame(inputs.sources, columns=ends[:2])
    edges = inputs.run.edges.merge(wanted, on=ends[:2])
    order = edges.assign(strength=-edges["snr"].abs()).sort_values(["strength", *ends])
    strongest = order.groupby(ends[:2], sort=False).head(inputs.settings.dose_targets)
    return strongest[ends].sort_values(ends, ignore_index=True)


def cell_effects(inputs: Inputs, pairs: pd.DataFrame, doses: np.ndarray) -> np.ndarray:
    """float64 (cell, pair, dose): change of the target where the source is active; NaN where it is active nowhere."""
    sources = sorted(set(zip(pairs["source_layer"].tolist(), pairs["source_feature"].tolist(), strict=True)))
    conditions = [condition([source], Change("scale", dose)) for source in sources for dose in doses]
    found = np.full((len(inputs.cells), len(pairs), len(doses)), np.nan)
    rows_of = _pairs_of(pairs, sources)
    engine = inputs.intervener(sources, Change("scale", 0.0))
    layers = sorted(set(pairs["target_layer"].tolist()))
    target = pairs["target_feature"].to_numpy()
    with inputs.progress.task("Doses", len(inputs.cells)) as advance:
        for number in range(len(inputs.cells)):
            clean = engine.clean(inputs.cells.take([number]), conditions)
            where = engine.positions(clean, conditions)
            some = np.flatnonzero(where.any(axis=1))
            for changed in engine.run(clean, [conditions[i] for i in some], number, layers):
                rows = some[changed.rows]
                x, _ = feature_changes(clean, changed, where[rows], inputs.saes)
                for copy, row in enumerate(rows):
                    source, dose = divmod(int(row), len(doses))
                    mine = rows_of[sources[source], changed.layer]
                    found[number, mine, dose] = x[copy, target[mine]]
            advance(1)
    return found


def _pairs_of(pairs: pd.DataFrame, sources: list[Feature]) -> dict[tuple[Feature, int], np.ndarray]:
    """{(source, target layer): rows of `pairs`}."""
    layer, feature, above = (pairs[name].to_numpy() for name in ("source_layer", "source_feature", "target_layer"))
    return {
        (source, int(target)): np.flatnonzero((layer == source[0]) & (feature == source[1]) & (above == target))
        for source in sources
        for target in np.unique(above)
    }


def _table(inputs: Inputs, pairs: pd.DataFrame, doses: np.ndarray, effects: np.ndarray) -> pd.DataFrame:
    n = np.isfinite(effects).sum(axis=0)
    mean, sd = _moments(effects)
    p = one_sample_t(mean, sd, n)
    tested = n >= inputs.settings.min_cells
    q = np.ones_like(p)
    q[tested] = benjamini_hochberg(p[tested])
    error = CONFIDENCE_Z * sd / np.sqrt(np.maximum(n, 1))
    removal = mean[:, list(doses).index(0.0)]
    rows = pairs.loc[np.repeat(np.arange(len(pairs)), len(doses))].reset_index(drop=True)
    values = {
        "dose": np.tile(doses, len(pairs)),
        "n_cells": n.ravel(),
        "mean_delta": mean.ravel(),
        "sd_delta": sd.ravel(),
        "low": (mean - error).ravel(),
        "high": (mean + error).ravel(),
        "linear": (removal[:, None] * (1 - doses)).ravel(),
        "p_value": np.where(tested, p, 1.0).ravel(),
        "q_value": q.ravel(),
    }
    return make_table("dose_response", rows.assign(**values))


def _moments(effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample standard deviation over cells, 0 where fewer than one or two are known."""
    known = np.isfinite(effects)
    n = known.sum(axis=0)
    mean = np.where(known, effects, 0.0).sum(axis=0) / np.maximum(n, 1)
    squares = np.where(known, (effects - mean) ** 2, 0.0).sum(axis=0)
    return mean, np.sqrt(squares / np.maximum(n - 1, 1))


def trend_of_cells(effects: np.ndarray, doses: np.ndarray) -> np.ndarray:
    """Spearman correlation (cell, pair) of `doses` and effects, the undisturbed cell (dose 1, effect 0) included.

    NaN where the source is not active; 0 where all effects are equal.
    """
    with_clean = np.concatenate([effects, np.zeros((*effects.shape[:2], 1))], axis=2)
    dose_rank = rankdata([*doses, 1.0])
    dose_rank = dose_rank - dose_rank.mean()
    known = np.isfinite(with_clean).all(axis=2)
    rank = rankdata(np.where(known[..., None], with_clean, 0.0), axis=2)
    rank -= rank.mean(axis=2, keepdims=True)
    scale = np.sqrt((rank**2).sum(axis=2) * (dose_rank**2).sum())
    rho = np.divide(rank @ dose_rank, scale, out=np.zeros_like(scale), where=scale > 0)
    return np.where(known, rho, np.nan)


def _trends(inputs: Inputs, pairs: pd.DataFrame, doses: np.ndarray, effects: np.ndarray) -> pd.DataFrame:
    # edges were called because removal moves them: only doses that removal says nothing of can show a trend
    rho = trend_of_cells(effects[:, :, doses > 1], doses[doses > 1])
    n = np.isfinite(rho).sum(axis=0)
    mean_rho, sd_rho = _moments(rho)
    mean, _ = _moments(effects)
    removal, highest = mean[:, list(doses).index(0.0)], mean[:, -1]
    expected = removal * (1 - doses[-1])
    tested = n >= inputs.settings.min_cells
    p = np.where(tested, one_sample_t(mean_rho, sd_rho, n), 1.0)
    q = np.ones_like(p)
    q[tested] = benjamini_hochberg(p[tested])
    ordered = np.diff(np.column_stack([mean, np.zeros(len(mean))])[:, np.argsort([*doses, 1.0])], axis=1)
    values = {
        "n_cells": n,
        "removal": removal,
        "rank_correlation": mean_rho,
        "monotone": (ordered >= 0).all(axis=1) | (ordered <= 0).all(axis=1),
        "of_linear": np.divide(highest, expected, out=np.full(len(mean), np.nan), where=expected != 0),
        "p_value": p,
        "q_value": q,
    }
    return make_table("dose_trends", pairs.assign(**values))


def _per_source(trends: pd.DataFrame, values: pd.Series) -> np.ndarray:
    """Mean of `values` over the pairs of every source that has any."""
    keys = [trends["source_layer"], trends["source_feature"]]
    return values.groupby(keys).mean().dropna().to_numpy()


def _tested(inputs: Inputs, trends: pd.DataFrame) -> pd.DataFrame:
    return trends[(trends["n_cells"] >= inputs.settings.min_cells) & (trends["removal"] != 0)]


def _trend_answer(inputs: Inputs, trends: pd.DataFrame) -> Answer:
    tested = _tested(inputs, trends)
    if tested.empty:
        why = f"No source is active in min_cells = {inputs.settings.min_cells} of the {len(inputs.cells)} cells."
        return untestable("dose_response", ASKED, TREND, why)
    # removal is dose 0: an effect that follows the dose has the opposite sign above 1
    per_source = _per_source(tested, -np.sign(tested["removal"]) * tested["rank_correlation"])
    return Answer(
        "dose_response",
        ASKED,
        TREND,
        float(per_source.mean()),
        0.0,
        CHANCE,
        p_value=symmetric_mean_test(per_source, inputs.settings.seed),
        claim="higher",
        note=f"{len(per_source):,} sources, {len(tested):,} edges, {tested['monotone'].mean():.0%} of them monotone "
        f"over all doses; trend with q ≤ {inputs.settings.max_q} for "
        f"{(tested['q_value'] <= inputs.settings.max_q).sum():,}.",
    )


def _linear_answer(inputs: Inputs, trends: pd.DataFrame) -> Answer:
    statistic = "Effect of the highest dose / what a straight line through removal predicts (median over sources)"
    tested = _tested(inputs, trends)
    if tested.empty:
        why = "No source is active in enough cells."
        return untestable("dose_response", LINEAR_ASKED, statistic, why)
    per_source = _per_source(tested, tested["of_linear"])
    return Answer(
        "dose_response",
        LINEAR_ASKED,
        statistic,
        float(np.median(per_source)),
        1.0,
        "a model that is linear in the feature; sources are the units",
        p_value=symmetric_mean_test(per_source - 1.0, inputs.settings.seed),
        note=f"Dose {max(inputs.settings.doses):g}. Below 1: effects saturate; above 1: they take off.",
    )
