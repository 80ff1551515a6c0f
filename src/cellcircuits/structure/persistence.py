"""Is a feature still there in the next layer? By its decoder direction, and by where it fires.

The residual stream is shared, so a direction keeps its meaning from layer to layer unless the blocks turn it (or the
norms of a post-norm model rescale it); activations over positions are compared without that assumption. The two are
given side by side.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.settings import StructureSettings
from cellcircuits.structure.counting import Pair, StructureSums
from cellcircuits.structure.directions import draw_like, unit_rows
from cellcircuits.tables import TABLES, make_table


def layer_persistence(
    pair: Pair, decoders: dict[int, np.ndarray], sums: StructureSums, settings: StructureSettings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables persistence and persistence_rates of a layer and the next; decoders are (feature, d_model) by layer."""
    first, second = sums.alive(pair[0]), sums.alive(pair[1])
    own, above = unit_rows(decoders[pair[0]][first]), unit_rows(decoders[pair[1]][second])
    rates: dict = {"layer": pair[0], "next_layer": pair[1], "n_features": len(first)}
    if not len(first) or not len(second):
        tables = [pd.DataFrame(columns=[c.name for c in TABLES[n]]) for n in ("persistence", "persistence_rates")]
        tables[1] = pd.concat([tables[1], pd.DataFrame([rates])])
        return make_table("persistence", tables[0]), make_table("persistence_rates", tables[1])
    cosine = own @ above.T
    correlation = sums.correlation(pair, sums.products[pair][first], first)[:, second]
    by_cosine, by_correlation = cosine.argmax(axis=1), correlation.argmax(axis=1)
    rows = np.arange(len(first))
    columns = {
        "cosine_feature": second[by_cosine],
        "cosine": cosine[rows, by_cosine],
        "correlation_there": correlation[rows, by_cosine],
        "correlated_feature": second[by_correlation],
        "correlation": correlation[rows, by_correlation],
        "cosine_there": cosine[rows, by_correlation],
        "mutual": correlation.argmax(axis=0)[by_correlation] == rows,
    }
    drawn = draw_like(own, settings.null_draws, np.random.default_rng(settings.seed))
    null_cosine = (drawn @ above.T).max(axis=1)
    sampled = np.flatnonzero(np.isin(sums.sampled[pair[0]], first))
    features = sums.sampled[pair[0]][sampled]
    null_correlation = sums.correlation(pair, sums.permuted[pair][sampled], features)[:, second].max(axis=1)
    rates |= {
        "median_cosine": np.median(columns["cosine"]),
        "null_cosine": np.median(null_cosine),
        "matched_share": (columns["cosine"] >= settings.min_cosine).mean(),
        "null_matched_share": (null_cosine >= settings.min_cosine).mean(),
        "median_correlation": np.median(columns["correlation"]),
        "null_correlation": np.median(null_correlation) if len(sampled) else np.nan,
        "mutual_share": columns["mutual"].mean(),
        "same_match_share": (by_cosine == by_correlation).mean(),
        "chance_same": 1 / len(second),
    }
    table = pd.DataFrame({"layer": pair[0], "feature": first, "next_layer": pair[1], **columns})
    return make_table("persistence", table), make_table("persistence_rates", pd.DataFrame([rates]))
