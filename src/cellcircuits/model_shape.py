"""The sizes of a model and of its cells that decide what a run costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cellcircuits.checkpoints import read_json
from cellcircuits.errors import SettingsError
from cellcircuits.settings import Settings

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
