"""docs/artifacts.md: as the script writes it, and every file and key of a real run is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import anndata as ad
import pytest

from cellcircuits.export import ENDINGS
from cellcircuits.manifest import STAGES
from cellcircuits.models.toy import ToyModel
from cellcircuits.opened import open_run
from cellcircuits.pipeline import run_pipeline
from cellcircuits.progress import Progress
from cellcircuits.run import Run, create_run
from cellcircuits.settings import StructureSettings, settings_from_dict
from cellcircuits.structure_tables import write_structure
from cellcircuits.tables import TABLES
from tests.scripts import load_script

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "artifacts.md").read_text(encoding="utf-8")
LAYER = re.compile(r"L\d\d|\d+")


@pytest.fixture
def script() -> ModuleType:
    """scripts/write_docs.py as a module."""
    return load_script("scripts/write_docs.py")


@pytest.fixture
def toy_run(toy_cells: ad.AnnData, tmp_path: Path) -> Run:
    """A finished run of the toy model."""
    toy_cells.write_h5ad(tmp_path / "cells.h5ad")
    for layer, sae in ToyModel().saes().items():
        sae.save(tmp_path / "saes" / f"L{layer:02d}")
    sets = {f"set {i}": [f"GENE{gene}" for gene in range(i, 40, 5)] for i in range(5)}
    (tmp_path / "sets.gmt").write_text("".join("\t".join([name, "-", *genes]) + "\n" for name, genes in sets.items()))
    settings = settings_from_dict(
        {
            "model": {"family": "toy"},
            "cells": {"data": str(tmp_path / "cells.h5ad")},
            "train": {"saes": str(tmp_path / "saes")},
            "annotate": {
                "gene_sets": [str(tmp_path / "sets.gmt")],
                "max_q": 1.0,
                "baselines": ["pca", "ica", "neurons"],
            },
            "trace": {"select": "frequent"},
        }
    )
    run = create_run(tmp_path / "run", settings)
    with run.locked():
        run_pipeline(run, Progress())
        write_structure(open_run(run.folder), StructureSettings(rewirings=1), Progress())
    return run


def named_files() -> dict[str, re.Pattern[str]]:
    """{glob in the first column of a table of files: what it matches}; * is within a folder, ** is across folders."""
    patterns = {}
    for rows in re.findall(r"^\| file \| holds \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE):
        for glob in re.findall(r"^\| `([^`]+)` \|", rows, flags=re.MULTILINE):
            text = re.escape(glob).replace(r"\*\*/", "(?:.+/)?").replace(r"\*", "[^/]*")
            patterns[glob] = re.compile(text)
    return patterns


def keys(content: object) -> Iterator[str]:
    """Every key in plain JSON, except names of layers and of files."""
    if isinstance(content, dict):
        for key, value in content.items():
            if not LAYER.fullmatch(key):
                yield key
            yield from keys(value)
    if isinstance(content, list):
        for value in content:
            yield from keys(value)


def test_the_page_is_up_to_date(script: ModuleType) -> None:
    # if not: python scripts/write_docs.py
    assert script.artifacts_page() == PAGE


def test_every_table_and_column_is_there() -> None:
    for name, columns in TABLES.items():
        section = PAGE.split(f"### `{name}`\n")[1].split("\n#")[0]
        listed = re.findall(r"^\| `(\w+)` \| (\w+) \| ", section, flags=re.MULTILINE)
        assert listed == [(column.name, column.dtype) for column in columns]
    for ending in ENDINGS.values():
        assert f"`edges{ending}`" in PAGE


def test_every_file_of_a_run_is_named_and_every_name_is_a_file(toy_run: Run) -> None:
    files = [path.relative_to(toy_run.folder).as_posix() for path in toy_run.folder.rglob("*") if path.is_file()]
    patterns = named_files()
    assert [name for name in files if not any(p.fullmatch(name) for p in patterns.values())] == []
    assert [glob for glob, pattern in patterns.items() if not any(pattern.fullmatch(name) for name in files)] == []


def test_every_key_is_named(toy_run: Run) -> None:
    words = set(re.findall(r"`([\w.]+)`", PAGE))
    own = [toy_run.folder / "run.json"]
    for stage in (*STAGES, "structure"):
        folder = toy_run.path(stage)
        own += [path for path in sorted(folder.rglob("*.json")) if path.name != "manifest.json"]
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        assert set(manifest) <= words, stage
    for path in own:
        found = set(keys(json.loads(path.read_text(encoding="utf-8"))))
        assert found - words - set(STAGES) == set(), path
