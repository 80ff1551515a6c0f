"""What becomes of a cell when one of its genes is perturbed, at all genes but that one.

The cells with and without the perturbation have other positions, so genes are matched by name. Over the genes G that
both have, the perturbed one left out, with state h and activation z of a feature,

    change of a feature    x = mean over G of z(perturbed) - z(clean)
    shift of the cell      1 - cos(u, v),   u, v = mean over G of h of the last layer, clean and perturbed
    change of an output    what the head says of the gene, perturbed - clean, for every gene of G

The shift is what users of in silico perturbation look at. Over G it says how far the other genes moved; over all genes
of each cell (`shift_with_gene`) it also holds that the perturbed gene itself left the mean, or moved.

An ablated feature is looked at over the same G, so that both can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cellcircuits.ablate import CleanPass
from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.gene_edits import Perturbation, join_cells, shared_positions
from cellcircuits.models.base import Model
from cellcircuits.readouts import ROUNDING
from cellcircuits.settings import TraceSettings
from cellcircuits.tokens import Tokens


@dataclass(frozen=True)
class PerturbedCell:
    """One cell with one gene perturbed."""

    gene: int
    """Number of the gene among those asked for."""
    shared: np.ndarray
    """int64 (G,): positions in the clean cell of the genes that are compared."""
    changes: dict[int, np.ndarray]
    """{layer: float64 (feature,)}."""
    clean: dict[int, np.ndarray]
    """{layer: float64 (feature,)}: mean over G in the clean cell."""
    shift: float
    shift_with_gene: float
    outputs: np.ndarray | None
    """float64 (G,): change of the output of each gene; None without a head."""
    clean_outputs: np.ndarray | None
    """float64 (G,)."""


class Perturber:
    """Perturbs genes of cells, several copies of a cell at a time.

    Parameters
    ----------
    saes
        {layer: autoencoder} of the layers that are measured.
    batch_size
        Copies of a cell per pass, at most; changes speed and memory only.
    """

    def __init__(
        self, model: Model, saes: Mapping[int, SparseAutoencoder], kind: Perturbation, batch_size: int
    ) -> None:
        self.model, self.saes, self.kind = model, dict(saes), kind
        self.settings = TraceSettings(batch_size=batch_size)

    @torch.no_grad()
    def perturb(self, clean: CleanPass, tokens: dict[int, int]) -> Iterator[PerturbedCell]:
        """The cell of `clean` with each of the genes `tokens` {number: token} perturbed in turn.

        Left out are those after which no gene is left to compare.
        `clean` has states and codes of the measured layers, and the states of the last.
        """
        cell = clean.states.cell
        edited = [(i, self.model.perturb_gene(cell, token, self.kind)) for i, token in tokens.items()]
        at = {i: shared_positions(cell, other, tokens[i]) for i, other in edited}
        edited = [(i, other) for i, other in edited if len(at[i][0])]
        before = {layer: clean.codes[layer].dense(sae.n_features) for layer, sae in self.saes.items()}
        copies = self.settings.copies_per_pass(cell.ids.shape[1])
        for start in range(0, len(edited), copies):
            part = edited[start : start + copies]
            yield from self._batch(clean, before, [i for i, _ in part], [other for _, other in part], at)

    def _batch(
        self,
        clean: CleanPass,
        before: dict[int, torch.Tensor],
        genes: list[int],
        others: list[Tokens],
        at: dict[int, tuple[np.ndarray, np.ndarray]],
    ) -> Iterator[PerturbedCell]:
        joined, last = join_cells(others), self.model.n_layers - 1
        changes: list[dict[int, np.ndarray]] = [{} for _ in genes]
        means: list[dict[int, np.ndarray]] = [{} for _ in genes]
        for layer, hidden in self.model.run_layers(self.model.embed(joined), joined, 0, last + 1):
            if layer not in self.saes:
                continue
            for copy, gene in enumerate(genes):
                old, new = (torch.from_numpy(part).to(hidden.device) for part in at[gene])
                state, was = hidden[copy, new], before[layer][old]
                moved = changed_means(self.saes[layer], state, was, torch.ones(1, len(state)))
                changes[copy][layer], means[copy][layer] = moved[0], was.double().mean(dim=0).cpu().numpy()
        outputs = self._outputs(clean, hidden, joined)
        for copy, gene in enumerate(genes):
            here, there = at[gene]
            output, before_output = _moved_outputs(outputs, copy, here, there)
            shifts = cell_shifts(
                clean.states.hidden[last][0], clean.states.cell, hidden[copy], others[copy], here, there
            )
            yield PerturbedCell(gene, here, changes[copy], means[copy], *shifts, output, before_output)

    def _outputs(self, clean: CleanPass, hidden: torch.Tensor, joined: Tokens) -> tuple[np.ndarray, np.ndarray] | None:
        """(clean (position,), perturbed (copy, position)) outputs of the head."""
        if not self.model.output_name:
            return None
        before = self.model.gene_outputs(clean.states.hidden[self.model.n_layers - 1], clean.states.cell)[0]
        after = self.model.gene_outputs(hidden, joined)
        return before.double().cpu().numpy(), after.double().cpu().numpy()


def changed_means(
    sae: SparseAutoencoder, states: torch.Tensor, before: torch.Tensor, weights: torch.Tensor
) -> np.ndarray:
    """float64 (group, feature): mean change of the activations over groups of positions.

    A change that arithmetic in another order could make is 0, as in `readouts`.

    Parameters
    ----------
    states
        (position, d_model), changed.
    before
        (position, feature): activations of the clean states.
    weights
        (group, position): 1 for the positions of a group, 0 for others; every group has some.
    """
    share = weights.double().to(states.device)
    share = share / share.sum(dim=1, keepdim=True)
    change = share @ (sae.encode(states).dense(sae.n_features) - before).double()
    squares = share.to(states.dtype) @ states.square()
    rounding = ROUNDING * (squares @ sae.W_enc.square()).sqrt()
    return change.masked_fill(change.abs() <= rounding, 0.0).cpu().numpy()


def cell_shifts(
    clean: torch.Tensor,
    cell: Tokens,
    perturbed: torch.Tensor,
    other: Tokens,
    here: np.ndarray,
    there: np.ndarray,
) -> tuple[float, float]:
    """1 - cosine of mean states (position, d_model) before and after: over shared genes, and over all of each cell."""
    genes = np.flatnonzero(other.gene_mask[0])
    pairs = ((here, there), (np.flatnonzero(cell.gene_mask[0]), genes))
    found = [_shift(clean[torch.from_numpy(a)], perturbed[torch.from_numpy(b)]) for a, b in pairs]
    return found[0], found[1]


def _shift(before: torch.Tensor, after: torch.Tensor) -> float:
    """1 - cosine of the mean rows, as half the squared distance of the unit vectors: exact where it is small."""
    u, v = before.double().mean(dim=0), after.double().mean(dim=0)
    rounding = ROUNDING * before.double().square().mean(dim=0).sum().sqrt()
    if u.norm() == 0 or v.norm() == 0 or (u - v).norm() <= rounding:
        return 0.0
    return float((u / u.norm() - v / v.norm()).square().sum() / 2)


def _moved_outputs(
    outputs: tuple[np.ndarray, np.ndarray] | None, copy: int, here: np.ndarray, there: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    if outputs is None:
        return None, None
    was, now = outputs[0][here], outputs[1][copy, there]
    moved = now - was
    rounding = ROUNDING * np.sqrt(np.mean(was**2))
    return np.where(np.abs(moved) <= rounding, 0.0, moved), was


def clean_layers(layers: Sequence[int], n_layers: int) -> range:
    """Layers of which a clean pass keeps the states: from the lowest measured or changed one to the last."""
    return range(min([*layers, n_layers - 1]), n_layers)
