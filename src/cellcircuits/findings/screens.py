"""Does what the circuits predict happen when a gene is really perturbed?

A pair of genes with a negative mean signal-to-noise ratio says that the source's features support the target's: without
the source the target falls. A perturbation screen says what happened. Every cell line is looked at alone, perturbed
genes are the units, and beside each number stand what its signs alone give, what the responses to other perturbed genes
give, and what co-expression gives on the same pairs.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.errors import DataError, listed
from cellcircuits.evidence import Evidence
from cellcircuits.networks import Targets
from cellcircuits.screening.responses import Responses
from cellcircuits.screening.screen_answers import answers_of
from cellcircuits.screening.screen_pairs import (
    COLUMNS,
    as_many_pairs,
    as_pairs,
    baseline_matrices,
    direct_targets,
    matched_pairs,
    same_pairs,
)
from cellcircuits.screening.screen_published import published_check
from cellcircuits.screening.screen_statistics import Measured, Pairs, measured_responses
from cellcircuits.screening.screen_summary import Summary, overlap_p_values, summarise
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import benjamini_hochberg
from cellcircuits.tables import TABLES, empty_table, make_table

QUESTION = "screens"
ASKED = "Does a target change as predicted when the source gene is really perturbed?"
STATISTIC = "share of pairs that change in the predicted direction"
HOW = (
    "Give a screen in the settings: an entry [[findings.screens]] with path, and for an AnnData file control and "
    "perturbation_column."
)
OF_SETS = ("auroc", "enrichment")
"""Statistics of which targets are predicted, whatever the direction."""


def ask(
    evidence: Evidence,
    settings: FindingsSettings,
    *,
    responses: list[Responses] | None = None,
    pairs: pd.DataFrame | None = None,
    networks: list[Targets] | None = None,
) -> Found:
    """Compare predicted gene pairs with the responses of screens.

    Parameters
    ----------
    responses
        Cell lines of screens (`screens.read_screen`).
    pairs
        Table of ordered gene pairs: source_gene, target_gene, n_edges, mean_snr (signed; negative: the source supports
        the target), mean_abs_snr, and pmi where there is one.
    networks
        Targets of transcription factors: pairs that they list are "direct".

    Raises
    ------
    DataError
        If `pairs` lacks a column.
    """
    if not responses:
        return Found({name: empty_table(name) for name in _TABLES}, [untestable(QUESTION, ASKED, STATISTIC, HOW)])
    pairs = pd.DataFrame(columns=list(COLUMNS)) if pairs is None else pairs
    missing = [name for name in COLUMNS if name not in pairs]
    if missing:
        raise DataError(f"The table of gene pairs lacks {listed(missing)}; it has {listed(pairs.columns, 10)}.")
    parts: list[dict[str, pd.DataFrame]] = []
    answers: list[Answer] = []
    for one in responses:
        tables, more = _cell_line(one, pairs, settings, networks or [])
        parts.append(tables)
        answers += more
    tables = {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in _TABLES}
    return Found({name: make_table(name, table) for name, table in tables.items()}, answers)


_TABLES = ("screens", "screen_sources", "responses", "knock_downs")


def _cell_line(
    responses: Responses, pairs: pd.DataFrame, settings: FindingsSettings, networks: list[Targets]
) -> tuple[dict[str, pd.DataFrame], list[Answer]]:
    measured = measured_responses(responses, settings.max_q)
    table = matched_pairs(pairs, responses, measured)
    tables = {name: empty_table(name) for name in _TABLES} | {"knock_downs": responses.knock_downs}
    if table.empty:
        return tables, [untestable(QUESTION, ASKED, STATISTIC, _why_nothing(responses, pairs))]
    table["direct"] = direct_targets(table, responses, networks)
    found = _summaries(table, responses, measured, settings)
    order = [column.name for column in TABLES["screens"]]
    rows = [
        {"screen": responses.screen, "cell_line": responses.cell_line, "predictor": predictor, "pairs": which}
        | summary.row
        for (predictor, which), summary in found.items()
    ]
    tables["screens"] = make_table("screens", pd.DataFrame(rows)[order])
    tables["screen_sources"] = _sources(table, responses, measured, found["circuits", "all"])
    tables["responses"] = _responses(table, responses)
    published = published_check(pairs, responses)
    return tables, answers_of(responses, found, tables["screen_sources"], published, settings)


def _why_nothing(responses: Responses, pairs: pd.DataFrame) -> str:
    """What is missing where no pair can be compared, in words."""
    if pairs.empty:
        return f"{responses.name}: the circuits predict no gene pair. Trace more sources, or annotate more features."
    counts = responses.knock_downs["status"].value_counts()
    states = ", ".join(f"{counts[name]} {name}" for name in sorted(counts.index))
    return (
        f"{responses.name}: none of {len(pairs):,} predicted pairs has a source among the {int(responses.used.sum())} "
        f"perturbations that are used ({states}) and a measured target. Perturbed: {listed(responses.sources)}; "
        f"sources of pairs: {listed(sorted(pairs['source_gene'].unique()))}. Both must be symbols; set gene_column or "
        'perturbation_column, or unverified = "keep" to use perturbations whose own gene was not measured.'
    )


def _summaries(
    table: pd.DataFrame, responses: Responses, measured: Measured, settings: FindingsSettings
) -> dict[tuple[str, str], Summary]:
    """Every row of the table `screens` by predictor and kind of pairs."""
    pairs, used = as_pairs(table), responses.used

    def summary(chosen: Pairs, measured: Measured, strengths: bool = True, sets: bool = True) -> Summary:
        return summarise(chosen, measured, used, settings.permutations, settings.seed, strengths, sets)

    found = {("circuits", "all"): summary(pairs, measured)}
    # only part of the background is left
    found["circuits", "responding"] = summary(pairs, measured.only_responding(), sets=False)
    for kind in ("direct", "indirect"):
        chosen = (table["direct"] == kind).to_numpy()
        if chosen.any():
            found["circuits", kind] = summary(pairs.take(chosen), measured)
    for predictor, matrix in baseline_matrices(responses, measured).items():
        same = summary(same_pairs(pairs, matrix[pairs.source, pairs.target]), measured, sets=False)
        many = summary(as_many_pairs(pairs, matrix, measured), measured, strengths=False)
        same.row.update({name: value for name, value in many.row.items() if _is_of(name, OF_SETS)})
        found[predictor, "all"] = same
    if "pmi" in table:
        # features that fire together: without one the other falls
        sign = 1.0 if responses.kind == "activation" else -1.0
        found["PMI", "all"] = summary(same_pairs(pairs, sign * table["pmi"].to_numpy()), measured, sets=False)
    return found


def _is_of(column: str, statistics: tuple[str, ...]) -> bool:
    return any(name in column for name in statistics)


def _sources(table: pd.DataFrame, responses: Responses, measured: Measured, summary: Summary) -> pd.DataFrame:
    own = summary.own
    pairs = as_pairs(table)
    rows = np.unique(pairs.source)
    enrichment_p = overlap_p_values(pairs, measured, own.overlap)
    with np.errstate(invalid="ignore"):
        accuracy, permuted = own.correct / own.n, summary.expected_correct / own.n
    columns = {
        "screen": responses.screen,
        "cell_line": responses.cell_line,
        "source_gene": responses.sources[rows],
        "n_pairs": np.bincount(pairs.source)[rows],
        "accuracy": accuracy[rows],
        "target_permuted_accuracy": permuted[rows],
        "spearman": own.spearman[rows],
        "auroc": own.auroc[rows],
        "auroc_p": own.auroc_p[rows],
        "auroc_q": _q_values(own.auroc_p[rows]),
        "n_responding": measured.responding.sum(axis=1)[rows],
        "n_responding_targets": own.overlap[rows],
        "n_expected_targets": own.expected[rows],
        "enrichment_p": enrichment_p[rows],
        "enrichment_q": _q_values(enrichment_p[rows]),
    }
    return make_table("screen_sources", pd.DataFrame(columns))


def _q_values(p: np.ndarray) -> np.ndarray:
    q = np.full(len(p), np.nan)
    known = np.isfinite(p)
    q[known] = benjamini_hochberg(p[known])
    return q


def _responses(table: pd.DataFrame, responses: Responses) -> pd.DataFrame:
    at = table["source"].to_numpy(), table["target"].to_numpy()
    known = responses.knock_downs
    together = responses.coexpression
    columns = {
        "screen": responses.screen,
        "cell_line": responses.cell_line,
        "source_gene": responses.sources[at[0]],
        "target_gene": responses.genes[at[1]],
        "predicted": table["predicted"],
        "log_fc": responses.log_fc[at],
        "standard_error": responses.standard_error[at],
        "q_value": responses.q_value[at],
        "control_expression": responses.expression[at[1]],
        "coexpression": np.nan if together is None else together[at],
        "n_edges": table["n_edges"],
        "n_cells": known["n_cells"].to_numpy()[at[0]],
        "n_guides": known["n_guides"].to_numpy()[at[0]],
        "direct": table["direct"],
    }
    return make_table("responses", pd.DataFrame(columns))
