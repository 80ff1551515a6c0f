"""The products of TopK training in which only the k active of F features take part, each with its gradient.

Of the 12 d F operations per position of a training step, 10 d F are products with codes that are 0 in all but k of F
places. Here they cost 8 d k: rows are gathered and added up. On CPUs, and where k is far below F.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import embedding_bag

from cellcircuits import row_products
from cellcircuits.settings import SPARSE_FEATURES_PER_ACTIVE


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


class _Encode(torch.autograd.Function):
    """The k largest entries of (hidden - shift) W_enc + b_enc, with gradients of all three weights."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, shift: torch.Tensor, k: int):
        """(values, indices), each (position, k)."""
        centred = hidden - shift
        values, indices = row_products.largest(centred, W_enc, b_enc, k)
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
        return (
            row_products.chosen(gradient, W_dec, indices),
            None,
            _summed_rows(gradient, values, indices, len(W_dec))[0],
        )


def encode(
    hidden: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, shift: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, indices) of the k largest pre-activations, each (position, k); values may be negative."""
    return _Encode.apply(hidden, W_enc, b_enc, shift, k)


def decode(values: torch.Tensor, indices: torch.Tensor, W_dec: torch.Tensor) -> torch.Tensor:
    """Reconstruction (position, d_model) without its bias."""
    return _Decode.apply(values, indices, W_dec)
