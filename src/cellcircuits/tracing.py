"""Tracing: the ablations of many source features in many cells, summed over cells.

For cell c, source f (active at positions S) and target t of a layer above, x(c, f, t) is what `readouts` measures; kept
are sums of x over cells, for all targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from cellcircuits.ablate import AblationEffects, Tracer
from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.controls import control_directions, direction_names
from cellcircuits.errors import SettingsError
from cellcircuits.models.base import Model
from cellcircuits.moments import ALL, GENE_STATISTICS, OWN, Moments
from cellcircuits.sae import check_saes
from cellcircuits.settings import Readout, TraceSettings
from cellcircuits.tokens import Tokens


@dataclass(frozen=True)
class Groups:
    """Groups of cells with sums of their own."""

    names: tuple[str, ...]
    index: np.ndarray
    """int (cell,): group of each cell."""


def trace_cells(
    model: Model,
    cells: Tokens,
    saes: dict[int, SparseAutoencoder],
    sources: dict[int, np.ndarray],
    targets: dict[int, list[int]],
    settings: TraceSettings,
    groups: Groups | None = None,
    directions: dict[int, torch.Tensor] | None = None,
    direction_names: tuple[str, ...] = (OWN,),
) -> dict[int, Moments]:
    """Trace the `sources` {layer: features} of several layers in all `cells`; one clean pass per cell serves all.

    Returns {source layer: Moments}. `targets` is {source layer: target layers}. Of the settings only `readouts`,
    `batch_size` and `context` matter here. `directions` {source layer: (source, direction, d_model)}, named by
    `direction_names`, are removed in place of the features' own.
    """
    tracer = Tracer(model, saes, settings)
    groups = groups or Groups((ALL,), np.zeros(len(cells), dtype=np.int64))
    n_tokens = 0
    if tracer.everywhere and direction_names == (OWN,):  # sums by gene are of the sources' own directions alone
        n_tokens = len(cells.gene_ids) or int(cells.ids.max()) + 1
    moments = {
        layer: Moments.zeros(
            layer,
            features,
            {t: saes[t].n_features for t in targets[layer]},
            groups.names,
            tuple(settings.readouts),
            direction_names,
            n_tokens,
        )
        for layer, features in sources.items()
    }
    every_target = sorted({t for chosen in targets.values() for t in chosen})
    for row in range(len(cells)):
        clean = tracer.clean_pass(cells.take([row]), list(sources), every_target)
        for layer, features in sources.items():
            vectors = None if directions is None else directions[layer]
            for effects in tracer.ablate(clean, layer, features, targets[layer], vectors):
                _accumulate(moments[layer], effects, clean.states.cell, int(groups.index[row]))
        del clean  # before the states of the next cell are made
    return moments


def _accumulate(moments: Moments, effects: AblationEffects, cell: Tokens, group: int) -> None:
    """Add one cell's effects on one target layer in place."""
    rows, others = effects.rows, cell.gene_mask[0] & ~(effects.removed > 0)
    highest, sums = effects.layer == max(moments.sums), moments.sums[effects.layer]
    for readout, name in enumerate(moments.readouts):
        # a cell in which the source is active at every gene position has no others
        seen = np.flatnonzero(others.any(axis=1)) if name == "other" else np.arange(len(rows))
        # once for all target layers
        moments.n_cells[group, readout, rows[seen]] += highest
        values = effects.delta[readout]
        observed = (values, values**2, values > 0, values < 0, effects.clean[readout])
        for statistic, value in enumerate(observed):
            # row by row: all at once, numpy makes copies of them, which takes five times as long
            into = sums[statistic, group, readout]
            for index in seen:
                into[rows[index]] += value[index]
    if moments.genes is not None and effects.changed is not None:
        genes = dict(zip(GENE_STATISTICS, moments.genes, strict=True))
        copy, position = np.nonzero(effects.removed > 0)
        where = rows[copy], cell.ids[0, position]
        genes["n_removed"][where] += 1
        genes["sum_removed"][where] += effects.removed[copy, position]
        copy, position = np.nonzero(others)
        where, change = (rows[copy], cell.ids[0, position]), effects.changed[copy, position]
        genes["n_changed"][where] += 1
        genes["sum_change"][where] += change
        genes["sum_squared_change"][where] += change**2


def trace(
    model: Model,
    cells: Tokens,
    saes: dict[int, SparseAutoencoder],
    source_layer: int,
    features: Sequence[int],
    target_layers: Sequence[int] | None = None,
    *,
    batch_size: int = TraceSettings.batch_size,
    context: Literal["exact", "frozen"] = "exact",
    readouts: Sequence[Readout] | None = None,
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
    readouts
        What is measured, and where: see the module `readouts`; None: those of `TraceSettings`.

    Raises
    ------
    SettingsError
        If a layer has no autoencoder, a target is not above the source, or a feature does not exist.
    ModelError
        If an autoencoder does not fit the model, or a hidden state is NaN or infinite.
    """
    chosen, targets = _checked(model, cells, saes, source_layer, features, target_layers)
    settings = TraceSettings(batch_size=batch_size, context=context)
    if readouts is not None:
        settings = replace(settings, readouts=list(readouts))
    return trace_cells(model, cells, saes, {source_layer: chosen}, {source_layer: targets}, settings)[source_layer]


def _checked(
    model: Model,
    cells: Tokens,
    saes: dict[int, SparseAutoencoder],
    source_layer: int,
    features: Sequence[int],
    target_layers: Sequence[int] | None,
) -> tuple[np.ndarray, list[int]]:
    """(features, target layers), if model, cells and autoencoders fit and have them."""
    known = any(sae.info.get("model_fingerprint") for sae in saes.values())
    fingerprint = model.fingerprint() if known else ""
    check_saes(saes, model.d_model, model.n_layers, cells.info.get("input_mode", ""), fingerprint)
    targets = targets_above(source_layer, target_layers, saes)
    chosen = np.asarray(features, dtype=np.int64)
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < saes[source_layer].n_features:
        raise SettingsError(f"Features of layer {source_layer} are 0 to {saes[source_layer].n_features - 1}.")
    return chosen, targets


def targets_above(
    source_layer: int, target_layers: Sequence[int] | None, saes: dict[int, SparseAutoencoder]
) -> list[int]:
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


def trace_controls(
    model: Model,
    cells: Tokens,
    saes: dict[int, SparseAutoencoder],
    source_layer: int,
    features: Sequence[int],
    target_layers: Sequence[int] | None = None,
    *,
    n_random: int = TraceSettings.random_directions,
    matched: np.ndarray | None = None,
    context: Literal["exact", "frozen"] = "frozen",
    readouts: Sequence[Readout] = ("source", "computed"),
    seed: int = 0,
) -> Moments:
    """Remove, in place of each feature, its own direction and random ones of the same norm: the controls of `edges`.

    Each direction is fixed over positions and cells. The arguments are those of `trace`; `n_random` is the number of
    random directions, `matched` (source, number) holds features whose decoder directions serve as controls of each
    source as well. In a run, `trace.random_directions` and `trace.matched_features` do the same.

    Returns
    -------
    Moments
        With several directions per source: "own", "random 0", ..., "feature 0", ...

    Raises
    ------
    SettingsError, ModelError
        As `trace` does.
    """
    chosen, targets = _checked(model, cells, saes, source_layer, features, target_layers)
    settings = replace(TraceSettings(context=context), readouts=list(readouts))
    matched = np.zeros((len(chosen), 0), dtype=np.int64) if matched is None else matched
    vectors = {source_layer: control_directions(saes[source_layer], source_layer, chosen, matched, n_random, seed)}
    sources, above, names = {source_layer: chosen}, {source_layer: targets}, direction_names(n_random, matched.shape[1])
    return trace_cells(model, cells, saes, sources, above, settings, None, vectors, names)[source_layer]
