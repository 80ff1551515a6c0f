"""Run folders that are ready to trace, made up of random numbers: quick, and as large as a test wants them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from cellcircuits.autoencoders import TopKSAE
from cellcircuits.model_shape import ModelShape
from cellcircuits.models.geneformer import CONFIG_DEFAULTS, Geneformer
from cellcircuits.run import Run, create_run
from cellcircuits.run_model import load_checked_model
from cellcircuits.settings import settings_from_dict
from cellcircuits.tables import TABLES, make_table, write_table
from cellcircuits.tokens import Tokens, save_tokens

D_HEAD = 64
SHORT_RUN: dict[str, dict] = {
    "model": {"family": "scgpt", "path": "demo", "device": "cpu"},
    "cells": {"data": "demo", "n_cells": 60},
    "train": {"epochs": 1, "k": 8, "expansion": 2, "batch_positions": 512, "buffer_positions": 4096},
    "annotate": {"null_draws": 5},
    "trace": {"select": "frequent", "source_layers": [0, 1], "n_features": 3, "n_cells": 40},
}
"""Settings of a run of the small scGPT-format model that takes seconds."""


def random_checkpoint(folder: Path, shape: ModelShape) -> None:
    """Write a Geneformer of this shape with random weights."""
    folder.mkdir(parents=True)
    config = {
        "num_hidden_layers": shape.n_layers,
        "hidden_size": shape.d_model,
        "num_attention_heads": max(1, shape.d_model // D_HEAD),
        "intermediate_size": shape.d_feedforward,
        "vocab_size": shape.n_tokens,
        "max_position_embeddings": shape.max_length,
    }
    torch.manual_seed(0)
    save_file(Geneformer(CONFIG_DEFAULTS | config).to_checkpoint(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def random_cells(shape: ModelShape, n_cells: int, length: int) -> Tokens:
    """Cells of so many random genes, in the vocabulary of the shape."""
    rng = np.random.default_rng(0)
    made = Tokens.from_ids([rng.choice(np.arange(4, shape.n_tokens), length, replace=False) for _ in range(n_cells)])
    names = np.array(["", "", "", "", *(f"G{i}" for i in range(4, shape.n_tokens))])
    object.__setattr__(made, "gene_ids", names)
    object.__setattr__(made, "gene_symbols", names)
    return made


def random_sae(activations: torch.Tensor, n_features: int, k: int) -> TopKSAE:
    """Random unit directions, centred on the activations (position, d_model)."""
    width = activations.shape[1]
    directions = torch.nn.functional.normalize(torch.randn(n_features, width), dim=1)
    zeros, mean = torch.zeros(n_features), activations.mean(dim=0)
    sae = TopKSAE(width, n_features, k)
    sae.load_state_dict({"W_enc": directions.T, "W_dec": directions, "b_enc": zeros, "b_dec": mean, "b_in": mean})
    return sae.requires_grad_(False)


def random_features(n_layers: int, n_features: int, firing_rate: float) -> pd.DataFrame:
    """The table `features`, in which all features are alike."""
    alike = {column.name: "" if column.dtype == "string" else 1 for column in TABLES["features"]}
    table = pd.DataFrame(alike, index=np.arange(n_layers * n_features))
    table["layer"] = np.repeat(np.arange(n_layers), n_features)
    table["feature"] = np.tile(np.arange(n_features), n_layers)
    table["firing_rate"] = firing_rate
    return make_table("features", table)


@torch.no_grad()
def random_run(
    folder: Path, shape: ModelShape, n_cells: int, length: int, trace: dict, expansion: int = 4, k: int = 32
) -> Run:
    """A run with cells, autoencoders of all layers and features, to be traced with these settings."""
    random_checkpoint(folder / "model", shape)
    content = {
        "model": {"family": "geneformer", "path": str(folder / "model"), "device": "cpu"},
        "cells": {"data": "demo"},
        "train": {"expansion": expansion, "k": k},
        "trace": {"select": "frequent", "min_firing_rate": 0.0, "n_cells": 0, "threads": 1, **trace},
    }
    run = create_run(folder / "run", settings_from_dict(content))
    model, cells = load_checked_model(run.settings.model), random_cells(shape, n_cells, length)
    record = {"n_layers": shape.n_layers, "d_model": shape.d_model, "has_frozen_context": True}
    with run.writing("cells", model_fingerprint=model.fingerprint(), **record) as out:
        save_tokens(cells, out)
    first, n_features = cells.take([0]), expansion * shape.d_model
    with run.writing("train") as out:
        for layer, state in model.run_layers(model.embed(first), first, 0, shape.n_layers):
            random_sae(state[0], n_features, k).save(out / f"L{layer:02d}")
    with run.writing("annotate") as out:
        write_table("features", random_features(shape.n_layers, n_features, k / n_features), out)
    return run
