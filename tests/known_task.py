"""A small model whose task needs known features, and its inputs as experiments of interventions see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

import cellcircuits as cc
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.models.base import Model
from cellcircuits.progress import Progress

N_SPECIAL, N_GENES, MASK = 4, 60, 1


class AveragingModel(Model):
    """Every gene switches layer-0 features on; block 1 writes the mean of each over the cell's genes at every gene.

    The head reads w_f x (layer-1 feature f), and is to predict what that is in the undisturbed masked cell:
    loss = sum_f (w_f x error of f)^2. So feature f of either layer matters by w_f, the loss of the undisturbed model
    is 0, and keeping a feature of one layer saves nothing without its counterpart in the other.
    """

    name = "averaging"
    output_name = "prediction"
    n_layers = 2

    def __init__(self, weights: np.ndarray, seed: int = 0) -> None:
        super().__init__()
        self.n_features = len(weights)
        self.d_model = 2 * self.n_features
        drive = np.random.default_rng(seed).exponential(size=(N_SPECIAL + N_GENES, self.n_features)) + 0.01
        drive[:N_SPECIAL] = 0
        self.drive = torch.nn.Parameter(torch.from_numpy(drive), requires_grad=False)
        self.weights = torch.nn.Parameter(torch.from_numpy(np.asarray(weights, float)), requires_grad=False)

    def embed(self, tokens: cc.Tokens) -> torch.Tensor:
        driven = self.drive[torch.from_numpy(tokens.ids).long()]
        return torch.cat([driven, torch.zeros_like(driven)], dim=-1)

    def run_layers(self, hidden, tokens, start, stop):
        genes = torch.from_numpy(tokens.gene_mask).double()[..., None]
        for layer in range(start, stop):
            if layer == 1:
                mean = (hidden[..., : self.n_features] * genes).sum(1, keepdim=True) / genes.sum(1, keepdim=True)
                hidden = torch.cat([hidden[..., : self.n_features], mean * genes], dim=-1)
            yield layer, hidden

    def tokenize(self, adata, settings=None, **changes):
        raise NotImplementedError

    def mask(self, tokens: cc.Tokens, at: np.ndarray) -> cc.Tokens:
        return replace(tokens, ids=np.where(at, np.int32(MASK), tokens.ids))

    def masked_loss(self, hidden: torch.Tensor, tokens: cc.Tokens, at: np.ndarray) -> torch.Tensor:
        masked = self.mask(tokens, at)
        ((_, _), (_, intended)) = self.run_layers(self.embed(masked), masked, 0, 2)
        error = (((hidden - intended)[..., self.n_features :] * self.weights) ** 2).sum(-1)
        where = torch.from_numpy(at)
        return (error * where).sum(-1) / where.sum(-1)

    def saes(self) -> dict[int, cc.TopKSAE]:
        made = {}
        for layer in range(2):
            sae = cc.TopKSAE(self.d_model, self.n_features, k=self.n_features).double()
            own = torch.eye(self.d_model, dtype=torch.float64)[layer * self.n_features :][: self.n_features]
            sae.W_enc.data, sae.W_dec.data = own.T.clone(), own.clone()
            made[layer] = sae.requires_grad_(False)
        return made


def known_inputs(
    weights: np.ndarray, edges: Sequence[tuple[int, int, int, int, float]], seed: int = 0, **changes
) -> Inputs:
    """Inputs of 30 cells of an `AveragingModel`; edges are (source layer, source, target layer, target, snr)."""
    rng = np.random.default_rng([seed, 1])
    genes = np.arange(N_SPECIAL, N_SPECIAL + N_GENES)
    cells = cc.Tokens.from_ids([[2, *rng.choice(genes, rng.integers(12, 20), replace=False)] for _ in range(30)])
    model = AveragingModel(weights, seed)
    n = model.n_features
    features = pd.DataFrame({"layer": np.repeat([0, 1], n), "feature": np.tile(np.arange(n), 2)})
    features = features.assign(firing_rate=1.0 - 0.001 * features["feature"], n_firings=100)
    names = ["source_layer", "source_feature", "target_layer", "target_feature", "snr"]
    called = pd.DataFrame(edges, columns=names).astype({name: np.int64 for name in names[:4]})
    sources = features[features["layer"] == 0]
    run = SimpleNamespace(cells=cells, edges=called, features=features, sources=sources, saes=model.saes())
    inputs = Inputs(run, InterventionSettings(**{"batch_size": 64, **changes}), Progress())  # type: ignore[arg-type]
    inputs.__dict__["model"] = model
    return inputs
