"""Genes taken out of, and put to the front of, what models read: against arrays written by hand."""

from __future__ import annotations

import numpy as np
import pytest

import cellcircuits as cc
from cellcircuits.errors import DataError, SettingsError
from cellcircuits.gene_edits import (
    delete_gene,
    join_cells,
    overexpress_by_rank,
    overexpress_by_value,
    shared_positions,
)
from cellcircuits.models.toy import ToyModel

PAD, CLS, EOS = 0, 2, 3


def ranked(*ids: int, info: dict | None = None) -> cc.Tokens:
    cells = cc.Tokens.from_ids(np.array([ids]))
    return cc.Tokens(cells.ids, cells.gene_mask, pad_id=PAD, info=info or {})


def valued(ids: list[int], values: list[float]) -> cc.Tokens:
    cells = cc.Tokens.from_ids([ids])
    return cc.Tokens(cells.ids, cells.gene_mask, np.array([values], dtype=np.float32), PAD)


@pytest.mark.parametrize(
    ("before", "gene", "after"),
    [
        ((CLS, 7, 5, 9, EOS), 7, (CLS, 5, 9, EOS)),  # first
        ((CLS, 7, 5, 9, EOS), 9, (CLS, 7, 5, EOS)),  # last
        ((7, 5, 9), 5, (7, 9)),  # no special tokens
        ((CLS, 7, 5, EOS, PAD, PAD), 5, (CLS, 7, EOS)),  # padded
    ],
)
def test_a_deleted_gene_is_gone_and_the_rest_moves_up(before, gene, after):
    made = delete_gene(ranked(*before), gene)
    np.testing.assert_array_equal(made.ids, [after])
    np.testing.assert_array_equal(made.gene_mask, [[token > EOS for token in after]])
    assert made.lengths == [len(after)]


@pytest.mark.parametrize(
    ("before", "gene", "longest", "after"),
    [
        ((CLS, 7, 5, 9, EOS), 9, 5, (CLS, 9, 7, 5, EOS)),
        ((CLS, 7, 5, 9, EOS), 7, 5, (CLS, 7, 5, 9, EOS)),  # is at the front
        ((CLS, 7, 5, 9, EOS), 8, 9, (CLS, 8, 7, 5, 9, EOS)),  # absent, with room
        ((CLS, 7, 5, 9, EOS), 8, 5, (CLS, 8, 7, 5, EOS)),  # absent, without
        ((7, 5, 9, PAD), 8, 3, (8, 7, 5)),
    ],
)
def test_an_overexpressed_gene_has_the_highest_rank(before, gene, longest, after):
    made = overexpress_by_rank(ranked(*before), gene, longest)
    np.testing.assert_array_equal(made.ids, [after])
    np.testing.assert_array_equal(made.gene_mask, [[token > EOS for token in after]])


def test_what_the_tokeniser_kept_bounds_the_length_too():
    cell = ranked(CLS, 7, 5, 9, EOS, info={"longest_input": 5})
    np.testing.assert_array_equal(overexpress_by_rank(cell, 8, 2048).ids, [[CLS, 8, 7, 5, EOS]])


def test_values_go_with_their_genes():
    cell = valued([CLS, 7, 5, 9], [-2, 3, 50, 1])
    gone = delete_gene(cell, 5)
    np.testing.assert_array_equal(gone.ids, [[CLS, 7, 9]])
    np.testing.assert_array_equal(gone.values, [[-2, 3, 1]])
    assert gone.values.dtype == np.float32
    more = overexpress_by_value(cell, 9, 10)
    np.testing.assert_array_equal(more.ids, cell.ids)
    np.testing.assert_array_equal(more.values, [[-2, 3, 50, 50]])
    np.testing.assert_array_equal(cell.values, [[-2, 3, 50, 1]])  # the cell itself stays
    new = overexpress_by_value(cell, 8, 10)
    np.testing.assert_array_equal(new.ids, [[CLS, 8, 7, 5, 9]])
    np.testing.assert_array_equal(new.values, [[-2, 50, 3, 50, 1]])
    full = overexpress_by_value(cell, 8, 4)  # the gene of the smallest value drops out
    np.testing.assert_array_equal(full.ids, [[CLS, 8, 7, 5]])
    np.testing.assert_array_equal(full.gene_mask, [[False, True, True, True]])
    tied = overexpress_by_value(valued([CLS, 7, 5, 9], [-2, 1, 1, 4]), 8, 4)
    np.testing.assert_array_equal(tied.ids, [[CLS, 8, 7, 9]])  # the last of equal ones


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: delete_gene(ranked(CLS, 7, 5, EOS), 9), DataError, "does not have the gene"),
        (lambda: delete_gene(ranked(CLS, 7, EOS), 7), DataError, "no gene but"),
        (lambda: delete_gene(ranked(CLS, 7, 5, EOS), CLS), SettingsError, "is no gene"),
        (lambda: delete_gene(ranked(CLS, 7, 5, EOS), PAD), SettingsError, "is no gene"),
        (lambda: delete_gene(cc.Tokens.from_ids([[7, 5], [7, 5]]), 7), DataError, "one cell at a time"),
        (lambda: overexpress_by_value(ranked(CLS, 7, 5), 7, 9), DataError, "no values"),
        (lambda: overexpress_by_rank(ranked(CLS, EOS), 7, 9), DataError, "has no gene"),
        (lambda: ToyModel().perturb_gene(ranked(7, 5), 7, "overexpress"), SettingsError, 'Use "delete"'),
    ],
)
def test_what_cannot_be_done_is_an_error(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_models_know_what_they_read(demo_model: cc.Model, demo_tokens: cc.Tokens):
    cell = demo_tokens.take([3])
    genes = np.flatnonzero(cell.gene_mask[0])
    last = int(cell.ids[0, genes[-1]])
    gone = demo_model.perturb_gene(cell, last, "delete")
    assert last not in gone.ids and gone.ids.shape[1] == cell.ids.shape[1] - 1
    more = demo_model.perturb_gene(cell, last, "overexpress")
    special = cell.ids[0][~cell.gene_mask[0]]
    for made in (gone, more):
        np.testing.assert_array_equal(made.ids[0][~made.gene_mask[0]], special)
    if cell.values is None:
        assert more.ids[0, genes[0]] == last and set(more.ids[0]) == set(cell.ids[0])
        assert demo_model.max_length >= more.ids.shape[1]
    else:
        assert more.values[0, genes[-1]] == cell.values[0, genes].max()
    with pytest.raises(SettingsError, match="kind"):
        demo_model.perturb_gene(cell, last, "double")


def test_cells_are_joined_and_matched_by_gene():
    one, other = valued([CLS, 7, 5, 9], [-2, 3, 50, 1]), valued([CLS, 9, 8, 7, 5, 6], [-2, 4, 5, 6, 7, 8])
    both = join_cells([one, other])
    np.testing.assert_array_equal(both.ids, [[CLS, 7, 5, 9, PAD, PAD], [CLS, 9, 8, 7, 5, 6]])
    np.testing.assert_array_equal(both.gene_mask[0], [False, True, True, True, False, False])
    np.testing.assert_array_equal(both.take([0]).values, one.values)
    here, there = shared_positions(one, other, 5)
    np.testing.assert_array_equal(here, [1, 3])
    np.testing.assert_array_equal(there, [3, 1])
