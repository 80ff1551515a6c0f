"""Settings: what is written is what is read; what is wrong is refused with its place."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from cellcircuits.errors import SettingsError
from cellcircuits.screen_settings import ScreenSettings
from cellcircuits.settings import Settings, read_settings, resolve_paths, settings_from_dict, write_settings

SECTIONS = [section.name for section in fields(Settings)]
PATHS = [("model", "path"), ("model", "dictionaries"), ("cells", "data"), ("train", "saes")]


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def other_value(section: object, name: str):
    """A value that is allowed and not the default."""
    default, kind = getattr(section, name), get_type_hints(type(section))[name]
    if get_origin(kind) is Literal:
        return get_args(kind)[-1]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 3
    if isinstance(default, float):
        return default / 2 or 0.5
    if isinstance(default, str):
        return "/absolute/other"
    if isinstance(default, dict):
        return {"cell type": ["B cell", "NK"], "donor": ["7"]}
    lists = {
        "gene_sets": ["/absolute/a.gmt", "immune"],
        "networks": ["/absolute/b.tsv", "trrust"],
        "associate": ["donor"],
        "disease_sets": ["/absolute/diseases.tsv", "go_bp"],
        "also": ["/absolute/run"],
        "readouts": ["computed", "source"],
        "baselines": ["ica", "neurons"],
        "screens": [ScreenSettings("/absolute/c.h5ad", control="NT", perturbation_column="gene", min_cells=7)],
    }
    return lists.get(name, [4, 2])


def all_changed() -> Settings:
    defaults = Settings()
    changed = {}
    for section in SECTIONS:
        values = getattr(defaults, section)
        changed[section] = replace(values, **{f.name: other_value(values, f.name) for f in fields(values)})
    return Settings(**changed)


def test_every_field_survives_the_file(tmp_path):
    settings = all_changed()
    for section in SECTIONS:
        for name, value in vars(getattr(settings, section)).items():
            assert value != getattr(getattr(Settings(), section), name), (section, name)
    write_settings(settings, tmp_path / "settings.toml")
    assert read_settings(tmp_path / "settings.toml") == settings


def test_defaults_survive_the_file(tmp_path):
    write_settings(Settings(), tmp_path / "settings.toml")
    assert read_settings(tmp_path / "settings.toml") == Settings()


def test_every_field_is_explained():
    """The text below each field is the help of the command line."""
    for section in SECTIONS:
        lines = Path(inspect.getfile(type(getattr(Settings(), section)))).read_text().splitlines()
        for field in fields(getattr(Settings(), section)):
            at = [i for i, line in enumerate(lines) if line.startswith(f"    {field.name}: ")]
            assert at and all(lines[i + 1].startswith('    """') for i in at), field.name


def test_an_empty_file_gives_the_defaults(tmp_path):
    assert read_settings(written(tmp_path, "")) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[traces]\nn_cells = 3", r"settings\.toml has an unknown section \[traces\]; the sections are model, cells"),
        ("[trace]\nn_cell = 3", r"settings\.toml \[trace\] has unknown names: n_cell\. Known: source_layers, target"),
        ("trace = 3", r"settings\.toml \[trace\] has unknown names: 3"),
        ('[trace]\nn_cells = "many"', r"settings\.toml \[trace\] n_cells: .*integer.*found 'many'"),
        ('[cells]\nwhere = {cell_type = "B"}', r"\[cells\] where\.cell_type: .*list.*found 'B'"),
        ('[cells]\ninput_mode = "raw"', r"\[cells\] input_mode: .*'official' or 'published'.*found 'raw'"),
        ("[train]\nlayers = [0, 1.5]", r"\[train\] layers\.1: .*integer.*found 1\.5"),
        ("[annotate]\nmax_q = 1.5", r"settings\.toml \[annotate\]: `max_q` must lie between 0\.0 and 1\.0; found 1\."),
        (
            "[train]\nbatch_positions = 9\nbuffer_positions = 8",
            r"`buffer_positions` must be at least `batch_positions`",
        ),
        ("[model]\nfamily = 3", r"\[model\] family: .*string.*found 3"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(tmp_path, text, message):
    with pytest.raises(SettingsError, match=message):
        read_settings(written(tmp_path, text))


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("cells", "min_mapped_genes", 1.1),
        ("cells", "max_length", -1),
        ("cells", "n_cells", -1),
        ("cells", "seed", -1),
        ("train", "held_out", 0.0),
        ("train", "held_out", float("nan")),
        ("train", "expansion", 0),
        ("train", "k", 0),
        ("train", "epochs", 0),
        ("train", "batch_positions", 0),
        ("train", "model_batch", 0),
        ("train", "learning_rate", -1.0),
        ("train", "auxiliary_weight", -1.0),
        ("train", "dead_after_positions", -1),
        ("train", "seed", -1),
        ("annotate", "top_genes", 2),
        ("annotate", "min_firings", 0),
        ("annotate", "min_overlap", 0),
        ("annotate", "max_cells", -1),
        ("annotate", "null_draws", 0),
        ("annotate", "seed", -1),
        ("trace", "min_firing_rate", -0.1),
        ("trace", "n_features", 0),
        ("trace", "batch_size", 0),
        ("trace", "cells_per_part", 0),
        ("trace", "n_cells", -1),
        ("trace", "seed", -1),
        ("edges", "max_q", 2.0),
        ("edges", "min_agreement", 1.2),
        ("edges", "min_cells", 1),
        ("edges", "min_snr", -0.5),
        ("findings", "max_q", -0.1),
    ],
)
def test_out_of_range_is_refused(section, name, value):
    with pytest.raises(SettingsError, match=rf"settings \[{section}\]: `{name}` must .*; found {value}"):
        settings_from_dict({section: {name: value}})


def test_missing_file(tmp_path):
    with pytest.raises(SettingsError, match=r"Cannot read the settings file .*absent\.toml: No such file"):
        read_settings(tmp_path / "absent.toml")


@pytest.mark.parametrize("content", [b"[cells\nn_cells = 3", b"n_cells == 3", b"\xff\xfe[cells]"])
def test_broken_toml(tmp_path, content):
    (tmp_path / "settings.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=r"settings\.toml is not a TOML file"):
        read_settings(tmp_path / "settings.toml")


def test_relative_paths_are_those_of_the_file(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    lines = [f'[{section}]\n{name} = "../data/{name}"' for section, name in PATHS if name != "dictionaries"]
    lines[0] += '\ndictionaries = "../data/dictionaries"'
    text = "\n".join(
        [*lines, '[annotate]\ngene_sets = ["sets.gmt", "immune", "/else/x.gmt"]', 'networks = ["string", "n.tsv"]']
    )
    monkeypatch.chdir("/")
    settings = read_settings(written(tmp_path / "here", text))
    for section, name in PATHS:
        assert getattr(getattr(settings, section), name) == str(tmp_path / "data" / name)
    assert settings.annotate.gene_sets == [str(tmp_path / "here" / "sets.gmt"), "immune", "/else/x.gmt"]
    assert settings.annotate.networks == ["string", str(tmp_path / "here" / "n.tsv")]


def test_words_are_no_paths(tmp_path):
    settings = settings_from_dict({"model": {"path": "demo"}, "cells": {"data": "demo"}})
    resolved = resolve_paths(settings, tmp_path)
    assert (resolved.model.path, resolved.cells.data, resolved.train.saes) == ("demo", "demo", "")


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    settings = resolve_paths(settings_from_dict({"cells": {"data": "~/cells.h5ad"}}), tmp_path)
    assert settings.cells.data == "/home/me/cells.h5ad"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"trace": {"readouts": ["pre"]}}, 'trace.readouts lacks "source"'),
        ({"edges": {"readout": "other"}}, 'trace.readouts lacks "other"'),
        ({"edges": {"unit": "group"}}, "needs trace.group_by"),
        ({"trace": {"context": "frozen", "readouts": ["source", "other"]}}, 'Set context = "exact"'),
        ({"trace": {"readouts": ["source", "source"]}}, "each once"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(content, message):
    with pytest.raises(SettingsError, match=message):
        settings_from_dict(content)
