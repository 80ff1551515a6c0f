"""Tails of degrees: a power law, a log-normal, an exponential and a truncated power law, fitted and compared.

Everything is discrete. x_min and the goodness of fit follow Clauset, Shalizi and Newman 2009 (doi 10.1137/070710111).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import nan

import numpy as np
from scipy import optimize
from scipy import stats as scipy_stats
from scipy.special import log_ndtr, zeta

FEWEST_TAIL = 50
"""Features of a tail, at least: with fewer no two families can be told apart."""
CANDIDATES = 60
"""Values of x_min tried, spread evenly over the distinct degrees."""
EXPONENTS = 1 + np.exp(np.linspace(np.log(0.05), np.log(30.0), 130))
"""Grid of exponents; between its points log zeta is interpolated."""
SUPPORT = 2000
"""Degrees over which a truncated power law is summed; what lies beyond is integrated."""


@dataclass(frozen=True)
class Tail:
    """Degrees of at least x_min, and the families fitted to them."""

    n_features: int
    x_min: int
    values: np.ndarray
    """int64 (value,): distinct degrees of the tail, ascending."""
    counts: np.ndarray
    """int64 (value,): features with them."""
    alpha: float
    distance: float
    fit_p: float
    log_likelihood: dict[str, np.ndarray]
    """{family: float64 (value,)}: log probability of each distinct degree."""

    def ratio(self, family: str) -> tuple[float, float]:
        """(Sum, variance of the sum) of the log likelihood ratios of power law and `family` over the tail."""
        each = self.log_likelihood["power_law"] - self.log_likelihood[family]
        n, total = self.counts.sum(), float(self.counts @ each)
        return total, float(self.counts @ (each - total / n) ** 2)


def fit_tail(degrees: np.ndarray, draws: int, rng: np.random.Generator) -> Tail | None:
    """All families fitted to the tail of these degrees (each at least 1); None with fewer than FEWEST_TAIL features.

    x_min is the candidate whose tail is nearest to its power law by the largest distance of distribution functions, and
    the goodness of fit is that distance beside those of samples: from the degrees below x_min, and from the fitted
    power law in the share that the tail has, each fitted anew (Clauset, Shalizi and Newman 2009). Everything is
    discrete.
    """
    values, counts = np.unique(degrees, return_counts=True)
    grid = _Grid.of(values, counts)
    if grid is None:
        return None
    logs = np.log(values)
    which, alpha, distance = grid.nearest(counts, logs)
    first = grid.starts[which]
    p = nan
    if draws:
        samples, logs = grid.samples(counts, which, alpha, draws, rng)
        p = float((1 + sum(grid.nearest(sample, logs)[2] >= distance for sample in samples)) / (1 + draws))
    tail, n = values[first:], counts[first:]
    families = _log_likelihoods(tail, n)
    exact = families.pop("alpha")[0]
    return Tail(len(degrees), int(tail[0]), tail, n, float(exact), distance, p, families)


@dataclass(frozen=True)
class _Grid:
    """log zeta at all distinct degrees, their successors and all exponents, so that a fit is a look-up."""

    values: np.ndarray
    """int64 (value,)"""
    starts: np.ndarray
    """int64 (candidate,): places in `values` where a tail may start."""
    at: np.ndarray
    """float64 (exponent, value): log zeta(exponent, value)."""
    after: np.ndarray
    """float64 (exponent, value): log zeta(exponent, value + 1)."""

    @classmethod
    def of(cls, values: np.ndarray, counts: np.ndarray) -> _Grid | None:
        enough = np.flatnonzero(counts[::-1].cumsum()[::-1] >= FEWEST_TAIL)
        # a tail of one value has no shape
        enough = enough[enough < len(values) - 1]
        if len(enough) == 0:
            return None
        starts = np.unique(enough[np.linspace(0, len(enough) - 1, min(CANDIDATES, len(enough))).astype(int)])
        tables = [np.log(zeta(EXPONENTS[:, None], (values + more).astype(float))) for more in (0, 1)]
        return cls(values, starts, *tables)

    def nearest(self, counts: np.ndarray, logs: np.ndarray) -> tuple[int, float, float]:
        """(candidate, exponent, distance) of the candidate with the least distance.

        For counts (value,) of degrees, whose mean logarithms are `logs` (value,).
        """
        above = counts[::-1].cumsum()[::-1]
        logs = (counts * logs)[::-1].cumsum()[::-1]
        n = np.maximum(above[self.starts], 1)
        likelihood = -EXPONENTS[:, None] * (logs[self.starts] / n) - self.at[:, self.starts]
        place = self._peak(likelihood)
        low = np.minimum(place.astype(int), len(EXPONENTS) - 2)
        share = (place - low)[:, None]
        first = self._between(self.at, low, share, self.starts[:, None])
        beyond = np.exp(self._between(self.after, low, share, np.arange(len(self.values))[None]) - first)
        observed = (above - counts)[None, :] / n[:, None]
        inside = np.arange(len(self.values))[None] >= self.starts[:, None]
        distance = np.where(inside, np.abs(beyond - observed), 0.0).max(axis=1)
        # a sample can have fewer degrees than a tail must have
        distance[above[self.starts] < FEWEST_TAIL // 2] = np.inf
        best = int(distance.argmin())
        alpha = np.interp(place[best], np.arange(len(EXPONENTS)), np.log(EXPONENTS - 1))
        return best, float(1 + np.exp(alpha)), float(distance[best])

    @staticmethod
    def _peak(likelihood: np.ndarray) -> np.ndarray:
        """Place on the grid of the maximum of each column, by a parabola through the three highest points."""
        top = np.clip(likelihood.argmax(axis=0), 1, len(likelihood) - 2)
        columns = np.arange(likelihood.shape[1])
        before, here, after = (likelihood[top + step, columns] for step in (-1, 0, 1))
        curve = before - 2 * here + after
        shift = np.divide(before - after, 2 * curve, out=np.zeros(len(top)), where=curve < 0)
        return top + np.clip(shift, -1.0, 1.0)

    @staticmethod
    def _between(table: np.ndarray, low: np.ndarray, share: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(candidate, column): values of the table between two exponents."""
        return (1 - share) * table[low[:, None], columns] + share * table[low[:, None] + 1, columns]

    def samples(
        self, counts: np.ndarray, which: int, alpha: float, draws: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Counts (draw, value) of samples from the degrees below the tail and its power law, and mean logs (value,).

        Drawn degrees between two distinct observed ones are counted with the higher, those beyond the largest with the
        largest, where distribution functions are compared; their mean logarithm is that of the power law between the
        two, from the derivative of zeta by the exponent.
        """
        first, step = self.starts[which], 1e-4
        low = np.concatenate([[self.values[first]], self.values[first:-1] + 1]).astype(float)
        mass, log_mass = zeta(alpha, low), (zeta(alpha - step, low) - zeta(alpha + step, low)) / (2 * step)
        inside, log_inside = (-np.diff(part, append=0.0) for part in (mass, log_mass))
        logs = np.log(self.values)
        logs[first:] = np.clip(log_inside / inside, np.log(low), None)
        n, n_tail = counts.sum(), counts[first:].sum()
        chance = np.concatenate([counts[:first] / n, inside / mass[0] * (n_tail / n)])
        return rng.multinomial(n, chance / chance.sum(), size=draws), logs


def _log_likelihoods(values: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Log probabilities (value,) of the maximum-likelihood member of every family on values[0], values[0] + 1, ...

    And "alpha" (1,), the exponent of the power law.
    """
    x, x_min, n = values.astype(float), float(values[0]), counts.sum()
    mean, mean_log = float(counts @ x / n), float(counts @ np.log(x) / n)
    steep = optimize.minimize_scalar(
        lambda log_slope: (1 + np.exp(log_slope)) * mean_log + np.log(zeta(1 + np.exp(log_slope), x_min)),
        bounds=(np.log(0.05), np.log(30.0)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    alpha = 1 + float(np.exp(steep.x))
    found = {"alpha": np.array([alpha]), "power_law": -alpha * np.log(x) - np.log(zeta(alpha, x_min))}
    stop = 1 / (1 + mean - x_min)
    found["exponential"] = np.log(stop) + (x - x_min) * np.log1p(-stop) if stop < 1 else np.zeros(len(x))
    found["log_normal"] = _log_normal(x, counts, mean_log)
    found["truncated"] = _truncated(x, counts, alpha, found["power_law"])
    return found


def _log_normal(x: np.ndarray, counts: np.ndarray, mean_log: float) -> np.ndarray:
    """Rounded log-normal: chance of log(k - 1/2) to log(k + 1/2), given at least log(x_min - 1/2)."""
    low, high = np.log(x - 0.5), np.log(x + 0.5)

    def log_p(parameters: np.ndarray) -> np.ndarray:
        centre, sd = parameters[0], np.exp(parameters[1])
        # of upper tails, whose difference does not cancel far from the centre
        a, b = log_ndtr((centre - low) / sd), log_ndtr((centre - high) / sd)
        return a + np.log(-np.expm1(np.minimum(b - a, -1e-300))) - a[0]

    spread = np.sqrt(max(counts @ (np.log(x) - mean_log) ** 2 / counts.sum(), 1e-4))
    starts = [(mean_log, np.log(spread)), (np.log(x[0]) - 2.0, np.log(2 * spread + 0.5))]
    return max((_fitted(log_p, counts, start) for start in starts), key=lambda values: counts @ values)


def _truncated(x: np.ndarray, counts: np.ndarray, alpha: float, power_law: np.ndarray) -> np.ndarray:
    """p(k) ~ k^-a exp(-b k), b >= 0; the power law itself if no cut-off is likelier."""
    support = np.arange(x[0], x[0] + SUPPORT)
    logs, log_x, far = np.log(support), np.log(x), np.exp(np.linspace(np.log(support[-1] + 0.5), np.log(1e9), 400))

    def log_p(parameters: np.ndarray) -> np.ndarray:
        a, rate = parameters[0], np.exp(min(parameters[1], 50.0))
        terms = -a * logs - rate * support
        peak = terms.max()
        near = np.exp(terms - peak).sum()
        rest = np.trapezoid(np.exp(np.minimum(-a * np.log(far) - rate * far - peak, 50.0)), far)
        return -a * log_x - rate * x - peak - np.log(near + rest)

    mean = counts @ x / counts.sum()
    starts = [(alpha, np.log(0.1 / mean)), (0.5, np.log(1 / mean))]
    found = max((_fitted(log_p, counts, start) for start in starts), key=lambda values: counts @ values)
    return found if counts @ found > counts @ power_law else power_law


def _fitted(log_p: Callable[[np.ndarray], np.ndarray], counts: np.ndarray, start: tuple[float, float]) -> np.ndarray:
    def loss(parameters: np.ndarray) -> float:
        value = -float(counts @ log_p(parameters)) / counts.sum()
        return value if np.isfinite(value) else 1e6

    with np.errstate(all="ignore"):
        best = optimize.minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10})
        return log_p(best.x)


def vuong_p(total: float, variance: float) -> float:
    """Two-sided p of Vuong's test that two families are equally near, from the sum of log likelihood ratios."""
    if variance <= 1e-12:
        return 1.0
    return float(2 * scipy_stats.norm.sf(abs(total) / np.sqrt(variance)))


def cut_off_p(total: float, n_tests: int = 1) -> float:
    """p of no cut-off: -2 sum of log likelihood ratios of power law and truncated power law.

    No cut-off is the border of what is allowed, so that half of the time the statistic is 0 (Self and Liang 1987); over
    several layers, `n_tests`, the number of those that are not is binomial.
    """
    statistic = max(-2 * total, 0.0)
    if statistic <= 1e-9:
        return 1.0
    free = np.arange(1, n_tests + 1)
    return float(scipy_stats.binom.pmf(free, n_tests, 0.5) @ scipy_stats.chi2.sf(statistic, free))
