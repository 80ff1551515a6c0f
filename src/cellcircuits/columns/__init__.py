"""Columns of every table: name, type, unit, meaning. One module per stage; `tables.py` checks, writes and reads them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    dtype: str
    unit: str
    meaning: str


def columns(text: str) -> tuple[Column, ...]:
    """Columns from lines of `name | dtype | unit | meaning`."""
    rows = [[part.strip() for part in line.split("|", 3)] for line in text.splitlines() if line.strip()]
    return tuple(Column(*row) for row in rows)
