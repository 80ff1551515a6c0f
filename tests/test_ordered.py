"""Sums within groups of a polars frame: right, and with the same bits however often they are computed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import cellcircuits as cc
from cellcircuits.measures.ordered import ordered_mean, ordered_sum


def frame(n: int, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    keys = {"a": rng.integers(17, size=n), "b": rng.integers(17, size=n)}
    return pl.DataFrame(
        {**keys, "x": rng.normal(size=n) * 10.0 ** rng.integers(-6, 6, size=n), "true": rng.random(n) < 0.3}
    )


def test_sums_and_means_are_those_of_numpy():
    table = frame(5000)
    found = table.group_by("a", "b").agg(
        total=ordered_sum(pl.col("x")), mean=ordered_mean(pl.col("x")), share=ordered_mean(pl.col("true"))
    )
    assert found.height == 17 * 17
    for row in found.iter_rows(named=True):
        part = table.filter((pl.col("a") == row["a"]) & (pl.col("b") == row["b"])).to_pandas()
        assert row["total"] == pytest.approx(part["x"].sum(), rel=1e-9, abs=1e-7)
        assert row["mean"] == pytest.approx(part["x"].mean(), rel=1e-9, abs=1e-7)
        assert row["share"] == pytest.approx(part["true"].mean())


def test_nulls_are_left_out():
    table = pl.DataFrame({"a": [1, 1, 1, 2], "x": [2.0, None, 4.0, None]})
    found = table.group_by("a").agg(total=ordered_sum(pl.col("x")), mean=ordered_mean(pl.col("x"))).sort("a")
    assert found["total"].to_list() == [6.0, 0.0]
    assert found["mean"].to_list() == [3.0, None]


def test_the_same_bits_every_time():
    """Of a frame as large and as split as those in which polars' own means differ from run to run."""
    table = frame(31_000)
    parts = pl.concat([table[:7000], table[7000:19_000], table[19_000:]], rechunk=False)
    seen = set()
    for _ in range(60):
        found = (
            parts.group_by("a", "b").agg(total=ordered_sum(pl.col("x")), mean=ordered_mean(pl.col("x"))).sort("a", "b")
        )
        seen.add(found.to_numpy().tobytes())
    assert len(seen) == 1


def test_no_group_is_averaged_by_threads_in_any_order():
    """Within `.agg(...)` means are `ordered_mean`."""
    for path in sorted(Path(cc.__file__).parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "import polars" not in text:
            continue
        for call in re.finditer(r"\.agg\(", text):
            arguments = inside(text, call.end())
            assert ".mean()" not in arguments, f"{path}: use ordered_mean in {arguments!r}"


def inside(text: str, start: int) -> str:
    """From `start` to the bracket that closes."""
    depth, end = 1, start
    while depth:
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    return text[start : end - 1]
