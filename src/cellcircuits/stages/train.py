"""Stage `train`: one autoencoder per layer, trained here or taken over, with its quality on held-out cells.

With `train.random_weights` others of the same settings are trained on the model with random weights, as a baseline.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellcircuits.autoencoders import SparseAutoencoder, TopKSAE
from cellcircuits.errors import DataError, ModelError, SettingsError
from cellcircuits.fit import Saes, fit_seeds, split_cells, split_groups
from cellcircuits.formats import RANDOM_WEIGHTS
from cellcircuits.models.base import Model
from cellcircuits.models.randomized import randomized
from cellcircuits.progress import Progress
from cellcircuits.quality import measure_quality
from cellcircuits.run import Run
from cellcircuits.run_model import run_model
from cellcircuits.sae import check_saes, load_saes
from cellcircuits.settings import TrainSettings
from cellcircuits.tables import make_table, write_table
from cellcircuits.tokens import Tokens, load_tokens

BASELINES = ("variance_explained", "final_state_recovered", "l0", "dead_share")
"""Numbers that are also measured on the model with random weights."""


def train_stage(run: Run, progress: Progress) -> None:
    """Train (or take over) one autoencoder per layer, from where a stopped training was last saved; write `sae/`."""
    run.require("cells")
    settings, model, tokens = run.settings.train, run_model(run), load_tokens(run.path("cells"))
    if len(tokens) < 2:
        raise DataError("Autoencoders need at least two cells, one of them held out; the run has one.")
    fitted, held_out = (tokens.take(rows) for rows in _split(tokens, settings))
    stage = _Training(run, fitted, held_out, progress)
    if settings.saes:
        seeds = [_taken_over(settings, model)]
    else:
        seeds = stage.train(model, _layers(settings, model), "model")
    saes = {layer: sae.to(model.device) for layer, sae in seeds[0].items()}
    check_saes(saes, model.d_model, model.n_layers, run.settings.cells.input_mode)
    quality = stage.quality(model, saes, seeds[1:])
    record: dict[str, Any] = {}
    if settings.random_weights:
        random = randomized(model, settings.seed)
        baseline = stage.train(random, list(saes), RANDOM_WEIGHTS, " on random weights")[0]
        quality = _beside(quality, stage.quality(random, baseline, []))
        record[RANDOM_WEIGHTS] = {"model_fingerprint": random.fingerprint()}
    with run.writing("train", held_out_cells=len(held_out), trained=not settings.saes, **record) as folder:
        for number, seed in enumerate(seeds):
            _save(seed, model, run, folder / f"seed_{number}" if number else folder)
        if settings.random_weights:
            _save(baseline, random, run, folder / RANDOM_WEIGHTS)
        write_table("quality", make_table("quality", quality), folder)
    run.discard_work("train")


def _split(tokens: Tokens, settings: TrainSettings) -> tuple[np.ndarray, np.ndarray]:
    if settings.held_out_by:
        return split_groups(tokens.obs, settings.held_out_by, settings.held_out, settings.seed)
    return split_cells(len(tokens), settings.held_out, settings.seed)


def _layers(settings: TrainSettings, model: Model) -> list[int]:
    layers = sorted(set(settings.layers)) or list(range(model.n_layers))
    if not set(layers) <= set(range(model.n_layers)):
        raise SettingsError(f"train.layers = {layers}; the model has layers 0 to {model.n_layers - 1}.")
    return layers


@dataclass(frozen=True)
class _Training:
    """What all autoencoders of a run are trained and measured on."""

    run: Run
    fitted: Tokens
    held_out: Tokens
    progress: Progress

    def train(self, model: Model, layers: list[int], name: str, what: str = "") -> list[Saes]:
        """Autoencoders of every seed; their state is kept under this name until the stage is done.

        Those of the model with random weights are of the first seed only.
        """
        settings = self.run.settings.train
        if name == RANDOM_WEIGHTS:
            settings = replace(settings, n_seeds=1)
        checkpoint = self.run.work_path("train") / f"{name}.pt"
        if checkpoint.exists():
            self.progress.note(f"Training goes on from {checkpoint}, if it is of the same settings")
        with self.progress.task(f"Training {len(layers)} autoencoders{what}", 1.0) as advance:
            return fit_seeds(model, self.fitted, layers, settings, advance, checkpoint)

    def quality(self, model: Model, saes: Saes, others: list[Saes]) -> pd.DataFrame:
        """Table `quality` without the columns of the model with random weights."""
        settings = self.run.settings.train
        found = measure_quality(
            model, self.held_out, saes, settings.model_batch, settings.quality_cells, others, settings.seed
        )
        rows = [{"layer": layer, **asdict(quality)} for layer, quality in found.items()]
        return pd.DataFrame(rows).assign(**{f"{RANDOM_WEIGHTS}_{name}": nan for name in BASELINES})


def _beside(own: pd.DataFrame, random: pd.DataFrame) -> pd.DataFrame:
    """The quality of both models in one row per layer; both have the same layers."""
    return own.assign(**{f"{RANDOM_WEIGHTS}_{name}": random[name] for name in BASELINES})


def load_baseline(run: Run) -> tuple[Model, Saes]:
    """The model with random weights and the autoencoders that were trained on it, if the run has them.

    Raises
    ------
    ModelError
        If the weights are no longer permuted as they were.
    """
    model = randomized(run_model(run), run.settings.train.seed)
    record = (run.manifest("train") or {"record": {}})["record"]
    if record.get(RANDOM_WEIGHTS, {}).get("model_fingerprint") != model.fingerprint():
        raise ModelError(
            f"The random weights are not those for which {run.path('train') / RANDOM_WEIGHTS} was made: numpy differs. "
            "Use the same version everywhere, or run `train` again."
        )
    saes = load_saes(run.path("train") / RANDOM_WEIGHTS)
    return model, {layer: sae.to(model.device) for layer, sae in saes.items()}


def _save(saes: Saes, model: Model, run: Run, folder: Path) -> None:
    fingerprint = model.fingerprint()
    for layer, sae in saes.items():
        sae.info |= {
            "model_name": model.name,
            "model_fingerprint": fingerprint,
            "hook_name": f"layer.{layer}.output",
            "layer": layer,
            "input_mode": run.settings.cells.input_mode,
        }
        if not run.settings.train.saes or folder.name == RANDOM_WEIGHTS:
            sae.info["trained_as"] = run.settings.train.architecture
        sae.save(folder / f"L{layer:02d}")


def _taken_over(settings: TrainSettings, model: Model) -> Saes:
    """The autoencoders in the folder `settings.saes`, refused if made for other weights or on an unknown input."""
    saes, fingerprint = load_saes(settings.saes), model.fingerprint()
    for layer, sae in saes.items():
        if sae.info.get("model_fingerprint", fingerprint) != fingerprint:
            raise ModelError(
                f"The autoencoder of layer {layer} in {settings.saes} was trained on a model with other weights. "
                "Use it with that model, or train new ones."
            )
        sae.info["input_mode"] = sae.info.get("input_mode") or settings.accept_input_mode
        if not sae.info["input_mode"]:
            raise ModelError(
                f"The autoencoder of layer {layer} in {settings.saes} does not say on which input it was trained. "
                'Say it with train.accept_input_mode ("official" or "published").'
            )
        if settings.random_weights:
            _check_same_shape(layer, sae, settings)
    return saes


def _check_same_shape(layer: int, sae: SparseAutoencoder, settings: TrainSettings) -> None:
    """Refuse a baseline of another kind or number of features than the autoencoder that was taken over."""
    if isinstance(sae, TopKSAE) != (settings.architecture == "topk"):
        kinds = (
            'a TopK one; set train.architecture = "topk"'
            if isinstance(sae, TopKSAE)
            else (
                'none with a fixed number of active features; set train.architecture to "batchtopk", "matryoshka" or '
                '"jumprelu"'
            )
        )
        raise SettingsError(
            f"train.random_weights trains {settings.architecture!r} autoencoders; the one of layer {layer} in "
            f"{settings.saes} is {kinds}, or train.random_weights = false."
        )
    k = sae.k if isinstance(sae, TopKSAE) else settings.k
    if (sae.n_features, k) == (settings.expansion * sae.d_model, settings.k):
        return
    expansion, rest = divmod(sae.n_features, sae.d_model)
    step = f"Set train.expansion = {expansion} and train.k = {k}, or" if rest == 0 else "No expansion gives that:"
    raise SettingsError(
        f"train.random_weights trains autoencoders of {settings.expansion * sae.d_model} features with k = "
        f"{settings.k} (train.expansion, train.k); the one of layer {layer} in {settings.saes} has {sae.n_features} "
        f"with k = {k}. {step} set train.random_weights = false."
    )
