"""Agreement of predicted gene pairs with measured responses, one number per perturbed gene.

Perturbed genes are the units: what is known of one pair is not independent of the other pairs of its perturbed gene,
nor of the same target after other perturbations (some genes fall whatever is perturbed). So every number is also
computed with the responses to *other* perturbed genes in place of a gene's own, and the differences are tested by
flipping their signs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from scipy.stats import norm, rankdata

from cellcircuits.screening.responses import Responses
from cellcircuits.stats import sign_flip

N_OTHERS = 20
"""Other perturbed genes whose responses stand in for a gene's own, at most."""
MIN_PAIRS = 5
"""Fewest pairs of a perturbed gene for a rank correlation."""
MIN_BACKGROUND = 10
"""Fewest comparisons of predicted targets and other genes for an AUROC."""
N_BINS, GENES_PER_BIN = 10, 20


@dataclass(frozen=True)
class Pairs:
    """Predictions of one cell line, sorted by perturbed gene and target, each pair once; arrays are (pair,)."""

    source: np.ndarray
    """int32: row of the responses."""
    target: np.ndarray
    """int32: column of the responses."""
    predicted: np.ndarray
    """float64: signed predicted change; NaN or 0 says nothing of the direction."""
    score: np.ndarray
    """float64: strength of the prediction, 0 or above."""

    def take(self, keep: np.ndarray) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.source[keep], self.target[keep], self.predicted[keep], self.score[keep])


@dataclass(frozen=True)
class Measured:
    """Responses ready for comparison: a gene's own transcript is left out of the responses to its perturbation."""

    log_fc: np.ndarray
    """float32 (perturbation, gene), NaN where not measured."""
    responding: np.ndarray
    """bool (perturbation, gene)."""
    gene_bin: np.ndarray
    """int (gene,): bin of equal size by control expression."""

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return int(self.gene_bin.max(initial=0)) + 1

    @cached_property
    def per_bin(self) -> np.ndarray:
        """float64 (perturbation, bin): measured genes."""
        return self._count(np.isfinite(self.log_fc))

    @cached_property
    def responding_per_bin(self) -> np.ndarray:
        """float64 (perturbation, bin): responding genes."""
        return self._count(self.responding)

    @cached_property
    def rank(self) -> np.ndarray:
        """float32 (perturbation, gene): rank of |log fold change| among the genes of the bin, ties averaged."""
        size = np.where(np.isfinite(self.log_fc), np.abs(self.log_fc), np.inf)
        rank = np.full(size.shape, np.nan, dtype=np.float32)
        for code in range(self.n_bins):
            inside = np.flatnonzero(self.gene_bin == code)
            rank[:, inside] = rankdata(size[:, inside], axis=1)
        rank[~np.isfinite(self.log_fc)] = np.nan
        return rank

    @cached_property
    def rank_variance(self) -> np.ndarray:
        """float64 (perturbation, bin): variance of these ranks over the measured genes of the bin."""
        n = np.maximum(self.per_bin, 1)
        known = np.nan_to_num(self.rank.astype(np.float64))
        return np.maximum(self._count(known**2) / n - (self._count(known) / n) ** 2, 0.0)

    def only_responding(self) -> Measured:
        """The same with only the responding genes measured."""
        return replace(self, log_fc=np.where(self.responding, self.log_fc, np.float32(np.nan)))

    def _count(self, values: np.ndarray) -> np.ndarray:
        one_hot = np.eye(self.n_bins)[self.gene_bin]
        return values.astype(np.float64) @ one_hot


def measured_responses(responses: Responses, max_q: float) -> Measured:
    """Responses without each gene's own transcript; a gene responds at q <= `max_q`; bins by control expression."""
    log_fc = responses.log_fc.astype(np.float32, copy=True)
    own = responses.own
    rows = np.flatnonzero(own >= 0)
    log_fc[rows, own[rows]] = np.nan
    with np.errstate(invalid="ignore"):
        responding = (responses.q_value <= max_q) & np.isfinite(log_fc)
    known = np.isfinite(responses.expression)
    n_bins = int(np.clip(known.sum() // GENES_PER_BIN, 1, N_BINS))
    gene_bin = np.zeros(len(responses.genes), dtype=np.int64)
    gene_bin[known] = (rankdata(responses.expression[known], method="ordinal") - 1) * n_bins // max(known.sum(), 1)
    return Measured(log_fc, responding, gene_bin)


@dataclass(frozen=True)
class Agreement:
    """Numbers per perturbed gene, float64 (perturbation,); 0 or NaN for those without pairs."""

    n: np.ndarray
    """Pairs with a predicted and a measured direction."""
    correct: np.ndarray
    predicted_down: np.ndarray
    down: np.ndarray
    correct_down: np.ndarray
    """Pairs that are predicted to fall and fell."""
    spearman: np.ndarray
    auroc: np.ndarray
    auroc_p: np.ndarray
    overlap: np.ndarray
    """Responding genes among the predicted targets."""
    expected: np.ndarray
    """The same by chance, given the bins of expression."""


def agreement(
    pairs: Pairs, measured: Measured, rows: np.ndarray, strengths: bool = True, sets: bool = True
) -> Agreement:
    """Compare the predictions of every perturbed gene with row `rows[gene]` of the responses (its own: arange).

    Without `strengths` there is no rank correlation; without `sets` no AUROC and no overlap, only NaN and 0.
    """
    n_sources = len(rows)
    change = measured.log_fc[rows[pairs.source], pairs.target].astype(np.float64)
    known = np.isfinite(change)
    directed = known & (change != 0) & np.isfinite(pairs.predicted) & (pairs.predicted != 0)

    def count(which: np.ndarray) -> np.ndarray:
        return np.bincount(pairs.source[which], minlength=n_sources).astype(np.float64)

    with np.errstate(invalid="ignore"):
        guess, fell = directed & (pairs.predicted < 0), directed & (change < 0)
    seen, nothing, zero = pairs.take(known), np.full(n_sources, np.nan), np.zeros(n_sources)
    auroc, auroc_p = _auroc(seen, measured, rows) if sets else (nothing, nothing)
    overlap, expected = _overlap(seen, measured, rows) if sets else (zero, zero)
    return Agreement(
        n=count(directed),
        correct=count(directed & (guess == fell)),
        predicted_down=count(guess),
        down=count(fell),
        correct_down=count(guess & fell),
        spearman=_spearman(seen, np.abs(change[known]), n_sources) if strengths else nothing,
        auroc=auroc,
        auroc_p=auroc_p,
        overlap=overlap,
        expected=expected,
    )


def _spearman(pairs: Pairs, size: np.ndarray, n_sources: int) -> np.ndarray:
    """Rank correlation of score and size of the response within perturbed genes; NaN for few pairs or no variance."""
    known = np.isfinite(pairs.score)
    columns = {"source": pairs.source[known], "score": pairs.score[known], "size": size[known]}
    # twice the ranks less their mean are whole numbers: their sums are exact, in whatever order threads add them
    centred = pl.col("score", "size").rank("average").over("source") * 2 - (pl.len().over("source") + 1)
    ranks = pl.LazyFrame(columns).with_columns(centred.cast(pl.Int64))
    x, y = pl.col("score"), pl.col("size")
    sums = ranks.group_by("source").agg(xy=(x * y).sum(), xx=(x**2).sum(), yy=(y**2).sum(), n=pl.len())
    found = sums.filter((pl.col("n") >= MIN_PAIRS) & (pl.col("xx") > 0) & (pl.col("yy") > 0)).collect()
    rho = np.full(n_sources, np.nan)
    xy, xx, yy = (found[name].to_numpy().astype(np.float64) for name in ("xy", "xx", "yy"))
    rho[found["source"].to_numpy()] = xy / np.sqrt(xx) / np.sqrt(yy)
    return rho


def _per_bin(pairs: Pairs, measured: Measured, n_sources: int) -> np.ndarray:
    """float64 (perturbation, bin): predicted targets."""
    code = pairs.source.astype(np.int64) * measured.n_bins + measured.gene_bin[pairs.target]
    counts = np.bincount(code, minlength=n_sources * measured.n_bins)
    return counts.reshape(n_sources, measured.n_bins).astype(np.float64)


def _auroc(pairs: Pairs, measured: Measured, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(AUROC, one-sided p) of |response| of predicted targets against other genes of the same bin.

    U = sum over bins of (rank sum - n1 (n1 + 1) / 2), AUROC = U / sum of n1 n0; under permutations within bins U has
    the variance sum of n1 n0 var(rank) / (n - 1), and p is that of the normal distribution.
    """
    inside = _per_bin(pairs, measured, len(rows))
    total = measured.per_bin[rows]
    outside = total - inside
    rank = measured.rank[rows[pairs.source], pairs.target].astype(np.float64)
    u = np.bincount(pairs.source, rank, minlength=len(rows)) - (inside * (inside + 1) / 2).sum(axis=1)
    n_pairs = (inside * outside).sum(axis=1)
    enough = n_pairs >= MIN_BACKGROUND
    variance = inside * outside * measured.rank_variance[rows] / np.maximum(total - 1, 1)
    sd = np.sqrt(variance.sum(axis=1))
    testable = enough & (sd > 0)
    z = np.where(testable, u - n_pairs / 2, 0.0) / np.where(testable, sd, 1.0)
    auroc = np.where(enough, u / np.where(enough, n_pairs, 1.0), np.nan)
    return auroc, np.where(enough, norm.sf(z), np.nan)


def _overlap(pairs: Pairs, measured: Measured, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(responding genes among predicted targets, number expected by bins)."""
    hit = measured.responding[rows[pairs.source], pairs.target]
    inside = _per_bin(pairs, measured, len(rows))
    share = measured.responding_per_bin[rows] / np.maximum(measured.per_bin[rows], 1)
    return np.bincount(pairs.source, hit, minlength=len(rows)), (inside * share).sum(axis=1)


def other_rows(used: np.ndarray, n_others: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of other perturbed genes for every perturbed gene: cyclic shifts of a random order of those that are used.

    In each of them every used gene's responses are taken once, and no gene has its own. Empty for fewer than two.
    """
    order = rng.permutation(np.flatnonzero(used))
    shifts = rng.permutation(np.arange(1, len(order)))[:n_others]
    found = []
    for shift in shifts:
        rows = np.arange(len(used))
        rows[order] = np.roll(order, shift)
        found.append(rows)
    return found


def one_sided(differences: np.ndarray, draws: int, seed: int) -> float:
    """p that perturbed genes' differences are above 0 by chance: their signs are flipped; NaN without any."""
    known = differences[np.isfinite(differences)]
    if len(known) == 0:
        return float("nan")
    p = float(sign_flip(known, draws=draws, seed=seed))
    return p / 2 if known.sum() > 0 else 1 - p / 2


def target_permutations(own: Agreement, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """(expected correct pairs of every perturbed gene, p) when responses are permuted among its predicted targets.

    Of n pairs, a are predicted to fall and b fell. The number X that does both is hypergeometric, and
    2 X + n - a - b pairs are correct: (a b + (n - a)(n - b)) / n on average. p counts `draws` draws of the sum.
    """
    n, a, b = (values.astype(np.int64) for values in (own.n, own.predicted_down, own.down))
    expected = (a * b + (n - a) * (n - b)) / np.maximum(n, 1)
    if n.sum() == 0:
        return expected, float("nan")
    x = rng.hypergeometric(a, n - a, b, size=(draws, len(n))).sum(axis=1)
    drawn = 2 * x + (n - a - b).sum()
    return expected, float((1 + (drawn >= own.correct.sum()).sum()) / (1 + draws))
