"""Do gene programs have an order beyond what their layers force?

Every edge goes from a layer to one above it, so that "all edges from A to B go up" is true of any two programs, and
where A sits below B, A -> B is the more common direction by position alone. Counted is therefore what is left of the
difference between A -> B and B -> A once sources keep their layers, edges and labels, and targets exchange labels
within layer and firing rate. How deep a program sits is asked of its features, not of edge ends, whose layers are those
that were traced. Two programs that are joined in both directions do so at several layers; no signal returns.
"""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.measures.matched_targets import p_greater, p_two_sided
from cellcircuits.measures.program_depth import depth_explained, depth_of_programs, endpoint_depth, relative_depth
from cellcircuits.measures.program_pairs import (
    PairChance,
    ProgramEdges,
    p_at_least,
    pair_chance,
    program_edges,
    random_labels,
)
from cellcircuits.measures.published_edges import STRONGEST, strongest_edges
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import benjamini_hochberg
from cellcircuits.tables import make_table

QUESTION = "hierarchy"
ASKED = "Do gene programs have an order beyond what their layers force?"
STATISTIC = "difference between A -> B and B -> A beyond its expectation, summed over pairs / edges between programs"
DAMPING = 0.85
"""Of PageRank, as published."""
LARGEST_SKEW = 0.3
"""Skewness up to which a number of edges counts as normal: that of some eleven expected edges."""


@dataclass(frozen=True)
class Draws:
    """Statistics of random labels, each (draw,)."""

    asymmetry: np.ndarray
    reciprocal: np.ndarray


def ask(evidence: Evidence, settings: FindingsSettings) -> Found:
    """Tables `hierarchy` and `hierarchy_pairs`, and four answers."""
    edges = program_edges(evidence, settings)
    counts = edges.between()
    np.fill_diagonal(counts, 0.0)
    if len(edges.names) < 2 or not counts.any():
        missing = (
            f"The features have {len(edges.names)} different labels, and no edge joins two of them. Give more gene "
            "sets (annotate.gene_sets) or trace more sources."
        )
        return Found(answers=[untestable(QUESTION, ASKED, STATISTIC, missing)])
    chance = pair_chance(edges)
    draws = draw_chance(edges, chance, settings)
    pairs = pair_rows(edges.names, counts, chance, settings.max_q)
    programs = program_rows(evidence, edges, counts, chance, settings)
    tables = {
        "hierarchy": make_table("hierarchy", programs),
        "hierarchy_pairs": make_table("hierarchy_pairs", pairs),
    }
    answers = [
        _asymmetry_answer(counts, chance, draws, pairs, settings),
        depth_answer(evidence, settings),
        _reciprocal_answer(evidence, counts, draws),
        _upward_answer(evidence),
        _component_answer(programs),
    ]
    return Found(tables, answers)


def asymmetry(counts: np.ndarray, mean: np.ndarray) -> float:
    """Sum over pairs of |(A -> B) - (B -> A) - its expectation| / all edges between different programs."""
    difference = counts - counts.T - (mean - mean.T)
    between = counts.sum() - np.trace(counts)
    # every pair is there twice
    return float(np.abs(difference).sum() / 2 / between) if between else float("nan")


def reciprocal_share(counts: np.ndarray) -> float:
    """Share of the pairs of programs joined by an edge that are joined in both directions."""
    there = counts > 0
    np.fill_diagonal(there, False)
    both = (there & there.T).sum() / 2
    either = there.sum() - both
    return float(both / either) if either else float("nan")


def draw_chance(edges: ProgramEdges, chance: PairChance, settings: FindingsSettings) -> Draws:
    """Asymmetry and share of reciprocal pairs when targets exchange labels."""
    rng = np.random.default_rng(settings.seed)
    found = []
    for label in random_labels(edges, settings.permutations, rng):
        counts = edges.between(label)
        np.fill_diagonal(counts, 0.0)
        found.append((asymmetry(counts, chance.mean), reciprocal_share(counts)))
    return Draws(*np.array(found).T)


def pair_rows(names: np.ndarray, counts: np.ndarray, chance: PairChance, max_q: float) -> pd.DataFrame:
    """Table `hierarchy_pairs`: both directions of every pair of programs, and what is left of their difference.

    z = (D - E) / sd, for D = (A -> B) - (B -> A), with the exact mean and variance of D by chance. Corrected over all
    pairs of which chance can change D.
    """
    difference, expected = counts - counts.T, chance.mean - chance.mean.T
    variance = chance.variance + chance.variance.T - 2 * chance.covariance
    tested = np.triu((variance > 1e-9) & (chance.mean + chance.mean.T > 0), 1)
    first, second = np.nonzero(tested)
    sd = np.sqrt(variance[tested])
    z = (difference - expected)[tested] / sd
    p = p_of_order(counts, chance, first, second, sd)
    over = benjamini_hochberg(p_directions(counts, chance))
    forward_q, backward_q = over[first, second], over[second, first]
    table = pd.DataFrame(
        {
            "first_label": names[first],
            "second_label": names[second],
            "n_forward": counts[first, second].round(),
            "n_backward": counts[second, first].round(),
            "expected_forward": chance.mean[first, second],
            "expected_backward": chance.mean[second, first],
            "z": z,
            "p_value": p,
            "q_value": benjamini_hochberg(p),
            "forward_q": forward_q,
            "backward_q": backward_q,
            "both_beyond_chance": (forward_q <= max_q) & (backward_q <= max_q),
        }
    )
    table = table[(table["n_forward"] > 0) | (table["n_backward"] > 0)]
    return table.sort_values(["q_value", "p_value", "first_label", "second_label"], ignore_index=True)


def p_of_order(
    counts: np.ndarray, chance: PairChance, first: np.ndarray, second: np.ndarray, sd: np.ndarray
) -> np.ndarray:
    """Two-sided p of D = (A -> B) - (B -> A) for pairs (first, second) of programs: twice that of the side found.

    Where both numbers are nearly symmetric by chance (skewness below LARGEST_SKEW), D is normal with the variance sd^2,
    less half an edge. Few edges are not normal: of 0.01 expected edges, one is many sd away. There p is the smaller of
    two bounds of P(D >= d). If D >= d, then A -> B has at least d edges; and either A -> B has at least as many edges
    as found, or B -> A at most as many.
    """
    skew = np.abs(chance.third) / np.where(chance.variance > 1e-9, chance.variance, np.inf) ** 1.5
    normal = (skew[first, second] < LARGEST_SKEW) & (skew[second, first] < LARGEST_SKEW)
    beyond = (counts - counts.T - chance.mean + chance.mean.T)[first, second]
    a, b = np.where(beyond > 0, first, second), np.where(beyond > 0, second, first)
    more, less = ((counts[i], chance.mean[i], chance.variance[i], chance.third[i]) for i in ((a, b), (b, a)))
    at_least = p_at_least(more[0] - less[0], *more[1:])
    # at most k edges: the mirrored distribution; a number that chance cannot change is as found
    at_most = np.where(less[2] > 1e-9, p_at_least(-less[0], -less[1], less[2], -less[3]), 0.0)
    either = np.where(more[2] > 1e-9, p_at_least(*more), 0.0) + at_most
    bound = np.minimum(at_least, either)
    p = np.where(normal, scipy_stats.norm.sf(np.maximum(np.abs(beyond) - 0.5, 0.0) / sd), bound)
    return np.minimum(2 * p, 1.0)


def p_directions(counts: np.ndarray, chance: PairChance) -> np.ndarray:
    """p of at least so many edges A -> B, (program, program); 1 for a program and itself."""
    p = p_at_least(counts, chance.mean, chance.variance, chance.third)
    np.fill_diagonal(p, 1.0)
    return p


def program_rows(
    evidence: Evidence, edges: ProgramEdges, counts: np.ndarray, chance: PairChance, settings: FindingsSettings
) -> pd.DataFrame:
    """Table `hierarchy`: depth of every program, and its place in the graph of pairs joined beyond chance."""
    depth, label = relative_depth(evidence), edges.label
    table = depth_of_programs(depth[label >= 0], label[label >= 0], len(edges.names))
    joined = benjamini_hochberg(p_directions(counts, chance)) <= settings.max_q
    graph = nx.from_numpy_array(joined, create_using=nx.DiGraph)
    published = nx.from_numpy_array(counts > 0, create_using=nx.DiGraph)
    component = np.full(len(edges.names), -1)
    cyclic = [sorted(found) for found in nx.strongly_connected_components(graph) if len(found) > 1]
    for number, found in enumerate(sorted(cyclic, key=lambda members: (-len(members), members))):
        component[found] = number
    rank, published_rank = (nx.pagerank(g, alpha=DAMPING) for g in (graph, published))
    table = table.assign(
        label=edges.names,
        endpoint_depth=endpoint_depth(evidence, depth, label, len(edges.names)),
        n_outgoing=joined.sum(axis=1),
        n_incoming=joined.sum(axis=0),
        page_rank=[rank[i] for i in range(len(edges.names))],
        published_page_rank=[published_rank[i] for i in range(len(edges.names))],
        component=component,
    )
    return table.sort_values(["relative_depth", "label"], ignore_index=True)


def _asymmetry_answer(
    counts: np.ndarray, chance: PairChance, draws: Draws, pairs: pd.DataFrame, settings: FindingsSettings
) -> Answer:
    value = asymmetry(counts, chance.mean)
    ordered = int((pairs["q_value"] <= settings.max_q).sum())
    return Answer(
        question=QUESTION,
        asked=ASKED,
        statistic=STATISTIC,
        value=value,
        baseline=float(np.nanmean(draws.asymmetry)),
        baseline_is="sources, edges and layers kept; labels of targets exchanged within layer and firing rate",
        p_value=p_greater(value, draws.asymmetry),
        unit="share",
        note=(
            f"{ordered:,} of {len(pairs):,} pairs of programs have an order beyond chance (table `hierarchy_pairs`). "
            f"{len(draws.asymmetry):,} draws. No interval: resampled sources make any absolute difference larger."
        ),
    )


def depth_answer(evidence: Evidence, settings: FindingsSettings) -> Answer:
    """How much of the depth of labelled features lies between programs."""
    names, label = evidence.labels
    depth, label = relative_depth(evidence)[label >= 0], label[label >= 0]
    asked, statistic = "Do gene programs sit at different depths?", "share of the variance of depth between programs"
    value = depth_explained(depth, label)
    if not np.isfinite(value) or len(names) >= len(depth):
        missing = "Labelled features lie in one layer, or every label is on one feature only."
        return untestable(QUESTION, asked, statistic, missing)
    rng = np.random.default_rng(settings.seed)
    draws = np.array([depth_explained(rng.permutation(depth), label) for _ in range(settings.permutations)])
    return Answer(
        question=QUESTION,
        asked=asked,
        statistic=statistic,
        value=value,
        baseline=(len(names) - 1) / (len(depth) - 1),
        baseline_is="labels exchanged among all labelled features",
        p_value=p_greater(value, draws),
        unit="share",
        note="Over features, whether or not an edge reaches them. Features of one label may be copies across layers.",
    )


def _reciprocal_answer(evidence: Evidence, counts: np.ndarray, draws: Draws) -> Answer:
    _, label = evidence.labels
    strongest = strongest_edges(evidence.edges)
    source, target = (strongest[end].to_numpy() for end in ("source", "target"))
    kept = (source >= 0) & (target >= 0) & (label[source] >= 0) & (label[target] >= 0)
    published = np.zeros(counts.shape)
    np.add.at(published, (label[source[kept]], label[target[kept]]), 1)
    value = reciprocal_share(counts)
    return Answer(
        question=QUESTION,
        asked="Are more pairs of programs joined in both directions than by chance?",
        statistic="share of joined pairs of programs with edges in both directions",
        value=value,
        baseline=float(np.nanmean(draws.reciprocal)),
        baseline_is="sources, edges and layers kept; labels of targets exchanged within layer and firing rate",
        p_value=p_two_sided(value, draws.reciprocal),
        claim="higher",
        published=reciprocal_share(published),
        published_is=(
            f"the same of the {STRONGEST} strongest edges of each source and target layer, called feedback loops: "
            "edges only go up, so both labels occur at several layers"
        ),
        unit="share",
    )


def _upward_answer(evidence: Evidence) -> Answer:
    up = evidence.edges["target_layer"].to_numpy() > evidence.edges["source_layer"].to_numpy()
    return Answer(
        question=QUESTION,
        asked="Do edges between programs go up?",
        statistic="share of edges from a lower to a higher layer",
        value=float(up.mean()),
        baseline=1.0,
        baseline_is="by construction: only layers above the source are measured",
        published=float(up.mean()),
        published_is="reported as evidence for an order in time of two processes; it is true of every edge",
        unit="share",
    )


def _component_answer(programs: pd.DataFrame) -> Answer:
    joined = int(((programs["n_outgoing"] > 0) | (programs["n_incoming"] > 0)).sum())
    largest = int((programs["component"] == 0).sum())
    return Answer(
        question=QUESTION,
        asked="Is there a group of programs each of which leads to each other?",
        statistic="programs in the largest strongly connected group of the pairs joined beyond chance",
        value=float(largest),
        unit="programs",
        note=f"{joined:,} of {len(programs):,} programs are joined with another beyond chance. 0: they have an order.",
    )
