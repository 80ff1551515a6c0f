"""Which genes are perturbed, and which others of similar expression they are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellcircuits.errors import SettingsError, listed
from cellcircuits.interventions.inputs import Feature, Inputs
from cellcircuits.tokens import Tokens


@dataclass(frozen=True)
class Genes:
    """The perturbed genes, then their controls."""

    tokens: np.ndarray
    """int64 (gene,): token of each."""
    sets: np.ndarray
    """int64 (gene,): number of the perturbed gene that it is, or is a control of."""
    n_perturbed: int
    cells: np.ndarray
    """bool (gene, cell): cells in which it is perturbed."""
    n_cells: np.ndarray
    """int64 (gene,): cells that express it."""
    ranks: np.ndarray
    """float64 (gene,): mean place by expression among the genes of a cell, 0 the most expressed, 1 the least."""
    pairs: tuple[tuple[Feature, int, int], ...]
    """(feature, perturbed gene, its rank among the feature's top genes), in order: what is compared."""

    def members(self, gene: int) -> np.ndarray:
        """int64 (member,): a perturbed gene, then its controls."""
        return np.flatnonzero(self.sets == gene)

    @property
    def is_control(self) -> np.ndarray:
        """bool (gene,)."""
        return np.arange(len(self.tokens)) >= self.n_perturbed


def choose_genes(inputs: Inputs) -> Genes:
    """The genes of the settings, or the best top genes of each source that enough cells have, and their controls.

    Raises
    ------
    SettingsError
        If a named gene is unknown, or in too few cells to be deleted.
    """
    settings, tokens = inputs.settings, inputs.run.cells
    n_cells, ranks = expression(inputs.cells, len(tokens.gene_ids))
    # a gene can be over-expressed in cells that lack it
    fewest = settings.min_cells if settings.perturb_kind == "delete" else 1
    top = _top_genes(inputs)
    perturbed = [_named(tokens, name) for name in settings.perturb_genes]
    if perturbed:
        _check_common(inputs, perturbed, n_cells, fewest)
    else:
        best = [[t for t in genes if n_cells[t] >= fewest][: settings.perturb_top_genes] for genes in top.values()]
        perturbed = [token for tokens_of in best for token in tokens_of]
    chosen = np.array(list(dict.fromkeys(perturbed)), dtype=np.int64)
    excluded = {token for genes in top.values() for token in genes} | set(chosen.tolist())
    allowed = np.array([t for t in np.flatnonzero(n_cells >= fewest) if t not in excluded], dtype=np.int64)
    controls, sets = nearest_controls(n_cells, ranks, chosen, allowed, settings.perturb_controls)
    everyone = np.concatenate([chosen, controls])
    return Genes(
        everyone,
        np.concatenate([np.arange(len(chosen)), sets]),
        len(chosen),
        _cells_of(inputs, everyone),
        n_cells[everyone],
        ranks[everyone],
        _pairs(top, chosen.tolist(), settings.perturb_top_genes),
    )


def _pairs(top: dict[Feature, list[int]], perturbed: list[int], n: int) -> tuple[tuple[Feature, int, int], ...]:
    """Of each source the `n` best of its top genes that are perturbed."""
    pairs = []
    for source, genes in top.items():
        ranked = [(source, perturbed.index(t), rank + 1) for rank, t in enumerate(genes) if t in perturbed]
        pairs.extend(ranked[:n])
    return tuple(pairs)


def _cells_of(inputs: Inputs, tokens: np.ndarray) -> np.ndarray:
    """bool (gene, cell): the first cells that will do, in one random order: genes share as many as can be."""
    cells, settings = inputs.cells, inputs.settings
    able = np.ones((len(tokens), len(cells)), dtype=bool)
    if settings.perturb_kind == "delete":
        own = [cells.ids[row, cells.gene_mask[row]] for row in range(len(cells))]
        able = np.stack([np.isin(tokens, genes) & (len(genes) > 1) for genes in own], axis=1)
    if not settings.perturb_cells:
        return able
    order = np.random.default_rng([settings.seed, 6]).permutation(len(cells))
    place = np.cumsum(able[:, order], axis=1)
    chosen = np.zeros_like(able)
    chosen[:, order] = able[:, order] & (place <= max(settings.perturb_cells, settings.min_cells))
    return chosen


def expression(cells: Tokens, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(cells that have the gene, its mean place by expression from 0 to 1), both (token,); 1 for genes in no cell.

    By value where tokens have values, equal ones in their order; else by position, as rank tokens are ordered.
    """
    counts, places = np.zeros(n_tokens, dtype=np.int64), np.zeros(n_tokens)
    for row in range(len(cells)):
        at = np.flatnonzero(cells.gene_mask[row])
        if cells.values is not None:
            at = at[np.argsort(-cells.values[row, at], kind="stable")]
        counts[cells.ids[row, at]] += 1
        places[cells.ids[row, at]] += np.arange(len(at)) / max(len(at) - 1, 1)
    return counts, np.divide(places, counts, out=np.ones(n_tokens), where=counts > 0)


def nearest_controls(
    n_cells: np.ndarray, ranks: np.ndarray, perturbed: np.ndarray, allowed: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """(token of each control, number of its perturbed gene), ordered by the latter, then by nearness.

    Nearest in log(1 + cells) and mean place, each in units of its standard deviation over the genes of `perturbed` and
    `allowed`. No gene is taken twice: the genes choose in turn, all their first, then all their second.
    """
    level = np.column_stack([np.log1p(n_cells), ranks])
    spread = level[np.concatenate([perturbed, allowed])].std(axis=0) if len(allowed) else np.ones(2)
    level = level / np.where(spread > 0, spread, 1.0)
    distance = ((level[perturbed, None] - level[None, allowed]) ** 2).sum(axis=-1)
    taken: list[tuple[int, int, int]] = []
    for turn in range(n):
        for gene in range(len(perturbed)):
            if len(taken) == len(allowed):
                break
            nearest = int(distance[gene].argmin())
            distance[:, nearest] = np.inf
            taken.append((gene, turn, int(allowed[nearest])))
    taken.sort()
    return np.array([t for *_, t in taken], dtype=np.int64), np.array([g for g, *_ in taken], dtype=np.int64)


def _top_genes(inputs: Inputs) -> dict[Feature, list[int]]:
    """{source: tokens of its top genes, best first}."""
    token_of = {str(name): token for token, name in enumerate(inputs.run.cells.gene_ids) if name}
    table = inputs.run.feature_genes.sort_values("rank", kind="stable")
    of: dict[Feature, pd.DataFrame] = {(int(k[0]), int(k[1])): part for k, part in table.groupby(["layer", "feature"])}
    return {
        source: [token_of[name] for name in (of[source]["gene_id"] if source in of else []) if name in token_of]
        for source in inputs.sources
    }


def _named(tokens: Tokens, name: str) -> int:
    for names in (tokens.gene_symbols, tokens.gene_ids):
        at = np.flatnonzero(names == name)
        if name and len(at):
            return int(at[0])
    raise SettingsError(
        f"`perturb_genes` names {name!r}, which is no gene of the model. Write symbols as the model does, for example "
        f"{listed([s for s in tokens.gene_symbols if s], 3)}, or their ids."
    )


def _check_common(inputs: Inputs, perturbed: list[int], n_cells: np.ndarray, fewest: int) -> None:
    rare = [token for token in perturbed if n_cells[token] < fewest]
    if rare and inputs.settings.perturb_kind == "delete":
        names = [f"{inputs.run.cells.gene_symbols[t]} ({n_cells[t]})" for t in rare]
        raise SettingsError(
            f"Genes of `perturb_genes` are in fewer than min_cells = {fewest} of the {len(inputs.cells)} cells: "
            f"{listed(names)}. Take more cells (n_cells), or name other genes."
        )
