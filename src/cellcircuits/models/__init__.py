"""Models by name: the shipped adapters, and any that other packages offer by entry point."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from cellcircuits.errors import ModelError

if TYPE_CHECKING:
    from cellcircuits.models.base import Model

ENTRY_POINT_GROUP = "cellcircuits.models"
"""A plug-in's entry point is a function (path, dictionaries) -> Model."""


def load_model(family: str, path: str | Path = "", *, dictionaries: str | Path = "", device: str = "auto") -> Model:
    """Load a model: "geneformer", "scgpt", "toy", or a plug-in's name.

    Parameters
    ----------
    path
        Folder of the checkpoint; "demo" takes the small model that is shipped with the package.
    dictionaries
        Geneformer: folder of the gene dictionaries, where they are not beside the checkpoint.
    device
        Torch device; "auto" takes CUDA where there is one.

    Raises
    ------
    ModelError
        If the family is unknown or the checkpoint cannot be used.
    """
    import torch

    plugins = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if family not in plugins:
        raise ModelError(f"There is no model family {family!r}; installed are: {', '.join(sorted(plugins))}.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = plugins[family].load()(checkpoint_folder(family, path), dictionaries)
    return model.to(device).eval().requires_grad_(False)


def checkpoint_folder(family: str, path: str | Path) -> Path:
    """The folder given, or the shipped one for "demo"."""
    if str(path) == "demo":
        return Path(__file__).parent.parent / "data" / f"demo_{family}"
    return Path(path)
