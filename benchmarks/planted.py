"""Which rule finds which circuit: edges called in models whose circuit is known, against the truth.

    python benchmarks/planted.py                             every kind, 5 seeds, 200 cells
    python benchmarks/planted.py direct gated --cells 40     some kinds, few cells
    python benchmarks/planted.py null_random --seeds 40 --directions 0     without controls, and much faster

Every caller of `CALLERS` turns one traced model into a table of edges; to judge another verdict or another readout, add
a caller. An edge that is called counts as true when source, target and the readout at which it was seen are those of
an edge of the truth table. False-edge rate: called pairs that are no edges, of all such pairs whose source is active in
any cell. Numbers are over all seeds together, in brackets the lowest and the highest of one seed. The last table says
what the same rules call when control directions are taken out in the place of the sources: all of it is false.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import cellcircuits as cc
from cellcircuits.control_table import control_counts
from cellcircuits.models.planted import KINDS, Planted, planted
from cellcircuits.settings import EdgesSettings
from cellcircuits.specificity import FEWEST_DIRECTIONS

PAIR = ["source_layer", "source_feature", "target_layer", "target_feature"]
KEY = [*PAIR, "readout"]
READOUTS = ["source", "pre", "computed"]
N_RANDOM = 16
DIRECTIONS = ("own", "random", "feature")
NO_ROLE, FEW_CELLS = "no role", "source in fewer than 20 cells"


class Case(NamedTuple):
    """One planted model, traced."""

    planted: Planted
    controls: list[cc.Moments]
    """Of each source layer: its features' own directions and random ones."""

    @property
    def moments(self) -> list[cc.Moments]:
        """Of each source layer."""
        return [controls.of_direction(0) for controls in self.controls]


class Caller(NamedTuple):
    """A verdict on every pair, by name."""

    name: str
    call: Callable[[Case], pd.DataFrame]
    """Table of called edges with the columns of `KEY` and mean_delta."""


def rule_edges(case: Case, rule: str, readouts: Sequence[str] = ("source",), **changes: Any) -> pd.DataFrame:
    """What `cellcircuits.edges` calls at any of the readouts."""
    found = []
    for moments, controls in zip(case.moments, case.controls, strict=True):
        for readout in set(readouts) & set(moments.readouts):
            edges = cc.edges(moments, controls=controls, rule=rule, readout=readout, **changes)
            found.append(edges.assign(readout=readout))
    return pd.concat(found)


def computed_sign(case: Case) -> pd.DataFrame:
    """The specific edges at both readouts; where something is computed at the source, the sign is that of this part."""
    found = rule_edges(case, "calibrated", ("source", "other"), require_specific=True)
    return found.assign(mean_delta=found["mean_delta"].where(found["readout"] == "other", found["computed_delta"]))


CALLERS = [
    Caller("published", partial(rule_edges, rule="published")),
    Caller("calibrated", partial(rule_edges, rule="calibrated")),
    Caller("calibrated, also elsewhere", partial(rule_edges, rule="calibrated", readouts=("source", "other"))),
    Caller("and specific", computed_sign),
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


def trace_case(kind: str, seed: int, n_cells: int, strength: float, n_random: int = N_RANDOM, **changes: Any) -> Case:
    """Make one model and trace all features of its source layers, and control directions in their place.

    Where an attention head carries something, exactly and with what happens elsewhere.
    """
    made = planted(kind, seed, n_cells, strength, **changes)
    how = ("exact", [*READOUTS, "other"]) if KINDS[kind].relays else ("frozen", READOUTS)
    given = partial(cc.trace_controls, made.model, made.cells, made.saes, n_random=n_random, seed=seed)
    controls = []
    for layer in source_layers(made):
        features = np.arange(made.saes[layer].n_features)
        matched = np.stack([np.roll(features, shift) for shift in (1, 2)], axis=1)[:, : 2 * (n_random > 0)]
        controls.append(given(layer, features, matched=matched, context=how[0], readouts=how[1]))
    return Case(made, controls)


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


def callers(n_random: int) -> list[Caller]:
    """The callers that so many random directions allow."""
    return CALLERS if n_random > FEWEST_DIRECTIONS else CALLERS[:-1]


def measure(
    kind: str, seed: int, n_cells: int, strength: float, d_model: int, n_random: int = N_RANDOM
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Everything judged of one model by all callers, and what its control directions make."""
    torch.set_num_threads(1)
    case = trace_case(kind, seed, n_cells, strength, n_random, d_model=d_model)
    judged = [judge(case, c).assign(model=kind, seed=seed, caller=c.name) for c in callers(n_random)]
    counted = pd.concat([control_counts(controls, EdgesSettings()) for controls in case.controls])
    return pd.concat(judged), counted.assign(model=kind, seed=seed)


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
        shares = [f"{share:.3f}" for share in by_caller.mean()]
        rows.append([role, readout, "yes" if edge else "no", int(by_caller.size().iloc[0]), *shares])
    return sorted(rows, key=lambda row: (row[2] == "no", row[0], row[1]))


def controls_table(counted: pd.DataFrame) -> list[list[object]]:
    """One row per kind of model: edges of its sources and of a control direction in their place, mean over seeds."""
    rows = []
    verdicts = ["edges_published", "edges_exist", "edges_specific"]
    for kind, group in counted.groupby("model", sort=False):
        by_direction = group.groupby("direction")[["n_tested", *verdicts]].mean()
        edges = [f"{by_direction[name].get(direction, np.nan):,.2f}" for name in verdicts for direction in DIRECTIONS]
        rows.append([kind, f"{by_direction['n_tested'].iloc[0]:,.0f}", *edges])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=", ".join(KINDS))
    parser.add_argument("--seeds", type=int, default=5, help="models of each kind")
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--strength", type=float, default=2.0, help="mean / sd over cells of planted effects")
    parser.add_argument("--width", type=int, default=256, help="d_model")
    parser.add_argument(
        "--directions", type=int, default=N_RANDOM, help="random directions in the place of each source"
    )
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    given = parser.parse_args()
    started = perf_counter()
    how = given.cells, given.strength, given.width, given.directions
    jobs = [(kind, seed, *how) for kind in given.kinds for seed in range(given.seeds)]
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        measured = zip(*pool.map(measure, *zip(*jobs, strict=True)), strict=True)
        judged, controls = (pd.concat(parts, ignore_index=True) for parts in measured)
    print(f"{given.seeds} seeds, {given.cells} cells, strength {given.strength:g}, width {given.width}\n")
    print_table(["model", "caller", "edges", "called", *RATES, "false edges by role"], models_table(judged))
    print("\nShare of pairs called, by role, all models together:\n")
    names = [caller.name for caller in callers(given.directions)]
    print_table(["role", "readout", "edge", "pairs", *names], roles_table(judged))
    print("\nPairs called for the sources, and for a random direction or another feature's in their place (means):\n")
    columns = [f"{rule}, {whose}" for rule in ("published", "calibrated", "and specific") for whose in DIRECTIONS]
    print_table(["model", "tested", *columns], controls_table(controls))
    print(f"\n{perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
