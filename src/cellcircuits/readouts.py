"""What is measured of every target when something is removed, and where: one number per cell and target.

S are the positions at which something was removed, z the activation of a target, a its pre-activation (before TopK, and
free to be negative), h the state:

    source    mean over S of z(ablated) - z(clean); the published readout
    target    mean of the same over the gene positions at which the target is active in the clean pass; 0 if nowhere
    other     mean of the same over all gene positions outside S: what attention carries from gene to gene
    pre       mean over S of a(ablated) - a(clean): free of the competition of TopK and of the floor at 0
    computed  mean over S of a(ablated) - a(passed), where `passed` is the state that the removal alone makes, carried
              upward through skip connections and norms with all else as in the clean pass: what the blocks compute
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cellcircuits.autoencoders import SparseAutoencoder, SparseCode
from cellcircuits.positions import Positions
from cellcircuits.settings import EVERYWHERE

ROUNDING = 16 * torch.finfo(torch.float32).eps
"""A mean change is 0 unless it is above this share of sqrt(sum over dimensions of (state x encoder weight)^2): float32
arithmetic in another order changes as much, in a direction of its own that may be the same in every cell."""


@dataclass(frozen=True)
class Layer:
    """One layer of a cell, clean and in a batch of ablated copies."""

    sae: SparseAutoencoder
    clean: torch.Tensor
    """(position, d_model)."""
    code: SparseCode
    """Clean code of every position."""
    genes: torch.Tensor
    """bool (position,): gene positions."""
    at: Positions
    """Where copies were changed."""
    ablated: torch.Tensor
    """(read, d_model): states at those positions."""
    passed: torch.Tensor | None = None
    """(read, d_model): the same if nothing but the removed vector itself is carried upward."""
    everywhere: torch.Tensor | None = None
    """(copy, position, d_model): states of all positions."""


def measure(layer: Layer, readouts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(change, clean value) of every target, each (readout, copy, target).

    Raises
    ------
    ValueError
        If a readout needs states that `layer` does not hold.
    """
    makers = {"source": _at_source, "pre": _before_topk, "computed": _computed}
    found = {name: makers[name](layer) for name in readouts if name in makers}
    if outside := [name for name in readouts if name in EVERYWHERE]:
        found |= _outside(layer, outside)
    changes, cleans = (torch.stack(part) for part in zip(*(found[name] for name in readouts), strict=True))
    return changes.masked_fill_(changes.abs() <= rounding(layer), 0.0), cleans


def _at_source(layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
    at, n_targets = layer.at, layer.sae.n_features
    now, was = layer.sae.encode(layer.ablated), layer.code.at(at.position)
    after, before = (code.mean_by(at.copy, at.counts, n_targets) for code in (now, was))
    # of sums in float64, so that equal activations leave exactly 0
    dtype = layer.ablated.dtype
    return (after - before).to(dtype), before.to(dtype)


def _before_topk(layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
    averaging = layer.at.averaging(layer.ablated.dtype)
    was = layer.clean[layer.at.position]
    # pre-activations are linear in the state, so the mean state is enough
    return averaging @ (layer.ablated - was) @ layer.sae.W_enc, layer.sae.pre_activations(averaging @ was)


def _computed(layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
    if layer.passed is None:
        raise ValueError('The readout "computed" needs the state that the removal alone makes.')
    averaging = layer.at.averaging(layer.ablated.dtype)
    was = averaging @ layer.clean[layer.at.position]
    return averaging @ (layer.ablated - layer.passed) @ layer.sae.W_enc, layer.sae.pre_activations(was)


def rounding(layer: Layer) -> torch.Tensor:
    """(copy, target): how much a mean change may be without being one."""
    squares = layer.at.averaging(layer.ablated.dtype) @ layer.ablated.square()
    return ROUNDING * (squares @ layer.sae.W_enc.square()).sqrt()


def _outside(layer: Layer, names: Sequence[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The readouts that look at all gene positions, copy by copy: a dense code of one copy is held at a time."""
    if layer.everywhere is None:
        raise ValueError(f"The readouts {', '.join(names)} need the states of all positions.")
    clean = layer.code.dense(layer.sae.n_features)
    fires = ((clean > 0) & layer.genes[:, None]).to(clean.dtype)
    n_firing = fires.sum(dim=0).clamp(min=1)
    clean_target = (clean * fires).sum(dim=0) / n_firing
    others = layer.genes & ~layer.at.changed(len(clean))
    rows: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in names}
    for copy in range(layer.at.n_copies):
        change = layer.sae.encode(layer.everywhere[copy]).dense(layer.sae.n_features) - clean
        weights = others[copy].to(change.dtype) / others[copy].sum().clamp(min=1)
        found = {
            "other": (weights @ change, weights @ clean),
            "target": ((change * fires).sum(dim=0) / n_firing, clean_target),
        }
        for name in names:
            moved, was = found[name]
            rows[name].append((moved, was))
    return {name: (torch.stack([m for m, _ in r]), torch.stack([w for _, w in r])) for name, r in rows.items()}
