"""Stage `train`: one autoencoder per layer, trained here or taken over, with its quality on held-out cells.

With `train.random_weights` others of the same settings are trained on the model with random weights, as a baseline.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cellcircuits.errors import DataError, ModelError, SettingsError
from cellcircuits.fit import fit_saes, measure_quality, split_cells
from cellcircuits.formats import RANDOM_WEIGHTS
from cellcircuits.models.base import Model
from cellcircuits.models.randomized import randomized
from cellcircuits.progress import Progress
from cellcircuits.run import Run
from cellcircuits.sae import TopKSAE, check_saes, load_saes
from cellcircuits.settings import TrainSettings
from cellcircuits.stages.cells import run_model
from cellcircuits.tokens import Tokens, load_tokens

Saes = dict[int, TopKSAE]
"""{layer: autoencoder}."""


def train_stage(run: Run, progress: Progress) -> None:
    """Train (or take over) one autoencoder per layer; write `sae/`."""
    run.require("cells")
    settings, model, tokens = run.settings.train, run_model(run), load_tokens(run.path("cells"))
    if len(tokens) < 2:
        raise DataError("Autoencoders need at least two cells, one of them held out; the run has one.")
    fitted, held_out = (tokens.take(rows) for rows in split_cells(len(tokens), settings.held_out, settings.seed))
    if settings.saes:
        saes = _taken_over(settings, model)
    else:
        layers = sorted(set(settings.layers)) or list(range(model.n_layers))
        if not set(layers) <= set(range(model.n_layers)):
            raise SettingsError(f"train.layers = {layers}; the model has layers 0 to {model.n_layers - 1}.")
        saes = _trained(model, fitted, layers, settings, progress)
    check_saes(saes, model.d_model, model.n_layers, run.settings.cells.input_mode)
    saes = {layer: sae.to(model.device) for layer, sae in saes.items()}
    record: dict[str, Any] = {"quality": _quality(model, held_out, saes, settings)}
    summary = dict(record["quality"])
    if settings.random_weights:
        random = randomized(model, settings.seed)
        baseline = _trained(random, fitted, list(saes), settings, progress, " on random weights")
        summary[RANDOM_WEIGHTS] = _quality(random, held_out, baseline, settings)
        record[RANDOM_WEIGHTS] = {"quality": summary[RANDOM_WEIGHTS], "model_fingerprint": random.fingerprint()}
    with run.writing("train", held_out_cells=len(held_out), trained=not settings.saes, **record) as folder:
        _save(saes, model, run, folder)
        if settings.random_weights:
            _save(baseline, random, run, folder / RANDOM_WEIGHTS)
        (folder / "quality.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


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


def _trained(
    model: Model, cells: Tokens, layers: list[int], settings: TrainSettings, progress: Progress, what: str = ""
) -> Saes:
    with progress.task(f"Training {len(layers)} autoencoders{what}", 1.0) as advance:
        return fit_saes(model, cells, layers, settings, advance)


def _quality(model: Model, cells: Tokens, saes: Saes, settings: TrainSettings) -> dict[str, dict[str, Any]]:
    """{L00: quality of its autoencoder}."""
    found = measure_quality(model, cells, saes, settings.model_batch)
    return {f"L{layer:02d}": asdict(quality) for layer, quality in found.items()}


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


def _check_same_shape(layer: int, sae: TopKSAE, settings: TrainSettings) -> None:
    """Refuse a baseline with another number of features than the autoencoder that was taken over."""
    if (sae.n_features, sae.k) == (settings.expansion * sae.d_model, settings.k):
        return
    expansion, rest = divmod(sae.n_features, sae.d_model)
    step = f"Set train.expansion = {expansion} and train.k = {sae.k}, or" if rest == 0 else "No expansion gives that:"
    raise SettingsError(
        f"train.random_weights trains autoencoders of {settings.expansion * sae.d_model} features with k = "
        f"{settings.k} (train.expansion, train.k); the one of layer {layer} in {settings.saes} has {sae.n_features} "
        f"with k = {sae.k}. {step} set train.random_weights = false."
    )
