"""Train one TopK autoencoder per layer, all from one pass over the model.

1. Cells pass through the model in random order; the activations of every layer go into a buffer (held in memory).
2. When the buffer is full it is shuffled, and each layer's autoencoder takes its optimiser steps on it.
3. After each step the gradient's part along a decoder row is removed and the row set to unit norm (Bricken et al.
   2023); features that stopped firing learn from what the others leave unexplained (Gao et al. 2024, AuxK).
4. Quality is measured on held-out cells: variance explained, active features per position, dead share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from cellcircuits.activations import stream_activations
from cellcircuits.models.base import Model
from cellcircuits.sae import TopKSAE
from cellcircuits.settings import TrainSettings
from cellcircuits.tokens import Tokens

Report = Callable[[float], None]
"""Called with the share of the work done since the last call."""


@dataclass
class _Layer:
    """One autoencoder in training."""

    sae: TopKSAE
    optimiser: torch.optim.Adam
    silent_for: torch.Tensor
    """int64 (feature,): positions seen since the feature fired."""


def split_cells(n_cells: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the training and of the held-out cells, both sorted; at least one of each."""
    order = np.random.default_rng(seed).permutation(n_cells)
    n_held_out = min(max(round(n_cells * held_out), 1), n_cells - 1)
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


def fit_saes(
    model: Model, tokens: Tokens, layers: list[int], settings: TrainSettings, report: Report = lambda share: None
) -> dict[int, TopKSAE]:
    """Train the autoencoders of `layers` on the gene positions of `tokens`.

    Decoder rows have unit norm. The same seed gives the same weights on one machine.
    """
    generator = torch.Generator(device="cpu").manual_seed(settings.seed)
    order = np.random.default_rng(settings.seed)
    total = settings.epochs * tokens.n_positions
    training: dict[int, _Layer] = {}
    seen = 0
    for buffer in _buffers(model, tokens, layers, settings, order):
        n_positions = len(next(iter(buffer.values())))
        if not training:
            training = {layer: _new_layer(buffer[layer], settings, generator) for layer in layers}
        shuffled = torch.randperm(n_positions, generator=generator).to(model.device)
        # batches of about equal size: a last one of a few positions has a variance near 0, and its loss explodes
        for rows in shuffled.tensor_split(-(-n_positions // settings.batch_positions)):
            for layer in layers:
                state = training[layer]
                for group in state.optimiser.param_groups:
                    group["lr"] = settings.learning_rate * (0.55 + 0.45 * math.cos(math.pi * min(seen / total, 1)))
                _step(state, buffer[layer][rows], settings)
            seen += len(rows)
            report(len(rows) / total)
    return {layer: state.sae.eval().requires_grad_(False) for layer, state in training.items()}


def _buffers(
    model: Model, tokens: Tokens, layers: list[int], settings: TrainSettings, order: np.random.Generator
) -> Iterator[dict[int, torch.Tensor]]:
    """Full buffers of activations {layer: (position, d_model)}, over all epochs; the last one may be smaller."""
    parts: list[dict[int, torch.Tensor]] = []
    held = 0
    for _ in range(settings.epochs):
        for batch in stream_activations(model, tokens, layers, settings.model_batch, order.permutation(len(tokens))):
            parts.append(batch.layers)
            held += len(batch.token_ids)
            if held >= settings.buffer_positions:
                yield {layer: torch.cat([part[layer] for part in parts]) for layer in layers}
                parts, held = [], 0
    if parts:
        yield {layer: torch.cat([part[layer] for part in parts]) for layer in layers}


def _new_layer(activations: torch.Tensor, settings: TrainSettings, generator: torch.Generator) -> _Layer:
    """Random unit decoder rows, the encoder as their transpose, biases at the mean of the first buffer."""
    d_model = activations.shape[1]
    sae = TopKSAE(d_model, settings.expansion * d_model, settings.k).to(activations.device)
    directions = torch.randn(sae.n_features, d_model, generator=generator).to(activations.device)
    directions /= directions.norm(dim=1, keepdim=True)
    with torch.no_grad():
        sae.W_dec.copy_(directions)
        sae.W_enc.copy_(directions.T)
        sae.b_dec.copy_(activations.mean(dim=0))
        sae.b_in.copy_(sae.b_dec)
    sae.b_in = sae.b_dec  # one parameter, as in SAELens: what is subtracted is what is added back
    optimiser = torch.optim.Adam(sae.parameters(), lr=settings.learning_rate)
    return _Layer(sae, optimiser, torch.zeros(sae.n_features, dtype=torch.long, device=activations.device))


def _step(state: _Layer, hidden: torch.Tensor, settings: TrainSettings) -> None:
    """One optimiser step on `hidden` (position, d_model)."""
    sae = state.sae
    pre = sae.pre_activations(hidden)
    values, indices = pre.topk(sae.k, dim=-1, sorted=False)
    code = torch.zeros_like(pre).scatter(-1, indices, values.relu())
    error = hidden - (code @ sae.W_dec + sae.b_dec)
    variance = (hidden - hidden.mean(dim=0)).square().sum(-1).mean()
    loss = error.square().sum(-1).mean() / variance.clamp(min=1e-12)
    dead = state.silent_for > settings.dead_after_positions
    if dead.any():
        loss = loss + settings.auxiliary_weight * _auxiliary_loss(sae, pre, error.detach(), dead)
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    with torch.no_grad():
        gradient, rows = sae.W_dec.grad, sae.W_dec
        if gradient is not None:
            gradient -= (gradient * rows).sum(dim=1, keepdim=True) * rows
        state.optimiser.step()
        rows.div_(rows.norm(dim=1, keepdim=True))
        fired = (code > 0).any(dim=0)
        state.silent_for += len(hidden)
        state.silent_for[fired] = 0


def _auxiliary_loss(sae: TopKSAE, pre: torch.Tensor, error: torch.Tensor, dead: torch.Tensor) -> torch.Tensor:
    """Share of the error's variance that the dead features, made to fire, leave unexplained."""
    k = min(sae.d_model // 2, int(dead.sum()))
    values, indices = pre.masked_fill(~dead, -torch.inf).topk(k, dim=-1, sorted=False)
    # not cut at 0: a feature whose pre-activation is negative everywhere would get no gradient and stay dead
    code = torch.zeros_like(pre).scatter(-1, indices, values)
    variance = (error - error.mean(dim=0)).square().sum(-1).mean()
    return (error - code @ sae.W_dec).square().sum(-1).mean() / variance.clamp(min=1e-12)


@dataclass(frozen=True)
class Quality:
    """How well an autoencoder describes activations it was not trained on."""

    variance_explained: float
    """1 - sum |h - h'|^2 / sum |h - mean(h)|^2 over held-out gene positions."""
    l0: float
    """Mean number of active features per position."""
    dead_share: float
    """Share of features that fire at no held-out position."""
    n_positions: int


@torch.no_grad()
def measure_quality(model: Model, tokens: Tokens, saes: dict[int, TopKSAE], batch_cells: int) -> dict[int, Quality]:
    """Quality of each layer's autoencoder on the gene positions of `tokens`, from one pass over the model."""
    sums = {layer: _QualitySums(sae) for layer, sae in saes.items()}
    for batch in stream_activations(model, tokens, list(saes), batch_cells):
        for layer, hidden in batch.layers.items():
            sums[layer].add(hidden)
    return {layer: total.quality() for layer, total in sums.items()}


class _QualitySums:
    """Sums over positions, in float64."""

    def __init__(self, sae: TopKSAE) -> None:
        self.sae = sae
        self.n, self.active, self.error, self.squares = 0, 0, 0.0, 0.0
        self.total = torch.zeros(sae.d_model, dtype=torch.float64, device=sae.W_dec.device)
        self.fired = torch.zeros(sae.n_features, dtype=torch.bool, device=sae.W_dec.device)

    def add(self, hidden: torch.Tensor) -> None:
        code = self.sae.encode(hidden)
        self.n += len(hidden)
        self.active += int((code.values > 0).sum())
        self.error += float((hidden - self.sae.decode(code)).double().square().sum())
        self.squares += float(hidden.double().square().sum())
        self.total += hidden.double().sum(dim=0)
        self.fired[code.indices[code.values > 0]] = True

    def quality(self) -> Quality:
        spread = self.squares - float(self.total.square().sum()) / self.n
        return Quality(
            variance_explained=1 - self.error / spread,
            l0=self.active / self.n,
            dead_share=1 - float(self.fired.double().mean()),
            n_positions=self.n,
        )
