"""Arrays of safetensors files mapped into memory: what is not looked at is not read, and takes no memory."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import numpy as np

KINDS = {"I32": np.int32, "I64": np.int64, "BOOL": np.bool_, "F32": np.float32, "F64": np.float64}
"""Types of the arrays that this package stores, by their names in the files."""


def mapped_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, read-only.

    The file begins with the length of its header (8 bytes); the header is JSON, with the place of every array.

    Raises
    ------
    OSError, ValueError, KeyError, SafetensorError
        If the file is absent, damaged, or holds arrays of other types.
    """
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:  # refuses a file that is cut short or has gaps
        names = list(file.keys())
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return {name: _mapped(path, 8 + size, header[name]) for name in names}


def _mapped(path: Path, start: int, entry: dict) -> np.ndarray:
    kind, shape = KINDS[entry["dtype"]], tuple(entry["shape"])
    if 0 in shape:
        return np.zeros(shape, dtype=kind)
    return np.memmap(path, kind, "r", start + entry["data_offsets"][0], shape)


def release(*arrays: np.ndarray | None) -> None:
    """Give back the memory of what was read of mapped arrays; reading it again is possible."""
    for array in arrays:
        mapped = getattr(array, "base", None)
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
