"""What drives a target? From the target back: attribution to all features below, then removal of those it names.

Half of the cells with the target are screened (see `gradients`); in the other half features are removed one by one, and
the same number is measured (see `targets`), so that nothing is tested in the cells that it was chosen in. Removed are
the candidates, those with the largest mean attribution, and a random slice, evenly over the layers, in which the screen
is compared with removal feature by feature. Both are drawn from the features that are active in at least `min_cells`
cells of each half. What is done is removal where the feature is active, whatever `kind` and `positions` say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.interventions.attribution_answers import ASKED, FEWEST_COMPARED, STATISTICS, answers_of
from cellcircuits.interventions.changes import Change, condition
from cellcircuits.interventions.gradients import attribute
from cellcircuits.interventions.inputs import Feature, Inputs
from cellcircuits.interventions.observations import Observations
from cellcircuits.interventions.targets import Target, chosen_target
from cellcircuits.tables import empty_table, make_table

TABLE_NAMES = ("attribution", "attribution_candidates", "attribution_slice")
MOST_ROWS = 1000
"""Rows of the table `attribution`."""
STREAM_OF_HALVES, STREAM_OF_SLICE = 20, 21
SCREENED, ABLATED = 0, 1


@dataclass(frozen=True)
class Screen:
    """Sums over the cells of each half."""

    attribution: tuple[dict[int, Observations], dict[int, Observations]]
    """{layer: (1, feature)} of the screened half, and of the other."""
    removed: dict[int, Observations]
    """Norm of what a removal takes away, in the screened half."""
    cells: tuple[list[int], list[int]]
    """Numbers of the cells of each half that have the target."""


def ask(inputs: Inputs) -> Found:
    """Tables `attribution`, `attribution_candidates` and `attribution_slice`, and whether the screen is right."""
    target = chosen_target(inputs)
    if target is None:
        return _nothing("The run has no edge to take a target from. Name one: attribution_target.")
    layers = target.layers(inputs.saes)
    screen = screened(inputs, target, layers)
    least = inputs.settings.min_cells
    if min(map(len, screen.cells)) < least:
        return _nothing(
            f"The target {target.name} is in {len(screen.cells[SCREENED])} and {len(screen.cells[ABLATED])} cells of "
            f"the two halves; min_cells = {least} are needed in each. Take more cells (n_cells), or another target."
        )
    features = feature_table(screen, layers)
    table = _strongest(target, features)
    eligible = features[(features["n_cells_screened"] >= least) & (features["n_cells"] >= least)]
    if len(eligible) < FEWEST_COMPARED:
        why = f"Only {len(eligible)} features below {target.name} are active in min_cells = {least} cells of each half."
        return _nothing(f"{why} Take more cells (n_cells), or a target higher up.", {"attribution": table})
    candidates = by_size(eligible).head(inputs.settings.attribution_candidates)
    chosen = random_slice(eligible, inputs.settings.attribution_slice, inputs.settings.seed)
    exact = removed_one_by_one(inputs, target, screen.cells[ABLATED], pd.concat([candidates, chosen]))
    keys = ["layer", "feature"]
    tables = {
        name: make_table(name, rows.merge(exact, on=keys, how="left").assign(target=target.name))
        for name, rows in (("attribution_candidates", candidates), ("attribution_slice", chosen))
    }
    answers = answers_of(inputs.settings, target, tables, tuple(map(len, screen.cells)))
    return Found({"attribution": table} | tables, answers)


def screened(inputs: Inputs, target: Target, layers: list[int]) -> Screen:
    """Attribution in all cells, one forward and one backward pass of each, summed within each half.

    Of the cells that have the target, in random order, every other one is of the screened half.
    """

    def sums() -> dict[int, Observations]:
        return {layer: Observations(1, inputs.saes[layer].n_features) for layer in layers}

    attribution, removed = (sums(), sums()), sums()
    cells: tuple[list[int], list[int]] = ([], [])
    steps, size, row = inputs.settings.attribution_steps, inputs.settings.batch_size, np.array([0])
    order = np.random.default_rng([inputs.settings.seed, STREAM_OF_HALVES]).permutation(len(inputs.cells))
    with inputs.progress.task("Attribution", len(order)) as advance:
        for number in order.tolist():
            cell = inputs.cells.take([number])
            found = attribute(inputs.model, inputs.saes, cell, target, layers, steps, size)
            if found is not None:
                half = SCREENED if len(cells[SCREENED]) == len(cells[ABLATED]) else ABLATED
                cells[half].append(number)
                for layer in layers:
                    x = found.attribution[layer][None]
                    attribution[half][layer].add(row, x, np.zeros_like(x))
                    if half == SCREENED:
                        removed[layer].add(row, found.removed[layer][None], np.zeros_like(x))
            advance(1)
    return Screen(attribution, removed, cells)


def feature_table(screen: Screen, layers: list[int]) -> pd.DataFrame:
    """One row per feature that is active with the target in a screened cell, in order of layer and number."""
    parts = []
    for layer in layers:
        here, there, removed = screen.attribution[SCREENED][layer], screen.attribution[ABLATED][layer], screen.removed
        feature = np.flatnonzero(here.n[0] > 0)
        columns = {
            "layer": np.full(len(feature), layer),
            "feature": feature,
            "n_cells_screened": here.n[0, feature].astype(np.int64),
            "attribution": here.mean[0, feature],
            "sd_attribution": here.sd[0, feature],
            "removed": removed[layer].mean[0, feature],
            "n_cells": there.n[0, feature].astype(np.int64),
            "attribution_here": there.mean[0, feature],
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def by_size(features: pd.DataFrame) -> pd.DataFrame:
    """From the largest |attribution| to the smallest, with their `rank` from 1; ties by layer and number."""
    order = features.assign(size=features["attribution"].abs())
    order = order.sort_values(["size", "layer", "feature"], ascending=[False, True, True], ignore_index=True)
    return order.drop(columns="size").assign(rank=np.arange(1, len(order) + 1))


def random_slice(features: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """`n` random features, as evenly over their layers as can be, in order of layer and number."""
    rng = np.random.default_rng([seed, STREAM_OF_SLICE])
    shuffled = features.iloc[rng.permutation(len(features))]
    place = shuffled.groupby("layer").cumcount()
    order = shuffled.assign(place=place).sort_values(["place", "layer"], kind="stable")
    return order.head(n).drop(columns="place").sort_values(["layer", "feature"], ignore_index=True)


def removed_one_by_one(inputs: Inputs, target: Target, numbers: list[int], rows: pd.DataFrame) -> pd.DataFrame:
    """What the removal of each feature of `rows` does to the target in the cells `numbers`: layer, feature, and tests.

    The family of q is all features of `rows`.
    """
    sources: list[Feature] = sorted(set(zip(rows["layer"].tolist(), rows["feature"].tolist(), strict=True)))
    conditions = [condition([source], Change("zero")) for source in sources]
    engine, sums = inputs.intervener(sources, Change("zero")), Observations(len(sources), 1)
    with inputs.progress.task("Removing features", len(numbers)) as advance:
        for number in numbers:
            cell = inputs.cells.take([number])
            clean = engine.clean(cell, conditions)
            was = clean.states.hidden[target.top]
            at = target.where(cell, was)
            value = float(target.value(was, cell, at))
            some = np.flatnonzero(engine.positions(clean, conditions).any(axis=1))
            for changed in engine.run(clean, [conditions[i] for i in some], number, [target.top]):
                x = target.change(changed.states, was, cell, at).double().cpu().numpy()[:, None]
                sums.add(some[changed.rows], x, np.full_like(x, value))
            advance(1)
    found = sums.statistics(inputs.settings.min_cells)
    names = ("mean_delta", "sd_delta", "low", "high", "clean", "p_value", "q_value")
    ends = np.array(sources, dtype=np.int64).reshape(-1, 2)
    table = pd.DataFrame({"layer": ends[:, 0], "feature": ends[:, 1]} | {name: found[name][:, 0] for name in names})
    attribution = table.merge(rows[["layer", "feature", "attribution"]].drop_duplicates(), on=["layer", "feature"])
    agrees = np.sign(attribution["attribution"]) == np.sign(table["mean_delta"])
    return table.assign(confirmed=(table["q_value"] <= inputs.settings.max_q) & agrees)


def _strongest(target: Target, features: pd.DataFrame) -> pd.DataFrame:
    """Table `attribution`."""
    rows = by_size(features).head(MOST_ROWS).drop(columns=["n_cells", "attribution_here", "rank"])
    return make_table("attribution", rows.assign(target=target.name))


def _nothing(why: str, tables: dict[str, pd.DataFrame] | None = None) -> Found:
    """No answer, and why."""
    answers: list[Answer] = [
        untestable("attribution", asked, statistic, why) for asked, statistic in zip(ASKED, STATISTICS, strict=True)
    ]
    return Found({name: empty_table(name) for name in TABLE_NAMES} | (tables or {}), answers)
