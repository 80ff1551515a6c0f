"""Does a feature change the output of the genes that it is called after more than that of others?

Genes are cut into classes by the number of cells that have them. Within its class a gene's percentile is its place
among the tested genes of the source by |mean effect| in the control cells, (rank - 1/2) / n: 1/2 on average. The top
genes' mean percentile is compared in two ways, since they are the genes AT which the feature is active, where any
vector that is removed reaches the head directly:

    with other genes            genes are permuted within classes, alike for all sources
    with random directions      removed at the same positions, so that the same genes lose as much
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from cellcircuits.answers import Answer, untestable
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.interventions.outputs import Outputs
from cellcircuits.interventions.own_and_random import own_is_larger
from cellcircuits.stats import permutations_within, rank_classes

GENES_ASKED = "Are a feature's top genes changed more than other genes?"
RANDOM_ASKED = "Are they changed more than by random directions at the same positions?"
STATISTIC = "Mean percentile of |effect| of the top genes among genes in as many cells, mean over sources"
N_CLASSES = 5
MIN_GENES = 3
"""Fewest tested top genes of a source, and as many others."""
PERMUTATIONS = 2000


def ask_top_genes(inputs: Inputs, outputs: Outputs, listed: np.ndarray) -> list[Answer]:
    """Both answers; `listed` is bool (source, gene)."""
    classes = rank_classes(outputs.n_cells, np.zeros(len(outputs.n_cells), dtype=np.int64), N_CLASSES)
    compared = outputs.genes.compared
    tested = compared[0].n >= inputs.settings.min_cells
    listed = listed & tested
    enough = (listed.sum(axis=1) >= MIN_GENES) & ((tested & ~listed).sum(axis=1) >= MIN_GENES)
    if not enough.any():
        why = (
            f"No source has {MIN_GENES} top genes, and as many others, in {inputs.settings.min_cells} control cells in "
            "which it is active. Intervene in more cells (n_cells, output_control_cells), or name other features."
        )
        return [untestable("output_effects", asked, STATISTIC, why) for asked in (GENES_ASKED, RANDOM_ASKED)]
    listed, tested = listed[enough], tested[enough]
    effects = np.array([part.mean[enough] for part in compared])
    places = np.array([percentiles(np.abs(of_direction), tested, classes) for of_direction in effects])
    found = np.array([of_listed(of_direction, listed) for of_direction in places])
    return [
        _genes_answer(inputs, found[0], places[0], listed, classes, published_ratio(effects[0], tested, listed)),
        _random_answer(inputs, found),
    ]


def percentiles(effects: np.ndarray, tested: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(source, gene): place of each tested gene among those of its class, NaN for the others."""
    places = np.full(effects.shape, np.nan)
    for source in range(len(effects)):
        for number in np.unique(classes):
            members = np.flatnonzero(tested[source] & (classes == number))
            places[source, members] = (rankdata(effects[source, members]) - 0.5) / max(len(members), 1)
    return places


def of_listed(places: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """(source,): mean of `places` (source, gene) over the genes listed."""
    return np.where(listed, places, 0.0).sum(axis=1) / listed.sum(axis=1)


def permuted_means(
    places: np.ndarray, listed: np.ndarray, classes: np.ndarray, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """(draw,): the statistic with other genes of the same classes in the place of the listed ones.

    A gene that a source was not tested on does not count; all sources exchange the same genes.
    """
    source, gene = np.nonzero(listed)
    means = np.empty(draws)
    for draw, order in enumerate(permutations_within(classes, draws, rng)):
        values = places[source, order[gene]]
        known = np.isfinite(values)
        total = np.bincount(source, np.where(known, values, 0.0), minlength=len(listed))
        count = np.bincount(source, known, minlength=len(listed))
        means[draw] = (total[count > 0] / count[count > 0]).mean() if (count > 0).any() else 0.5
    return means


def published_ratio(effects: np.ndarray, tested: np.ndarray, listed: np.ndarray) -> float:
    """Median over sources of |mean effect over the top genes| / |mean effect over all other tested genes|."""
    others = tested & ~listed
    top = np.abs(np.where(listed, effects, 0.0).sum(axis=1)) / listed.sum(axis=1)
    rest = np.abs(np.where(others, effects, 0.0).sum(axis=1)) / others.sum(axis=1)
    return float(np.median(top[rest > 0] / rest[rest > 0])) if (rest > 0).any() else float("nan")


def _genes_answer(
    inputs: Inputs,
    found: np.ndarray,
    places: np.ndarray,
    listed: np.ndarray,
    classes: np.ndarray,
    published: float,
) -> Answer:
    rng = np.random.default_rng([inputs.settings.seed, 5])
    chance = permuted_means(places, listed, classes, PERMUTATIONS, rng)
    value = float(found.mean())
    return Answer(
        "output_effects",
        GENES_ASKED,
        STATISTIC,
        value,
        float(chance.mean()),
        "other genes in the place of the top genes, permuted within classes of the number of cells, alike for all "
        "sources; one-sided; genes are the units",
        p_value=float((1 + (chance >= value - 1e-12).sum()) / (1 + PERMUTATIONS)),
        published=published,
        published_is="|mean over the top genes| / |mean over all others| (median over sources): effects of both signs "
        "cancel, and the top genes are those at which the feature is removed, so random directions are above 1 too",
        unit="share",
        note=f"{len(listed):,} sources, {int(listed.sum()):,} top genes of theirs tested.",
    )


def _random_answer(inputs: Inputs, found: np.ndarray) -> Answer:
    """`found` is (direction, source)."""
    if len(found) < 2:
        why = "There are no random directions to compare with: set random_directions to 8."
        return untestable("output_effects", RANDOM_ASKED, STATISTIC, why)
    return Answer(
        "output_effects",
        RANDOM_ASKED,
        STATISTIC,
        float(found[0].mean()),
        float(found[1:].mean()),
        "random directions of the same norm at the same positions; one-sided, any of the directions could have been "
        "called a source's own; sources are the units",
        p_value=own_is_larger(found, inputs.settings.seed),
        unit="share",
        note=f"{found.shape[1]:,} sources, {len(found) - 1} random directions.",
    )
