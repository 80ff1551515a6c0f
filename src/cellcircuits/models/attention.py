"""Attention as the engine needs it: with its normaliser, and brought up to date where few keys changed.

The softmax over keys splits into parts. With O the output and Z = sum of exp(score) over one set of keys, two disjoint
sets give O = (Z1 O1 + Z2 O2) / (Z1 + Z2), so what the unchanged keys contribute need not be computed for every copy.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

LEANING = 0.5
"""A query that gave a larger share of its attention to keys that changed is computed anew: subtracting loses digits."""
LARGEST_GAIN = 1e6
"""So is a query that would give so many times its former attention to the changed keys."""
QUERIES_AT_A_TIME = 1024
"""Rows whose scores are held at a time, where no fused kernel returns the normaliser."""


class Attended(NamedTuple):
    """Attention of some queries over one set of keys."""

    output: torch.Tensor
    """(..., head, query, d_head)."""
    log_sum: torch.Tensor
    """(..., head, query): log of the sum of exp(score); -inf where there is no key."""


class Excluded(NamedTuple):
    """Keys that queries must not look at."""

    mask: torch.Tensor
    """float (query, key): -inf for these keys, else 0; added to scores."""
    all_keys: torch.Tensor
    """bool (query,): whether no key is left."""

    @classmethod
    def of(cls, excluded: torch.Tensor, dtype: torch.dtype) -> Excluded:
        """From bool (query, key)."""
        nothing = torch.zeros((), dtype=dtype, device=excluded.device)
        return cls(torch.where(excluded, -torch.inf, nothing), excluded.all(dim=1))


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, excluded: Excluded | None = None) -> Attended:
    """softmax(query key' / sqrt(d_head)) value, and the normaliser.

    Parameters
    ----------
    query, key, value
        (head, query, d_head), (head, key, d_head), (head, key, d_head).
    excluded
        Keys that a query must not look at.
    """
    mask = None if excluded is None else excluded.mask
    if query.device.type == "cpu":
        output, log_sum = _attend_fused(query, key, value, mask)
        if excluded is not None:
            # the kernel says 0 where no key is left
            log_sum.masked_fill_(excluded.all_keys, -torch.inf)
        return Attended(output, log_sum)
    rows = torch.arange(query.shape[1], device=query.device).split(QUERIES_AT_A_TIME)
    parts = [attend_explicitly(query[:, some], key, value, None if mask is None else mask[some]) for some in rows]
    output, log_sum = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    return Attended(output, log_sum)


def _attend_fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> Attended:
    """By the kernel behind torch's scaled_dot_product_attention, which itself does not hand out the normaliser."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output, log_sum = kernel(query[None], key[None], value[None], attn_mask=mask)
    return Attended(output[0], log_sum[0])


def attend_explicitly(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> Attended:
    """The same for any leading axes, from a table of all scores; `mask` is added to them."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores += mask
    log_sum = scores.logsumexp(dim=-1)
    weights = (scores - log_sum.clamp(min=torch.finfo(scores.dtype).min)[..., None]).exp_()
    return Attended(weights @ value, log_sum)


def joined(first: Attended, second: Attended) -> torch.Tensor:
    """Output over both of two disjoint sets of keys, of which the second must not be empty."""
    share = torch.sigmoid(first.log_sum - second.log_sum)[..., None]
    # without a key, a kernel may return anything as output
    output = torch.where(share > 0, first.output, second.output)
    return second.output + share * (output - second.output)


def with_changed_keys(
    clean: Attended,
    query: torch.Tensor,
    keys: tuple[torch.Tensor, torch.Tensor],
    values: tuple[torch.Tensor, torch.Tensor],
    filled: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output of unchanged queries after some keys and values changed: O' = (O + sum w' v' - w v) / (1 + sum w' - w).

    w and w' are the weights of the changed keys before and after, both normalised as they were before. The sum is taken
    as (w' - w) v' + w (v' - v), so that little is added where little changed.

    Parameters
    ----------
    clean
        Attention of the undisturbed cell, (head, position, d_head).
    query
        (head, position, d_head) of the undisturbed cell.
    keys, values
        Before and after the change, each (copy, head, slot, d_head).
    filled
        bool (copy, slot): False where a copy has fewer changed positions.

    Returns
    -------
    (copy, head, position, d_head), and bool (copy, position): queries that leant so much on keys that changed that
    their output must be computed anew.
    """
    n_slots = filled.shape[1]
    scores = (query * query.shape[-1] ** -0.5) @ torch.cat(keys, dim=2).transpose(-1, -2)
    weights = scores.sub_(clean.log_sum[..., None]).exp_()
    weights.masked_fill_(~filled.repeat(1, 2)[:, None, None, :], 0.0)
    before, gain = weights[..., :n_slots], weights[..., n_slots:]
    gain -= before
    moved = weights @ torch.cat([values[1] - values[0], values[1]], dim=2)
    total = 1 + gain.sum(dim=-1)
    # said so that it is True for infinite and undefined numbers too
    safe = (before.sum(dim=-1) <= LEANING) & (total >= 1 - LEANING) & (total <= LARGEST_GAIN)
    return moved.add_(clean.output).div_(total[..., None]), ~safe.all(dim=1)
