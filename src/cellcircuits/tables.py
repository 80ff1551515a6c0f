"""Tables: check, write and read what `columns/` declares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cellcircuits.columns import (
    Column,
    annotate,
    answers,
    biology,
    comparison,
    edges,
    findings,
    genes,
    graph,
    intervention_circuits,
    intervention_outputs,
    interventions,
    screens,
    structure,
    trace,
    train,
)
from cellcircuits.errors import RunError, listed
from cellcircuits.formats import FORMAT_VERSION

_OF_FINDINGS = (findings, graph, biology, genes, screens, answers)
_OF_INTERVENTIONS = (interventions, intervention_outputs, intervention_circuits)
_MODULES = (train, annotate, trace, edges, *_OF_FINDINGS, comparison, structure, *_OF_INTERVENTIONS)

TABLES: dict[str, tuple[Column, ...]] = {name: table for module in _MODULES for name, table in module.TABLES.items()}
"""Every table by name; the file is <name>.parquet."""
ROWS: dict[str, str] = {name: text for module in _MODULES for name, text in module.ROWS.items()}
"""What a row of each table is."""
FINDINGS = tuple(name for module in _OF_FINDINGS for name in module.TABLES)
"""Tables of `findings/`."""
STRUCTURE = tuple(structure.TABLES)
"""Tables of `structure/`."""
INTERVENTIONS = (*(name for module in _OF_INTERVENTIONS for name in module.TABLES), "answers")
"""Tables of `interventions/`."""


def empty_table(name: str) -> pd.DataFrame:
    """A table without rows."""
    return make_table(name, {column.name: [] for column in TABLES[name]})


def make_table(name: str, columns: dict[str, object] | pd.DataFrame) -> pd.DataFrame:
    """A table with the declared columns in their order and types; raises if one is missing or undeclared."""
    declared = TABLES[name]
    frame = pd.DataFrame(columns)
    wrong = set(frame.columns) ^ {c.name for c in declared}
    if wrong:
        raise RunError(f"Table {name!r} does not have its declared columns; they differ in {listed(sorted(wrong))}.")
    return pd.DataFrame({c.name: _cast(frame[c.name], c.dtype) for c in declared})


def _cast(values: pd.Series, dtype: str) -> pd.Series:
    return values.astype(object).astype(str) if dtype == "string" else values.astype(np.dtype(dtype))


def check_table(name: str, frame: pd.DataFrame, origin: str = "") -> pd.DataFrame:
    """Return `frame` if it has the declared columns and types.

    Raises
    ------
    RunError
        Naming what differs.
    """
    declared = TABLES[name]
    missing = [c.name for c in declared if c.name not in frame]
    if missing:
        raise RunError(f"{origin or name} lacks columns {listed(missing)}; it was not written by this version.")
    for column in declared:
        if column.dtype != "string" and frame[column.name].dtype != np.dtype(column.dtype):
            raise RunError(
                f"{origin or name}: column {column.name} has type {frame[column.name].dtype}, expected {column.dtype}."
            )
    return frame


def write_table(name: str, frame: pd.DataFrame, folder: Path) -> None:
    """Write <name>.parquet with the format version in its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(check_table(name, frame), preserve_index=False)
    extra = {b"cellcircuits": f'{{"table": "{name}", "format_version": {FORMAT_VERSION}}}'.encode()}
    pq.write_table(
        table.replace_schema_metadata({**(table.schema.metadata or {}), **extra}), folder / f"{name}.parquet"
    )


def read_table(name: str, folder: Path) -> pd.DataFrame:
    """Read and check <name>.parquet.

    Raises
    ------
    RunError
        If the file is missing, damaged, or has other columns.
    """
    path = folder / f"{name}.parquet"
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RunError(
            f"Cannot read the table {path}: {error}. Delete the folder {folder} and run its stage again."
        ) from error
    for column in TABLES[name]:
        if column.dtype == "string" and column.name in frame:
            frame[column.name] = frame[column.name].astype(object)
    return check_table(name, frame, str(path))
