"""From the genes of a dataset to the tokens of a model: mapping, summing of duplicates, coverage report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cellcircuits.counts import Counts
from cellcircuits.errors import DataError, SettingsError, listed
from cellcircuits.tokens import Tokens


@dataclass(frozen=True)
class MappedCounts:
    """Counts over tokens instead of genes."""

    matrix: sp.csr_matrix
    """float64 (cell, column): summed counts, no explicit zeros."""
    token_ids: np.ndarray
    """int32 (column,): token of each column; every token once."""
    coverage: dict
    """How much of the data the model can see."""


def map_genes(counts: Counts, token_of: Callable[[str, str], int | None], minimum: float) -> MappedCounts:
    """Replace genes by tokens and sum the columns that share one.

    `token_of(ensembl_id, symbol)` gives the token of a gene or None. Column order, which decides ties: genes with a
    token of their own in their original order, then summed genes in order of first appearance (as Geneformer does).

    Raises
    ------
    DataError
        If fewer than `minimum` of the detected genes (those with a count in any cell) have a token.
    """
    n_genes = counts.matrix.shape[1]
    ensembl = counts.ensembl_ids if counts.ensembl_ids is not None else np.full(n_genes, "", dtype=object)
    symbols = counts.symbols if counts.symbols is not None else np.full(n_genes, "", dtype=object)
    tokens = [token_of(e, s) for e, s in zip(ensembl, symbols, strict=True)]
    mapped = np.array([t is not None for t in tokens])
    per_gene = np.asarray(counts.matrix.sum(axis=0)).ravel()
    detected = per_gene > 0
    share = float((mapped & detected).sum() / max(detected.sum(), 1))
    names = np.where(symbols != "", symbols, ensembl)
    unmapped = listed(names[detected & ~mapped])
    if share < minimum:
        raise DataError(
            f"Only {share:.1%} of the {int(detected.sum()):,} detected genes are in the model's vocabulary; at least "
            f"{minimum:.0%} are needed (min_mapped_genes). Not found: {unmapped}. "
            "Check species and gene ids (gene_column names the column of var to use)."
        )
    present = np.array([t for t in tokens if t is not None], dtype=np.int32)
    matrix, token_ids = _sum_duplicates(counts.matrix[:, mapped], present)
    coverage = {
        "genes": n_genes,
        "genes_detected": int(detected.sum()),
        "genes_detected_mapped": int((mapped & detected).sum()),
        "share_of_detected_genes_mapped": share,
        "share_of_counts_mapped": float(per_gene[mapped].sum() / per_gene.sum()),
        "genes_summed_into_another": int(mapped.sum() - len(token_ids)),
        "examples_unmapped": unmapped,
    }
    return MappedCounts(matrix, token_ids, coverage)


def _sum_duplicates(matrix: sp.csr_matrix, tokens: np.ndarray) -> tuple[sp.csr_matrix, np.ndarray]:
    unique, first, inverse, repeats = np.unique(tokens, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, repeats > 1))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    summing = sp.csr_matrix(
        (np.ones(len(tokens)), (np.arange(len(tokens)), rank[inverse])), shape=(len(tokens), len(unique))
    )
    summed = sp.csr_matrix(matrix @ summing)
    summed.sort_indices()
    return summed, unique[order].astype(np.int32)


def room_for_genes(longest: int, n_special: int) -> int:
    """Number of genes that fit into an input of `longest` tokens beside the special ones.

    Raises
    ------
    SettingsError
        If not even one fits.
    """
    if longest <= n_special:
        raise SettingsError(
            f"`max_length` must be above {n_special}, the number of special tokens of this model; found {longest}."
        )
    return longest - n_special


def assemble_tokens(
    rows: list[np.ndarray],
    counts: Counts,
    *,
    empty: np.ndarray,
    special_ids: list[int],
    pad_id: int,
    names: tuple[np.ndarray, np.ndarray],
    info: dict,
    empty_cells: str,
    values: list[np.ndarray] | None = None,
    pad_value: float = 0.0,
) -> Tokens:
    """`Tokens` from one id array per cell; cells without any known gene stop the run or are dropped.

    `names` are (gene id, symbol) per token id; `empty` marks the cells without a gene that the model knows.
    """
    if empty.any() and (empty_cells == "error" or empty.all()):
        raise DataError(
            f"{int(empty.sum())} of {len(rows)} cells have no gene that the model knows "
            f'({listed(counts.obs.index[empty])}). Remove them, or set empty_cells = "drop".'
        )
    keep = np.flatnonzero(~empty)
    ids = _padded([rows[i] for i in keep], pad_id, np.int32)
    return Tokens(
        ids=ids,
        gene_mask=~np.isin(ids, special_ids),
        values=None if values is None else _padded([values[i] for i in keep], pad_value, np.float32),
        pad_id=pad_id,
        gene_ids=names[0],
        gene_symbols=names[1],
        obs=counts.obs.iloc[keep],
        info=info | {"cells": len(keep), "cells_dropped": int(empty.sum()), "counts_from": counts.source},
    )


def _padded(rows: list[np.ndarray], fill: float, dtype: type) -> np.ndarray:
    array: np.ndarray = np.full((len(rows), max(map(len, rows))), fill, dtype=dtype)
    for i, row in enumerate(rows):
        array[i, : len(row)] = row
    return array
