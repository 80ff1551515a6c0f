"""Weights from disk. Files are untrusted: safetensors, or torch zip files with `weights_only=True`; never pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cellcircuits.errors import ModelError, listed


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises
    ------
    ModelError
        If the file is missing, not JSON, or not an object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror or error}. Is this the checkpoint's folder?") from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}; expected a JSON object.")
    return content


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors in a .safetensors file or a torch file, without running any code from it.

    Torch files may wrap the state dict under "model_state_dict", "state_dict" or "model".

    Raises
    ------
    ModelError
        If the file is missing, damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.exists():
        raise ModelError(f"There is no file {path}. Set the path to the checkpoint's folder.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{path} was refused: it is damaged, or holds more than tensors ({reason}). Get the file again."
        ) from error
    for wrapper in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()
    ):
        raise ModelError(f"{path} does not hold named tensors; expected a state dict.")
    return dict(content)


def check_weights(expected: dict[str, tuple[int, ...]], stored: dict[str, torch.Tensor], origin: str) -> None:
    """Refuse a checkpoint in which any weight is missing, unknown, misshapen or not finite.

    Raises
    ------
    ModelError
        Naming the weights.
    """
    missing = sorted(set(expected) - set(stored))
    extra = sorted(set(stored) - set(expected))
    wrong = [
        f"{key} {tuple(stored[key].shape)} instead of {shape}"
        for key, shape in expected.items()
        if key in stored and tuple(stored[key].shape) != shape
    ]
    broken = [key for key in expected if key in stored and not torch.isfinite(stored[key]).all()]
    problems = [
        f"{len(names)} {what}: {listed(names)}"
        for what, names in (("missing", missing), ("unknown", extra), ("misshapen", wrong), ("not finite", broken))
        if names
    ]
    if problems:
        raise ModelError(
            f"{origin} does not fit its configuration; weights {'; '.join(problems)}. "
            "Nothing was loaded: a model with other weights than its publisher's computes something else."
        )
