"""Do causal edges only repeat co-activation? The PMI of edges beside that of other targets of the same source.

PMI grows with nothing but rarity, and edges prefer targets that fire often. So an edge is compared only with targets of
the same source and layer that are no edge and fire about as often (the same tenth): frequency alone gives 0.5.
"""

from __future__ import annotations

from math import nan

import numpy as np
import pandas as pd
import polars as pl

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence, feature_rows
from cellcircuits.findings.convergence import PUBLISHED_EDGES, strongest_edges
from cellcircuits.measures.ordered import ordered_mean, ordered_sum
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import bootstrap_sums, percentile_interval, symmetric_mean_test
from cellcircuits.tables import TABLES, make_table

RATE_BINS = 10
"""Bins of equal size by firing rate, within which targets are compared."""
STRATUM = ("source", "bin")
ASKED = "Do causal edges join features that fire together, beyond how often they fire?"
RANKS_ASKED = "Are effects stronger between features that fire together more?"
OVERLAP_ASKED = "Are the targets of causal edges the targets of co-activation?"
BASELINE = (
    "targets of the same source, target layer and tenth of firing rates without an edge; sources are the units, signs "
    "of their deviations flipped"
)
UNTOLD = (
    "The table dependencies is missing or has no pair of a traced source: run `cellcircuits structure` on this run, "
    "then ask again."
)


def ask(evidence: Evidence, settings: FindingsSettings) -> Found:
    """Table `coactivation`, and how well PMI tells edges from other targets that fire as often."""
    names = [column.name for column in TABLES["coactivation"]]
    dependencies = coded_dependencies(evidence)
    edges = dict(_by_layers(evidence.edges.select("source_layer", "target_layer", "source", "target")))
    parts = [_layer_pair(evidence, edges[key], pairs) for key, pairs in _by_layers(dependencies) if key in edges]
    parts = [part for part in parts if part["n_edges"].sum() > 0]
    rows = [_row(part) for part in parts]
    overlap = published_overlap(evidence, dependencies)
    table = pd.DataFrame(rows, columns=names[:7])
    table = table.merge(overlap, on=["source_layer", "target_layer"], how="left")
    found = {"coactivation": make_table("coactivation", table)}
    return Found(found, _answers(parts, overlap, settings))


def coded_dependencies(evidence: Evidence) -> pl.DataFrame:
    """The table dependencies with `source` and `target` as rows of the features, and `snr`, null without an edge."""
    table = evidence.table("dependencies")
    ends = {
        end: feature_rows(evidence.features, table[f"{end}_layer"], table[f"{end}_feature"])
        for end in ("source", "target")
    }
    frame = pl.DataFrame(
        {
            **ends,
            "source_layer": table["source_layer"].to_numpy(np.int32),
            "target_layer": table["target_layer"].to_numpy(np.int32),
            "pmi": table["pmi"].to_numpy(np.float32),
        }
    ).filter((pl.col("source") >= 0) & (pl.col("target") >= 0))
    edges = evidence.edges.select("source", "target", "snr")
    return frame.join(edges, on=["source", "target"], how="left")


def rate_bins(rate: np.ndarray) -> np.ndarray:
    """int32 (feature,): tenth of each firing rate, in order; -1 where a feature never fires."""
    bins, fires = np.full(len(rate), -1, dtype=np.int32), np.flatnonzero(rate > 0)
    order = np.argsort(np.argsort(rate[fires], kind="stable"), kind="stable")
    bins[fires] = order * RATE_BINS // max(len(fires), 1)
    return bins


def _by_layers(frame: pl.DataFrame) -> list[tuple[tuple, pl.DataFrame]]:
    return sorted(frame.partition_by("source_layer", "target_layer", as_dict=True).items())


def _layer_pair(evidence: Evidence, edges: pl.DataFrame, pairs: pl.DataFrame) -> pd.DataFrame:
    """Per source: `n_edges`, `n_pairs` compared, `concordant` of them, and sums of the rank correlation.

    Targets that never fire together with the source are not in the table; their PMI is minus infinity, all tied. With
    M such targets and average ranks r of the others, an edge of rank r has M + r - 1/2 minus half its ties below it.
    """
    source_layer, target_layer = pairs["source_layer"][0], pairs["target_layer"][0]
    here = np.flatnonzero((evidence.features["layer"] == target_layer).to_numpy())
    bins = np.full(len(evidence.features), -1, dtype=np.int32)
    bins[here] = rate_bins(evidence.features["firing_rate"].to_numpy()[here])
    size = pl.DataFrame(
        {"bin": np.arange(RATE_BINS, dtype=np.int32), "size": np.bincount(bins[bins >= 0], minlength=RATE_BINS)}
    )
    edges = edges.filter(pl.col("target") >= 0)
    edges = edges.with_columns(bin=pl.Series(bins).gather(edges["target"])).filter(pl.col("bin") >= 0)
    # edges of traced sources alone; one to a target that never fires with the source has PMI -inf
    edges = edges.filter(pl.col("source").is_in(pairs["source"].unique().implode()))
    known = pairs.with_columns(bin=pl.Series(bins).gather(pairs["target"])).filter(pl.col("bin") >= 0)
    known = known.with_columns(rank=pl.col("pmi").rank("average").over(STRATUM), edge=pl.col("snr").is_not_null())
    strata = known.group_by(STRATUM, maintain_order=True).agg(
        listed=pl.len(), listed_edges=pl.col("edge").sum(), ranks=pl.col("rank").filter(pl.col("edge")).sum()
    )
    strata = (
        edges.group_by(STRATUM, maintain_order=True)
        .agg(n_edges=pl.len())
        .join(strata, on=STRATUM, how="left")
        .join(size, on="bin")
    )
    strata = strata.with_columns(pl.col("listed", "listed_edges", "ranks").fill_null(0)).cast(
        {name: pl.Float64 for name in ("n_edges", "listed", "listed_edges", "ranks", "size")}
    )
    silent, silent_edges = pl.col("size") - pl.col("listed"), pl.col("n_edges") - pl.col("listed_edges")
    ranks = pl.col("ranks") + pl.col("listed_edges") * silent + silent_edges * (silent + 1) / 2
    others = pl.col("size") - pl.col("n_edges")
    strata = strata.with_columns(
        n_pairs=pl.col("n_edges") * others, concordant=ranks - pl.col("n_edges") * (pl.col("n_edges") + 1) / 2
    )
    sums = (
        strata.group_by("source", maintain_order=True)
        .agg(pl.col("n_edges", "n_pairs", "concordant").sum())
        .join(_rank_sums(known.filter("edge")), on="source", how="left")
    )
    found = sums.sort("source").fill_null(0.0).to_pandas()
    return found.assign(source_layer=source_layer, target_layer=target_layer)


def _rank_sums(edges: pl.DataFrame) -> pl.DataFrame:
    """Per source the sums of products and squares of the ranks of |snr| and PMI, centred within tenths of rates."""
    count = pl.len().over(STRATUM)

    def centred(values: pl.Expr) -> pl.Expr:
        return (values.rank("average").over(STRATUM) - (count + 1) / 2) / count

    ranks = edges.select("source", a=centred(pl.col("snr").abs()), b=centred(pl.col("pmi")))
    return ranks.group_by("source", maintain_order=True).agg(
        ab=ordered_sum(pl.col("a") * pl.col("b")), aa=ordered_sum(pl.col("a") ** 2), bb=ordered_sum(pl.col("b") ** 2)
    )


def _correlation(sums: np.ndarray) -> np.ndarray:
    """Correlations from sums (..., [ab, aa, bb]); NaN without variation."""
    scale = np.sqrt(sums[..., 1] * sums[..., 2])
    return np.divide(sums[..., 0], scale, out=np.full(scale.shape, nan), where=scale > 0)


def _row(part: pd.DataFrame) -> dict:
    total = part[["n_edges", "n_pairs", "concordant"]].sum()
    return {
        "source_layer": part["source_layer"].iloc[0],
        "target_layer": part["target_layer"].iloc[0],
        "n_sources": int((part["n_pairs"] > 0).sum()),
        "n_edges": total["n_edges"],
        "n_pairs": total["n_pairs"],
        "auroc": total["concordant"] / total["n_pairs"] if total["n_pairs"] > 0 else nan,
        "spearman": float(_correlation(part[["ab", "aa", "bb"]].sum().to_numpy())),
    }


def published_overlap(evidence: Evidence, dependencies: pl.DataFrame) -> pd.DataFrame:
    """Per pair of layers the overlap of the targets of the strongest edges with those of the largest PMI.

    Sources are forgotten, as in Kendiukhov 2026: `published_chance` is the overlap of any set of targets.
    """
    pairs = ["source_layer", "target_layer"]
    rank = pl.col("pmi").rank("ordinal", descending=True).over("source", "target_layer")
    strong = dependencies.sort("source", "target").filter(rank <= PUBLISHED_EDGES).select(*pairs, "target").unique()
    causal = strongest_edges(evidence.edges).select(*pairs, "target").unique()
    both = causal.join(strong.with_columns(both=True), on=[*pairs, "target"], how="left")
    table = both.group_by(pairs).agg(
        published_targets=pl.len(), published_overlap=ordered_mean(pl.col("both").fill_null(False))
    )
    table = table.join(strong.group_by(pairs).agg(strong=pl.len()), on=pairs, how="inner").sort(pairs).to_pandas()
    fires = evidence.features[evidence.features["firing_rate"] > 0]["layer"].value_counts()
    table["published_chance"] = table["strong"] / table["target_layer"].map(fires).fillna(1)
    return table.drop(columns="strong")


def _answers(parts: list[pd.DataFrame], overlap: pd.DataFrame, settings: FindingsSettings) -> list[Answer]:
    statistic = "AUROC of PMI: edges against other targets of the source that fire as often"
    ranks = "Rank correlation of |snr| and PMI over the edges of a source whose targets fire equally often"
    if not parts or sum(part["n_pairs"].sum() for part in parts) == 0:
        return [
            untestable("coactivation", ASKED, statistic, UNTOLD),
            untestable("coactivation", RANKS_ASKED, ranks, UNTOLD),
        ]
    sources = (
        pd.concat(parts).groupby("source", sort=True)[["n_pairs", "concordant", "n_edges", "ab", "aa", "bb"]].sum()
    )
    rng = np.random.default_rng(settings.seed)
    compared = sources[sources["n_pairs"] > 0]
    drawn = bootstrap_sums(compared[["concordant", "n_pairs"]].to_numpy(), settings.permutations, rng)
    low, high = percentile_interval(drawn[:, 0] / drawn[:, 1])
    auroc = Answer(
        "coactivation",
        ASKED,
        statistic,
        float(compared["concordant"].sum() / compared["n_pairs"].sum()),
        0.5,
        BASELINE,
        low,
        high,
        symmetric_mean_test((compared["concordant"] - compared["n_pairs"] / 2).to_numpy(), settings.seed),
        claim="higher",
        note=f"{len(compared):,} sources, {int(compared['n_edges'].sum()):,} edges. Near 0.5, edges are not read off "
        "co-activation; near 1, a table of co-activation would have given them without any ablation.",
    )
    return [auroc, _rank_answer(sources, ranks, settings), *_overlap_answers(overlap)]


def _rank_answer(sources: pd.DataFrame, statistic: str, settings: FindingsSettings) -> Answer:
    sums = sources[["ab", "aa", "bb"]].to_numpy()
    value = float(_correlation(sums.sum(axis=0)))
    if np.isnan(value):
        why = "No source has two edges of different PMI to targets of one tenth of firing rates; trace more cells."
        return untestable("coactivation", RANKS_ASKED, statistic, why)
    drawn = bootstrap_sums(sums, settings.permutations, np.random.default_rng(settings.seed))
    low, high = percentile_interval(_correlation(drawn))
    return Answer(
        "coactivation",
        RANKS_ASKED,
        statistic,
        value,
        0.0,
        "signs of each source's correlation flipped: strength and PMI unrelated; ranks within source and tenth",
        low,
        high,
        symmetric_mean_test(sums[:, 0], settings.seed),
        claim="higher",
    )


def _overlap_answers(overlap: pd.DataFrame) -> list[Answer]:
    n = overlap["published_targets"].sum()
    if n == 0:
        return []
    return [
        Answer(
            "coactivation",
            OVERLAP_ASKED,
            "Share of the targets of the strongest edges that are targets of the largest PMI of any source",
            float(overlap["published_overlap"] @ overlap["published_targets"] / n),
            float(overlap["published_chance"] @ overlap["published_targets"] / n),
            "any set of targets: targets of the largest PMI / targets that fire",
            published=float(overlap["published_overlap"] @ overlap["published_targets"] / n),
            published_is=f"this statistic, of {PUBLISHED_EDGES} per source; it says nothing unless far from its "
            "baseline, since sources are forgotten and most targets are targets of something",
            unit="share",
        )
    ]
