"""Which pairs of gene programs do edges join although no relation between them is known?

Most pairs of programs have no known relation, so most of what edges join is "novel" by chance alone. What counts is
whether edges avoid known relations or prefer them, and which pairs without one are joined more often than chance joins
them. A program whose name is no gene set of the references cannot be judged, and is left out rather than called novel.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import polars as pl
from scipy import sparse

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.findings.coherence import bootstrap_mean
from cellcircuits.measures.feature_strata import feature_strata
from cellcircuits.measures.known_relations import KnownRelations, known_relations
from cellcircuits.measures.matched_targets import MatchedTargets, Values, matched_targets, p_two_sided
from cellcircuits.measures.program_pairs import p_at_least, pair_chance, program_edges
from cellcircuits.measures.published_edges import STRONGEST, strongest_edges
from cellcircuits.networks import Interactions
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import benjamini_hochberg
from cellcircuits.tables import make_table

QUESTION = "novelty"
ASKED = "Do edges join gene programs without a known relation more often than chance?"
STATISTIC = "share of edges between different programs without a known relation"
MATCHED_IS = "sources and edges kept; labels of targets exchanged within layer and firing rate"


def ask(
    evidence: Evidence,
    settings: FindingsSettings,
    *,
    gene_sets: Mapping[str, frozenset[str]],
    interactions: Interactions | None = None,
) -> Found:
    """Table `novelty` and three answers.

    Parameters
    ----------
    gene_sets
        {name: upper-case symbols}: the collections from which the labels come, together.
    interactions
        A network, as a second kind of known relation.
    """
    names, label = evidence.labels
    with_set = np.array([name in gene_sets for name in names], dtype=bool)
    judged = np.flatnonzero(with_set)
    coverage = f"{len(judged):,} of {len(names):,} labels are gene sets of the references."
    if len(judged) < 2:
        missing = f"{coverage} Give the collections from which the labels come (annotate.gene_sets)."
        return Found(answers=[untestable(QUESTION, ASKED, STATISTIC, missing)])
    relations = known_relations([str(names[one]) for one in judged], gene_sets, interactions)
    program = np.where(label >= 0, np.where(with_set, np.cumsum(with_set) - 1, -1)[label], -1)
    edges = edges_between_programs(evidence.edges, program)
    if edges.is_empty():
        missing = f"{coverage} No edge joins features of two of them. Trace more sources."
        return Found(answers=[untestable(QUESTION, ASKED, STATISTIC, missing)])
    known = relations.known(settings.max_q)
    compared = compare(edges, evidence.features, program, known, settings)
    table = pair_table(evidence, judged, relations, settings)
    if interactions is not None:
        coverage += f" {relations.n_in_network:,} of their {relations.n_all_genes:,} genes are in {interactions.name}."
    published = published_share(evidence, label, with_set, program, relations, settings)
    answers = [
        _edges_answer(compared, published, coverage, settings),
        *_pair_answers(table, known, settings),
    ]
    return Found({"novelty": table}, answers)


def edges_between_programs(edges: pl.DataFrame, program: np.ndarray) -> pl.DataFrame:
    """Edges between features of two different programs; `program` is int (feature,), -1 without one."""
    source, target = edges["source"].to_numpy(), edges["target"].to_numpy()
    kept = (source >= 0) & (target >= 0) & (program[source] >= 0) & (program[target] >= 0)
    return edges.filter(kept & (program[source] != program[target]))


def compare(
    edges: pl.DataFrame, features: pd.DataFrame, program: np.ndarray, known: np.ndarray, settings: FindingsSettings
) -> MatchedTargets:
    """Share of `edges` with a known relation, and by chance; pairs of one program are left out of both."""
    layer, rate = (features[name].to_numpy() for name in ("layer", "firing_rate"))
    stratum = feature_strata(layer, program >= 0, [rate], settings.strata_bins, settings.min_stratum)
    related = sparse.csr_array((known & ~np.eye(len(known), dtype=bool)).astype(float))

    def measure(sources: np.ndarray, columns: np.ndarray) -> Values:
        one, other = (_indicator(program[rows], len(known)) for rows in (sources, columns))
        return {"known": ((related[program[sources]] @ other.T).tocsr(), (one @ other.T).tocsr())}

    ends = edges["source"].to_numpy(), edges["target"].to_numpy()
    return matched_targets(*ends, layer, stratum, measure, settings.permutations, settings.seed)


def _indicator(program: np.ndarray, n_programs: int) -> sparse.csr_array:
    entries = np.ones(len(program)), program, np.arange(len(program) + 1)
    return sparse.csr_array(entries, shape=(len(program), n_programs))


def pair_table(
    evidence: Evidence, judged: np.ndarray, relations: KnownRelations, settings: FindingsSettings
) -> pd.DataFrame:
    """Table `novelty`; `judged` are the labels with a gene set, in the order of `relations`."""
    joined = program_edges(evidence, settings)
    between = np.ix_(judged, judged)
    n_edges, chance = joined.between()[between], pair_chance(joined)
    mean, variance, third = (values[between] for values in (chance.mean, chance.variance, chance.third))
    negative = program_edges(evidence, settings, (pl.col("mean_delta") < 0).cast(pl.Float64)).between()[between]
    possible = (mean > 0) & ~np.eye(len(judged), dtype=bool)
    q = np.ones(possible.shape)
    p = p_at_least(n_edges, mean, variance, third)
    q[possible] = benjamini_hochberg(p[possible])
    source, target = np.nonzero((n_edges > 0) & possible)
    place, names = (source, target), joined.names[judged]
    known, published = relations.known(settings.max_q), relations.published(settings.min_shared_genes)
    table = pd.DataFrame(
        {
            "source_label": names[source],
            "target_label": names[target],
            "n_edges": np.rint(n_edges[place]),
            "n_expected": mean[place],
            "p_value": p[place],
            "q_value": q[place],
            "share_negative": negative[place] / n_edges[place],
            "n_source_genes": relations.n_genes[source],
            "n_target_genes": relations.n_genes[target],
            "n_shared_genes": relations.n_shared[place],
            "overlap_q": relations.overlap_q[place],
            "n_interactions": relations.n_interactions[place],
            "interactions_expected": relations.expected_interactions[place],
            "interactions_q": relations.interactions_q[place],
            "known": known[place],
            "known_published": published[place],
            "candidate": ~known[place] & (q[place] <= settings.max_q),
        }
    )
    order = ["candidate", "q_value", "p_value", "n_edges", "source_label", "target_label"]
    table = table.sort_values(order, ascending=[False, True, True, False, True, True], ignore_index=True)
    return make_table("novelty", table)


def published_share(
    evidence: Evidence,
    label: np.ndarray,
    with_set: np.ndarray,
    program: np.ndarray,
    relations: KnownRelations,
    settings: FindingsSettings,
) -> float:
    """Share of the published edges between labelled features that were called novel; NaN without any.

    Edges between features of one label count in the denominator; a label that is no gene set makes its edges novel.
    """
    edges = strongest_edges(evidence.edges)
    source, target = edges["source"].to_numpy(), edges["target"].to_numpy()
    kept = (source >= 0) & (target >= 0) & (label[source] >= 0) & (label[target] >= 0)
    source, target = source[kept], target[kept]
    if not len(source):
        return float("nan")
    related = relations.published(settings.min_shared_genes)[program[source], program[target]]
    related &= with_set[label[source]] & with_set[label[target]]
    return float(((label[source] != label[target]) & ~related).mean())


def _edges_answer(compared: MatchedTargets, published: float, coverage: str, settings: FindingsSettings) -> Answer:
    by_source = compared.sums.groupby("source")[["value", "n"]].sum()
    by_source = by_source[by_source["n"] > 0]
    value, n = by_source["value"].to_numpy(), by_source["n"].to_numpy()
    low, high = bootstrap_mean(n - value, n, settings)
    return Answer(
        question=QUESTION,
        asked=ASKED,
        statistic=STATISTIC,
        value=1 - compared.mean("known"),
        baseline=1 - compared.mean("known", "matched_"),
        baseline_is=MATCHED_IS,
        low=low,
        high=high,
        p_value=p_two_sided(compared.mean("known"), compared.draws["known"]),
        claim="higher",
        published=published,
        published_is=(
            f"share novel of the {STRONGEST} strongest edges of each source and target layer with two labels: fewer "
            f"than {settings.min_shared_genes} shared genes, or a label that is no gene set; stated without a baseline"
        ),
        unit="share",
        note=f"{round(float(n.sum())):,} edges join two programs with gene sets. {coverage}",
    )


def _pair_answers(table: pd.DataFrame, known: np.ndarray, settings: FindingsSettings) -> list[Answer]:
    different = ~np.eye(len(known), dtype=bool)
    connected = table["q_value"] <= settings.max_q
    pairs = Answer(
        question=QUESTION,
        asked="Are the pairs of programs that edges join mostly without a known relation?",
        statistic="share of joined pairs of programs without a known relation",
        value=float((~table["known"]).mean()),
        baseline=float((~known)[different].mean()),
        baseline_is="all ordered pairs of different programs with gene sets",
        unit="share",
        note=f"{len(table):,} of {int(different.sum()):,} ordered pairs are joined by an edge.",
    )
    candidates = Answer(
        question=QUESTION,
        asked="Which pairs of programs without a known relation do edges join beyond chance?",
        statistic="pairs joined beyond chance without a known relation",
        value=float(table["candidate"].sum()),
        baseline=float(settings.max_q * connected.sum()),
        baseline_is="false ones expected among all pairs joined beyond chance, at most: max_q x their number",
        unit="pairs",
        note=f"{int(connected.sum()):,} pairs are joined beyond chance; the table `novelty` names them.",
    )
    return [pairs, candidates]
