"""A trace spread over threads, processes and the workers of a Dask cluster: the same bytes, and clear errors."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from safetensors.numpy import load_file, save_file

import cellcircuits as cc
from cellcircuits import executors, parts, planning
from cellcircuits.cli import main
from cellcircuits.errors import DataError, RunError, SettingsError
from cellcircuits.executors import open_executor
from cellcircuits.pipeline import run_stage
from cellcircuits.progress import Progress
from cellcircuits.run import open_folder
from cellcircuits.run_model import load_checked_model
from cellcircuits.settings import write_settings
from cellcircuits.stages import trace
from cellcircuits.threads import torch_threads
from tests.test_examples import ROOT, load_script
from tests.tracing import AfterParts, StopAfter, moments_files, retrace

pytestmark = pytest.mark.usefixtures("one_thread")
NO_DASHBOARD = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")


class Cluster:
    """A Dask scheduler and workers, each a process of its own on this host."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workers = folder, []
        self.address_file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", *NO_DASHBOARD)

    def _start(self, kind: str, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(self.address_file)]
        return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def add_worker(self) -> None:
        """Start a worker, of one thread as Dask makes them."""
        options = ("--nthreads", "1", "--no-nanny", *NO_DASHBOARD, "--local-directory", str(self.folder))
        self.workers.append(self._start("worker", *options))

    @contextmanager
    def executor(self, workers: int) -> Iterator[Executor]:
        """Executor of so many workers, started where there are fewer."""
        alive = [worker for worker in self.workers if worker.poll() is None]
        for worker in alive[workers:]:
            worker.terminate()
            worker.wait()
        for _ in range(workers - len(alive)):
            self.add_worker()
        with Client(scheduler_file=str(self.address_file), timeout=60) as client:
            client.wait_for_workers(workers, timeout=60)
            address = client.scheduler.address
        with open_executor(address) as executor:
            assert executor is not None
            yield executor

    def close(self) -> None:
        """Stop every process."""
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler without workers."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


@pytest.fixture
def spread(toy_run: cc.OpenRun, toy_settings: Callable[..., cc.Settings]) -> tuple[cc.OpenRun, dict[str, bytes]]:
    """A run of the toy model to be traced in 60 parts, and the moments of its trace in this process."""
    toy_run.change_settings(toy_settings(trace={"cells_per_part": 1}))
    retrace(toy_run)
    return toy_run, moments_files(toy_run)


def process_pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


# ------------------------------------------------------------------------------------------------ the same bytes


def test_threads_give_the_same_bytes_and_load_once(spread):
    run, whole = spread
    load_checked_model.cache_clear()
    with ThreadPoolExecutor(4) as executor:
        retrace(run, executor=executor)
    assert moments_files(run) == whole
    assert load_checked_model.cache_info().misses == 1


@pytest.mark.slow
def test_processes_give_the_same_bytes(spread):
    run, whole = spread
    with process_pool(2) as executor:
        retrace(run, executor=executor)
    assert moments_files(run) == whole


def models_loaded() -> int:
    return load_checked_model.cache_info().misses


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_dask_workers_give_the_same_bytes_and_load_once(spread, cluster, workers):
    run, whole = spread
    with cluster.executor(workers) as executor:
        before = executor._client.run(models_loaded)
        retrace(run, executor=executor)
        loaded = executor._client.run(models_loaded)
    assert moments_files(run) == whole
    assert not run.work_path("trace").exists()
    assert len(loaded) == workers
    assert all(before[worker] <= loaded[worker] <= 1 for worker in loaded) and sum(loaded.values()) >= 1


@pytest.mark.slow
def test_a_killed_dask_worker_changes_nothing(spread, cluster):
    run, whole = spread
    with cluster.executor(2) as executor:
        pids = list(executor._client.run(os.getpid).values())
        retrace(run, AfterParts(5, lambda: os.kill(pids[0], signal.SIGKILL)), executor)
        assert len(executor._client.run(os.getpid)) == len(pids) - 1
    assert moments_files(run) == whole


def threads_inside(number: int) -> int:
    """Threads of torch while a part is computed with so many."""
    with torch_threads(number):
        return torch.get_num_threads()


@pytest.mark.slow
def test_a_real_model_gives_the_same_bytes_everywhere(demo_run, cluster, monkeypatch):
    """Real matrix products, several blocks, and two threads where Dask starts its workers with one."""
    monkeypatch.setattr(planning, "MEGABYTE", 300)  # 1024 of them: the sums of two sources of layer 0
    retrace(demo_run)
    whole = moments_files(demo_run)
    assert list(whole) == [f"moments_L{layer}.safetensors" for layer in ("00_B0000", "00_B0001", "02_B0002")]
    with process_pool(1) as executor:
        retrace(demo_run, executor=executor)
    assert moments_files(demo_run) == whole
    with cluster.executor(1) as executor:
        assert set(executor._client.run(os.environ.get, "OMP_NUM_THREADS").values()) <= {"1", None}
        assert executor.submit(threads_inside, 2).result() == 2
        retrace(demo_run, executor=executor)
    assert moments_files(demo_run) == whole


# ------------------------------------------------------------------------------------------------ stopping and failing


def test_ctrl_c_cancels_what_is_queued(spread):
    run, whole = spread
    with ThreadPoolExecutor(1) as executor, pytest.raises(KeyboardInterrupt):
        retrace(run, StopAfter(3), executor)
    assert 3 <= int(run.status("trace").detail.split()[0]) < 59
    run_stage(run, "trace", Progress())
    assert moments_files(run) == whole


def with_nan(run: cc.OpenRun, row: int) -> np.ndarray:
    """Set the expression values of one cell of a run to NaN; returns what they were."""
    path = run.path("cells") / "tokens.safetensors"
    arrays = load_file(path)
    before = arrays["values"].copy()
    arrays["values"][row] = np.nan
    save_file(arrays, path)
    return before


@pytest.mark.slow
def test_a_cell_with_nan_stops_only_its_part(demo_run, cluster):
    retrace(demo_run)
    whole, name = moments_files(demo_run), demo_run.cells.obs.index[3]
    before = with_nan(demo_run, 3)
    message = (
        rf"1 of 3 parts could not be traced; the others are kept\. First: The output of layer 0 is NaN or infinite for "
        rf"cell {re.escape(name)}\. Check .*Then the same command computes only what is missing"
    )
    with process_pool(1) as executor, pytest.raises(DataError, match=message):
        retrace(demo_run, executor=executor)
    assert demo_run.status("trace").detail == "2 parts finished"
    arrays = load_file(demo_run.path("cells") / "tokens.safetensors")
    save_file(arrays | {"values": before}, demo_run.path("cells") / "tokens.safetensors")
    kept = {path: path.stat().st_mtime_ns for path in demo_run.work_path("trace").glob("part*")}
    seen: dict[Path, int] = {}
    with cluster.executor(1) as executor:
        look = AfterParts(1, lambda: seen.update((p, p.stat().st_mtime_ns) for p in kept))
        run_stage(demo_run, "trace", look, executor)
    assert len(kept) == 4 and seen == kept
    assert moments_files(demo_run) == whole


def die(*arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_process_pool_whose_worker_dies(spread, monkeypatch):
    run, whole = spread
    monkeypatch.setattr(parts, "JOBS_IN_FLIGHT", 2)  # or all parts would stand before what kills the worker
    with process_pool(1) as executor:
        with pytest.raises(RunError, match=r"A worker process died.*Finished parts are kept; the same command goes on"):
            retrace(run, AfterParts(2, lambda: executor.submit(die)), executor)
    assert run.status("trace").detail.endswith("parts finished")
    run_stage(run, "trace", Progress())
    assert moments_files(run) == whole


@pytest.mark.slow
def test_workers_that_die_of_a_part(tmp_path):
    """Dask tries a part on several workers before it gives up."""
    own = Cluster(tmp_path)
    try:
        with pytest.raises(RunError, match=r"Several workers died .*Finished parts are"), own.executor(4) as executor:
            executor.submit(die).result()
    finally:
        own.close()


@pytest.mark.slow
def test_a_scheduler_that_is_lost(spread, tmp_path):
    run, whole = spread
    own = Cluster(tmp_path)
    try:
        with pytest.raises(RunError, match=r"goes on"), own.executor(1) as executor:
            retrace(run, AfterParts(2, own.scheduler.kill), executor)
    finally:
        own.close()
    assert run.status("trace").detail.endswith("parts finished")
    run_stage(run, "trace", Progress())
    assert moments_files(run) == whole


def test_a_worker_that_does_not_see_the_folder(toy_run, tmp_path):
    with pytest.raises(RunError, match=r"A worker on \S+ does not see /nowhere/.*under the same path"):
        trace.trace_job("/nowhere/run", toy_run.settings, "/nowhere/run/.trace.parts", 0)


def test_a_worker_that_sees_other_inputs(spread):
    run, _ = spread
    with pytest.raises(KeyboardInterrupt):
        retrace(run, StopAfter(2))
    plan = run.work_path("trace") / "plan.json"
    plan.write_text(plan.read_text().replace(run.stage_hash("train"), "0" * 64))
    with pytest.raises(RunError, match="was made anew since this trace was planned"):
        trace.trace_job(str(run.folder), run.settings, str(run.work_path("trace")), 5)


# ------------------------------------------------------------------------------------------------ addresses


def test_no_address_is_this_process():
    with open_executor("") as executor:
        assert executor is None


@pytest.mark.parametrize("address", ["dask", "tcp://", "tcp://host", "http://host:1", "localhost:8786", "tcp://a b:1"])
def test_wrong_addresses(address):
    with pytest.raises(SettingsError, match=r"There is no executor .*expected"), open_executor(address):
        pass


def test_workers_of_a_running_cluster_are_not_ours_to_number():
    with pytest.raises(SettingsError, match="is for --dask local"), open_executor("tcp://127.0.0.1:1", workers=2):
        pass


def test_no_scheduler(monkeypatch):
    monkeypatch.setattr(executors, "SECONDS_TO_CONNECT", 1)
    with pytest.raises(SettingsError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9.*dask scheduler"):
        with open_executor("tcp://127.0.0.1:9"):
            pass


def test_no_certificates(monkeypatch):
    monkeypatch.setattr(executors, "SECONDS_TO_CONNECT", 1)
    with pytest.raises(SettingsError, match="No Dask scheduler answers at tls:"), open_executor("tls://127.0.0.1:9"):
        pass


def test_no_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SettingsError, match=r'pip install "cellcircuits\[dask\]"'), open_executor("local"):
        pass


# ------------------------------------------------------------------------------------------------ commands, documents


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and messages of a command."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        return int(stopped.code or 0), capsys.readouterr().err
    return 0, capsys.readouterr().err


@pytest.mark.slow
def test_the_commands_take_workers_of_this_host(spread, tmp_path, capsys):
    run, whole = spread
    shutil.rmtree(run.path("trace"))
    code, err = command(capsys, "trace", run.folder, "--dask", "local", "--workers", 2)
    assert code == 0 and "Each worker computes with as many threads" in err
    assert moments_files(run) == whole
    write_settings(run.settings, tmp_path / "settings.toml")
    shutil.rmtree(run.path("trace"))
    options = ("--until", "trace", "--dask", "local")
    code, err = command(capsys, "run", tmp_path / "settings.toml", "--out", run.folder, *options)
    assert code == 0 and "threads" not in err
    assert moments_files(run) == whole


@pytest.mark.slow
def test_the_commands_take_a_scheduler(spread, cluster, capsys):
    run, whole = spread
    with cluster.executor(1) as executor:
        shutil.rmtree(run.path("trace"))
        code, _ = command(capsys, "trace", run.folder, "--dask", executor._client.scheduler.address)
    assert code == 0 and moments_files(run) == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dask", "tcp://127.0.0.1:9"], "No Dask scheduler answers"),
        (["--dask", "slurm"], "There is no executor 'slurm'"),
        (["--workers", "2"], "--workers is for --dask local"),
    ],
)
def test_what_cannot_be_opened_is_one_message(toy_run, monkeypatch, capsys, options, message):
    monkeypatch.setattr(executors, "SECONDS_TO_CONNECT", 1)
    shutil.rmtree(toy_run.path("trace"))
    code, err = command(capsys, "trace", toy_run.folder, *options)
    assert code == 2 and "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("cellcircuits: ")]
    assert len(errors) == 1 and errors[0].startswith(f"cellcircuits: {message}")
    assert not toy_run.begun("trace")


@pytest.mark.parametrize(
    ("gpus", "device", "workers", "threads", "expected"),
    [
        (["0", "3"], "auto", 0, 0, ["0", "3"]),
        (["0", "3"], "cuda", 3, 0, ["0", "3", "0"]),
        (["0", "3"], "cpu", 0, 4, [None, None]),
        ([], "auto", 0, 0, [None]),
        ([], "auto", 0, 3, [None, None]),
        ([], "auto", 0, 64, [None]),
        ([], "auto", 5, 3, [None] * 5),
    ],
)
def test_local_workers(monkeypatch, gpus, device, workers, threads, expected):
    """A host of 8 cores: a worker per GPU, which it alone sees, or one per share of the cores."""
    monkeypatch.setattr(executors, "_gpus", lambda: gpus)
    monkeypatch.setattr(executors, "_cores", lambda: 8)
    found = executors.worker_environments(workers, threads, device)
    assert [environment.get("CUDA_VISIBLE_DEVICES") for environment in found] == expected


@pytest.fixture
def example() -> ModuleType:
    """examples/slurm_trace.py as a module."""
    return load_script(ROOT / "examples" / "slurm_trace.py")


@pytest.mark.slow
def test_the_slurm_example_traces(example, spread):
    """With processes of this host in place of SLURM's jobs."""
    run, whole = spread
    shutil.rmtree(run.path("trace"))
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as local:
        example.trace_on(local, open_folder(run.folder))
    assert moments_files(run) == whole


def test_the_slurm_example_writes_a_job(example):
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    with example.slurm_cluster() as cluster:
        script = cluster.job_script()
    expected = ("-p gpu", "--cpus-per-task=8", "-t 04:00:00", "--gres=gpu:1", "--nthreads 1", "--lifetime 225m")
    assert all(option in script for option in expected), script


@pytest.mark.slow
def test_the_example_of_processes_traces(spread, tmp_path):
    run, whole = spread
    shutil.rmtree(run.path("trace"))
    (tmp_path / "runs").mkdir()
    run.folder.rename(tmp_path / "runs" / "pbmc")
    text = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "script.py").write_text(code)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment, check=True, timeout=120)
    assert moments_files(open_folder(tmp_path / "runs" / "pbmc")) == whole
