"""Time and memory of the catalogue of one layer, and of what fires together in two, from codes on.

The model and the encoder are not in it.

python benchmarks/catalogue.py [--positions 4000000] [--features 4608] [--k 32] [--genes 15000] [--cells 2000]

Codes are made up: genes are as common as in cells (a long tail), each gene has features that it prefers, and a feature
fires on thousands of genes. Printed as Markdown.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.activations import ActivationBatch
from cellcircuits.associations import cell_labels
from cellcircuits.catalogue import _LayerSums, top_genes
from cellcircuits.codes import CodeBatch
from cellcircuits.settings import AnnotateSettings
from cellcircuits.structure.counting import StructureSums, _add


def made_up_batches(shape: argparse.Namespace, rng: np.random.Generator, batch_cells: int = 32) -> Iterator[CodeBatch]:
    """Codes of all cells; half of a position's features are among 64 that its gene prefers."""
    length = shape.positions // shape.cells
    chance = 1 / np.arange(10, shape.genes + 10) ** 0.7
    preferred = rng.integers(shape.features, size=(shape.genes, 64), dtype=np.int32)
    common = (shape.features * rng.random(shape.features) ** 1.5).astype(np.int32)
    for first in range(0, shape.cells, batch_cells):
        cells = np.arange(first, min(first + batch_cells, shape.cells))
        n = len(cells) * length
        genes = rng.choice(shape.genes, n, p=chance / chance.sum())
        features = common[rng.integers(shape.features, size=(n, shape.k))]
        half = shape.k // 2
        features[:, :half] = np.take_along_axis(preferred[genes], rng.integers(64, size=(n, half)), axis=1)
        bounds = np.arange(n + 1) * shape.k
        codes = sp.csr_matrix(
            (1 - rng.random(n * shape.k, dtype=np.float32), features.ravel(), bounds), (n, shape.features)
        )
        yield CodeBatch({0: codes}, ActivationBatch({}, genes, np.repeat(cells, length)))


def count_together(shape: argparse.Namespace) -> None:
    """Print how long co-occurrences within two layers, and correlations between them, take per position."""
    shape = argparse.Namespace(**{**vars(shape), "positions": shape.structure_positions, "cells": 64})
    sums, layers, rng = StructureSums(), (0, 1), np.random.default_rng(1)
    size = shape.features
    for layer in layers:
        sums.firings[layer] = np.zeros(size, dtype=np.int64)
        sums.totals[layer], sums.squares[layer] = np.zeros(size), np.zeros(size)
        sums.together[layer] = np.zeros((size, size), dtype=np.int32)
        sums.sampled[layer] = np.arange(200)
    sums.products[0, 1], sums.permuted[0, 1] = np.zeros((size, size), np.float32), np.zeros((200, size))
    seconds = 0.0
    for one, other in zip(made_up_batches(shape, rng), made_up_batches(shape, rng), strict=True):
        batch = CodeBatch({0: one.codes[0], 1: other.codes[0]}, one.activations)
        start = time.perf_counter()
        _add(sums, batch, layers, {}, rng)
        seconds += time.perf_counter() - start
    rate = seconds / sums.n_positions * 1e6
    print(f"what fires together, two layers and between them: {rate:.0f} s per million positions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structure-positions", type=int, default=128_000)
    for name, default in (("positions", 4_000_000), ("features", 4608), ("k", 32), ("genes", 15_000), ("cells", 2000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    shape = parser.parse_args()
    settings, rng = AnnotateSettings(), np.random.default_rng(0)
    sums, per_token = _LayerSums(shape.features, shape.genes), np.zeros(shape.genes, dtype=np.int64)
    seconds = dict.fromkeys(("sums over positions", "by feature", "top genes", "cell labels"), 0.0)
    for batch in made_up_batches(shape, rng):
        per_token += np.bincount(batch.activations.token_ids, minlength=shape.genes)
        start = time.perf_counter()
        sums.add(batch.codes[0], batch, np.ones(shape.cells, dtype=bool))
        seconds["sums over positions"] += time.perf_counter() - start
    start = time.perf_counter()
    found = sums.finished()
    seconds["by feature"], start = time.perf_counter() - start, time.perf_counter()
    genes = top_genes(found, per_token, settings)
    seconds["top genes"], start = time.perf_counter() - start, time.perf_counter()
    obs = pd.DataFrame({"cell_type": rng.integers(20, size=shape.cells).astype(str)})
    labels = cell_labels(0, found.scores, obs, ["cell_type"], settings.min_label_cells)
    seconds["cell labels"] = time.perf_counter() - start
    print(f"{shape.cells * (shape.positions // shape.cells):,} positions x {shape.features:,} features, k = {shape.k}")
    print("\n| step | seconds |\n|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.1f} |")
    print(f"| all | {sum(seconds.values()):.1f} |\n")
    print(
        f"{found.firings.nnz:,} pairs of feature and gene; {len(genes):,} top genes; {len(labels):,} tests of labels;"
    )
    print(f"{(labels['q_value'] <= 0.05).sum()} labels called at q <= 0.05 of random labels")
    count_together(shape)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
