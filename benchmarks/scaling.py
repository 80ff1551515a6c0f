"""How the cost of a trace grows, beside what `cellcircuits plan` says; and a slice of V2-316M.

    python benchmarks/scaling.py          curves: prints a table, writes docs/images/scaling.png
    python benchmarks/scaling.py slice    some features of one layer of the V2-316M shape, frozen

Models and autoencoders have random weights. Predicted seconds are the plan's operations divided by the rate of a matrix
product, measured beside each point.
"""

import argparse
import cProfile
import pstats
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time

import numpy as np
import torch
from matplotlib import pyplot as plt

import cellcircuits as cc
from cellcircuits.autoencoders import TopKSAE
from cellcircuits.model_shape import ModelShape
from cellcircuits.plan import matmul_rate
from cellcircuits.settings import Readout, TraceSettings
from cellcircuits.trace_work import Work
from cellcircuits.tracing import trace_cells
from tracing import random_model, random_saes

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "scaling.png"
K, HEADS, LONGEST = 32, 4, 2048
CONTEXTS = ("exact", "frozen")


@dataclass(frozen=True)
class Point:
    """One trace: of features of one layer, the `above` layers over it measured."""

    n_cells: int = 2
    n_features: int = 32
    above: int = 3
    length: int = 512


CURVES = {
    "n_cells": ("cells", (1, 2, 4, 8)),
    "n_features": ("source features", (8, 16, 32, 64, 128)),
    "above": ("layers above the source", (1, 2, 3, 4, 5)),
    "length": ("tokens per cell", (128, 256, 512, 1024, 2048)),
}
"""{field of `Point`: (label, values)}; the other fields stay as they are."""


@dataclass(frozen=True)
class Machinery:
    """A model, cells, and autoencoders."""

    model: cc.Model
    cells: cc.Tokens
    saes: dict[int, TopKSAE]
    readouts: list[Readout]

    def work(self, point: Point, context: str, n_sources: int) -> Work:
        """What the plan takes a trace for."""
        sae, block = self.saes[0], self.model.blocks[0]
        d_feedforward = block.linear1.out_features
        source = self.model.n_layers - 1 - point.above
        return Work(
            shape=ModelShape(self.model.n_layers, self.model.d_model, d_feedforward, 5000, self.model.max_length),
            lengths=np.full(point.n_cells, point.length),
            sources={source: n_sources},
            targets={source: list(range(source + 1, self.model.n_layers))},
            n_features=sae.n_features,
            share=sae.k / sae.n_features,
            frozen=context == "frozen",
            readouts=self.readouts,
            block_megabytes=TraceSettings.block_megabytes,
        )

    def shortened(self, point: Point) -> cc.Tokens:
        """The first cells, cut to the point's length."""
        return cc.Tokens.from_ids(self.cells.ids[: point.n_cells, : point.length])

    def seconds(self, point: Point, context: str) -> tuple[float, float]:
        """(measured, predicted) seconds of one thread."""
        settings = TraceSettings(context=context, readouts=self.readouts)
        source = self.model.n_layers - 1 - point.above
        features = np.sort(np.random.default_rng(0).choice(self.saes[0].n_features, point.n_features, replace=False))
        targets = {source: list(range(source + 1, self.model.n_layers))}
        started = process_time()
        trace_cells(self.model, self.shortened(point), self.saes, {source: features}, targets, settings)
        measured = process_time() - started
        return measured, self.work(point, context, point.n_features).operations() / matmul_rate()


def modest() -> Machinery:
    """6 layers of width 256, 1,024 features per layer."""
    model, cells = random_model(6, 256, HEADS, 1024, LONGEST)
    return Machinery(model, cells, random_saes(model, cells, K), list(TraceSettings().readouts))


def curves(machinery: Machinery) -> dict[str, list[tuple[int, dict[str, tuple[float, float]]]]]:
    """{field: [(value, {context: (measured, predicted)})]}; each point is the faster of two."""
    found: dict[str, list[tuple[int, dict[str, tuple[float, float]]]]] = {}
    for name, (_, values) in CURVES.items():
        found[name] = []
        for value in values:
            point = replace(Point(), **{name: value})
            pairs = {c: min(machinery.seconds(point, c) for _ in range(2)) for c in CONTEXTS}
            found[name].append((value, pairs))
    return found


def print_table(found: dict) -> None:
    """One row per point."""
    print("| | | exact s | predicted | share | frozen s | predicted | share |")
    print("|---|---|---|---|---|---|---|---|")
    for name, rows in found.items():
        for value, pairs in rows:
            cells = [f"{m:.2f} | {p:.2f} | {p / m:.2f}" for m, p in (pairs[context] for context in CONTEXTS)]
            print(f"| {CURVES[name][0]} | {value:,} | {' | '.join(cells)} |")


def draw(found: dict) -> None:
    """The curves, on logarithmic axes."""
    figure, panels = plt.subplots(1, len(found), figsize=(11, 3), sharey=True, layout="constrained")
    for panel, (name, rows) in zip(panels, found.items(), strict=True):
        values = [value for value, _ in rows]
        for context, colour in zip(CONTEXTS, ("C0", "C1"), strict=True):
            measured, predicted = zip(*(pairs[context] for _, pairs in rows), strict=True)
            panel.loglog(values, measured, "o", color=colour, label=f"{context}, measured")
            panel.loglog(values, predicted, "--", color=colour, label=f"{context}, operations / rate")
        panel.set_xlabel(f"{CURVES[name][0]} (number)")
        panel.set_xticks(values, [f"{value:,}" for value in values])
        panel.minorticks_off()
    panels[0].set_ylabel("time of one thread (s)")
    panels[0].legend(fontsize=7)
    figure.savefig(PICTURE, dpi=110)


def measure_slice(n_features: int, length: int, source: int) -> None:
    """A frozen trace of the V2-316M shape: some features of one layer in one cell."""
    model, cells = random_model(18, 1152, 18, 4608, length)
    machinery = Machinery(model, cells, random_saes(model, cells, K), ["source"])
    point = Point(1, n_features, model.n_layers - 1 - source, length)
    nothing, _ = machinery.seconds(replace(point, n_features=1), "frozen")  # the clean pass; the first run is slow
    nothing, alone = min(machinery.seconds(replace(point, n_features=1), "frozen") for _ in range(2))
    profile = cProfile.Profile()
    profile.enable()
    seconds, predicted = machinery.seconds(point, "frozen")
    profile.disable()
    spent = pstats.Stats(profile).get_stats_profile().func_profiles
    print(
        f"{n_features} features of layer {source}, one cell of {length:,} tokens: {seconds:.2f} s, of which the clean"
    )
    print(f"pass {nothing:.2f} s; operations / rate: {predicted:.2f} s, of which the clean pass {alone:.2f} s")
    print(f"share of the rate: whole {predicted / seconds:.2f}, copies {(predicted - alone) / (seconds - nothing):.2f}")
    print(f"adding to the sums: {spent['_accumulate'].cumtime:.2f} s, measuring: {spent['measure'].cumtime:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("curves", "slice"), default="curves")
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--source", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"matrix product: {matmul_rate() / 1e9:.0f} G operations per second, one thread")
    if given.what == "slice":
        measure_slice(given.features, given.length, given.source)
    else:
        found = curves(modest())
        print_table(found)
        draw(found)
