"""Which edges and which pairs of gene programs differ between tissues, cell types, or other groups of cells?

An edge that one group has and another lacks may only be one that fewer cells could not show. So what is compared is the
effect: of each group with that of all other cells.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
from scipy import stats as scipy_stats

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence, feature_rows
from cellcircuits.findings.coherence import bootstrap_mean
from cellcircuits.measures.ordered import ordered_mean
from cellcircuits.measures.program_pairs import p_at_least, pair_chance, program_edges
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import benjamini_hochberg
from cellcircuits.tables import empty_table, make_table

QUESTION = "tissues"
ASKED = "Do edges differ between groups of cells?"
STATISTIC = "share of edges whose effect differs between groups"
NO_GROUPS = (
    'The trace kept no groups of cells apart. Trace with trace.group_by = "cell_type", or another column of obs such '
    "as tissue or donor, and call edges again."
)
KEYWORDS = {
    "immune": ("immun", "t cell", "t-cell", "b cell", "leukocyte", "lymphocyte", "cytokine", "interferon", "antigen"),
    "blood": ("blood", "hem", "erythro", "platelet", "coagulation", "complement"),
    "kidney": ("kidney", "renal", "nephr", "urete"),
    "lung": ("lung", "respiratory tract", "alveol", "surfactant", "bronch"),
    "universal": ("ribosom", "mitochond", "translation", "splicing", "dna repair", "cell cycle", "metabol"),
}
"""Classes of programs by words in their names, after those published (immune, kidney, lung, blood, universal)."""


def ask(evidence: Evidence, settings: FindingsSettings) -> Found:
    """Tables `tissues` and `tissue_classes`, and three answers; from the table `group_edges`."""
    table = evidence.table("group_edges")
    if table.empty or table["differs_q"].isna().all():
        enough = NO_GROUPS if table.empty else "No two groups have enough cells (edges.min_cells) for any edge."
        return Found(answers=[untestable(QUESTION, ASKED, STATISTIC, enough)])
    programs = program_table(evidence, table, settings)
    classes = class_table(programs, settings.max_q)
    answers = [
        _share_answer(table, programs, settings),
        _program_answer(programs, settings),
        _class_answer(classes, settings),
    ]
    return Found({"tissues": programs, "tissue_classes": classes}, answers)


def are_folds(table: pd.DataFrame) -> bool:
    """Whether the groups are random folds of the cells, which differ by chance only."""
    return bool(table["group"].str.startswith("fold ").all())


def program_table(evidence: Evidence, table: pd.DataFrame, settings: FindingsSettings) -> pd.DataFrame:
    """Table `tissues`: for every group, which pairs of programs have more edges that differ than their edges explain.

    Of an edge counts whether it differs in the group (difference_q) minus the share that does between its two layers.
    The sum over the edges of a pair of programs is compared with labels exchanged among the targets of a stratum.
    """
    rows = [
        pd.DataFrame({end: feature_rows(evidence.features, table[f"{end}_layer"], table[f"{end}_feature"])})
        for end in ("source", "target")
    ]
    frame = pl.from_pandas(pd.concat([table.reset_index(drop=True), *rows], axis=1))
    tested = frame.filter(pl.col("difference_q").is_not_nan() & (pl.col("source") >= 0) & (pl.col("target") >= 0))
    tested = tested.with_columns(differs=(pl.col("difference_q") <= settings.max_q).cast(pl.Float64))
    parts = [
        _of_group(replace(evidence, edges=part), settings).assign(group=name)
        for (name,), part in sorted(tested.partition_by("group", as_dict=True).items())
    ]
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if found.empty:
        return empty_table("tissues")
    found["q_value"] = benjamini_hochberg(found["p_value"].to_numpy())
    order = ["q_value", "p_value", "group", "source_label", "target_label"]
    return make_table("tissues", found.sort_values(order, ignore_index=True))


def _of_group(evidence: Evidence, settings: FindingsSettings) -> pd.DataFrame:
    """Rows of the table `tissues` for one group, without q; the edges of `evidence` are those tested in it."""
    share = pl.col("differs") - pl.col("differs").mean().over("source_layer", "target_layer")
    evidence = replace(evidence, edges=evidence.edges.with_columns(beyond=share))
    reached = np.zeros(len(evidence.features), dtype=bool)
    reached[evidence.edges["target"].to_numpy()] = True
    edges = program_edges(evidence, settings, pl.col("beyond"), reached)
    chance, beyond = pair_chance(edges), edges.between()
    p = p_at_least(beyond, chance.mean, chance.variance, chance.third)
    label = pl.Series("label", edges.label)
    counted = (
        evidence.edges.with_columns(a=label.gather(evidence.edges["source"]), b=label.gather(evidence.edges["target"]))
        .filter((pl.col("a") >= 0) & (pl.col("b") >= 0) & (pl.col("a") != pl.col("b")))
        .group_by("a", "b")
        .agg(
            n_edges=pl.len(),
            n_edges_of_group=pl.col("is_edge").sum(),
            n_differ=pl.col("differs").sum(),
            mean_difference=ordered_mean(pl.col("difference")),
        )
        .sort("a", "b")
        .to_pandas()
    )
    place = counted["a"].to_numpy(), counted["b"].to_numpy()
    counted["source_label"], counted["target_label"] = edges.names[place[0]], edges.names[place[1]]
    counted["n_expected"] = counted["n_differ"] - beyond[place] + chance.mean[place]
    return counted.assign(p_value=p[place]).drop(columns=["a", "b"])


def class_table(programs: pd.DataFrame, max_q: float) -> pd.DataFrame:
    """Table `tissue_classes`: the published question of each group, with Benjamini-Hochberg.

    Of the pairs of programs that are joined in a group, those of no other group are compared with those of others: is
    there more often a program of the class at either end? (One-sided Fisher test.)
    """
    joined = programs[programs["n_edges_of_group"] > 0]
    pairs = joined["source_label"] + "\n" + joined["target_label"]
    shared = (pairs.map(pairs.value_counts()) > 1).to_numpy()
    names = (joined["source_label"] + " " + joined["target_label"]).str.lower()
    rows = []
    for group in sorted(programs["group"].unique()):
        here = (joined["group"] == group).to_numpy()
        for name, words in KEYWORDS.items():
            has = names.map(lambda text, words=words: any(word in text for word in words)).to_numpy(dtype=bool)
            counts = [[int((here & (shared == s) & (has == h)).sum()) for h in (True, False)] for s in (False, True)]
            odds, p = scipy_stats.fisher_exact(counts, alternative="greater")
            only, both = counts
            row = {
                "n_only_with": only[0],
                "n_only_without": only[1],
                "n_shared_with": both[0],
                "n_shared_without": both[1],
            }
            rows.append({"group": group, "class": name} | row | {"odds_ratio": odds, "p_value": p})
    table = pd.DataFrame(rows)
    if table.empty:
        return empty_table("tissue_classes")
    return make_table("tissue_classes", table.assign(q_value=benjamini_hochberg(table["p_value"].to_numpy())))


def _share_answer(table: pd.DataFrame, programs: pd.DataFrame, settings: FindingsSettings) -> Answer:
    ends = ["source_layer", "source_feature", "target_layer", "target_feature"]
    pairs = table[~table.duplicated(ends) & table["differs_q"].notna()]
    # Simes in each source layer, Bonferroni over layers
    smallest = pairs.groupby("source_layer")["differs_q"].min()
    edges = pairs[pairs["is_edge_of_all"]]
    differs = edges.assign(differs=edges["differs_q"] <= settings.max_q).groupby(["source_layer", "source_feature"])
    value, n = differs["differs"].sum().to_numpy(dtype=float), differs.size().to_numpy(dtype=float)
    low, high = bootstrap_mean(value, n, settings) if len(n) else (np.nan, np.nan)
    share = float(value.sum() / n.sum()) if len(n) else float("nan")
    cells = table.groupby("group")["n_cells"].max().sort_values(ascending=False, kind="stable")
    groups = ", ".join(f"{name} ({n})" for name, n in list(cells.items())[:6]) + (", ..." if len(cells) > 6 else "")
    folds = " Groups are random folds: nothing should differ." if are_folds(table) else ""
    joined = programs[programs["n_edges_of_group"] > 0].groupby(["source_label", "target_label"]).size()
    return Answer(
        question=QUESTION,
        asked=ASKED,
        statistic=STATISTIC,
        value=share,
        baseline=settings.max_q * share,
        baseline_is="false ones among them, at most: max_q x the share",
        low=low,
        high=high,
        p_value=float(min(smallest.min() * len(smallest), 1.0)),
        published=float((joined == 1).mean()) if len(joined) else float("nan"),
        published_is=(
            "share of joined pairs of programs that are joined in one group only: groups with few cells, or with many, "
            "have such pairs without any difference"
        ),
        unit="share",
        note=f"{len(edges):,} edges of all cells. Largest number of cells by group: {groups}.{folds}",
    )


def _program_answer(programs: pd.DataFrame, settings: FindingsSettings) -> Answer:
    n = int((programs["q_value"] <= settings.max_q).sum())
    return Answer(
        question=QUESTION,
        asked="Which pairs of programs differ in a group more than their edges explain?",
        statistic="pairs of programs, in a group",
        value=float(n),
        baseline=settings.max_q * n,
        baseline_is="false ones among them, at most: max_q x their number",
        unit="pairs",
        note=f"Of {len(programs):,} tested pairs and groups. Labels of targets exchanged within layer and firing rate.",
    )


def _class_answer(classes: pd.DataFrame, settings: FindingsSettings) -> Answer:
    asked = "Are pairs of programs of one group those of a tissue, by their names?"
    if classes.empty:
        return untestable(QUESTION, asked, "classes and groups", "No group joins two labelled programs.")
    n = int((classes["q_value"] <= settings.max_q).sum())
    return Answer(
        question=QUESTION,
        asked=asked,
        statistic="classes of programs (by words in their names) more common in pairs of one group only",
        value=float(n),
        baseline=settings.max_q * n,
        baseline_is="false ones among them, at most: max_q x their number",
        published=float((classes["p_value"] < 0.05).sum()),
        published_is="Fisher tests with p < 0.05, not corrected; pairs of programs are not independent",
        unit="classes",
        note=f"Of {len(classes):,} classes and groups. Which pairs are of one group only depends on numbers of cells.",
    )
