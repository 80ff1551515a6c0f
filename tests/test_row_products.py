"""The k largest products of each row, with candidates estimated in bfloat16, against all products in full."""

from __future__ import annotations

import pytest
import torch

from cellcircuits import row_products


def matrices(n: int, width: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Left, right (unit columns) and a bias of the size of a product's spread."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(n, width, generator=generator)
    right = torch.randn(width, columns, generator=generator)
    return left, right / right.norm(dim=0), torch.randn(columns, generator=generator)


def plain(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor, k: int) -> list[set[int]]:
    """Columns of the k largest, in double precision, row by row."""
    products = (left.double() @ right.double() + bias.double()).tolist()
    return [set(sorted(range(len(row)), key=row.__getitem__, reverse=True)[:k]) for row in products]


def assert_largest(left, right, bias, k, found) -> None:
    """The columns are those of the plain version, the values are theirs."""
    values, indices = found
    assert values.shape == indices.shape == (len(left), k)
    assert [set(row) for row in indices.tolist()] == plain(left, right, bias, k)
    exact = (left.double() @ right.double() + bias.double()).gather(1, indices)
    torch.testing.assert_close(values.double(), exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 5, 700])
def test_both_ways_give_the_largest(n):
    left, right, bias = matrices(n, 48, 300)
    assert_largest(left, right, bias, 6, row_products._in_full(left, right, bias, 6))
    assert_largest(left, right, bias, 6, row_products._by_candidates(left, right, bias, 6, 14))


def full_rows(monkeypatch) -> list[int]:
    """Numbers of rows that are multiplied in full from now on."""
    counts: list[int] = []
    in_full = row_products._in_full

    def counted(left, right, bias, k):
        counts.append(len(left))
        return in_full(left, right, bias, k)

    monkeypatch.setattr(row_products, "_in_full", counted)
    return counts


def test_few_rows_are_in_doubt(monkeypatch):
    """As wide as an autoencoder of a real model."""
    counts = full_rows(monkeypatch)
    left, right, bias = matrices(300, 256, 2048)
    found = row_products._by_candidates(left, right, bias * 0, 32, 48)
    assert sum(counts) <= 3
    assert_largest(left, right, bias * 0, 32, found)


@pytest.mark.parametrize("offset, least", [(100.0, 0), (1e4, 100)])
def test_where_estimates_are_worthless_rows_are_multiplied_in_full(monkeypatch, offset, least):
    """Large entries that cancel: bfloat16 leaves nothing of the differences between columns."""
    counts = full_rows(monkeypatch)
    left, right, bias = matrices(200, 64, 400, seed=1)
    left[:, 0] += offset
    left[:, 1] += offset
    right[1] = -right[0]  # their sum is small, each of them is not
    values, _ = row_products._by_candidates(left, right, bias * 0, 8, 16)
    assert sum(counts) > least
    expected = (left @ right).topk(8, dim=1).values
    torch.testing.assert_close(values.sort(dim=1).values, expected.sort(dim=1).values, atol=offset * 1e-5, rtol=1e-5)


def test_fewer_than_k_above_zero():
    """What is above 0 is found, and the rest is under 0."""
    left, right, bias = matrices(100, 48, 300, seed=2)
    values, indices = row_products._by_candidates(left, right, bias - 4.5, 12, 20)
    products = left @ right + bias - 4.5
    positive = products > 0
    assert ((positive.sum(dim=1) < 12) & positive.any(dim=1)).sum() > 10
    code = torch.zeros_like(products).scatter(1, indices, values.relu())
    expected = products.topk(12, dim=1)
    torch.testing.assert_close(code, torch.zeros_like(products).scatter(1, expected.indices, expected.values.relu()))


def test_ties_give_k_distinct_columns():
    left, right, bias = torch.ones(3, 8), torch.ones(8, 100), torch.zeros(100)
    values, indices = row_products._by_candidates(left, right, bias, 4, 12)
    assert (values == 8).all() and all(len(set(row)) == 4 for row in indices.tolist())


def test_estimates_carry_their_columns():
    left, right, bias = matrices(9, 32, 130)
    estimates, columns = row_products._estimated_largest(left, right, bias, 10)
    exact = (left @ right + bias).gather(1, columns)
    torch.testing.assert_close(estimates, exact, atol=0.05, rtol=0.02)
    assert all(len(set(row)) == 10 for row in columns.tolist())


def test_estimates_are_used_only_where_they_help(monkeypatch):
    left, right, bias = matrices(4, 32, 130)
    monkeypatch.setattr(row_products, "multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(row_products, "_by_candidates", lambda *_: pytest.fail("estimated"))
    row_products.largest(left, right, bias, 5)
    monkeypatch.setattr(row_products, "multiplies_bfloat16", lambda: True)
    row_products.largest(left, right, bias, 125)  # all columns would be candidates
    with pytest.raises(pytest.fail.Exception, match="estimated"):
        row_products.largest(left, right, bias, 5)


def test_chosen_products_by_a_loop():
    left, right, _ = matrices(6, 16, 40)
    indices = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(i))[:7] for i in range(6)])
    found = row_products.chosen(left, right.T.contiguous(), indices)
    for p in range(6):
        for entry, column in enumerate(indices[p].tolist()):
            assert found[p, entry].item() == pytest.approx(float(left[p] @ right[:, column]), abs=1e-5)
