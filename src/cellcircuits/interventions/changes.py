"""What is done to a cell: which features of which layers are changed together, and what becomes of their activation.

    zero       z' = 0
    mean       z' = the feature's mean activation in other cells
    resample   z' = an activation of the feature in another cell, drawn at random for every position
    scale      z' = amount * z       (above 1: amplify; 0 is zero)
    clamp      z' = amount
    patch      z' = the feature's mean activation at the same gene in cells of another group; where those cells do not
               have the gene, z stays

With positions "active" this happens where z > 0, and mean and resample are of activations above 0; with "all" at every
gene position, and mean and resample are of all gene positions. The residual stream changes by (z' - z) W_dec of the
feature, so what the autoencoder does not explain stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["zero", "mean", "resample", "scale", "clamp", "patch"]
Where = Literal["active", "all"]
WITH_REFERENCE = ("mean", "resample", "patch")
"""Kinds that look at other cells."""


@dataclass(frozen=True)
class Change:
    """What becomes of the activation of a feature."""

    kind: Kind = "zero"
    amount: float = 0.0
    """Factor of "scale", value of "clamp"; the others have none."""
    positions: Where = "active"


@dataclass(frozen=True)
class Condition:
    """One copy of a cell: features that are changed together.

    A feature of a higher layer is changed as it is after the changes below it.
    """

    features: tuple[tuple[int, tuple[int, ...]], ...]
    """((layer, features), ...) in ascending order of layer; a layer may have none, which matters with `others`."""
    change: Change = Change()
    others: bool = False
    """Change all features of these layers but these."""
    random: int = -1
    """Number of the random direction, of the norm of each feature's own, that is removed in its place (a control);
    -1: the feature's own."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that are changed, ascending."""
        return tuple(layer for layer, _ in self.features)

    def of(self, layer: int) -> np.ndarray:
        """int64 (feature,): the features of a layer, none where it has none."""
        return np.array(next((chosen for of, chosen in self.features if of == layer), ()), dtype=np.int64)


def condition(
    features: Sequence[tuple[int, int]],
    change: Change | None = None,
    *,
    others: bool = False,
    random: int = -1,
    layers: Sequence[int] = (),
) -> Condition:
    """A `Condition` of (layer, feature) pairs in any order.

    With `others` a layer is changed only if one of its features is named, or the layer itself in `layers`.
    """
    by_layer: dict[int, set[int]] = {int(layer): set() for layer in layers}
    for layer, feature in features:
        by_layer.setdefault(int(layer), set()).add(int(feature))
    named = tuple((layer, tuple(sorted(chosen))) for layer, chosen in sorted(by_layer.items()))
    return Condition(named, change or Change(), others, random)
