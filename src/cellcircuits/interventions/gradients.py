"""Attribution: what the removal of each feature would do to a target, estimated from one gradient.

For a target v (see `targets`) and a feature f of layer l, with z its activation and h the output of the layer,

    attribution(l, f) = - sum over gene positions p of z_f(p) W_dec[f] . g(p),     g(p) = dv / dh_l(p)

is the change of v by the removal of f to first order: exact where the model is linear between the two. The chain rule
goes through all layers above, so one forward and one backward pass of a cell give it for all features of all layers.

With n > 1 steps (integrated gradients) g is the mean of n gradients on the way to the state without any of the
features of the layer, at equal distances (midpoint rule):

    h_l(p) - a D(p),   D(p) = sum over f of z_f(p) W_dec[f],   a = (1/2, 3/2, ..., n - 1/2) / n

The attributions of a layer then add up to v(all its features removed) - v(clean), the better the more steps. That costs
n passes for every layer. It says how that joint change is shared out; the removal of one feature alone is another path,
whose own integral would need as many passes as removing each feature.

Source: integrated gradients are of Sundararajan, Taly & Yan 2017, arXiv 1703.01365.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cellcircuits.autoencoders import SparseAutoencoder, SparseCode
from cellcircuits.errors import ModelError
from cellcircuits.interventions.targets import Target
from cellcircuits.models.base import Model
from cellcircuits.settings import TraceSettings
from cellcircuits.tokens import Tokens


@dataclass(frozen=True)
class CellAttribution:
    """Attribution of a target in one cell."""

    clean: float
    """v of the undisturbed cell."""
    attribution: dict[int, np.ndarray]
    """{layer: float64 (feature,)}: estimated change of v by removal; NaN for features that are active nowhere."""
    removed: dict[int, np.ndarray]
    """{layer: float64 (feature,)}: norm of what a removal takes away, summed over gene positions; NaN as before."""


def attribute(
    model: Model,
    saes: Mapping[int, SparseAutoencoder],
    cell: Tokens,
    target: Target,
    layers: Sequence[int],
    steps: int = 1,
    batch_size: int = TraceSettings.batch_size,
) -> CellAttribution | None:
    """Attribution to all features of `layers` in one cell; None if the cell does not have the target.

    Parameters
    ----------
    cell
        One cell.
    layers
        Layers with an autoencoder, none above `target.top`.
    steps
        1: the gradient of the undisturbed cell. More: integrated gradients.
    batch_size
        Steps per pass, at most; changes speed and memory only.

    Raises
    ------
    ModelError
        If the model gives no gradient, or one that is not finite.
    """
    first = min(layers)
    with torch.no_grad():
        for _, hidden in model.run_layers(model.embed(cell), cell, 0, first + 1):
            entering = hidden
    states = _states(model, entering, cell, first, target.top)
    clean = {layer: states[layer].detach() for layer in {*layers, target.top}}
    with torch.no_grad():
        at = target.where(cell, clean[target.top])
    if not at.any():
        return None
    with torch.enable_grad():
        value = target.value(states[target.top], cell, at).sum()
    genes = torch.from_numpy(cell.gene_mask[0]).to(entering.device)
    with torch.no_grad():
        codes = {layer: _at_genes(saes[layer].encode(clean[layer][0]), genes) for layer in layers}
    if steps == 1:
        slopes = _slopes(model, value, [states[layer] for layer in layers])
        gradients = {layer: slope[0] for layer, slope in zip(layers, slopes, strict=True)}
    else:
        del states  # the graph is not needed
        size = TraceSettings(batch_size=batch_size).copies_per_pass(cell.ids.shape[1])
        gradients = {
            layer: _mean_gradient(model, saes[layer], codes[layer], clean[layer], cell, layer, target, at, steps, size)
            for layer in layers
        }
    found = {layer: _by_feature(saes[layer], codes[layer], gradients[layer]) for layer in layers}
    return CellAttribution(
        float(value.detach()),
        {layer: attribution for layer, (attribution, _) in found.items()},
        {layer: removed for layer, (_, removed) in found.items()},
    )


def _states(model: Model, entering: torch.Tensor, cells: Tokens, first: int, top: int) -> dict[int, torch.Tensor]:
    """{layer: output} of the layers `first` (which is `entering`) to `top`, with the graph that gradients need."""
    with torch.enable_grad():
        hidden = entering.detach().requires_grad_()
        states = {first: hidden}
        for layer in range(first + 1, top + 1):
            # block by block, so that each block reads the very tensor whose gradient is asked for
            ((_, hidden),) = model.run_layers(hidden, cells, layer, layer + 1)
            states[layer] = hidden
    return states


def _slopes(model: Model, value: torch.Tensor, states: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """d value / d state of each of `states`, in one backward pass; the weights of the model get none."""
    if not all(state.requires_grad for state in states) or not value.requires_grad:
        raise ModelError(
            f"Attribution needs gradients through the blocks of the model {model.name!r}; they give none. A plug-in "
            "must not switch them off in `run_layers` and `gene_outputs` (torch.no_grad, detach)."
        )
    slopes = torch.autograd.grad(value, states, materialize_grads=True)
    if not all(bool(torch.isfinite(slope).all()) for slope in slopes):
        raise ModelError(
            f"A gradient through the model {model.name!r} is not finite. Check that its weights are whole."
        )
    return slopes


def _mean_gradient(
    model: Model,
    sae: SparseAutoencoder,
    code: SparseCode,
    clean: torch.Tensor,
    cell: Tokens,
    layer: int,
    target: Target,
    at: torch.Tensor,
    steps: int,
    size: int,
) -> torch.Tensor:
    """(position, d_model): mean of the gradient at `steps` points towards no feature of `layer`, `size` at a time."""
    total = torch.zeros(clean.shape[1:], dtype=torch.float64, device=clean.device)
    with torch.no_grad():
        decoded = sae.decode(code) - sae.b_dec
    for step in torch.arange(steps).split(size):
        share = ((step + 0.5) / steps).to(clean)[:, None, None]
        copies = cell.take(np.zeros(len(step), dtype=np.int64))
        states = _states(model, clean - share * decoded, copies, layer, target.top)
        with torch.enable_grad():
            value = target.value(states[target.top], cell, at).sum()
        total += _slopes(model, value, [states[layer]])[0].double().sum(dim=0)
    return (total / steps).to(clean.dtype)


def _at_genes(code: SparseCode, genes: torch.Tensor) -> SparseCode:
    """The code (position, entry) with activations of 0 where no gene stands."""
    return SparseCode(code.values * genes[:, None], code.indices)


@torch.no_grad()
def _by_feature(sae: SparseAutoencoder, code: SparseCode, gradient: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(attribution, norm removed), each float64 (feature,), from the gradient (position, d_model) of the state."""
    along = (gradient @ sae.W_dec.T).gather(-1, code.indices)
    features, values = code.indices.ravel().cpu().numpy(), code.values.double().ravel().cpu().numpy()
    sums = (values > 0, -values * along.double().ravel().cpu().numpy(), values)
    fired, attribution, activation = (np.bincount(features, part, minlength=sae.n_features) for part in sums)
    removed = activation * sae.W_dec.norm(dim=1).double().cpu().numpy()
    return np.where(fired > 0, attribution, np.nan), np.where(fired > 0, removed, np.nan)
