"""Stage `cells`: pick cells from AnnData, tokenise them for one model, report coverage."""

from __future__ import annotations

import json
from pathlib import Path

from cellcircuits.cell_data import read_cells
from cellcircuits.manifest import file_hash
from cellcircuits.progress import Progress
from cellcircuits.run import Run
from cellcircuits.run_model import load_checked_model
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
