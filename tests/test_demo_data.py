"""The demo cells: real counts, recovered exactly."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import cellcircuits as cc
from cellcircuits.demo_data import LARGEST_RESIDUAL, recover_counts
from cellcircuits.errors import DataError


def stored_values() -> tuple[sp.csr_matrix, np.ndarray]:
    """(log values, n_counts) as scanpy ships them."""
    import scanpy

    with pytest.warns():  # an old file layout
        stored = ad.read_h5ad(Path(scanpy.__file__).parent / "datasets" / "10x_pbmc68k_reduced.h5ad")
    return sp.csr_matrix(stored.raw.X), stored.obs["n_counts"].to_numpy(np.float64)


def test_the_demo_cells_are_what_they_are_said_to_be(pbmc: ad.AnnData) -> None:
    assert pbmc.shape == (700, 765)
    assert pbmc.obs["cell_type"].nunique() == 10
    assert list(pbmc.obs.columns) == ["cell_type", "n_counts", "phase"]
    assert pbmc.obs_names.is_unique
    assert pbmc.var_names.is_unique


def test_the_demo_counts_are_positive_integers(pbmc: ad.AnnData) -> None:
    data = pbmc.X.data
    assert (data == np.rint(data)).all()
    assert data.min() == 1
    # n_counts is over all genes of the experiment, of which 765 are here
    assert (np.asarray(pbmc.X.sum(axis=1)).ravel() <= pbmc.obs["n_counts"]).all()


def test_most_demo_genes_have_an_ensembl_id_of_their_own(pbmc: ad.AnnData) -> None:
    ids = pbmc.var["ensembl_id"][pbmc.var["ensembl_id"] != ""]
    assert ids.str.fullmatch(r"ENSG\d{11}").all()
    assert ids.is_unique
    assert len(ids) > 0.95 * pbmc.n_vars


def test_every_demo_call_gives_fresh_cells(pbmc: ad.AnnData) -> None:
    again = cc.demo_cells()
    assert (again.X != pbmc.X).nnz == 0
    assert again is not pbmc


def test_recovered_counts_give_the_stored_values_back(pbmc: ad.AnnData) -> None:
    log_values, n_counts = stored_values()
    exact = np.expm1(log_values.toarray().astype(float)) * n_counts[:, None] / 10_000
    counts = pbmc.X.toarray()
    assert np.abs(exact - counts).max() <= LARGEST_RESIDUAL
    np.testing.assert_allclose(np.log1p(counts * 10_000 / n_counts[:, None]), log_values.toarray(), atol=0.02)


def test_wrong_totals_are_refused() -> None:
    log_values, n_counts = stored_values()
    with pytest.raises(DataError, match="from an integer"):
        recover_counts(log_values, n_counts * 1.3)
    with pytest.raises(DataError, match="from an integer"):
        recover_counts(log_values, n_counts[::-1])


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_counts_are_recovered_from_any_matrix(form) -> None:
    counts = np.random.default_rng(0).poisson(0.7, size=(20, 30)).astype(float)
    n_counts = counts.sum(axis=1) + 100
    stored = np.log1p(counts * 10_000 / n_counts[:, None]).astype(np.float32)
    recovered = recover_counts(form(stored), n_counts)
    np.testing.assert_array_equal(recovered.toarray(), counts)
    assert recovered.nnz == (counts > 0).sum()


def test_a_residual_just_above_the_limit_is_refused() -> None:
    def stored(count: float) -> sp.csr_matrix:
        return sp.csr_matrix(np.log1p(np.array([[count, 1.0]]) * 10_000 / 500))

    np.testing.assert_array_equal(recover_counts(stored(3.14), np.array([500.0])).toarray(), [[3, 1]])
    with pytest.raises(DataError, match=r"up to 0\.16 from an integer \(at most 0\.15 expected\)"):
        recover_counts(stored(3.16), np.array([500.0]))
