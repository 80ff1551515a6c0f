"""Does deleting, or over-expressing, a gene do what changing a feature does that fires on it? Side by side, same cells.

Every number is of the other genes: see `perturbed_cells` for what is measured, `matched` for how genes are compared
with control genes of similar expression.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.interventions.gene_choice import Genes, choose_genes
from cellcircuits.interventions.gene_measures import Measured, measure, measured_layers
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.interventions.matched import contrasts, matched_test, usable
from cellcircuits.interventions.observations import CONFIDENCE_Z, rows_of
from cellcircuits.settings import EdgesSettings
from cellcircuits.stats import benjamini_hochberg, one_sample_t, percentile_interval
from cellcircuits.tables import empty_table, make_table

NAME = "gene_perturbation"
TABLES = ("gene_perturbations", "gene_perturbation_features", "gene_perturbation_outputs", "feature_gene_similarity")
SIMILAR = "Does perturbing a feature's top gene do what the intervention on the feature does?"
CORRELATION = (
    "Rank correlation, over the features above, of the mean changes by the two at all other genes; mean over sources"
)
SIMILAR_CHANCE = (
    "the same with control genes of similar expression that are top gene of none of the sources; which gene of each "
    "matched set is the top gene is permuted"
)
SHIFTED = "Do perturbed genes shift cells more than control genes?"
SHIFT = "1 - cosine of the cell embedding before and after, over all other genes (mean over genes)"
SHIFT_CHANCE = "the same of control genes of similar expression; which gene of each matched set is which is permuted"
DRAWS = 2000
FEATURE_NAMES = ["n_cells", "mean_delta", "sd_delta", "snr", "low", "high", "clean", "sign_agreement"]
OUTPUT_NAMES = ["n_cells", "mean_delta", "sd_delta", "snr", "clean", "sign_agreement"]


def ask(inputs: Inputs) -> Found:
    """Tables `TABLES`, and the answers to both questions."""
    measured_layers(inputs)
    kind, offered = inputs.settings.perturb_kind, inputs.model.perturbations
    if kind not in offered:
        does = f"it offers {', '.join(offered)}: set perturb_kind." if offered else "a plug-in may offer one."
        return _nothing(f'The model {inputs.model.name!r} has no gene perturbation "{kind}"; {does}')
    genes = choose_genes(inputs)
    if not genes.n_perturbed:
        return _nothing(
            f"No top gene of a source is in min_cells = {inputs.settings.min_cells} of the {len(inputs.cells)} cells. "
            "Take more cells (n_cells), or name genes (perturb_genes)."
        )
    found = measure(inputs, genes)
    tables = {
        "gene_perturbations": _genes_table(inputs, genes, found),
        "gene_perturbation_features": _features_table(inputs, genes, found),
        "gene_perturbation_outputs": _outputs_table(inputs, genes, found),
        "feature_gene_similarity": _similarity_table(inputs, genes, found),
    }
    answers = [_similar_answer(inputs, genes, found, tables), _shift_answer(inputs, genes, tables)]
    return Found(tables, answers)


def _nothing(why: str) -> Found:
    answers = [untestable(NAME, SIMILAR, CORRELATION, why), untestable(NAME, SHIFTED, SHIFT, why)]
    return Found({name: empty_table(name) for name in TABLES}, answers)


def _symbols(inputs: Inputs, tokens: np.ndarray) -> np.ndarray:
    """Symbols of tokens, ids where there is none."""
    ids, symbols = inputs.run.cells.gene_ids[tokens], inputs.run.cells.gene_symbols[tokens]
    return np.where(symbols != "", symbols, ids).astype(object)


def _responds(inputs: Inputs, found: dict[str, np.ndarray]) -> np.ndarray:
    """Which pairs respond, as edges are called."""
    rule = EdgesSettings()
    responds = (found["q_value"] <= inputs.settings.max_q) & (np.abs(found["snr"]) > rule.min_snr)
    return np.asarray(responds & found["tested"] & (found["sign_agreement"] >= rule.min_agreement))


def _by_set(genes: Genes, values: np.ndarray) -> np.ndarray:
    """Values (gene,) as float64 (perturbed gene, member): the gene, then its controls; NaN beyond the last."""
    members = [genes.members(gene) for gene in range(genes.n_perturbed)]
    table = np.full((len(members), max(map(len, members), default=1)), np.nan)
    for row, own in enumerate(members):
        table[row, : len(own)] = values[own]
    return table


def _mean_of_controls(genes: Genes, values: np.ndarray) -> np.ndarray:
    """float64 (gene,): mean of `values` over the controls of each perturbed gene; NaN for controls, or without any."""
    mean = np.full(len(values), np.nan)
    mean[: genes.n_perturbed] = _known_mean(_by_set(genes, values)[:, 1:], axis=1)
    return mean


def _known_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is not NaN; NaN without any."""
    known = np.isfinite(values)
    n = known.sum(axis=axis)
    return np.divide(np.where(known, values, 0.0).sum(axis=axis), n, out=np.full(n.shape, np.nan), where=n > 0)


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(cells, mean, sample standard deviation) over the first axis of what is not NaN; 0 without enough."""
    known = np.isfinite(values)
    n = known.sum(axis=0)
    mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(n, 1)
    squares = np.where(known, (values - mean) ** 2, 0.0).sum(axis=0)
    return n, mean, np.sqrt(squares / np.maximum(n - 1, 1))


def _genes_table(inputs: Inputs, genes: Genes, found: Measured) -> pd.DataFrame:
    n, mean, sd = _moments(found.shift)
    error = CONFIDENCE_Z * sd / np.sqrt(np.maximum(n, 1))
    p = np.full(len(n), np.nan)
    against = np.column_stack(
        [
            found.shift[:, gene] - _known_mean(found.shift[:, genes.members(gene)[1:]], axis=1)
            for gene in range(genes.n_perturbed)
        ]
    )
    n_paired, difference, spread = _moments(against)
    tested = n_paired >= inputs.settings.min_cells
    p[: genes.n_perturbed] = np.where(tested, one_sample_t(difference, spread, n_paired), 1.0)
    q = np.full(len(n), np.nan)
    q[: genes.n_perturbed] = benjamini_hochberg(p[: genes.n_perturbed])
    statistics = [sums.statistics(inputs.settings.min_cells) for sums in found.features.values()]
    responding = np.sum([_responds(inputs, one).sum(axis=1) for one in statistics], axis=0)
    symbols = _symbols(inputs, genes.tokens)
    columns = {
        "gene": symbols,
        "gene_id": inputs.run.cells.gene_ids[genes.tokens],
        "kind": np.full(len(n), inputs.settings.perturb_kind),
        "matched_to": np.where(genes.is_control, symbols[genes.sets], ""),
        "n_cells": n,
        "n_expressing": genes.n_cells,
        "expression_rank": genes.ranks,
        "shift": mean,
        "low": mean - error,
        "high": mean + error,
        "shift_with_gene": _moments(found.shift_with_gene)[1],
        "control_shift": _mean_of_controls(genes, np.where(n > 0, mean, np.nan)),
        "p_value": p,
        "q_value": q,
        "n_features": np.sum([one["tested"].sum(axis=1) for one in statistics], axis=0),
        "n_responding": responding,
        "control_responding": _mean_of_controls(genes, responding.astype(float)),
        "output_change": _known_mean(found.output_change, axis=0),
    }
    return make_table("gene_perturbations", pd.DataFrame(columns))


def _features_table(inputs: Inputs, genes: Genes, found: Measured) -> pd.DataFrame:
    parts = []
    for layer, sums in found.features.items():
        statistics = sums.statistics(inputs.settings.min_cells)
        chosen = _responds(inputs, statistics)
        chosen[genes.n_perturbed :] = False
        gene, feature = np.nonzero(chosen)
        part = rows_of(statistics, chosen, [*FEATURE_NAMES, "p_value", "q_value"])
        parts.append(part.assign(gene=_symbols(inputs, genes.tokens[gene]), layer=layer, feature=feature))
    table = pd.concat(parts, ignore_index=True).assign(kind=inputs.settings.perturb_kind)
    order = {str(name): i for i, name in enumerate(_symbols(inputs, genes.tokens[: genes.n_perturbed]))}
    table = table.iloc[np.argsort(table["gene"].map(order).to_numpy(dtype=float), kind="stable")]
    return make_table("gene_perturbation_features", table.reset_index(drop=True))


def _outputs_table(inputs: Inputs, genes: Genes, found: Measured) -> pd.DataFrame:
    if found.outputs is None:
        return empty_table("gene_perturbation_outputs")
    statistics = found.outputs.statistics(inputs.settings.min_cells)
    chosen = _responds(inputs, statistics)
    chosen[genes.n_perturbed :] = False
    gene, target = np.nonzero(chosen)
    table = rows_of(statistics, chosen, [*OUTPUT_NAMES, "p_value", "q_value"]).assign(
        gene=_symbols(inputs, genes.tokens[gene]),
        kind=inputs.settings.perturb_kind,
        target_gene=_symbols(inputs, target),
    )
    return make_table("gene_perturbation_outputs", table)


def _similarity_table(inputs: Inputs, genes: Genes, found: Measured) -> pd.DataFrame:
    rows = found.comparisons
    gene = np.array([one.gene for one in rows], dtype=np.int64)
    correlations = [found.correlation(row) for row in range(len(rows))]
    enough = found.n_both >= inputs.settings.min_cells
    symbols = _symbols(inputs, genes.tokens)
    columns = {
        "source_layer": [one.source[0] for one in rows],
        "source_feature": [one.source[1] for one in rows],
        "gene": symbols[gene],
        "gene_id": inputs.run.cells.gene_ids[genes.tokens[gene]],
        "is_top_gene": [one.rank > 0 for one in rows],
        "rank": [one.rank for one in rows],
        "matched_to": np.where(genes.is_control[gene], symbols[genes.sets[gene]], ""),
        "n_cells": found.n_both,
        "n_features": [n for n, _ in correlations],
        "correlation": np.where(enough, [r for _, r in correlations], np.nan),
    }
    return make_table("feature_gene_similarity", pd.DataFrame(columns))


def _similar_answer(inputs: Inputs, genes: Genes, found: Measured, tables: dict[str, pd.DataFrame]) -> Answer:
    values = tables["feature_gene_similarity"]["correlation"].to_numpy()
    pair = np.array([one.pair for one in found.comparisons], dtype=np.int64)
    by_pair = [values[pair == number] for number in range(len(genes.pairs))]
    table = np.full((len(by_pair), max(map(len, by_pair), default=1)), np.nan)
    for row, own in enumerate(by_pair):
        table[row, : len(own)] = own
    known = usable(table)
    if not known.any():
        return untestable(NAME, SIMILAR, CORRELATION, _why_untested(inputs, genes))
    table, pairs = table[known], [one for one, use in zip(genes.pairs, known, strict=True) if use]
    sources = sorted({source for source, *_ in pairs})
    number = np.array([sources.index(source) for source, *_ in pairs])
    # every source counts as much, whatever the number of its genes
    weights = 1 / np.bincount(number)[number] / len(sources)
    deletes = inputs.settings.perturb_kind == "delete"
    sets = np.array([gene for _, gene, _ in pairs])
    per_source = np.bincount(number, weights * table[:, 0]) * len(sources)
    rng = np.random.default_rng([inputs.settings.seed, 2])
    draws = per_source[rng.integers(len(sources), size=(DRAWS, len(sources)))].mean(axis=1)
    low, high = percentile_interval(draws)
    p = matched_test(table, sets, weights if deletes else -weights, (inputs.settings.seed, 3))
    most = int(tables["gene_perturbations"]["n_cells"].max())
    return Answer(
        NAME,
        SIMILAR,
        CORRELATION,
        float(weights @ table[:, 0]),
        float(weights @ (table[:, 0] - contrasts(table)[:, 0])),
        SIMILAR_CHANCE,
        low,
        high,
        p,
        note=f"{len(sources):,} sources, {len(set(sets.tolist())):,} genes, each in up to {most:,} cells; "
        f'"{inputs.settings.perturb_kind}" beside the intervention "{inputs.settings.kind}". One-sided: '
        + ("more alike than with control genes." if deletes else "more opposed than with control genes.")
        + " Model-internal: both change the input of the same model.",
    )


def _why_untested(inputs: Inputs, genes: Genes) -> str:
    if not genes.pairs:
        return "None of `perturb_genes` is a top gene of a source. Name top genes, or leave `perturb_genes` empty."
    if not genes.is_control.any():
        return "There is no control gene: all are top genes of the sources. Take fewer sources (n_features)."
    if max(measured_layers(inputs)) <= min(source[0] for source, *_ in genes.pairs):
        return "No measured layer is above the sources. Name a higher one (perturb_layers)."
    return (
        f"No feature and top gene, with a control gene, are in min_cells = {inputs.settings.min_cells} cells together "
        "and both change features above. Take more cells (n_cells), or a model in which genes look at each other."
    )


def _shift_answer(inputs: Inputs, genes: Genes, tables: dict[str, pd.DataFrame]) -> Answer:
    perturbed = tables["gene_perturbations"]
    enough = perturbed["n_cells"] >= inputs.settings.min_cells
    values = _by_set(genes, np.where(enough, perturbed["shift"], np.nan))
    known = usable(values)
    if not known.any():
        why = (
            "There is no perturbed gene with a control gene in enough cells. Take more cells (n_cells), or fewer "
            "sources (n_features): their top genes are no controls."
        )
        return untestable(NAME, SHIFTED, SHIFT, why)
    own = values[known]
    n = len(own)
    rng = np.random.default_rng([inputs.settings.seed, 4])
    low, high = percentile_interval(own[rng.integers(n, size=(DRAWS, n)), 0].mean(axis=1))
    return Answer(
        NAME,
        SHIFTED,
        SHIFT,
        float(own[:, 0].mean()),
        float((own[:, 0] - contrasts(own)[:, 0]).mean()),
        SHIFT_CHANCE,
        low,
        high,
        matched_test(own, np.arange(n), np.full(n, 1 / n), (inputs.settings.seed, 5)),
        note=f'{n:,} genes and {int(np.isfinite(own[:, 1:]).sum()):,} control genes, "{inputs.settings.perturb_kind}", '
        f"each in up to {int(perturbed['n_cells'].max()):,} cells; genes are the units. One-sided: more than control "
        "genes. Of the model, not of cells: no perturbed cell was measured.",
    )
