"""Sums of hypergeometric numbers: how many edges join two labels if target labels are permuted within strata.

A stratum of N edges, of which a leave the one label and b reach the other, gives a hypergeometric number of edges that
do both; a pair of labels has their sum over the strata.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betainc, gammaln

EXACT_P = 0.05
"""Pairs whose approximate p is larger are left with it; q is never less than p."""
EXACT_EDGES = 100
"""Pairs with more edges are left with the approximate p, whose relative error is small where counts are large."""
MOMENT_ROWS, EXACT_ROWS = 65_536, 4_096
"""Pairs of labels in memory together, as numbers per stratum."""
NEGLIGIBLE = 1e-9
"""Numbers of a stratum whose chance is below this share of the approximate p are left out of the exact sum."""


@dataclass(frozen=True)
class Strata:
    """Labelled edges within strata."""

    sizes: np.ndarray
    """int64 (stratum,): edges."""
    leaving: np.ndarray
    """int32 (label, stratum): edges whose source has the label."""
    reaching: np.ndarray
    """int32 (label, stratum): edges whose target has the label."""

    def reduced(
        self, observed: np.ndarray, source: np.ndarray, target: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(edges beyond the certain ones (row,), a, b (row, stratum)) of pairs of labels.

        Where a + b > N, at least a + b - N edges join the labels, and how many more is hypergeometric with N - a and
        N - b in the place of a and b.
        """
        a, b = self.leaving[source].astype(float), self.reaching[target].astype(float)
        certain = np.maximum(a + b - self.sizes, 0.0)
        flipped = certain > 0
        a, b = (np.where(flipped, self.sizes - x, x) for x in (a, b))
        return observed - certain.sum(axis=1), a, b


def overlap_cumulants(sizes: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Mean, variance, third central moment) of each sum, (row,); `sizes` is (stratum,), a and b are (row, stratum).

    Sums over strata of a b / N, of a b (N - a) (N - b) / (N^2 (N - 1)), and of that times (N - 2 a) (N - 2 b) /
    (N (N - 2)).
    """
    n = sizes.astype(float)
    part = a * b / n
    mean = part.sum(axis=1)
    part *= (1 - a / n) * (n - b) / np.maximum(n - 1, 1)
    variance = part.sum(axis=1)
    part *= (1 - 2 * a / n) * (n - 2 * b) / np.maximum(n - 2, 1)
    return mean, variance, part.sum(axis=1)


def approximate_p(observed: np.ndarray, mean: np.ndarray, variance: np.ndarray, third: np.ndarray) -> np.ndarray:
    """Chance of at least so many edges, by a shifted binomial distribution with these three moments.

    A hypergeometric number, and so a sum of them, is a sum of independent yes-or-no numbers (Harper 1967), as a
    binomial one is. With share p = (1 - third / variance) / 2, n = variance / (p (1 - p)) trials and a shift
    s = mean - n p, which need not be whole numbers, P(X >= k) = I(k - s, n - k + s + 1; p), the incomplete beta
    function.
    """
    k, mean = np.asarray(observed, dtype=float), np.asarray(mean, dtype=float)
    varies = variance > 1e-9
    spread = np.where(varies, variance, 1.0)
    share = np.clip((1 - third / spread) / 2, 1e-6, 1 - 1e-6)
    trials = spread / (share * (1 - share))
    beyond = k - (mean - trials * share)
    p = betainc(np.maximum(beyond, 1e-9), np.maximum(trials - beyond + 1, 1e-9), share)
    p = np.where(beyond <= 0, 1.0, p)
    certain = np.where(k <= mean + 1e-6, 1.0, 0.0)
    return np.where(k <= 0, 1.0, np.where(varies, np.clip(p, 0.0, 1.0), certain))


def overlap_p(
    observed: np.ndarray, strata: Strata, source: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(Mean number, chance of at least `observed` edges), (row,) each, for pairs of source and target labels.

    The chance is exact where it could matter: where the approximate one is at most EXACT_P, and at most EXACT_EDGES
    edges are not certain.
    """
    mean, p = np.zeros(len(observed)), np.ones(len(observed))
    beyond = np.zeros(len(observed))
    for start in range(0, len(observed), MOMENT_ROWS):
        some = slice(start, start + MOMENT_ROWS)
        beyond[some], a, b = strata.reduced(observed[some], source[some], target[some])
        mean[some], variance, third = overlap_cumulants(strata.sizes, a, b)
        p[some] = approximate_p(beyond[some], mean[some], variance, third)
    rows = np.flatnonzero((p <= EXACT_P) & (beyond <= EXACT_EDGES))
    # rows of like counts together, so that little is padded
    rows = rows[np.lexsort((rows, beyond[rows]))]
    for start in range(0, len(rows), EXACT_ROWS):
        block = rows[start : start + EXACT_ROWS]
        p[block] = exact_p(strata, observed[block], source[block], target[block], NEGLIGIBLE * p[block])
    # the certain edges are part of the mean
    return mean + (observed - beyond), p


def exact_p(
    strata: Strata, observed: np.ndarray, source: np.ndarray, target: np.ndarray, negligible: np.ndarray | float = 0.0
) -> np.ndarray:
    """Chance of at least `observed` edges (row,), by convolution over strata; a sum of positive numbers alone.

    Held are the chances that 0 ("that many or more"), 1, 2, ... edges are missing.
    """
    beyond, leaving, reaching = strata.reduced(observed, source, target)
    wanted = np.maximum(beyond, 0).astype(np.int64)
    missing = np.zeros((len(wanted), int(wanted.max(initial=0)) + 1))
    missing[np.arange(len(wanted)), wanted] = 1.0
    limits = np.broadcast_to(negligible, wanted.shape)
    for n, a, b in zip(strata.sizes, leaving.T, reaching.T, strict=True):
        joined = np.flatnonzero((a > 0) & (b > 0))
        if len(joined):
            drawn = hypergeometric(float(n), a[joined], b[joined], missing.shape[1] - 1, limits[joined])
            missing[joined] = _fewer_missing(missing[joined], drawn)
    return np.minimum(missing[:, 0], 1.0)


def _fewer_missing(missing: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Chances (row, number missing) after one more stratum, which has 0, 1, ... edges with chances `drawn`."""
    width = missing.shape[1]
    found = np.zeros_like(missing)
    # at least as many as are missing
    found[:, 0] = (drawn[:, ::-1].cumsum(axis=1)[:, ::-1] * missing).sum(axis=1)
    for k in np.flatnonzero(drawn.any(axis=0)):
        found[:, 1 : width - k] += drawn[:, k : k + 1] * missing[:, 1 + k :]
    return found


def hypergeometric(n: float, a: np.ndarray, b: np.ndarray, most: int, limit: np.ndarray) -> np.ndarray:
    """Chance of 0, 1, ..., `most` common members of random subsets of a and b of n, (row, number); the last: or more.

    For a + b <= n. Each chance follows from the one before; they end once all that follow are below `limit` (row,).
    """
    chances = np.zeros((len(a), most + 1))
    now = np.exp(gammaln(n - a + 1) + gammaln(n - b + 1) - gammaln(n - a - b + 1) - gammaln(n + 1))
    mode, k = (a + 1) * (b + 1) / (n + 2), 0
    while True:
        chances[:, min(k, most)] += now
        now = now * ((a - k) * (b - k)) / ((k + 1) * (n - a - b + k + 1))
        k += 1
        if not ((now > limit) | ((k < mode) & (now > 0))).any():
            return chances
