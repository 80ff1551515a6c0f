"""One word for one thing: stages, their modules, verbs, settings and inputs agree."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import get_args

import pytest

import cellcircuits as cc
from cellcircuits import cli, findings, pipeline, stages
from cellcircuits.manifest import FOLDERS, INPUTS, SECTIONS, STAGES
from cellcircuits.settings import Settings
from cellcircuits.tables import TABLES

PACKAGE = Path(cc.__file__).parent


def test_the_stages_are_the_modules():
    assert sorted(STAGES) == [module.name for module in iter_modules(stages.__path__)]
    assert list(pipeline.MODULES) == list(STAGES)


def test_the_stages_are_the_verbs():
    assert tuple(cli.ABOUT) == STAGES
    until = next(f for f in fields(cli.RunCommand) if f.name == "until")
    assert get_args(inspect.get_annotations(cli.RunCommand, eval_str=True)["until"]) == STAGES
    assert until.default == STAGES[-1]
    kinds = [get_args(kind)[0] for kind in get_args(cli._commands(Settings()))]
    assert [kind.__name__ for kind in kinds[-len(STAGES) :]] == [f"{stage.title()}Command" for stage in STAGES]


def test_the_stages_are_the_sections_of_the_settings():
    assert [f.name for f in fields(Settings)] == ["model", *STAGES]
    for stage in STAGES:
        assert type(getattr(Settings(), stage)).__name__ == f"{stage.title()}Settings"
        assert stage in SECTIONS.get(stage, (stage,))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_function_of_run_and_progress(stage):
    function = getattr(import_module(pipeline.MODULES[stage]), f"{stage}_stage")
    # the parts of a trace can be computed elsewhere
    more = ["executor"] if stage == "trace" else []
    assert list(inspect.signature(function).parameters) == ["run", "progress", *more]
    assert function.__doc__.rstrip().endswith(f"write `{FOLDERS.get(stage, stage)}/`.")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_requires_its_inputs(stage):
    """What the manifest records as inputs is what the stage asks for."""
    tree = ast.parse((PACKAGE / "stages" / f"{stage}.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "run.require"]
    # trace picks its sources from the annotation, but what it measured stays true when features get other names
    more = ["annotate"] if stage == "trace" else []
    assert [ast.literal_eval(argument) for call in calls for argument in call.args] == [*INPUTS[stage], *more]


def test_inputs_come_before_their_stage():
    for position, stage in enumerate(STAGES):
        assert set(INPUTS[stage]) <= set(STAGES[:position])


def test_every_finding_has_a_table():
    assert {module.name for module in iter_modules(findings.__path__)} <= set(TABLES)


def test_every_table_explains_its_columns():
    for columns in TABLES.values():
        assert len({column.name for column in columns}) == len(columns)
        assert all(column.unit and column.meaning for column in columns)


def test_the_models_are_entry_points():
    names = {point.name: point.value for point in entry_points(group="cellcircuits.models")}
    assert names == {name: f"cellcircuits.models.{name}:load_{name}" for name in ("geneformer", "scgpt", "toy")}


def test_the_public_names_are_there():
    assert cc.__all__ == sorted(cc.__all__)
    assert set(cc.__all__) == {*cc._HOMES, "pl"} and cc.pl.__name__ == "cellcircuits.pl"
    for name in cc._HOMES:
        assert getattr(cc, name).__module__ == f"cellcircuits.{cc._HOMES[name]}"
    with pytest.raises(AttributeError, match="module 'cellcircuits' has no attribute 'nonsense'"):
        _ = cc.nonsense
