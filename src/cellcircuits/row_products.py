"""Products of two matrices of which only some entries of each row are wanted: given ones, or the k largest.

The k largest need every product, but not every product exactly. Where the processor multiplies bfloat16, several times
as fast as float32, the products are estimated in it; the exact products of a few more than k candidates are taken, and
the k largest of these kept. A row in which the estimates leave a doubt is multiplied anew in full.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from cellcircuits.top_k import top_k_indices

ROWS_AT_ONCE = 512
"""Rows of products held together: some megabytes, which stay in a processor's cache."""
EXTRA_CANDIDATES = 0.5
"""Candidates taken beyond k, as a share of k, and at least 8."""
DOUBT = 2.0
"""An entry that is no candidate is taken to be under its estimate plus so many times the row's largest error seen."""


def chosen(left: torch.Tensor, rows: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Scalar products of row p of `left` (position, width) with the rows `indices[p]` of `rows`: (position, entry).

    The indices of a position are distinct.
    """
    n_positions, k = indices.shape
    ordered, order = indices.sort(dim=1)
    starts = torch.arange(0, n_positions * k + 1, k)
    shape = (n_positions, len(rows))
    with warnings.catch_warnings():
        # torch announces once per process that its sparse row format may still change
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support", category=UserWarning)
        # the indices of a row are distinct and were just sorted: nothing to check
        places = torch.sparse_csr_tensor(
            starts, ordered.flatten(), left.new_zeros(n_positions * k), shape, check_invariants=False
        )
    found = torch.sparse.sampled_addmm(places, left, rows.T, beta=0.0).values().view(n_positions, k)
    return torch.empty_like(found).scatter_(1, order, found)


def largest(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, indices), each (position, k), in any order: the k largest entries of left right + bias.

    Of `left` (position, width), `right` (width, column) and `bias` (column,), all float32 and on a CPU. Of entries
    under 0 only their number is sure where the products are estimated; which they are does not matter after a ReLU.
    """
    if estimates_first(len(bias), k):
        return _by_candidates(left, right, bias, k, _n_candidates(k))
    return _in_full(left, right, bias, k)


def estimates_first(n_columns: int, k: int) -> bool:
    """Whether the k largest of so many products are found by estimates on this processor."""
    # an estimate keeps the upper half of its bits, the other half says which column it is of
    return _n_candidates(k) < n_columns <= 2**16 and multiplies_bfloat16()


def _n_candidates(k: int) -> int:
    return k + max(round(EXTRA_CANDIDATES * k), 8)


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products in bfloat16."""
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _in_full(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    n = len(left)
    values, indices = left.new_empty(n, k), torch.empty(n, k, dtype=torch.int64)
    products = left.new_empty(min(n, ROWS_AT_ONCE), len(bias))
    for start in range(0, n, ROWS_AT_ONCE):
        some = slice(start, min(start + ROWS_AT_ONCE, n))
        part = torch.mm(left[some], right, out=products[: some.stop - start]).add_(bias)
        indices[some] = top_k_indices(part, k)
        torch.gather(part, -1, indices[some], out=values[some])
    return values, indices


def _by_candidates(
    left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor, k: int, n_candidates: int
) -> tuple[torch.Tensor, torch.Tensor]:
    estimates, candidates = _estimated_largest(left, right, bias, n_candidates)
    exact = chosen(left, right.T, candidates).add_(bias[candidates])
    values, places = exact.topk(k, dim=1, sorted=False)
    indices = candidates.gather(1, places)
    # an entry that is no candidate has an estimate of at most the smallest of theirs
    bound = estimates.amin(dim=1).clamp(min=0) + DOUBT * (exact - estimates).abs().amax(dim=1)
    unsure = (values.amin(dim=1) < bound).nonzero().flatten()
    if len(unsure):
        values[unsure], indices[unsure] = _in_full(left[unsure], right, bias, k)
    return values, indices


def _estimated_largest(
    left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor, n_largest: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(estimates, indices), each (position, entry), of the largest estimated products.

    An estimate and its column make one integer, upper and lower bits: integers of floats above 0 have their order, no
    two are the same, and their largest carry the columns with them.
    """
    n, n_columns = len(left), len(bias)
    column_bits = (1 << (n_columns - 1).bit_length()) - 1
    columns = torch.arange(n_columns, dtype=torch.int32)
    low_left, low_right = left.bfloat16(), right.bfloat16()
    keys = np.empty((n, n_largest), dtype=np.int32)
    for start in range(0, n, ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        part = (low_left[some] @ low_right).float().add_(bias).view(torch.int32)
        part.bitwise_and_(~column_bits).bitwise_or_(columns)
        keys[some] = np.partition(part.numpy(), n_columns - n_largest, axis=1)[:, n_columns - n_largest :]
    found = torch.from_numpy(keys)
    return (found & ~column_bits).view(torch.float32), (found & column_bits).long()
