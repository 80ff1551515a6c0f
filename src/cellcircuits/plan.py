"""What a run will cost: passes, arithmetic, memory and disk, before anything starts.

Arithmetic counts a multiplication and an addition as two operations. An autoencoder of F features costs 12 d F per
training position, a Matryoshka one, whose inner dictionaries are decoded too, 15 d F; a TopK one with few of its
features active 2 d F + 8 d k on a CPU (and where model.device is "auto"), where products with zeros are left out.
Processors that multiply bfloat16 need a fraction of the time for the 2 d F (`row_products`), which is not counted. What
a trace costs is in `trace_cost`.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from time import perf_counter

import numpy as np

from cellcircuits.annotate_memory import catalogue_bytes, structure_bytes
from cellcircuits.errors import SettingsError
from cellcircuits.model_shape import BYTES, ModelShape
from cellcircuits.settings import FINAL_BATCH, SPARSE_FEATURES_PER_ACTIVE, Settings, StructureSettings
from cellcircuits.trace_cost import StageCost, trace_costs
from cellcircuits.trace_memory import block_numbers, process_bytes
from cellcircuits.trace_work import block_operations, sae_layers


def cell_lengths(settings: Settings, shape: ModelShape) -> np.ndarray:
    """Tokens of each cell: counted where data and checkpoint are there, else the longest input for every cell.

    Raises
    ------
    SettingsError
        If the data are not there and the number of cells is not set.
    """
    from cellcircuits.cell_data import read_cells
    from cellcircuits.models import checkpoint_folder
    from cellcircuits.run_model import load_checked_model

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
        _quality_cost(settings, shape, lengths),
        _annotate_cost(settings, shape, lengths),
        _structure_cost(settings, shape, lengths),
        *trace_costs(settings, shape, lengths),
    ]


def training_tokens(settings: Settings, lengths: np.ndarray) -> tuple[int, int]:
    """Tokens that each autoencoder learns from, and how often; (0, 0) where trained ones are taken over."""
    if settings.train.saes:
        return 0, 0
    return int(_fitted(settings, lengths).sum()), settings.train.epochs * settings.train.repeats


def _fitted(settings: Settings, lengths: np.ndarray) -> np.ndarray:
    """Tokens of each training cell; which cells they are is drawn later, so that the first ones stand for them."""
    return lengths[: max(round(len(lengths) * (1 - settings.train.held_out)), 1)]


def _train_cost(settings: Settings, shape: ModelShape, lengths: np.ndarray) -> StageCost:
    train, layers = settings.train, sae_layers(settings, shape)
    n_features = train.expansion * shape.d_model
    sae_bytes = BYTES * len(layers) * 2 * shape.d_model * n_features
    n_models = (not train.saes) + train.random_weights
    # the model with random weights gets one seed
    n_trained = (0 if train.saes else train.n_seeds) + train.random_weights
    n_kept = (1 if train.saes else train.n_seeds) + train.random_weights
    if n_trained == 0:
        return StageCost("train", 0, 0.0, shape.weight_bytes + sae_bytes, sae_bytes)
    fitted = _fitted(settings, lengths)
    depth = max(layers) + 1
    forward = depth * block_operations(shape, fitted) * train.epochs
    learning = _step_operations(settings, shape.d_model) * len(layers) * fitted.sum() * train.epochs * train.repeats
    batch = float(fitted.max()) * train.model_batch
    # a batch of cells fills the buffer, so it may hold a batch more than asked for
    buffer = BYTES * min(train.buffer_positions + batch, fitted.sum() * train.epochs) * shape.d_model * len(layers)
    # weights, gradients and two moments of Adam; the buffer is held twice while it is put together
    seeds = 1 if train.saes else train.n_seeds
    memory = shape.weight_bytes + BYTES * batch * block_numbers(shape) + 4 * seeds * sae_bytes + 2 * buffer
    memory += 4 * BYTES * train.batch_positions * n_features
    # the first model and its autoencoders stay in memory while the others are trained
    memory += train.random_weights * (shape.weight_bytes + seeds * sae_bytes)
    # weights and two moments of Adam are saved until the stage is done
    disk = (n_kept + 3 * n_trained) * sae_bytes
    passes = n_models * len(fitted) * train.epochs
    return StageCost("train", passes, n_models * forward + n_trained * learning, memory, disk)


def _step_operations(settings: Settings, width: int) -> float:
    """Operations of a training step per position and autoencoder."""
    train, n_features = settings.train, settings.train.expansion * width
    if _leaves_out_zeros(settings, width):
        return width * (2.0 * n_features + 8.0 * train.k)
    return (15.0 if train.architecture == "matryoshka" else 12.0) * width * n_features


def _leaves_out_zeros(settings: Settings, width: int) -> bool:
    train = settings.train
    few = train.expansion * width >= SPARSE_FEATURES_PER_ACTIVE * train.k
    return train.architecture == "topk" and few and not settings.model.device.startswith("cuda")


def training_estimates_products(settings: Settings, shape: ModelShape) -> bool:
    """Whether training takes less than its operations say on this processor, which multiplies bfloat16."""
    from cellcircuits.row_products import estimates_first

    train = settings.train
    estimated = estimates_first(train.expansion * shape.d_model, train.k)
    return not train.saes and _leaves_out_zeros(settings, shape.d_model) and estimated


def _quality_cost(settings: Settings, shape: ModelShape, lengths: np.ndarray) -> StageCost:
    """The pass over held-out cells, and those in which reconstructions are put into the model."""
    train, layers = settings.train, sae_layers(settings, shape)
    n_features = train.expansion * shape.d_model
    n_models = 1 + train.random_weights
    # drawn at random; the last ones stand for them
    held_out = lengths[-max(round(len(lengths) * train.held_out), 1) :]
    n_final = min(train.quality_cells, len(held_out))
    final = held_out[np.linspace(0, len(held_out) - 1, n_final).astype(int)]
    operations = (max(layers) + 1) * block_operations(shape, held_out)
    others = (train.n_seeds - 1) if not train.saes else 0
    per_position = 2.0 * shape.d_model * n_features * len(layers)
    # encoding, and the products of all dimensions
    operations += (per_position + 2.0 * shape.d_model**2 * len(layers)) * held_out.sum()
    above = sum(shape.n_layers - 1 - layer for layer in layers)
    spliced = (shape.n_layers + 2 * above) * block_operations(shape, final) + per_position * final.sum()
    # once for the final state, once more with masked genes for the loss
    spliced *= 2
    batch = float(lengths.max())
    held = train.model_batch * (block_numbers(shape) + len(layers) * shape.d_model + n_features)
    in_model = FINAL_BATCH * (block_numbers(shape) + (len(layers) + 4) * shape.d_model + n_features)
    sae_bytes = BYTES * len(layers) * 2 * shape.d_model * n_features
    memory = shape.weight_bytes + (1 + others) * sae_bytes + BYTES * batch * max(held, in_model)
    memory += 8 * len(layers) * shape.d_model**2 + train.random_weights * shape.weight_bytes
    total = n_models * (operations + spliced) + others * per_position * held_out.sum()
    passes = n_models * (len(held_out) + 2 * len(final) * (1 + 2 * len(layers)))
    return StageCost("train", passes, total, memory, 0.0, "quality")


def _annotate_cost(settings: Settings, shape: ModelShape, lengths: np.ndarray) -> StageCost:
    n_cells = min(settings.annotate.max_cells or len(lengths), len(lengths))
    used, layers = lengths[:n_cells], sae_layers(settings, shape)
    n_features = settings.train.expansion * shape.d_model
    operations = (max(layers) + 1) * block_operations(shape, used)
    operations += 2.0 * shape.d_model * n_features * len(layers) * used.sum()
    operations += 2.0 * shape.d_model**2 * len(settings.annotate.baselines) * len(layers) * used.sum()
    n_models = 1 + settings.train.random_weights
    memory = catalogue_bytes(settings, shape, used)
    disk = 300.0 * n_features * len(layers) * 10
    # each baseline has half as many features as a dictionary with an expansion of 4
    n_tables = n_models + 2 * len(settings.annotate.baselines) / settings.train.expansion
    return StageCost("annotate", n_models * n_cells, n_models * operations, memory, n_tables * disk)


def _structure_cost(settings: Settings, shape: ModelShape, lengths: np.ndarray) -> StageCost:
    """What `cellcircuits structure` would take with its defaults; no stage of a run."""
    structure, layers = StructureSettings(), sae_layers(settings, shape)
    used = lengths[: min(structure.max_cells or len(lengths), len(lengths))]
    n_features = settings.train.expansion * shape.d_model
    operations = (max(layers) + 1) * block_operations(shape, used)
    operations += 2.0 * shape.d_model * n_features * len(layers) * used.sum()
    # pairs of active features, within a layer and with the next
    operations += 4.0 * settings.train.k**2 * len(layers) * used.sum()
    memory = structure_bytes(settings, shape, used, structure)
    return StageCost("structure", len(used), operations, memory, 300.0 * n_features * len(layers), "if asked")


def interpreter_bytes() -> int:
    """Memory of this process with everything loaded that a trace loads: measured, to be added to what a stage takes."""
    import pandas as pd

    import cellcircuits.stages.trace  # noqa: F401 - for its libraries

    file = BytesIO()
    pd.DataFrame({"column": [0]}).to_parquet(file)  # tables are read by a library that loads more when it is used
    pd.read_parquet(file)
    return process_bytes()


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
