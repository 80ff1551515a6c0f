"""Gene dictionaries as Geneformer publishes them: pickled `dict` objects, read without running anything in them.

A pickle can execute code when it is loaded. The published dictionaries need only two globals (numpy's scalar
constructor and dtype), so the unpickler here knows these and refuses every other one.
"""

from __future__ import annotations

import gzip
import io
import pickle
from pathlib import Path

import numpy as np

from cellcircuits.errors import ModelError

MAX_BYTES = 64 * 2**20
"""The largest published dictionary has 4 MB; far more than that is not a gene dictionary."""


def _numpy_scalar(dtype: np.dtype, data: bytes) -> object:
    """The numpy scalar that a pickle describes, for plain numbers only (no object dtype)."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "iuf":
        raise pickle.UnpicklingError(f"a numpy scalar of type {dtype} is not a number")
    return np.frombuffer(data, dtype=dtype, count=1)[0]


def _number_dtype(code: object, *_options: object) -> np.dtype:
    """A numeric numpy dtype from its short code, for example "f8"."""
    if not isinstance(code, str) or code[:1] not in "iuf" or not code[1:].isdigit():
        raise pickle.UnpicklingError(f"numpy dtype {code!r} is not a number")
    return np.dtype(code)


ALLOWED_GLOBALS = {
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
    ("numpy", "dtype"): _number_dtype,
}


class _DictionaryUnpickler(pickle.Unpickler):
    """Resolves numpy's scalar constructor and dtype (under both of their module names) and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        try:
            return ALLOWED_GLOBALS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def read_dictionary(path: Path) -> dict:
    """Read a pickled gene dictionary (also gzip-compressed), with numpy numbers turned into Python numbers.

    Raises
    ------
    ModelError
        If the file is missing, too large, not a pickled dict of strings and numbers, or asks for anything that a gene
        dictionary does not need.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except OSError as error:
        raise ModelError(f"Cannot read the gene dictionary {path}: {error}.") from error
    if len(data) > MAX_BYTES:
        raise ModelError(f"{path} has {len(data):,} bytes; a gene dictionary has at most {MAX_BYTES:,}. Refused.")
    try:
        content = _DictionaryUnpickler(io.BytesIO(data)).load()
    except Exception as error:
        raise ModelError(
            f"{path} was refused: a gene dictionary holds only strings and numbers, but {error}. "
            "Take the dictionary from the model's publisher."
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}; expected a dictionary of gene ids.")
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in content.items()}
    wrong = [
        key for key, value in plain.items() if not isinstance(key, str) or not isinstance(value, (str, int, float))
    ]
    if wrong:
        raise ModelError(f"{path} has entries that are not text or numbers, for example {wrong[0]!r}.")
    return plain
