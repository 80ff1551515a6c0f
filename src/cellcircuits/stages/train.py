"""Stage `train`: one autoencoder per layer, trained here or taken over, with its quality on held-out cells."""

from __future__ import annotations

import json
from dataclasses import asdict

from cellcircuits.errors import DataError, ModelError, SettingsError
from cellcircuits.fit import fit_saes, measure_quality, split_cells
from cellcircuits.progress import Progress
from cellcircuits.run import Run
from cellcircuits.sae import TopKSAE, check_saes, load_saes
from cellcircuits.settings import TrainSettings
from cellcircuits.stages.cells import run_model
from cellcircuits.tokens import load_tokens


def train_stage(run: Run, progress: Progress) -> None:
    """Train (or take over) one autoencoder per layer; write `sae/`."""
    run.require("cells")
    settings, model, tokens = run.settings.train, run_model(run), load_tokens(run.path("cells"))
    if len(tokens) < 2:
        raise DataError("Autoencoders need at least two cells, one of them held out; the run has one.")
    fingerprint = (run.manifest("cells") or {})["record"]["model_fingerprint"]
    fitted, held_out = split_cells(len(tokens), settings.held_out, settings.seed)
    if settings.saes:
        saes = _taken_over(settings, fingerprint)
    else:
        layers = sorted(set(settings.layers)) or list(range(model.n_layers))
        if not set(layers) <= set(range(model.n_layers)):
            raise SettingsError(f"train.layers = {layers}; the model has layers 0 to {model.n_layers - 1}.")
        with progress.task(f"Training {len(layers)} autoencoders", 1.0) as advance:
            saes = fit_saes(model, tokens.take(fitted), layers, settings, advance)
    check_saes(saes, model.d_model, model.n_layers, run.settings.cells.input_mode)
    saes = {layer: sae.to(model.device) for layer, sae in saes.items()}
    quality = measure_quality(model, tokens.take(held_out), saes, settings.model_batch)
    summary = {f"L{layer:02d}": asdict(found) for layer, found in quality.items()}
    with run.writing("train", quality=summary, held_out_cells=len(held_out), trained=not settings.saes) as folder:
        for layer, sae in saes.items():
            sae.info |= {
                "model_name": model.name,
                "model_fingerprint": fingerprint,
                "hook_name": f"layer.{layer}.output",
                "layer": layer,
                "input_mode": run.settings.cells.input_mode,
            }
            sae.save(folder / f"L{layer:02d}")
        (folder / "quality.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _taken_over(settings: TrainSettings, fingerprint: str) -> dict[int, TopKSAE]:
    """The autoencoders in the folder `settings.saes`, refused if made for other weights or on an unknown input."""
    saes = load_saes(settings.saes)
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
    return saes
