"""One autoencoder in training: a step on a batch of activations, and its state on disk.

TopK is trained here. After each step the gradient's part along a decoder row is removed and the row set to unit norm
(Bricken et al. 2023); features that stopped firing learn from what the others leave unexplained (AuxK of Gao et al.
2024).
The other architectures are trained by SAELens (`saelens_learners`).
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from cellcircuits import sparse_products
from cellcircuits.autoencoders import SparseAutoencoder, TopKSAE
from cellcircuits.errors import ModelError, SettingsError
from cellcircuits.settings import TrainSettings
from cellcircuits.top_k import top_k_indices


class Learner:
    """One autoencoder in training."""

    module: nn.Module
    optimiser: torch.optim.Adam
    silent_for: torch.Tensor
    """int64 (feature,): positions seen since the feature fired."""

    def __init__(
        self, module: nn.Module, n_features: int, settings: TrainSettings, device: torch.device, fused: bool = False
    ) -> None:
        self.module, self.settings, self.device = module.to(device), settings, device
        self.optimiser = torch.optim.Adam(module.parameters(), lr=settings.learning_rate, fused=fused)
        self.silent_for = torch.zeros(n_features, dtype=torch.long, device=device)

    @abstractmethod
    def begin(self, activations: torch.Tensor, directions: torch.Tensor) -> None:
        """Set the first weights from the first buffer (position, d_model) and random unit rows (feature, d_model)."""

    @abstractmethod
    def step(self, hidden: torch.Tensor, share: float) -> None:
        """One optimiser step on `hidden` (position, d_model), when this share of the work is done."""

    @abstractmethod
    def finished(self) -> SparseAutoencoder:
        """The autoencoder as it is used."""

    def set_learning_rate(self, rate: float) -> None:
        """Learning rate of the next step."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("pace", 1.0)

    def dead(self) -> torch.Tensor:
        """bool (feature,): features that have not fired for long."""
        return self.silent_for > self.settings.dead_after_positions

    def count_silence(self, fired: torch.Tensor, n_positions: int) -> None:
        """After a batch of `n_positions` in which the features `fired` (bool) were active."""
        self.silent_for += n_positions
        self.silent_for[fired] = 0

    def autocast(self) -> AbstractContextManager:
        """Mixed precision, where asked for."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.mixed_precision)

    def state(self) -> dict[str, Any]:
        """Everything that the next steps depend on."""
        return {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "silent_for": self.silent_for,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.silent_for = state["silent_for"].to(self.device)


def make_learner(d_model: int, settings: TrainSettings, device: torch.device) -> Learner:
    """An autoencoder of these settings, with weights of 0.

    Raises
    ------
    ModelError
        If more features are to be active than there are.
    SettingsError
        If SAELens is needed and not installed, or mixed precision is asked for without CUDA.
    """
    n_features = settings.expansion * d_model
    if settings.k > n_features:
        raise ModelError(
            f"An autoencoder needs 1 <= k <= features; found k = {settings.k}, features = {n_features} "
            "(train.k, train.expansion times the model's width)."
        )
    if settings.mixed_precision and device.type != "cuda":
        raise SettingsError(
            f"train.mixed_precision is for CUDA; the model is on the device {device.type!r}. Set it to false."
        )
    if settings.architecture == "topk":
        return TopKLearner(d_model, settings, device)
    from cellcircuits.saelens_learners import SAELensLearner

    return SAELensLearner(d_model, settings, device)


class TopKLearner(Learner):
    """A TopK autoencoder in training."""

    module: TopKSAE

    def __init__(self, d_model: int, settings: TrainSettings, device: torch.device) -> None:
        sae = TopKSAE(d_model, settings.expansion * d_model, settings.k)
        sae.b_in = sae.b_dec  # one parameter, as in SAELens: what is subtracted is what is added back
        self.gathers = sparse_products.pays(sae.n_features, sae.k, device)
        if self.gathers:
            # a feature's weights side by side, as their gradient is: nothing has to be turned over in a step
            sae.W_enc = nn.Parameter(sae.W_enc.detach().T.contiguous().T)
        # one pass over the weights in a step, which counts where products are few
        super().__init__(sae, sae.n_features, settings, device, fused=self.gathers)

    @torch.no_grad()
    def begin(self, activations: torch.Tensor, directions: torch.Tensor) -> None:
        """Decoder rows are the directions, the encoder is their transpose, biases are the mean."""
        self.module.W_dec.copy_(directions)
        self.module.W_enc.copy_(directions.T)
        self.module.b_dec.copy_(activations.mean(dim=0))

    def step(self, hidden: torch.Tensor, share: float) -> None:
        """Squared error relative to the variance, and the auxiliary loss of dead features."""
        sae = self.module
        with self.autocast():
            decoded, values, indices = _gathered(sae, hidden) if self.gathers else _dense(sae, hidden)
            error = hidden - (decoded + sae.b_dec)
            loss = error.square().sum(-1).mean() / _variance(hidden)
            dead = self.dead()
            if dead.any():
                loss = loss + self.settings.auxiliary_weight * _auxiliary_loss(sae, hidden, error.detach(), dead)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            gradient, rows = sae.W_dec.grad, sae.W_dec
            if gradient is not None:
                gradient -= (gradient * rows).sum(dim=1, keepdim=True) * rows
            self.optimiser.step()
            rows.div_(rows.norm(dim=1, keepdim=True))
            fired = torch.zeros_like(self.silent_for, dtype=torch.bool)
            fired[indices[values > 0]] = True
            self.count_silence(fired, len(hidden))

    def finished(self) -> SparseAutoencoder:
        """The module itself, with its weights in the order in which they are read from a file."""
        self.module.W_enc = nn.Parameter(self.module.W_enc.detach().contiguous())
        return self.module.eval().requires_grad_(False)


Products = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Reconstruction without its bias, and values and indices of the k largest pre-activations."""


def _dense(sae: TopKSAE, hidden: torch.Tensor) -> Products:
    pre = sae.pre_activations(hidden)
    indices = top_k_indices(pre, sae.k)
    values = pre.gather(-1, indices)
    code = torch.zeros_like(pre).scatter(-1, indices, values.relu())
    return code @ sae.W_dec, values, indices


def _gathered(sae: TopKSAE, hidden: torch.Tensor) -> Products:
    values, indices = sparse_products.encode(hidden, sae.W_enc, sae.b_enc, sae.b_in, sae.k)
    return sparse_products.decode(values.relu(), indices, sae.W_dec), values, indices


def _variance(values: torch.Tensor) -> torch.Tensor:
    return (values - values.mean(dim=0)).square().sum(-1).mean().clamp(min=1e-12)


def _auxiliary_loss(sae: TopKSAE, hidden: torch.Tensor, error: torch.Tensor, dead: torch.Tensor) -> torch.Tensor:
    """Share of the error's variance that the dead features, made to fire, leave unexplained."""
    pre = (hidden - sae.b_in) @ sae.W_enc[:, dead] + sae.b_enc[dead]
    values, indices = pre.topk(min(sae.d_model // 2, pre.shape[1]), dim=-1, sorted=False)
    # not cut at 0: a feature whose pre-activation is negative everywhere would get no gradient and stay dead
    code = torch.zeros_like(pre).scatter(-1, indices, values)
    return (error - code @ sae.W_dec[dead]).square().sum(-1).mean() / _variance(error)
