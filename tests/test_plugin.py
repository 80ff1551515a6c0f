"""A model family from another package: found by its entry point, checked, traced; the document shows the same code."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import anndata as ad
import numpy as np
import pytest
import torch

import cellcircuits as cc
from cellcircuits.errors import ModelError
from cellcircuits.fit import fit_saes
from cellcircuits.models import ENTRY_POINT_GROUP
from cellcircuits.settings import TrainSettings

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "examples" / "plugin"
MODULE = PLUGIN / "cellcircuits_tiny.py"
PAGE = (ROOT / "docs" / "adding-a-model.md").read_text(encoding="utf-8")
GENES = [f"GENE{i}" for i in range(40)]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module, installed as pip would make it known: with the entry points of its pyproject.toml."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    record = tmp_path / "site" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"][ENTRY_POINT_GROUP].items()
    lines = [f"[{ENTRY_POINT_GROUP}]", *(f"{name} = {target}" for name, target in points)]
    (record / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(record.parent)
    monkeypatch.syspath_prepend(PLUGIN)
    import cellcircuits_tiny  # type: ignore[import-not-found]

    yield cellcircuits_tiny
    del sys.modules["cellcircuits_tiny"]


@pytest.fixture
def checkpoint(plugin: ModuleType, tmp_path: Path) -> Path:
    """A checkpoint of the plug-in for the toy cells' genes."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    plugin.write_checkpoint(folder, GENES)
    return folder


def test_module_is_short() -> None:
    assert len(MODULE.read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize(("kind", "path"), [("python", MODULE), ("toml", PLUGIN / "pyproject.toml")])
def test_the_document_shows_the_files(kind: str, path: Path) -> None:
    assert path.read_text(encoding="utf-8") in re.findall(rf"```{kind}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_checked_and_traced(checkpoint: Path, toy_cells: ad.AnnData) -> None:
    model = cc.load_model("tiny", checkpoint, device="cpu")
    cells = model.tokenize(toy_cells)
    assert cells.has_padding
    assert len(cells) == len(toy_cells)
    expressed = toy_cells.var_names[toy_cells.X[5] > 0]
    assert set(cells.gene_ids[cells.ids[5]]) - {""} == set(expressed)
    assert set(cc.check_model(model, cells)) == {"replay", "batch"}
    settings = TrainSettings(epochs=1, k=8, expansion=2, batch_positions=256, buffer_positions=512)
    saes = fit_saes(model, cells, [0, 1, 2], settings)
    moments = cc.trace(model, cells, saes, source_layer=0, features=range(64))
    assert (moments.cells() >= 20).any()
    edges = cc.edges(moments)
    assert len(edges)
    assert set(edges["target_layer"]) <= {1, 2}
    np.testing.assert_array_equal(edges["n_cells"], moments.cells()[edges["source_feature"]])


def test_longest_input_keeps_the_most_expressed(checkpoint: Path, toy_cells: ad.AnnData) -> None:
    cells = cc.load_model("tiny", checkpoint, device="cpu").tokenize(toy_cells, max_length=4)
    assert cells.ids.shape[1] == 4
    assert cells.info["cells_truncated"] == len(toy_cells)
    values = toy_cells.X[7]
    kept = [GENES.index(gene) for gene in cells.gene_ids[cells.ids[7]]]
    assert sorted(values[kept]) == sorted(values)[-4:]


def test_loading_is_strict_and_repeatable(plugin: ModuleType, checkpoint: Path) -> None:
    first, second = (cc.load_model("tiny", checkpoint, device="cpu") for _ in range(2))
    assert first.fingerprint() == second.fingerprint()
    (checkpoint / "genes.txt").write_text("\n".join(GENES[:-1]))
    with pytest.raises(ModelError, match=r"misshapen: embedding\.weight"):
        plugin.load_tiny(checkpoint)


def no_mask(self, hidden, tokens, start, stop):
    for layer in range(start, stop):
        hidden = self.blocks[layer](hidden)
        yield layer, hidden


def one_off(self, hidden, tokens, start, stop):
    for layer, following in super(type(self), self).run_layers(hidden, tokens, start, stop):
        yield layer, hidden
        hidden = following


def tuples(self, hidden, tokens, start, stop):
    for layer, output in super(type(self), self).run_layers(hidden, tokens, start, stop):
        yield layer, (output,)


def in_place(self, hidden, tokens, start, stop):
    for layer, output in super(type(self), self).run_layers(hidden, tokens, start, stop):
        yield layer, hidden.copy_(output)


def dropout(self, hidden, tokens, start, stop):
    for layer, output in super(type(self), self).run_layers(hidden, tokens, start, stop):
        yield layer, torch.nn.functional.dropout(output)


def embeds_again(self, hidden, tokens, start, stop):
    outputs = super(type(self), self).run_layers(self.embed(tokens), tokens, 0, stop)
    yield from (pair for pair in outputs if pair[0] >= start)


def all_blocks(self, hidden, tokens, start, stop):
    yield from super(type(self), self).run_layers(hidden, tokens, 0, self.n_layers)


@pytest.mark.parametrize(
    ("mistaken", "claim"),
    [
        (no_mask, "padding and batch mates do not change a cell"),
        (one_off, "starting from a stored state equals the tail of a full pass"),
        (tuples, "'tuple' object has no attribute 'shape'"),
        (in_place, "a zero change reproduces the clean pass to the bit"),
        (dropout, "a zero change reproduces the clean pass to the bit"),
        (embeds_again, "the output depends on the input"),
        (all_blocks, "run_layers(1, 3) yields layers 1 to 2 in order"),
    ],
)
def test_mistakes_are_found(mistaken: Callable, claim: str, plugin: ModuleType, toy_cells: ad.AnnData) -> None:
    assert claim in PAGE
    model = type("Mistaken", (plugin.Tiny,), {"run_layers": mistaken})(GENES).eval().requires_grad_(False)
    with pytest.raises((ModelError, AttributeError), match=re.escape(claim)):
        cc.check_model(model, model.tokenize(toy_cells))


def test_a_name_for_padding_is_found(plugin: ModuleType, toy_cells: ad.AnnData) -> None:
    model = plugin.Tiny(GENES).eval().requires_grad_(False)
    model.genes[0] = "PAD"
    claim = "special tokens have no gene id"
    assert claim in PAGE
    with pytest.raises(ModelError, match=claim):
        cc.check_model(model, model.tokenize(toy_cells))
