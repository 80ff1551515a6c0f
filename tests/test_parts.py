"""The parts of a trace: blocks of sources, stopping and going on, and what can go wrong while they are written."""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cellcircuits as cc
from cellcircuits import parts, planning, tracing
from cellcircuits.cli import main
from cellcircuits.errors import DataError, RunError
from cellcircuits.models.toy import ToyModel
from cellcircuits.moments import STATISTICS, save_moments
from cellcircuits.pipeline import run_stage
from cellcircuits.progress import Progress
from cellcircuits.run import open_folder
from cellcircuits.stages import trace
from cellcircuits.tables import read_table
from cellcircuits.threads import torch_threads
from cellcircuits.trace_plan import TracePlan, bytes_per_source, split_into_blocks
from tests.tracing import StopAfter, files, moments_files, retrace

pytestmark = pytest.mark.usefixtures("one_thread")
COMMAND = "import sys; from cellcircuits.cli import main; main(sys.argv[1:])"
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


# ------------------------------------------------------------------------------------------------ blocks and plans


@given(
    features=st.dictionaries(st.integers(0, 5), st.sets(st.integers(0, 99), min_size=1, max_size=9), min_size=1),
    size=st.integers(1, 30),
    limit=st.integers(1, 100),
)
def test_blocks_are_as_full_as_memory_allows(features, size, limit):
    sources = {layer: sorted(chosen) for layer, chosen in features.items()}
    size_of = {layer: size * (1 + layer % 2) for layer in sources}
    blocks = split_into_blocks(sources, size_of, limit)
    order = [(layer, feature) for block in blocks for layer in block for feature in block[layer]]
    assert order == [(layer, feature) for layer in sorted(sources) for feature in sources[layer]]
    sizes = [sum(size_of[layer] * len(chosen) for layer, chosen in block.items()) for block in blocks]
    for number, block in enumerate(blocks):
        n_sources = sum(map(len, block.values()))
        assert sizes[number] <= limit or n_sources == 1
        if number + 1 < len(blocks):
            assert sizes[number] + size_of[next(iter(blocks[number + 1]))] > limit


def test_the_size_of_a_source_is_that_of_its_sums():
    zeros = cc.Moments.zeros(0, np.arange(1), {1: 6, 2: 7})
    assert sum(values.nbytes for values in zeros.sums.values()) == bytes_per_source(13)
    assert bytes_per_source(13, n_sums=3) == 3 * bytes_per_source(13)


def test_a_plan_survives_the_disk():
    plan = TracePlan(
        [5, 6, 9], [{0: [1], 10: [2, 3]}, {10: [4]}], {0: [1, 10], 10: [11]}, 2, "frozen", 3, ["source"], {"cells": "x"}
    )
    assert TracePlan.from_json(plan.to_json()) == plan
    paired = replace(plan, matched={10: {4: [7, 8]}}, partners={10: {2: 3, 3: 2}}, random_weights=True)
    assert TracePlan.from_json(paired.to_json()) == paired
    assert plan.sources == {0: [1], 10: [2, 3, 4]}
    assert [(part.sources, part.cells) for part in plan.parts] == [
        ({0: [1], 10: [2, 3]}, [5, 6]),
        ({0: [1], 10: [2, 3]}, [9]),
        ({10: [4]}, [5, 6]),
        ({10: [4]}, [9]),
    ]
    assert [list(plan.parts_of(block)) for block in range(2)] == [[0, 1], [2, 3]]


def test_groups_of_cells_in_any_order():
    plan = TracePlan([9, 5, 6], [{0: [1]}], {0: [1]}, 2, "exact", 1, ["source"], {}, ["a", "b"], [1, 0, 1])
    assert list(plan.groups_of([5, 9, 6, 5])) == [0, 1, 1, 0]
    assert list(replace(plan, groups=["a"]).groups_of([5, 9])) == [0, 0]


def test_a_plan_is_parsed_once_per_process(tmp_path):
    """A worker reads the plan for each of very many parts."""
    plan = TracePlan([5, 6, 9], [{0: [1]}], {0: [1]}, 2, "exact", 1, ["source"], {})
    parts.open_plan(plan, tmp_path)
    known = parts.read_plan(tmp_path)
    assert parts.read_plan(tmp_path) is known and known.parts is parts.read_plan(tmp_path).parts
    (tmp_path / "plan.json").write_text(replace(plan, cells=[7]).to_json())
    assert parts.read_plan(tmp_path).cells == [7]


def test_sources_in_pairs_name_each_other(toy_run, toy_settings, monkeypatch):
    """Odd features are annotated, the higher the better; a pair may lie in two blocks."""

    def annotated(name: str, folder: Path) -> pd.DataFrame:
        table = read_table(name, folder)
        return table.assign(n_terms=table["feature"] % 2, annotation_score=table["feature"] * (table["feature"] % 2.0))

    monkeypatch.setattr(trace, "read_table", annotated)
    monkeypatch.setattr(planning, "MEGABYTE", 1 / toy_run.settings.trace.block_megabytes)
    toy_run.change_settings(toy_settings(trace={"select": "matched", "n_features": 5}))
    retrace(toy_run)
    sources, features = cc.open_run(toy_run.folder).sources, toy_run.features
    for layer, chosen in sources.groupby("layer"):
        partner = dict(zip(chosen["feature"], chosen["matched_with"], strict=True))
        rates = features[features["layer"] == layer].set_index("feature")["firing_rate"]
        assert {f for f in partner if f % 2} == {3, 5} and len(partner) == 4
        assert all(partner[partner[f]] == f and (f + partner[f]) % 2 for f in partner)
        best = min(abs(np.log(rates[3] / rates[a])) + abs(np.log(rates[5] / rates[b])) for a, b in PAIRS)
        assert sum(abs(np.log(rates[f] / rates[partner[f]])) for f in (3, 5)) == pytest.approx(best)


PAIRS = list(permutations((0, 2, 4), 2))


@pytest.mark.parametrize(("limit", "blocks"), [(1, 12), (1500, 3), (2880, 2), (3200, 2)])
def test_many_blocks_give_the_numbers_of_one(toy_run, monkeypatch, limit, blocks):
    """Blocks of one source, of three of a layer, of all of a layer, and of all of a layer and one of the next."""
    whole, passes = toy_run.moments, toy_run.manifest("trace")["record"]["passes"]
    sources = toy_run.sources
    monkeypatch.setattr(planning, "MEGABYTE", limit / toy_run.settings.trace.block_megabytes)
    with pytest.raises(KeyboardInterrupt):
        retrace(toy_run, StopAfter(3))
    assert toy_run.status("trace").detail == "3 parts finished"
    run_stage(toy_run, "trace", Progress())
    run = cc.open_run(toy_run.folder)
    assert {path.name[-16:-12] for path in run.path("trace").glob("moments_*")} == {f"{b:04d}" for b in range(blocks)}
    for layer, moments in run.moments.items():
        assert np.array_equal(moments.source_features, whole[layer].source_features)
        assert np.array_equal(moments.n_cells, whole[layer].n_cells)
        for target, sums in moments.sums.items():
            if limit == 2880:  # the sources of a layer are ablated in the same batches as without blocks
                assert np.array_equal(sums, whole[layer].sums[target])
            # numbers of cells with a positive or negative effect follow rounding where there is no effect
            kept = [STATISTICS.index(name) for name in ("sum_delta", "sum_squared_delta", "sum_clean")]
            np.testing.assert_allclose(sums[kept], whole[layer].sums[target][kept], rtol=1e-5, atol=1e-5)
    assert run.sources.equals(sources)
    found = run.manifest("trace")["record"]["passes"]
    assert found == {"clean": blocks * passes["clean"], "ablated": passes["ablated"]}
    interrupted = moments_files(run)
    retrace(run)
    assert moments_files(run) == interrupted


def test_two_plans_side_by_side(toy_run):
    """Nothing in a plan's folder knows the stage: a trace can have several, each in a context of its own."""
    exact = parts.read_plan(toy_run.path("trace"))
    screened = replace(exact, blocks=[{1: exact.sources[1]}], targets={1: [2]})
    job = partial(trace.trace_job, str(toy_run.folder), toy_run.settings)
    base, found = toy_run.work_path("trace"), []
    for name, plan in (("first", screened), ("second", exact)):
        work = base / name
        assert parts.open_plan(plan, work) == plan
        assert parts.run_plan(plan, work, job, None, Progress(), name) == {}
        found.append({layer: moments for layer, _, moments in parts.merge(plan, work)})
    assert toy_run.status("trace").state == "done"
    shutil.rmtree(toy_run.path("trace"))
    assert toy_run.status("trace").detail == "12 parts finished"
    assert [list(moments) for moments in found] == [[1], [0, 1]]
    assert np.array_equal(found[0][1].sums[2], found[1][1].sums[2])


def test_merging_holds_one_sum(tmp_path):
    blocks = [{0: [0, 1, 2]}, {0: [3, 4, 5], 1: [0]}, {1: [1, 2, 3]}]
    plan = TracePlan(list(range(6)), blocks, {0: [1, 2], 1: [2]}, 2, "exact", 1, ["source"], {})
    for number, part in enumerate(plan.parts):
        for layer, features in part.sources.items():
            moments = cc.Moments.zeros(layer, np.array(features), dict.fromkeys(plan.targets[layer], 20_000))
            save_moments(moments, parts.part_file(tmp_path, number, layer))
    largest = 3 * bytes_per_source(2 * 20_000)
    tracemalloc.start()
    for _, _, moments in parts.merge(plan, tmp_path):
        del moments
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # parts are mapped into memory: read as they are added, an array at a time
    assert 0.9 * largest < peak < 1.1 * largest


def test_the_plan_decides_the_context(toy_run, monkeypatch):
    seen: list[str] = []
    original = tracing.trace_cells
    monkeypatch.setattr(
        tracing,
        "trace_cells",
        lambda *a: (seen.append(a[5].context), original(*a[:5], replace(a[5], context="exact"), *a[6:]))[1],
    )
    plan = replace(parts.read_plan(toy_run.path("trace")), context="frozen")
    work = parts.open_plan(plan, toy_run.folder / "work") and toy_run.folder / "work"
    assert trace.trace_job(str(toy_run.folder), toy_run.settings, str(work), 0) is None
    assert seen == ["frozen"] and toy_run.settings.trace.context == "exact"


# ------------------------------------------------------------------------------------------------ threads


def test_threads_are_set_and_restored():
    before = torch.get_num_threads()
    with torch_threads(2):
        assert torch.get_num_threads() == 2
        with torch_threads(1):
            assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_trace_goes_on_with_its_own_number_of_threads(toy_run, monkeypatch):
    whole = moments_files(toy_run)
    with pytest.raises(KeyboardInterrupt):
        retrace(toy_run, StopAfter(2))
    used: list[int] = []
    original = tracing.trace_cells
    monkeypatch.setattr(
        tracing, "trace_cells", lambda *args: (used.append(torch.get_num_threads()), original(*args))[1]
    )
    torch.set_num_threads(2)
    run_stage(toy_run, "trace", Progress())
    assert used == [1] * 4 and torch.get_num_threads() == 2
    assert moments_files(toy_run) == whole
    retrace(toy_run)
    assert parts.read_plan(toy_run.path("trace")).threads == 2


# ------------------------------------------------------------------------------------------------ stopping and going on


def test_a_trace_stopped_and_resumed_has_the_same_bytes(toy_run, monkeypatch):
    whole = moments_files(toy_run)
    assert len(whole) == 2
    with pytest.raises(KeyboardInterrupt):
        retrace(toy_run, StopAfter(3))
    assert toy_run.status("trace").detail == "3 parts finished"
    traced = []
    original = tracing.trace_cells
    monkeypatch.setattr(tracing, "trace_cells", lambda *args: (traced.append(len(args[1])), original(*args))[1])
    run_stage(toy_run, "trace", Progress())
    assert traced == [10, 10, 10]
    assert moments_files(toy_run) == whole
    assert not toy_run.work_path("trace").exists()
    assert toy_run.status("findings").state == "done"


@pytest.mark.parametrize(
    "changes",
    [
        {"n_cells": 20},
        {"source_layers": [0]},
        {"cells_per_part": 7},
        {"n_features": 2},
        {"context": "frozen"},
        {"threads": 2},
    ],
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


# ------------------------------------------------------------------------------------------------ disks


def test_parts_without_a_plan_are_not_trusted(toy_run, toy_settings):
    """What is left when a folder of parts is deleted, and that is stopped half-way."""
    with pytest.raises(KeyboardInterrupt):
        retrace(toy_run, StopAfter(2))
    (toy_run.work_path("trace") / "plan.json").unlink()
    toy_run.change_settings(toy_settings(trace={"n_cells": 55}))
    run_stage(toy_run, "trace", Progress())
    traced = moments_files(toy_run)
    retrace(toy_run)
    assert moments_files(toy_run) == traced


def test_a_worker_of_a_trace_that_was_given_up_writes_nothing(toy_run, monkeypatch):
    """It still computed when the trace was stopped, and ends when another one is under way in the same folder."""
    plan = parts.read_plan(toy_run.path("trace"))
    work = toy_run.work_path("trace")
    parts.open_plan(plan, work)
    original = tracing.trace_cells

    def begun_anew(*arguments):
        shutil.rmtree(work)
        parts.open_plan(replace(plan, cells=plan.cells[5:]), work)
        return original(*arguments)

    monkeypatch.setattr(tracing, "trace_cells", begun_anew)
    with pytest.raises(RunError, match="was begun anew by others"):
        trace.trace_job(str(toy_run.folder), toy_run.settings, str(work), 0)
    assert [path.name for path in work.iterdir()] == ["plan.json"]


def test_parts_of_a_finished_trace_are_cleared_away(toy_run):
    """Killed after the artifact was complete, before its parts were removed."""
    work = toy_run.work_path("trace")
    plan = parts.open_plan(parts.read_plan(toy_run.path("trace")), work)
    job = partial(trace.trace_job, str(toy_run.folder), toy_run.settings)
    parts.run_plan(plan, work, job, None, Progress(), "")
    with toy_run.locked():
        assert not work.exists()
    parts.open_plan(replace(plan, cells=plan.cells[:20]), work)
    with toy_run.locked():
        assert work.exists()  # another trace, which is under way


def test_a_temporary_file_that_vanishes(toy_run, monkeypatch):
    whole, save, saved = moments_files(toy_run), parts.save_moments, []

    def removed(moments, path):
        save(moments, path)
        saved.append(path)
        if len(saved) == 4:
            path.unlink()

    with monkeypatch.context() as patch, pytest.raises(RunError, match=r"Cannot write part 1 into .*parts are kept"):
        patch.setattr(parts, "save_moments", removed)
        retrace(toy_run)
    assert toy_run.status("trace").detail == "1 parts finished"
    run_stage(toy_run, "trace", Progress())
    assert moments_files(toy_run) == whole


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A disk of its own at `folder`; gives a function that changes its options."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "cellcircuits-test", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this user may not mount a disk: {error}")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True) and None
    finally:
        gc.collect()  # what was raised may still hold cells, whose file is mapped into memory
        subprocess.run(["umount", str(folder)], check=True)


def refused(capsys: pytest.CaptureFixture[str], message: str, *arguments: object) -> None:
    """The command ends with exit code 2 and this one message."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cellcircuits: ")]
    assert stopped.value.code == 2 and len(errors) == 1 and re.search(message, errors[0]), errors


@pytest.fixture
def untraced(toy_run, tmp_path) -> tuple[Path, dict[str, bytes]]:
    """Folder of a toy run without its trace, to be copied; and the moments that it should have."""
    whole = moments_files(toy_run)
    for stage in ("trace", "edges", "findings"):
        shutil.rmtree(toy_run.path(stage))
    return toy_run.folder, whole


@pytest.mark.parametrize("room", ["in the parts", "in the artifact"])
def test_a_full_disk(untraced, tmp_path, capsys, room):
    source, whole = untraced
    (tmp_path / "disk").mkdir()
    used = sum(-(-path.stat().st_size // 4096) * 4096 for path in source.rglob("*") if path.is_file()) // 1024
    with disk(tmp_path / "disk", "20m") as remount:
        folder = tmp_path / "disk" / "run"
        shutil.copytree(source, folder)
        remount(f"size={used + (32 if room == 'in the parts' else 56)}k")
        message = (
            "part [1-5] into .*No space left.*Finished parts are kept"
            if room == "in the parts"
            else ".*run/trace: .*No space left"
        )
        refused(capsys, f"Cannot write {message}", "trace", folder)
        assert not (folder / "trace").exists() and not list(folder.glob(".*.writing-*"))
        assert not [path.name for path in (folder / ".trace.parts").glob(".*")]
        remount("size=20m")
        main(["trace", str(folder)])
        assert moments_files(open_folder(folder)) == whole


LIMITED = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
{COMMAND}
"""


def test_a_quota(untraced):
    """Files over a limit are refused by the system: a full disk for those who may not mount one."""
    folder, whole = untraced
    command = [sys.executable, "-c", LIMITED, "trace", str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD)
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert re.search(r"cellcircuits: Cannot write part 0 into .*File too large", found.stderr)
    main(["trace", str(folder)])
    assert moments_files(open_folder(folder)) == whole


def test_a_read_only_disk(untraced, tmp_path, capsys):
    source, whole = untraced
    (tmp_path / "disk").mkdir()
    with disk(tmp_path / "disk", "20m") as remount:
        folder = tmp_path / "disk" / "run"
        shutil.copytree(source, folder)
        before = files(folder)
        remount("ro")
        refused(capsys, "Cannot write into the run folder .*Read-only file system", "trace", folder)
        assert files(folder) == before
        remount("rw")
        main(["trace", str(folder)])
        assert moments_files(open_folder(folder)) == whole


def test_two_traces_of_one_run(untraced, toy_settings, capsys):
    folder, _ = untraced
    run = open_folder(folder)
    run.change_settings(toy_settings(trace={"cells_per_part": 1}))
    command = [sys.executable, "-c", COMMAND, "trace", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ONE_THREAD) as first:
        while not run.work_path("trace").exists():
            assert first.poll() is None
            time.sleep(0.001)
        refused(capsys, "Another process is working on .*Wait for it, or stop it first", "trace", folder)
    assert first.returncode == 0 and run.status("trace").state == "done"
    spread = moments_files(run)
    retrace(run)
    assert moments_files(run) == spread
