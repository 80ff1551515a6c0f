"""Genes perturbed, and features changed, in the same cells: sums over cells of both."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.stats import rankdata

from cellcircuits.ablate import CleanPass
from cellcircuits.errors import SettingsError
from cellcircuits.interventions.changes import Condition, condition
from cellcircuits.interventions.engine import Intervener
from cellcircuits.interventions.gene_choice import Genes
from cellcircuits.interventions.inputs import Feature, Inputs
from cellcircuits.interventions.observations import Observations
from cellcircuits.interventions.perturbed_cells import PerturbedCell, Perturber, changed_means, clean_layers


@dataclass(frozen=True)
class Comparison:
    """A feature beside a gene: one of its top genes, or a control of one."""

    source: Feature
    gene: int
    rank: int
    """Among the feature's top genes; 0: a control."""
    pair: int
    """Number of the feature and top gene in `Genes.pairs`."""


@dataclass
class Measured:
    """What was measured in all cells."""

    features: dict[int, Observations]
    """{layer: sums (gene, feature)}."""
    outputs: Observations | None
    """Sums (gene, token of another gene); None without a head."""
    shift: np.ndarray
    """float64 (cell, gene): NaN where the gene was not perturbed; so also the others."""
    shift_with_gene: np.ndarray
    output_change: np.ndarray
    """Mean size of the change over the other genes."""
    comparisons: list[Comparison]
    n_both: np.ndarray = field(init=False)
    """int64 (comparison,): cells in which the gene was perturbed and the feature changed."""
    by_feature: dict[int, np.ndarray] = field(init=False)
    """{layer: float64 (comparison, feature)}: sum over those cells of the change by the feature; 0 up to its layer."""
    by_gene: dict[int, np.ndarray] = field(init=False)
    """The same by the gene."""

    def __post_init__(self) -> None:
        self.n_both = np.zeros(len(self.comparisons), dtype=np.int64)
        shapes = {layer: (len(self.comparisons), sums.n.shape[1]) for layer, sums in self.features.items()}
        self.by_feature, self.by_gene = ({layer: np.zeros(s) for layer, s in shapes.items()} for _ in range(2))

    def correlation(self, row: int) -> tuple[int, float]:
        """(features, rank correlation) of a comparison: over features above the source that either changes."""
        above = [layer for layer in self.features if layer > self.comparisons[row].source[0]]
        if not above:
            return 0, float("nan")
        both = np.stack([np.concatenate([of[k][row] for k in above]) for of in (self.by_feature, self.by_gene)])
        both = both[:, (both != 0).any(axis=0)]
        if both.shape[1] < 3 or (np.ptp(both, axis=1) == 0).any():
            return both.shape[1], float("nan")
        return both.shape[1], float(np.corrcoef(rankdata(both, axis=1))[0, 1])


def measured_layers(inputs: Inputs) -> list[int]:
    """Layers whose features are measured, ascending; raises SettingsError where one has no autoencoder."""
    absent = sorted(set(inputs.settings.perturb_layers) - set(inputs.saes))
    if absent:
        raise SettingsError(
            f"`perturb_layers` names {absent}, which have no autoencoder; choose among {sorted(inputs.saes)}."
        )
    return sorted(set(inputs.settings.perturb_layers or inputs.saes))


def comparisons_of(genes: Genes) -> list[Comparison]:
    """Every pair of a feature and a top gene that is perturbed, then the controls of that gene with the feature."""
    return [
        Comparison(source, int(member), 0 if member != gene else rank, number)
        for number, (source, gene, rank) in enumerate(genes.pairs)
        for member in genes.members(gene)
    ]


def measure(inputs: Inputs, genes: Genes) -> Measured:
    """Perturb all genes, and change the features, in every cell that has them."""
    layers, n_cells, n_genes = measured_layers(inputs), len(inputs.cells), len(genes.tokens)
    saes = {layer: inputs.saes[layer] for layer in layers}
    perturber = Perturber(inputs.model, saes, inputs.settings.perturb_kind, inputs.settings.batch_size)
    shift, with_gene, output_change = (np.full((n_cells, n_genes), np.nan) for _ in range(3))
    found = Measured(
        {layer: Observations(n_genes, sae.n_features) for layer, sae in saes.items()},
        Observations(n_genes, len(inputs.run.cells.gene_ids)) if inputs.model.output_name else None,
        shift,
        with_gene,
        output_change,
        comparisons_of(genes),
    )
    sources = sorted({one.source for one in found.comparisons})
    engine = inputs.intervener(sources)
    conditions = [condition([source], inputs.change) for source in sources]
    kept = clean_layers([*layers, *(source[0] for source in sources)], inputs.model.n_layers)
    with inputs.progress.task("Perturbing genes", n_cells) as advance:
        for number in range(n_cells):
            chosen = {int(gene): int(genes.tokens[gene]) for gene in np.flatnonzero(genes.cells[:, number])}
            if not chosen:
                advance(1)
                continue
            clean = engine.tracer.clean_pass(inputs.cells.take([number]), kept, [inputs.model.n_layers - 1])
            cells = {one.gene: one for one in perturber.perturb(clean, chosen)}
            _add_genes(found, number, clean, cells)
            _add_features(found, number, clean, cells, engine, conditions)
            advance(1)
    return found


def _add_genes(found: Measured, number: int, clean: CleanPass, cells: dict[int, PerturbedCell]) -> None:
    rows = np.array(list(cells), dtype=np.int64)
    if not len(rows):
        return
    for layer, sums in found.features.items():
        changes = np.stack([one.changes[layer] for one in cells.values()])
        sums.add(rows, changes, np.stack([one.clean[layer] for one in cells.values()]))
    for gene, one in cells.items():
        found.shift[number, gene] = one.shift
        found.shift_with_gene[number, gene] = one.shift_with_gene
        if found.outputs is None or one.outputs is None or one.clean_outputs is None:
            continue
        found.output_change[number, gene] = np.abs(one.outputs).mean()
        tokens = clean.states.cell.ids[0, one.shared]
        x, before = (np.full((1, found.outputs.n.shape[1]), np.nan) for _ in range(2))
        x[0, tokens], before[0, tokens] = one.outputs, one.clean_outputs
        found.outputs.add(np.array([gene]), x, before)


def _add_features(
    found: Measured,
    number: int,
    clean: CleanPass,
    cells: dict[int, PerturbedCell],
    engine: Intervener,
    conditions: list[Condition],
) -> None:
    """Change the features in one cell; over the same genes as each perturbation that they are compared with."""
    rows_of: dict[Feature, list[int]] = {}
    for row, one in enumerate(found.comparisons):
        if one.gene in cells:
            rows_of.setdefault(one.source, []).append(row)
    if not rows_of:
        return
    active = np.asarray(engine.positions(clean, conditions).any(axis=1))
    doing = [c for c, some in zip(conditions, active, strict=True) if some and _source(c) in rows_of]
    for changing in doing:
        found.n_both[rows_of[_source(changing)]] += 1
    if not doing or max(found.features) <= min(c.layers[0] for c in doing):
        return
    n_positions = clean.states.cell.ids.shape[1]
    for changed in engine.run(clean, doing, number, list(found.features)):
        sae = engine.saes[changed.layer]
        before = clean.codes[changed.layer].dense(sae.n_features)
        for copy, condition_row in enumerate(changed.rows):
            source = _source(doing[condition_row])
            if changed.layer <= source[0]:
                continue
            rows = rows_of[source]
            weights = torch.zeros(len(rows), n_positions)
            for i, row in enumerate(rows):
                weights[i, torch.from_numpy(cells[found.comparisons[row].gene].shared)] = 1
            found.by_feature[changed.layer][rows] += changed_means(sae, changed.states[copy], before, weights)
            found.by_gene[changed.layer][rows] += np.stack(
                [cells[found.comparisons[row].gene].changes[changed.layer] for row in rows]
            )


def _source(one: Condition) -> Feature:
    return one.layers[0], int(one.of(one.layers[0])[0])
