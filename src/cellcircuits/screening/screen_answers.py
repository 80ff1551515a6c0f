"""What the comparison of predictions with a screen answers, in lines of the report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer
from cellcircuits.screening.responses import Responses
from cellcircuits.screening.screen_published import Published
from cellcircuits.screening.screen_statistics import MIN_PAIRS, N_OTHERS, one_sided
from cellcircuits.screening.screen_summary import MIN_RESAMPLED, Summary
from cellcircuits.settings import FindingsSettings

QUESTION = "screens"
FEW = 5
"""Perturbed genes up to which the report says how small p can be at all."""
OTHERS = (
    f"the same with the responses to up to {N_OTHERS} other perturbed genes of the cell line in place of a gene's own: "
    "predictions and responses keep their signs, their targets and what each target does after any perturbation; p "
    "flips the signs of the perturbed genes' differences"
)
POOLED = (
    "all cell lines pooled, log2(mean + 1) of the values as stored, pairs as if independent: cell lines mix into every "
    "change, and the signs alone move it from one half"
)


def answers_of(
    responses: Responses,
    found: Mapping[tuple[str, str], Summary],
    sources: pd.DataFrame,
    published: Published,
    settings: FindingsSettings,
) -> list[Answer]:
    """Answers of one cell line, from the rows of the table `screens` by predictor and kind of pairs."""
    row = found["circuits", "all"].row
    answers = [
        _direction(responses, row, found, published),
        _beyond_signs(responses, row),
        _strength(responses, row, published),
        _targets(responses, row, found),
        _enrichment(responses, row, published),
        _enriched_sources(responses, sources, published, settings),
    ]
    if ("co-expression", "all") in found:
        answers.append(_beyond_coexpression(responses, found, settings))
    if ("circuits", "direct") in found and ("circuits", "indirect") in found:
        answers.append(_direct(responses, found, settings))
    return answers


def _size(row: Mapping[str, float]) -> str:
    """How many pairs and perturbed genes there are, and what so few of them cannot show."""
    n = int(row["n_sources"])
    few = f" (with so few genes p cannot be below {0.5**n:.2g})" if 0 < n <= FEW else ""
    return f"{row['n_pairs']:,.0f} pairs of {n:,} perturbed gene{'s' * (n != 1)}{few}"


def _baseline(found: Mapping[tuple[str, str], Summary], predictor: str, name: str) -> float:
    """A number of another predictor; NaN where there is none."""
    return float(found[predictor, "all"].row[name]) if (predictor, "all") in found else float("nan")


def _direction(
    responses: Responses, row: Mapping[str, float], found: Mapping[tuple[str, str], Summary], published: Published
) -> Answer:
    responding = found["circuits", "responding"].row
    notes = [
        f"{_size(row)}; by the signs alone {row['sign_bias_accuracy']:.1%}, always the commoner direction "
        f"{row['majority_accuracy']:.1%}; balanced accuracy {row['balanced_accuracy']:.1%} (chance 50 %)"
    ]
    if responding["n_pairs"]:
        notes.append(
            f"among the {responding['n_pairs']:,.0f} pairs whose target responds {responding['accuracy']:.1%} (signs "
            f"alone {responding['sign_bias_accuracy']:.1%})"
        )
    for predictor in ("co-expression", "other perturbations", "PMI"):
        if np.isfinite(share := _baseline(found, predictor, "accuracy")):
            notes.append(f"{predictor} on these pairs {share:.1%}")
    return Answer(
        QUESTION,
        f"Do targets change in the predicted direction in {responses.name}?",
        "share of pairs that change in the predicted direction",
        value=row["accuracy"],
        baseline=row["other_source_accuracy"],
        baseline_is=OTHERS,
        low=row["accuracy_low"],
        high=row["accuracy_high"],
        p_value=row["p_accuracy"],
        published=published.accuracy,
        published_is=f"share with |change| >= 0.01 and the predicted sign; {POOLED}",
        unit="share",
        note=". ".join([*notes, *responses.notes]) + ".",
    )


def _beyond_signs(responses: Responses, row: Mapping[str, float]) -> Answer:
    return Answer(
        QUESTION,
        f"Is the direction predicted better than by the shares of falls and rises in {responses.name}?",
        "accuracy beyond p q + (1 - p)(1 - q), where p and q are the shares of predicted and measured falls",
        value=row["excess"],
        baseline=row["target_permuted_accuracy"] - row["sign_bias_accuracy"],
        baseline_is="responses permuted among the targets of each perturbed gene, which keeps how many of them fall; "
        "p flips the signs of the perturbed genes' differences",
        low=row["excess_low"],
        high=row["excess_high"],
        p_value=row["p_excess"],
        unit="share",
        note=f"{_size(row)}. With all pairs as independent p would be {row['p_target_permuted']:.2g}. A gene that "
        "falls after every perturbation counts here, but not in the comparison with other perturbed genes.",
    )


def _strength(responses: Responses, row: Mapping[str, float], published: Published) -> Answer:
    return Answer(
        QUESTION,
        f"Do targets with stronger predictions change more in {responses.name}?",
        "rank correlation of |predicted| and |log fold change| within perturbed genes, mean",
        value=row["spearman"],
        baseline=row["other_source_spearman"],
        baseline_is=OTHERS,
        low=row["spearman_low"],
        high=row["spearman_high"],
        p_value=row["p_spearman"],
        published=published.spearman,
        published_is=f"over all pairs at once, with p = {published.spearman_p:.2g}; {POOLED}",
        note=f"{_size(row)}; only perturbed genes with {MIN_PAIRS} or more pairs have a correlation.",
    )


def _targets(responses: Responses, row: Mapping[str, float], found: Mapping[tuple[str, str], Summary]) -> Answer:
    notes = [_size(row)]
    for predictor in ("co-expression", "other perturbations"):
        if np.isfinite(share := _baseline(found, predictor, "auroc")):
            notes.append(f"as many targets by {predictor}: {share:.1%}")
    if responses.coexpression is None and not np.isfinite(responses.expression).any():
        notes.append("not matched by expression, which is not known")
    return Answer(
        QUESTION,
        f"Do predicted targets respond more than other genes of equal expression in {responses.name}?",
        "AUROC of |log fold change|, predicted targets against genes of the same decile of expression, mean over "
        "perturbed genes",
        value=row["auroc"],
        baseline=row["other_source_auroc"],
        baseline_is=OTHERS,
        low=row["auroc_low"],
        high=row["auroc_high"],
        p_value=row["p_auroc"],
        unit="share",
        note="; ".join(notes) + ".",
    )


def _enrichment(responses: Responses, row: Mapping[str, float], published: Published) -> Answer:
    return Answer(
        QUESTION,
        f"Are responding genes enriched among predicted targets in {responses.name}?",
        "responding predicted targets / number expected by deciles of expression",
        value=row["enrichment"],
        baseline=row["other_source_enrichment"],
        baseline_is=OTHERS,
        low=row["enrichment_low"],
        high=row["enrichment_high"],
        p_value=row["p_enrichment"],
        published=published.median_odds_ratio,
        published_is=f"median odds ratio of |change| > 0.5 against all genes, whatever their expression; {POOLED}",
        note=f"{_size(row)}{'' if np.isfinite(row['enrichment']) else '; none of these genes has a responding gene'}.",
    )


def _enriched_sources(
    responses: Responses, sources: pd.DataFrame, published: Published, settings: FindingsSettings
) -> Answer:
    q = sources["enrichment_q"].to_numpy()
    tested = np.isfinite(q)
    n = float((q[tested] <= settings.max_q).sum())
    small = int((sources["enrichment_p"] < 0.05).sum())
    asked = f"How many perturbed genes have predicted targets enriched for responding genes in {responses.name}?"
    statistic = f"perturbed genes with q <= {settings.max_q:g} (Fisher's exact test within deciles of expression)"
    if not tested.any():
        note = "No perturbed gene has both a responding gene and a predicted target."
        return Answer(QUESTION, asked, statistic, note=note)
    return Answer(
        QUESTION,
        asked,
        statistic,
        value=n,
        baseline=settings.max_q * n,
        baseline_is="false ones among them, at most, at this false discovery rate",
        published=published.n_enriched,
        published_is=f"uncorrected p < 0.05, of {published.n_tested} tested, of which {0.05 * published.n_tested:.1f} "
        f"come by chance; {POOLED}",
        unit="genes",
        note=f"{int(tested.sum())} perturbed genes tested; {small} have p < 0.05, {0.05 * tested.sum():.1f} would by "
        "chance. Targets that respond together make these p too small.",
    )


def _beyond_coexpression(
    responses: Responses, found: Mapping[tuple[str, str], Summary], settings: FindingsSettings
) -> Answer:
    circuits, other = found["circuits", "all"].own, found["co-expression", "all"].own
    both = (circuits.n > 0) & (other.n > 0)
    share = [np.divide(a.correct, a.n, out=np.zeros(len(a.n)), where=a.n > 0) for a in (circuits, other)]
    difference = (share[0] - share[1])[both]
    low, high = _mean_interval(difference, settings)
    return Answer(
        QUESTION,
        f"Do circuits predict the direction better than co-expression in {responses.name}?",
        "accuracy of circuits - accuracy of the sign of co-expression on the same pairs, mean over perturbed genes",
        value=float(difference.mean()) if len(difference) else float("nan"),
        baseline=0.0,
        baseline_is="no difference; p flips the signs of the perturbed genes' differences",
        low=low,
        high=high,
        p_value=one_sided(difference, settings.permutations, settings.seed),
        unit="share",
        note="Co-expression is the correlation over control cells of the same cell line."
        if len(difference)
        else "No perturbed gene is expressed in the control cells.",
    )


def _direct(responses: Responses, found: Mapping[tuple[str, str], Summary], settings: FindingsSettings) -> Answer:
    direct, indirect = (found["circuits", kind] for kind in ("direct", "indirect"))
    both = (direct.own.n > 0) & (indirect.own.n > 0)
    share = [np.divide(s.own.correct, s.own.n, out=np.zeros(len(both)), where=s.own.n > 0) for s in (direct, indirect)]
    difference = (share[0] - share[1])[both]
    low, high = _mean_interval(difference, settings)
    return Answer(
        QUESTION,
        f"Are direct targets of transcription factors predicted better than indirect ones in {responses.name}?",
        "accuracy among direct - among indirect targets of the same factor, mean over factors",
        value=float(difference.mean()) if len(difference) else float("nan"),
        baseline=0.0,
        baseline_is="no difference; p flips the signs of the factors' differences",
        low=low,
        high=high,
        p_value=one_sided(difference, settings.permutations, settings.seed),
        unit="share",
        note=f"Direct: {_size(direct.row)}, {direct.row['accuracy']:.1%} (signs alone "
        f"{direct.row['sign_bias_accuracy']:.1%}); indirect: {_size(indirect.row)}, {indirect.row['accuracy']:.1%} "
        f"(signs alone {indirect.row['sign_bias_accuracy']:.1%}). Only sources that a network knows take part.",
    )


def _mean_interval(values: np.ndarray, settings: FindingsSettings) -> tuple[float, float]:
    """95 % percentile interval of the mean, resampling perturbed genes; NaN for fewer than five."""
    if len(values) < MIN_RESAMPLED:
        return float("nan"), float("nan")
    rng = np.random.default_rng(settings.seed)
    drawn = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=settings.permutations)
    low, high = np.percentile(drawn @ values / len(values), [2.5, 97.5])
    return float(low), float(high)
