"""How deep do gene programs sit? Over the features of each program, and as published over the ends of edges."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from cellcircuits.evidence import Evidence
from cellcircuits.measures.published_edges import strongest_edges
from cellcircuits.stats import benjamini_hochberg


def relative_depth(evidence: Evidence) -> np.ndarray:
    """Layer of each feature / highest layer: 0 is the first, 1 the last; 0 where there is one layer. (feature,)."""
    return evidence.features["layer"].to_numpy(dtype=float) / max(evidence.n_layers - 1, 1)


def depth_of_programs(depth: np.ndarray, label: np.ndarray, n_programs: int) -> pd.DataFrame:
    """Mean depth of each program over its features, and a test against as many random labelled features.

    Chance draws n_A of the N labelled features without replacement: the mean has the variance S2 / n_A (1 - n_A / N).
    p is two-sided and normal.
    """
    n = np.bincount(label, minlength=n_programs)
    mean = np.bincount(label, weights=depth, minlength=n_programs) / n
    squares = np.bincount(label, weights=(depth - mean[label]) ** 2, minlength=n_programs)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = scipy_stats.t.ppf(0.975, n - 1) * np.sqrt(squares / (n - 1) / n)
    expected, spread = depth.mean(), depth.var(ddof=1) if len(depth) > 1 else 0.0
    variance = spread / n * (1 - n / len(depth))
    free = variance > 1e-12
    z = np.where(free, (mean - expected) / np.sqrt(np.where(free, variance, 1.0)), 0.0)
    return pd.DataFrame(
        {
            "n_features": n,
            "relative_depth": mean,
            "depth_low": np.clip(mean - error, 0.0, 1.0),
            "depth_high": np.clip(mean + error, 0.0, 1.0),
            "depth_expected": expected,
            "depth_q": benjamini_hochberg(2 * scipy_stats.norm.sf(np.abs(z))),
        }
    )


def endpoint_depth(evidence: Evidence, depth: np.ndarray, label: np.ndarray, n_programs: int) -> np.ndarray:
    """The published depth: mean over the ends of the strongest edges with the label; NaN without any. (program,)."""
    edges = strongest_edges(evidence.edges)
    ends = np.concatenate([edges["source"].to_numpy(), edges["target"].to_numpy()])
    ends = ends[ends >= 0]
    ends = ends[label[ends] >= 0]
    n = np.bincount(label[ends], minlength=n_programs)
    total = np.bincount(label[ends], weights=depth[ends], minlength=n_programs)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def depth_explained(depth: np.ndarray, label: np.ndarray) -> float:
    """Share of the variance of depth that lies between labels (eta squared); NaN where depth does not vary."""
    n = np.bincount(label)
    total = np.bincount(label, weights=depth)
    some = n > 0
    between = (total[some] ** 2 / n[some]).sum() - depth.sum() ** 2 / len(depth)
    whole = ((depth - depth.mean()) ** 2).sum()
    return float(between / whole) if whole > 1e-12 else float("nan")
