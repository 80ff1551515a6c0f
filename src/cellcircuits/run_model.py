"""The model of a run, loaded once per process and refused if it is another one by now."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from cellcircuits.errors import ModelError
from cellcircuits.run import Run
from cellcircuits.settings import ModelSettings

if TYPE_CHECKING:
    from cellcircuits.models.base import Model


@lru_cache(maxsize=2)
def load_checked_model(settings: ModelSettings) -> Model:
    """The model of a run, loaded once per process."""
    from cellcircuits.models import load_model

    return load_model(settings.family, settings.path, dictionaries=settings.dictionaries, device=settings.device)


def run_model(run: Run) -> Model:
    """The model of a run, refused if its weights changed since the cells were made.

    Raises
    ------
    ModelError
        If the checkpoint is another one now.
    """
    model = load_checked_model(run.settings.model)
    record = (run.manifest("cells") or {"record": {}})["record"]
    if record.get("model_fingerprint") != model.fingerprint():
        raise ModelError(
            f"The weights at {run.settings.model.path} are not those with which {run.folder} was begun. "
            "Restore them or start a new run."
        )
    return model
