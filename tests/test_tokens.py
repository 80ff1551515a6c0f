"""`Tokens`: padding, selection, identity, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

import cellcircuits as cc
import cellcircuits.tokens
from cellcircuits.errors import DataError, RunError
from cellcircuits.tokens import Tokens, load_tokens, save_tokens

RAGGED = [[2, 7, 5, 3], [2, 4, 3], [2, 9, 8, 7, 6, 3]]
PADDED = np.array([[2, 7, 5, 3, 0, 0], [2, 4, 3, 0, 0, 0], [2, 9, 8, 7, 6, 3]])


def full_tokens() -> Tokens:
    """Three cells with everything that Tokens can hold."""
    names = np.array(["", "", "", "", *(f"G{i}" for i in range(4, 10))])
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(["T", "B", None]),
            "note": ["x", None, 3],
            "n_counts": [10.5, 20.0, np.nan],
            "batch": [1, 2, 3],
            "good": [True, False, True],
        },
        index=["AAAC-1", "AAAG-1", "AAAT-1"],
    )
    return Tokens(
        ids=PADDED.astype(np.int32),
        gene_mask=PADDED > 3,
        values=np.where(PADDED > 3, PADDED / 7, -2).astype(np.float32),
        gene_ids=names,
        gene_symbols=np.char.lower(names),
        obs=obs,
        info={"input_mode": "official", "genes": 6, "share": 0.5},
    )


@pytest.mark.parametrize("ids", [RAGGED, PADDED, [np.array(row) for row in RAGGED], PADDED.astype(np.int64)])
def test_ids_may_be_ragged_or_an_array(ids) -> None:
    tokens = Tokens.from_ids(ids)
    np.testing.assert_array_equal(tokens.ids, PADDED)
    np.testing.assert_array_equal(tokens.gene_mask, PADDED > 3)
    np.testing.assert_array_equal(tokens.lengths, [4, 3, 6])
    assert tokens.ids.dtype == np.int32
    assert tokens.has_padding
    assert tokens.n_positions == 2 + 1 + 4
    assert len(tokens) == 3
    assert list(tokens.obs.index) == ["cell_0", "cell_1", "cell_2"]


def test_padding_and_special_ids_can_be_any() -> None:
    tokens = Tokens.from_ids([[95, 0, 3], [95, 1]], pad_id=94, special_ids=[94, 95])
    np.testing.assert_array_equal(tokens.ids, [[95, 0, 3], [95, 1, 94]])
    np.testing.assert_array_equal(tokens.gene_mask, [[False, True, True], [False, True, False]])


@pytest.mark.parametrize("ids", [[[2, 0, 5, 3]], [[0, 2, 5, 3]], [[2, 5, 3], [0, 4, 3]]])
def test_padding_inside_a_cell_is_refused(ids: list) -> None:
    with pytest.raises(DataError, match=r"Padding \(token 0\) must stand only at the end"):
        Tokens.from_ids(ids)


def test_cells_without_tokens_are_refused() -> None:
    with pytest.raises(DataError, match="1 cells have no token at all"):
        Tokens.from_ids([[2, 5, 3], []])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": PADDED[0]}, r"shape \(cell, position\); found shape \(6,\)"),
        ({"gene_mask": PADDED[:, :2] > 3}, r"gene_mask has shape \(3, 2\), ids have \(3, 6\)"),
        ({"values": np.zeros((3, 1))}, r"values has shape \(3, 1\), ids have \(3, 6\)"),
        ({"obs": pd.DataFrame(index=["a", "b"])}, "hold 3 cells but obs has 2 rows"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(full_tokens(), **change)


def test_take_trims_padding_and_keeps_rows_together() -> None:
    tokens = full_tokens()
    taken = tokens.take([1, 0, 1])
    np.testing.assert_array_equal(taken.ids, PADDED[[1, 0, 1], :4])
    np.testing.assert_array_equal(taken.gene_mask, PADDED[[1, 0, 1], :4] > 3)
    np.testing.assert_array_equal(taken.values, tokens.values[[1, 0, 1], :4])
    np.testing.assert_array_equal(taken.lengths, [3, 4, 3])
    assert list(taken.obs.index) == ["AAAG-1", "AAAC-1", "AAAG-1"]
    assert taken.info == tokens.info


def test_take_accepts_a_mask() -> None:
    tokens = full_tokens()
    assert tokens.take(np.array([False, True, True])).fingerprint() == tokens.take([1, 2]).fingerprint()


def test_take_of_nothing_is_empty() -> None:
    assert full_tokens().take([]).ids.shape == (0, 0)


CHANGES = {
    "an id": {"ids": np.where(PADDED == 9, 8, PADDED).astype(np.int32)},
    "the order of cells": {"ids": PADDED[::-1].astype(np.int32)},
    "the gene mask": {"gene_mask": PADDED > 4},
    "a value": {"values": np.where(PADDED == 9, 1.0, full_tokens().values).astype(np.float32)},
    "no values": {"values": None},
    "a gene id": {"gene_ids": np.array([*full_tokens().gene_ids[:-1], "other"])},
    "padding that is none": {"pad_id": 99},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_fingerprint_changes_with_what_the_model_sees(change: dict) -> None:
    assert replace(full_tokens(), **change).fingerprint() != full_tokens().fingerprint()


@pytest.mark.parametrize("change", [{"obs": pd.DataFrame(index=["a", "b", "c"])}, {"info": {}}])
def test_the_fingerprint_does_not_change_with_what_the_model_does_not_see(change: dict) -> None:
    assert replace(full_tokens(), **change).fingerprint() == full_tokens().fingerprint()


def test_saved_tokens_come_back(tmp_path: Path) -> None:
    tokens = full_tokens()
    save_tokens(tokens, tmp_path)
    loaded = load_tokens(tmp_path)
    assert loaded.fingerprint() == tokens.fingerprint()
    for name in ("ids", "gene_mask", "values", "lengths", "gene_ids", "gene_symbols"):
        stored, original = getattr(loaded, name), getattr(tokens, name)
        np.testing.assert_array_equal(stored, original)
        assert stored.dtype.kind == original.dtype.kind
    assert (loaded.pad_id, loaded.info) == (tokens.pad_id, tokens.info)
    assert list(loaded.obs.index) == list(tokens.obs.index)
    assert list(loaded.obs["cell_type"]) == ["T", "B", None]
    assert list(loaded.obs["note"]) == ["x", None, "3"]
    numbers = ["n_counts", "batch", "good"]
    pd.testing.assert_frame_equal(loaded.obs[numbers], tokens.obs[numbers], check_names=False)


def test_bare_tokens_come_back(tmp_path: Path) -> None:
    tokens = Tokens.from_ids(RAGGED)
    save_tokens(tokens, tmp_path)
    loaded = load_tokens(tmp_path)
    assert loaded.fingerprint() == tokens.fingerprint()
    assert loaded.values is None
    assert len(loaded.gene_ids) == 0


def test_an_obs_column_named_cell_survives(tmp_path: Path) -> None:
    tokens = replace(full_tokens(), obs=pd.DataFrame({"cell": ["T", "B", "NK"]}, index=["a", "b", "c"]))
    save_tokens(tokens, tmp_path)
    loaded = load_tokens(tmp_path)
    assert list(loaded.obs.index) == ["a", "b", "c"]
    assert list(loaded.obs["cell"]) == ["T", "B", "NK"]


def test_real_tokens_come_back(tmp_path: Path, demo_tokens: cc.Tokens) -> None:
    save_tokens(demo_tokens, tmp_path)
    loaded = load_tokens(tmp_path)
    assert loaded.fingerprint() == demo_tokens.fingerprint()
    assert loaded.info == demo_tokens.info
    assert list(loaded.obs["cell_type"]) == list(demo_tokens.obs["cell_type"])


FILES = ["tokens.safetensors", "obs.parquet", "genes.parquet", "tokens.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[: -p.stat().st_size // 2])]
)
def test_missing_and_damaged_files_are_named(tmp_path: Path, name: str, damage) -> None:
    save_tokens(full_tokens(), tmp_path)
    damage(tmp_path / name)
    with pytest.raises(RunError, match=r"are damaged .*Delete the folder and run `cells` again"):
        load_tokens(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[]", '{"pad_id": 2, "info": {}}'])
def test_a_record_that_does_not_fit_is_refused(tmp_path: Path, text: str) -> None:
    save_tokens(full_tokens(), tmp_path)
    (tmp_path / "tokens.json").write_text(text)
    with pytest.raises(RunError, match="are damaged"):
        load_tokens(tmp_path)


def change_arrays(folder: Path, **changes: np.ndarray | None) -> None:
    """Write the arrays of saved tokens again with some of them changed, or left out (None)."""
    arrays = load_file(folder / "tokens.safetensors") | changes
    save_file({name: a for name, a in arrays.items() if a is not None}, folder / "tokens.safetensors")


def test_loaded_tokens_stay_on_disk_until_cells_are_taken(tmp_path: Path) -> None:
    save_tokens(full_tokens(), tmp_path)
    loaded = load_tokens(tmp_path)
    assert all(isinstance(a, np.memmap) for a in (loaded.ids, loaded.gene_mask, loaded.values))
    taken = loaded.take([2, 0])
    assert not any(isinstance(a, np.memmap) for a in (taken.ids, taken.gene_mask, taken.values, loaded.lengths))
    assert taken.fingerprint() == full_tokens().take([2, 0]).fingerprint()
    assert loaded.n_positions == full_tokens().n_positions
    np.testing.assert_array_equal(loaded.count_genes(), full_tokens().count_genes())


def test_many_cells_are_looked_at_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = full_tokens()
    expected = np.bincount(whole.ids[whole.gene_mask], minlength=len(whole.gene_ids))
    save_tokens(whole, tmp_path)
    monkeypatch.setattr(cellcircuits.tokens, "CELLS_AT_A_TIME", 2)
    for tokens in (load_tokens(tmp_path), full_tokens()):
        assert (tokens.fingerprint(), tokens.n_positions) == (whole.fingerprint(), whole.n_positions)
        np.testing.assert_array_equal(tokens.count_genes(), expected)
        np.testing.assert_array_equal(tokens.lengths, whole.lengths)


def test_tokens_without_lengths_are_counted(tmp_path: Path) -> None:
    """As written by versions before lengths were stored."""
    save_tokens(full_tokens(), tmp_path)
    change_arrays(tmp_path, lengths=None)
    np.testing.assert_array_equal(load_tokens(tmp_path).lengths, full_tokens().lengths)


@pytest.mark.parametrize("lengths", [np.array([3, 3, 3]), np.array([4])])
def test_lengths_that_do_not_fit_are_refused(tmp_path: Path, lengths: np.ndarray) -> None:
    save_tokens(full_tokens(), tmp_path)
    change_arrays(tmp_path, lengths=lengths)
    with pytest.raises(RunError, match="are damaged"):
        load_tokens(tmp_path)


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    save_tokens(full_tokens(), tmp_path)
    assert list(load_tokens(tmp_path, columns=["batch"]).obs.columns) == ["batch"]
    bare = load_tokens(tmp_path, columns=[])
    assert list(bare.obs.index) == list(full_tokens().obs.index) and len(bare.obs.columns) == 0
