"""What a run will cost: passes, arithmetic, memory and disk, before anything starts.

Arithmetic counts a multiplication and an addition as two operations. Per position and block of width d, feed-forward
width f, in a cell of P positions: 8 d^2 + 4 d f for the weights, 4 P d for attention. An autoencoder of F features
costs 2 d F to encode a position, and 12 d F per training position. Every source is taken to be active in every cell,
at k of F positions, as an average feature is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from cellcircuits.checkpoints import read_json
from cellcircuits.errors import SettingsError
from cellcircuits.moments import STATISTICS
from cellcircuits.selection import default_source_layers
from cellcircuits.settings import FEW_CHANGED, Settings

BYTES = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model that decide its cost."""

    n_layers: int
    d_model: int
    d_feedforward: int
    n_tokens: int
    max_length: int

    @property
    def weight_bytes(self) -> int:
        """Size of the weights."""
        per_layer = 4 * self.d_model**2 + 2 * self.d_model * self.d_feedforward
        return BYTES * (self.n_layers * per_layer + (self.n_tokens + self.max_length) * self.d_model)


PUBLISHED_SHAPES = {
    "V1-10M": ModelShape(6, 256, 512, 25426, 2048),
    "V1-12L": ModelShape(12, 512, 1024, 25426, 2048),
    "V2-104M": ModelShape(12, 768, 3072, 20275, 4096),
    "V2-316M": ModelShape(18, 1152, 4608, 20275, 4096),
    "whole-human": ModelShape(12, 512, 512, 60697, 1200),
}
"""Sizes by `model.variant`; from the published config.json and args.json files."""


@dataclass(frozen=True)
class StageCost:
    """Cost of one stage."""

    stage: str
    passes: int
    """Cells times forward passes (an ablated copy of a cell counts as one pass, even if it starts half-way up)."""
    operations: float
    memory_bytes: float
    disk_bytes: float


def model_shape(settings: Settings) -> ModelShape:
    """The shape of the settings' model: from its files, or from `variant` where there are none.

    Raises
    ------
    SettingsError
        If neither says it.
    """
    from cellcircuits.models import checkpoint_folder

    model = settings.model
    # without a path there is no checkpoint, whatever lies in the current folder
    folder = checkpoint_folder(model.family, model.path) if model.path else None
    if folder and (folder / "config.json").exists():
        names = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings")
        return ModelShape(*_sizes(folder / "config.json", names))
    if folder and (folder / "args.json").exists():
        n_layers, d_model, d_feedforward = _sizes(folder / "args.json", ("nlayers", "embsize", "d_hid"))
        longest = int(read_json(folder / "args.json").get("max_seq_len", 1200))
        return ModelShape(n_layers, d_model, d_feedforward, len(read_json(folder / "vocab.json")), longest)
    if model.variant in PUBLISHED_SHAPES:
        return PUBLISHED_SHAPES[model.variant]
    where = f"there is no checkpoint at {folder}" if folder else "model.path is not set"
    raise SettingsError(
        f"The size of the model is unknown: {where}, and model.variant = {model.variant!r} is none of "
        f"{', '.join(PUBLISHED_SHAPES)}. Set either."
    )


def _sizes(path: Path, names: tuple[str, ...]) -> list[int]:
    content = read_json(path)
    absent = [name for name in names if name not in content]
    if absent:
        raise SettingsError(f"{path} lacks {', '.join(absent)}; is it the checkpoint's?")
    return [int(content[name]) for name in names]


def cell_lengths(settings: Settings, shape: ModelShape) -> np.ndarray:
    """Tokens of each cell: counted where data and checkpoint are there, else the longest input for every cell.

    Raises
    ------
    SettingsError
        If the data are not there and the number of cells is not set.
    """
    from cellcircuits.models import checkpoint_folder
    from cellcircuits.stages.cells import load_checked_model, read_cells

    model, cells = settings.model, settings.cells
    have_data = cells.data == "demo" or Path(cells.data).is_file()
    if have_data and model.path and checkpoint_folder(model.family, model.path).exists():
        return load_checked_model(model).tokenize(read_cells(cells), cells).lengths
    n_cells = cells.n_cells or (len(read_cells(cells)) if have_data else 0)
    if n_cells == 0:
        where = f"there is no file {cells.data}" if cells.data else "cells.data is not set"
        raise SettingsError(f"The number of cells is unknown: {where}, and cells.n_cells is 0.")
    longest = min(shape.max_length, cells.max_length or shape.max_length)
    if cells.input_mode == "published":
        longest = min(longest, 2048)
    return np.full(n_cells, longest)


def estimate(settings: Settings, shape: ModelShape, lengths: np.ndarray) -> list[StageCost]:
    """Cost of each stage that runs the model."""
    return [
        _train_cost(settings, shape, lengths),
        _annotate_cost(settings, shape, lengths),
        _trace_cost(settings, shape, lengths),
    ]


def _block_operations(shape: ModelShape, lengths: np.ndarray) -> float:
    """Operations of one block over cells of these lengths."""
    d = shape.d_model
    per_position = 8 * d**2 + 4 * d * shape.d_feedforward
    return float((lengths * per_position + 4 * lengths.astype(float) ** 2 * d).sum())


def _frozen_block_operations(shape: ModelShape, lengths: np.ndarray, share: float) -> float:
    """Operations of one block for ablated copies of which a share of the positions is carried upward."""
    d, read = shape.d_model, lengths * share
    return float((read * (8 * d**2 + 4 * d * shape.d_feedforward) + 4 * read * (lengths + read) * d).sum())


def _exact_operations(shape: ModelShape, lengths: np.ndarray, share: float, above: int) -> float:
    """Operations of `above` blocks for ablated copies of which a share of the positions is changed and read."""
    d, feedforward = shape.d_model, 4 * shape.d_model * shape.d_feedforward
    if above == 1:
        return _frozen_block_operations(shape, lengths, share)
    block, read = _block_operations(shape, lengths), lengths * share
    last = lengths * 4 * d**2 + read * (4 * d**2 + feedforward + 4 * lengths * d)
    if share > FEW_CHANGED:
        return float((above - 1) * block + last.sum())
    first = lengths * (2 * d**2 + feedforward + 8 * read * d) + read * (6 * d**2 + 4 * (lengths + read) * d)
    return float(first.sum() + (above - 2) * block + last.sum())


def _clean_attention_operations(shape: ModelShape, lengths: np.ndarray, share: float, above: int) -> float:
    """Operations, once per cell, of what copies share in the first block above their source in an exact context."""
    d = shape.d_model
    if above == 1:
        return float((lengths * 4 * d**2).sum())
    if share > FEW_CHANGED:
        return 0.0
    return float((lengths * (6 * d**2 + 4 * lengths.astype(float) * d)).sum())


def _batch_bytes(shape: ModelShape, positions: float) -> float:
    """Memory of one block's activations: input, qkv, attention output, feed-forward, result."""
    return BYTES * positions * (6 * shape.d_model + 2 * shape.d_feedforward)


def _sae_layers(settings: Settings, shape: ModelShape) -> list[int]:
    return sorted(set(settings.train.layers)) or list(range(shape.n_layers))


def _train_cost(settings: Settings, shape: ModelShape, lengths: np.ndarray) -> StageCost:
    train, layers = settings.train, _sae_layers(settings, shape)
    n_features = train.expansion * shape.d_model
    sae_bytes = BYTES * len(layers) * 2 * shape.d_model * n_features
    if train.saes:
        return StageCost("train", 0, 0.0, shape.weight_bytes + sae_bytes, sae_bytes)
    fitted = lengths[: max(round(len(lengths) * (1 - train.held_out)), 1)]
    depth = max(layers) + 1
    forward = depth * _block_operations(shape, fitted) * train.epochs
    learning = 12.0 * shape.d_model * n_features * len(layers) * fitted.sum() * train.epochs
    batch = float(fitted.max()) * train.model_batch
    # a batch of cells fills the buffer, so it may hold a batch more than asked for
    buffer = BYTES * min(train.buffer_positions + batch, fitted.sum() * train.epochs) * shape.d_model * len(layers)
    # weights, gradients and two moments of Adam; the buffer is held twice while it is put together
    memory = shape.weight_bytes + _batch_bytes(shape, batch) + 4 * sae_bytes + 2 * buffer
    memory += 4 * BYTES * train.batch_positions * n_features
    return StageCost("train", len(fitted) * train.epochs, forward + learning, memory, sae_bytes)


def _annotate_cost(settings: Settings, shape: ModelShape, lengths: np.ndarray) -> StageCost:
    n_cells = min(settings.annotate.max_cells or len(lengths), len(lengths))
    used, layers = lengths[:n_cells], _sae_layers(settings, shape)
    n_features = settings.train.expansion * shape.d_model
    operations = (max(layers) + 1) * _block_operations(shape, used)
    operations += 2.0 * shape.d_model * n_features * len(layers) * used.sum()
    batch = float(lengths.max()) * settings.train.model_batch
    memory = (
        shape.weight_bytes + _batch_bytes(shape, batch) + BYTES * batch * (len(layers) * shape.d_model + n_features)
    )
    return StageCost("annotate", n_cells, operations, memory, 300.0 * n_features * len(layers) * 10)


def _trace_cost(settings: Settings, shape: ModelShape, lengths: np.ndarray) -> StageCost:
    trace, layers = settings.trace, _sae_layers(settings, shape)
    n_cells = min(trace.n_cells or len(lengths), len(lengths))
    used = lengths[np.linspace(0, len(lengths) - 1, n_cells).astype(int)]
    n_features, k = settings.train.expansion * shape.d_model, settings.train.k
    n_sources = n_features if trace.select == "all" else min(trace.n_features, n_features)
    sources = trace.source_layers or default_source_layers(layers, shape.n_layers)
    measured = {*sources, *(trace.target_layers or layers)}
    encoding = 2.0 * shape.d_model * n_features * used.sum()
    frozen, share = trace.context == "frozen", k / n_features
    operations, values = (max(measured) + 1) * _block_operations(shape, used) + len(measured) * encoding, 0.0
    if frozen:
        # clean keys and values of the layers above the lowest source, once per cell
        operations += (max(measured) - min(sources)) * 4.0 * shape.d_model**2 * used.sum()
    for source in sources:
        targets = [t for t in (trace.target_layers or layers) if t > source]
        above = max(targets, default=source) - source
        if frozen:
            operations += n_sources * above * _frozen_block_operations(shape, used, share)
        elif above:
            operations += n_sources * _exact_operations(shape, used, share, above)
            operations += _clean_attention_operations(shape, used, share, above)
        operations += n_sources * len(targets) * encoding * share
        values += n_sources * len(targets) * n_features
    moments = 8.0 * len(STATISTICS) * values
    longest = int(lengths.max())
    batch = float(longest * trace.copies_per_pass(longest))
    memory = shape.weight_bytes + BYTES * len(layers) * 2 * shape.d_model * n_features + 2 * moments
    memory += _batch_bytes(shape, batch)
    n_parts = -(-n_cells // trace.cells_per_part)
    passes = n_cells * (1 + n_sources * len(sources))
    return StageCost("trace", passes, operations, memory, moments * (1 + n_parts))


def matmul_rate(seconds: float = 0.3) -> float:
    """Operations per second of a float32 matrix product on this machine's default device, measured now."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 4096 if device == "cuda" else 768
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    (a @ b).sum().item()
    started, done = perf_counter(), 0
    while perf_counter() - started < seconds:
        (a @ b).sum().item()
        done += 1
    return done * 2.0 * size**3 / (perf_counter() - started)
