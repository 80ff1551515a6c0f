"""Models with a known circuit: the public proof of the statistics of edges.

Weights are set by construction (see `planted_circuits` for what a circuit is, `planted_model` for the transformer), the
autoencoders read the planted features, and a truth table says which pairs are edges, of which sign and size, and where
the effect appears.

    planted = planted("gated", seed=1)
    moments = cc.trace(planted.model, planted.cells, planted.saes, source_layer=0, features=range(24))
    called = cc.edges(moments)   # to be compared with planted.truth
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from cellcircuits.autoencoders import SparseAutoencoder, TopKSAE
from cellcircuits.errors import SettingsError
from cellcircuits.models.planted_circuits import (
    plant_attention,
    plant_chains,
    plant_cofiring,
    plant_direct,
    plant_gated,
    plant_opposed,
    plant_overlap,
    plant_passthrough,
    plant_rivals,
    plant_saturated,
)
from cellcircuits.models.planted_draft import (
    CONTEXT_LEVEL,
    FLAG_LEVEL,
    N_CONTEXT,
    N_FEATURES,
    N_LAYERS,
    N_RARE,
    N_RARE_GENES,
    N_RECEIVERS,
    N_REGULAR,
    N_SENDERS,
    N_SPECIAL,
    N_STATE,
    N_TOKENS,
    RELAY_GAIN,
    STATE_ACTIVATION,
    Directions,
    Draft,
    TrueEffect,
    draw_directions,
    hidden_units,
)
from cellcircuits.models.planted_model import Embedding, Norm, PlantedModel, Relay
from cellcircuits.tokens import Tokens

SHORTEST, LONGEST = 26, 38
"""Genes per cell, without the rare ones."""
RARE_GENE_RATE = 0.01
"""Share of cells that have a given rare gene."""
TIGHT_K = N_FEATURES // 3
READING_FLOOR = 1e-3
"""Autoencoders read this much too little: what is off stays off in spite of rounding."""


class Kind(NamedTuple):
    """What a kind of planted model is made of."""

    circuits: tuple[Callable[[Draft], None], ...] = ()
    density: float = 1.0
    """Share of unplanted pairs that respond, with a random sign in each cell."""
    base: bool = True
    """The features above layer 0 are active at every gene, so they can rise and fall."""
    relays: bool = False
    norm: Norm = "layer"
    rotated: bool = True
    k: int = N_FEATURES


def plant_mixed(draft: Draft) -> None:
    """Some of every kind; 16 sources in all."""
    plant_direct(draft, 3)
    plant_chains(draft, 2)
    plant_attention(draft, 2)
    plant_gated(draft, 2)
    plant_saturated(draft, 1)
    plant_passthrough(draft, 2)
    plant_cofiring(draft, 3)


KINDS: dict[str, Kind] = {
    "direct": Kind((plant_direct, plant_cofiring)),
    "chain": Kind((plant_chains, plant_cofiring)),
    "attention": Kind((plant_attention, plant_cofiring), relays=True),
    "gated": Kind((plant_gated, plant_cofiring)),
    "saturated": Kind((plant_saturated, plant_cofiring)),
    "passthrough": Kind((plant_passthrough,)),
    "opposed": Kind((plant_opposed, plant_cofiring)),
    "competition": Kind((partial(plant_rivals, k=TIGHT_K), plant_cofiring), k=TIGHT_K),
    "mixed": Kind((plant_mixed,), relays=True),
    "null_exact": Kind(density=0.0, norm="none", rotated=False),
    "null_rounding": Kind(density=0.0, norm="none"),
    "null_rescaled": Kind(density=0.0),
    "null_random": Kind(),
    "null_rectified": Kind(density=0.1, base=False, norm="none", rotated=False),
}
"""What each is for: docstrings of the circuits; the nulls have no edge at all, and

null_exact      every effect is 0 to the bit;
null_rounding   nothing is computed, but the arithmetic of 32 bits leaves some 1e-7 behind;
null_rescaled   nothing but LayerNorm: what is removed lets all others grow by some millionths, in every cell;
null_random     every target responds to every source, with a sign that is a toss of coins in each cell;
null_rectified  a tenth of the pairs respond so, and targets are off otherwise: what would fall cannot, so that the mean
                of the ACTIVATION does change, though the mean of what the autoencoder rectifies does not.
"""


@dataclass(frozen=True)
class Planted:
    """A model with a known circuit, cells to trace it in, and the truth."""

    kind: str
    seed: int
    model: PlantedModel
    cells: Tokens
    saes: dict[int, SparseAutoencoder]
    truth: pd.DataFrame
    """One row per pair with a role, all others are no edges. Columns: source_layer, source_feature, target_layer,
    target_feature; `kind`; `readout`, the positions at which the effect appears ("source": where the source is active,
    "other": elsewhere); `strength`, the target's rise by computation, per unit of source activation above
    `planted_draft.DEAD_ZONE`; `projection`, its
    rise by mere persistence of the source's vector; `sign` of the strength, or where nothing is computed of the
    projection (removing the source does the opposite); `is_edge`: something is computed."""


def planted(
    kind: str = "mixed",
    seed: int = 0,
    n_cells: int = 200,
    strength: float = 2.0,
    *,
    overlap: float = 0.0,
    k: int | None = None,
    norm: Norm | None = None,
    d_model: int = 256,
) -> Planted:
    """A model of 3 layers with 24 features each whose circuit is known by construction.

    Parameters
    ----------
    kind
        One of `KINDS`.
    seed
        Of everything that is drawn; the same seed gives the same bytes.
    n_cells
        Cells, of 26 to 38 genes each.
    strength
        |mean| / sd over cells that planted effects have on average; each has half to one and a half times this much.
    overlap
        Average |cos| of every encoder above layer 0 with every direction of layer 0: 0 plants none.
    k
        Features that the autoencoders above layer 0 let through, of 24; None: what the kind has.
    norm
        "layer" or "none"; None: what the kind has.
    d_model
        Width. A random direction has 1 / sqrt(d_model) of its length along any other, so in a wider model a source is
        easier to tell from random directions.

    Raises
    ------
    SettingsError
        If there is no such kind, or a number makes no sense.
    """
    if kind not in KINDS:
        raise SettingsError(f"There is no kind {kind!r} of planted model; possible are {', '.join(KINDS)}.")
    if n_cells < 1 or strength <= 0 or overlap < 0:
        raise SettingsError("A planted model needs n_cells >= 1, strength > 0 and overlap >= 0.")
    # independent streams: the same circuit whatever the number of cells
    circuit_rng, cell_rng = (np.random.default_rng((seed, stream)) for stream in range(2))
    made_of = KINDS[kind]
    made_of = made_of._replace(norm=norm or made_of.norm, k=k or made_of.k)
    # single dimensions do not sum to zero, as LayerNorm needs it
    rotated = made_of.rotated or made_of.norm == "layer"
    directions = draw_directions(circuit_rng, d_model, rotated, made_of.relays)
    draft = _draft(made_of, directions, circuit_rng, strength, overlap)
    units = [hidden_units(draft, block) for block in range(N_LAYERS)]
    embedding = _embedding(draft)
    model = PlantedModel(embedding, units, _relay(draft) if made_of.relays else None, made_of.norm)
    truth = pd.DataFrame(draft.truth, columns=list(TrueEffect._fields))
    saes: dict[int, SparseAutoencoder] = {layer: _autoencoder(draft, layer, made_of.k) for layer in range(N_LAYERS)}
    return Planted(kind, seed, model, draw_cells(cell_rng, n_cells, embedding.gene_ids), saes, truth)


def _draft(made_of: Kind, directions: Directions, rng: np.random.Generator, strength: float, overlap: float) -> Draft:
    draft = Draft(rng, strength, directions, made_of.density, made_of.base)
    for plant in made_of.circuits:
        plant(draft)
    if overlap > 0:
        plant_overlap(draft, overlap)
    return draft


def _embedding(draft: Draft) -> Embedding:
    features, flags = draft.directions.features, draft.directions.flags
    scaled = draft.drive @ features[0]
    for layer, level in draft.level.items():
        scaled += level @ features[layer]
    token = np.arange(N_TOKENS)
    first_receiver, first_rare = N_SPECIAL + N_SENDERS, N_TOKENS - N_RARE_GENES
    is_receiver = (token >= first_receiver) & (token < first_rare)
    is_sender = (token >= N_SPECIAL) & ~is_receiver
    fixed = np.column_stack([is_sender, is_receiver, token == 1]) @ (FLAG_LEVEL * flags)
    context = CONTEXT_LEVEL * draft.directions.context
    states = STATE_ACTIVATION * features[0, N_REGULAR + N_RARE :]
    names = np.array([""] * N_SPECIAL + [f"GENE{i}" for i in range(N_TOKENS - N_SPECIAL)])
    state_off = np.concatenate([-context, np.zeros_like(states)])
    return Embedding(scaled, fixed, np.concatenate([context, states]), state_off, names)


def _relay(draft: Draft) -> Relay:
    directions = draft.directions
    sender, receiver, sink = directions.flags
    return Relay(
        1, directions.features[0, :N_REGULAR], RELAY_GAIN * directions.relays, sender, receiver, sink, FLAG_LEVEL
    )


def _autoencoder(draft: Draft, layer: int, k: int) -> TopKSAE:
    """Reads the features of a layer; above layer 0 also what `projection` says. The decoder is the directions."""
    own = draft.directions.features[layer]
    encoder = own + draft.projection[layer].T @ draft.directions.features[0]
    sae = TopKSAE(own.shape[1], N_FEATURES, N_FEATURES if layer == 0 else k)
    weights = {"W_enc": encoder.T, "W_dec": own, "b_enc": np.full(N_FEATURES, -READING_FLOOR)}
    sae.load_state_dict(sae.state_dict() | {name: torch.from_numpy(w.copy()).float() for name, w in weights.items()})
    return sae.eval().requires_grad_(False)


def draw_cells(rng: np.random.Generator, n_cells: int, gene_ids: np.ndarray) -> Tokens:
    """Cells of a state token (its value: the state's number) and random genes in random order, each with a value.

    Values jitter activations by 0.8 to 1.25.
    """
    common = np.arange(N_SPECIAL, N_SPECIAL + N_SENDERS + N_RECEIVERS)
    rare = np.arange(N_TOKENS - N_RARE_GENES, N_TOKENS)
    rows = []
    for _ in range(n_cells):
        genes = rng.choice(common, size=rng.integers(SHORTEST, LONGEST + 1), replace=False)
        extra = rare[rng.random(N_RARE_GENES) < RARE_GENE_RATE]
        rows.append([1, *rng.permutation(np.concatenate([genes, extra])).tolist()])
    cells = Tokens.from_ids(rows, special_ids=range(N_SPECIAL))
    values = rng.uniform(0.8, 1.25, cells.ids.shape).astype(np.float32) * cells.gene_mask
    values[:, 0] = rng.integers(2 ** (N_CONTEXT + N_STATE), size=n_cells)
    return Tokens(cells.ids, cells.gene_mask, values, cells.pad_id, gene_ids, gene_ids, info={"model": "planted"})
