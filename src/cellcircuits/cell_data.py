"""Read the cells that a run asks for."""

from __future__ import annotations

from pathlib import Path

import anndata as ad

from cellcircuits.errors import DataError
from cellcircuits.selection import select_cells
from cellcircuits.settings import CellsSettings


def read_cells(settings: CellsSettings) -> ad.AnnData:
    """The AnnData file with only the cells asked for (`where`, `n_cells`, `stratify_by`).

    Raises
    ------
    DataError
        If the file is missing or no AnnData, or a column or label that was asked for is absent.
    """
    if settings.data == "demo":
        from cellcircuits.demo_data import demo_cells

        adata = demo_cells()
    else:
        if not settings.data:
            raise DataError('cells.data is not set. Set it to an AnnData file (.h5ad), or to "demo".')
        adata = _read_h5ad(Path(settings.data))
    rows = select_cells(adata.obs, settings.where, settings.n_cells, settings.stratify_by, settings.seed)
    chosen = adata if len(rows) == adata.n_obs else adata[rows]
    return chosen.to_memory() if chosen.isbacked else chosen.copy()


def _read_h5ad(path: Path) -> ad.AnnData:
    if not path.exists():
        raise DataError(f"There is no file {path}. Set cells.data to an AnnData file (.h5ad).")
    try:
        # backed: the matrix of cells that were not asked for is never read
        adata = ad.read_h5ad(path, backed="r")
        if adata.raw is not None and adata.raw.n_vars == 0:
            del adata.raw  # "no raw", as newer versions write it, which this one takes for one without a matrix
        return adata
    except Exception as error:
        raise DataError(
            f"{path} is not an AnnData file: {str(error).splitlines()[0] if str(error) else type(error).__name__}. "
            "Write one with adata.write_h5ad(path)."
        ) from error
