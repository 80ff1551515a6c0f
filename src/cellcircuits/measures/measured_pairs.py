"""Pairs of genes as measured: a source is removed at the one, and the state of the other changes through attention."""

from __future__ import annotations

import pandas as pd
import polars as pl

from cellcircuits.measures.ordered import ordered_sum
from cellcircuits.tables import empty_table, make_table


def measured_gene_pairs(gene_effects: pd.DataFrame, n_kept: int) -> pd.DataFrame:
    """Table `measured_gene_pairs`, best first, from the table `gene_effects`.

    A source feature is removed at several genes at once; the gene of rank i among them (most activation first) gets the
    weight 1 / i in the means over the sources that connect a pair.
    """
    if gene_effects.empty:
        return empty_table("measured_gene_pairs")
    columns = ["gene", "mean_change", "z_among_genes", "removed_at"]
    frame = pl.from_pandas(gene_effects[columns]).lazy()
    frame = frame.with_columns(pl.col("gene", "removed_at").str.to_uppercase())
    frame = frame.with_columns(source_gene=pl.col("removed_at").str.split(";"))
    frame = frame.with_columns(rank=pl.int_ranges(1, pl.col("source_gene").list.len() + 1)).explode(
        "source_gene", "rank"
    )
    frame = frame.filter((pl.col("source_gene") != "") & (pl.col("source_gene") != pl.col("gene")))
    weight = 1 / pl.col("rank")
    means = {
        "mean_z": ordered_sum(pl.col("z_among_genes") * weight) / ordered_sum(weight),
        "mean_change": ordered_sum(pl.col("mean_change") * weight) / ordered_sum(weight),
    }
    groups = frame.group_by("source_gene", pl.col("gene").alias("target_gene"), maintain_order=True)
    pairs = groups.agg(n_sources=pl.len(), **means).collect()
    pairs = pairs.sort("mean_z", "source_gene", "target_gene", descending=[True, False, False]).head(n_kept)
    return make_table("measured_gene_pairs", {name: pairs[name].to_numpy() for name in pairs.columns})
