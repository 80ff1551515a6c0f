"""BatchTopK, Matryoshka and JumpReLU autoencoders in training: SAELens' classes and losses, in the loop of `fit`.

Activations are scaled to a mean variance of 1 per dimension, as SAELens' defaults expect, and the scale is folded into
the weights at the end, as are decoder norms, so that decoder rows have unit norm.

Features that stopped firing are revived by SAELens' auxiliary losses: AuxK (Gao et al. 2024) for BatchTopK and
Matryoshka, the pre-activation loss for JumpReLU.
"""

from __future__ import annotations

import copy
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import nn

from cellcircuits.autoencoders import JumpReLUSAE, SparseAutoencoder
from cellcircuits.errors import SettingsError
from cellcircuits.learners import Learner
from cellcircuits.settings import TrainSettings

PENALTY_WARM_UP = 0.1
"""JumpReLU: share of the training in which the penalty on active features rises to its weight."""
REVIVAL_WEIGHT = 3e-6
"""JumpReLU: weight of the pre-activation loss of dead features. Nothing else moves them, so its size matters little."""
THRESHOLD_PACE = 10.0
"""JumpReLU: learning rate of thresholds, relative to that of the rest. Adam moves a number by about the learning rate a
step, and thresholds have farther to go."""
GRADIENT_NORM = 1.0
"""Gradients are cut to this norm, as SAELens' trainer does."""
THRESHOLD_SHARE = 0.05
"""BatchTopK: the threshold is a running mean over about this share of the steps, so that it is a recent one."""
SLOWEST_THRESHOLD = 0.01
"""BatchTopK: weight of one step in that mean, at least; SAELens' own."""
THRESHOLD_POSITIONS = 4096
"""JumpReLU: positions of the first buffer from which the first thresholds are taken."""


def saelens() -> ModuleType:
    """SAELens, imported.

    Raises
    ------
    SettingsError
        If it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies, which a user can do nothing about
            import sae_lens
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"This architecture is trained by SAELens, which is not installed ({error}). Install it with: "
            'pip install "cellcircuits[train]", or set train.architecture = "topk".'
        ) from error
    return sae_lens


def matryoshka_widths(n_features: int, levels: int) -> list[int]:
    """Widths of nested dictionaries, each half as wide as the next; the last is the whole."""
    return sorted({max(n_features >> level, 1) for level in range(levels)})


def _module(d_model: int, settings: TrainSettings) -> nn.Module:
    lens, n_features = saelens(), settings.expansion * d_model
    sizes: dict[str, Any] = {"d_in": d_model, "d_sae": n_features, "decoder_init_norm": 1.0}
    if settings.architecture == "jumprelu":
        config = lens.JumpReLUTrainingSAEConfig(
            **sizes,
            jumprelu_sparsity_loss_mode="quadratic",
            target_l0=float(settings.k),
            pre_act_loss_coefficient=REVIVAL_WEIGHT,
        )
        return lens.JumpReLUTrainingSAE(config)
    sizes |= {"k": float(settings.k), "aux_loss_coefficient": settings.auxiliary_weight}
    if settings.architecture == "batchtopk":
        return lens.BatchTopKTrainingSAE(lens.BatchTopKTrainingSAEConfig(**sizes))
    widths = matryoshka_widths(n_features, settings.matryoshka_levels)
    config = lens.MatryoshkaBatchTopKTrainingSAEConfig(**sizes, matryoshka_widths=widths)
    return lens.MatryoshkaBatchTopKTrainingSAE(config)


class SAELensLearner(Learner):
    """An autoencoder that SAELens trains."""

    module: Any

    def __init__(self, d_model: int, settings: TrainSettings, device: torch.device) -> None:
        n_features = settings.expansion * d_model
        with torch.random.fork_rng(devices=[]):  # its first weights, which are replaced, are random
            module = _module(d_model, settings)
        super().__init__(module, n_features, settings, device)
        self.scale, self.n_steps = 1.0, 0
        if settings.architecture == "jumprelu":
            others = [value for name, value in module.named_parameters() if name != "threshold"]
            groups: list[dict[str, Any]] = [{"params": others}, {"params": [module.threshold], "pace": THRESHOLD_PACE}]
            self.optimiser = torch.optim.Adam(groups, lr=settings.learning_rate)

    @torch.no_grad()
    def begin(self, activations: torch.Tensor, directions: torch.Tensor) -> None:
        """Decoder rows are the directions, the encoder is their transpose, b_dec is the mean.

        First thresholds of JumpReLU leave k features active on average.
        """
        self.scale = float(activations.double().var(dim=0, correction=0).mean().clamp(min=1e-24).rsqrt())
        self.module.W_dec.copy_(directions)
        self.module.W_enc.copy_(directions.T)
        self.module.b_dec.copy_(activations.mean(dim=0) * self.scale)
        if self.settings.architecture == "jumprelu":
            some = activations[:THRESHOLD_POSITIONS] * self.scale
            pre = ((some - self.module.b_dec) @ self.module.W_enc).flatten()
            self.module.threshold.fill_(float(pre.topk(self.settings.k * len(some)).values[-1].clamp(min=0)))

    def step(self, hidden: torch.Tensor, share: float) -> None:
        """Squared error, and what SAELens adds to it."""
        from sae_lens.saes.sae import TrainStepInput

        weight = self.settings.sparsity_weight * min(1.0, share / PENALTY_WARM_UP)
        if self.settings.architecture != "jumprelu":
            # a running mean over the last steps, the first of which is exact
            last = 1.0 if self.n_steps == 0 else min(1.0, share / (self.n_steps * THRESHOLD_SHARE))
            self.module.cfg.topk_threshold_lr = max(last, SLOWEST_THRESHOLD)
        with self.autocast():
            output = self.module.training_forward_pass(
                TrainStepInput(
                    sae_in=hidden * self.scale,
                    coefficients={"l0": weight},
                    dead_neuron_mask=self.dead(),
                    n_training_steps=self.n_steps,
                    is_logging_step=False,
                )
            )
        self.optimiser.zero_grad(set_to_none=True)
        output.loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), GRADIENT_NORM)
        self.optimiser.step()
        self.n_steps += 1
        with torch.no_grad():
            self.count_silence((output.feature_acts > 0).any(dim=0), len(hidden))

    @torch.no_grad()
    def finished(self) -> SparseAutoencoder:
        """A JumpReLU autoencoder with unit decoder rows that reads activations as they are."""
        module = copy.deepcopy(self.module)
        module.fold_activation_norm_scaling_factor(self.scale)
        if self.settings.architecture == "jumprelu":
            module.threshold.clamp_(min=0.0)
            module.fold_W_dec_norm()
        weights = module.state_dict()
        module.process_state_dict_for_saving_inference(weights)
        sae = JumpReLUSAE(*weights["W_enc"].shape).to(self.device)
        # what is added back is what was subtracted
        names = {name: "b_dec" if name == "b_in" else name for name in sae.state_dict()}
        sae.load_state_dict({name: weights[theirs] for name, theirs in names.items()})
        return sae.eval().requires_grad_(False)

    def state(self) -> dict[str, Any]:
        """Everything that the next steps depend on."""
        return super().state() | {"scale": self.scale, "n_steps": self.n_steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        super().restore(state)
        self.scale, self.n_steps = state["scale"], state["n_steps"]
