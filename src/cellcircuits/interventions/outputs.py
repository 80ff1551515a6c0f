"""What interventions do to the model's output, gene by gene, and to readouts of its last layer; one pass for both.

Of a gene that stands at position p of a cell,

    x = output(gene, p | intervention) - output(gene, p | clean)

and every gene of the cell is looked at: where the source is active at the gene itself its vector reaches the head
directly, elsewhere what changes came through attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cellcircuits.ablate import CleanPass
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.interventions.observations import Observations
from cellcircuits.interventions.own_and_random import by_direction, directions
from cellcircuits.interventions.probes import Readouts
from cellcircuits.tokens import Tokens


class Sums:
    """Sums over the cells in which a source is active, of one kind of target."""

    def __init__(self, n_sources: int, n_conditions: int, n_targets: int) -> None:
        self.n_sources = n_sources
        self.own = Observations(n_sources, n_targets)
        """(source, target), own directions in all cells."""
        self.controls = Observations(n_conditions, n_targets)
        """(condition, target), all directions in the control cells."""

    def add(
        self,
        rows: np.ndarray,
        after: np.ndarray,
        before: np.ndarray,
        is_control: bool,
        targets: np.ndarray | None = None,
    ) -> None:
        """Add one cell: values with the intervention (copy, target) of conditions `rows`, and without (1, target)."""
        x, clean, own = after - before, np.broadcast_to(before, after.shape), rows < self.n_sources
        self.own.add(rows[own], x[own], clean[own], targets)
        if is_control:
            self.controls.add(rows, x, clean, targets)

    @property
    def compared(self) -> list[Observations]:
        """(source, target) in the control cells, of each direction, the own one first."""
        return by_direction(self.controls, self.n_sources)


@dataclass(frozen=True)
class Outputs:
    """What the sources do, and what random directions do in some of the cells."""

    tokens: np.ndarray
    """int64 (gene,): token ids of the genes that any cell has."""
    n_cells: np.ndarray
    """int64 (gene,): cells that have the gene."""
    genes: Sums
    """No cells where the model has no output head."""
    readouts: Sums
    active: np.ndarray
    """int64 (source, gene): cells in which the source is active at the gene."""


def control_cells(inputs: Inputs) -> np.ndarray:
    """bool (cell,): cells in which random directions are tried too, evenly spread."""
    n, chosen = len(inputs.cells), np.zeros(len(inputs.cells), dtype=bool)
    wanted = min(inputs.settings.output_control_cells or n, n)  # 0: all
    chosen[np.linspace(0, n - 1, wanted).round().astype(int)] = True
    return chosen


@torch.no_grad()
def measure_outputs(inputs: Inputs, readouts: Readouts) -> Outputs:
    """Intervene in every cell with the own direction of every source, and with random ones in the control cells."""
    conditions = directions(inputs.sources, inputs.change, inputs.settings.random_directions)
    engine, n_sources = inputs.intervener(inputs.sources), len(inputs.sources)
    cells, is_control, last = inputs.cells, control_cells(inputs), inputs.model.n_layers - 1
    tokens, n_cells = np.unique(cells.ids[cells.gene_mask], return_counts=True)
    genes, read = (Sums(n_sources, len(conditions), n) for n in (len(tokens), len(readouts.names)))
    active = np.zeros((n_sources, len(tokens)), dtype=np.int64)
    with inputs.progress.task("Outputs", len(cells)) as advance:
        for number in range(len(cells)):
            cell, asked = cells.take([number]), conditions if is_control[number] else conditions[:n_sources]
            clean = engine.clean(cell, asked)
            some = np.flatnonzero(engine.positions(clean, asked).any(axis=1))
            here = np.searchsorted(tokens, cell.ids[0, cell.gene_mask[0]])
            own = some[some < n_sources]
            active[np.ix_(own, here)] += active_at(inputs, clean, own)
            before = _look(inputs, readouts, clean.states.hidden[last], cell)
            for changed in engine.run(clean, [asked[row] for row in some], number):
                rows = some[changed.rows]
                outputs, values = _look(inputs, readouts, changed.states, cell)
                if inputs.model.output_name:
                    genes.add(rows, outputs, before[0], is_control[number], here)
                read.add(rows, values, before[1], is_control[number])
            advance(1)
    return Outputs(tokens, n_cells, genes, read, active)


def active_at(inputs: Inputs, clean: CleanPass, sources: np.ndarray) -> np.ndarray:
    """bool (source, gene position): where sources, by their number, are active in the clean pass."""
    genes = torch.from_numpy(clean.states.cell.gene_mask[0])
    chosen = [inputs.sources[source] for source in sources]
    found = np.zeros((len(sources), int(genes.sum())), dtype=bool)
    for layer, features in inputs.by_layer(chosen).items():
        dense = clean.codes[layer].dense(inputs.saes[layer].n_features)[:, features].cpu()
        # sources are in order of layer and feature, so are these
        rows = [row for row, source in enumerate(chosen) if source[0] == layer]
        found[rows] = (dense[genes] > 0).T.numpy()
    return found


def _look(inputs: Inputs, readouts: Readouts, states: torch.Tensor, cell: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Outputs (copy, gene position) and readouts (copy, readout) of states of the last layer."""
    genes = torch.from_numpy(cell.gene_mask[0]).to(states.device)
    outputs = np.zeros((len(states), int(genes.sum())))
    if inputs.model.output_name:
        outputs = inputs.model.gene_outputs(states, cell)[:, genes].double().cpu().numpy()
    embedding = states[:, genes].mean(dim=1).double().cpu().numpy()
    return outputs, readouts.values(embedding, outputs, cell.ids[0, cell.gene_mask[0]])
