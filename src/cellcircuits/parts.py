"""The parts of a trace: planned once, computed anywhere and in any order, added in the order of the plan.

A part is computed on its own and written whole, one file per source layer; resuming means computing the parts that are
planned but not there. The result has the same bits however the work was stopped or spread.

Nothing here knows the stage: a plan with its folder is one trace, and several can lie side by side.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
from safetensors import SafetensorError

from cellcircuits.errors import CellCircuitsError, RunError
from cellcircuits.merging import add_file
from cellcircuits.moments import OWN, Moments, load_moments, save_moments
from cellcircuits.progress import Progress
from cellcircuits.threads import torch_threads
from cellcircuits.trace_plan import TracePlan

if TYPE_CHECKING:
    import torch

    from cellcircuits.autoencoders import SparseAutoencoder
    from cellcircuits.models.base import Model
    from cellcircuits.settings import TraceSettings
    from cellcircuits.tokens import Tokens

PLAN_FILE = "plan.json"
JOBS_IN_FLIGHT = 512
"""Most parts handed to an executor at a time: more than any cluster has workers, and little for a scheduler."""
Job = Callable[[str, int], str | None]
"""Called with (folder of the plan, part): computes that part and writes its files. Returns None, or why this one part
cannot be computed. Picklable, since an executor may call it in another process."""


# ------------------------------------------------------------------------------------------------ folder of a plan


def part_file(work: Path, part: int, layer: int) -> Path:
    """File of the moments of one source layer of a part."""
    return work / f"part{part:05d}_L{layer:02d}.safetensors"


def read_plan(work: Path) -> TracePlan:
    """The plan in a folder.

    Raises
    ------
    RunError
        If there is none or it is damaged.
    """
    try:
        return _parsed_plan((work / PLAN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{work / PLAN_FILE} is no plan of a trace, or damaged ({error}). Delete {work}.") from error


@lru_cache(maxsize=2)
def _parsed_plan(text: str) -> TracePlan:
    """A worker reads the plan for every part; a plan of a million cells takes much longer to parse than to compare."""
    return TracePlan.from_json(text)


def open_plan(plan: TracePlan, work: Path, any_threads: bool = False) -> TracePlan:
    """Make the plan's folder, or go on with the one that is there; returns the plan that holds from now on.

    That is the plan on disk where the two are the same, or, with `any_threads`, differ in `threads` alone.

    Raises
    ------
    RunError
        If the folder belongs to another plan or cannot be written.
    """
    path = work / PLAN_FILE
    try:
        work.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return _matching(plan, work, any_threads)
        for old in work.iterdir():  # without a plan nobody knows of what these are parts
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        write_atomically(path, lambda partial: partial.write_text(plan.to_json(), encoding="utf-8"))
    except OSError as error:
        raise RunError(f"Cannot write {work}: {error.strerror or error}.") from error
    return plan


def _matching(plan: TracePlan, work: Path, any_threads: bool) -> TracePlan:
    known = read_plan(work)
    wanted = replace(plan, threads=known.threads) if any_threads else plan
    if known != wanted:
        raise RunError(
            f"{work} holds parts of a trace with other settings or inputs. Restore those to go on with it, "
            "or delete the folder to begin anew."
        )
    return known


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(partial)` and rename what it wrote to `path`, so that `path` is complete or absent."""
    # a name of its own: two hosts may write the same part when one of them was thought to be dead
    partial = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def missing_parts(plan: TracePlan, work: Path) -> list[int]:
    """Parts that are planned but not there, in the order of the plan."""
    # one listing instead of a question for every file: faster, and on network file systems up to date
    there = set(os.listdir(work))
    return [
        number
        for number, part in enumerate(plan.parts)
        if not all(part_file(work, number, layer).name in there for layer in part.sources)
    ]


def finished_parts(work: Path) -> int:
    """Number of finished parts of all plans in and below a folder; 0 where there is none."""
    folders = [path.parent for path in work.rglob(PLAN_FILE)]
    return sum(len(plan.parts) - len(missing_parts(plan, at)) for at in folders for plan in [read_plan(at)])


def _clear_partial_files(work: Path) -> None:
    """Remove what a killed process left half-written; a process that still writes one of them fails, and only it."""
    for path in work.iterdir():
        # .tmp: what safetensors writes before it renames
        if re.match(r"\.(part\d+_L\d+\.safetensors\.|tmp\w+$)", path.name):
            path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------ computing


def trace_part(
    plan: TracePlan,
    part: int,
    work: Path,
    model: Model,
    tokens: Tokens,
    saes: dict[int, SparseAutoencoder],
    settings: TraceSettings,
) -> str | None:
    """Compute one part and write its files; returns None, or why its cells cannot be traced.

    Context and threads are those of the plan; of the settings only what changes speed and memory matters.

    Raises
    ------
    RunError
        If the files cannot be written, or another trace was begun in the folder meanwhile.
    """
    from cellcircuits.tracing import Groups, trace_cells

    chosen, rows = plan.parts[part]
    files = {layer: part_file(work, part, layer) for layer in chosen}
    if all(path.exists() for path in files.values()):
        return None  # an executor may ask twice when a worker is lost
    sources = {layer: np.array(features, dtype=np.int64) for layer, features in chosen.items()}
    targets = {layer: plan.targets[layer] for layer in chosen}
    try:
        with torch_threads(plan.threads):
            found = trace_cells(
                model,
                tokens.take(rows),
                saes,
                sources,
                targets,
                replace(settings, context=plan.context, readouts=plan.readouts),
                Groups(tuple(plan.groups), plan.groups_of(rows)),
                *_directions(plan, sources, saes),
            )
    except CellCircuitsError as error:
        return str(error)
    if read_plan(work) != plan:
        raise RunError(f"The trace in {work} was begun anew by others. Part {part} of the one before is dropped.")
    try:
        for layer, moments in found.items():
            write_atomically(files[layer], lambda partial, m=moments: save_moments(m, partial))  # type: ignore[misc]
    except (OSError, SafetensorError) as error:
        raise RunError(f"Cannot write part {part} into {work}: {error}. Finished parts are kept.") from error
    return None


def _directions(
    plan: TracePlan, sources: dict[int, np.ndarray], saes: dict[int, SparseAutoencoder]
) -> tuple[dict[int, torch.Tensor] | None, tuple[str, ...]]:
    """({source layer: what is removed in place of each source}, names), or None where it is their own directions."""
    from cellcircuits.controls import control_directions, direction_names

    if not plan.has_controls:
        return None, (OWN,)
    vectors, n_matched = {}, 0
    for layer, features in sources.items():
        matched = np.array([plan.matched[layer][int(feature)] for feature in features], dtype=np.int64)
        n_matched = matched.shape[1]
        vectors[layer] = control_directions(saes[layer], layer, features, matched, plan.n_random, plan.seed)
    return vectors, direction_names(plan.n_random, n_matched)


def run_plan(
    plan: TracePlan, work: Path, job: Job, executor: Executor | None, progress: Progress, description: str
) -> dict[int, str]:
    """Have the missing parts computed, by `executor` or in this process; returns {part that cannot be: why}.

    Errors other than that stop the work: what is queued is cancelled, what is finished stays.

    Raises
    ------
    RunError
        If workers of the executor died, or finished parts do not show up in the folder.
    """
    failed: dict[int, str] = {}
    _clear_partial_files(work)
    missing = missing_parts(plan, work)
    with progress.task(description, len(plan.parts)) as advance:
        advance(len(plan.parts) - len(missing))
        for part, reason in _results(work, job, executor, missing):
            if reason is None:
                advance(1)
            else:
                failed[part] = reason
    absent = [part for part in missing_parts(plan, work) if part not in failed]
    if absent:
        raise RunError(
            f"{len(absent)} of {len(plan.parts)} parts were computed, but are not in {work} (first: {absent[0]}). "
            "Workers must see the same folder under the same path. The same command computes what is missing."
        )
    return dict(sorted(failed.items()))


def _results(
    work: Path, job: Job, executor: Executor | None, missing: Iterable[int]
) -> Iterator[tuple[int, str | None]]:
    """(part, what the job returned) of every part, in the order in which they are done."""
    if executor is None:
        yield from ((part, job(str(work), part)) for part in missing)
        return
    left = iter(missing)
    waiting: dict[Future, int] = {}
    try:
        while True:
            for part in islice(left, JOBS_IN_FLIGHT - len(waiting)):
                waiting[executor.submit(job, str(work), part)] = part
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), _result(future)
    except BrokenExecutor as error:
        raise RunError(
            f"A worker process died, perhaps for want of memory ({error}). Finished parts are kept; the same command "
            "goes on."
        ) from error
    finally:
        for future in waiting:
            future.cancel()


def _result(future: Future) -> str | None:
    try:
        return future.result()
    except CancelledError as error:
        raise RunError("The executor gave up its work. Finished parts are kept; the same command goes on.") from error


def merge(plan: TracePlan, work: Path) -> Iterator[tuple[int, int, Moments]]:
    """(source layer, block, sum of its parts) block after block, each added in the order of the plan.

    At most one such sum is in memory, and one array of a part.

    Raises
    ------
    RunError
        If a part is missing or damaged.
    """
    for number, block in enumerate(plan.blocks):
        for layer in block:
            parts = iter(plan.parts_of(number))
            total = load_moments(part_file(work, next(parts), layer))
            for part in parts:
                add_file(total, part_file(work, part, layer))
            yield layer, number, total
            del total  # before the next one is read
