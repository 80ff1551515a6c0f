"""Folders of sparse autoencoders: load, convert, check that they belong to a model.

One autoencoder is a folder, in one of the formats of `sae_formats`; those written here are SAELens folders.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.errors import ModelError
from cellcircuits.sae_formats import is_autoencoder, read_autoencoder

_LAYER = (
    r"(?:L|(?:resid_post_)?layer_?|blocks\.|layers[._]|h\.|(?:bert\.)?encoder\.layer\.|transformer_encoder\.layers\.)"
    r"(\d+)"
)
_OUTPUT = re.compile(r"(?:layer\.(\d+)\.output|blocks\.(\d+)\.hook_resid_post|" + _LAYER + r"(?:_x\d+_k\d+)?)")
"""Names of the output of a block."""
TRAINER = "trainer_"
"""Folders of dictionary_learning's autoencoders, one per trainer of a sweep."""


def load_sae(folder: str | Path) -> SparseAutoencoder:
    """Load one autoencoder: a folder of SAELens, sparsify, dictionary_learning, or a published layerNN_x4_k32 folder.

    Raises
    ------
    ModelError
        If files are missing, damaged or of an unknown architecture.
    """
    return read_autoencoder(Path(folder))


def load_saes(folder: str | Path, trainer: str = "") -> dict[int, SparseAutoencoder]:
    """Load every autoencoder below `folder`, by layer: {layer: autoencoder}.

    The layer comes from the folder's name (L05, layer05_x4_k32, layer_5, layers.5, blocks.5.hook_resid_post), else from
    what the files say. An autoencoder may lie one folder deeper, as dictionary_learning writes them
    (resid_post_layer_5/trainer_0/ae.pt). Where it trained several for one layer, `trainer` says which: "trainer_1".

    Raises
    ------
    ModelError
        If there is none, two for one layer, or one of another layer than its folder's name says.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder} with sparse autoencoders.")
    found: dict[int, Path] = {}
    saes: dict[int, SparseAutoencoder] = {}
    for path in _autoencoders_below(folder, trainer):
        sae = load_sae(path)
        layer = _layer_of(path, folder, sae)
        if layer in found:
            names = " and ".join(str(place.relative_to(folder)) for place in (found[layer], path))
            choose = (
                f' Take one with trainer="{path.name}" (in Python), or cellcircuits convert --trainer {path.name}.'
                if path.name.startswith(TRAINER) and path.parent == found[layer].parent
                else ""
            )
            raise ModelError(f"Two autoencoders for layer {layer}: {names}.{choose}")
        found[layer], saes[layer] = path, sae
    if not found:
        named = f" in folders named {trainer!r}" if trainer else ""
        raise ModelError(
            f"{folder} holds no sparse autoencoders{named}; expected folders L00, L01, ... or layer00_x4_k32, ... or "
            "resid_post_layer_0/trainer_0, ..."
        )
    return {layer: saes[layer] for layer in sorted(saes)}


def _autoencoders_below(folder: Path, trainer: str) -> list[Path]:
    """Folders of autoencoders in `folder`, and those of dictionary_learning one deeper.

    Deeper ones are named trainer_0, ..., or are in a folder that is named after a layer; others (the seeds of a run,
    its model with random weights) are no dictionaries of their own. Those that are not named `trainer` are left out,
    unless it is "".
    """
    found: list[Path] = []
    for path in _folders(folder):
        if is_autoencoder(path):
            found.append(path)
        else:
            of_layer = re.match(_LAYER, path.name) is not None
            deeper = (p for p in _folders(path) if of_layer or p.name.startswith(TRAINER))
            found += filter(is_autoencoder, deeper)
    return [path for path in found if trainer in ("", path.name)]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _layer_of(path: Path, folder: Path, sae: SparseAutoencoder) -> int:
    """The layer in the name of the autoencoder's folder, or of the one around it below `folder`, or in its files."""
    for name in reversed(path.relative_to(folder).parts):
        match = re.match(_LAYER, name)
        if match is not None:
            return int(match[1])
    if isinstance(sae.info.get("layer"), int):
        return sae.info["layer"]
    raise ModelError(f"The layer of {path} is unclear; name the folder L05, layer05... or blocks.5...")


def convert_saes(source: str | Path, target: str | Path, trainer: str = "") -> list[Path]:
    """Write the autoencoders below `source`, in any format, as SAELens folders target/L00, L01, ...; returns these.

    `trainer` is that of `load_saes`.
    Weights keep their bits, except for what the formats cannot say: an input shift of its own (that of Kendiukhov 2026)
    is folded into `b_enc`, and activations that are reported times their decoder's norm get a decoder of unit norm.

    Raises
    ------
    ModelError
        If there is nothing to convert, or `target` exists already.
    """
    target = Path(target)
    if target.exists():
        raise ModelError(f"{target} exists already; choose another folder.")
    saes = load_saes(source, trainer)
    partial = target.with_name(f".{target.name}.writing-{os.getpid()}")
    try:
        for layer, sae in saes.items():
            sae.info.setdefault("layer", layer)
            sae.save(partial / f"L{layer:02d}")
        partial.rename(target)
    except OSError as error:
        raise ModelError(f"Cannot write {target}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [target / f"L{layer:02d}" for layer in saes]


def check_saes(
    saes: Mapping[int, SparseAutoencoder], d_model: int, n_layers: int, input_mode: str, fingerprint: str = ""
) -> None:
    """Refuse autoencoders that were not made for this model, place and input.

    What an autoencoder does not say of itself is not checked, nor is a `fingerprint` (that of the model's weights) or
    input mode that is "".

    Raises
    ------
    ModelError
        If a width, layer, hook, input mode or model is another one.
    """
    for layer, sae in saes.items():
        if sae.d_model != d_model:
            raise ModelError(
                f"The autoencoder of layer {layer} reads {sae.d_model} dimensions, the model has {d_model}. "
                "It belongs to another model."
            )
        if not 0 <= layer < n_layers:
            raise ModelError(f"There is an autoencoder for layer {layer}; the model has layers 0 to {n_layers - 1}.")
        _check_hook(layer, sae)
        trained_on = sae.info.get("input_mode", "")
        if trained_on and input_mode and trained_on != input_mode:
            raise ModelError(
                f"The autoencoder of layer {layer} was trained on {trained_on!r} input, the cells are tokenised as "
                f'{input_mode!r}. Set input_mode = "{trained_on}" or train new autoencoders.'
            )
        if fingerprint and sae.info.get("model_fingerprint", fingerprint) != fingerprint:
            raise ModelError(
                f"The autoencoder of layer {layer} was trained on a model with other weights. "
                "Use it with that model, or train new ones."
            )


def _check_hook(layer: int, sae: SparseAutoencoder) -> None:
    """Refuse an autoencoder of anything but the output of this block."""
    hook = sae.info.get("hook_name") or ""
    match = _OUTPUT.fullmatch(hook)
    if hook and match is None:
        raise ModelError(
            f"The autoencoder of layer {layer} reads {hook!r}; expected one of the output of a block "
            f"(blocks.{layer}.hook_resid_post)."
        )
    said = {int(group) for group in (match.groups() if match else ()) if group is not None}
    if isinstance(sae.info.get("layer"), int):
        said.add(sae.info["layer"])
    if said - {layer}:
        raise ModelError(
            f"The autoencoder that stands for layer {layer} says that it was trained on layer "
            f"{min(said - {layer})}. Put it under the layer that it belongs to."
        )
