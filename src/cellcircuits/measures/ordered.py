"""Sums and means within groups of a polars frame that have the same bits every time.

Threads of polars add the parts of a group in whatever order they finish in, also where the order of groups is kept, and
sums of floats then differ in their last bits. The rows of a group do keep their order: as a list, they are added up by
one thread. Whole numbers need none of this: their sums are exact.
"""

from __future__ import annotations

import polars as pl


def ordered_sum(values: pl.Expr) -> pl.Expr:
    """Sum of a group's values; nulls are left out, and of nothing it is 0."""
    return values.cast(pl.Float64).implode().list.sum()


def ordered_mean(values: pl.Expr) -> pl.Expr:
    """Mean of a group's values, of bools the share that is true; nulls are left out, and of nothing it is null."""
    return values.cast(pl.Float64).implode().list.mean()
