"""Counts: where they are looked for, what is refused, and which column of var names the genes."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellcircuits.counts import Counts, read_counts, strip_version
from cellcircuits.errors import DataError
from cellcircuits.settings import CellsSettings

COUNTS = np.array([[3, 0, 1, 0], [0, 2, 0, 9], [1, 1, 0, 0]], dtype=np.float32)
LOGGED = np.log1p(COUNTS)
CELLS = ["c0", "c1", "c2"]
SYMBOLS = ["TP53", "GAPDH", "GATA1", "MS4A1"]
ENSEMBL = ["ENSG00000141510", "ENSG00000111640", "ENSG00000102145", "ENSG00000156738"]


def cells(matrix=COUNTS, *, names=SYMBOLS, obs: dict | None = None, var: dict | None = None, **more) -> ad.AnnData:
    """Three cells x four genes."""
    return ad.AnnData(matrix, obs=pd.DataFrame(obs, index=CELLS), var=pd.DataFrame(var, index=names), **more)


def read(adata: ad.AnnData, **changes) -> Counts:
    return read_counts(adata, CellsSettings(**changes))


def with_raw(raw, matrix) -> ad.AnnData:
    """Cells with `matrix` in X and `raw` in raw.X."""
    adata = cells(raw)
    adata.raw = adata
    adata.X = matrix
    return adata


@pytest.mark.parametrize(
    ("adata", "source"),
    [
        (cells(LOGGED, layers={"counts": COUNTS}), "layers['counts']"),
        (cells(COUNTS, layers={"counts": 2 * COUNTS}), "layers['counts']"),
        (cells(COUNTS), "X"),
        (cells(COUNTS, layers={"counts": LOGGED}), "X"),
        (with_raw(COUNTS, LOGGED), "raw.X"),
        (with_raw(2 * COUNTS, COUNTS), "X"),
        (with_raw(COUNTS, np.full_like(COUNTS, np.nan)), "raw.X"),
        (with_raw(COUNTS, np.zeros_like(COUNTS)), "raw.X"),
        (with_raw(COUNTS, None), "raw.X"),
    ],
)
def test_counts_are_the_first_integers_of_layer_x_and_raw(adata: ad.AnnData, source: str) -> None:
    counts = read(adata)
    assert counts.source == source
    places = {"X": adata.X, "raw.X": None if adata.raw is None else adata.raw.X, "layers['counts']": None}
    expected = adata.layers["counts"] if "layer" in source else places[source]
    np.testing.assert_array_equal(counts.matrix.toarray(), expected)


@pytest.mark.parametrize("place", ["X", "raw", "raw.X", "spliced", "layers['spliced']"])
def test_counts_are_taken_from_the_place_asked_for(place: str) -> None:
    adata = with_raw(2 * COUNTS, COUNTS)
    adata.layers["spliced"] = 3 * COUNTS
    factor = {"X": 1, "raw": 2, "raw.X": 2}.get(place, 3)
    counts = read(adata, counts=place)
    assert counts.source == place
    np.testing.assert_array_equal(counts.matrix.toarray(), factor * COUNTS)


@pytest.mark.parametrize("place", ["raw", "spliced", "layers['spliced']"])
def test_a_place_that_is_absent_is_refused_with_those_there_are(place: str) -> None:
    with pytest.raises(DataError, match=r"has no .*(raw|spliced).*; it has X, layers\['unspliced'\]"):
        read(cells(layers={"unspliced": COUNTS}), counts=place)


def test_data_without_any_matrix_are_refused() -> None:
    with pytest.raises(DataError, match="holds no expression matrix"):
        read(cells(None))


@pytest.mark.parametrize("other", [COUNTS, pd.DataFrame(COUNTS), None])
def test_only_anndata_is_accepted(other) -> None:
    with pytest.raises(DataError, match=f"Expected an AnnData object, found {type(other).__name__}"):
        read(other)


@pytest.mark.parametrize(("rows", "columns"), [(0, 4), (3, 0)])
def test_data_without_cells_or_genes_are_refused(rows: int, columns: int) -> None:
    with pytest.raises(DataError, match=f"has {rows} cells and {columns} genes"):
        read(cells()[:rows, :columns].copy())


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.where(COUNTS == 9, np.nan, COUNTS), "X holds 1 NaN values"),
        (np.where(COUNTS == 9, np.inf, COUNTS), "X holds 1 infinite values"),
        (COUNTS - COUNTS.mean(), "X holds 9 negative values .* as scaled data do"),
        (LOGGED, "X looks log-transformed: 100% of its values are not integers"),
        (COUNTS * 12.5, "X looks normalised: .*largest 112"),
    ],
)
@pytest.mark.parametrize("sparse", [False, True])
def test_values_that_are_not_raw_counts_are_refused(matrix: np.ndarray, message: str, sparse: bool) -> None:
    with pytest.raises(DataError, match=message):
        read(cells(sp.csr_matrix(matrix) if sparse else matrix))


@pytest.mark.parametrize("changes", [{"allow_non_counts": True}, {"input_mode": "published"}])
def test_fractional_values_pass_only_when_asked_for(changes: dict) -> None:
    np.testing.assert_array_equal(read(cells(LOGGED), **changes).matrix.toarray(), LOGGED)
    with pytest.raises(DataError, match="negative values"):
        read(cells(-COUNTS), **changes)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_every_matrix_form_gives_the_same_counts(form, dtype: type) -> None:
    counts = read(cells(form(COUNTS.astype(dtype))))
    assert counts.matrix.dtype == np.float64
    np.testing.assert_array_equal(counts.matrix.toarray(), COUNTS)


def test_explicit_zeros_and_repeated_entries_are_resolved_in_a_copy() -> None:
    values, columns, rows = [1.0, 2.0, 0.0, 4.0, 3.0, -3.0, 5.0], [0, 0, 1, 2, 3, 3, 3], [0, 3, 6, 7]
    adata = cells(sp.csr_matrix((values, columns, rows), shape=(3, 4)))
    counts = read(adata)
    assert counts.matrix.nnz == 3
    np.testing.assert_array_equal(counts.matrix.toarray(), [[3, 0, 0, 0], [0, 0, 4, 0], [0, 0, 0, 5]])
    assert adata.X.nnz == 7


def test_empty_cells_are_an_error_by_default() -> None:
    with pytest.raises(DataError, match=r"1 of 3 cells have no counts \(c1\)"):
        read(cells(COUNTS * [[1], [0], [1]]))


def test_empty_cells_are_dropped_with_their_obs_when_asked() -> None:
    # the total of a dropped cell need not make sense
    adata = cells(COUNTS * [[1], [0], [1]], obs={"n_counts": [7, 0, 8]})
    counts = read(adata, empty_cells="drop")
    assert list(counts.obs.index) == ["c0", "c2"]
    np.testing.assert_array_equal(counts.matrix.toarray(), COUNTS[[0, 2]])
    np.testing.assert_array_equal(counts.n_counts, [7, 8])


def test_dropping_every_cell_is_an_error() -> None:
    with pytest.raises(DataError, match="No cell has any counts"):
        read(cells(np.zeros_like(COUNTS)), empty_cells="drop")


def test_totals_are_row_sums_unless_obs_has_them() -> None:
    np.testing.assert_array_equal(read(cells()).n_counts, [4, 11, 2])
    np.testing.assert_array_equal(read(cells(obs={"n_counts": [40, 110, 20]})).n_counts, [40, 110, 20])


@pytest.mark.parametrize("wrong", [np.nan, 0, -1, np.inf, "many"])
def test_totals_must_be_positive_numbers(wrong) -> None:
    with pytest.raises(DataError, match=r"obs\['n_counts'\] is not a positive number in 1 cells \(c1\)"):
        read(cells(obs={"n_counts": [4, wrong, 2]}))


@pytest.mark.parametrize(
    ("names", "var"),
    [
        (SYMBOLS, {"ensembl_id": ENSEMBL}),
        (SYMBOLS, {"gene_ids": [f"{i}.{n}" for n, i in enumerate(ENSEMBL)]}),
        (ENSEMBL, {"feature_name": SYMBOLS}),
        (ENSEMBL, {"gene_symbols": pd.Categorical(SYMBOLS)}),
        (ENSEMBL, {"gene_name": ["", np.nan, None, ""], "symbol": SYMBOLS}),
        (SYMBOLS, {"feature_name": [""] * 4, "ensembl_id": ENSEMBL}),
        (SYMBOLS, {"gene_id": SYMBOLS, "gene_ids": ENSEMBL}),
    ],
)
def test_ensembl_ids_and_symbols_are_told_apart_by_content(names: list[str], var: dict) -> None:
    counts = read(cells(names=names, var=var))
    assert list(counts.ensembl_ids) == ENSEMBL
    assert list(counts.symbols) == SYMBOLS


def test_missing_names_are_empty_text() -> None:
    counts = read(cells(var={"ensembl_id": [ENSEMBL[0], np.nan, "", ENSEMBL[3]]}))
    assert list(counts.ensembl_ids) == [ENSEMBL[0], "", "", ENSEMBL[3]]


def test_symbols_alone_give_no_ensembl_ids_and_the_reverse() -> None:
    assert read(cells()).ensembl_ids is None
    assert read(cells(names=ENSEMBL)).symbols is None


def test_gene_column_names_the_only_column_used() -> None:
    adata = cells(names=ENSEMBL, var={"feature_name": SYMBOLS, "mine": [s.lower() for s in SYMBOLS]})
    counts = read(adata, gene_column="mine")
    assert counts.ensembl_ids is None
    assert list(counts.symbols) == ["tp53", "gapdh", "gata1", "ms4a1"]


def test_a_gene_column_that_is_absent_is_refused() -> None:
    with pytest.raises(DataError, match="var has no column 'gene'; it has ensembl_id"):
        read(cells(var={"ensembl_id": ENSEMBL}), gene_column="gene")


def test_raw_takes_gene_columns_from_var_where_it_has_none() -> None:
    adata = with_raw(COUNTS, LOGGED)[:, [2, 0]].copy()
    adata.var["ensembl_id"] = [ENSEMBL[2], ENSEMBL[0]]
    counts = read(adata)
    assert counts.matrix.shape == (3, 4)
    assert list(counts.symbols) == SYMBOLS
    assert list(counts.ensembl_ids) == [ENSEMBL[0], "", ENSEMBL[2], ""]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("ENSG00000141510.18", "ENSG00000141510"),
        ("ENSMUSG00000059552.14", "ENSMUSG00000059552"),
        ("ENSG00000141510", "ENSG00000141510"),
        ("RP11-34P13.7", "RP11-34P13.7"),
        ("", ""),
    ],
)
def test_versions_are_stripped_from_ensembl_ids_alone(name: str, plain: str) -> None:
    assert list(strip_version(np.array([name], dtype=object))) == [plain]
