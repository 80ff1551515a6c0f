"""What can be planted: each `plant_...` wires one kind of circuit into a `Draft` and writes down what is true of it."""

from __future__ import annotations

import numpy as np

from cellcircuits.models.planted_draft import (
    DEAD_ZONE,
    N_FEATURES,
    N_RARE,
    N_REGULAR,
    N_TOKENS,
    RELAY_GAIN,
    Draft,
)


def plant_direct(draft: Draft, n_sources: int = 6) -> None:
    """Sources that a feed-forward layer adds to one target in each layer above, half of them with a negative sign."""
    for number in range(n_sources):
        source = draft.take_source()
        for layer in (1, 2):
            target = draft.take_target(layer)
            coefficient = float(draft.rng.uniform(0.2, 0.4)) * (-1) ** (number + layer)
            draft.connect(layer, source, target, coefficient)
            draft.note((0, source), (layer, target), "direct", strength=coefficient)


def plant_chains(draft: Draft, n_chains: int = 4) -> None:
    """A drives B in layer 1, B drives C in layer 2; A -> C is an edge too, of total effect, by no path of its own."""
    for number in range(n_chains):
        first, middle, last = draft.take_source(), draft.take_target(1), draft.take_target(2)
        lower, upper = draft.rng.uniform(0.45, 0.6, size=2) * ((-1) ** number, (-1) ** (number // 2))
        draft.connect(1, first, middle, lower)
        draft.connect(2, N_FEATURES + middle, last, upper)
        draft.note((0, first), (1, middle), "direct", strength=lower)
        draft.note((1, middle), (2, last), "direct", strength=upper)
        draft.note((0, first), (2, last), "chain", strength=lower * upper)


def plant_attention(draft: Draft, n_sources: int = 5) -> None:
    """Sources whose mean over the senders an attention head brings to the receivers, where it drives a target.

    `strength` is per unit of that mean, above DEAD_ZONE / RELAY_GAIN. Nothing reaches the senders, hence nothing any
    position of the source.
    """
    for number in range(n_sources):
        source, layer = draft.take_source(), 1 + number % 2
        target = draft.take_target(layer)
        coefficient = float(draft.rng.uniform(0.2, 0.4)) * (-1) ** (number // 2)
        draft.connect(layer, 2 * N_FEATURES + source, target, coefficient)
        strength = RELAY_GAIN * coefficient
        draft.note((0, source), (layer, target), "attention", readout="other", strength=strength)


def plant_gated(draft: Draft, n_gates: int = 3) -> None:
    """target += strength * relu(source + gate - 2): both below 2 alone, so only where both are active.

    The gate is a state feature: on at all positions of half of the cells. Without it the target loses as much, so
    gate -> target is an edge as well.
    """
    for number in range(n_gates):
        source, gate, layer = draft.take_source(), N_REGULAR + N_RARE + number, 1 + number % 2
        target = draft.take_target(layer)
        coefficient = float(draft.rng.uniform(0.6, 1.0)) * (-1) ** (number // 2)
        draft.connect(layer, source, target, coefficient / 2)
        draft.mean[layer][source, target] = 0
        own = draft.directions.features
        reads = own[0, source] + own[0, gate]
        draft.units[layer].append((reads, -2.0, coefficient * own[layer, target]))
        draft.note((0, source), (layer, target), "gated", strength=coefficient)
        draft.note((0, gate), (layer, target), "gate", strength=coefficient)


def plant_saturated(draft: Draft, n_pairs: int = 3, ceiling: float = 0.8) -> None:
    """target += strength * min(relu(source + partner - DEAD_ZONE), ceiling): one active source reaches the ceiling.

    The partner is active at most genes of the source, and there the removal of one of them changes nothing.
    """
    for number in range(n_pairs):
        source, partner, layer = draft.take_source(), draft.take_source(), 1 + number % 2
        target = draft.take_target(layer)
        shared = (draft.drive[:, source] > 0) & (draft.rng.random(N_TOKENS) < 0.6)
        draft.drive[:, partner] *= draft.drive[:, source] == 0
        draft.drive[shared, partner] = draft.rng.uniform(1, 1.6, int(shared.sum()))
        coefficient = float(draft.rng.uniform(0.4, 0.8)) * (-1) ** number
        own = draft.directions.features
        reads, writes = own[0, source] + own[0, partner], coefficient * own[layer, target]
        draft.units[layer] += [(reads, -DEAD_ZONE, writes), (reads, -DEAD_ZONE - ceiling, -writes)]
        for feature in (source, partner):
            draft.connect(layer, feature, target, coefficient / 4)
            draft.mean[layer][feature, target] = 0
            draft.note((0, feature), (layer, target), "saturated", strength=coefficient)


def plant_rivals(draft: Draft, k: int) -> None:
    """Direct edges into autoencoders that let `k` features through, with a rival for the last place at every gene.

    k - 1 features of the layer are far above all others. The target of the edge and its rival are next, and which of
    them is active depends on the source, though nothing drives the rival: the autoencoder's bookkeeping, no edge.
    """
    for number, layer in enumerate((1, 2)):
        source, target, rival = draft.take_source(), draft.take_target(layer), draft.take_target(layer)
        level = draft.level[layer]
        middle = level[level > 0].mean()
        level /= 2
        for _ in range(k - 1):
            level[:, draft.take_target(layer)] *= 3
        coefficient = float(draft.rng.uniform(0.3, 0.4)) * (-1) ** number
        genes = level[:, target] > 0
        # about half of what a source of activation 1.3 adds
        level[genes, target], level[genes, rival] = middle - 0.65 * coefficient, middle
        draft.connect(layer, source, target, coefficient)
        draft.note((0, source), (layer, target), "direct", strength=coefficient)
        draft.note((0, source), (layer, rival), "rival", is_edge=False)


def plant_passthrough(draft: Draft, n_sources: int = 5) -> None:
    """Targets whose encoder has a component along the source's decoder: the removed vector persists, no edge."""
    for number in range(n_sources):
        source = draft.take_source()
        for layer in (1, 2):
            target = draft.take_target(layer)
            projection = float(draft.rng.uniform(0.1, 0.4)) * (-1) ** (number + layer)
            draft.projection[layer, source, target] = projection
            draft.note((0, source), (layer, target), "passthrough", projection=projection, is_edge=False)


def plant_opposed(draft: Draft, n_sources: int = 5) -> None:
    """Direct edges whose target encoder also reads the source's direction, the other way round and more strongly.

    Taking out the source moves the target against the sign of what is computed: an edge, but of which sign only shows
    when the part that merely persists is set apart.
    """
    for number in range(n_sources):
        source = draft.take_source()
        for layer in (1, 2):
            target = draft.take_target(layer)
            coefficient = float(draft.rng.uniform(0.2, 0.4)) * (-1) ** (number + layer)
            projection = -coefficient * float(draft.rng.uniform(1.5, 2.5))
            draft.connect(layer, source, target, coefficient)
            draft.projection[layer, source, target] = projection
            draft.note((0, source), (layer, target), "opposed", strength=coefficient, projection=projection)


def plant_cofiring(draft: Draft, n_copies: int = 4) -> None:
    """Features that are active with a source of an edge, at nine of ten of its genes, and drive nothing."""
    edges = [row for row in draft.truth if row.is_edge and row.source_layer == 0 and row.source_feature < N_REGULAR]
    sources = list(dict.fromkeys(row.source_feature for row in edges))
    for source in sources[:n_copies]:
        twin = draft.take_source()
        kept = draft.rng.random(N_TOKENS) < 0.9
        draft.drive[:, twin] = draft.drive[:, source] * kept
        for row in edges:
            if row.source_feature == source:
                target = (row.target_layer, row.target_feature)
                draft.note((0, twin), target, "cofiring", readout=row.readout, is_edge=False)


def plant_overlap(draft: Draft, overlap: float) -> None:
    """Let every target encoder read every layer-0 direction a little: |projection| is `overlap` on average."""
    drawn = draft.rng.standard_normal((2, N_FEATURES, N_FEATURES)) * overlap * np.sqrt(np.pi / 2)
    known = {(row.source_feature, row.target_layer, row.target_feature) for row in draft.truth if row.source_layer == 0}
    for layer, source, target in np.ndindex(2, N_FEATURES, N_FEATURES):
        if (source, layer + 1, target) not in known:
            projection = float(drawn[layer, source, target])
            draft.projection[layer + 1, source, target] = projection
            draft.note((0, source), (layer + 1, target), "passthrough", projection=projection, is_edge=False)
