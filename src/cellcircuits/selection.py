"""Which cells and which source features: every draw is seeded and reported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cellcircuits.errors import DataError, SettingsError, listed
from cellcircuits.settings import TraceSettings


def select_cells(
    obs: pd.DataFrame, where: dict[str, list[str]], n_cells: int, stratify_by: str, seed: int
) -> np.ndarray:
    """Sorted rows of the cells that match `where`, of which `n_cells` are drawn (0: all).

    With `stratify_by`, labels are drawn in proportion to their frequency, each at least once.

    Raises
    ------
    DataError
        If a column or label is absent, or there are fewer cells than asked for.
    """
    keep = np.ones(len(obs), dtype=bool)
    for column, labels in where.items():
        present = _labels(obs, column)
        absent = sorted(set(labels) - set(present))
        if absent:
            raise DataError(
                f"obs[{column!r}] has no {listed(absent)}; its labels are {listed(sorted(set(present)), 12)}."
            )
        keep &= np.isin(present, labels)
    rows = np.flatnonzero(keep)
    if len(rows) == 0:
        raise DataError(f"No cell has all of {where}." if where else "The data hold 0 cells.")
    if n_cells == 0 or n_cells == len(rows):
        return rows
    if n_cells > len(rows):
        raise DataError(f"{n_cells} cells were asked for; only {len(rows)} are there. Lower n_cells.")
    rng = np.random.default_rng(seed)
    if not stratify_by:
        return np.sort(rng.choice(rows, size=n_cells, replace=False))
    return _draw_in_proportion(rows, _labels(obs, stratify_by)[rows], n_cells, rng)


def _labels(obs: pd.DataFrame, column: str) -> np.ndarray:
    if column not in obs:
        raise DataError(f"obs has no column {column!r}; it has {listed(obs.columns, 12) or 'none'}.")
    return obs[column].astype(str).to_numpy(dtype=object)


def _draw_in_proportion(rows: np.ndarray, labels: np.ndarray, n_cells: int, rng: np.random.Generator) -> np.ndarray:
    names, sizes = np.unique(labels, return_counts=True)
    if n_cells < len(names):
        raise DataError(f"{n_cells} cells cannot hold all {len(names)} labels; raise n_cells or do not stratify.")
    # one cell each, the rest by largest remainder of the proportional share
    exact = 1 + (n_cells - len(names)) * (sizes - 1) / max((sizes - 1).sum(), 1)
    quota = np.floor(exact).astype(int)
    for index in np.argsort(-(exact - quota), kind="stable")[: n_cells - quota.sum()]:
        quota[index] += 1
    drawn = [
        rng.choice(rows[labels == name], size=size, replace=False) for name, size in zip(names, quota, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def evenly_spread(n_cells: int, number: int) -> np.ndarray:
    """int64 (cell,): so many of the cells, from the first to the last; all if there are not as many."""
    return np.linspace(0, n_cells - 1, min(number, n_cells)).astype(np.int64)


def default_source_layers(layers: list[int], n_layers: int) -> list[int]:
    """The first layer with an autoencoder, and those at one and two thirds of the depth that have layers above."""
    return sorted({layers[0], *(layer for layer in (n_layers // 3, 2 * n_layers // 3) if layer in layers[:-1])})


def pick_sources(features: pd.DataFrame, settings: TraceSettings, rng: np.random.Generator) -> np.ndarray:
    """Source features of one layer, sorted: those firing often enough, picked as `settings.select` says.

    "annotated" keeps only features with an annotation and takes the highest annotation scores; ties go to the higher
    firing rate, then to the lower index. "matched" are the two of every pair of `matched_pairs`.
    """
    pool = _firing(features, settings)
    if settings.select == "all":
        return np.sort(pool["feature"].to_numpy())
    if settings.select == "matched":
        pairs = matched_pairs(features, settings)
        return np.sort(np.array([*pairs, *pairs.values()], dtype=np.int64))
    if settings.select == "random":
        drawn = rng.choice(pool["feature"].to_numpy(), size=min(settings.n_features, len(pool)), replace=False)
        return np.sort(drawn)
    if settings.select == "annotated":
        return np.sort(_best_annotated(pool, settings.n_features)["feature"].to_numpy())
    ranked = pool.sort_values(["firing_rate", "n_firings", "feature"], ascending=[False, False, True])
    return np.sort(ranked["feature"].to_numpy()[: settings.n_features])


def _firing(features: pd.DataFrame, settings: TraceSettings) -> pd.DataFrame:
    """Features that fire often enough to be sources."""
    return features[(features["firing_rate"] >= settings.min_firing_rate) & (features["n_firings"] > 0)]


def _best_annotated(pool: pd.DataFrame, number: int) -> pd.DataFrame:
    annotated = pool[pool["n_terms"] > 0]
    order = ["annotation_score", "firing_rate", "feature"]
    return annotated.sort_values(order, ascending=[False, False, True]).head(number)


def matched_pairs(features: pd.DataFrame, settings: TraceSettings) -> dict[int, int]:
    """{annotated feature of a layer: feature without annotation that fires as often}, `n_features` / 2 of them.

    Annotated ones are picked as for "annotated", fewer where there are not so many; partners as by
    `pair_by_firing_rate`. Both fire often enough to be sources.

    Raises
    ------
    SettingsError
        If there are fewer features without annotation than with.
    """
    pool = _firing(features, settings)
    annotated, others = _best_annotated(pool, settings.n_features // 2), pool[pool["n_terms"] == 0]
    if len(others) < len(annotated):
        raise SettingsError(
            f'select = "matched" needs a feature without annotation for each of {len(annotated)} annotated ones; layer '
            f"{features['layer'].iloc[0]} has {len(others)} that fire often enough. "
            "Lower n_features or min_firing_rate."
        )
    return pair_by_firing_rate(annotated, others)


def match_firing_rates(features: pd.DataFrame, sources: Sequence[int], number: int) -> dict[int, list[int]]:
    """{source: the `number` other features of its layer that fire most nearly as often}, ties to the lower index.

    Raises
    ------
    SettingsError
        If the layer has too few features that fire.
    """
    alive = features[features["n_firings"] > 0].sort_values("feature")
    index, rate = alive["feature"].to_numpy(), np.log(alive["firing_rate"].to_numpy())
    if len(index) <= number:
        raise SettingsError(f"{number} matched features were asked for; only {len(index)} features of the layer fire.")
    own = dict(zip(index, rate, strict=True))
    found = {}
    for source in sources:
        order = np.argsort(np.abs(rate - own[source]), kind="stable")
        found[int(source)] = [int(f) for f in index[order] if f != source][:number]
    return found


def pair_by_firing_rate(first: pd.DataFrame, second: pd.DataFrame) -> dict[int, int]:
    """{feature of `first`: feature of `second`}: partners that fire as nearly equally often as can be, each used once.

    Both are rows of tables of features that fire, `second` no shorter than `first`. The sum over pairs of the
    |difference of log firing rates| is the smallest possible.
    """
    from scipy.optimize import linear_sum_assignment

    first, second = first.sort_values("feature"), second.sort_values("feature")
    rates = [np.log(table["firing_rate"].to_numpy()) for table in (first, second)]
    rows, columns = linear_sum_assignment(np.abs(rates[0][:, None] - rates[1]))
    partners = second["feature"].to_numpy()[columns]
    return {int(f): int(other) for f, other in zip(first["feature"].to_numpy()[rows], partners, strict=True)}
