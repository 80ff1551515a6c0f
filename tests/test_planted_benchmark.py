"""The benchmark of the rules counts what it says it counts."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from tests.scripts import load_script

pytestmark = pytest.mark.usefixtures("one_thread")


def benchmark() -> ModuleType:
    return load_script("benchmarks/planted.py")


@cache
def traced(kind: str):
    return benchmark().trace_case(kind, seed=0, n_cells=10, strength=2.0)


def as_called(truth: pd.DataFrame) -> pd.DataFrame:
    return truth[benchmark().KEY].assign(mean_delta=-truth["sign"].to_numpy(dtype=float))


def counted(kind: str, called: pd.DataFrame) -> dict[str, int]:
    caller = benchmark().Caller("test", lambda case: called)
    return benchmark().counts(benchmark().judge(traced(kind), caller))


@pytest.mark.parametrize("kind", ["direct", "mixed"])
def test_the_truth_itself_has_no_error(kind):
    truth = traced(kind).planted.truth
    found = counted(kind, as_called(truth[truth.is_edge]))
    assert found["edges"] == found["called"] == found["true"] == found["sign_right"] == truth.is_edge.sum() > 0
    assert found["false"] == 0 and found["non_edges"] > 500


def test_wrong_signs_wrong_readouts_and_wrong_pairs_count_as_such():
    truth = traced("mixed").planted.truth
    edges = as_called(truth[truth.is_edge])
    found = counted("mixed", edges.assign(mean_delta=-edges["mean_delta"]))
    assert found["true"] == len(edges) and found["sign_right"] == 0
    found = counted("mixed", edges.assign(readout=np.where(edges["readout"] == "other", "source", "other")))
    assert found["true"] == 0 and found["false"] == len(edges)
    wrong = as_called(truth[~truth.is_edge])
    found = counted("mixed", pd.concat([edges, wrong]))
    assert found["true"] == len(edges) and found["false"] == len(wrong) > 0


def test_nothing_called_is_nothing_found():
    found = counted("direct", as_called(traced("direct").planted.truth.iloc[:0]))
    assert found["called"] == found["true"] == found["false"] == 0 < found["edges"]


def test_every_caller_judges_every_model(capsys):
    module = benchmark()
    measured = zip(*(module.measure(kind, 0, 25, 2.0, 112) for kind in ("direct", "null_exact")), strict=True)
    judged, controls = (pd.concat(parts, ignore_index=True) for parts in measured)
    rows = module.models_table(judged)
    assert [row[:2] for row in rows] == [[k, c.name] for k in ("direct", "null_exact") for c in module.CALLERS]
    module.print_table(["role", "readout", "edge", "pairs", "published", "calibrated"], module.roles_table(judged))
    assert "| direct | source | yes | 12 |" in capsys.readouterr().out
    made = module.controls_table(controls)
    assert [row[0] for row in made] == ["direct", "null_exact"]
    own = {
        verdict: float(value) for verdict, value in zip(("exist", "specific"), (made[0][5], made[0][8]), strict=True)
    }
    called = judged[judged.called & (judged.model == "direct")].groupby("caller").size()
    assert own == {"exist": called["calibrated"], "specific": called["and specific"]}
    # what persists of a random direction exists wherever it is read, and is not specific
    assert float(made[1][5]) == 0 < 100 < float(made[1][6]) and made[1][9] == "0.00"
