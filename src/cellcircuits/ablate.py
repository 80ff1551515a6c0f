"""The equation: ablate one feature of one layer in one cell and measure every feature above.

1. Clean pass, once per cell: hidden state h of each source layer, sparse code of every measured layer.
2. Feature f is active at the positions S = {p : z_f(p) > 0}. The decoder is linear, so removing the feature from the
   residual stream is exactly h(p) <- h(p) - z_f(p) W_dec[f] for p in S; what the autoencoder does not explain stays.
3. Only the layers above run again, on a batch of copies of the same cell, each with another feature removed (no
   padding, nothing below the source is computed twice).
4. At each measured layer the positions in S are encoded, and
       delta_t = mean over p in S of z_t(p | ablated) - z_t(p | clean).
   A negative delta means that the source SUPPORTS the target.

Source: Kendiukhov 2026, arXiv 2603.01752 (there with a full pass of batch size 1 for every ablation).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cellcircuits.autoencoders import SparseAutoencoder, SparseCode
from cellcircuits.errors import ModelError
from cellcircuits.models.base import Model
from cellcircuits.positions import CleanStates, Positions
from cellcircuits.readouts import Layer, measure
from cellcircuits.settings import EVERYWHERE, FROZEN_READS_PER_COPY, TraceSettings
from cellcircuits.tokens import Tokens


@dataclass(frozen=True)
class CleanPass:
    """What one undisturbed pass of one cell leaves for all ablations in it."""

    states: CleanStates
    """The cell, and the output of the source layers; for a frozen context of all layers from the first source on."""
    codes: dict[int, SparseCode]
    """{layer: code of every position}."""


@dataclass(frozen=True)
class AblationEffects:
    """Effects of a batch of ablations in one cell on one target layer."""

    rows: np.ndarray
    """int64 (copy,): index into the (source, direction) pairs asked for."""
    layer: int
    """The target layer."""
    delta: np.ndarray
    """float64 (readout, copy, target): what is measured (see `readouts`)."""
    clean: np.ndarray
    """float64 (readout, copy, target): the same in the clean pass."""
    removed: np.ndarray
    """float64 (copy, position): activation that was removed."""
    changed: np.ndarray | None
    """float64 (copy, position): by which share of its norm the state of the highest target layer changed; None for the
    other layers, or if only the positions of the removal were looked at."""


class Tracer:
    """Ablates features of one model, cell by cell.

    Parameters
    ----------
    model, saes
        The model and {layer: autoencoder}.
    settings
        Of these `readouts`, `batch_size`, which changes speed and memory only, and `context`: a frozen context carries
        only the positions at which the source is active upward; all others keep their clean keys and values. It is
        exact for the layer above the source, and much cheaper; above that it leaves out what comes back from positions
        that the source does not touch.
    """

    def __init__(self, model: Model, saes: dict[int, SparseAutoencoder], settings: TraceSettings) -> None:
        self.model, self.saes, self.settings = model, saes, settings
        self.frozen = settings.context == "frozen"
        self.everywhere = any(name in EVERYWHERE for name in settings.readouts)

    @torch.no_grad()
    def clean_pass(self, cell: Tokens, source_layers: Sequence[int], target_layers: Sequence[int]) -> CleanPass:
        """Run one cell and keep what ablations need.

        Raises
        ------
        ModelError
            If a hidden state is NaN or infinite, naming cell and layer.
        """
        measured = set(source_layers) | set(target_layers)
        hidden, codes = {}, {}
        for layer, state in self.model.run_layers(self.model.embed(cell), cell, 0, max(measured) + 1):
            if layer in measured:
                _check_finite(state, cell, layer)
                if layer in self.saes:  # the last block may be looked at for its output alone
                    codes[layer] = self.saes[layer].encode(state[0])
            if layer >= min(measured):
                hidden[layer] = state
        return CleanPass(CleanStates(cell, hidden), codes)

    @torch.no_grad()
    def ablate(
        self,
        clean: CleanPass,
        source_layer: int,
        features: np.ndarray,
        target_layers: Sequence[int],
        directions: torch.Tensor | None = None,
    ) -> Iterator[AblationEffects]:
        """Ablate each of `features` that is active in the cell; every target layer must be above `source_layer`.

        Yields the effects of one batch on one target layer after the other, from the lowest to the highest.
        Features that are active nowhere in the cell are skipped. Those with similar numbers of active positions share
        a batch, since its tables are as wide as the largest. `directions` (source, direction, d_model) are removed one
        by one in place of the features' own.
        """
        sae = self.saes[source_layer]
        if directions is None:
            directions = sae.W_dec[torch.from_numpy(features)][:, None]
        n_directions = directions.shape[1]
        activations = clean.codes[source_layer].dense(sae.n_features)[:, torch.from_numpy(features)]
        activations *= torch.from_numpy(clean.states.cell.gene_mask[0]).to(activations.device)[:, None]
        counts = (activations > 0).sum(dim=0).cpu().numpy()
        order = np.argsort(counts, kind="stable")
        active = order[counts[order] > 0]
        pairs = (active[:, None] * n_directions + np.arange(n_directions)).ravel()
        for rows in self._batches(pairs, np.repeat(counts[active], n_directions), len(activations)):
            source, direction = (torch.from_numpy(part) for part in np.divmod(rows, n_directions))
            vectors = directions[source, direction].to(activations.dtype)
            yield from self._ablate_batch(clean, source_layer, target_layers, rows, activations[:, source].T, vectors)

    def _batches(self, rows: np.ndarray, counts: np.ndarray, n_positions: int) -> list[np.ndarray]:
        """Split the rows: so many copies of a cell at a time, or, frozen, so many changed positions."""
        if self.frozen:
            batch = np.cumsum(counts) // (self.settings.batch_size * FROZEN_READS_PER_COPY)
        else:
            batch = np.arange(len(rows)) // self.settings.copies_per_pass(n_positions)
        return np.split(rows, np.flatnonzero(np.diff(batch)) + 1) if len(rows) else []

    def _ablate_batch(
        self,
        clean: CleanPass,
        source_layer: int,
        target_layers: Sequence[int],
        rows: np.ndarray,
        activations: torch.Tensor,
        directions: torch.Tensor,
    ) -> Iterator[AblationEffects]:
        """`activations` (copy, position) times `directions` (copy, d_model) is what each copy loses."""
        copy, position = activations.nonzero(as_tuple=True)
        at = Positions(copy, position, n_copies=len(rows))
        entering = clean.states.hidden[source_layer][0, at.position]
        changed = entering - activations[at.copy, at.position, None] * directions[at.copy]
        removed = activations.double().cpu().numpy()
        for layer, states, passed in self._states_above(clean.states, changed, at, source_layer, max(target_layers)):
            if layer not in target_layers:
                continue
            _check_finite(states, clean.states.cell, layer)
            measured = self._layer(clean, layer, at, states, passed)
            delta, before = (part.cpu().double().numpy() for part in measure(measured, self.settings.readouts))
            moved = None
            if self.everywhere and layer == max(target_layers):
                was = clean.states.hidden[layer][0]
                moved = ((states - was).norm(dim=-1) / was.norm(dim=-1)).double().cpu().numpy()
            yield AblationEffects(rows, layer, delta, before, removed, moved)

    def _states_above(
        self, clean: CleanStates, changed: torch.Tensor, at: Positions, source_layer: int, last: int
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None]]:
        """(layer, states, states that the removed vector alone makes) of every layer above the source."""
        start, stop = source_layer + 1, last + 1
        states = self.model.replay(clean, changed, at, start, stop, frozen=self.frozen, everywhere=self.everywhere)
        if "computed" not in self.settings.readouts:
            yield from ((layer, state, None) for layer, state in states)
            return
        passed = self.model.pass_through(clean, changed, at, start, stop)
        for (layer, state), (_, alone) in zip(states, passed, strict=True):
            yield layer, state, alone

    def _layer(
        self, clean: CleanPass, layer: int, at: Positions, states: torch.Tensor, passed: torch.Tensor | None
    ) -> Layer:
        genes = torch.from_numpy(clean.states.cell.gene_mask[0]).to(states.device)
        hidden, sae, code = clean.states.hidden[layer][0], self.saes[layer], clean.codes[layer]
        if self.everywhere:
            return Layer(sae, hidden, code, genes, at, states[at.copy, at.position], passed, states)
        return Layer(sae, hidden, code, genes, at, states, passed)


def _check_finite(values: torch.Tensor, cell: Tokens, layer: int) -> None:
    if not torch.isfinite(values).all():
        raise ModelError(
            f"The output of layer {layer} is NaN or infinite for cell {cell.obs.index[0]}. "
            "Check the checkpoint, the values of this cell, and the precision."
        )
