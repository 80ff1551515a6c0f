"""The fast choice of the k largest is torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cellcircuits.top_k import top_k_indices


def chosen(values: torch.Tensor, k: int) -> np.ndarray:
    """The k largest values of each row, sorted."""
    indices = top_k_indices(values, k)
    assert indices.shape == (*values.shape[:-1], k) and indices.dtype == torch.int64
    assert all(len(set(row)) == k for row in indices.reshape(-1, k).tolist())
    return values.detach().gather(-1, indices).sort(dim=-1).values.numpy()


@pytest.mark.parametrize("shape", [(7, 50), (3, 4, 64), (33,), (1, 9)])
@pytest.mark.parametrize("k", [1, 5, 9])
@pytest.mark.parametrize("kind", ["normal", "ties", "zeros"])
def test_it_is_torchs_choice(shape, k, kind):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(k))
    if kind == "ties":
        values = values.mul(2).round()
    if kind == "zeros":
        values = values.relu()
    np.testing.assert_array_equal(chosen(values, k), values.topk(k, dim=-1).values.sort(dim=-1).values.numpy())


def test_rows_with_ties_and_without_are_told_apart():
    values = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    values[::3] = 1.0
    np.testing.assert_array_equal(chosen(values, 4), values.topk(4, dim=-1).values.sort(dim=-1).values.numpy())


def test_nan_is_torchs_business():
    values = torch.tensor([[1.0, float("nan"), 3.0, 2.0], [4.0, 1.0, 3.0, 2.0]])
    indices = top_k_indices(values, 2)
    assert set(indices[1].tolist()) == {0, 2}
    assert set(indices[0].tolist()) == set(values.topk(2, dim=-1).indices[0].tolist())


def test_nothing_of_nothing():
    assert top_k_indices(torch.zeros(0, 5), 2).shape == (0, 2)
