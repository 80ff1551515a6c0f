"""The real cells of the demo: 700 peripheral blood cells (10x Genomics, Zheng et al. 2017) as scanpy ships them."""

from __future__ import annotations

import csv
import importlib.util
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.errors import DataError

DATA = Path(__file__).parent / "data"
LARGEST_RESIDUAL = 0.15
"""The file is stored with rounding; counts recovered from it may differ from integers by this much."""


def demo_cells() -> ad.AnnData:
    """700 PBMCs x 765 genes with raw counts in X, Ensembl ids, `n_counts` and `cell_type` (10 types).

    scanpy ships them as log(1 + count * 10,000 / n_counts) in `.raw`; the counts are recovered from that.

    Raises
    ------
    DataError
        If scanpy's file is not there, or its values are not what they should be.
    """
    spec = importlib.util.find_spec("scanpy")
    if spec is None or spec.origin is None:
        raise DataError("The demo cells come with scanpy, which is not installed: pip install scanpy.")
    path = Path(spec.origin).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"
    if not path.exists():
        raise DataError(f"This scanpy does not ship {path.name}; pip install 'scanpy>=1.10,<2'.")
    with warnings.catch_warnings():
        # the file is in an old AnnData layout, which newer versions convert with a warning
        warnings.simplefilter("ignore")
        stored = ad.read_h5ad(path)
    counts = recover_counts(stored.raw.X, stored.obs["n_counts"].to_numpy(np.float64))
    with open(DATA / "demo_genes.csv", newline="", encoding="utf-8") as file:
        ensembl = {row["symbol"]: row["ensembl_id"] for row in csv.DictReader(file)}
    var = pd.DataFrame({"ensembl_id": [ensembl.get(s, "") for s in stored.raw.var_names]}, index=stored.raw.var_names)
    obs = pd.DataFrame(
        {
            "cell_type": stored.obs["bulk_labels"].astype(str).astype("category"),
            "n_counts": stored.obs["n_counts"].to_numpy(np.float64),
            "phase": stored.obs["phase"].astype(str).astype("category"),
        },
        index=stored.obs_names.astype(str),
    )
    return ad.AnnData(X=counts, obs=obs, var=var)


def recover_counts(log_values: sp.spmatrix, n_counts: np.ndarray) -> sp.csr_matrix:
    """Raw counts from y = log(1 + count * 10,000 / n_counts), shape (cell, gene).

    Raises
    ------
    DataError
        If a recovered count is farther than `LARGEST_RESIDUAL` from an integer.
    """
    counts = sp.csr_matrix(log_values, dtype=np.float64, copy=True)
    counts.data = np.expm1(counts.data) * np.repeat(n_counts, np.diff(counts.indptr)) / 10_000
    residual = float(np.abs(counts.data - np.rint(counts.data)).max(initial=0.0))
    if residual > LARGEST_RESIDUAL:
        raise DataError(
            f"Recovered counts are up to {residual:.2f} from an integer (at most {LARGEST_RESIDUAL} expected): "
            "the values are not log(1 + count * 10,000 / n_counts) with these n_counts."
        )
    counts.data = np.rint(counts.data)
    counts.eliminate_zeros()
    return counts.astype(np.float32)
