"""From gene programs (labels and enriched gene sets) to features and circuits: the tables behind the program search."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

FEATURES_PER_PROGRAM = 300
"""Features listed for one program, best q first; the page gives the total."""


class ProgramIndex(NamedTuple):
    """One row per program, and for each its features and the pairs of programs that it is part of."""

    programs: pd.DataFrame
    features: pd.DataFrame
    pairs: pd.DataFrame


def index_programs(terms: pd.DataFrame, features: pd.DataFrame, circuits: pd.DataFrame) -> ProgramIndex:
    """Which features have a gene set enriched or as their label, and which pairs of labels it is part of.

    Returns
    -------
    ProgramIndex
        `programs` (program, collection, n_features, n_labelled, n_pairs) in order of name; `features` (program, layer,
        feature, labelled, q_value, n_overlap, label, firing_rate, n_out, n_in) and `pairs` (program, direction, other,
        n_edges, n_expected, q_value, mean_snr, share_negative, strongest) refer to its rows by `program`. Direction
        "out": the program is the source.
    """
    listed = _listed(terms, features)
    ends = [circuits["source_label"], circuits["target_label"]]
    names = np.unique(np.concatenate([listed["name"].to_numpy(dtype=str), *(e.to_numpy(dtype=str) for e in ends)]))
    names = names[names != ""].astype(object)
    place = pd.Index(names)
    listed["program"] = place.get_indexer(listed["name"])
    pairs = _pairs(circuits, place)
    collection = terms.groupby("term")["collection"].agg(lambda files: ", ".join(sorted(set(files))))
    n_features, n_labelled, n_pairs = (
        np.bincount(rows, minlength=len(names))
        for rows in (listed["program"], listed["program"][listed["labelled"]], pairs["program"])
    )
    programs = pd.DataFrame(
        {
            "program": names,
            "collection": collection.reindex(names).fillna("").to_numpy(dtype=object),
            "n_features": n_features,
            "n_labelled": n_labelled,
            "n_pairs": n_pairs,
        }
    )
    listed = listed.sort_values(["program", "q_value", "layer", "feature"], kind="stable")
    listed = listed[listed.groupby("program").cumcount() < FEATURES_PER_PROGRAM]
    order = ["program", *listed.columns.drop(["program", "name"])]
    return ProgramIndex(programs, listed[order].reset_index(drop=True), pairs)


def _listed(terms: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """One row per feature and program: its enriched gene sets, and its label where that is none of them."""
    ends = ["layer", "feature"]
    enriched = terms[[*ends, "term", "q_value", "n_overlap"]].rename(columns={"term": "name"})
    enriched = enriched.sort_values(["q_value"], kind="stable").drop_duplicates([*ends, "name"])
    known = features[[*ends, "label", "firing_rate", "n_out", "n_in"]]
    own = features.loc[features["label"] != "", [*ends, "label", "label_q"]]
    own = own.rename(columns={"label": "name", "label_q": "q_value"}).assign(n_overlap=-1)
    both = pd.concat([enriched, own], ignore_index=True).drop_duplicates([*ends, "name"])
    both = both.merge(known, on=ends, how="inner")
    both.insert(3, "labelled", both["name"] == both["label"])
    return both


def _pairs(circuits: pd.DataFrame, place: pd.Index) -> pd.DataFrame:
    shown = ["n_edges", "n_expected", "q_value", "mean_snr", "share_negative", "strongest"]
    parts = []
    for direction, own, other in (("out", "source_label", "target_label"), ("in", "target_label", "source_label")):
        rows = circuits[[own, other, *shown]].rename(columns={other: "other"})
        rows.insert(0, "program", place.get_indexer(rows.pop(own)))
        rows.insert(1, "direction", direction)
        parts.append(rows)
    both = pd.concat(parts, ignore_index=True)
    return both.sort_values(["program", "q_value", "direction", "other"], kind="stable", ignore_index=True)
