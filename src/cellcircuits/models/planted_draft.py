"""A planted model in the making: its directions, its genes, what its blocks add, and what is true of it.

The features of layer 0 are switched on by genes (regular ones by a quarter of the sender genes, rare ones by genes that
few cells have, state features by the state of the cell); those of layers 1 and 2 have a base level at every gene. Block
l lets a source with activation a change target t of layer l by

    (mean + spread . c) relu(a - DEAD_ZONE),     c = the l-th half of the cell's context: independent coins, +1 or -1

so over cells an effect has |mean| / sd = |mean| / |spread| (less what the activations vary). An unplanted pair has
mean 0 and a spread all the same: its target responds in every cell, with a sign that is a toss of coins. All pairs of
a block share its few coins, so their tests hang together; rates of error mean something over several models only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cellcircuits.errors import SettingsError
from cellcircuits.models.planted_model import HiddenUnits

N_LAYERS = 3
N_FEATURES = 24
"""Features of every layer. In layer 0: regular ones, then rare ones, then state features."""
N_REGULAR, N_RARE, N_STATE = 16, 4, 4
N_RELAYS = N_REGULAR
BITS_PER_BLOCK = 6
"""Coins of the context that each of the blocks 1 and 2 reads; no coin serves both, so chains stay without bias."""
N_CONTEXT = 2 * BITS_PER_BLOCK
N_SPECIAL, N_SENDERS, N_RECEIVERS, N_RARE_GENES = 2, 66, 42, 12
"""Tokens, in this order: padding and state; genes that may switch on features of layer 0; genes that do not; rare."""
N_TOKENS = N_SPECIAL + N_SENDERS + N_RECEIVERS + N_RARE_GENES
STATE_ACTIVATION = 1.5
BASE_LEVEL = {1: (2.0, 3.0), 2: (3.5, 5.0)}
"""{layer: lowest and highest activation of its features before anything drives them}."""
RELAY_GAIN = 4.0
DEAD_ZONE = 0.3
"""Activation below which a source drives nothing. Without it the units of all that is off would stand at their kink,
and every target would respond to the removal of any direction, which has some content in all others."""
FLAG_LEVEL = 20.0
"""Content of the directions that attention looks for: large, so that it looks elsewhere only if these are taken out."""
BACKGROUND = 0.05
"""Size of `spread` of an unplanted pair, per unit of activation; less for layer 1, whose features are always on."""
BACKGROUND_OF_LAYER_1 = 0.02
LARGEST_ACTIVATION = 8.0
"""No source that is read together with the context exceeds this."""
CONTEXT_LEVEL = LARGEST_ACTIVATION / 2
"""Content of a coin's direction is + or - this: large, as what a cell is shows at all its positions. Smaller content
that is read with more weight would make every target lean on a few directions, and so respond to any removal."""


class TrueEffect(NamedTuple):
    """One row of the truth table; see `planted`."""

    source_layer: int
    source_feature: int
    target_layer: int
    target_feature: int
    kind: str
    readout: str
    sign: int
    strength: float
    projection: float
    is_edge: bool


class Directions(NamedTuple):
    """Orthonormal directions of the residual stream, each float64 (..., d_model)."""

    features: np.ndarray
    """(layer, feature, d_model)."""
    relays: np.ndarray
    context: np.ndarray
    """(bit, d_model): + or - `CONTEXT_LEVEL` times these."""
    flags: np.ndarray
    """Sender, receiver, sink."""


def draw_directions(rng: np.random.Generator, d_model: int, rotated: bool, relays: bool) -> Directions:
    """Directions without content in the two anchor dimensions that sum to zero; not rotated: single dimensions.

    Raises
    ------
    SettingsError
        If they do not fit into `d_model` dimensions.
    """
    sizes = [N_LAYERS * N_FEATURES, N_RELAYS if relays else 0, N_CONTEXT, 3]
    n = sum(sizes)
    if d_model < n + 3 or d_model % 4:
        raise SettingsError(f"This circuit needs a width of at least {n + 3}, divisible by 4; d_model = {d_model}.")
    basis = np.eye(d_model)[2 : n + 2]
    if rotated:
        # the first column is what all others must be orthogonal to: in the space without anchors, the sum
        columns = np.column_stack([np.ones(d_model - 2), rng.standard_normal((d_model - 2, n))])
        basis = np.zeros((n, d_model))
        basis[:, 2:] = np.linalg.qr(columns)[0][:, 1:].T
    features, relay, context, flags = np.split(basis, np.cumsum(sizes)[:-1])
    return Directions(features.reshape(N_LAYERS, N_FEATURES, -1), relay, context, flags)


@dataclass
class Draft:
    """A model in the making."""

    rng: np.random.Generator
    strength: float
    directions: Directions
    density: float
    """Share of unplanted pairs that respond."""
    base: bool
    """Whether the features above layer 0 are active without being driven."""
    mean: dict[int, np.ndarray] = field(init=False)
    """{block: float64 (input, target)}; inputs are the features of layers 0 and 1, then the relays."""
    spread: dict[int, np.ndarray] = field(init=False)
    """{block: float64 (input, target, bit)}."""
    drive: np.ndarray = field(init=False)
    """float64 (token, feature): activation of layer-0 features by genes."""
    level: dict[int, np.ndarray] = field(init=False)
    """{layer above 0: float64 (token, feature)}: activation of its features before anything drives them."""
    projection: np.ndarray = field(init=False)
    """float64 (target layer, source, target): content that target encoders read in layer-0 directions."""
    units: dict[int, list[tuple[np.ndarray, float, np.ndarray]]] = field(init=False)
    """{block: further hidden units (reads, bias, writes)}."""
    truth: list[TrueEffect] = field(default_factory=list)

    def __post_init__(self) -> None:
        n_inputs = 2 * N_FEATURES + len(self.directions.relays)
        self.mean = {block: np.zeros((n_inputs, N_FEATURES)) for block in (1, 2)}
        self.spread = {block: np.zeros((n_inputs, N_FEATURES, BITS_PER_BLOCK)) for block in (1, 2)}
        for spread in self.spread.values():
            responding = self.rng.random((n_inputs, N_FEATURES, 1)) < self.density
            spread += BACKGROUND * self.coins((n_inputs, N_FEATURES)) * responding
        self.spread[2][N_FEATURES : 2 * N_FEATURES] *= BACKGROUND_OF_LAYER_1 / BACKGROUND
        # block 1 makes the features of layer 1, it does not read them
        self.spread[1][N_FEATURES : 2 * N_FEATURES] = 0
        self.drive = draw_drive(self.rng)
        self.level = {layer: draw_level(self.rng, layer) * self.base for layer in BASE_LEVEL}
        self.projection = np.zeros((N_LAYERS, N_FEATURES, N_FEATURES))
        self.units = {block: [] for block in range(N_LAYERS)}
        self._sources = self.rng.permutation(N_REGULAR).tolist()
        self._targets = {layer: self.rng.permutation(N_FEATURES).tolist() for layer in (1, 2)}

    def coins(self, shape: tuple[int, ...]) -> np.ndarray:
        """Random weights of the context bits, of norm 1, float64 (*shape, bit)."""
        weights = self.rng.standard_normal((*shape, BITS_PER_BLOCK))
        return weights / np.linalg.norm(weights, axis=-1, keepdims=True)

    def take_source(self) -> int:
        """A regular feature of layer 0 without a role so far."""
        return self._sources.pop()

    def take_target(self, layer: int) -> int:
        """A feature of layer 1 or 2 without a role so far."""
        return self._targets[layer].pop()

    def signal_to_noise(self) -> float:
        """Planned |mean| / sd over cells of one effect: half to one and a half times `strength`."""
        return self.strength * self.rng.uniform(0.5, 1.5)

    def connect(self, block: int, row: int, target: int, coefficient: float) -> None:
        """Let input `row` of the block drive `target`."""
        self.mean[block][row, target] = coefficient
        self.spread[block][row, target] = abs(coefficient) / self.signal_to_noise() * self.coins(())

    def note(
        self,
        source: tuple[int, int],
        target: tuple[int, int],
        kind: str,
        *,
        readout: str = "source",
        strength: float = 0.0,
        projection: float = 0.0,
        is_edge: bool = True,
    ) -> None:
        """Add a row to the truth, for (layer, feature) of both ends."""
        sign = int(np.sign(strength or projection))
        self.truth.append(TrueEffect(*source, *target, kind, readout, sign, float(strength), projection, is_edge))


def draw_drive(rng: np.random.Generator) -> np.ndarray:
    """Layer-0 activations of every token before the jitter of a cell: 1 to 1.6 where a gene has the feature."""
    drive = np.zeros((N_TOKENS, N_FEATURES))
    senders = slice(N_SPECIAL, N_SPECIAL + N_SENDERS)
    drive[senders, :N_REGULAR] = rng.uniform(1, 1.6, (N_SENDERS, N_REGULAR))
    drive[senders, :N_REGULAR] *= rng.random((N_SENDERS, N_REGULAR)) < 0.25
    for number in range(N_RARE_GENES):
        drive[N_TOKENS - N_RARE_GENES + number, N_REGULAR + number % N_RARE] = rng.uniform(1, 1.6)
    return drive


def draw_level(rng: np.random.Generator, layer: int) -> np.ndarray:
    """Base activations of the features of a layer above 0, each gene its own, float64 (token, feature)."""
    level = rng.uniform(*BASE_LEVEL[layer], (N_TOKENS, N_FEATURES))
    level[:N_SPECIAL] = 0
    return level


def hidden_units(draft: Draft, block: int) -> HiddenUnits:
    """All hidden units of a block.

    With a = relu(activation - DEAD_ZONE), a product of a and coin c takes two: 2 relu(a + L (c - 1) / 2) - relu(a) is
    c a for 0 <= a <= L.
    """
    d_model = draft.directions.context.shape[1]
    parts = [(np.zeros((0, d_model)), np.zeros(0), np.zeros((0, d_model)))]
    if block > 0:
        inputs = np.concatenate([*draft.directions.features[:2], draft.directions.relays])
        targets = draft.directions.features[block]
        mean, spread = draft.mean[block], draft.spread[block]
        linear = mean - spread.sum(axis=-1)
        used = linear.any(axis=1)
        parts.append((inputs[used], np.full(int(used.sum()), -DEAD_ZONE), linear[used] @ targets))
        context = draft.directions.context[(block - 1) * BITS_PER_BLOCK : block * BITS_PER_BLOCK]
        for bit, direction in enumerate(context):
            used = spread[..., bit].any(axis=1)
            reads = inputs[used] + direction
            writes = 2 * spread[used, :, bit] @ targets
            parts.append((reads, np.full(len(reads), -CONTEXT_LEVEL - DEAD_ZONE), writes))
    parts += [(reads[None], np.array([bias]), writes[None]) for reads, bias, writes in draft.units[block]]
    return HiddenUnits(*(np.concatenate(part) for part in zip(*parts, strict=True)))
