"""A trace spread over threads, processes and the workers of a Dask cluster: the same bytes, and clear errors."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from safetensors.numpy import load_file, save_file

import cellcircuits as cc
from cellcircuits import executors, parts
from cellcircuits.errors import DataError, RunError, SettingsError
from cellcircuits.executors import open_executor
from cellcircuits.pipeline import run_stage
from cellcircuits.progress import Progress
from cellcircuits.stages import trace
from cellcircuits.stages.cells import load_checked_model
from tests.tracing import AfterParts, StopAfter, moments_files, retrace

pytestmark = pytest.mark.usefixtures("one_thread")


class Cluster:
    """A Dask scheduler and workers, each a process of its own on this host."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workers = folder, []
        self.address_file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")

    def _start(self, kind: str, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(self.address_file)]
        return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def add_worker(self) -> None:
        """Start a worker, of one thread as Dask makes them."""
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self.folder))
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


@pytest.mark.slow
def test_a_real_model_gives_the_same_bytes_everywhere(demo_run, cluster, monkeypatch):
    """Real matrix products, several blocks, and two threads where Dask starts its workers with one."""
    monkeypatch.setattr(trace, "MEGABYTE", 100)  # 1024 of them: the sums of two sources of layer 0
    retrace(demo_run)
    whole = moments_files(demo_run)
    assert list(whole) == [f"moments_L{layer}.safetensors" for layer in ("00_B0000", "00_B0001", "02_B0002")]
    with process_pool(1) as executor:
        retrace(demo_run, executor=executor)
    assert moments_files(demo_run) == whole
    with cluster.executor(1) as executor:
        assert set(executor._client.run(os.environ.get, "OMP_NUM_THREADS").values()) <= {"1", None}
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
