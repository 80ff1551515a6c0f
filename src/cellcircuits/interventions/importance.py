"""Do hubs matter more for the model's own task than other features that fire as often?

A hub is a source with the most edges; its controls are features of the same layer with the nearest firing rates. For
cells in which BOTH are active, and the genes hidden in them,

    d = (loss without the hub - loss) - (loss without the control - loss)

so that neither the cells nor what is common to them differs between the two.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu
from scipy.stats import t as t_distribution

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.interventions.changes import condition
from cellcircuits.interventions.inputs import Feature, Inputs, most_edges
from cellcircuits.interventions.masked_loss import loss_changes, why_no_loss
from cellcircuits.masking import draw_masks
from cellcircuits.selection import pair_by_firing_rate
from cellcircuits.stats import benjamini_hochberg, one_sample_t, symmetric_mean_test
from cellcircuits.tables import empty_table, make_table

ASKED = "Does the model's own task need hubs more than other features?"
STATISTIC = "Rise of the masked-gene loss by the intervention on a hub - that on its controls (mean over hubs)"
CHANCE = (
    "no difference: controls of the same layer and the nearest firing rate, in the same cells; hubs are the units, "
    "signs flipped"
)
PUBLISHED = (
    "mean over hubs - mean over controls of: mean loss over the cells in which the feature is active - mean clean loss "
    "over ALL cells; mixes what the feature does with which cells it is active in"
)
CONFIDENCE = 0.975


def ask(inputs: Inputs) -> Found:
    """Table `importance`, and whether hubs matter more than their controls."""
    why = why_no_loss(inputs.model, inputs.cells)
    edges = inputs.run.edges.groupby(["source_layer", "source_feature"]).size()
    hubs = _hubs(inputs, edges)
    pairs = matched_controls(hubs, inputs.run.features, inputs.settings.importance_controls)
    if not why and not hubs:
        why = "No source has an edge. Trace more sources, call edges by a weaker rule, or name features."
    if not why and pairs.empty:
        why = "The layers of the hubs have no other feature that fires, so hubs have no controls."
    if why:
        return Found({"importance": empty_table("importance")}, [untestable("importance", ASKED, STATISTIC, why)])
    features = sorted({*_ends(pairs, "hub"), *_ends(pairs, "control")})
    engine = inputs.intervener(features)
    with inputs.progress.task("Hubs and controls", len(inputs.cells)) as advance:
        masks = draw_masks(inputs.cells, inputs.settings.masked_share, inputs.settings.seed)
        conditions = [condition([feature], inputs.change) for feature in features]
        rise, clean = loss_changes(engine, inputs.cells, masks, conditions, advance)
    place = {feature: i for i, feature in enumerate(features)}
    hub = np.array([place[end] for end in _ends(pairs, "hub")])
    control = np.array([place[end] for end in _ends(pairs, "control")])
    table = _table(inputs, pairs, edges, paired(rise[:, hub], rise[:, control]))
    published = as_published(rise, clean, np.unique(hub), np.unique(control))
    return Found({"importance": table}, [_answer(inputs, table, published)])


def _hubs(inputs: Inputs, edges: pd.Series) -> list[Feature]:
    if inputs.settings.features:
        return inputs.sources
    n = inputs.settings.importance_hubs
    return [hub for hub in most_edges(inputs.run.edges, inputs.run.sources, n, inputs.model.n_layers) if hub in edges]


def _ends(pairs: pd.DataFrame, which: str) -> list[Feature]:
    return list(zip(pairs["layer"].tolist(), pairs[which].tolist(), strict=True))


def matched_controls(hubs: list[Feature], features: pd.DataFrame, n: int) -> pd.DataFrame:
    """Columns layer, hub, control, hub_rate, control_rate: up to `n` controls of each hub, none of which is a hub.

    Controls fire as nearly as often as can be (see `pair_by_firing_rate`), and none is used twice, so that hubs are
    independent units. Hubs of a layer with too few features have fewer.
    """
    rows = []
    alive = features[features["firing_rate"] > 0]
    for layer in sorted({layer for layer, _ in hubs}):
        here = alive[alive["layer"] == layer]
        is_hub = here["feature"].isin([feature for of, feature in hubs if of == layer])
        rate = here.set_index("feature")["firing_rate"]
        own, pool = here[is_hub], here[~is_hub]
        for _ in range(n):
            if len(pool) < len(own):
                break
            partners = pair_by_firing_rate(own, pool)
            rows += [(layer, hub, control, rate[hub], rate[control]) for hub, control in partners.items()]
            pool = pool[~pool["feature"].isin(list(partners.values()))]
    names = ["layer", "hub", "control", "hub_rate", "control_rate"]
    return pd.DataFrame(rows, columns=names).sort_values(names[:2], kind="stable", ignore_index=True)


def paired(hub: np.ndarray, control: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of `hub` - `control` (cell, pair) over the cells in which neither is NaN, {column: (pair,)}.

    The interval is that of a t distribution; all are 0 and p = 1 without cells.
    """
    both = np.isfinite(hub) & np.isfinite(control)
    n = both.sum(axis=0)
    difference = np.where(both, hub - control, 0.0)
    of_hub, of_control, mean = (
        np.where(both, x, 0.0).sum(axis=0) / np.maximum(n, 1) for x in (hub, control, difference)
    )
    squares = np.where(both, (difference - mean) ** 2, 0.0).sum(axis=0)
    sd = np.sqrt(squares / np.maximum(n - 1, 1))
    error = t_distribution.ppf(CONFIDENCE, np.maximum(n - 1, 1)) * sd / np.sqrt(np.maximum(n, 1))
    return {
        "n_cells": n,
        "mean_hub": of_hub,
        "mean_control": of_control,
        "difference": mean,
        "sd_difference": sd,
        "low": mean - error,
        "high": mean + error,
        "p_value": one_sample_t(mean, sd, n),
    }


def as_published(rise: np.ndarray, clean: np.ndarray, hubs: np.ndarray, controls: np.ndarray) -> tuple[float, float]:
    """(difference of means, Mann-Whitney p) of unpaired changes: see PUBLISHED.

    `rise` (cell, feature), NaN where the feature is not active; `clean` (cell,); `hubs`, `controls`: columns.
    """
    known = np.isfinite(rise)
    after = np.where(known, rise + clean[:, None], 0.0).sum(axis=0)
    with np.errstate(invalid="ignore"):
        change = after / np.where(known.any(axis=0), known.sum(axis=0), np.nan) - clean.mean()
    of_hubs, of_controls = (change[which][np.isfinite(change[which])] for which in (hubs, controls))
    if not len(of_hubs) or not len(of_controls):
        return float("nan"), float("nan")
    return float(of_hubs.mean() - of_controls.mean()), float(mannwhitneyu(of_hubs, of_controls).pvalue)


def _table(inputs: Inputs, pairs: pd.DataFrame, edges: pd.Series, statistics: dict[str, np.ndarray]) -> pd.DataFrame:
    tested = statistics["n_cells"] >= inputs.settings.min_cells
    statistics["p_value"] = np.where(tested, statistics["p_value"], 1.0)
    q = np.ones(len(pairs))
    q[tested] = benjamini_hochberg(statistics["p_value"][tested])
    counts = {
        f"{which}_edges": edges.reindex(pd.MultiIndex.from_tuples(_ends(pairs, which)), fill_value=0).to_numpy()
        for which in ("hub", "control")
    }
    return make_table("importance", pairs.assign(**counts, **statistics, q_value=q))


def _answer(inputs: Inputs, table: pd.DataFrame, published: tuple[float, float]) -> Answer:
    tested = table[table["n_cells"] >= inputs.settings.min_cells]
    if tested.empty:
        why = (
            f"No hub is active together with a control in min_cells = {inputs.settings.min_cells} of the "
            f"{len(inputs.cells):,} cells. Raise n_cells or importance_controls."
        )
        return untestable("importance", ASKED, STATISTIC, why)
    hubs = tested.groupby(["layer", "hub"])[["difference", "mean_hub", "mean_control"]].mean()
    mean, n = hubs.mean(), len(hubs)
    error = t_distribution.ppf(CONFIDENCE, n - 1) * hubs["difference"].std() / np.sqrt(n) if n > 1 else float("nan")
    settings = inputs.settings
    return Answer(
        "importance",
        ASKED,
        STATISTIC,
        float(mean["difference"]),
        0.0,
        CHANCE,
        float(mean["difference"] - error),
        float(mean["difference"] + error),
        p_value=symmetric_mean_test(hubs["difference"].to_numpy(), settings.seed),
        claim="higher",
        published=published[0],
        published_is=PUBLISHED,
        note=f"{n:,} {'named features' if settings.features else 'hubs'}, {len(tested):,} pairs with a control, "
        f'{len(inputs.cells):,} cells, {settings.masked_share:.0%} of genes hidden. Intervention "{settings.kind}" at '
        f"{settings.positions} positions: the loss rises by {mean['mean_hub']:.3g} for hubs, by "
        f"{mean['mean_control']:.3g} for controls. The published Mann-Whitney test has p = {published[1]:.2g}.",
    )
