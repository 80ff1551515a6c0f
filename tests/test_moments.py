"""Moments add up, survive the disk, and give mean and sd."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cellcircuits as cc
from cellcircuits.moments import load_moments, save_moments
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
