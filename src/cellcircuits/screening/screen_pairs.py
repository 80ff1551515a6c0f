"""Predicted gene pairs matched with the genes of a screen, and the same pairs as simpler predictors see them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.networks import Targets
from cellcircuits.screening.responses import Responses, positions
from cellcircuits.screening.screen_statistics import Measured, Pairs

COLUMNS = ("source_gene", "target_gene", "n_edges", "mean_snr", "mean_abs_snr")
"""What a table of gene pairs needs."""


def matched_pairs(pairs: pd.DataFrame, responses: Responses, measured: Measured) -> pd.DataFrame:
    """Pairs whose source is a perturbation that is used and whose target was measured, in order of both.

    Columns: source and target (int32: rows and columns of the responses), predicted (mean_snr of the edges: how the
    target changes when the source is removed; turned around for an activation), score (mean_abs_snr), n_edges, and pmi
    if the table has it. Genes are matched whatever the case; of pairs that then occur twice the one with more edges
    stays.
    """
    names = pd.unique(np.concatenate([pairs["source_gene"].to_numpy(object), pairs["target_gene"].to_numpy(object)]))
    code = pd.Index(names)
    end = {name: code.get_indexer(pairs[f"{name}_gene"]) for name in ("source", "target")}
    rows = positions(names, responses.sources)[end["source"]]
    columns = positions(names, responses.genes)[end["target"]]
    keep = (rows >= 0) & (columns >= 0) & np.isfinite(pairs["mean_snr"].to_numpy(float))
    keep[keep] = responses.used[rows[keep]] & np.isfinite(measured.log_fc[rows[keep], columns[keep]])
    sign = -1.0 if responses.kind == "activation" else 1.0
    table = pd.DataFrame(
        {
            "source": rows[keep].astype(np.int32),
            "target": columns[keep].astype(np.int32),
            "predicted": sign * pairs["mean_snr"].to_numpy(np.float64)[keep],
            "score": pairs["mean_abs_snr"].to_numpy(np.float64)[keep],
            "n_edges": pairs["n_edges"].to_numpy(np.int64)[keep],
        }
    )
    if "pmi" in pairs:
        table["pmi"] = pairs["pmi"].to_numpy(np.float64)[keep]
    order = table.sort_values(["source", "target", "n_edges", "score"], ascending=[True, True, False, False])
    return order.drop_duplicates(["source", "target"]).reset_index(drop=True)


def as_pairs(table: pd.DataFrame) -> Pairs:
    """The predictions of a table of `matched_pairs`."""
    return Pairs(*(table[name].to_numpy() for name in ("source", "target", "predicted", "score")))


def mean_of_others(measured: Measured, used: np.ndarray) -> np.ndarray:
    """float64 (perturbation, gene): mean response of each gene to all other perturbations that are used."""
    known = np.isfinite(measured.log_fc) & used[:, None]
    value = np.where(known, measured.log_fc, 0.0).astype(np.float64)
    n = known.sum(axis=0) - known
    return np.divide(value.sum(axis=0) - value, n, out=np.full(value.shape, np.nan), where=n > 0)


def baseline_matrices(responses: Responses, measured: Measured) -> dict[str, np.ndarray]:
    """Predicted changes (perturbation, gene) by predictors that know no circuit.

    "co-expression": genes that are expressed together fall together, so a knock-down has the opposite sign of the
    correlation; "other perturbations": the target does what it does after all others.
    """
    found = {"other perturbations": mean_of_others(measured, responses.used)}
    if responses.coexpression is not None:
        sign = 1.0 if responses.kind == "activation" else -1.0
        found = {"co-expression": sign * responses.coexpression.astype(np.float64)} | found
    return found


def same_pairs(pairs: Pairs, predicted: np.ndarray) -> Pairs:
    """The same pairs with another predicted change, given for each pair; its size is the score."""
    return Pairs(pairs.source, pairs.target, predicted, np.abs(predicted))


def as_many_pairs(pairs: Pairs, predicted: np.ndarray, measured: Measured) -> Pairs:
    """For every perturbed gene as many targets as `pairs` has, those with the largest |predicted| (ties: first)."""
    size = np.where(np.isfinite(measured.log_fc) & np.isfinite(predicted), np.abs(predicted), -1.0)
    wanted = np.bincount(pairs.source, minlength=len(size))
    order = np.argsort(-size, axis=1, kind="stable")
    source, place = np.nonzero(np.arange(size.shape[1])[None, :] < wanted[:, None])
    target = order[source, place]
    known = size[source, target] >= 0
    source, target = source[known].astype(np.int32), target[known].astype(np.int32)
    ranked = np.lexsort((target, source))
    source, target = source[ranked], target[ranked]
    return Pairs(source, target, predicted[source, target], size[source, target])


def direct_targets(table: pd.DataFrame, responses: Responses, networks: list[Targets]) -> np.ndarray:
    """object (pair,): "direct" if a network lists the target for the source, "indirect" if it knows the source only."""
    known: dict[str, set[str]] = {}
    for network in networks:
        for name, genes in network.sets.terms.items():
            known.setdefault(network.regulator(name), set()).update(gene.upper() for gene in genes)
    names = [str(name).upper() for name in responses.sources]
    measured = np.array([str(name).upper() for name in responses.genes], dtype=object)
    regulates = np.array([name in known for name in names], dtype=bool)
    listed = np.zeros((len(names), len(measured)), dtype=bool)
    for row in np.flatnonzero(regulates):
        listed[row] = pd.Index(measured).isin(known[names[row]])
    source, target = table["source"].to_numpy(), table["target"].to_numpy()
    kind = np.where(listed[source, target], "direct", "indirect")
    return np.where(regulates[source], kind, "").astype(object)
