"""A model whose features act together in known ways, opened for interventions without a run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

import cellcircuits as cc
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.models.toy import ToyModel
from cellcircuits.progress import Progress

AND, OR, SUM, AND_OF_THREE, OR_OF_THREE, THRESHOLD = range(6)
"""Features of layer 1: what they make of the features 0, 1 and 2 of layer 0, which are 0 or between 1 and 2."""


class GateModel(ToyModel):
    """Two layers. With `coin`, the gates have the sign + or - by whether the cell's first gene is odd."""

    def __init__(self, coin: bool = False, seed: int = 0) -> None:
        super().__init__(edges=(), n_layers=2, seed=seed)
        self.drive[:, 6:] = 0
        self.coin = coin

    def run_layers(self, hidden, tokens, start, stop):
        for layer in range(start, stop):
            if layer == 1:
                sign = 1.0
                if self.coin:
                    sign = torch.from_numpy(1.0 - 2.0 * (tokens.ids[:, 1:2] % 2)).to(hidden)[..., None]
                    hidden = hidden + torch.cat([torch.zeros(6), torch.full((6,), 5.0)])  # can fall and rise
                hidden = hidden + sign * torch.cat([torch.zeros_like(hidden[..., :6]), gates(hidden)], dim=-1)
            yield layer, hidden


def gates(hidden: torch.Tensor) -> torch.Tensor:
    """What layer 1 adds to its six features."""
    a, b, c = hidden[..., 0], hidden[..., 1], hidden[..., 2]
    return torch.stack(
        [
            (a + b - 2).relu(),
            torch.maximum(a, b),
            0.5 * a + 0.7 * b + 0.3 * c,
            (a + b + c - 4).relu(),
            torch.maximum(torch.maximum(a, b), c),
            0.5 * a + 0.5 * b - 0.6,
        ],
        dim=-1,
    )


def gate_inputs(model: ToyModel, n_cells: int = 20, **settings) -> Inputs:
    """The model with cells of 12 random genes each."""
    rng = np.random.default_rng([settings.get("seed", 0), 5])
    cells = cc.Tokens.from_ids([[2, *rng.choice(np.arange(4, 44), 12, replace=False)] for _ in range(n_cells)])
    return made_inputs(model, cells, InterventionSettings(**{"min_cells": 5, "features": ["0:0", "0:1"], **settings}))


def made_inputs(model: ToyModel, cells: cc.Tokens, settings: InterventionSettings, **tables) -> Inputs:
    """Inputs of a run that has but these tables; those that are not given are empty."""
    ends = ["source_layer", "source_feature", "target_layer", "target_feature"]
    empty = {
        "edges": pd.DataFrame(columns=ends, dtype=np.int64),
        "sources": pd.DataFrame(columns=["layer", "feature"], dtype=np.int64),
        "terms": pd.DataFrame(columns=["layer", "feature", "collection", "term"]),
    }
    inputs = Inputs(SimpleNamespace(cells=cells, **(empty | tables)), settings, Progress())
    inputs.model, inputs.saes = model, model.saes()
    return inputs
