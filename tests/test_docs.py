"""The documents are true: examples run, commands and flags exist, links lead somewhere, settings parse."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import tomllib
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import cellcircuits as cc
from cellcircuits import cli
from cellcircuits.models.planted import KINDS
from cellcircuits.pipeline import run_pipeline
from cellcircuits.progress import Progress
from cellcircuits.run import create_run
from cellcircuits.settings import EdgesSettings, Settings, TraceSettings, settings_from_dict
from cellcircuits.tables import TABLES

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


def test_the_example_of_an_intervention_runs(quick_demo, monkeypatch, capsys):
    (code,) = blocks(ROOT / "docs" / "interventions.md", "python")
    monkeypatch.chdir(quick_demo)
    names: dict = {}
    exec(compile(code, "interventions.md", "exec"), names)  # noqa: S102 - our own document
    assert "largest change of a predicted value" in capsys.readouterr().out
    assert names["change"].shape[0] == 2 and (names["change"].abs().amax(dim=1) > 0).all()


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


METHOD = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
SPANS = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", METHOD, flags=re.DOTALL | re.MULTILINE))
"""Everything that docs/method.md marks as code."""
FREE = {"batch_size", "cells_per_part", "control_parts", "block_megabytes", "threads"}
"""Settings of a trace that change speed and memory."""
NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+"
SETTINGS = {f"{part.name}.{f.name}" for part in fields(Settings) for f in fields(getattr(Settings(), part.name))}
FILE_ENDINGS = {"parquet", "json", "py", "md", "toml"}


def stated_values() -> dict[str, Any]:
    """{section.setting or module.CONSTANT: value} of every `name = value` of the document, which says each alike."""
    found: dict[str, Any] = {}
    for span in SPANS:
        if match := re.fullmatch(rf"({NAME}) = (.+)", span):
            name, value = match[1], tomllib.loads(f"value = {match[2]}")["value"]
            assert found.setdefault(name, value) == value, f"{name} has two values"
    return found


def named(path: str) -> Any:
    """What `module.attribute` below cellcircuits stands for."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            thing = importlib.import_module(".".join(["cellcircuits", *parts[:length]]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            thing = getattr(thing, part)
        return thing
    raise AttributeError(f"There is no module of {path}")


@pytest.mark.parametrize(("name", "value"), stated_values().items(), ids=list(stated_values()))
def test_the_method_states_the_values_of_the_code(name, value):
    section, _, setting = name.partition(".")
    if name.rpartition(".")[2].isupper():
        assert named(name) == pytest.approx(value, rel=1e-4)
        return
    default = getattr(getattr(Settings(), section), setting)
    assert value == default and type(value) is type(default)


def test_the_method_names_every_setting_that_decides_edges():
    stated = set(stated_values())
    for section, kind in (("edges", EdgesSettings), ("trace", TraceSettings)):
        assert {f"{section}.{f.name}" for f in fields(kind) if f.name not in FREE} <= stated
    *_, table = METHOD.split("\n## 16.")  # the last table holds them as well
    table = table.split("\n## ")[0]
    assert all(f"`edges.{f.name} = " in table for f in fields(EdgesSettings))


def test_what_the_method_names_exists():
    checked = 0
    for span in SPANS:
        match = re.fullmatch(rf"({NAME})(?:\((.*)\))?", span)
        if not match or match[1].rpartition(".")[2] in FILE_ENDINGS:
            continue
        if match[1] in SETTINGS:
            continue
        thing = named(match[1])
        checked += 1
        for argument in filter(None, (match[2] or "").split(", ")):
            name, value = argument.split(" = ")
            assert inspect.signature(thing).parameters[name].default == int(value)
    assert checked > 40


def test_columns_and_kinds_in_the_method_exist():
    rows = re.findall(r"^\|[^|]*\| `(\w+)\.parquet`: ([^|]*)\|", METHOD, re.MULTILINE)
    assert len(rows) > 15
    for table, columns in rows:
        assert set(re.findall(r"`(\w+)`", columns)) <= {column.name for column in TABLES[table]}, table
    assert all(re.search(rf"^\|[^|]*\b{kind}\b", METHOD, re.MULTILINE) for kind in KINDS)
