"""Counts and gene ids out of AnnData, checked: the one place that decides whether data are raw counts."""

from __future__ import annotations

import re
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.errors import DataError, listed
from cellcircuits.settings import CellsSettings

ENSEMBL_ID = re.compile(r"^ENS[A-Z]*G\d{6,}", re.IGNORECASE)
ENSEMBL_COLUMNS = ("ensembl_id", "gene_ids", "gene_id", "ensembl", "ensembl_ids")
SYMBOL_COLUMNS = ("feature_name", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "symbol")
LOG_MAXIMUM = 15.0
"""log1p of counts per 10,000 cannot exceed log(10,001) = 9.2; fractional data below this look log-transformed."""


@dataclass(frozen=True)
class Counts:
    """A checked count matrix with what the tokenisers need to know of its cells and genes."""

    matrix: sp.csr_matrix
    """float64 (cell, gene), no explicit zeros."""
    n_counts: np.ndarray
    """float64 (cell,): total counts of each cell over all genes measured (`obs["n_counts"]` where present)."""
    ensembl_ids: np.ndarray | None
    """str (gene,): Ensembl ids without version, "" where unknown; None when the data have none."""
    symbols: np.ndarray | None
    """str (gene,): gene symbols; None when the data have none."""
    obs: pd.DataFrame
    source: str
    """Where in the AnnData the matrix was found, for example "X" or "layers['counts']"."""


def read_counts(adata: ad.AnnData, settings: CellsSettings) -> Counts:
    """Find, check and return the counts of `adata` (see `CellsSettings.counts` for where they are looked for).

    Raises
    ------
    DataError
        If there are no counts, or they are negative, NaN, infinite, log-transformed or fractional, or cells are empty.
    """
    if not isinstance(adata, ad.AnnData):
        raise DataError(f"Expected an AnnData object, found {type(adata).__name__}. Read one with anndata.read_h5ad.")
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise DataError(f"The AnnData has {adata.n_obs} cells and {adata.n_vars} genes; both must be above 0.")
    matrix, var, source = _find_matrix(adata, settings)
    _check_values(matrix, source)
    if settings.input_mode == "official" and not settings.allow_non_counts:
        _check_integers(matrix, source)
    obs = adata.obs
    totals = np.asarray(matrix.sum(axis=1)).ravel()
    empty = totals == 0
    if empty.any():
        names = listed(obs.index[empty])
        if settings.empty_cells == "error":
            raise DataError(
                f"{int(empty.sum())} of {len(obs)} cells have no counts ({names}). Remove them "
                '(scanpy.pp.filter_cells(adata, min_counts=1)) or set empty_cells = "drop".'
            )
        matrix, obs, totals = matrix[~empty], obs.loc[~empty], totals[~empty]
        if len(obs) == 0:
            raise DataError("No cell has any counts.")
    ensembl, symbols = gene_names(var, settings)
    return Counts(matrix, _n_counts(obs, totals), ensembl, symbols, obs, source)


def _candidates(adata: ad.AnnData) -> list[str]:
    """Places that may hold counts, in the order in which they are tried."""
    places = ["layers['counts']"] if "counts" in adata.layers else []
    if adata.X is not None:
        places.append("X")
    if adata.raw is not None:
        places.append("raw.X")
    return places


def _matrix_at(adata: ad.AnnData, place: str) -> tuple[sp.csr_matrix, pd.DataFrame]:
    if place == "X":
        matrix, var = adata.X, adata.var
    elif place in ("raw", "raw.X"):
        matrix, var = (None, adata.var) if adata.raw is None else (adata.raw.X, _raw_var(adata))
    else:
        name = place.removeprefix("layers['").removesuffix("']")
        matrix, var = adata.layers.get(name), adata.var
    if matrix is None:
        have = listed(_candidates(adata) + [f"layers['{k}']" for k in adata.layers if k != "counts"]) or "nothing"
        raise DataError(f"The AnnData has no {place}; it has {have}. Set counts to one of these.")
    matrix = sp.csr_matrix(matrix, dtype=np.float64, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix, var


def _raw_var(adata: ad.AnnData) -> pd.DataFrame:
    """`raw.var`, completed with gene columns of `var` for the genes that both have."""
    extra = [c for c in (*ENSEMBL_COLUMNS, *SYMBOL_COLUMNS) if c in adata.var and c not in adata.raw.var]
    if not extra or not adata.var_names.is_unique:
        return adata.raw.var
    return adata.raw.var.join(adata.var[extra], how="left")


def _find_matrix(adata: ad.AnnData, settings: CellsSettings) -> tuple[sp.csr_matrix, pd.DataFrame, str]:
    """The matrix asked for; with "auto", the first place that holds integers (else the first place there is)."""
    if settings.counts != "auto":
        return *_matrix_at(adata, settings.counts), settings.counts
    places = _candidates(adata)
    if not places:
        raise DataError("The AnnData holds no expression matrix (no X, no raw, no layers['counts']). Add raw counts.")
    found = {place: _matrix_at(adata, place) for place in places}
    for place, (matrix, var) in found.items():
        if matrix.nnz and np.isfinite(matrix.data).all() and (matrix.data == np.rint(matrix.data)).all():
            return matrix, var, place
    return *found[places[0]], places[0]


def _check_values(matrix: sp.csr_matrix, source: str) -> None:
    data = matrix.data
    if np.isnan(data).any():
        raise DataError(f"{source} holds {int(np.isnan(data).sum()):,} NaN values; raw counts have none.")
    if np.isinf(data).any():
        raise DataError(f"{source} holds {int(np.isinf(data).sum()):,} infinite values; raw counts have none.")
    if (data < 0).any():
        raise DataError(
            f"{source} holds {int((data < 0).sum()):,} negative values (smallest {data.min():.3g}), as scaled data do; "
            "raw counts are needed. Put them into layers['counts']."
        )


def _check_integers(matrix: sp.csr_matrix, source: str) -> None:
    data = matrix.data
    fractional = data != np.rint(data)
    if not fractional.any():
        return
    largest = data.max()
    kind = "log-transformed" if largest < LOG_MAXIMUM else "normalised"
    raise DataError(
        f"{source} looks {kind}: {fractional.mean():.0%} of its values are not integers (largest {largest:.3g}). "
        "Raw integer counts are needed; put them into layers['counts']. "
        "To use the values as they are all the same, set allow_non_counts = true."
    )


def _n_counts(obs: pd.DataFrame, totals: np.ndarray) -> np.ndarray:
    """`obs["n_counts"]` where present (it may count genes that were filtered out since), else the row sums."""
    if "n_counts" not in obs:
        return totals
    given = pd.to_numeric(obs["n_counts"], errors="coerce").to_numpy(np.float64)
    wrong = ~np.isfinite(given) | (given <= 0)
    if wrong.any():
        raise DataError(
            f"obs['n_counts'] is not a positive number in {int(wrong.sum())} cells ({listed(obs.index[wrong])}). "
            "Correct it, or drop the column to use the sum over the genes present."
        )
    return given


def strip_version(ids: np.ndarray) -> np.ndarray:
    """Ensembl ids without their version: ENSG00000141510.18 becomes ENSG00000141510; other names stay."""
    return np.array([i.split(".")[0] if ENSEMBL_ID.match(i) else i for i in ids], dtype=object)


def gene_names(var: pd.DataFrame, settings: CellsSettings) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(Ensembl ids, symbols) of the genes of `var`, each None when the data do not have them."""
    if settings.gene_column:
        if settings.gene_column not in var:
            raise DataError(
                f"var has no column {settings.gene_column!r}; it has {listed(var.columns) or 'none'}. Set gene_column."
            )
        columns = [_as_text(var[settings.gene_column])]
    else:
        present = [c for c in (*ENSEMBL_COLUMNS, *SYMBOL_COLUMNS) if c in var]
        columns = [*(_as_text(var[c]) for c in present), _as_text(var.index.to_series())]
    ensembl = symbols = None
    for names in columns:
        if not any(names):
            continue
        if _share_ensembl(names) >= 0.5:
            ensembl = strip_version(names) if ensembl is None else ensembl
        elif symbols is None:
            symbols = names
    return ensembl, symbols


def _as_text(column: pd.Series) -> np.ndarray:
    return column.astype(object).where(column.notna(), "").astype(str).str.strip().to_numpy(dtype=object)


def _share_ensembl(names: np.ndarray) -> float:
    """Share of the non-empty names that are Ensembl gene ids."""
    filled = [n for n in names if n]
    return sum(bool(ENSEMBL_ID.match(n)) for n in filled) / max(len(filled), 1)
