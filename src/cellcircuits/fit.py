"""Train one autoencoder per layer and seed, all from one pass over the model.

1. Cells pass through the model in random order; the activations of every layer go into a buffer (held in memory).
2. When the buffer is full it is shuffled, and each autoencoder takes its optimiser steps on it (`learners`), as often
   as `train.repeats` says, each time in a new order.
3. After a buffer everything that the rest depends on is saved, so that training can be stopped at any time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pandas as pd
import torch

from cellcircuits.activations import stream_activations
from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.errors import RunError, SettingsError, listed
from cellcircuits.learners import Learner, make_learner
from cellcircuits.models.base import Model
from cellcircuits.settings import TrainSettings
from cellcircuits.tokens import Tokens

Report = Callable[[float], None]
"""Called with the share of the work done since the last call."""
Saes = dict[int, SparseAutoencoder]
"""{layer: autoencoder}."""
NOT_OF_THE_WEIGHTS = ("checkpoint_seconds", "quality_cells", "saes", "accept_input_mode", "random_weights", "layers")
"""Settings that a training in progress may go on without."""


def split_cells(n_cells: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the training and of the held-out cells, both sorted; at least one of each."""
    order = np.random.default_rng(seed).permutation(n_cells)
    n_held_out = min(max(round(n_cells * held_out), 1), n_cells - 1)
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


def split_groups(obs: pd.DataFrame, column: str, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same, where all cells of a group (a label of an obs column) are on one side.

    Groups are held out in random order while that brings their share of the cells closer to `held_out`; at least one.

    Raises
    ------
    SettingsError
        If there is no such column, or only one group.
    """
    if column not in obs:
        raise SettingsError(f"train.held_out_by = {column!r} is no column of obs; it has {listed(obs.columns, 12)}.")
    labels = obs[column].astype(str).to_numpy(dtype=object)
    names, sizes = np.unique(labels, return_counts=True)
    if len(names) < 2:
        raise SettingsError(f"train.held_out_by = {column!r} needs two groups; all cells are {names[0]!r}.")
    order = np.random.default_rng(seed).permutation(len(names))
    chosen, held, wanted = [order[0]], int(sizes[order[0]]), held_out * len(labels)
    for group in order[1:]:
        if len(chosen) < len(names) - 1 and abs(held + sizes[group] - wanted) < abs(held - wanted):
            chosen.append(group)
            held += int(sizes[group])
    kept_out = np.isin(labels, names[chosen])
    return np.flatnonzero(~kept_out), np.flatnonzero(kept_out)


def fit_saes(
    model: Model, tokens: Tokens, layers: list[int], settings: TrainSettings, report: Report = lambda share: None
) -> Saes:
    """Train the autoencoders of `layers` on the gene positions of `tokens`, of the first seed only.

    Decoder rows have unit norm. The same seed gives the same weights on one machine.
    """
    return fit_seeds(model, tokens, layers, replace(settings, n_seeds=1), report)[0]


def fit_seeds(
    model: Model,
    tokens: Tokens,
    layers: list[int],
    settings: TrainSettings,
    report: Report = lambda share: None,
    checkpoint: Path | None = None,
) -> list[Saes]:
    """Train the autoencoders of `layers` for each of `n_seeds` seeds, from one pass over the model.

    Seeds differ in first weights and in the order inside of a buffer. The first is the one that a single seed gives.
    With a file `checkpoint`, training is saved into it now and then, and goes on from it if it is there and was made by
    the same settings, model and cells; the result has the bits of a training that was never stopped.

    Raises
    ------
    RunError
        If the checkpoint is damaged or cannot be written.
    """
    training = _Training(model, tokens, layers, settings)
    if checkpoint is not None and training.resume(checkpoint):
        report(training.seen / training.total)
    saved = monotonic()
    for n_batches, buffer in _buffers(model, tokens, layers, settings, training.n_batches):
        training.learn(buffer, report)
        training.n_batches = n_batches
        if checkpoint is not None and monotonic() - saved >= settings.checkpoint_seconds:
            training.save(checkpoint)
            saved = monotonic()
    if checkpoint is not None:
        training.save(checkpoint)
    return [{layer: learner.finished() for layer, learner in seed.items()} for seed in training.learners]


class _Training:
    """All autoencoders in training, and where in the stream they are."""

    def __init__(self, model: Model, tokens: Tokens, layers: list[int], settings: TrainSettings) -> None:
        self.model, self.tokens, self.layers, self.settings = model, tokens, layers, settings
        self.total = settings.epochs * settings.repeats * tokens.n_positions
        self.seen, self.n_batches = 0, 0
        self.learners: list[dict[int, Learner]] = []
        self.generators = [torch.Generator().manual_seed(settings.seed + i) for i in range(settings.n_seeds)]

    def learn(self, buffer: dict[int, torch.Tensor], report: Report) -> None:
        """Take the steps of one buffer {layer: (position, d_model)}."""
        if not self.learners:
            self.learners = [self._begin(buffer, generator) for generator in self.generators]
        for _ in range(self.settings.repeats):
            self._learn_once(buffer, report)

    def _learn_once(self, buffer: dict[int, torch.Tensor], report: Report) -> None:
        n_positions = len(next(iter(buffer.values())))
        orders = [torch.randperm(n_positions, generator=g).to(self.model.device) for g in self.generators]
        # batches of about equal size: a last one of a few positions has a variance near 0, and its loss explodes
        n_steps = -(-n_positions // self.settings.batch_positions)
        for step in zip(*(order.tensor_split(n_steps) for order in orders), strict=True):
            share = min(self.seen / self.total, 1)
            rate = self.settings.learning_rate * (0.55 + 0.45 * math.cos(math.pi * share))
            for rows, learners in zip(step, self.learners, strict=True):
                for layer, learner in learners.items():
                    learner.set_learning_rate(rate)
                    learner.step(buffer[layer][rows], share)
            self.seen += len(step[0])
            report(len(step[0]) / self.total)

    def _begin(self, buffer: dict[int, torch.Tensor], generator: torch.Generator) -> dict[int, Learner]:
        learners = {}
        for layer in self.layers:
            learner = learners[layer] = self._learner()
            directions = torch.randn(len(learner.silent_for), self.model.d_model, generator=generator)
            directions = directions.to(self.model.device)
            learner.begin(buffer[layer], directions / directions.norm(dim=1, keepdim=True))
        return learners

    def _learner(self) -> Learner:
        return make_learner(self.model.d_model, self.settings, self.model.device)

    @cached_property
    def key(self) -> str:
        """Hash of everything that decides the weights."""
        settings = {k: v for k, v in asdict(self.settings).items() if k not in NOT_OF_THE_WEIGHTS}
        content = [settings, self.layers, self.model.fingerprint(), self.tokens.fingerprint(), torch.__version__]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the state to `path`, complete or not at all."""
        content = {
            "key": self.key,
            "seen": self.seen,
            "n_batches": self.n_batches,
            "generators": [generator.get_state() for generator in self.generators],
            "learners": [{layer: learner.state() for layer, learner in seed.items()} for seed in self.learners],
        }
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            raise RunError(f"Cannot save the training in {path}: {error.strerror or error}.") from error
        finally:
            partial.unlink(missing_ok=True)

    def resume(self, path: Path) -> bool:
        """Go on from the state in `path`; False if there is none, or it belongs to another training."""
        content = _read_checkpoint(path) if path.exists() else {}
        if content.get("key") != self.key:
            return False
        self.seen, self.n_batches = content["seen"], content["n_batches"]
        for generator, state in zip(self.generators, content["generators"], strict=True):
            generator.set_state(state)
        for states in content["learners"]:
            learners = {layer: self._learner() for layer in self.layers}
            for layer, learner in learners.items():
                learner.restore(states[layer])
            self.learners.append(learners)
        return True


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"{path} is damaged ({reason}). Delete it; the training then begins anew.") from error


def _buffers(
    model: Model, tokens: Tokens, layers: list[int], settings: TrainSettings, done: int
) -> Iterator[tuple[int, dict[int, torch.Tensor]]]:
    """(batches of cells taken, buffer of their activations {layer: (position, d_model)}), over all epochs.

    The last buffer may be smaller. `done` batches are passed over without a pass through the model.
    """
    parts: list[dict[int, torch.Tensor]] = []
    order = np.random.default_rng(settings.seed)
    held, taken = 0, 0
    for _ in range(settings.epochs):
        cells = order.permutation(len(tokens))
        passed_over = min(max(done - taken, 0), -(-len(cells) // settings.model_batch))
        taken += passed_over
        for batch in stream_activations(
            model, tokens, layers, settings.model_batch, cells[passed_over * settings.model_batch :]
        ):
            parts.append(batch.layers)
            held, taken = held + len(batch.token_ids), taken + 1
            if held >= settings.buffer_positions:
                yield taken, {layer: torch.cat([part[layer] for part in parts]) for layer in layers}
                parts, held = [], 0
    if parts:
        yield taken, {layer: torch.cat([part[layer] for part in parts]) for layer in layers}
