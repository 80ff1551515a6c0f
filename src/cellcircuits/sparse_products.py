"""The products of TopK training in which only the k active of F features take part, each with its gradient.

Of the 12 d F operations per position of a training step, 10 d F are products with codes that are 0 in all but k of F
places. Here they cost 8 d k: rows are gathered and added up. On CPUs, and where k is far below F.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.nn.functional import embedding_bag

from cellcircuits.settings import SPARSE_FEATURES_PER_ACTIVE
from cellcircuits.top_k import top_k_indices

POSITIONS_AT_ONCE = 512
"""Positions whose pre-activations are held together: some megabytes, which stay in a processor's cache."""


def pays(n_features: int, k: int, device: torch.device) -> bool:
    """Whether gathering rows is faster than dense products."""
    return device.type == "cpu" and n_features >= SPARSE_FEATURES_PER_ACTIVE * k


def _summed_rows(
    table: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor, n_features: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each feature the weighted sum of the rows of `table` (position, width) at which it is active.

    `weights` and `indices` are (position, entry). Returns (feature, width), and the sum of each feature's weights.
    """
    order = indices.flatten().argsort(stable=True)
    rows = torch.div(order, indices.shape[1], rounding_mode="floor")
    ends = torch.bincount(indices.flatten(), minlength=n_features).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    sorted_weights = weights.flatten()[order]
    sums = embedding_bag(rows, table, starts, per_sample_weights=sorted_weights, mode="sum")
    total = torch.zeros(n_features, dtype=weights.dtype).index_add_(0, indices.flatten(), weights.flatten())
    return sums, total


def _chosen_products(left: torch.Tensor, rows: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Scalar products of row p of `left` (position, width) with the rows `indices[p]` of `rows`: (position, entry)."""
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


def _largest(
    centred: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, indices), each (position, k), of the k largest entries of centred W_enc + b_enc."""
    n = len(centred)
    values, indices = centred.new_empty(n, k), torch.empty(n, k, dtype=torch.int64)
    pre = centred.new_empty(min(n, POSITIONS_AT_ONCE), len(b_enc))
    for start in range(0, n, POSITIONS_AT_ONCE):
        some = slice(start, min(start + POSITIONS_AT_ONCE, n))
        part = torch.mm(centred[some], W_enc, out=pre[: some.stop - start]).add_(b_enc)
        indices[some] = top_k_indices(part, k)
        torch.gather(part, -1, indices[some], out=values[some])
    return values, indices


class _Encode(torch.autograd.Function):
    """The k largest entries of (hidden - shift) W_enc + b_enc, with gradients of all three weights."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, shift: torch.Tensor, k: int):
        """(values, indices), each (position, k)."""
        centred = hidden - shift
        values, indices = _largest(centred, W_enc, b_enc, k)
        ctx.save_for_backward(centred, indices, W_enc)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor):
        """Of the weights; none of the activations."""
        centred, indices, W_enc = ctx.saved_tensors
        of_encoder, of_bias = _summed_rows(centred, gradients[0].contiguous(), indices, W_enc.shape[1])
        return None, of_encoder.T, of_bias, -(W_enc @ of_bias), None


class _Decode(torch.autograd.Function):
    """Sum of decoder rows times values."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, indices: torch.Tensor, W_dec: torch.Tensor):
        """(position, d_model)."""
        ctx.save_for_backward(values, indices, W_dec)
        return embedding_bag(indices, W_dec, per_sample_weights=values, mode="sum")

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor):
        """Of values and decoder."""
        values, indices, W_dec = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        return _chosen_products(gradient, W_dec, indices), None, _summed_rows(gradient, values, indices, len(W_dec))[0]


def encode(
    hidden: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, shift: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, indices) of the k largest pre-activations, each (position, k); values may be negative."""
    return _Encode.apply(hidden, W_enc, b_enc, shift, k)


def decode(values: torch.Tensor, indices: torch.Tensor, W_dec: torch.Tensor) -> torch.Tensor:
    """Reconstruction (position, d_model) without its bias."""
    return _Decode.apply(values, indices, W_dec)
