"""Small runs to compare, made up: features with labels and gene lists, and edges between them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from cellcircuits.evidence import Evidence, make_evidence
from tests.made_up_evidence import filled, made_up_evidence


def gene_lists(features: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Table `feature_genes` from the top genes of the features, with random scores."""
    lists = features[["layer", "feature"]].assign(symbol=features["top_genes"].str.split(";")).explode("symbol")
    score = np.random.default_rng(seed).uniform(0.5, 1.5, len(lists))
    names = {name: lists[name].to_numpy() for name in ("layer", "feature", "symbol")}
    return filled("feature_genes", len(lists), **names, score=score)


def with_genes(evidence: Evidence, seed: int = 0) -> Evidence:
    """The same run with gene lists."""
    tables = evidence.tables | {"feature_genes": gene_lists(evidence.features, seed)}
    return Evidence(evidence.edges, evidence.features, tables)


def made_up_run(seed: int, **sizes: int) -> Evidence:
    """Made-up evidence with gene lists; runs of different seeds have nothing to do with each other."""
    return with_genes(made_up_evidence(seed, **sizes), seed)


def program_run(pairs: list[tuple[str, str]], snr: np.ndarray | None = None, names: tuple[str, ...] = ()) -> Evidence:
    """A run of two layers in which each edge joins two labels: features 0, 1, ... of both layers have the labels.

    Edges of one pair of labels lead to different features of the second layer, as many as the most frequent pair has.
    """
    every = sorted({label for pair in pairs for label in pair} | set(names))
    most = max(Counter(pairs).values(), default=1)
    labels = np.array([*every, *(every * most)], dtype=object)
    layer = np.repeat([0, 1], [len(every), len(every) * most])
    feature = np.concatenate([np.arange(len(every)), np.arange(len(every) * most)])
    features = filled("features", len(labels), layer=layer, feature=feature, label=labels, firing_rate=0.1)
    seen: Counter[tuple[str, str]] = Counter()
    targets = []
    for pair in pairs:
        targets.append(every.index(pair[1]) + len(every) * seen[pair])
        seen[pair] += 1
    values = np.ones(len(pairs)) if snr is None else np.asarray(snr, dtype=float)
    edges = filled(
        "edges",
        len(pairs),
        source_feature=[every.index(source) for source, _ in pairs],
        target_layer=1,
        target_feature=targets,
        snr=values,
        mean_delta=values,
    )
    sources = filled("sources", len(every), feature=np.arange(len(every)))
    tested = filled("tested", 1, target_layer=1, n_sources=len(every), n_tested=len(every) ** 2 * most)
    return make_evidence(edges, features, sources=sources, tested=tested)


def random_pairs(rng: np.random.Generator, popularity: np.ndarray) -> list[tuple[str, str]]:
    """Each ordered pair of different labels is joined on its own, more often between popular ones."""
    odds = np.outer(popularity, popularity)
    joined = rng.random(odds.shape) < odds / (1 + odds)
    np.fill_diagonal(joined, False)
    return [(f"t{s}", f"t{t}") for s, t in zip(*np.nonzero(joined), strict=True)]


def share_is_plausible(n: int, of: int, probability: float) -> bool:
    """Whether n of `of` is within four standard deviations above what `probability` makes (or anywhere below)."""
    return n <= of * probability + 4 * np.sqrt(of * probability * (1 - probability))
