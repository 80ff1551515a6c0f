"""Circuits as sets of features: which features come first, and random circuits that fire as often."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cellcircuits.interventions.inputs import Feature

NEAREST = 25
"""Features of the nearest firing rate among which the partner of a feature is drawn."""
ENDS = ["layer", "feature"]


def ranked_nodes(edges: pd.DataFrame, layers: Sequence[int], named: Sequence[Feature] = ()) -> pd.DataFrame:
    """Columns layer, feature, strength, n_edges: the ends of `edges` in `layers`, the strongest first.

    strength = sum of |snr| over the edges into and out of the feature; ties by layer and number. With `named` features
    these alone, in the same order; one without an edge has strength 0.
    """
    ends = [
        edges[[f"{end}_layer", f"{end}_feature", "snr"]].set_axis([*ENDS, "strength"], axis=1)
        for end in ("source", "target")
    ]
    both = pd.concat(ends)
    nodes = both.assign(strength=both["strength"].abs()).groupby(ENDS)["strength"].agg(strength="sum", n_edges="size")
    if named:
        nodes = nodes.reindex(pd.MultiIndex.from_tuples(sorted(set(named)), names=ENDS), fill_value=0)
    nodes = nodes.reset_index()
    nodes = nodes[nodes["layer"].isin(layers)]
    return nodes.sort_values(["strength", *ENDS], ascending=[False, True, True], ignore_index=True)


def random_circuits(nodes: pd.DataFrame, features: pd.DataFrame, n: int, seed: Sequence[int]) -> np.ndarray:
    """int64 (circuit, node): a feature in the place of every node, of the same layer and of a similar firing rate.

    It is drawn from the NEAREST in log firing rate that are not yet in the circuit, in the order of the nodes: the
    first features of a random circuit stand for the first nodes, at any size. The nodes themselves can be drawn: were
    they left out, a circuit that is itself drawn at random would differ from random ones, which could hold none of the
    features that happen to matter in it.

    Parameters
    ----------
    nodes
        Columns layer and feature.
    features
        Columns layer, feature, firing_rate; those that never fire are drawn only where they are nodes.
    """
    rate = features.set_index(ENDS)["firing_rate"]
    keys = pd.MultiIndex.from_frame(nodes[ENDS])
    pool = rate.loc[(rate > 0) | rate.index.isin(keys)].sort_index()
    log_rate = np.log(pool.clip(lower=pool[pool > 0].min()))
    own = log_rate.reindex(keys).to_numpy()
    pools = {
        layer: (here.index.get_level_values("feature").to_numpy(), here.to_numpy())
        for layer, here in log_rate.groupby("layer")
    }
    drawn = np.zeros((n, len(nodes)), dtype=np.int64)
    for circuit in range(n):
        rng = np.random.default_rng([*seed, circuit])
        free = {layer: np.ones(len(pool[0]), dtype=bool) for layer, pool in pools.items()}
        for node, layer in enumerate(nodes["layer"]):
            candidates, rates = pools[layer]
            left = np.flatnonzero(free[layer])
            near = left[np.argsort(np.abs(rates[left] - own[node]), kind="stable")[:NEAREST]]
            picked = near[rng.integers(len(near))]
            free[layer][picked] = False
            drawn[circuit, node] = candidates[picked]
    return drawn
