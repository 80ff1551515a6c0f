"""The documents are true: examples run, commands and flags exist, links lead somewhere, settings parse."""

from __future__ import annotations

import re
import shlex
import tomllib
import warnings
from pathlib import Path

import pytest

import cellcircuits as cc
from cellcircuits import cli
from cellcircuits.pipeline import run_pipeline
from cellcircuits.progress import Progress
from cellcircuits.run import create_run
from cellcircuits.settings import settings_from_dict

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    """Code blocks of a document that are marked with this language ("" for none)."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [code for mark, code in found if mark == language]


def commands() -> list[str]:
    """Every line of every document that calls the command line."""
    lines = [line for path in DOCUMENTS for block in blocks(path, "") for line in block.splitlines()]
    return sorted({line.split("#")[0].strip() for line in lines if line.startswith("cellcircuits ")})


@pytest.fixture(scope="module")
def quick_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with cellcircuits-demo/scgpt as the demo makes it, but brief."""
    folder = tmp_path_factory.mktemp("docs")
    settings = settings_from_dict(
        {
            "model": {"family": "scgpt", "path": "demo"},
            "cells": {"data": "demo", "n_cells": 150, "stratify_by": "cell_type"},
            "train": {"k": 16, "epochs": 1, "batch_positions": 512, "buffer_positions": 16384},
            "annotate": {"top_genes": 30},
            "trace": {"select": "frequent", "n_features": 2, "n_cells": 30},
        }
    )
    run_pipeline(create_run(folder / "cellcircuits-demo" / "scgpt", settings), Progress(), until="findings")
    return folder


def test_the_python_example_runs_and_is_short(quick_demo, monkeypatch, capsys):
    (code,) = blocks(ROOT / "README.md", "python")
    assert len(code.splitlines()) <= 20
    monkeypatch.chdir(quick_demo)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - our own document
    printed = capsys.readouterr().out
    assert "top_genes" in printed and re.search(r"published rule: \d+ edges", printed)
    assert names["moments"].cells().max() > 20
    assert list(names["edges"].columns) == list(cc.open_run("cellcircuits-demo/scgpt").edges.columns)


def test_the_scanpy_example_runs(quick_demo, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    (code,) = blocks(ROOT / "docs" / "quickstart.md", "python")
    monkeypatch.chdir(quick_demo)
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scanpy and its parts
        exec(compile(code, "quickstart.md", "exec"), names)  # noqa: S102 - our own document
    assert names["adata"].obsm["X_umap"].shape == (700, 2) and names["features"].shape == (700, 384)
    assert (quick_demo / "cell_labels.png").stat().st_size > 10_000


def test_there_are_commands_to_check():
    assert len(commands()) >= 10


@pytest.mark.parametrize("command", commands())
def test_commands_and_flags_exist(command, capsys):
    words = shlex.split(command)[1:]
    with pytest.raises(SystemExit) as stopped:
        cli.main([words[0], "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in words if word.startswith("--")), text


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    prose = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)#]+)\)", prose)
    local = [link for link in links if not link.startswith("http")]
    assert all((path.parent / link).exists() for link in local), local


def test_settings_in_the_quickstart_are_settings():
    (text,) = blocks(ROOT / "docs" / "quickstart.md", "toml")
    settings = settings_from_dict(tomllib.loads(text))
    assert settings.model.family == "geneformer" and settings.trace.source_layers == [0, 4, 8]


def test_make_knows_what_the_documents_name():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake (\w+)", "\n".join(b for p in DOCUMENTS for b in blocks(p, ""))))
    assert named and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)
