"""Attribution against removing every feature: how much faster the screen is, and what it finds.

    python benchmarks/attribution.py                         every shape
    python benchmarks/attribution.py demo-scgpt V1-10M@512   some

For each shape, a target of the highest layer and all features of all layers below: seconds of the screen (one forward
and one backward pass of a cell), and of the removal of all features that are active in the cell, taken from a random
slice of every layer; then how well attribution foretells the effects in the slice, in the same cells. Models of
published shape have random weights: their speed is that of the real ones, their recall is not.
"""

import argparse

import numpy as np
import torch

from cellcircuits.interventions.changes import condition
from cellcircuits.interventions.engine import Intervener
from cellcircuits.interventions.gradients import CellAttribution, attribute
from cellcircuits.interventions.screen_accuracy import TOP_SHARE, among_largest, pearson, rank_correlation
from cellcircuits.interventions.targets import FeatureTarget
from tracing import SHAPES, prepare, print_row, timed

COLUMNS = ["shape", "cells x positions", "features of a cell", "screen s / cell", "removal s / feature"]
COLUMNS += ["removing all / screen", "recall of the largest tenth", "rank correlation", "Pearson"]


def common_target(cells, saes, model) -> FeatureTarget:
    """The feature of the highest layer that is active at the number of positions nearest to a tenth of all genes."""
    top = max(saes)
    counts, n_genes = torch.zeros(saes[top].n_features), 0
    for row in range(len(cells)):
        cell = cells.take([row])
        state = list(model.run_layers(model.embed(cell), cell, 0, top + 1))[-1][1]
        genes = torch.from_numpy(cell.gene_mask[0])
        counts += (saes[top].encode(state[0]).dense(saes[top].n_features)[genes] > 0).sum(dim=0)
        n_genes += int(genes.sum())
    return FeatureTarget(top, int((counts - 0.1 * n_genes).abs().argmin()), saes[top])


def chosen_features(found: CellAttribution, n_features: int, rng) -> list[tuple[int, int]]:
    """Random features that are active in the cell, as many of every layer."""
    chosen = []
    for layer, values in found.attribution.items():
        active = np.flatnonzero(np.isfinite(values))
        size = min(len(active), n_features // len(found.attribution))
        chosen += [(layer, int(feature)) for feature in np.sort(rng.choice(active, size, replace=False))]
    return chosen


def remove(engine: Intervener, cell, target: FeatureTarget, features: list[tuple[int, int]]) -> np.ndarray:
    """Change of the target by the removal of each feature in one cell."""
    conditions = [condition([feature]) for feature in features]
    clean = engine.clean(cell, conditions)
    was, effects = clean.states.hidden[target.top], np.zeros(len(features))
    at = target.where(cell, was)
    for changed in engine.run(clean, conditions, 0, [target.top]):
        effects[changed.rows] = target.change(changed.states, was, cell, at).cpu().numpy()
    return effects


def measure(name: str, n_cells: int, n_features: int) -> None:
    """Print the row of one shape."""
    model, cells, saes, _ = prepare(name, n_cells)
    target, rng = common_target(cells, saes, model), np.random.default_rng(0)
    layers, engine = target.layers(saes), Intervener(model, saes)
    attribute(model, saes, cells.take([0]), target, layers)  # the first pass also pays for memory
    screen, removal, active, guess, truth = [], [], [], [], []
    for row in range(n_cells):
        cell = cells.take([row])
        seconds, found = timed(lambda cell=cell: attribute(model, saes, cell, target, layers))
        if found is None:
            continue
        features = chosen_features(found, n_features, rng)
        screen.append(seconds)
        seconds, effects = timed(lambda cell=cell, features=features: remove(engine, cell, target, features))
        removal.append(seconds / len(features))
        active.append(sum(int(np.isfinite(values).sum()) for values in found.attribution.values()))
        guess += [found.attribution[layer][feature] for layer, feature in features]
        truth += effects.tolist()
    guesses, truths = np.array(guess), np.array(truth)
    n = max(1, round(TOP_SHARE * len(truths)))
    recall = among_largest(np.abs(guesses), n) @ among_largest(np.abs(truths), n) / n
    print_row(
        name,
        f"{len(screen)} x {cells.lengths.mean():.0f}",
        f"{np.mean(active):,.0f}",
        f"{np.mean(screen):.3f}",
        f"{np.mean(removal):.4f}",
        f"{np.mean(active) * np.mean(removal) / np.mean(screen):,.0f}",
        f"{recall:.0%} of {n}",
        f"{rank_correlation(guesses, truths):.3f}",
        f"{pearson(guesses, truths):.3f}",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ["demo-geneformer", "demo-scgpt", "V1-10M@512", "V1-10M@2048"]
    parser.add_argument("shapes", nargs="*", default=default, help=", ".join(SHAPES))
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--features", type=int, default=60, help="features that are removed in each cell")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print_row(*COLUMNS)
    print_row(*["---"] * len(COLUMNS))
    for shape in given.shapes:
        measure(shape, given.cells, given.features)
