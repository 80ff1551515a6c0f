"""Making the plans of a trace: which features in which cells, what serves as control, what is traced twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from cellcircuits.errors import SettingsError, listed
from cellcircuits.moments import ALL
from cellcircuits.selection import (
    default_source_layers,
    evenly_spread,
    match_firing_rates,
    matched_pairs,
    pair_by_firing_rate,
    pick_sources,
    select_cells,
)
from cellcircuits.settings import EVERYWHERE, FOLD, TraceSettings
from cellcircuits.tokens import Tokens
from cellcircuits.trace_plan import (
    CONTROL_READOUTS,
    MEGABYTE,
    Sources,
    TracePlan,
    bytes_per_source,
    split_into_blocks,
)


def make_plan(
    tokens: Tokens, features: pd.DataFrame, settings: TraceSettings, n_layers: int, inputs: dict[str, str]
) -> TracePlan:
    """Draw cells, pick sources and split them into blocks.

    `features` has a row for every feature; layers without features have no autoencoder.

    Raises
    ------
    SettingsError, DataError
        If layers, labels or numbers do not fit the run.
    """
    widths = {int(layer): int(size) for layer, size in features.groupby("layer").size().items()}
    targets = _targets(sorted(widths), settings, n_layers)
    n_cells = 0 if settings.n_cells >= len(tokens) else settings.n_cells
    rows = select_cells(tokens.obs, {}, n_cells, settings.stratify_by, settings.seed)
    rng = np.random.default_rng(settings.seed)
    of_layer = {layer: features[features["layer"] == layer] for layer in targets}
    sources = {layer: [int(f) for f in pick_sources(table, settings, rng)] for layer, table in of_layer.items()}
    empty = [layer for layer, chosen in sources.items() if not chosen]
    if empty:
        raise SettingsError(
            f"No feature of layer {listed(empty)} can be a source (select = {settings.select!r}, "
            f"min_firing_rate = {settings.min_firing_rate}). Lower min_firing_rate or choose another `select`."
        )
    partners = {}
    if settings.select == "matched":
        pairs = {layer: matched_pairs(table, settings) for layer, table in of_layer.items()}
        partners = {layer: found | {b: a for a, b in found.items()} for layer, found in pairs.items()}
    groups, group_of = _groups(tokens, rows, settings)
    n_tokens = len(tokens.gene_ids) if set(EVERYWHERE) & set(settings.readouts) else 0
    source_bytes = _source_bytes(widths, targets, len(settings.readouts) * len(groups), n_tokens)
    return TracePlan(
        cells=[int(row) for row in rows],
        blocks=split_into_blocks(sources, source_bytes, settings.block_megabytes * MEGABYTE),
        targets=targets,
        cells_per_part=settings.cells_per_part,
        context="exact" if settings.context == "exact" else "frozen",
        readouts=list(settings.readouts),
        threads=settings.threads,
        inputs=inputs,
        groups=groups,
        group_of=group_of,
        seed=settings.seed,
        partners=partners,
    )


def control_plan(
    main: TracePlan, features: pd.DataFrame, settings: TraceSettings, has_frozen_context: bool
) -> TracePlan | None:
    """The plan of the control directions, which holds the sources' own as well; None where none are asked for.

    A frozen context makes many directions affordable. Where the model has none, they are traced exactly.
    """
    if settings.n_controls == 0:
        return None
    exact = settings.control_context == "exact" or not has_frozen_context
    readouts = CONTROL_READOUTS + (["other"] if exact and "other" in settings.readouts else [])
    widths = {int(layer): int(size) for layer, size in features.groupby("layer").size().items()}
    n_sums = len(readouts) * (1 + settings.n_controls)
    source_bytes = _source_bytes(widths, main.targets, n_sums)
    matched = {
        layer: match_firing_rates(features[features["layer"] == layer], chosen, settings.matched_features)
        for layer, chosen in main.sources.items()
    }
    cells = [main.cells[i] for i in evenly_spread(len(main.cells), settings.control_cells or len(main.cells))]
    return replace(
        main,
        cells=cells,
        blocks=split_into_blocks(main.sources, source_bytes, settings.block_megabytes * MEGABYTE),
        cells_per_part=max(main.cells_per_part, -(-len(cells) // settings.control_parts)),
        context="exact" if exact else "frozen",
        readouts=readouts,
        groups=[ALL],
        group_of=[0] * len(cells),
        n_random=settings.random_directions,
        matched=matched,
    )


def random_weights_plan(
    main: TracePlan,
    controls: TracePlan | None,
    features: pd.DataFrame,
    random_features: pd.DataFrame,
    settings: TraceSettings,
) -> TracePlan:
    """The plan of the model with random weights: as many sources of each layer, which fire as often, in the same cells.

    Context, readouts and groups are those of the sources that they are compared with: as they are traced among the
    `controls`, or, without any, by `main`. `random_features` has a row for every feature on random weights.

    Raises
    ------
    SettingsError
        If too few features fire on random weights.
    """
    partners: dict[int, dict[int, int]] = {}
    for layer, chosen in main.sources.items():
        own = features[(features["layer"] == layer) & features["feature"].isin(chosen)]
        firing = random_features[(random_features["layer"] == layer) & (random_features["n_firings"] > 0)]
        if len(firing) < len(own):
            raise SettingsError(
                f"Layer {layer} has {len(own)} sources to be compared with as many on random weights, where only "
                f"{len(firing)} features fire. Lower trace.n_features, or set train.random_weights = false."
            )
        partners[layer] = {other: feature for feature, other in pair_by_firing_rate(own, firing).items()}
    like = controls or main
    sources = {layer: sorted(pairs) for layer, pairs in partners.items()}
    widths = {int(layer): int(size) for layer, size in random_features.groupby("layer").size().items()}
    source_bytes = _source_bytes(widths, main.targets, len(like.readouts) * len(like.groups))
    return replace(
        like,
        blocks=split_into_blocks(sources, source_bytes, settings.block_megabytes * MEGABYTE),
        cells_per_part=main.cells_per_part,
        n_random=0,
        matched={},
        partners=partners,
        random_weights=True,
    )


def sample_plans(main: TracePlan, settings: TraceSettings) -> dict[str, TracePlan]:
    """A few sources in a few cells, evenly spread, in both contexts: what a frozen trace is measured against."""
    chosen = [main.cells[i] for i in evenly_spread(len(main.cells), settings.fidelity_cells)]
    rng = np.random.default_rng(settings.seed)
    sources = {
        layer: sorted(
            int(f) for f in rng.choice(all_of, size=min(settings.fidelity_sources, len(all_of)), replace=False)
        )
        for layer, all_of in main.sources.items()
    }
    few = replace(
        main,
        cells=chosen,
        blocks=[sources],
        groups=[ALL],
        group_of=[0] * len(chosen),
    )
    return {"exact": replace(few, context="exact"), "frozen": few}


def restricted(main: TracePlan, sources: Sources) -> TracePlan:
    """The exact plan of some of the sources, in the same blocks (which may become empty)."""
    kept = {layer: set(chosen) for layer, chosen in sources.items()}
    blocks = [
        {layer: chosen for layer, all_of in block.items() if (chosen := [f for f in all_of if f in kept[layer]])}
        for block in main.blocks
    ]
    return replace(main, blocks=blocks, context="exact")


def _source_bytes(
    widths: dict[int, int], targets: dict[int, list[int]], n_sums: int, n_tokens: int = 0
) -> dict[int, int]:
    """{source layer: bytes of the sums of one source}, for `n_sums` readouts, groups and directions together."""
    n_targets = {layer: sum(widths[t] for t in chosen) for layer, chosen in targets.items()}
    return {layer: bytes_per_source(number, n_sums, n_tokens) for layer, number in n_targets.items()}


def _groups(tokens: Tokens, rows: np.ndarray, settings: TraceSettings) -> tuple[list[str], list[int]]:
    """(names, group of each traced cell)."""
    if not settings.group_by:
        return [ALL], [0] * len(rows)
    if settings.group_by == FOLD:
        rng = np.random.default_rng([settings.seed, settings.n_folds])
        number = rng.permutation(np.arange(len(rows)) % settings.n_folds)
        return [f"fold {i}" for i in range(settings.n_folds)], [int(i) for i in number]
    if settings.group_by not in tokens.obs:
        raise SettingsError(
            f"trace.group_by = {settings.group_by!r} is no column of obs; it has {listed(tokens.obs.columns, 12)}."
        )
    labels = tokens.obs[settings.group_by].iloc[rows].astype(str)
    names = sorted(labels.unique())
    return names, [names.index(label) for label in labels]


def _targets(layers: list[int], settings: TraceSettings, n_layers: int) -> dict[int, list[int]]:
    """{source layer: target layers}, from the layers that have an autoencoder."""
    source_layers = settings.source_layers or default_source_layers(layers, n_layers)
    unknown = sorted({*source_layers, *settings.target_layers} - set(layers))
    if unknown:
        raise SettingsError(f"Layer {listed(unknown)} has no autoencoder; there are some for {layers}.")
    targets = {}
    for layer in source_layers:
        above = [t for t in layers if t > layer]
        targets[layer] = [t for t in (settings.target_layers or above) if t in above]
        if not targets[layer]:
            raise SettingsError(f"There is no layer to measure above source layer {layer} (autoencoders: {layers}).")
    return targets
