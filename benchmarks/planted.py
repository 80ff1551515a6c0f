"""Which rule finds which circuit: edges called in models whose circuit is known, against the truth.

    python benchmarks/planted.py                             every kind, 5 seeds, 200 cells
    python benchmarks/planted.py direct gated --cells 40     some kinds, few cells

Every caller of `CALLERS` turns one traced model into a table of edges; to judge another verdict or another readout, add
a caller. An edge that is called counts as true when source, target and the readout at which it was seen are those of
an edge of the truth table. False-edge rate: called pairs that are no edges, of all such pairs whose source is active in
any cell. Numbers are over all seeds together, in brackets the lowest and the highest of one seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from time import perf_counter
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

import cellcircuits as cc
from cellcircuits.models.planted import KINDS, Planted, planted

PAIR = ["source_layer", "source_feature", "target_layer", "target_feature"]
KEY = [*PAIR, "readout"]
NO_ROLE, FEW_CELLS = "no role", "source in fewer than 20 cells"


class Case(NamedTuple):
    """One planted model, traced."""

    planted: Planted
    moments: list[cc.Moments]
    """Of each source layer."""


class Caller(NamedTuple):
    """A verdict on every pair, by name."""

    name: str
    call: Callable[[Case], pd.DataFrame]
    """Table of called edges with the columns of `KEY` and mean_delta."""


def rule_edges(case: Case, rule: str) -> pd.DataFrame:
    """What `cellcircuits.edges` calls, which reads targets where the source is active."""
    return pd.concat([cc.edges(moments, rule=rule) for moments in case.moments]).assign(readout="source")


CALLERS = [
    Caller("published", partial(rule_edges, rule="published")),
    Caller("calibrated", partial(rule_edges, rule="calibrated")),
]
RATES = {
    "precision": ("true", "called"),
    "recall": ("true", "edges"),
    "signs right": ("sign_right", "true"),
    "false-edge rate": ("false", "non_edges"),
}
"""{column: (counted, of)}."""


def source_layers(case: Planted) -> list[int]:
    """Layer 0, and layer 1 where a circuit has sources there."""
    return sorted({0, *case.truth.source_layer})


def trace_case(kind: str, seed: int, n_cells: int, strength: float) -> Case:
    """Make one model and trace all features of its source layers."""
    made = planted(kind, seed, n_cells, strength)
    moments = []
    for layer in source_layers(made):
        features = range(made.saes[layer].n_features)
        moments.append(cc.trace(made.model, made.cells, made.saes, layer, features, batch_size=len(features)))
    return Case(made, moments)


def all_pairs(case: Case) -> pd.DataFrame:
    """Every pair whose source is active in any cell: the columns of `PAIR`, and n_cells."""
    rows = []
    for moments in case.moments:
        counted = {f: n for f, n in zip(moments.source_features, moments.cells(), strict=True) if n > 0}
        for layer, sums in moments.sums.items():
            targets = range(sums.shape[-1])
            rows += [(moments.source_layer, f, layer, t, n) for f, n in counted.items() for t in targets]
    return pd.DataFrame(rows, columns=[*PAIR, "n_cells"])


def judge(case: Case, caller: Caller) -> pd.DataFrame:
    """One row per pair: readout, kind of its role, is_edge, and what the caller says (called, sign_right)."""
    called = caller.call(case)[[*KEY, "mean_delta"]].assign(called=True)
    pairs = all_pairs(case).merge(case.planted.truth, how="left", on=PAIR)
    # a pair is judged at the readout of its role, and at every other one at which it is called
    table = pairs.fillna({"readout": "source"}).merge(called, how="outer", on=KEY)
    found = {name: table[name].eq(True) for name in ("is_edge", "called")}
    right = found["called"] & (np.sign(table["mean_delta"]) == -table["sign"])
    unnamed = np.where(table["n_cells"] < 20, FEW_CELLS, NO_ROLE)
    return table[["readout"]].assign(**found, kind=table["kind"].fillna(pd.Series(unnamed)), sign_right=right)


def counts(judged: pd.DataFrame) -> dict[str, int]:
    """How many edges there are, were called, are right."""
    edge, called = judged["is_edge"], judged["called"]
    return {
        "edges": int(edge.sum()),
        "called": int(called.sum()),
        "true": int((edge & called).sum()),
        "sign_right": int((edge & judged["sign_right"]).sum()),
        "false": int((called & ~edge).sum()),
        "non_edges": int((~edge).sum()),
    }


def measure(kind: str, seed: int, n_cells: int, strength: float) -> pd.DataFrame:
    """Everything judged of one model by all callers."""
    torch.set_num_threads(1)
    case = trace_case(kind, seed, n_cells, strength)
    return pd.concat([judge(case, caller).assign(model=kind, seed=seed, caller=caller.name) for caller in CALLERS])


def rate(counted: pd.DataFrame, column: str) -> str:
    """One rate over all seeds, and its range; `counted` has one row per seed."""
    part, whole = counted[RATES[column][0]], counted[RATES[column][1]]
    if whole.sum() == 0:
        return "-"
    text = "{:.4f}" if column == "false-edge rate" else "{:.2f}"
    single = (part / whole)[whole > 0]
    low, pooled, high = (text.format(value) for value in (single.min(), part.sum() / whole.sum(), single.max()))
    return pooled if low == high else f"{pooled} ({low} to {high})"


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A Markdown table."""
    columns = list(columns)
    for row in [columns, ["---"] * len(columns), *rows]:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def models_table(judged: pd.DataFrame) -> list[list[object]]:
    """One row per kind of model and caller."""
    rows = []
    for (kind, caller), group in judged.groupby(["model", "caller"], sort=False):
        counted = pd.DataFrame([counts(one) for _, one in group.groupby("seed")])
        false = group.loc[group["called"] & ~group["is_edge"], "kind"].value_counts()
        roles = ", ".join(f"{role} {number:,}" for role, number in false.items()) or "-"
        total = counted.sum()
        rates = [rate(counted, column) for column in RATES]
        rows.append([kind, caller, f"{total['edges']:,}", f"{total['called']:,}", *rates, roles])
    return rows


def roles_table(judged: pd.DataFrame) -> list[list[object]]:
    """One row per role in the truth: share of its pairs that each caller calls, over all models."""
    rows = []
    known = judged[~judged["kind"].isin([NO_ROLE, FEW_CELLS])]
    for (role, readout, edge), group in known.groupby(["kind", "readout", "is_edge"], sort=False):
        by_caller = group.groupby("caller", sort=False)["called"]
        shares = [f"{by_caller.mean()[caller.name]:.3f}" for caller in CALLERS]
        rows.append([role, readout, "yes" if edge else "no", int(by_caller.size().iloc[0]), *shares])
    return sorted(rows, key=lambda row: (row[2] == "no", row[0], row[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=", ".join(KINDS))
    parser.add_argument("--seeds", type=int, default=5, help="models of each kind")
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--strength", type=float, default=2.0, help="mean / sd over cells of planted effects")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    given = parser.parse_args()
    started = perf_counter()
    jobs = [(kind, seed, given.cells, given.strength) for kind in given.kinds for seed in range(given.seeds)]
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        judged = pd.concat(pool.map(measure, *zip(*jobs, strict=True)), ignore_index=True)
    print(f"{given.seeds} seeds, {given.cells} cells, strength {given.strength:g}\n")
    print_table(["model", "caller", "edges", "called", *RATES, "false edges by role"], models_table(judged))
    print("\nShare of pairs called, by role, all models together:\n")
    print_table(["role", "readout", "edge", "pairs", *(caller.name for caller in CALLERS)], roles_table(judged))
    print(f"\n{perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
