"""One gene of one cell is deleted or over-expressed in what the model reads: in silico perturbation.

    delete        the gene's token is taken out; all genes after it move up, and the cell is one token shorter
    over-express  rank tokens:  the gene's token moves, or is put, to the front of the genes: the highest rank
                  value tokens: the gene gets the largest value of the cell

Special tokens stay where they are (<cls> before the genes, <eos> after them). Where a gene that the cell lacks is put
in and the cell is then longer than the model reads, the last gene drops out (rank tokens), or the one of the smallest
value (value tokens), as their tokenisers leave out what does not fit.

Follows the in silico perturber of Geneformer (Theodoris et al. 2023). scGPT has no value for a gene that is not
expressed: it is not in the input, so deletion is the same there. The bins of the other genes stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from cellcircuits.errors import DataError, SettingsError
from cellcircuits.tokens import Tokens

Perturbation = Literal["delete", "overexpress"]


def delete_gene(cell: Tokens, token_id: int) -> Tokens:
    """The cell without the gene, ids (1, length - 1).

    Raises
    ------
    DataError
        If these are several cells, the cell lacks the gene, or has no other.
    SettingsError
        If the token is no gene.
    """
    cell, at = _found(cell, token_id)
    if not len(at):
        raise DataError(
            f"The cell {cell.obs.index[0]} does not have the gene {_name(cell, token_id)}, so it cannot be deleted. "
            "Take cells that express it."
        )
    if len(at) == cell.gene_mask.sum():
        raise DataError(
            f"The cell {cell.obs.index[0]} has no gene but {_name(cell, token_id)}; nothing would be left to look at. "
            "Take cells with more genes."
        )
    return _without(cell, at)


def overexpress_by_rank(cell: Tokens, token_id: int, longest: int) -> Tokens:
    """The cell with the gene before all others, ids (1, at most `longest`); raises as `delete_gene`, if it has no gene.

    `longest` counts special tokens too; a tokeniser that kept less (`info["longest_input"]`) goes first.
    """
    cell, at = _found(cell, token_id)
    front = _first_gene(cell)
    moved = _with(_without(cell, at) if len(at) else cell, front, token_id)
    longest = min(longest, cell.info.get("longest_input", longest))
    if moved.ids.shape[1] <= max(longest, cell.ids.shape[1]):
        return moved
    return _without(moved, np.flatnonzero(moved.gene_mask[0])[-1:])


def overexpress_by_value(cell: Tokens, token_id: int, longest: int) -> Tokens:
    """The cell with the gene at the largest value of its genes, ids (1, at most `longest`); raises as the others."""
    cell, at = _found(cell, token_id)
    if cell.values is None:
        raise DataError("This model reads an expression value with every gene; these Tokens have no values.")
    front = _first_gene(cell)
    genes = cell.gene_mask[0]
    largest = cell.values[0, genes].max()
    if len(at):
        values = cell.values.copy()
        values[0, at] = largest
        return replace(cell, values=values)
    added = _with(cell, front, token_id, largest)
    longest = min(longest, cell.info.get("longest_input", longest))
    if added.ids.shape[1] <= max(longest, cell.ids.shape[1]):
        return added
    others = np.flatnonzero(added.gene_mask[0] & (added.ids[0] != token_id))
    assert added.values is not None
    # of equal values the last: tokenisers keep the order of the data among them
    smallest = others[len(others) - 1 - np.argmin(added.values[0, others][::-1])]
    return _without(added, np.array([smallest]))


def join_cells(cells: Sequence[Tokens]) -> Tokens:
    """Several cells of one model as one, padded on the right to the longest, ids (cell, position).

    What is known of cells (`obs`) is left out.
    """
    first, width = cells[0], max(cell.ids.shape[1] for cell in cells)

    def joined(arrays: Sequence[np.ndarray], fill: float | bool) -> np.ndarray:
        return np.concatenate(
            [np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=fill) for a in arrays], axis=0
        )

    values = [cell.values for cell in cells if cell.values is not None]
    return Tokens(
        ids=joined([cell.ids for cell in cells], first.pad_id),
        gene_mask=joined([cell.gene_mask for cell in cells], False),
        values=joined(values, 0.0) if values else None,
        pad_id=first.pad_id,
        gene_ids=first.gene_ids,
        gene_symbols=first.gene_symbols,
        info=first.info,
    )


def shared_positions(cell: Tokens, other: Tokens, token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the genes that two cells share, without the gene `token_id`: int64 (gene,) in each.

    Genes are matched by token, in the order of the first cell; a token stands at most once in a cell.
    """
    where = np.full(int(max(cell.ids.max(), other.ids.max())) + 1, -1, dtype=np.int64)
    genes = np.flatnonzero(other.gene_mask[0])
    where[other.ids[0, genes]] = genes
    found = where[cell.ids[0]]
    at = np.flatnonzero(cell.gene_mask[0] & (cell.ids[0] != token_id) & (found >= 0))
    return at, found[at]


def _found(cell: Tokens, token_id: int) -> tuple[Tokens, np.ndarray]:
    """The cell without padding, and the positions of the gene in it."""
    if len(cell) != 1:
        raise DataError(f"A gene is perturbed in one cell at a time; found {len(cell)} cells. Use `cells.take([i])`.")
    no_gene = token_id < 0 or token_id == cell.pad_id or bool((cell.ids[~cell.gene_mask] == token_id).any())
    if len(cell.gene_ids):
        no_gene |= token_id >= len(cell.gene_ids) or cell.gene_ids[token_id] == ""
    if no_gene:
        raise SettingsError(f"Token {token_id} is no gene of this model; name the token of a gene.")
    if cell.has_padding:
        cell = cell.take([0])
    return cell, np.flatnonzero((cell.ids[0] == token_id) & cell.gene_mask[0])


def _first_gene(cell: Tokens) -> int:
    if not cell.gene_mask.any():
        raise DataError(f"The cell {cell.obs.index[0]} has no gene. Take cells that have some.")
    return int(np.argmax(cell.gene_mask[0]))


def _without(cell: Tokens, at: np.ndarray) -> Tokens:
    values = None if cell.values is None else np.delete(cell.values, at, axis=1)
    return replace(
        cell, ids=np.delete(cell.ids, at, axis=1), gene_mask=np.delete(cell.gene_mask, at, axis=1), values=values
    )


def _with(cell: Tokens, at: int, token_id: int, value: float = 0.0) -> Tokens:
    values = None if cell.values is None else np.insert(cell.values, at, value, axis=1)
    return replace(
        cell,
        ids=np.insert(cell.ids, at, token_id, axis=1),
        gene_mask=np.insert(cell.gene_mask, at, True, axis=1),
        values=values,
    )


def _name(cell: Tokens, token_id: int) -> str:
    symbol = cell.gene_symbols[token_id] if token_id < len(cell.gene_symbols) else ""
    return str(symbol) or f"of token {token_id}"
