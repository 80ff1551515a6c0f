"""Gene dictionaries as Geneformer publishes them: pickled `dict` objects, read without running anything in them.

A pickle can execute code when it is loaded. The published dictionaries need only two globals (numpy's scalar
constructor and dtype; old pickle protocols also a way to write bytes), so the unpickler here knows stand-ins for these
and refuses every other one.
"""

from __future__ import annotations

import gzip
import io
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cellcircuits.errors import ModelError

MAX_BYTES = 64 * 2**20
"""The largest published dictionary has 4 MB; far more than that is not a gene dictionary."""


class _NumberType:
    """What a pickle says of a numpy dtype: its short code, for example "f8", then its byte order.

    Not a real dtype: a pickle may set any state of one, which numpy takes on trust.
    """

    __slots__ = ("dtype",)

    def __init__(self, code: object, *_options: object) -> None:
        if not isinstance(code, str) or code[:1] not in "iuf" or not code[1:].isdigit():
            raise pickle.UnpicklingError(f"numpy dtype {code!r} is not a number")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


def _numpy_scalar(kind: object, data: bytes) -> int | float:
    """The number that numpy stored as these bytes."""
    if not isinstance(kind, _NumberType):
        raise pickle.UnpicklingError(f"a numpy scalar of type {kind!r} is not a number")
    return np.frombuffer(data, dtype=kind.dtype, count=1)[0].item()


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """Bytes, as pickle protocols 0 to 2 write them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for bytes in the encoding {encoding!r}")
    return text.encode("latin1")


ALLOWED_GLOBALS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
    ("numpy", "dtype"): _NumberType,
    ("_codecs", "encode"): _latin1_bytes,
}
"""What a dictionary may ask for, and what it gets instead of the original."""


class _DictionaryUnpickler(pickle.Unpickler):
    """Resolves `ALLOWED_GLOBALS` and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        try:
            make = ALLOWED_GLOBALS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None
        # a new function each time: a pickle can set attributes of what it gets, which must not outlive it
        return lambda *arguments: make(*arguments)


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
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            # no more than allowed is ever read: a small gzip file can hold gigabytes
            data = (gzip.GzipFile(fileobj=file) if zipped else file).read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ModelError(f"Cannot read the gene dictionary {path}: {error}.") from error
    if len(data) > MAX_BYTES:
        raise ModelError(f"{path} has more than {MAX_BYTES:,} bytes, too many for a gene dictionary. Refused.")
    try:
        content = _DictionaryUnpickler(io.BytesIO(data)).load()
    except Exception as error:
        raise ModelError(
            f"{path} was refused: a gene dictionary holds only strings and numbers, but {error}. "
            "Take the dictionary from the model's publisher."
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}; expected a dictionary of gene ids.")
    wrong = [k for k, v in content.items() if not isinstance(k, str) or not isinstance(v, (str, int, float))]
    if wrong:
        raise ModelError(f"{path} has entries that are not text or numbers, for example {wrong[0]!r}.")
    return content
