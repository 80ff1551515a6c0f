"""Stage `cells`: pick cells from AnnData, tokenise them for one model, report coverage."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad

from cellcircuits.errors import DataError
from cellcircuits.progress import Progress
from cellcircuits.run import Run, file_hash
from cellcircuits.run_model import load_checked_model
from cellcircuits.selection import select_cells
from cellcircuits.settings import CellsSettings
from cellcircuits.tokens import save_tokens


def cells_stage(run: Run, progress: Progress) -> None:
    """Read, select and tokenise the cells; check the model on them; write `cells/`."""
    from cellcircuits.models.base import check_model

    settings = run.settings.cells
    progress.note("Reading cells and model")
    adata = read_cells(settings)
    model = load_checked_model(run.settings.model)
    tokens = model.tokenize(adata, settings)
    differences = check_model(model, tokens)
    record = {
        "data": settings.data,
        "data_sha256": "" if settings.data == "demo" else file_hash(Path(settings.data)),
        "model": model.name,
        "model_fingerprint": model.fingerprint(),
        "tokens_fingerprint": tokens.fingerprint(),
        "n_layers": model.n_layers,
        "d_model": model.d_model,
        "has_frozen_context": model.has_frozen_context,
        "check": differences,
        "coverage": tokens.info,
    }
    with run.writing("cells", **record) as folder:
        save_tokens(tokens, folder)
        (folder / "coverage.json").write_text(json.dumps(tokens.info, indent=2) + "\n", encoding="utf-8")


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
