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

from cellcircuits.errors import ModelError, SettingsError
from cellcircuits.models.base import Model
from cellcircuits.moments import Moments
from cellcircuits.sae import SparseCode, TopKSAE, check_saes
from cellcircuits.settings import TraceSettings
from cellcircuits.tokens import Tokens


@dataclass(frozen=True)
class CleanPass:
    """What one undisturbed pass of one cell leaves for all ablations in it."""

    cell: Tokens
    """The single cell."""
    hidden: dict[int, torch.Tensor]
    """{source layer: (1, position, d_model)}."""
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


@torch.no_grad()
def clean_pass(
    model: Model, cell: Tokens, saes: dict[int, TopKSAE], source_layers: Sequence[int], target_layers: Sequence[int]
) -> CleanPass:
    """Run one cell and keep what ablations need.

    Raises
    ------
    ModelError
        If a hidden state is NaN or infinite, naming cell and layer.
    """
    wanted = set(source_layers) | set(target_layers)
    hidden, codes = {}, {}
    for layer, state in model.run_layers(model.embed(cell), cell, 0, max(wanted) + 1):
        if layer in wanted:
            _check_finite(state, cell, layer)
            codes[layer] = saes[layer].encode(state[0])
        if layer in source_layers:
            hidden[layer] = state
    return CleanPass(cell, hidden, codes)


@torch.no_grad()
def ablate(
    model: Model,
    clean: CleanPass,
    saes: dict[int, TopKSAE],
    source_layer: int,
    features: np.ndarray,
    target_layers: Sequence[int],
    batch_size: int,
) -> Iterator[AblationEffects]:
    """Ablate each of `features` that is active in the cell, `batch_size` copies at a time.

    Features that are active nowhere in the cell are skipped. Every `target_layers` must be above `source_layer`.
    """
    activations = _activations_of(clean, source_layer, features, saes[source_layer].n_features)
    active = np.flatnonzero((activations > 0).any(dim=0).cpu().numpy())
    for start in range(0, len(active), batch_size):
        rows = active[start : start + batch_size]
        yield _ablate_batch(model, clean, saes, source_layer, features, rows, activations, target_layers)


def _activations_of(clean: CleanPass, layer: int, features: np.ndarray, n_features: int) -> torch.Tensor:
    """(position, feature): activation of the features asked for, 0 at positions that are not genes."""
    code = clean.codes[layer].dense(n_features)[:, torch.from_numpy(features)]
    genes = torch.from_numpy(clean.cell.gene_mask[0]).to(code.device)
    return code * genes[:, None]


def _ablate_batch(
    model: Model,
    clean: CleanPass,
    saes: dict[int, TopKSAE],
    source_layer: int,
    features: np.ndarray,
    rows: np.ndarray,
    activations: torch.Tensor,
    target_layers: Sequence[int],
) -> AblationEffects:
    chosen = activations[:, torch.from_numpy(rows)].T
    copy, position = chosen.nonzero(as_tuple=True)
    removed = saes[source_layer].W_dec[torch.from_numpy(features[rows])].to(chosen.dtype)
    hidden = clean.hidden[source_layer].repeat(len(rows), 1, 1)
    hidden[copy, position] -= chosen[copy, position, None] * removed[copy]
    # (copy, read): the mean over the positions read in each copy, as a product, which has the same bits every time
    averaging = hidden.new_zeros(len(rows), len(copy))
    averaging[copy, torch.arange(len(copy), device=copy.device)] = (1 / (chosen > 0).sum(dim=1).to(hidden.dtype))[copy]
    batch = clean.cell.take(np.zeros(len(rows), dtype=np.int64))
    delta, before = {}, {}
    for layer, state in model.run_layers(hidden, batch, source_layer + 1, max(target_layers) + 1):
        if layer not in target_layers:
            continue
        read = state[copy, position]
        _check_finite(read, clean.cell, layer)
        n_targets = saes[layer].n_features
        was = clean.codes[layer].at(position).dense(n_targets)
        change = saes[layer].encode(read).dense(n_targets) - was
        delta[layer] = (averaging @ change).double().cpu().numpy()
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
    batch_size: int,
    report=lambda n_passes: None,
) -> dict[int, Moments]:
    """Trace the `sources` {layer: features} of several layers in all `cells`; one clean pass per cell serves all.

    Returns {source layer: Moments}. `targets` is {source layer: target layers}. `report` is called with the number of
    passes done so far in the current cell's work.
    """
    moments = {
        layer: Moments.zeros(layer, features, {t: saes[t].n_features for t in targets[layer]})
        for layer, features in sources.items()
    }
    every_target = sorted({t for chosen in targets.values() for t in chosen})
    for row in range(len(cells)):
        clean = clean_pass(model, cells.take([row]), saes, list(sources), every_target)
        report(1)
        for layer, features in sources.items():
            for effects in ablate(model, clean, saes, layer, features, targets[layer], batch_size):
                _accumulate(moments[layer], effects)
                report(len(effects.rows))
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
    return trace_cells(model, cells, saes, {source_layer: chosen}, {source_layer: targets}, batch_size)[source_layer]


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
