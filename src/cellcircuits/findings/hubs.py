"""Which features reach, or are reached by, many others, beyond what their firing rate explains?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.tables import make_table


def hubs(edges: pd.DataFrame, features: pd.DataFrame, sources: pd.DataFrame, tested: pd.DataFrame) -> pd.DataFrame:
    """Out-degree of every source and in-degree of every target with an edge, highest first.

    Degrees are divided by the number of layers that could be reached (out) or that had sources below (in): a feature
    of an early layer has more layers above it. Features that fire often are measured in more cells and positions and
    have more edges for that reason alone; `degree_residual` is what is left of log10(1 + degree per layer) after a
    straight line in log10(firing rate), fitted for each direction. Features that never fired (an ablation can still
    wake them) have none.
    """
    above = tested.groupby("source_layer")["target_layer"].nunique()
    below = tested.groupby("target_layer")["source_layer"].nunique()
    out_degree = edges.groupby(["source_layer", "source_feature"]).size()
    in_degree = edges.groupby(["target_layer", "target_feature"]).size()
    every_source = pd.MultiIndex.from_frame(sources[["layer", "feature"]])
    outgoing = _rows("out", out_degree.reindex(every_source, fill_value=0), above)
    incoming = _rows("in", in_degree, below)
    known = features[["layer", "feature", "label", "firing_rate"]]
    parts = [part.merge(known, on=["layer", "feature"], how="left") for part in (outgoing, incoming)]
    table = pd.concat([part.assign(degree_residual=_residual(part)) for part in parts], ignore_index=True)
    table = table.sort_values(
        ["direction", "degree_per_layer", "layer", "feature"], ascending=[False, False, True, True], ignore_index=True
    )
    return make_table("hubs", table)


def _rows(direction: str, degree: pd.Series, n_layers: pd.Series) -> pd.DataFrame:
    degree.index.names = ["layer", "feature"]
    frame = degree.rename("degree").reset_index()
    frame["direction"] = direction
    frame["degree_per_layer"] = frame["degree"] / frame["layer"].map(n_layers).fillna(1)
    return frame


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
