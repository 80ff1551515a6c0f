"""kill -9 of real processes at random moments of a trace: started again until done, it has the same bytes."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

import cellcircuits as cc
from tests.tracing import moments_files, trace_once

MOMENTS = ("any time", "while a part is written", "during the merge")


class Killer:
    """Starts the trace of a run again and again, and kills it at random moments."""

    def __init__(self, run: cc.OpenRun, context: ForkServerContext, seed: int) -> None:
        self.run, self.context, self.rng = run, context, np.random.default_rng(seed)
        self.whole = moments_files(run)
        self.hits: Counter[str] = Counter()
        """Kills that ended a living process, by what was going on; and traces that ended before."""
        self.seconds = self._full_seconds()

    def start(self) -> BaseProcess:
        """A process that traces what is missing."""
        process = self.context.Process(target=trace_once, args=(str(self.run.folder),))
        process.start()
        return process

    def _full_seconds(self) -> float:
        shutil.rmtree(self.run.path("trace"))
        begun = time.perf_counter()
        process = self.start()
        process.join()
        assert process.exitcode == 0
        return time.perf_counter() - begun

    def attempt(self) -> None:
        """Go on with the trace, or begin a new one where it is done; kill it, and note where that hit."""
        if self.run.status("trace").state == "done":
            self.check_and_begin_anew()
        moment = str(self.rng.choice(MOMENTS, p=(0.6, 0.2, 0.2)))
        process = self.start()
        if moment == "any time":
            time.sleep(self.rng.uniform(0, self.seconds))
        else:
            self._wait_for(process, moment)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            self.hits[self.interrupted()] += 1
        else:
            assert process.exitcode == 0
            self.hits["done before"] += 1

    def _wait_for(self, process: BaseProcess, moment: str) -> None:
        sign = ".trace.parts/.[tp]*" if moment == MOMENTS[1] else ".trace.writing-*"
        skipped = int(self.rng.integers(20)) if moment == MOMENTS[1] else 0
        while process.is_alive():
            if there(self.run.folder, sign):
                if skipped == 0:
                    break
                skipped -= 1
        if moment == MOMENTS[2]:
            time.sleep(self.rng.uniform(0, 0.02))

    def interrupted(self) -> str:
        """What the killed process was doing, by what it left behind."""
        if there(self.run.folder, ".trace.writing-*"):
            return "merging"
        if there(self.run.work_path("trace"), ".[tp]*"):
            return "writing a part"
        return "something else"

    def check_and_begin_anew(self) -> None:
        """The bytes must be those of the trace that was never stopped."""
        assert moments_files(self.run) == self.whole
        shutil.rmtree(self.run.path("trace"))

    def finish(self) -> None:
        """Go on until it is done."""
        process = self.start()
        process.join()
        assert process.exitcode == 0
        assert moments_files(self.run) == self.whole
        assert {path.name for path in self.run.folder.iterdir() if path.name.startswith(".")} == {".lock"}


def there(folder: Path, pattern: str) -> bool:
    """Whether a file matches, in a folder that another process may remove meanwhile."""
    try:
        return len(list(folder.glob(pattern))) > 0
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """Processes that start in an instant, since one that has imported everything is copied."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["cellcircuits.stages.trace", "cellcircuits.tracing", "tests.tracing"])
    first = made.Process(target=abs, args=(0,))
    first.start()
    first.join()
    return made


@pytest.fixture
def killed(
    toy_run: cc.OpenRun, toy_settings: Callable[..., cc.Settings], context: ForkServerContext, one_thread: None
) -> Callable[[int], Counter[str]]:
    """Function killed(n): so many kills of the trace of a toy run in 60 parts, then the end; returns what was hit."""

    def make(number: int) -> Counter[str]:
        toy_run.change_settings(toy_settings(trace={"cells_per_part": 1}))
        trace_again(toy_run)
        killer = Killer(toy_run, context, seed=number)
        while sum(killer.hits.values()) - killer.hits["done before"] < number:
            killer.attempt()
            assert sum(killer.hits.values()) < 4 * number, f"too few kills hit a living process: {killer.hits}"
        killer.finish()
        return killer.hits

    return make


def trace_again(run: cc.OpenRun) -> None:
    shutil.rmtree(run.path("trace"))
    trace_once(str(run.folder))


def test_ten_kills(killed):
    killed(10)


@pytest.mark.slow
def test_a_hundred_kills(killed):
    hits = killed(100)
    assert hits["writing a part"] >= 5 and hits["merging"] >= 5 and hits["something else"] >= 20, hits
    assert hits["done before"] <= 100, hits
