"""How well one number per feature (attribution) foretells another (the effect of its removal), against chance.

Chance permutes the features of each layer among themselves: both numbers grow towards the target's layer, and a screen
that knew nothing but the layer would be right about that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from cellcircuits.stats import percentile_interval

DRAWS = 4999
"""Permutations of a test."""
BOOTSTRAP_DRAWS = 1000
TOP_SHARE = 0.1
"""The largest effects that a screen is to find."""


class Tested(NamedTuple):
    """A statistic beside its permutations."""

    value: float
    chance: float
    """Mean over permutations."""
    p_value: float
    """(1 + permutations with a value as large) / (1 + permutations): one-sided."""


def permuted(
    guess: np.ndarray, truth: np.ndarray, strata: np.ndarray, rng: np.random.Generator, draws: int = DRAWS
) -> Tested:
    """sum over observations of guess x truth, against `guess` in random orders within strata (whole numbers)."""
    # sorting by stratum, then by chance, puts the places of each stratum in random order
    grouped = np.argsort(strata + rng.random((draws, len(strata))), axis=1)
    order = np.empty_like(grouped)
    order[:, np.argsort(strata, kind="stable")] = grouped
    observed, drawn = float(guess @ truth), guess[order] @ truth
    as_large = int((drawn >= observed - 1e-9 * max(abs(observed), 1.0)).sum())
    return Tested(observed, float(drawn.mean()), (1 + as_large) / (1 + draws))


def among_largest(values: np.ndarray, n: int) -> np.ndarray:
    """float64 (observation,): 1 for the `n` largest, 0 for others; the places left are shared by those that tie."""
    least = np.sort(values)[-n]
    above, tied = values > least, values == least
    return above + tied * (n - above.sum()) / tied.sum()


def recall(guess: np.ndarray, truth: np.ndarray, strata: np.ndarray, rng: np.random.Generator) -> Tested:
    """Share of the largest TOP_SHARE by |truth| (at least one) that are among as many by |guess|.

    Ties are in random order: the value is the mean over all orders.
    """
    n = max(1, round(TOP_SHARE * len(truth)))
    named, wanted = among_largest(np.abs(guess), n), among_largest(np.abs(truth), n)
    return permuted(named, wanted / n, strata, rng)


def standardised_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis less their mean, of norm 1; zeros where all values are equal."""
    rank = rankdata(values, axis=-1)
    rank = rank - rank.mean(axis=-1, keepdims=True)
    norm = np.sqrt((rank**2).sum(axis=-1, keepdims=True))
    return np.divide(rank, norm, out=np.zeros_like(rank), where=norm > 0)


def rank_correlation(guess: np.ndarray, truth: np.ndarray) -> float:
    """Spearman correlation; 0 where either does not vary."""
    return float(standardised_ranks(guess) @ standardised_ranks(truth))


def tested_rank_correlation(
    guess: np.ndarray, truth: np.ndarray, strata: np.ndarray, rng: np.random.Generator
) -> Tested:
    """The same against permutations."""
    return permuted(standardised_ranks(guess), standardised_ranks(truth), strata, rng)


def rank_correlation_interval(guess: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % interval of the Spearman correlation: features drawn with replacement."""
    drawn = rng.integers(len(guess), size=(BOOTSTRAP_DRAWS, len(guess)))
    return percentile_interval((standardised_ranks(guess[drawn]) * standardised_ranks(truth[drawn])).sum(axis=-1))


def pearson(guess: np.ndarray, truth: np.ndarray) -> float:
    """Pearson correlation; 0 where either does not vary."""
    x, y = guess - guess.mean(), truth - truth.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else 0.0


def standardised_share(good: np.ndarray, strata: np.ndarray, like: np.ndarray) -> float:
    """Share of `good` (bool) if the observations lay in `strata` as those of `like` (stratum of each) do.

    A stratum that has no observation counts with the share of all.
    """
    shares = [good[strata == one].mean() if (strata == one).any() else good.mean() for one in like]
    return float(np.mean(shares))
