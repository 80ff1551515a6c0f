"""The stage `atlas` on finished runs: of one run, of several, with what runs may lack; exports by command."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cellcircuits as cc
from cellcircuits.cli import main
from cellcircuits.errors import RunError
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.intervention_tables import write_interventions
from cellcircuits.progress import Progress
from cellcircuits.settings import AtlasSettings, read_settings, settings_from_dict
from cellcircuits.stages.atlas import atlas_stage, gather, write_atlas
from cellcircuits.tables import empty_table, write_table
from tests.made_up_atlas import made_up_answers
from tests.made_up_evidence import filled


def read(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()))


@pytest.fixture
def second(toy_run: cc.OpenRun, tmp_path: Path) -> cc.OpenRun:
    """The same run in another folder."""
    shutil.copytree(toy_run.folder, tmp_path / "second")
    return cc.open_run(tmp_path / "second")


def test_everything_of_a_run_is_gathered(toy_run):
    shown = gather(toy_run, "run", AtlasSettings(map_method="pca"))
    assert [manifest["stage"] for manifest in shown.provenance] == [
        "cells",
        "train",
        "annotate",
        "trace",
        "edges",
        "findings",
    ]
    assert all("files" not in manifest and manifest["n_files"] for manifest in shown.provenance)
    assert not shown.table("quality").empty and not shown.table("activation_bins").empty
    assert shown.table("modules").empty and not shown.table("answers").empty
    assert shown.report == toy_run.path("findings") / "report.html" and shown.report.is_file()
    assert set(shown.coordinates["method"]) == {"pca of decoder"} and shown.figures
    assert len(shown.coordinates) == len(toy_run.features)


def test_interventions_are_shown_where_they_were_made(toy_run):
    assert gather(toy_run, "run", AtlasSettings(map_method="pca")).interventions is None
    settings = InterventionSettings(experiments=["effects"], n_cells=20, n_features=2)
    write_interventions(toy_run, settings, Progress())
    shown = gather(cc.open_run(toy_run.folder), "run", AtlasSettings(map_method="pca")).interventions
    assert shown is not None and len(shown.answers) == 1 and shown.report.is_file()
    assert [path.name for path in shown.figures] == ["intervention_effects.png"]


def test_an_atlas_is_stale_when_what_it_shows_beside_the_stages_changes(toy_run, second):
    settings = replace(toy_run.settings, atlas=replace(toy_run.settings.atlas, also=[str(second.folder.resolve())]))
    toy_run.change_settings(settings)
    atlas_stage(toy_run, Progress())
    assert toy_run.status("atlas").state == "done"
    quick = InterventionSettings(experiments=["effects"], n_cells=20, n_features=2)
    write_interventions(second, quick, Progress())
    assert toy_run.status("atlas").state == "stale" and "second" in toy_run.status("atlas").detail
    atlas_stage(toy_run, Progress())
    assert toy_run.status("atlas").state == "done"
    write_interventions(toy_run, quick, Progress())
    assert "interventions changed since" in toy_run.status("atlas").detail
    atlas_stage(toy_run, Progress())
    shutil.rmtree(second.folder)
    assert toy_run.status("atlas").state == "stale"


@pytest.fixture
def trusting(monkeypatch):
    """Runs are taken to be whole, as one is that another version wrote."""
    monkeypatch.setattr(cc.OpenRun, "require", lambda run, *stages: None)


def test_what_older_or_other_runs_lack_is_left_out(toy_run, trusting, monkeypatch):
    monkeypatch.setattr("cellcircuits.stages.atlas.summarise", lambda run: {})  # it needs the quality table
    (toy_run.path("annotate") / "activation_bins.parquet").unlink()
    shutil.rmtree(toy_run.path("train"))
    shown = gather(toy_run, "run", AtlasSettings(map_method="pca"))
    assert shown.table("activation_bins").empty and shown.table("quality").empty
    assert set(shown.coordinates["method"]) == {"pca of top genes"}


def test_what_a_run_has_besides_is_shown(toy_run):
    (toy_run.folder / "structure").mkdir()
    write_table("modules", filled("modules", 3, feature=np.arange(3)), toy_run.folder / "structure")
    shown = gather(toy_run, "run", AtlasSettings(map_method="pca"))
    assert len(shown.table("modules")) == 3


def test_damaged_weights_are_named(toy_run, trusting):
    path = toy_run.path("train") / "L00" / "sae_weights.safetensors"
    path.write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"Cannot read .*sae_weights\.safetensors"):
        gather(toy_run, "run", AtlasSettings())


def test_the_command_writes_one_site_of_two_runs(toy_run, second, tmp_path, capsys):
    comparison = tmp_path / "comparison"
    comparison.mkdir()
    write_table("consensus", empty_table("consensus"), comparison)
    write_table("answers", made_up_answers(), comparison)
    main(["atlas", str(toy_run.folder), "--also", str(second.folder), "--map-method", "pca"])
    site = read(toy_run.path("atlas") / "data" / "site.json.gz")
    assert [run["key"] for run in site["runs"]] == ["run", "second"]
    assert site["comparison"] == {"n_pairs": 0, "figures": []}
    assert cc.open_run(toy_run.folder).settings.atlas.also == [str(second.folder)]
    assert cc.open_run(toy_run.folder).status("atlas").state == "done"
    assert read(toy_run.path("atlas") / "data" / "second" / "contents.json.gz")["n_edges"] == len(second.edges)


def test_a_run_that_is_not_finished_is_refused(toy_run, second):
    shutil.rmtree(second.path("findings"))
    toy_run.settings = settings_from_dict(toy_run.settings.to_dict() | {"atlas": {"also": [str(second.folder)]}})
    with pytest.raises(RunError, match="has no 'findings' yet"):
        atlas_stage(toy_run, Progress())
    assert not toy_run.path("atlas").exists()


def test_a_comparison_that_is_not_there_is_refused(toy_run, tmp_path):
    (tmp_path / "site").mkdir()
    settings = AtlasSettings(comparison=str(tmp_path / "absent"), map_method="pca")
    with pytest.raises(RunError, match=r"Cannot read the table .*absent"):
        write_atlas([toy_run], ["run"], tmp_path / "site", settings, Progress())


def test_paths_in_the_settings_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text('[atlas]\nalso = ["demo", "runs/b"]\n')
    settings = read_settings(tmp_path / "s.toml")
    assert settings.atlas.also == [str(tmp_path / "demo"), str(tmp_path / "runs" / "b")]
    assert settings.atlas.comparison == ""


def test_exports_for_other_viewers_by_command(toy_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["export", str(toy_run.folder), "--format", "circuit-tracer", "--max-edges", "3"])
    assert capsys.readouterr().out == f"3 of {len(toy_run.edges)} edges written to circuit-tracer.json\n"
    graph = json.loads((tmp_path / "circuit-tracer.json").read_text())
    assert len(graph["links"]) == 3 and graph["metadata"]["slug"] == "circuit-tracer"
    main(["export", str(toy_run.folder), "--format", "neuronpedia", "--out", "np"])
    assert capsys.readouterr().out.startswith(f"{len(toy_run.features)} features written to np/")
    assert len(list((tmp_path / "np").rglob("source.jsonl"))) == toy_run.features["layer"].nunique()
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(toy_run.folder), "--format", "neuronpedia", "--out", "np"])
    assert stopped.value.code == 2 and "exists already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", str(toy_run.folder), "--format", "circuit-tracer", "--max-edges", "-1"])
    assert "must be at least 0" in capsys.readouterr().err
