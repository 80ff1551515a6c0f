"""Features that are alike in what makes a feature have edges: strata within which their names can be exchanged."""

from __future__ import annotations

import numpy as np

from cellcircuits.evidence import Evidence
from cellcircuits.loadings import nested_bins

STRATUM_BINS = 3
FEWEST_ALIKE = 5
"""Strata are not split into smaller ones: with nothing to exchange, no test could find anything."""


def feature_strata(evidence: Evidence) -> np.ndarray:
    """int64 (feature,): features of a layer, ablated or not, of similar number of edges, firing rate, number of genes.

    Thirds within thirds in this order, as long as 5 features are left in each. Edges come first: features with many
    have more of any kind.

    Sources are often picked because they are annotated, so they may only be exchanged with one another.
    """
    features = evidence.features
    n = len(features)
    ablated = np.zeros(n, dtype=np.int64)
    rows = evidence.source_rows
    ablated[rows[rows >= 0]] = 1
    degree = sum(degree_of(evidence.edges[end].to_numpy(), n) for end in ("source", "target"))
    stratum = features["layer"].to_numpy(np.int64) * 2 + ablated
    for values in (np.asarray(degree), features["firing_rate"].to_numpy(), features["n_unique_genes"].to_numpy()):
        stratum = nested_bins(stratum, values, STRATUM_BINS, FEWEST_ALIKE)
    return stratum


def degree_of(ends: np.ndarray, n_features: int) -> np.ndarray:
    """int64 (feature,): edges with this end; -1 is none."""
    return np.bincount(ends[ends >= 0], minlength=n_features)
