"""Imports go one way, and what needs no torch imports none."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import cellcircuits as cc

PACKAGE = Path(cc.__file__).parent
ABOVE = {"pipeline", "plan", "report", "demo", "commands", "cli", "structure_tables", "intervention_report"}
"""Modules that use the stages; all other modules outside of stages/ are the core."""


def imported(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions, as its full name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def parts(path: Path) -> set[str]:
    """Parts of the package that a file imports: {"settings", "stages", ...}."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("cellcircuits.")}


CORE = sorted(p for p in PACKAGE.rglob("*.py") if p.parent.name != "stages" and p.stem not in ABOVE)


def test_the_reader_of_imports_reads_every_form(tmp_path):
    text = "import a.b\nfrom c import d\nfrom cellcircuits import cli\ndef f():\n from cellcircuits.stages import x\n"
    (tmp_path / "m.py").write_text(text)
    expected = {"a.b", "c", "c.d", "cellcircuits", "cellcircuits.cli", "cellcircuits.stages", "cellcircuits.stages.x"}
    assert imported(tmp_path / "m.py") == expected
    assert parts(tmp_path / "m.py") == {"cli", "stages"}


def test_the_modules_above_the_stages_are_there():
    assert all((PACKAGE / f"{name}.py").exists() for name in ABOVE)
    assert len(CORE) > 30


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_the_core_does_not_know_the_stages(path):
    assert not parts(path) & (ABOVE | {"stages"})


@pytest.mark.parametrize("path", sorted((PACKAGE / "stages").glob("*.py")), ids=lambda path: path.stem)
def test_the_stages_do_not_know_what_is_above(path):
    assert not parts(path) & ABOVE


@pytest.mark.parametrize(
    "path",
    [*sorted((PACKAGE / "findings").glob("*.py")), *sorted((PACKAGE / "atlas").rglob("*.py"))],
    ids=lambda p: p.stem,
)
def test_findings_and_atlas_do_not_import_torch(path):
    assert not any(name.split(".")[0] in ("torch", "transformers") for name in imported(path))


LOADING = """
import sys
from importlib import import_module
for name in sys.argv[1:]:
    import_module(f"cellcircuits.{name}")
    print(name, *sorted({"torch", "transformers", "pandas"} & set(sys.modules)))
"""


def loaded(*modules: str) -> dict[str, str]:
    """{module: heavy packages that are loaded once it is imported}, one after the other in a new process."""
    command = [sys.executable, "-c", LOADING, *modules]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {module: line.partition(" ")[2] for module, line in zip(modules, found, strict=True)}


def test_the_command_line_loads_nothing_and_tables_need_no_torch():
    light = ("cli", "settings", "run", "pipeline")
    tables = ("opened", "stages.edges", "stages.findings", "stages.atlas", "commands", "export", "findings.consensus")
    assert loaded(*light, *tables) == dict.fromkeys(light, "") | dict.fromkeys(tables, "pandas")


def test_what_traces_loads_torch():
    """The test above would see torch if it were there."""
    assert "torch" in loaded("stages.trace")["stages.trace"]


def test_only_the_executors_know_dask():
    for path in PACKAGE.rglob("*.py"):
        dask = any(name.split(".")[0] in ("dask", "distributed", "dask_jobqueue") for name in imported(path))
        assert dask == (path.name == "executors.py"), path


def test_the_engine_loads_no_dask():
    command = "import sys, cellcircuits.parts, cellcircuits.stages.trace, cellcircuits.commands, cellcircuits.executors"
    check = "sys.exit('distributed' in sys.modules)"
    subprocess.run([sys.executable, "-c", f"{command}; {check}"], check=True)


def test_the_map_of_the_code_is_complete():
    """CONTRIBUTING.md names every module and folder of the package, and none that is not there."""
    guide = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in guide.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([\w./*]+)`", row)}
    found = {path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"}
    found |= {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    covered = {name for name in found if any(fnmatch(name, pattern) for pattern in named)}
    assert sorted(found - covered) == []
    assert sorted(pattern for pattern in named if not any(fnmatch(name, pattern) for name in found)) == []
