"""What an intervention does to the features of a layer: the readouts of the tracing engine, copy by copy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from cellcircuits.ablate import CleanPass
from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.interventions.engine import Changed
from cellcircuits.positions import Positions
from cellcircuits.readouts import Layer, measure


def feature_changes(
    clean: CleanPass,
    changed: Changed,
    where: np.ndarray,
    saes: Mapping[int, SparseAutoencoder],
    readout: str = "source",
) -> tuple[np.ndarray, np.ndarray]:
    """(change, clean value), float64 (copy, target), of the features of `changed.layer` at positions of each copy.

    Parameters
    ----------
    where
        bool (copy, position): positions that are looked at; every copy has at least one.
    readout
        "source" or "pre": see `readouts`.
    """
    delta, before = measure(layer_of(clean, changed, where, saes), (readout,))
    return delta[0].double().cpu().numpy(), before[0].double().cpu().numpy()


def layer_of(
    clean: CleanPass,
    changed: Changed,
    where: np.ndarray,
    saes: Mapping[int, SparseAutoencoder],
    copies: np.ndarray | None = None,
) -> Layer:
    """What `readouts.measure` looks at.

    Parameters
    ----------
    where
        bool (look, position): positions that each look is at; it has at least one.
    copies
        int64 (look,): the copy that each look is at, so that one may be looked at in several ways; None: its own.
    """
    look, position = torch.from_numpy(where).nonzero(as_tuple=True)
    copy = look if copies is None else torch.from_numpy(copies)[look]
    device = changed.states.device
    at = Positions(look.to(device), position.to(device), n_copies=len(where))
    genes = torch.from_numpy(clean.states.cell.gene_mask[0]).to(device)
    hidden, code = clean.states.hidden[changed.layer][0], clean.codes[changed.layer]
    return Layer(saes[changed.layer], hidden, code, genes, at, changed.states[copy.to(device), at.position])
