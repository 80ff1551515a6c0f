"""Gene dictionaries: every form in which they are published is read, nothing in them is ever run."""

from __future__ import annotations

import builtins
import collections
import gzip
import os
import pickle
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cellcircuits import dictionaries
from cellcircuits.dictionaries import ALLOWED_GLOBALS, read_dictionary
from cellcircuits.errors import ModelError

PROTOCOLS = [2, 3, 4, 5]
SCALAR = ("numpy.core.multiarray", "scalar")


def write(folder: Path, data: bytes, name: str = "dictionary.pkl") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def as_global(module: str, name: str) -> bytes:
    """The pickle opcode that asks for module.name."""
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    """The pickle opcode of a string."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def dtype(code: str, order: str = "<") -> bytes:
    """Pickle opcodes of a numpy dtype, as numpy writes them."""
    state = b"(K\x03" + text(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    return as_global("numpy", "dtype") + b"(" + text(code) + b"\x89\x88tR" + state + b"b"


def entry(value: bytes, before: bytes = b"") -> bytes:
    """A pickle of {"gene": value}, after other opcodes."""
    return b"\x80\x03" + before + b"}" + text("gene") + value + b"s."


class Trap:
    """Pickles as a call."""

    def __init__(self, call: Callable, *arguments: object) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> tuple:
        return self.reduced


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", [int, float, np.float64, np.float32, np.int16, np.int64, np.uint8])
def test_numbers_come_back_as_python_numbers(tmp_path: Path, protocol: int, kind: type) -> None:
    stored = {"ENSG00000141510": kind(101), "<pad>": kind(0)}
    read = read_dictionary(write(tmp_path, pickle.dumps(stored, protocol)))
    assert read == {"ENSG00000141510": 101, "<pad>": 0}
    assert {type(value) for value in read.values()} == {float if issubclass(kind, (float, np.floating)) else int}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_text_and_exact_floats_come_back_unchanged(tmp_path: Path, protocol: int) -> None:
    stored = {"TP53": "ENSG00000141510", "median": np.float64(0.1), "tiny": np.float64(5e-324)}
    assert read_dictionary(write(tmp_path, pickle.dumps(stored, protocol))) == stored


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize(("code", "form", "value"), [("f8", "d", 1.40203379), ("i2", "h", -8014)])
def test_numpy_scalars_are_read_under_both_module_names(
    tmp_path: Path, module: str, code: str, form: str, value: float
) -> None:
    for order in "<>":
        raw = struct.pack(order + form, value)
        scalar = as_global(module, "scalar") + b"(" + dtype(code, order) + b"C" + bytes([len(raw)]) + raw + b"tR"
        assert read_dictionary(write(tmp_path, entry(scalar))) == {"gene": value}


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    data = gzip.compress(pickle.dumps({"a": np.float64(2.5)}))
    assert read_dictionary(write(tmp_path, data, "dictionary.pkl.gz")) == {"a": 2.5}
    assert read_dictionary(write(tmp_path, data, "dictionary.pkl")) == {"a": 2.5}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (os.system, ["touch {}"]),
        (os.mkdir, ["{}"]),
        (subprocess.check_call, [["touch", "{}"]]),
        (builtins.exec, ["open({!r}, 'w')"]),
        (builtins.eval, ["open({!r}, 'w')"]),
        (builtins.open, ["{}", "w"]),
    ],
)
def test_code_in_a_dictionary_is_refused_unrun(tmp_path: Path, protocol: int, call: Callable, arguments: list) -> None:
    marker = tmp_path / "it_ran"
    filled = [
        [a.format(str(marker)) for a in arg] if isinstance(arg, list) else arg.format(str(marker)) for arg in arguments
    ]
    path = write(tmp_path, pickle.dumps({"gene": Trap(call, *filled)}, protocol))
    with pytest.raises(ModelError, match=rf"it asks for \w+\.{call.__name__}"):
        read_dictionary(path)
    assert not marker.exists()


def test_the_trap_of_these_tests_would_snap(tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"
    pickle.loads(pickle.dumps(Trap(os.mkdir, str(marker))))  # noqa: S301
    assert marker.exists()


@pytest.mark.parametrize(
    "value",
    [
        collections.OrderedDict(a=1),
        np.arange(3),
        np.bool_(True),
        np.str_("ENSG"),
        np.datetime64("2020-01-01"),
        np.complex64(1),
        np.longdouble(1),
        Path("x"),
        len,
    ],
)
def test_other_objects_are_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(ModelError, match=r"was refused|not text or numbers"):
        read_dictionary(write(tmp_path, pickle.dumps({"gene": value})))


@pytest.mark.parametrize("code", ["O", "O8", "V8", "S5", "U5", "M8[ns]", "b1", "f8,f8", "f", "float64"])
def test_scalars_that_are_not_numbers_are_refused(tmp_path: Path, code: str) -> None:
    scalar = as_global(*SCALAR) + b"(" + dtype(code) + b"C\x08" + bytes(8) + b"tR"
    with pytest.raises(ModelError, match=r"was refused: .* is not a number"):
        read_dictionary(write(tmp_path, entry(scalar)))


@pytest.mark.parametrize(
    "value",
    [
        as_global(*SCALAR) + b"(" + text("f8") + b"C\x08" + bytes(8) + b"tR",
        as_global(*SCALAR) + b"(" + dtype("f8") + b"C\x03" + bytes(3) + b"tR",
        as_global(*SCALAR) + b"(" + dtype("f8") + text("12345678") + b"tR",
        as_global("_codecs", "encode") + b"(" + text("x") + text("rot13") + b"tR",
        as_global("numpy", "dtype.type") + b"(" + text("f8") + b"tR",
        as_global("numpy", "dtype"),
        dtype("f8"),
    ],
)
def test_misuse_of_the_allowed_globals_is_refused(tmp_path: Path, value: bytes) -> None:
    with pytest.raises(ModelError, match=r"was refused|not text or numbers"):
        read_dictionary(write(tmp_path, entry(value)))


@pytest.mark.parametrize("target", list(ALLOWED_GLOBALS))
def test_a_dictionary_cannot_change_the_reader(tmp_path: Path, target: tuple[str, str]) -> None:
    # BUILD with (None, {"__defaults__": (1, 2)}) sets attributes of whatever the pickle got
    build = as_global(*target) + b"N}" + text("__defaults__") + b"K\x01K\x02\x86s\x86b0"
    before = [getattr(made, "__defaults__", None) for made in ALLOWED_GLOBALS.values()]
    assert read_dictionary(write(tmp_path, entry(b"K\x07", before=build))) == {"gene": 7}
    assert [getattr(made, "__defaults__", None) for made in ALLOWED_GLOBALS.values()] == before


@pytest.mark.parametrize(("content", "name"), [([1], "list"), ("ENSG", "str"), (3, "int"), (None, "NoneType")])
def test_anything_but_a_dict_is_refused(tmp_path: Path, content: object, name: str) -> None:
    with pytest.raises(ModelError, match=f"holds a {name}; expected a dictionary"):
        read_dictionary(write(tmp_path, pickle.dumps(content)))


@pytest.mark.parametrize("content", [{1: 2}, {"a": [1]}, {"a": None}, {"a": {"b": 1}}, {("a",): 1}])
def test_entries_that_are_not_text_or_numbers_are_refused(tmp_path: Path, content: dict) -> None:
    with pytest.raises(ModelError, match="not text or numbers, for example"):
        read_dictionary(write(tmp_path, pickle.dumps(content)))


@pytest.mark.parametrize("zipped", [False, True])
def test_oversize_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.setattr(dictionaries, "MAX_BYTES", 1000)
    data = pickle.dumps({"gene": "A" * 1000})
    path = write(tmp_path, gzip.compress(data) if zipped else data)
    assert path.stat().st_size < 1000 or not zipped
    with pytest.raises(ModelError, match="more than 1,000 bytes"):
        read_dictionary(path)


def test_an_oversize_gzip_file_is_not_unpacked_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictionaries, "MAX_BYTES", 1000)
    # reading all of it would stumble over the missing end
    with pytest.raises(ModelError, match="more than 1,000 bytes"):
        read_dictionary(write(tmp_path, gzip.compress(bytes(10**6))[:-5]))


GOOD = pickle.dumps({"gene": 1.0, "other": "text"})


DAMAGED = {
    "empty": b"",
    "other": b"not a pickle",
    "cut": GOOD[:-4],
    "cut gzip": gzip.compress(GOOD)[:-9],
    "broken gzip": gzip.compress(GOOD)[:20] + b"\x00" * 20,
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ModelError, match=r"was refused|Cannot read the gene dictionary"):
        read_dictionary(write(tmp_path, data))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Cannot read the gene dictionary .*absent\.pkl"):
        read_dictionary(tmp_path / "absent.pkl")


TP53, GAPDH = "ENSG00000141510", "ENSG00000111640"
PUBLISHED = {
    "token_dictionary_gc104M.pkl": (20_275, {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3, TP53: 8014, GAPDH: 3880}),
    "gene_median_dictionary_gc104M.pkl": (42_005, {TP53: 1.40203379, GAPDH: 12.98112}),
    "gene_name_id_dict_gc104M.pkl": (63_675, {"TP53": TP53, "GAPDH": GAPDH}),
    "ensembl_mapping_dict_gc104M.pkl.gz": (173_697, {"TP53": TP53, TP53: TP53}),
    "token_dictionary_gc30M.pkl": (25_426, {"<pad>": 0, "<mask>": 1, TP53: 8088, GAPDH: 3906}),
    "gene_median_dictionary_gc30M.pkl": (25_424, {TP53: 1.89635, GAPDH: 20.04545}),
    "gene_name_id_dict_gc30M.pkl": (40_248, {"TP53": TP53, "GAPDH": GAPDH}),
    "ensembl_mapping_dict_gc30M.pkl.gz": (25_424, {TP53: TP53}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_dictionaries_hold_what_they_should(real_data: Path, name: str) -> None:
    size, values = PUBLISHED[name]
    read = read_dictionary(real_data / "geneformer" / name)
    assert len(read) == size
    assert {type(value) for value in read.values()} == {type(next(iter(values.values())))}
    assert {key: read[key] for key in values} == pytest.approx(values, abs=1e-5)
