"""The parts of a trace: blocks of sources, stopping and going on, and what can go wrong while they are written."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys

import pytest
import torch

import cellcircuits as cc
from cellcircuits import ablate, parts
from cellcircuits.errors import DataError, RunError
from cellcircuits.models.toy import ToyModel
from cellcircuits.pipeline import run_stage
from cellcircuits.progress import Progress
from tests.tracing import StopAfter, files, moments_files, retrace

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_trace_stopped_and_resumed_has_the_same_bytes(toy_run, monkeypatch):
    whole = moments_files(toy_run)
    assert len(whole) == 2
    with pytest.raises(KeyboardInterrupt):
        retrace(toy_run, StopAfter(3))
    assert toy_run.status("trace").detail == "3 parts finished"
    traced = []
    original = ablate.trace_cells
    monkeypatch.setattr(ablate, "trace_cells", lambda *args: (traced.append(len(args[1])), original(*args))[1])
    run_stage(toy_run, "trace", Progress())
    assert traced == [10, 10, 10]
    assert moments_files(toy_run) == whole
    assert not toy_run.work_path("trace").exists()
    assert toy_run.status("findings").state == "done"


KILLED = """
import os, signal, sys
import torch
from cellcircuits.progress import Progress
from cellcircuits import parts
from cellcircuits.run import open_folder
from cellcircuits.stages import trace
torch.set_num_threads(1)
save, saved = parts.save_moments, []
def killed(moments, path):
    save(moments, path)
    saved.append(path)
    if len(saved) == 6:
        path.write_bytes(path.read_bytes()[:100])
        os.kill(os.getpid(), signal.SIGKILL)
parts.save_moments = killed
trace.trace_stage(open_folder(sys.argv[1]), Progress())
"""


def test_a_trace_killed_while_writing_a_part_goes_on_with_the_same_bytes(toy_run):
    whole = moments_files(toy_run)
    shutil.rmtree(toy_run.path("trace"))
    found = subprocess.run([sys.executable, "-c", KILLED, str(toy_run.folder)], timeout=120)
    assert found.returncode == -signal.SIGKILL
    assert toy_run.status("trace").detail == "2 parts finished"
    assert not toy_run.path("trace").exists()
    run_stage(toy_run, "trace", Progress())
    assert moments_files(toy_run) == whole
    assert not toy_run.work_path("trace").exists()


@pytest.mark.parametrize(
    "changes",
    [{"n_cells": 20}, {"source_layers": [0]}, {"cells_per_part": 7}, {"n_features": 2}, {"context": "frozen"}],
)
def test_parts_of_other_settings_are_refused(toy_run, toy_settings, changes):
    with pytest.raises(KeyboardInterrupt):
        retrace(toy_run, StopAfter(2))
    before = files(toy_run.work_path("trace"))
    toy_run.settings = toy_settings(trace=changes)
    with pytest.raises(
        RunError, match=r"\.trace\.parts holds parts of a trace with other settings or inputs\. Restore"
    ):
        run_stage(toy_run, "trace", Progress())
    assert files(toy_run.work_path("trace")) == before


def test_the_batch_size_may_change_between_parts(toy_run, toy_settings):
    with pytest.raises(KeyboardInterrupt):
        retrace(toy_run, StopAfter(2))
    toy_run.settings = toy_settings(trace={"batch_size": 3})
    run_stage(toy_run, "trace", Progress())
    assert toy_run.status("trace").state == "done"


def test_a_damaged_part_is_named(toy_run):
    with pytest.raises(KeyboardInterrupt):
        retrace(toy_run, StopAfter(2))
    (toy_run.work_path("trace") / "part00001_L01.safetensors").write_bytes(b"half")
    with pytest.raises(RunError, match=r"part00001_L01\.safetensors is not a file of moments, or is damaged"):
        run_stage(toy_run, "trace", Progress())
    assert not toy_run.path("trace").exists()


def test_a_full_disk_keeps_finished_parts(toy_run, monkeypatch):
    whole, saved = moments_files(toy_run), []
    save = parts.save_moments

    def full_disk(moments, path):
        saved.append(path)
        if len(saved) == 4:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(moments, path)

    with monkeypatch.context() as patch, pytest.raises(RunError, match=r"Cannot write part 1 into .*parts are kept"):
        patch.setattr(parts, "save_moments", full_disk)
        retrace(toy_run)
    assert sorted(p.name for p in toy_run.work_path("trace").iterdir() if p.name[:4] in ("part", ".par")) == [
        "part00000_L00.safetensors",
        "part00000_L01.safetensors",
        "part00001_L00.safetensors",
    ]
    run_stage(toy_run, "trace", Progress())
    assert moments_files(toy_run) == whole


def test_a_cell_with_nan_stops_only_its_part(toy_run, monkeypatch):
    whole, run_layers = moments_files(toy_run), ToyModel.run_layers

    def broken(model, hidden, tokens, start, stop):
        bad = torch.from_numpy(tokens.obs.index.to_numpy() == "c23")
        for layer, state in run_layers(model, hidden, tokens, start, stop):
            yield layer, torch.where(bad[:, None, None], torch.nan, state)

    message = r"1 of 6 parts could not be traced; .*First: The output of layer 0 is NaN or infinite for cell c23\."
    with monkeypatch.context() as patch, pytest.raises(DataError, match=message):
        patch.setattr(ToyModel, "run_layers", broken)
        retrace(toy_run)
    assert toy_run.status("trace").detail == "5 parts finished"
    assert not list(toy_run.work_path("trace").glob("part00002_*"))
    run_stage(toy_run, "trace", Progress())
    assert moments_files(toy_run) == whole


def test_another_checkpoint_is_refused(toy_run, monkeypatch):
    monkeypatch.setattr(ToyModel, "fingerprint", lambda model: "other")
    with pytest.raises(cc.CellCircuitsError, match="are not those with which"):
        retrace(toy_run)
