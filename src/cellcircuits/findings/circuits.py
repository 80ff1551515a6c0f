"""Which gene programs drive which? Edges between labels, against permuted target labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.findings.convergence import PUBLISHED_EDGES, strongest_edges
from cellcircuits.measures.ordered import ordered_mean
from cellcircuits.measures.overlaps import Strata, overlap_p
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import benjamini_hochberg
from cellcircuits.tables import empty_table, make_table

LABELS = ["source_label", "target_label"]
ASKED = "Do gene programs drive each other more often than chance?"
STATISTIC = "Ordered pairs of different labels with more edges than chance"


def ask(evidence: Evidence, settings: FindingsSettings) -> Found:
    """Table `circuits`, and how many ordered pairs of labels have more edges than chance."""
    table = circuits(evidence)
    if table.empty:
        why = "No edge joins features of two different labels; annotate with more gene sets, or trace more sources."
        return Found({"circuits": table}, [untestable("circuits", ASKED, STATISTIC, why)])
    n = int((table["q_value"] <= settings.max_q).sum())
    strongest = label_codes(evidence, strongest_edges(evidence.edges))
    answer = Answer(
        "circuits",
        ASKED,
        STATISTIC,
        n,
        settings.max_q * n,
        f"false ones among them, at most, at q <= {settings.max_q:g}; target labels permuted among the labelled edges "
        "of each pair of layers, so that each source keeps its edges and each label its frequency",
        # by Simes' test of all pairs together, p is the smallest q
        p_value=float(table["q_value"].min()),
        published=strongest.select(LABELS).unique().height,
        published_is=f"ordered pairs of labels that any of the {PUBLISHED_EDGES} strongest edges per source and layer "
        "joins, those of one label with itself too; one edge is enough, so common labels are joined to everything",
        unit="pairs",
        note=f"Of {len(table):,} ordered pairs of different labels with any edge. Labels of features that fire at the "
        "same genes are joined more often, whatever the model computes.",
    )
    return Found({"circuits": table}, [answer])


def labelled_edges(edges: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Edges with source_label, target_label, source_genes and target_genes ("" where a feature has no label)."""
    known = features[["layer", "feature", "label", "top_genes"]]
    for end in ("source", "target"):
        names = {"layer": f"{end}_layer", "feature": f"{end}_feature", "label": f"{end}_label"}
        renamed = known.rename(columns=names | {"top_genes": f"{end}_genes"})
        edges = edges.merge(renamed, on=[f"{end}_layer", f"{end}_feature"], how="left")
    return edges


def circuits(evidence: Evidence) -> pd.DataFrame:
    """Pairs of different labels by number of edges, with the number expected by chance.

    Null: within each pair of layers the target labels of the labelled edges are permuted, so each source keeps its
    edges and each label its frequency; what is lost is which source leads to which label. The number of edges of a pair
    of labels is then a sum of one hypergeometric number per pair of layers, so p needs no draws; it is exact where it
    could matter (see `overlaps`). All pairs that could have an edge are corrected for, not only those that have one:
    with many labels and few edges, any edge at all is rare for its pair. Pairs of the same label are left out: they
    arise when source and target are much the same feature.
    """
    edges = label_codes(evidence, evidence.edges)
    rows = _described(edges, evidence)
    if rows.empty:
        return empty_table("circuits")
    strata = label_strata(edges, len(evidence.labels[0]))
    codes = (rows.pop(name).to_numpy() for name in LABELS)
    source, target = codes
    rows["n_expected"], rows["p_value"] = overlap_p(rows["n_edges"].to_numpy(), strata, source, target)
    untouched = np.ones(_n_possible(strata) - len(rows))
    rows["q_value"] = benjamini_hochberg(np.concatenate([rows["p_value"], untouched]))[: len(rows)]
    rows["source_label"], rows["target_label"] = (evidence.labels[0][code] for code in (source, target))
    order = ["q_value", "p_value", "n_edges", *LABELS]
    return make_table("circuits", rows.sort_values(order, ascending=[True, True, False, True, True], ignore_index=True))


def label_codes(evidence: Evidence, edges: pl.DataFrame) -> pl.DataFrame:
    """Edges whose ends both have a label, with `source_label` and `target_label` (Int32): places in the names."""
    # the last one is for ends that are no feature, whose row is -1
    code = np.append(evidence.labels[1], np.int32(-1))
    ends = {f"{end}_label": pl.Series(code[edges[end].to_numpy()]) for end in ("source", "target")}
    return edges.with_columns(**ends).filter((pl.col("source_label") >= 0) & (pl.col("target_label") >= 0))


def label_strata(edges: pl.DataFrame, n_labels: int) -> Strata:
    """Labelled edges of every pair of layers, counted by the label of either end."""
    layers = edges.select("source_layer", "target_layer").to_numpy().astype(np.int64)
    width = int(layers.max(initial=0)) + 1
    pairs, stratum = np.unique(layers[:, 0] * width + layers[:, 1], return_inverse=True)
    n = len(pairs)

    def counts(end: str) -> np.ndarray:
        code = edges[f"{end}_label"].to_numpy().astype(np.int64) * n + stratum
        return np.bincount(code, minlength=n_labels * n).reshape(n_labels, n).astype(np.int32)

    return Strata(np.bincount(stratum, minlength=n), counts("source"), counts("target"))


def _n_possible(strata: Strata) -> int:
    """Ordered pairs of different labels that could have an edge: leaving and reaching in the same pair of layers."""
    together = (strata.leaving > 0).astype(np.float32) @ (strata.reaching > 0).astype(np.float32).T
    return int(np.count_nonzero(together)) - int(np.count_nonzero(together.diagonal()))


def _described(edges: pl.DataFrame, evidence: Evidence) -> pd.DataFrame:
    """One row per pair of different labels with an edge; labels as codes."""
    strength = pl.col("snr").abs()
    rows = (
        edges.filter(pl.col("source_label") != pl.col("target_label"))
        .group_by(LABELS, maintain_order=True)
        .agg(
            n_edges=pl.len(),
            mean_snr=ordered_mean(pl.col("snr")),
            share_negative=ordered_mean(pl.col("mean_delta") < 0),
            source=pl.col("source").get(strength.arg_max()),
            target=pl.col("target").get(strength.arg_max()),
        )
        .sort(LABELS)
        .to_pandas()
    )
    names, genes = [], []
    for end in ("source", "target"):
        feature = evidence.features.loc[rows.pop(end)]
        names.append("L" + feature["layer"].astype(str) + "/F" + feature["feature"].astype(str))
        genes.append(feature["top_genes"].to_numpy())
    rows["strongest"] = (names[0].to_numpy() + " -> ") + names[1].to_numpy()
    rows["source_genes"], rows["target_genes"] = genes
    return rows
