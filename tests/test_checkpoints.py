"""Weights and JSON from disk: what is read, what is refused, and that nothing in a file is run."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cellcircuits.checkpoints import check_weights, read_json, read_tensors
from cellcircuits.errors import ModelError

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, -1.0]), "ids": torch.arange(3)}


class Trap:
    """Pickles as a call that makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def assert_equal_weights(read: dict[str, torch.Tensor]) -> None:
    assert sorted(read) == sorted(WEIGHTS)
    assert all(torch.equal(read[key], WEIGHTS[key]) for key in WEIGHTS)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_equal_weights(read_tensors(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("wrapper", ["", "model_state_dict", "state_dict", "model"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_read_with_or_without_a_wrapper(tmp_path: Path, wrapper: str, zipped: bool) -> None:
    content = {wrapper: WEIGHTS, "epoch": 3} if wrapper else WEIGHTS
    torch.save(content, tmp_path / "best_model.pt", _use_new_zipfile_serialization=zipped)
    assert_equal_weights(read_tensors(tmp_path / "best_model.pt"))


@pytest.mark.parametrize("name", ["best_model.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_torch_file_is_refused_unrun(tmp_path: Path, name: str, zipped: bool) -> None:
    content = WEIGHTS | {"trap": Trap(tmp_path / "it_ran")}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="was refused: it is damaged, or holds more than tensors"):
        read_tensors(tmp_path / name)
    assert not (tmp_path / "it_ran").exists()


def test_code_in_a_plain_pickle_is_refused_unrun(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(pickle.dumps(Trap(tmp_path / "it_ran")))
    with pytest.raises(ModelError, match="was refused"):
        read_tensors(tmp_path / "model.pt")
    assert not (tmp_path / "it_ran").exists()


def test_the_trap_of_these_tests_would_snap(tmp_path: Path) -> None:
    torch.save(Trap(tmp_path / "it_ran"), tmp_path / "model.pt")
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert (tmp_path / "it_ran").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def scramble_start(path: Path) -> None:
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


@pytest.mark.parametrize(
    "damage", [cut, scramble_start, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"\xff" * 64)]
)
@pytest.mark.parametrize("name", ["model.safetensors", "best_model.pt"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, damage) -> None:
    path = tmp_path / name
    save_file(WEIGHTS, path) if path.suffix == ".safetensors" else torch.save(WEIGHTS, path)
    damage(path)
    with pytest.raises(ModelError, match=rf"{name} was refused: it is damaged, or holds more than tensors \(.+\)"):
        read_tensors(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no file .*model\.safetensors"):
        read_tensors(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "content", [[torch.zeros(2)], torch.zeros(2), {"a": torch.zeros(2), "step": 3}, {"a": "b"}, {1: torch.zeros(2)}]
)
def test_files_without_named_tensors_alone_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="does not hold named tensors"):
        read_tensors(tmp_path / "model.pt")


def test_arrays_of_other_libraries_are_refused(tmp_path: Path) -> None:
    torch.save({"a": np.zeros(2)}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"was refused|does not hold named tensors"):
        read_tensors(tmp_path / "model.pt")


EXPECTED = {"a.weight": (2, 3), "a.bias": (2,)}


def test_weights_that_fit_pass() -> None:
    check_weights(EXPECTED, {key: WEIGHTS[key] for key in EXPECTED}, "the file")


def test_every_problem_is_named_at_once() -> None:
    stored = {"a.weight": torch.zeros(3, 2), "b.bias": torch.zeros(1), "c": torch.tensor([torch.nan])}
    message = (
        r"the file does not fit its configuration; weights 2 missing: a\.bias, d; 1 unknown: b\.bias; "
        r"1 misshapen: a\.weight \(3, 2\) instead of \(2, 3\); 1 not finite: c\. Nothing was loaded"
    )
    with pytest.raises(ModelError, match=message):
        check_weights(EXPECTED | {"c": (1,), "d": (1,)}, stored, "the file")


def test_long_lists_of_problems_are_shortened() -> None:
    with pytest.raises(ModelError, match="12 missing: w00, w01, w02, w03, w04 and 7 more"):
        check_weights({f"w{i:02}": (1,) for i in range(12)}, {}, "the file")


def test_json_objects_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"é": 1}), encoding="utf-8")
    assert read_json(tmp_path / "config.json") == {"é": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[1, 2]", "holds a list; expected a JSON object"),
        (b"3", "holds a int; expected a JSON object"),
    ],
)
def test_anything_but_a_json_object_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_json(tmp_path / "config.json")


def test_a_missing_or_unreadable_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Cannot read .*config\.json: No such file"):
        read_json(tmp_path / "config.json")
    with pytest.raises(ModelError, match=r"Cannot read .*: Is a directory"):
        read_json(tmp_path)
