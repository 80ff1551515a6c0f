"""Rows of the table `screens`: agreement of one predictor with one cell line, its chance baselines and intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

from cellcircuits.screening.screen_statistics import (
    N_OTHERS,
    Agreement,
    Measured,
    Pairs,
    agreement,
    one_sided,
    other_rows,
    target_permutations,
)

NAN = float("nan")
MIN_RESAMPLED = 5
"""Fewest perturbed genes for an interval: resampling fewer makes it far too narrow."""


@dataclass(frozen=True)
class Summary:
    """A row of the table `screens`, and the numbers per perturbed gene behind it."""

    row: dict[str, float]
    own: Agreement
    expected_correct: np.ndarray
    """float64 (perturbation,): correct pairs when responses are permuted among the targets of each."""
    other_accuracy: np.ndarray
    """float64 (perturbation,): accuracy with the responses to others."""


def summarise(
    pairs: Pairs,
    measured: Measured,
    used: np.ndarray,
    draws: int,
    seed: int,
    strengths: bool = True,
    sets: bool = True,
) -> Summary:
    """All numbers of one predictor; `pairs` hold only perturbed genes that are used. See `agreement` for the flags."""
    rng = np.random.default_rng(seed)
    own = agreement(pairs, measured, np.arange(len(used)), strengths, sets)
    others = [agreement(pairs, measured, rows, strengths, sets) for rows in other_rows(used, N_OTHERS, rng)]
    expected, p_targets = target_permutations(own, draws, rng)
    weights = _bootstrap_weights(np.bincount(pairs.source, minlength=len(used)) > 0, draws, rng)
    row: dict[str, float] = {"n_sources": int((own.n > 0).sum()), "n_pairs": int(own.n.sum())}
    row |= _direction(own, expected, weights, draws, seed) | {"p_target_permuted": p_targets}
    n, correct = (sum((getattr(o, name) for o in others), np.zeros(len(used))) for name in ("n", "correct"))
    other_accuracy = np.divide(correct, n, out=np.full(len(used), NAN), where=n > 0)
    difference = np.where(own.n > 0, own.correct - own.n * other_accuracy, NAN)
    row["other_source_accuracy"] = _ratio(np.where(n > 0, own.n * other_accuracy, 0).sum(), own.n[n > 0].sum())
    row["p_accuracy"] = one_sided(difference, draws, seed)
    for name in ("spearman", "auroc"):
        row |= _mean_of(name, own, others, weights, draws, seed)
    row |= _enrichment(own, others, weights, draws, seed)
    return Summary(row, own, expected, other_accuracy)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator > 0 else NAN


def _bootstrap_weights(takes_part: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """float64 (draw, perturbation): how often each perturbed gene with pairs was drawn."""
    n = int(takes_part.sum())
    weights = np.zeros((draws, len(takes_part)))
    if n:
        weights[:, takes_part] = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    return weights


def interval(
    weights: np.ndarray, columns: tuple[np.ndarray, ...], statistic: Callable[..., np.ndarray]
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of sums over perturbed genes; NaN where fewer than five take part."""
    if (weights > 0).any(axis=0).sum() < MIN_RESAMPLED:
        return NAN, NAN
    with np.errstate(invalid="ignore", divide="ignore"):
        values = statistic(*(weights @ column for column in columns))
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return NAN, NAN
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def sign_bias(n: np.ndarray, predicted_down: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Accuracy by the shares of predicted and measured falls alone: p q + (1 - p)(1 - q)."""
    p, q = predicted_down / n, down / n
    return p * q + (1 - p) * (1 - q)


def _direction(own: Agreement, expected: np.ndarray, weights: np.ndarray, draws: int, seed: int) -> dict[str, float]:
    columns = own.correct, own.n, own.predicted_down, own.down
    correct, n, guess, fell = (float(column.sum()) for column in columns)
    accuracy, both = _ratio(correct, n), float(own.correct_down.sum())
    bias = float(sign_bias(np.array(n), np.array(guess), np.array(fell))) if n else NAN
    rose = n - fell
    low, high = interval(weights, columns[:2], lambda c, m: c / m)
    excess = interval(weights, columns, lambda c, m, a, b: c / m - sign_bias(m, a, b))
    return {
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "share_predicted_down": _ratio(guess, n),
        "share_down": _ratio(fell, n),
        "sign_bias_accuracy": bias,
        "excess": accuracy - bias,
        "excess_low": excess[0],
        "excess_high": excess[1],
        "p_excess": one_sided(np.where(own.n > 0, own.correct - expected, NAN), draws, seed),
        "target_permuted_accuracy": _ratio(float(expected.sum()), n),
        "balanced_accuracy": (both / fell + (correct - both) / rose) / 2 if fell and rose else NAN,
        "majority_accuracy": max(fell, rose) / n if n else NAN,
    }


def _mean_of(
    name: str, own: Agreement, others: list[Agreement], weights: np.ndarray, draws: int, seed: int
) -> dict[str, float]:
    """Mean over perturbed genes of a number that each of them has."""
    value = getattr(own, name)
    known = np.isfinite(value)
    other = _mean_known([getattr(o, name) for o in others], len(value))
    compared = known & np.isfinite(other)
    low, high = interval(weights * known, (np.where(known, value, 0), known.astype(float)), lambda s, n: s / n)
    return {
        name: float(value[known].mean()) if known.any() else NAN,
        f"{name}_low": low,
        f"{name}_high": high,
        f"other_source_{name}": float(other[compared].mean()) if compared.any() else NAN,
        f"p_{name}": one_sided((value - other)[compared], draws, seed),
    }


def _mean_known(values: list[np.ndarray], size: int) -> np.ndarray:
    """Mean over arrays of what is finite; NaN where nothing is."""
    n, total = np.zeros(size), np.zeros(size)
    for value in values:
        n += np.isfinite(value)
        total += np.nan_to_num(value)
    return np.divide(total, n, out=np.full(size, NAN), where=n > 0)


def _enrichment(
    own: Agreement, others: list[Agreement], weights: np.ndarray, draws: int, seed: int
) -> dict[str, float]:
    low, high = interval(weights, (own.overlap, own.expected), lambda o, e: o / e)
    beyond = _mean_known([o.overlap - o.expected for o in others], len(own.n))
    known = (own.expected > 0) & np.isfinite(beyond)
    overlap, expected = (sum(float(getattr(o, name).sum()) for o in others) for name in ("overlap", "expected"))
    return {
        "enrichment": _ratio(own.overlap.sum(), own.expected.sum()),
        "enrichment_low": low,
        "enrichment_high": high,
        "other_source_enrichment": _ratio(overlap, expected),
        "p_enrichment": one_sided((own.overlap - own.expected - beyond)[known], draws, seed),
    }


def overlap_p_values(pairs: Pairs, measured: Measured, overlap: np.ndarray) -> np.ndarray:
    """p of at least `overlap` responding genes among the predicted targets of each perturbed gene, given the bins.

    Within a bin the number is hypergeometric; over bins it is the sum of independent ones, so p is exact. NaN where
    no gene responds or none is predicted.
    """
    known = pairs.take(np.isfinite(measured.log_fc[pairs.source, pairs.target]))
    code = known.source.astype(np.int64) * measured.n_bins + measured.gene_bin[known.target]
    inside = np.bincount(code, minlength=len(overlap) * measured.n_bins).reshape(len(overlap), measured.n_bins)
    total, responding = measured.per_bin.astype(int), measured.responding_per_bin.astype(int)
    p = np.full(len(overlap), NAN)
    for row in np.flatnonzero((inside.sum(axis=1) > 0) & (responding.sum(axis=1) > 0)):
        chance = np.ones(1)
        for n, k, m in zip(total[row], responding[row], inside[row], strict=True):
            if k and m:
                chance = np.convolve(chance, hypergeom.pmf(np.arange(min(k, m) + 1), n, k, m))
        p[row] = min(chance[int(overlap[row]) :].sum(), 1.0)
    return p
