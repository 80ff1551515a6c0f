"""Attention in parts against attention from one table of scores."""

from __future__ import annotations

import pytest
import torch

from cellcircuits.models.attention import LEANING, Attended, Excluded, attend, attend_explicitly, joined
from cellcircuits.models.encoder import EncoderBlock, changed_keys
from cellcircuits.positions import Positions

pytestmark = pytest.mark.usefixtures("one_thread")


def slow_attention(query, key, value, allowed):
    """softmax over the allowed keys, in float64: (output, log of the normaliser)."""
    scores = query.double() @ key.double().transpose(-1, -2) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(dim=-1) @ value.double(), scores.logsumexp(dim=-1)


@pytest.fixture
def some():
    """Queries (2, 7, 8), keys and values (2, 30, 8), and keys excluded for each query."""
    torch.manual_seed(0)
    return torch.randn(2, 7, 8), torch.randn(2, 30, 8), torch.randn(2, 30, 8), torch.rand(7, 30) < 0.4


def test_attention_and_its_normaliser(some):
    query, key, value, excluded = some
    for found, allowed in (
        (attend(query, key, value), torch.ones(7, 30, dtype=bool)),
        (attend(query, key, value, Excluded.of(excluded, torch.float32)), ~excluded),
        (attend_explicitly(query, key, value), torch.ones(7, 30, dtype=bool)),
    ):
        output, log_sum = slow_attention(query, key, value, allowed)
        torch.testing.assert_close(found.output.double(), output, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.log_sum.double(), log_sum, atol=1e-5, rtol=1e-5)


def test_two_sets_of_keys_join_to_one(some):
    query, key, value, excluded = some
    mask = torch.zeros(7, 30).masked_fill(~excluded, -torch.inf)
    both = joined(
        attend(query, key, value, Excluded.of(excluded, torch.float32)), attend_explicitly(query, key, value, mask)
    )
    output, _ = slow_attention(query, key, value, torch.ones(7, 30, dtype=bool))
    torch.testing.assert_close(both.double(), output, atol=1e-6, rtol=1e-5)


def test_an_empty_set_of_keys_adds_nothing(some):
    query, key, value, excluded = some
    excluded[3] = True
    none = attend(query, key, value, Excluded.of(excluded, torch.float32))
    assert (none.log_sum[:, 3] == -torch.inf).all()
    spoilt = Attended(none.output.index_fill(1, torch.tensor([3]), torch.nan), none.log_sum)
    everything = attend(query, key, value)
    assert torch.equal(joined(spoilt, everything)[:, 3], everything.output[:, 3])


def copies(n_positions: int, width: int, changed: list[list[int]], size: float):
    """Clean input (1, position, d_model), copies changed at these positions, and (rows, positions)."""
    copy = torch.tensor([c for c, where in enumerate(changed) for _ in where])
    position = torch.tensor([p for where in changed for p in where])
    at = Positions(copy, position, n_copies=len(changed))
    clean = torch.randn(1, n_positions, width)
    rows = clean[0, position] + size * torch.randn(len(position), width)
    hidden = clean.repeat(len(changed), 1, 1)
    hidden[copy, position] = rows
    return clean, hidden, rows, at


@pytest.fixture
def block():
    torch.manual_seed(3)
    made = EncoderBlock(16, 4, 32, 1e-12).eval().requires_grad_(False)
    # sharp attention: some queries lean on single keys
    made.qkv.weight.mul_(4)
    return made


@pytest.mark.parametrize("size", [1e-3, 1.0, 20.0])
def test_a_block_brought_up_to_date_equals_a_block_run_anew(block, size):
    clean, hidden, rows, at = copies(60, 16, [[0, 7], [3], [5, 9, 30, 31]], size)
    found = block.forward_changed(rows, at, hidden, block.clean_attention(clean))
    torch.testing.assert_close(found, block(hidden), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [0.1, 20.0])
def test_queries_that_lean_on_changed_keys_are_computed_anew(block, size, monkeypatch):
    """A key that takes nearly all attention changes: what remains is a small difference of large sums, or overflows."""
    torch.manual_seed(5)
    keys = block.clean_attention(torch.randn(1, 60, 16)).key[0]
    longest = int(keys.norm(dim=-1).argmax())
    # every query of the first head points along that key
    block.qkv.bias[:4] += 20 * torch.nn.functional.normalize(keys[longest], dim=0)
    torch.manual_seed(5)
    clean, hidden, rows, at = copies(60, 16, [[longest], [3]], size)
    attention = block.clean_attention(clean)
    weights = (attention.query[0] @ attention.key[0].T / 2).softmax(dim=-1)
    assert (weights[:, longest] > LEANING).float().mean() > 0.5
    anew = []
    original = EncoderBlock._attend_anew

    def watch(self, table, leaning, changed):
        anew.append(int(leaning.sum()))
        original(self, table, leaning, changed)

    monkeypatch.setattr(EncoderBlock, "_attend_anew", watch)
    found = block.forward_changed(rows, at, hidden, attention)
    assert anew and anew[0] > 0
    torch.testing.assert_close(found, block(hidden), atol=2e-5, rtol=1e-4)


def test_no_change_gives_the_undisturbed_output(block):
    clean, hidden, rows, at = copies(60, 16, [[0, 7], [3]], 0.0)
    found = block.forward_changed(rows, at, hidden, block.clean_attention(clean))
    torch.testing.assert_close(found, block(clean).expand(2, -1, -1), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("changed", [[[0, 7], [3], [5, 9, 30]], [list(range(20)), [1]]])
def test_frozen_rows_see_the_clean_keys_of_the_others(block, changed):
    """Against full copies: only the changed positions differ from the clean input, so their rows are exact."""
    clean, hidden, rows, at = copies(20 if len(changed) == 2 else 60, 16, changed, 1.0)
    found = block.read_frozen(rows, at, *block.clean_keys_values(clean), changed_keys(at, clean.shape[1], clean.dtype))
    torch.testing.assert_close(found, block(hidden)[at.copy, at.position], atol=2e-5, rtol=1e-4)
