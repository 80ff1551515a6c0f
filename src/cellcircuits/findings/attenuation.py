"""How far do effects reach? Edges by the distance between source and target layer."""

from __future__ import annotations

import pandas as pd

from cellcircuits.tables import make_table


def attenuation(edges: pd.DataFrame, tested: pd.DataFrame, max_q: float) -> pd.DataFrame:
    """One row per pair of layers, with the number of pairs that could have been an edge.

    `chance_share` is the share of the tested pairs that would be false edges if the false discovery rate is at its
    bound: max_q x share_of_tested; with `max_q` NaN, for a rule without one, it is NaN. Layers have different numbers
    of features only if their autoencoders do.
    """
    pairs = ["source_layer", "target_layer"]
    described = edges.assign(
        abs_snr=edges["snr"].abs(), abs_relative=edges["relative_effect"].abs(), negative=edges["mean_delta"] < 0
    ).groupby(pairs)
    summary = described.agg(
        n_edges=("snr", "size"),
        mean_abs_snr=("abs_snr", "mean"),
        median_abs_relative_effect=("abs_relative", "median"),
        share_negative=("negative", "mean"),
    ).reset_index()
    table = tested.merge(summary, on=pairs, how="left").sort_values(pairs, ignore_index=True)
    table["n_edges"] = table["n_edges"].fillna(0).astype("int64")
    table["distance"] = table["target_layer"] - table["source_layer"]
    table["edges_per_source"] = table["n_edges"] / table["n_sources"].clip(lower=1)
    table["share_of_tested"] = table["n_edges"] / table["n_tested"].clip(lower=1)
    table["chance_share"] = max_q * table["share_of_tested"]
    return make_table("attenuation", table.drop(columns=["n_tested", "n_responding"]))
