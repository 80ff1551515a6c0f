"""Memory of a trace: what the plan says beforehand, against processes that trace; and that cells do not add to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cellcircuits.model_shape import ModelShape
from cellcircuits.run import Run
from cellcircuits.trace_cost import trace_costs
from tests.made_up import random_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc"),
]
LONG, WIDE = ModelShape(6, 512, 2048, 5000, 2048), ModelShape(4, 1024, 2048, 8000, 1024)
"""Layers, width, feed-forward width, tokens, positions."""
NARROW = ModelShape(4, 256, 512, 5000, 2048)
CHILD = """
import sys
from pathlib import Path
from cellcircuits.pipeline import run_stage
from cellcircuits.plan import interpreter_bytes
from cellcircuits.progress import Progress
from cellcircuits.run import open_folder

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

before = interpreter_bytes()
run_stage(open_folder(sys.argv[1]), "trace", Progress())
print(before, 1024 * kilobytes("VmHWM"))
"""
"""Traces a run; prints its memory before and at the peak. Not ru_maxrss, which a process takes over from its parent."""


def measured(run: Run) -> tuple[int, int]:
    """(bytes before, bytes at the peak) of a process that traces the run."""
    found = subprocess.run([sys.executable, "-c", CHILD, str(run.folder)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    before, peak = map(int, found.stdout.split())
    return before, peak


PLAIN = {"cells_per_part": 1, "random_directions": 0, "matched_features": 0, "source_layers": [0]}
FROZEN = PLAIN | {"context": "frozen", "fidelity_sources": 0}
CASES: dict[str, tuple[ModelShape, int, dict]] = {
    "exact": (LONG, 4, {"source_layers": [2, 4], "n_features": 4}),
    "exact, wide": (WIDE, 4, {"n_features": 12}),
    "frozen, many sources": (LONG, 4, FROZEN | {"n_features": 200}),
    "frozen, with controls": (WIDE, 4, FROZEN | {"n_features": 6, "random_directions": 16, "matched_features": 4}),
    "screen": (WIDE, 8, PLAIN | {"context": "screen", "n_features": 300, "target_layers": [1], "block_megabytes": 400}),
    "everywhere": (NARROW, 8, {"source_layers": [2], "n_features": 16, "readouts": ["source", "target", "other"]}),
    "every feature, in blocks": (
        WIDE,
        1,
        FROZEN | {"select": "all", "block_megabytes": 40, "readouts": ["source"], "target_layers": [1]},
    ),
}
"""{case: (shape, features per dimension, settings)}."""


@pytest.mark.parametrize("name", CASES)
def test_the_plan_knows_the_peak(tmp_path, name):
    shape, expansion, trace = CASES[name]
    length = shape.max_length if name != "every feature, in blocks" else 512
    run = random_run(tmp_path, shape, 1, length, PLAIN | trace, expansion)
    costs = trace_costs(run.settings, shape, np.full(1, length))
    before, peak = measured(run)
    arrays = max(cost.memory_bytes for cost in costs)
    sys.stdout.write(f"{name}: {before / 1e6:.0f} + {arrays / 1e6:.0f} MB predicted, {peak / 1e6:.0f} MB measured\n")
    assert arrays > 2e8
    assert before + arrays == pytest.approx(peak, rel=0.25)


def test_more_cells_take_no_more_memory(tmp_path):
    peaks = []
    for n_cells in (12, 48):
        trace = PLAIN | {"n_features": 3, "readouts": ["source"], "cells_per_part": 2}
        run = random_run(tmp_path / str(n_cells), ModelShape(3, 512, 1024, 5000, 512), n_cells, 512, trace)
        peaks.append(measured(run)[1])
    sys.stdout.write(f"12 and 48 cells: {peaks[0] / 1e6:.0f} and {peaks[1] / 1e6:.0f} MB\n")
    assert peaks[1] < 1.03 * peaks[0]
