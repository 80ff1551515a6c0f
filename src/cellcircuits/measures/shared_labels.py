"""Do edges join features of the same label more often than features of the same strata do?

Null: features are permuted within strata, each with all its labels. Strata never mix layers, and edges lead from one
layer to another, so both ends of an edge are permuted independently. With E the edges, D (feature, label), and within
stratum a of n_a features p_a the share with a label and C_a the covariance matrix (n_a - 1) of the labels, the number
of edges whose ends share label d, sum of E_ij D_id D_jd, has

* mean: sum over strata a, b of E_ab p_a p_b, E_ab the edges from a to b;
* variance: a linear and a quadratic part, which are uncorrelated. Linear: sum of C_a(d, d) times the squared
  deviations, within a, of r_id = sum over edges of i of p at the other end. Quadratic: sum of C_a(d, d) C_b(d, d) Q_ab,
  with Q_ab the sum of squares of the doubly centred block E_ab.

The covariance of two labels d, e replaces (d, d) by (d, e) and squares by products. All of it is exact; no draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.stats import gamma, nbinom, poisson

LABELS_PER_BLOCK = 16
EDGES_PER_BLOCK = 2_000_000
LARGE_MEAN = 5.0


@dataclass(frozen=True)
class SharedLabels:
    """Edges whose ends share a label, observed and by chance; an edge counts once for each label that they share."""

    observed: np.ndarray
    """int64 (label,)."""
    expected: np.ndarray
    """float64 (label,)."""
    sd: np.ndarray
    """float64 (label,)."""
    per_source: np.ndarray
    """int64 (feature,): of the edges that leave the feature, over all labels."""
    total_sd: float
    """Standard deviation of the number over all labels."""

    @property
    def p_values(self) -> np.ndarray:
        """float64 (label,)."""
        return count_tail(self.observed, self.expected, self.sd)

    @property
    def total_p(self) -> float:
        """Of the number over all labels."""
        total = self.observed.sum(), self.expected.sum(), self.total_sd
        return float(count_tail(*(np.array([value]) for value in total))[0])


def shared_labels(source: np.ndarray, target: np.ndarray, labels: sp.csr_matrix, stratum: np.ndarray) -> SharedLabels:
    """Observed and expected edges between features that share a label.

    Parameters
    ----------
    source, target
        int (edge,): features. No edge may have both ends in one stratum.
    labels
        (feature, label): 1 where the feature has the label.
    stratum
        int (feature,), from 0.

    Raises
    ------
    ValueError
        If an edge has both ends in one stratum; its ends would not be permuted independently.
    """
    if (stratum[source] == stratum[target]).any():
        raise ValueError("An edge has both ends in one stratum.")
    n, labels = len(stratum), labels.astype(np.float64).tocsr()
    edges = sp.csr_matrix((np.ones(len(source)), (source, target)), (n, n))
    member = sp.csr_matrix((np.ones(n), (np.arange(n), stratum)))
    size = np.bincount(stratum).astype(float)
    leaving, reaching = sp.csr_matrix(edges @ member), sp.csr_matrix(edges.T @ member)
    between = np.asarray((member.T @ leaving).todense())
    have = np.asarray((member.T @ labels).todense())
    share = have / size[:, None]
    expected = ((between @ share) * share).sum(axis=0)
    variance = (have - have**2 / size[:, None]) / np.maximum(size - 1, 1)[:, None]
    pull = np.asarray((leaving + reaching) @ share)
    pull -= np.asarray(member @ ((member.T @ pull) / size[:, None]))
    linear = (np.asarray(member.T @ pull**2) * variance).sum(axis=0)
    spread = _double_centred(between, leaving, reaching, member, size)
    quadratic = ((spread @ variance) * variance).sum(axis=0)
    observed, per_source = _observed(source, target, labels)
    total = _total_variance(labels, stratum, pull, spread)
    return SharedLabels(observed, expected, np.sqrt(linear + quadratic), per_source, float(np.sqrt(max(total, 0.0))))


def count_tail(observed: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Chance of at least `observed` events whose number has this mean and standard deviation; 1 where none is observed.

    Negative binomial where the variance is above the mean. Else gamma with continuity correction, whose tail is longer
    than that of a sum of negatively correlated events, or, for a mean below 5, Poisson, which is longer still.
    """
    variance = sd**2
    wide = variance > mean * (1 + 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        shape = np.where(wide, mean**2 / np.where(wide, variance - mean, 1.0), 1.0)
        chance = np.where(wide, mean / np.where(wide, variance, 1.0), 0.5)
        narrow = ~wide & (mean >= LARGE_MEAN) & (variance > 0)
        spread = np.where(narrow, variance, 1.0)
        gamma_tail = gamma.sf(observed - 0.5, np.where(narrow, mean**2 / spread, 1.0), scale=spread / mean)
    tail = np.where(wide, nbinom.sf(observed - 1, shape, chance), poisson.sf(observed - 1, mean))
    return np.where(observed > 0, np.where(narrow, gamma_tail, tail), 1.0)


def _double_centred(
    between: np.ndarray, leaving: sp.csr_matrix, reaching: sp.csr_matrix, member: sp.csr_matrix, size: np.ndarray
) -> np.ndarray:
    """float64 (stratum, stratum): sum of squares of the doubly centred block of edges from the one to the other."""
    by_source = np.asarray((member.T @ leaving.power(2)).todense()) / size
    by_target = np.asarray((member.T @ reaching.power(2)).todense()).T / size[:, None]
    return between - by_source - by_target + between**2 / np.outer(size, size)


def _observed(source: np.ndarray, target: np.ndarray, labels: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Edges whose ends share a label, int64 by label and by source."""
    by_label, by_source = np.zeros(labels.shape[1]), np.zeros(labels.shape[0])
    has_label = np.diff(labels.indptr) > 0
    some = np.flatnonzero(has_label[source] & has_label[target])
    for start in range(0, len(some), EDGES_PER_BLOCK):
        block = some[start : start + EDGES_PER_BLOCK]
        shared = labels[source[block]].multiply(labels[target[block]])
        by_label += np.asarray(shared.sum(axis=0)).ravel()
        by_source += np.bincount(source[block], np.asarray(shared.sum(axis=1)).ravel(), minlength=len(by_source))
    return by_label.astype(np.int64), by_source.astype(np.int64)


def _total_variance(labels: sp.csr_matrix, stratum: np.ndarray, pull: np.ndarray, spread: np.ndarray) -> float:
    """Variance of the number over all labels: covariances of all pairs of labels, added up."""
    order = np.argsort(stratum, kind="stable")
    limits = np.concatenate([[0], np.cumsum(np.bincount(stratum))])
    n_labels, n_strata = labels.shape[1], len(spread)
    centred = []
    for code in range(n_strata):
        part = labels[order[limits[code] : limits[code + 1]]].toarray()
        centred.append(part - part.mean(axis=0))
    total = 0.0
    for start in range(0, n_labels, LABELS_PER_BLOCK):
        some = slice(start, start + LABELS_PER_BLOCK)
        width = min(start + LABELS_PER_BLOCK, n_labels) - start
        covariance = np.empty((n_strata, width * n_labels))
        for code, part in enumerate(centred):
            rows = order[limits[code] : limits[code + 1]]
            own = part[:, some].T @ part / max(len(part) - 1, 1)
            covariance[code] = own.ravel()
            total += float((own * (pull[rows][:, some].T @ pull[rows])).sum())
        total += float((covariance * (spread @ covariance)).sum())
    return total
