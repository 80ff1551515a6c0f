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
from typing import Literal

import numpy as np
import torch

from cellcircuits.errors import ModelError, SettingsError
from cellcircuits.models.base import Model
from cellcircuits.moments import Moments
from cellcircuits.positions import CleanStates, Positions
from cellcircuits.sae import SparseCode, TopKSAE, check_saes
from cellcircuits.settings import TraceSettings
from cellcircuits.tokens import Tokens

ROUNDING = 2 * torch.finfo(torch.float32).eps
"""A mean change of an activation is 0 unless it is above this share of (norm of the state) x (norm of the encoder row):
float32 arithmetic in another order changes as much, in a direction of its own that may be the same in every cell."""
FROZEN_READS_PER_COPY = 32
"""A frozen batch holds only changed positions: at most batch_size times this many."""


@dataclass(frozen=True)
class CleanPass:
    """What one undisturbed pass of one cell leaves for all ablations in it."""

    states: CleanStates
    """The cell, and the output of the source layers; for a frozen context of all layers from the first source on."""
    codes: dict[int, SparseCode]
    """{layer: code of every position}."""


@dataclass(frozen=True)
class AblationEffects:
    """Effects of a batch of ablations in one cell."""

    rows: np.ndarray
    """int64 (copy,): index into the list of features asked for."""
    delta: dict[int, np.ndarray]
    """{target layer: float64 (copy, target)}: mean change of activation where the source is active."""
    clean: dict[int, np.ndarray]
    """{target layer: float64 (copy, target)}: mean clean activation at the same positions."""


class Tracer:
    """Ablates features of one model, cell by cell.

    Parameters
    ----------
    model, saes
        The model and {layer: autoencoder}.
    settings
        Of these `batch_size`, which changes speed and memory only, and `context`: a frozen context carries only the
        positions at which the source is active upward; all others keep their clean keys and values. It is exact for the
        layer above the source, and much cheaper; above that it leaves out what comes back from positions that the
        source does not touch.
    """

    def __init__(self, model: Model, saes: dict[int, TopKSAE], settings: TraceSettings) -> None:
        self.model, self.saes, self.settings = model, saes, settings
        self.frozen = settings.context == "frozen"

    @torch.no_grad()
    def clean_pass(self, cell: Tokens, source_layers: Sequence[int], target_layers: Sequence[int]) -> CleanPass:
        """Run one cell and keep what ablations need.

        Raises
        ------
        ModelError
            If a hidden state is NaN or infinite, naming cell and layer.
        """
        measured = set(source_layers) | set(target_layers)
        first, last = min(measured), max(measured)
        hidden, codes = {}, {}
        for layer, state in self.model.run_layers(self.model.embed(cell), cell, 0, last + 1):
            if layer in measured:
                _check_finite(state, cell, layer)
                codes[layer] = self.saes[layer].encode(state[0])
            if layer in source_layers or (self.frozen and first <= layer < last):
                hidden[layer] = state
        return CleanPass(CleanStates(cell, hidden), codes)

    @torch.no_grad()
    def ablate(
        self, clean: CleanPass, source_layer: int, features: np.ndarray, target_layers: Sequence[int]
    ) -> Iterator[AblationEffects]:
        """Ablate each of `features` that is active in the cell; every target layer must be above `source_layer`.

        Features that are active nowhere in the cell are skipped. Those with similar numbers of active positions share
        a batch, since its tables are as wide as the largest.
        """
        sae = self.saes[source_layer]
        code = clean.codes[source_layer].dense(sae.n_features)[:, torch.from_numpy(features)]
        activations = code * torch.from_numpy(clean.states.cell.gene_mask[0]).to(code.device)[:, None]
        counts = (activations > 0).sum(dim=0).cpu().numpy()
        order = np.argsort(counts, kind="stable")
        active = order[counts[order] > 0]
        for rows in self._batches(active, counts[active], len(activations)):
            chosen = activations[:, torch.from_numpy(rows)].T
            directions = sae.W_dec[torch.from_numpy(features[rows])].to(chosen.dtype)
            yield self._ablate_batch(clean, source_layer, target_layers, rows, chosen, directions)

    def _batches(self, active: np.ndarray, counts: np.ndarray, n_positions: int) -> list[np.ndarray]:
        """Split the features: so many copies of a cell at a time, or, frozen, so many changed positions."""
        if self.frozen:
            batch = np.cumsum(counts) // (self.settings.batch_size * FROZEN_READS_PER_COPY)
        else:
            batch = np.arange(len(active)) // self.settings.copies_per_pass(n_positions)
        return np.split(active, np.flatnonzero(np.diff(batch)) + 1) if len(active) else []

    def _ablate_batch(
        self,
        clean: CleanPass,
        source_layer: int,
        target_layers: Sequence[int],
        rows: np.ndarray,
        activations: torch.Tensor,
        directions: torch.Tensor,
    ) -> AblationEffects:
        """`activations` (copy, position) times `directions` (copy, d_model) is what each copy loses."""
        copy, position = activations.nonzero(as_tuple=True)
        at = Positions(copy, position, n_copies=len(rows))
        entering = clean.states.hidden[source_layer][0, at.position]
        changed = entering - activations[at.copy, at.position, None] * directions[at.copy]
        averaging = at.averaging(changed.dtype)
        delta, before = {}, {}
        start, stop = source_layer + 1, max(target_layers) + 1
        for layer, read in self.model.replay(clean.states, changed, at, start, stop, self.frozen):
            if layer not in target_layers:
                continue
            _check_finite(read, clean.states.cell, layer)
            n_targets = self.saes[layer].n_features
            was = clean.codes[layer].at(at.position).dense(n_targets)
            change = averaging @ (self.saes[layer].encode(read).dense(n_targets) - was)
            rounding = ROUNDING * torch.outer(averaging @ read.norm(dim=1), self.saes[layer].encoder_norms)
            delta[layer] = change.masked_fill_(change.abs() <= rounding, 0.0).double().cpu().numpy()
            before[layer] = (averaging @ was).double().cpu().numpy()
        return AblationEffects(rows, delta, before)


def _check_finite(values: torch.Tensor, cell: Tokens, layer: int) -> None:
    if not torch.isfinite(values).all():
        raise ModelError(
            f"The output of layer {layer} is NaN or infinite for cell {cell.obs.index[0]}. "
            "Check the checkpoint, the values of this cell, and the precision."
        )


def trace_cells(
    model: Model,
    cells: Tokens,
    saes: dict[int, TopKSAE],
    sources: dict[int, np.ndarray],
    targets: dict[int, list[int]],
    settings: TraceSettings,
) -> dict[int, Moments]:
    """Trace the `sources` {layer: features} of several layers in all `cells`; one clean pass per cell serves all.

    Returns {source layer: Moments}. `targets` is {source layer: target layers}. Of the settings only `batch_size` and
    `context` matter here.
    """
    tracer = Tracer(model, saes, settings)
    moments = {
        layer: Moments.zeros(layer, features, {t: saes[t].n_features for t in targets[layer]})
        for layer, features in sources.items()
    }
    every_target = sorted({t for chosen in targets.values() for t in chosen})
    for row in range(len(cells)):
        clean = tracer.clean_pass(cells.take([row]), list(sources), every_target)
        for layer, features in sources.items():
            for effects in tracer.ablate(clean, layer, features, targets[layer]):
                _accumulate(moments[layer], effects)
    return moments


def _accumulate(moments: Moments, effects: AblationEffects) -> None:
    """Add one cell's effects in place."""
    rows = effects.rows
    moments.n_cells[0, 0, rows] += 1
    for layer, delta in effects.delta.items():
        observed = (delta, delta**2, delta > 0, delta < 0, effects.clean[layer])
        for statistic, values in enumerate(observed):
            moments.sums[layer][statistic, 0, 0, rows] += values


def trace(
    model: Model,
    cells: Tokens,
    saes: dict[int, TopKSAE],
    source_layer: int,
    features: Sequence[int],
    target_layers: Sequence[int] | None = None,
    *,
    batch_size: int = TraceSettings.batch_size,
    context: Literal["exact", "frozen"] = "exact",
) -> Moments:
    """Ablate features of one layer in every cell and measure every feature of the layers above.

    For cell c, source f (active at positions S) and target t of a layer above:
    x(c, f, t) = mean over p in S of [ z_t(p | without f) - z_t(p | clean) ]. Returned are sums of x over cells.

    Parameters
    ----------
    model, cells, saes
        From `load_model`, `model.tokenize` and `load_saes`; `saes` is {layer: autoencoder}.
    source_layer
        Layer of the features (0-based, output of the block).
    features
        Features to ablate.
    target_layers
        Layers to measure; None: every layer above the source that has an autoencoder.
    batch_size
        Ablated copies of a cell per forward pass; changes speed and memory only.
    context
        "exact" carries every position upward; "frozen" only those at which the source is active (see `Tracer`).

    Raises
    ------
    SettingsError
        If a layer has no autoencoder, a target is not above the source, or a feature does not exist.
    ModelError
        If an autoencoder does not fit the model, or a hidden state is NaN or infinite.
    """
    check_saes(saes, model.d_model, model.n_layers, cells.info.get("input_mode", ""))
    targets = targets_above(source_layer, target_layers, saes)
    chosen = np.asarray(features, dtype=np.int64)
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < saes[source_layer].n_features:
        raise SettingsError(f"Features of layer {source_layer} are 0 to {saes[source_layer].n_features - 1}.")
    settings = TraceSettings(batch_size=batch_size, context=context)
    return trace_cells(model, cells, saes, {source_layer: chosen}, {source_layer: targets}, settings)[source_layer]


def targets_above(source_layer: int, target_layers: Sequence[int] | None, saes: dict[int, TopKSAE]) -> list[int]:
    if source_layer not in saes:
        raise SettingsError(f"Layer {source_layer} has no autoencoder; there are some for {sorted(saes)}.")
    above = [layer for layer in sorted(saes) if layer > source_layer]
    chosen = above if not target_layers else sorted(set(target_layers))
    wrong = [layer for layer in chosen if layer not in above]
    if wrong or not chosen:
        raise SettingsError(
            f"Target layers must lie above source layer {source_layer} and have an autoencoder; possible are "
            f"{above or 'none'}, asked for were {wrong or list(target_layers or [])}."
        )
    return chosen
