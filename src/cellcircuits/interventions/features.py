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
    copy, position = torch.from_numpy(where).nonzero(as_tuple=True)
    device = changed.states.device
    at = Positions(copy.to(device), position.to(device), n_copies=len(where))
    genes = torch.from_numpy(clean.states.cell.gene_mask[0]).to(device)
    layer = Layer(
        saes[changed.layer],
        clean.states.hidden[changed.layer][0],
        clean.codes[changed.layer],
        genes,
        at,
        changed.states[at.copy, at.position],
    )
    delta, before = measure(layer, (readout,))
    return delta[0].double().cpu().numpy(), before[0].double().cpu().numpy()
