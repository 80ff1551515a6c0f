"""Adding the moments in a file to others, array by array, without reading them into memory first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from cellcircuits.errors import RunError
from cellcircuits.mapped import mapped_arrays, release
from cellcircuits.moments import Moments


def add_file(moments: Moments, path: Path) -> None:
    """Add the moments in `path` in place: the same numbers as `moments += load_moments(path)`.

    Raises
    ------
    RunError
        If the file is missing, damaged, or of other sources and targets.
    """
    try:
        added = mapped_arrays(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(
            f"{path} is not a file of moments, or is damaged ({error}). Delete it and trace again."
        ) from error
    totals = {"n_cells": moments.n_cells} | {f"sums/{layer:02d}": values for layer, values in moments.sums.items()}
    if moments.genes is not None:
        totals["genes"] = moments.genes
    features = added.pop("source_features", np.array([]))
    if not np.array_equal(features, moments.source_features) or _shapes(added) != _shapes(totals):
        raise RunError(f"{path} holds moments of other sources or targets than those before it. Trace again.")
    for name, values in totals.items():
        np.add(values, added[name], out=values)
        release(added[name])


def _shapes(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: values.shape for name, values in arrays.items()}
