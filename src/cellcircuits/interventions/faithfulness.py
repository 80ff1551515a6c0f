"""Do circuits carry what the model computes? Only the circuit is kept, or only the circuit is removed.

m is the mean masked-gene loss of some cells. A feature that is not kept is set to its mean over the gene positions of
other cells (masked alike), at every gene position of every layer with an autoencoder; what the autoencoders do not
explain, and positions without a gene, stay.

    faithfulness(C) = (m(nothing kept) - m(C kept)) / (m(nothing kept) - m(intact))
    completeness(C) = (m(C removed)    - m(intact)) / (m(nothing kept) - m(intact))

A circuit of n features are the n with the largest sum of |snr| over their edges. Random circuits have as many features
of the same layers and of similar firing rates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.interventions.changes import Change, Condition, condition
from cellcircuits.interventions.circuits import ENDS, random_circuits, ranked_nodes
from cellcircuits.interventions.engine import Intervener
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.interventions.masked_loss import loss_changes, why_no_loss
from cellcircuits.interventions.reference import measure_reference
from cellcircuits.masking import draw_masks
from cellcircuits.tables import empty_table, make_table

MEAN = Change("mean", positions="all")
KINDS = ("keep", "remove")
ASKED = {
    "keep": "Is a circuit enough for the model's own task?",
    "remove": "Does the model's own task need the circuit?",
}
STATISTIC = {
    "keep": "Faithfulness: share of the loss saved by features that the circuit alone saves (mean over log size)",
    "remove": "Completeness: share of the loss saved by features that is lost without the circuit (mean over log size)",
}
CHANCE = (
    "random circuits: each feature replaced by one of the same layer and a similar firing rate, in the same cells; "
    "p is the rank among them, one-sided"
)
CONFIDENCE = 0.975
"""Of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Losses:
    """What became of the masked-gene loss."""

    sizes: np.ndarray
    """int64 (size,)."""
    intact: np.ndarray
    """float64 (cell,): loss of the undisturbed model."""
    nothing: np.ndarray
    """float64 (cell,): rise of the loss where no feature is kept."""
    circuits: np.ndarray
    """float64 (cell, kind, circuit, size): rise of the loss; circuit 0 is the called one, the others are random."""

    @property
    def carried(self) -> np.ndarray:
        """float64 (cell, kind, circuit, size): loss saved by the circuit alone, and loss without the circuit."""
        return np.stack([self.nothing[:, None, None] - self.circuits[:, 0], self.circuits[:, 1]], axis=1)


def ask(inputs: Inputs) -> Found:
    """Tables `faithfulness` and `circuits_kept`; whether circuits carry more than random ones."""
    nodes = ranked_nodes(inputs.run.edges, sorted(inputs.saes), inputs.sources if inputs.settings.features else ())
    nodes = nodes[: max(inputs.settings.circuit_sizes)]
    why = why_no_loss(inputs.model, inputs.cells)
    if not why and nodes.empty:
        why = (
            "There is no edge to make a circuit of. Trace more sources, call edges by a weaker rule, or name features."
        )
    if why:
        return _nothing(why)
    losses = measure(inputs, nodes)
    kept = nodes.merge(inputs.run.features[[*ENDS, "firing_rate"]], on=ENDS, how="left")
    tables = {"circuits_kept": make_table("circuits_kept", kept.assign(rank=np.arange(1, len(kept) + 1)))}
    n, gap = len(losses.nothing), losses.nothing.mean()
    error = t_distribution.ppf(CONFIDENCE, n - 1) * losses.nothing.std(ddof=1) / np.sqrt(n) if n > 1 else np.inf
    if not gap > error:
        return _nothing(
            f"The loss does not rise when all features are set to their mean (by {gap:.3g} +- {error:.3g}, "
            f"{n} cells), so there is nothing that a circuit could "
            "carry. Raise circuit_cells and n_cells, or train better autoencoders."
        )
    tables["faithfulness"] = _table(losses)
    return Found(tables, [_answer(inputs, losses, kind) for kind in range(len(KINDS))])


def _nothing(why: str) -> Found:
    tables = {name: empty_table(name) for name in ("faithfulness", "circuits_kept")}
    return Found(tables, [untestable("faithfulness", ASKED[kind], STATISTIC[kind], why) for kind in KINDS])


def circuit_sizes(wanted: list[int], n_nodes: int) -> np.ndarray:
    """int64 (size,): the sizes, ascending; those above the number of nodes become that number."""
    return np.unique(np.minimum(wanted, n_nodes))


def measure(inputs: Inputs, nodes: pd.DataFrame) -> Losses:
    """Losses of some cells with the circuits of `nodes`, and with random ones in their place."""
    settings, layers = inputs.settings, sorted(inputs.saes)
    random = random_circuits(nodes, inputs.run.features, settings.circuit_random, (settings.seed, 5))
    circuits = np.concatenate([nodes["feature"].to_numpy()[None], random])
    sizes = circuit_sizes(settings.circuit_sizes, len(nodes))
    conditions = [condition([], MEAN, others=True, layers=layers)]
    for kind in KINDS:
        for circuit in circuits:
            members = list(zip(nodes["layer"].tolist(), circuit.tolist(), strict=True))
            conditions += [_changed(kind, members[:size], layers) for size in sizes]
    cells = inputs.cells
    if 0 < settings.circuit_cells < len(cells):
        rng = np.random.default_rng([settings.seed, 6])
        cells = cells.take(np.sort(rng.choice(len(cells), settings.circuit_cells, replace=False)))
    engine = _engine(inputs)
    with inputs.progress.task("Circuits", len(cells)) as advance:
        masks = draw_masks(cells, settings.masked_share, settings.seed)
        rise, intact = loss_changes(engine, cells, masks, conditions, advance)
    shape = (len(cells), len(KINDS), len(circuits), len(sizes))
    return Losses(sizes, intact, rise[:, 0], rise[:, 1:].reshape(shape))


def _changed(kind: str, members: list[tuple[int, int]], layers: list[int]) -> Condition:
    if kind == "keep":
        return condition(members, MEAN, others=True, layers=layers)
    return condition(members, MEAN)


def _engine(inputs: Inputs) -> Intervener:
    """The engine with the means of all features over reference cells, which are masked as the cells are."""
    settings, cells = inputs.settings, inputs.reference_cells
    masked = inputs.model.mask(cells, draw_masks(cells, settings.masked_share, settings.seed))
    nobody = {layer: np.zeros(0, dtype=np.int64) for layer in inputs.saes}
    with inputs.progress.task("Means in other cells", len(cells)) as advance:
        references = measure_reference(inputs.model, masked, inputs.saes, nobody, advance)
    return Intervener(inputs.model, inputs.saes, references, settings.batch_size, settings.seed)


def ratio_of_means(top: np.ndarray, bottom: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ratio, low, high), (...): R = mean of `top` (cell, ...) / mean of `bottom` (cell,), and its 95 % interval.

    R +- t sd(top - R bottom) / (sqrt(n) mean of bottom): linear in both, as for ratio estimators of samples; cells are
    paired, and t has n - 1 degrees of freedom.
    """
    n, bottom = len(top), bottom.reshape(-1, *[1] * (top.ndim - 1))
    ratio = top.mean(axis=0) / bottom.mean()
    error = t_distribution.ppf(CONFIDENCE, n - 1) * (top - ratio * bottom).std(axis=0, ddof=1)
    error = error / (np.sqrt(n) * abs(bottom.mean()))
    return ratio, ratio - error, ratio + error


def over_log_size(sizes: np.ndarray) -> np.ndarray:
    """Weights (size,) of the mean over log size: the trapezoid rule / length; of one size, 1."""
    if len(sizes) == 1:
        return np.ones(1)
    step = np.diff(np.log(sizes))
    return (np.append(step, 0) + np.append(0, step)) / (2 * step.sum())


def rank_p(own: np.ndarray, random: np.ndarray) -> np.ndarray:
    """(1 + number of random >= own) / (1 + K), for `own` (...) and `random` (circuit, ...): never below 1 / (1 + K).

    Nothing is assumed of their distribution, which has jumps: a feature that much depends on is in a circuit or not.
    """
    # equal circuits differ by rounding
    as_large = random >= own - 1e-9 * np.maximum(np.abs(own), 1)
    return (1 + as_large.sum(axis=0)) / (1 + len(random))


def _table(losses: Losses) -> pd.DataFrame:
    share, low, high = ratio_of_means(losses.carried, losses.nothing)
    random, intact = share[:, 1:], losses.intact.mean()
    kind, size = (part.ravel() for part in np.indices(share[:, 0].shape))
    values = {
        "kind": np.array(KINDS)[kind],
        "size": losses.sizes[size],
        "n_cells": len(losses.intact),
        "loss": intact + losses.circuits[:, :, 0].mean(axis=0).ravel(),
        "loss_intact": intact,
        "loss_nothing": intact + losses.nothing.mean(),
        "share": share[:, 0].ravel(),
        "low": low[:, 0].ravel(),
        "high": high[:, 0].ravel(),
        "random_mean": random.mean(axis=1).ravel(),
        "random_low": random.min(axis=1).ravel(),
        "random_high": random.max(axis=1).ravel(),
        "n_random": random.shape[1],
        "p_value": rank_p(share[:, 0], random.swapaxes(0, 1)).ravel(),
    }
    return make_table("faithfulness", pd.DataFrame(values))


def _answer(inputs: Inputs, losses: Losses, kind: int) -> Answer:
    carried = losses.carried[:, kind] @ over_log_size(losses.sizes)
    area, low, high = ratio_of_means(carried, losses.nothing)
    intact, least, most = losses.intact.mean(), losses.sizes[0], losses.sizes[-1]
    sizes = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    p, n = float(rank_p(area[0], area[1:])), len(area) - 1
    best = f"None of {n} random circuits carries as much; more of them (circuit_random) could give a smaller p. "
    return Answer(
        "faithfulness",
        ASKED[KINDS[kind]],
        STATISTIC[KINDS[kind]],
        float(area[0]),
        float(area[1:].mean()),
        CHANCE,
        float(low[0]),
        float(high[0]),
        p_value=p,
        unit="share",
        note=f"Circuits of {sizes} features, {len(losses.intact):,} cells, {inputs.settings.masked_share:.0%} of genes "
        f"hidden; loss {intact:.4g} intact, {intact + losses.nothing.mean():.4g} with no feature kept, in layers "
        f"{', '.join(map(str, sorted(inputs.saes)))}. {best if p * (n + 1) < 1.5 else ''}What the autoencoders do not "
        "explain is always kept.",
    )
