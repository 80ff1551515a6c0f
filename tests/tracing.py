"""What the tests of stopped, spread and killed traces share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path

import torch

from cellcircuits.manifest import file_hash
from cellcircuits.pipeline import run_stage
from cellcircuits.progress import Progress
from cellcircuits.run import Run, open_folder


class AfterParts(Progress):
    """Calls a function when so many parts are traced, once."""

    def __init__(self, parts: int, call: Callable[[], None]) -> None:
        self.left, self.call = parts, call

    def task(self, description, total):
        return nullcontext(self._advance if description == "Tracing" else lambda amount: None)

    def _advance(self, amount: float) -> None:
        if amount == 1:
            self.left -= 1
            if self.left == 0:
                self.call()


class StopAfter(AfterParts):
    """Stops like Ctrl-C when so many parts are traced."""

    def __init__(self, parts: int) -> None:
        def stop() -> None:
            raise KeyboardInterrupt

        super().__init__(parts, stop)


def retrace(run: Run, progress: Progress | None = None, executor: Executor | None = None) -> None:
    """Trace again from nothing, or from the parts that are there."""
    shutil.rmtree(run.path("trace"), ignore_errors=True)
    run_stage(run, "trace", progress or Progress(), executor)


def moments_files(run: Run) -> dict[str, bytes]:
    """The moments of a run, by name of the file."""
    return {path.name: path.read_bytes() for path in sorted(run.path("trace").glob("moments_*"))}


def files(folder: Path) -> dict[str, str]:
    """Content of every file of a folder, hidden ones included."""
    return {str(p.relative_to(folder)): file_hash(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def trace_once(folder: str) -> None:
    """What a process does that traces a run: to be killed at any moment, and started again."""
    torch.set_num_threads(1)
    run = open_folder(folder)
    with run.locked():
        if run.status("trace").state != "done":
            run_stage(run, "trace", Progress())
