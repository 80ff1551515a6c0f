"""Do edges join features that mean the same?

Features mean the gene sets they are enriched for. Sources are picked for having many, features that fire often have
more, and common gene sets are on many features, so a share of edges with a common gene set says nothing by itself. It
is compared with what the same sources share with other features of the target's kind, and with those they do not reach.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.measures.feature_strata import feature_strata
from cellcircuits.measures.matched_targets import MatchedTargets, matched_targets, p_greater
from cellcircuits.measures.published_edges import STRONGEST, strongest_edges
from cellcircuits.measures.term_similarity import APART, INFORMATION, SHARED, TermSimilarity, term_similarity
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import cluster_bootstrap, one_sample_t, sign_flip
from cellcircuits.tables import make_table

QUESTION = "coherence"
ASKED = "Do edges join features that mean the same?"
APART_ASKED = "Do edges join features that mean the same, where they have no top gene in common?"
MATCHED_IS = (
    "sources and edges kept; which targets have which gene sets exchanged within layer, number of gene sets and firing "
    "rate"
)
OTHERS_IS = "features of the same layers, with gene sets, that the same sources do not reach"
FEW_SOURCES = 20
"""Up to so many sources, p is that of a sign-flip test."""
PUBLISHED_SAMPLE = 1000
"""Features of a layer, at most, from which the published chance is computed: a random sample of them."""


def ask(evidence: Evidence, settings: FindingsSettings) -> Found:
    """Tables `coherence` and `coherence_layers`, and four answers."""
    if evidence.table("terms").empty:
        missing = "This run has no enriched gene sets. Give annotate.gene_sets and annotate again."
        return Found(answers=[untestable(QUESTION, ASKED, "share of edges with a common gene set", missing)])
    similarity = term_similarity(evidence)
    edges = annotated_edges(evidence.edges, similarity)
    if edges.is_empty():
        missing = "No edge joins two features that both have a gene set. Trace more sources, or give more gene sets."
        return Found(answers=[untestable(QUESTION, ASKED, "share of edges with a common gene set", missing)])
    compared = compare(edges, evidence.features, similarity, settings)
    rows = [_row(compared, measure, settings) for measure in (SHARED, INFORMATION, APART + SHARED, APART + INFORMATION)]
    rows.append(published_row(strongest_edges(edges), evidence.features, similarity, settings))
    table = make_table("coherence", pd.DataFrame(rows))
    layers = by_layers(compared.sums, evidence.features)
    return Found({"coherence": table, "coherence_layers": layers}, _answers(table, evidence.edges.height))


def annotated_edges(edges: pl.DataFrame, similarity: TermSimilarity) -> pl.DataFrame:
    """Edges both of whose ends have a gene set."""
    annotated = similarity.n_terms > 0
    source, target = edges["source"].to_numpy(), edges["target"].to_numpy()
    # an end of -1 is no feature, whatever stands in the last row
    return edges.filter((source >= 0) & (target >= 0) & annotated[source] & annotated[target])


def compare(
    edges: pl.DataFrame, features: pd.DataFrame, similarity: TermSimilarity, settings: FindingsSettings
) -> MatchedTargets:
    """The likeness of the ends of `edges`, and by chance."""
    layer, n_terms = features["layer"].to_numpy(), similarity.n_terms
    covariates = [n_terms.astype(float), features["firing_rate"].to_numpy()]
    stratum = feature_strata(layer, n_terms > 0, covariates, settings.strata_bins, settings.min_stratum)
    ends = edges["source"].to_numpy(), edges["target"].to_numpy()
    return matched_targets(*ends, layer, stratum, similarity, settings.permutations, settings.seed)


def _row(compared: MatchedTargets, measure: str, settings: FindingsSettings) -> dict[str, object]:
    """A row of the table `coherence`."""
    sums = compared.sums[compared.sums["measure"] == measure]
    by_source = sums.groupby("source")[["value", "n"]].sum()
    value, n = by_source["value"].to_numpy(), by_source["n"].to_numpy()
    value, n = value[n > 0], n[n > 0]
    low, high = bootstrap_mean(value, n, settings)
    mean = compared.mean(measure)
    return {
        "pairs": "apart" if measure.startswith(APART) else "all",
        "measure": measure.removeprefix(APART),
        "n_edges": round(float(n.sum())),
        "n_sources": len(n),
        "value": mean,
        "interval_low": low,
        "interval_high": high,
        "matched": compared.mean(measure, "matched_"),
        "matched_p": p_greater(mean, compared.draws[measure]),
        "non_edges": compared.mean(measure, "other_"),
        "non_edges_p": p_over_sources(sums),
    }


def bootstrap_mean(value: np.ndarray, n: np.ndarray, settings: FindingsSettings) -> tuple[float, float]:
    """95 % interval of sum(value) / sum(n), resampling sources; both (source,). NaN where all sources are alike."""
    if len(np.unique(value / n)) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(settings.seed)
    return cluster_bootstrap(
        np.arange(len(n)), lambda weights: float(weights @ value / (weights @ n)), settings.permutations, rng
    )


def p_over_sources(sums: pd.DataFrame) -> float:
    """Two-sided p that the edges of a source are as much alike as its non-edges; NaN for fewer than two sources.

    The unit is a source: the sum over its edges of their value minus the mean value of its non-edges in that layer.
    """
    known = sums[(sums["other_n"] > 0) & (sums["n"] > 0)]
    excess = known["value"] - known["n"] * known["other_value"] / known["other_n"]
    by_source = excess.groupby(known["source"]).sum().to_numpy()
    if len(by_source) < 2:
        return float("nan")
    if len(by_source) <= FEW_SOURCES:
        return float(sign_flip(by_source))
    return float(one_sample_t(by_source.mean(), by_source.std(ddof=1), np.array(len(by_source))))


def by_layers(sums: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Table `coherence_layers`."""
    layer = features["layer"].to_numpy()
    columns: dict[str, object] = {}
    for measure, name in ((SHARED, "share"), (INFORMATION, "information")):
        chosen = sums[sums["measure"] == measure]
        weight = chosen["n"] / chosen["other_n"].where(chosen["other_n"] > 0)
        weighted = chosen.assign(
            source_layer=layer[chosen["source"].to_numpy(dtype=int)],
            others=chosen["other_value"] * weight,
            n_others=chosen["n"].where(weight.notna(), 0.0),
        )
        totals = weighted.drop(columns=["measure", "source"]).groupby(["source_layer", "target_layer"]).sum()
        columns["n_edges"] = totals["n"].round()
        columns[name] = totals["value"] / totals["n"]
        columns[f"matched_{name}"] = totals["matched_value"] / totals["matched_n"]
        if measure == SHARED:
            columns["non_edges_share"] = totals["others"] / totals["n_others"].where(totals["n_others"] > 0)
    return make_table("coherence_layers", pd.DataFrame(columns).reset_index())


def published_row(
    edges: pl.DataFrame, features: pd.DataFrame, similarity: TermSimilarity, settings: FindingsSettings
) -> dict[str, object]:
    """The published share, and its chance: gene sets exchanged among all annotated features of a layer, at both ends.

    The expected share of an edge is then that of all pairs of annotated features of its two layers; of layers with more
    than PUBLISHED_SAMPLE of them, of a random sample.
    """
    rng = np.random.default_rng(settings.seed)
    layer, annotated = features["layer"].to_numpy(), similarity.n_terms > 0
    source, target = edges["source"].to_numpy(), edges["target"].to_numpy()
    pools = {}
    for one in np.unique(layer[np.concatenate([source, target])]):
        pool = np.flatnonzero(annotated & (layer == one))
        pools[one] = rng.permutation(pool)[:PUBLISHED_SAMPLE]
    pairs, n_edges = np.unique(np.stack([layer[source], layer[target]]), axis=1, return_counts=True)
    chance = [_share_of_pairs(similarity, pools[a], pools[b]) for a, b in pairs.T]
    value = float(_share_of_edges(similarity, source, target))
    nothing = dict.fromkeys(("interval_low", "interval_high", "matched_p", "non_edges", "non_edges_p"), float("nan"))
    found = {"n_edges": edges.height, "n_sources": len(np.unique(source)), "value": value}
    matched = float(np.average(chance, weights=n_edges))
    return {"pairs": "published", "measure": SHARED, "matched": matched} | found | nothing


def _share_of_pairs(similarity: TermSimilarity, first: np.ndarray, second: np.ndarray) -> float:
    common = similarity.terms[first] @ similarity.terms[second].T
    return common.nnz / (len(first) * len(second))


def _share_of_edges(similarity: TermSimilarity, source: np.ndarray, target: np.ndarray) -> float:
    return float((similarity.terms[source].multiply(similarity.terms[target]).sum(axis=1) > 0).mean())


def _answers(table: pd.DataFrame, n_all: int) -> list[Answer]:
    rows = {(row["pairs"], row["measure"]): row for row in table.to_dict("records")}
    published = rows["published", SHARED]
    published_is = (
        f"share with a common gene set of the {STRONGEST} strongest edges of each source and target layer; its chance "
        f"(gene sets exchanged among all annotated features of a layer) is {published['matched']:.1%}, which is too "
        "low where sources were picked for having many gene sets"
    )
    whole, apart = rows["all", SHARED], rows["apart", SHARED]
    note = f"{whole['n_edges']:,} of {n_all:,} edges join two features that both have a gene set."
    left = f"{apart['n_edges']:,} of these {whole['n_edges']:,} edges join features without a common top gene."
    shared = "share of edges with a common gene set"
    found = [
        _answer(whole, ASKED, shared, "matched", MATCHED_IS, note, published["value"], published_is),
        _answer(whole, ASKED, shared, "non_edges", OTHERS_IS, "Units of the test are sources, which share targets."),
        _answer(rows["all", INFORMATION], ASKED, "mean information in common", "matched", MATCHED_IS, note),
    ]
    if apart["n_edges"] == 0:
        missing = "The ends of every edge have a top gene in common, so their gene sets are alike by construction."
        return [*found, untestable(QUESTION, APART_ASKED, shared, missing)]
    return [*found, _answer(apart, APART_ASKED, shared, "matched", MATCHED_IS, left)]


def _answer(
    row: dict,
    asked: str,
    statistic: str,
    against: str,
    baseline_is: str,
    note: str,
    published: float = float("nan"),
    published_is: str = "",
) -> Answer:
    return Answer(
        question=QUESTION,
        asked=asked,
        statistic=statistic,
        value=row["value"],
        baseline=row[against],
        baseline_is=baseline_is,
        low=row["interval_low"],
        high=row["interval_high"],
        p_value=row[f"{against}_p"],
        claim="higher",
        published=published,
        published_is=published_is,
        unit="share" if row["measure"] == SHARED else "1",
        note=note,
    )
