"""Memory of the catalogue and of structure: what the plan says beforehand, against processes that make them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cellcircuits.annotate_memory import catalogue_bytes, structure_bytes
from cellcircuits.model_shape import PUBLISHED_SHAPES, ModelShape
from cellcircuits.plan import estimate
from cellcircuits.run import Run
from cellcircuits.settings import Settings, settings_from_dict
from tests.made_up import random_run

CHILD = """
import sys
from pathlib import Path
from cellcircuits.opened import open_run
from cellcircuits.pipeline import run_stage
from cellcircuits.plan import interpreter_bytes
from cellcircuits.progress import Progress
from cellcircuits.settings import StructureSettings

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

import leidenalg, igraph, cellcircuits.structure_tables
before, run = interpreter_bytes(), open_run(sys.argv[1])
if sys.argv[2] == "structure":
    # PMI is not asked for where random features fire: no pair, no graph
    cellcircuits.structure_tables.write_structure(run, StructureSettings(min_pmi=9), Progress())
else:
    run_stage(run, sys.argv[2], Progress())
print(before, 1024 * kilobytes("VmHWM"))
"""
"""Makes an artifact of a run; prints its memory before and at the peak."""


def measured(run: Run, stage: str) -> tuple[int, int]:
    """(bytes before, bytes at the peak) of a process that makes the artifact."""
    command = [sys.executable, "-c", CHILD, str(run.folder), stage]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    before, peak = map(int, found.stdout.split())
    return before, peak


WIDE, MANY_GENES = ModelShape(3, 512, 1024, 4000, 512), ModelShape(3, 64, 128, 60_000, 1024)
CASES = {
    "catalogue, wide": ("annotate", WIDE, 14, 8, 32),
    "catalogue, many genes": ("annotate", MANY_GENES, 64, 8, 64),
    "structure": ("structure", WIDE, 6, 4, 32),
}
"""{case: (stage, shape, cells, features per dimension, k)}."""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("name", CASES)
def test_the_plan_knows_the_peak(tmp_path, name):
    stage, shape, n_cells, expansion, k = CASES[name]
    run = random_run(tmp_path, shape, n_cells, shape.max_length, {}, expansion, k)
    lengths = np.full(n_cells, shape.max_length)
    if stage == "structure":
        measured(run, "annotate")
        arrays = structure_bytes(run.settings, shape, lengths)
    else:
        arrays = catalogue_bytes(run.settings, shape, lengths, associated=False)
    before, peak = measured(run, stage)
    sys.stdout.write(f"{name}: {before / 1e6:.0f} + {arrays / 1e6:.0f} MB predicted, {peak / 1e6:.0f} MB measured\n")
    assert arrays > 2e8
    assert before + arrays == pytest.approx(peak, rel=0.25)


def test_what_memory_grows_with():
    shape, lengths = PUBLISHED_SHAPES["V2-316M"], np.full(2000, 2048)
    plain = catalogue_bytes(Settings(), shape, lengths)
    assert catalogue_bytes(Settings(), shape, lengths, associated=False) < plain
    assert catalogue_bytes(Settings(), shape, lengths[:200]) < plain
    beside = settings_from_dict({"annotate": {"baselines": ["pca", "neurons"]}})
    assert plain < catalogue_bytes(beside, shape, lengths) < 3 * plain
    # no more pairs than genes x features, whatever the number of cells
    forever = catalogue_bytes(Settings(), shape, np.full(10**6, 2048), associated=False)
    assert forever < plain + 18 * 20_275 * 4608 * 40
    three_layers = settings_from_dict({"train": {"layers": [0, 1, 2]}})
    assert structure_bytes(three_layers, shape, lengths) < structure_bytes(Settings(), shape, lengths)
    assert structure_bytes(Settings(), shape, lengths) > 4 * 35 * 4608**2


def test_the_plan_says_what_structure_takes():
    shape, lengths = PUBLISHED_SHAPES["V1-10M"], np.full(300, 512)
    costs = {(cost.stage, cost.part): cost for cost in estimate(Settings(), shape, lengths)}
    asked = costs["structure", "if asked"]
    assert asked.passes == 300 and asked.memory_bytes == structure_bytes(Settings(), shape, lengths)
    assert costs["annotate", ""].memory_bytes == catalogue_bytes(Settings(), shape, lengths)
