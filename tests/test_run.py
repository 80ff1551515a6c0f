"""Run folders: complete or absent, done or stale, one process at a time; a stopped trace goes on to the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cellcircuits as cc
from cellcircuits.errors import RunError
from cellcircuits.formats import FORMAT_VERSION
from cellcircuits.manifest import INPUTS, STAGES
from cellcircuits.models.toy import ToyModel
from cellcircuits.pipeline import run_pipeline, run_stage
from cellcircuits.progress import Progress
from cellcircuits.run import create_run, open_folder
from cellcircuits.settings import settings_from_dict, write_settings
from tests.tracing import files

pytestmark = pytest.mark.usefixtures("one_thread")
DONE = STAGES[:-1]
SLEEPER = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); sys.stdin.read()"


def states(run) -> dict[str, str]:
    return {stage: run.status(stage).state for stage in DONE}


def change_manifest(run, stage: str, **changes) -> None:
    path = run.path(stage) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_new_run_keeps_its_settings(tmp_path, toy_settings):
    run = create_run(tmp_path / "runs" / "new", toy_settings(trace={"n_cells": 17}))
    assert open_folder(run.folder).settings == run.settings == toy_settings(trace={"n_cells": 17})
    assert set(states(run).values()) == {"missing"}


def test_relative_paths_of_a_new_run_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = create_run("run", settings_from_dict({"cells": {"data": "cells.h5ad"}}))
    assert run.settings.cells.data == open_folder("run").settings.cells.data == str(tmp_path / "cells.h5ad")


@pytest.mark.parametrize("name", ["notes.txt", ".hidden"])
def test_a_foreign_folder_is_left_alone(tmp_path, toy_settings, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match=r"exists and is not a run folder \(no run\.json\)"):
        create_run(tmp_path, toy_settings())
    assert list(files(tmp_path)) == [name]


def test_a_file_is_no_run_folder(tmp_path, toy_settings):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="exists and is not a run folder"):
        create_run(tmp_path / "file", toy_settings())


def test_an_empty_folder_becomes_a_run(tmp_path, toy_settings):
    assert open_folder(create_run(tmp_path, toy_settings()).folder).settings == toy_settings()


def test_the_same_settings_reopen_a_run(toy_run):
    before = files(toy_run.folder)
    run = create_run(toy_run.folder, toy_run.settings)
    assert set(states(run).values()) == {"done"}
    assert files(run.folder) == before


def test_other_settings_are_refused_by_name(toy_run, toy_settings):
    before = files(toy_run.folder)
    with pytest.raises(
        RunError, match=r"differ in trace\.n_cells \(200, now 5\), edges\.rule \('calibrated', now 'pub"
    ):
        create_run(toy_run.folder, toy_settings(trace={"n_cells": 5}, edges={"rule": "published"}))
    assert files(toy_run.folder) == before


def test_no_run_folder(tmp_path):
    with pytest.raises(RunError, match=r"is not a run folder of cellcircuits"):
        open_folder(tmp_path / "absent")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": "one"}', "{broken"])
def test_a_damaged_run_file(toy_run, text):
    (toy_run.folder / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"is not a run folder of cellcircuits \(run\.json"):
        open_folder(toy_run.folder)


def test_a_run_of_a_newer_format(toy_run):
    (toy_run.folder / "run.json").write_text(json.dumps({"format_version": FORMAT_VERSION + 1}))
    with pytest.raises(RunError, match=rf"has format version {FORMAT_VERSION + 1}, newer than this package knows"):
        open_folder(toy_run.folder)


def test_a_finished_run_is_done(toy_run):
    assert states(toy_run) == dict.fromkeys(DONE, "done")
    toy_run.require(*DONE)


def test_the_manifest_says_what_the_artifact_is(toy_run):
    manifest = toy_run.manifest("train")
    assert manifest["settings"] == {"train": toy_run.settings.to_dict()["train"]}
    assert manifest["inputs"] == {"cells": toy_run.stage_hash("cells")}
    on_disk = files(toy_run.path("train"))
    on_disk.pop("manifest.json")
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == on_disk


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"stage": "train", "format_version": 1}', "{broken", "null"])
def test_a_damaged_manifest(toy_run, text):
    (toy_run.path("train") / "manifest.json").write_text(text)
    assert states(toy_run)["train"] == "damaged"
    with pytest.raises(RunError, match=r"sae is damaged .*Make it again with: cellcircuits train"):
        toy_run.require("train")


def test_the_manifest_of_another_stage(toy_run):
    shutil.copy(toy_run.path("cells") / "manifest.json", toy_run.path("train"))
    assert "it is of stage 'cells'" in toy_run.status("train").detail


def test_an_artifact_of_a_newer_format(toy_run):
    change_manifest(toy_run, "trace", format_version=FORMAT_VERSION + 1)
    assert "newer than this package knows" in toy_run.status("trace").detail
    with pytest.raises(RunError, match="newer than this package knows"):
        toy_run.require("trace")


@pytest.mark.parametrize("damage", ["delete", "shorten"])
def test_an_artifact_with_a_file_gone_or_cut(toy_run, damage):
    path = toy_run.path("annotate") / "features.parquet"
    path.unlink() if damage == "delete" else path.write_bytes(path.read_bytes()[:-1])
    status = toy_run.status("annotate")
    assert (status.state, status.detail) == ("damaged", "missing or changed: features.parquet")
    with pytest.raises(RunError, match=r"annotate is damaged .*Make it again with: cellcircuits annotate"):
        toy_run.require("annotate")


def test_what_is_above_a_damaged_stage_is_stale(toy_run):
    (toy_run.path("trace") / "manifest.json").write_text("{broken")
    assert states(toy_run) | {"trace": "damaged", "edges": "stale", "findings": "stale"} == states(toy_run)


def test_missing_stages_name_the_command(tmp_path, toy_settings):
    run = create_run(tmp_path / "run", toy_settings())
    with pytest.raises(RunError, match=r"has no 'trace' yet\. Make it with: cellcircuits trace"):
        run.require("trace")


@pytest.mark.parametrize("stage", DONE)
def test_deleting_a_stage_makes_everything_above_it_stale(toy_run, stage):
    above = {stage}
    for later in DONE:
        if above & set(INPUTS[later]):
            above.add(later)
    shutil.rmtree(toy_run.path(stage))
    expected = {name: "stale" if name in above else "done" for name in DONE} | {stage: "missing"}
    assert states(toy_run) == expected


def test_making_a_stage_again_makes_everything_above_it_stale(toy_run, toy_settings):
    toy_run.change_settings(toy_settings(trace={"n_features": 2}))
    run_stage(toy_run, "trace", Progress())
    assert [stage for stage, state in states(toy_run).items() if state == "stale"] == ["edges", "findings"]
    with pytest.raises(RunError, match=r"edges is stale \(trace changed since\)"):
        toy_run.require("edges")


def test_other_names_of_features_do_not_ask_for_a_new_trace(toy_run, toy_settings):
    toy_run.change_settings(toy_settings(annotate={"top_genes": 4}))
    run_stage(toy_run, "annotate", Progress())
    assert [stage for stage, state in states(toy_run).items() if state == "stale"] == ["findings"]


def test_the_same_artifact_made_again_leaves_nothing_stale(toy_run):
    for stage in DONE:
        run_stage(toy_run, stage, Progress())
        assert set(states(toy_run).values()) == {"done"}, stage


def test_other_settings_make_a_stage_stale(toy_run, toy_settings):
    toy_run.change_settings(toy_settings(edges={"max_q": 0.2}))
    assert toy_run.status("edges").detail == "made with other settings"
    assert states(toy_run)["trace"] == "done"


def test_settings_are_changed_whole_or_not_at_all(toy_run, toy_settings, monkeypatch):
    before = files(toy_run.folder)

    def full_disk(settings, path):
        Path(path).write_text("[mod")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cellcircuits.run.write_settings", full_disk)
    with pytest.raises(RunError, match=r"Cannot write .*settings\.toml: No space left on device"):
        toy_run.change_settings(toy_settings(edges={"max_q": 0.2}))
    assert files(toy_run.folder) == before
    assert toy_run.settings == toy_settings()


def test_the_pipeline_makes_only_what_is_not_done(toy_run, monkeypatch):
    made = []
    monkeypatch.setattr("cellcircuits.pipeline.run_stage", lambda run, stage, *others: made.append(stage))
    shutil.rmtree(toy_run.path("edges"))
    run_pipeline(toy_run, Progress(), until="findings")
    assert made == ["edges", "findings"]


def test_an_error_while_writing_changes_nothing(toy_run):
    before = files(toy_run.folder)
    with pytest.raises(KeyError, match="bug"), toy_run.writing("edges") as folder:
        (folder / "edges.parquet").write_text("half")
        raise KeyError("bug")
    assert files(toy_run.folder) == before
    assert set(states(toy_run).values()) == {"done"}


def test_a_full_disk_while_writing_changes_nothing(toy_run):
    before = files(toy_run.folder)
    with pytest.raises(RunError, match=r"Cannot write .*edges: .*No space left.* Nothing was changed"):
        with toy_run.writing("edges") as folder:
            (folder / "edges.parquet").write_text("half")
            raise OSError(28, "No space left on device")
    assert files(toy_run.folder) == before


def test_a_failing_rename_puts_the_old_artifact_back(toy_run, monkeypatch):
    before, rename = files(toy_run.folder), Path.rename

    def failing(path, target):
        if ".writing-" in path.name:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(RunError, match="Nothing was changed"), toy_run.writing("edges") as folder:
        (folder / "edges.parquet").write_text("new")
    assert files(toy_run.folder) == before


def test_what_a_killed_process_left_is_cleared_away(toy_run):
    before = files(toy_run.folder)
    (toy_run.folder / ".trace.writing-123").mkdir()
    (toy_run.folder / ".trace.writing-123" / "half").write_text("half")
    toy_run.path("edges").rename(toy_run.folder / ".edges.old-123")
    shutil.copytree(toy_run.path("cells"), toy_run.folder / ".cells.old-123")
    with toy_run.locked():
        pass
    (toy_run.folder / ".lock").unlink()
    assert files(toy_run.folder) == before


def test_one_process_at_a_time(toy_run):
    lock = toy_run.folder / ".lock"
    command = [sys.executable, "-c", SLEEPER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        with pytest.raises(RunError, match=r"Another process is working on .*Wait for it"), toy_run.locked():
            pass
        other.communicate("")
    with toy_run.locked():
        pass


@pytest.fixture
def ordinary_user(tmp_path, monkeypatch):
    """For root, who may write anywhere: go on as nobody, in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    if os.geteuid() != 0:
        yield
        return
    tmp_path.chmod(0o755)
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_folder_that_cannot_be_written(tmp_path, toy_run, toy_settings, ordinary_user):
    if os.geteuid() != 65534:
        toy_run.folder.chmod(0o555)
    run = open_folder("run")
    with pytest.raises(RunError, match="Cannot write into the run folder run: Permission denied"), run.locked():
        pass
    with pytest.raises(RunError, match=r"Cannot write run/edges: .*Permission denied"), run.writing("edges"):
        pass
    with pytest.raises(RunError, match="Cannot make the run folder run/new: Permission denied"):
        create_run("run/new", toy_settings())
    if os.geteuid() != 65534:
        toy_run.folder.chmod(0o755)


def test_another_rule_for_edges_does_not_trace_again(toy_run, toy_settings, monkeypatch):
    monkeypatch.setattr("cellcircuits.tracing.trace_cells", lambda *args: pytest.fail("traced again"))
    before, calibrated = files(toy_run.path("trace")), toy_run.edges
    toy_run.change_settings(toy_settings(edges={"rule": "published"}))
    run_pipeline(toy_run, Progress(), until="edges")
    published = cc.open_run(toy_run.folder).edges
    assert files(toy_run.path("trace")) == before
    expected = [cc.edges(m, rule="published") for m in toy_run.moments.values()]
    assert len(published) == sum(map(len, expected)) != 0
    assert len(calibrated) > 0


def test_the_toy_run_finds_the_planted_edges(toy_run):
    edges = toy_run.edges
    columns = ["source_layer", "source_feature", "target_layer", "target_feature"]
    found = set(edges[columns].itertuples(index=False, name=None))
    # 0/0 drives 1/0, which drives 2/2: the chain is an edge as well
    assert found == {(0, 0, 1, 0), (0, 1, 2, 1), (1, 0, 2, 2), (0, 0, 2, 2)}


def test_tables_of_an_open_run(toy_run):
    assert len(toy_run.features) == 18
    assert set(toy_run.saes) == {0, 1, 2}
    assert len(toy_run.cells) == 60
    assert list(toy_run.findings.attenuation["distance"]) == [1, 2, 1]


def test_tables_of_an_unfinished_run_name_the_command(tmp_path, toy_settings):
    create_run(tmp_path / "run", toy_settings())
    run = cc.open_run(tmp_path / "run")
    for name, stage in (("features", "annotate"), ("edges", "edges"), ("cells", "cells"), ("saes", "train")):
        with pytest.raises(RunError, match=f"has no '{stage}' yet. Make it with: cellcircuits {stage}"):
            getattr(run, name)
    with pytest.raises(RunError, match="has no 'findings' yet"):
        _ = run.findings.hubs


def test_damaged_settings_of_a_run(toy_run):
    (toy_run.folder / "settings.toml").write_text("[cells\n")
    with pytest.raises(cc.CellCircuitsError, match="is not a TOML file"):
        cc.open_run(toy_run.folder)


def test_the_settings_of_a_run_can_be_read_again(toy_run, tmp_path):
    write_settings(toy_run.settings, tmp_path / "copy.toml")
    assert cc.read_settings(tmp_path / "copy.toml") == toy_run.settings


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({}, "does not say on which input it was trained"),
        ({"input_mode": "published"}, "trained on 'published' input"),
        ({"input_mode": "official", "model_fingerprint": "0"}, "trained on a model with other weights"),
    ],
)
def test_autoencoders_of_unknown_or_other_origin_are_refused(toy_settings, tmp_path, info, message):
    for layer, sae in ToyModel().saes().items():
        sae.info = info
        sae.save(tmp_path / "saes" / f"L{layer:02d}")
    run = create_run(tmp_path / "run", toy_settings(train={"saes": str(tmp_path / "saes")}))
    with pytest.raises(cc.CellCircuitsError, match=message):
        run_pipeline(run, Progress(), until="train")
    assert run.status("train").state == "missing"


def test_settings_of_stages_that_are_not_begun_may_change(toy_settings, tmp_path):
    """A run that failed on a wrong setting goes on in the same folder once the setting is mended."""
    create_run(tmp_path / "run", toy_settings())
    mended = toy_settings(edges={"rule": "published"})
    assert create_run(tmp_path / "run", mended).settings == mended
    assert open_folder(tmp_path / "run").settings == mended
