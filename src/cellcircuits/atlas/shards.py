"""Tables as gzip-compressed JSON columns, cut into files small enough for a browser to load one at a time.

A file holds {"length": rows, "columns": {name: column}}. A column is one of

* a list of values,
* {"values": [...], "codes": [...]}: text that repeats; codes are places in values,
* {"constant": value}: the same in every row.

NaN is null; infinity is the number 1e999, which every JSON parser reads as infinity. The same table always gives the
same bytes.
"""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

DIGITS = 4
"""Significant digits of a number that is not whole: more than a page shows; the tables of the run have all of them."""

MAX_ITEMS_PER_SHARD = 64
ROWS_PER_SHARD = 4096
"""Largest mean number of rows of a shard: about 200 kB, so a page never waits for much more than what it shows."""
REPEATS = 2
"""Text is coded where a value stands this often on average."""
COMPRESSION = 6
"""Level of gzip: 9 takes twice as long for 1 % less."""


def encode_table(frame: pd.DataFrame) -> bytes:
    """The rows of `frame` as compressed JSON columns."""
    return _encode_columns({str(name): _plain(frame[name]) for name in frame}, len(frame))


def write_by_feature(
    frame: pd.DataFrame, layer: str, feature: str, folder: Path, order_by: list[str]
) -> dict[str, object]:
    """Write shards <folder>/L<layer>/<number>.json.gz, with number = feature // features_per_shard.

    Parameters
    ----------
    frame
        Table whose columns `layer` and `feature` name the feature that each row belongs to.
    order_by
        Columns that order the rows of one feature, so that the bytes do not depend on the order of the input.

    Returns
    -------
    dict
        `features_per_shard`, and in `shards` the numbers that exist for each layer: a page asks only for files that
        exist, because a missing file shows up as an error in the browser's console.
    """
    frame = frame.sort_values([layer, feature, *order_by], kind="stable")
    width = shard_width(len(frame), len(frame[[layer, feature]].drop_duplicates()))
    columns = {str(name): _plain(frame[name]) for name in frame}
    layers, numbers = columns[layer], columns[feature] // width
    starts = np.flatnonzero(np.diff(layers, prepend=-1) | np.diff(numbers, prepend=-1))
    shards: dict[str, list[int]] = {}
    for start, stop in zip(starts, np.append(starts, len(frame))[1:], strict=True):
        at, number = int(layers[start]), int(numbers[start])
        part = {name: values[start:stop] for name, values in columns.items()}
        path = folder / f"L{at:02d}" / f"{number:04d}.json.gz"
        write_bytes(path, _encode_columns(part, int(stop - start)))
        shards.setdefault(str(at), []).append(number)
    return {"features_per_shard": width, "shards": shards}


def write_by_item(frame: pd.DataFrame, item: str, n_items: int, width: int, folder: Path) -> None:
    """Write shards <folder>/<number>.json.gz of `width` items each, from rows sorted by the item's number.

    Every shard exists, also one without rows.
    """
    limits = np.searchsorted(frame[item], np.arange(0, n_items + width, width))
    for number in range(len(limits) - 1):
        part = frame.iloc[limits[number] : limits[number + 1]]
        write_bytes(folder / f"{number:04d}.json.gz", encode_table(part))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def compressed_json(content: object) -> bytes:
    """Any plain content as compressed JSON; the time stamp is left out, for the same bytes every time."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return gzip.compress(text.encode(), compresslevel=COMPRESSION, mtime=0)


def shard_width(n_rows: int, n_items: int) -> int:
    """Features or genes per shard: the largest power of two with at most ROWS_PER_SHARD rows in a mean shard."""
    width = MAX_ITEMS_PER_SHARD
    while width > 1 and width * n_rows > ROWS_PER_SHARD * n_items:
        width //= 2
    return width


def _plain(values: pd.Series) -> np.ndarray:
    """Numbers as they are; everything else as text, with "" for what is missing."""
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
        return values.to_numpy()
    return values.astype(object).where(values.notna(), "").astype(str).to_numpy(dtype=object)


def _encode_columns(columns: dict[str, np.ndarray], length: int) -> bytes:
    parts = (f"{json.dumps(name)}:{_encode_values(values)}" for name, values in columns.items())
    text = f'{{"length":{length},"columns":{{{",".join(parts)}}}}}'
    return gzip.compress(text.encode(), compresslevel=COMPRESSION, mtime=0)


def _encode_values(values: np.ndarray) -> str:
    if values.dtype == object:
        return _encode_text(values)
    if len(values) > 1 and (values == values[0]).all():
        return f'{{"constant":{_encode_list(values[:1])[1:-1]}}}'
    if len(values) > 1 and values.dtype.kind == "f" and np.isnan(values).all():
        return '{"constant":null}'
    return _encode_list(values)


def _encode_text(values: np.ndarray) -> str:
    codes, names = pd.factorize(values)
    if len(names) * REPEATS > len(values):
        return json.dumps(values.tolist(), separators=(",", ":"))
    if len(names) == 1:
        return json.dumps({"constant": names[0]}, separators=(",", ":"))
    return json.dumps({"values": list(names), "codes": codes.tolist()}, separators=(",", ":"))


def _encode_list(values: np.ndarray) -> str:
    if values.dtype.kind == "f":
        return f"[{','.join([_number(value) for value in values.tolist()])}]"
    return json.dumps(values.tolist(), separators=(",", ":"))


def _number(value: float) -> str:
    if math.isfinite(value):
        return f"{value:.{DIGITS}g}"
    return "null" if math.isnan(value) else ("1e999" if value > 0 else "-1e999")
