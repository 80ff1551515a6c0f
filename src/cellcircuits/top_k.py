"""The k largest entries of every row, on a CPU several times as fast as torch's own."""

from __future__ import annotations

import numpy as np
import torch


def top_k_indices(values: torch.Tensor, k: int) -> torch.Tensor:
    """int64 (..., k): places of the k largest of `values` (..., n) along the last axis, in any order.

    On a CPU numpy finds the k-th largest (its partition uses wide instructions) and everything from it on is taken.
    Rows where that is not k entries, because of ties or NaN, are left to torch, as is everything on other devices.
    """
    n = values.shape[-1]
    if (
        values.device.type != "cpu"
        or values.dtype not in (torch.float32, torch.float64)
        or k == n
        or not values.numel()
    ):
        return values.topk(k, dim=-1, sorted=False).indices
    rows = values.detach().reshape(-1, n)
    array = rows.numpy()
    smallest = np.partition(array, n - k, axis=1)[:, n - k, None]
    taken = np.flatnonzero(array >= smallest)
    row, place = np.divmod(taken, n)
    found = np.bincount(row, minlength=len(array))
    if (whole := found == k).all():
        return torch.from_numpy(place).reshape(*values.shape[:-1], k)
    indices = torch.empty(len(array), k, dtype=torch.int64)
    indices[torch.from_numpy(whole)] = torch.from_numpy(place[whole[row]].reshape(-1, k))
    others = torch.from_numpy(~whole)
    indices[others] = rows[others].topk(k, dim=-1, sorted=False).indices
    return indices.reshape(*values.shape[:-1], k)
