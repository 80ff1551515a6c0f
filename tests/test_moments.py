"""Moments add up, survive the disk, and give mean and sd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cellcircuits as cc
from cellcircuits.moments import Moments, load_moments, load_trace, moments_file, save_moments, trace_files
from tests.test_edge_calling import moments_of


@given(cut=st.integers(1, 29), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_any_split_of_cells_gives_the_same_moments(cut, seed):
    deltas = np.random.default_rng(seed).normal(size=(30, 3, 7))
    whole, parts = moments_of(deltas), moments_of(deltas[:cut]) + moments_of(deltas[cut:])
    np.testing.assert_allclose(parts.sums[1], whole.sums[1], atol=1e-12)
    assert np.array_equal(parts.n_cells, whole.n_cells)


def test_mean_and_sd_are_numpys():
    deltas = np.random.default_rng(0).normal(3, 2, size=(25, 3, 7))
    moments = moments_of(deltas)
    np.testing.assert_allclose(moments.mean(1), deltas.mean(0))
    np.testing.assert_allclose(moments.sd(1), deltas.std(0, ddof=1))


def test_equal_observations_have_no_spread():
    moments = moments_of(np.full((25, 1, 3), 0.1))
    assert (moments.sd(1) == 0).all()


def test_different_traces_cannot_be_added():
    with pytest.raises(cc.CellCircuitsError, match="cannot be added"):
        moments_of(np.ones((5, 3, 7))) + moments_of(np.ones((5, 2, 7)))


def test_disk_keeps_every_bit(tmp_path):
    moments = moments_of(np.random.default_rng(0).normal(size=(25, 3, 7)))
    save_moments(moments, tmp_path / "m.safetensors")
    again = load_moments(tmp_path / "m.safetensors")
    assert np.array_equal(again.sums[1], moments.sums[1])
    assert (again.source_layer, again.groups, again.readouts) == (0, ("all",), ("source",))


def test_damaged_file_is_refused(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"not moments")
    with pytest.raises(cc.CellCircuitsError, match="not a file of moments"):
        load_moments(tmp_path / "m.safetensors")


def test_adding_in_place_gives_the_same_bits(tmp_path):
    rng = np.random.default_rng(0)
    first, second = (moments_of(rng.normal(size=(9, 3, 7))) for _ in range(2))
    together = first + second
    save_moments(first, tmp_path / "m.safetensors")
    total = load_moments(tmp_path / "m.safetensors")
    total += second
    assert np.array_equal(total.sums[1], together.sums[1]) and np.array_equal(total.n_cells, together.n_cells)
    with pytest.raises(cc.CellCircuitsError, match="cannot be added"):
        total += moments_of(np.ones((5, 2, 7)))


def blocks_of(moments: Moments, *cuts: int) -> list[Moments]:
    """The same moments with their sources cut into blocks."""
    pieces = np.split(np.arange(len(moments.source_features)), cuts)
    return [
        replace(
            moments,
            source_features=moments.source_features[rows],
            n_cells=moments.n_cells[:, :, rows],
            sums={layer: values[:, :, :, rows] for layer, values in moments.sums.items()},
        )
        for rows in pieces
    ]


def test_joined_blocks_are_the_whole(tmp_path):
    whole = moments_of(np.random.default_rng(0).normal(size=(25, 5, 7)))
    blocks = blocks_of(whole, 2, 3)
    for number, block in enumerate(blocks):
        save_moments(block, moments_file(tmp_path, 0, 3 * number))
    (joined,) = load_trace(tmp_path)
    assert np.array_equal(joined.source_features, whole.source_features)
    assert np.array_equal(joined.n_cells, whole.n_cells) and np.array_equal(joined.sums[1], whole.sums[1])


def test_blocks_of_different_traces_are_not_joined():
    whole = moments_of(np.ones((5, 4, 7)))
    first, second = blocks_of(whole, 2)
    for wrong in (whole, replace(second, source_layer=1), replace(second, groups=("A",))):
        with pytest.raises(cc.CellCircuitsError, match="cannot be joined"):
            Moments.join([first, wrong])


def test_files_of_a_trace_are_in_order_of_layer_and_block(tmp_path):
    names = ["moments_L02_B10000.safetensors", "moments_L02_B0002.safetensors", "moments_L00_B0000.safetensors"]
    for name in names:
        (tmp_path / name).touch()
    found = {layer: [path.name for path in paths] for layer, paths in trace_files(tmp_path).items()}
    assert list(found.items()) == [(0, [names[2]]), (2, [names[1], names[0]])]
    with pytest.raises(cc.CellCircuitsError, match="holds no moments"):
        trace_files(tmp_path / "absent")
