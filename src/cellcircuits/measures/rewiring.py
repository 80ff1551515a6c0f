"""Random directed graphs in which every node keeps its number of links out and in: the null of shared popularity."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

TRADES_BETWEEN = 8
"""Trades of every source between two draws: a link has then been passed on with a chance of 1 - 2^-8."""

RANDOM_BITS = 24
"""Bits of the random numbers by which links are shuffled; with pairs and links they fit 63 bits."""


def rewired(
    source: np.ndarray, target: np.ndarray, draws: int, rng: np.random.Generator, start: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The sources of the links to `target` in `draws` random graphs, in the order of `target`'s links.

    Every node keeps its numbers of links as a source and as a target, no link occurs twice, and no node is linked to
    itself. `source` and `target` (link,) are whole numbers of nodes; a link from a node to itself raises ValueError.

    The graphs are states of a reversible chain through the given graph, `start` of them before it and the others after
    it (at random, if None). Given graph and draws are therefore exchangeable under the null, and p = (1 + draws at
    least as extreme) / (1 + draws) is exact however fast the chain mixes (Besag & Clifford 1989, the serial method).
    Several graphs that are rewired together need the same `start`.
    """
    if np.any(source == target):
        raise ValueError("A node is linked to itself; leave such links out before rewiring.")
    before = int(rng.integers(draws + 1)) if start is None else start
    names, given = np.unique(source, return_inverse=True)
    for n_draws in (before, draws - before):
        rows, columns = given, target
        for _ in range(n_draws):
            for _ in range(TRADES_BETWEEN):
                rows, columns = _trade(rows, columns, names, rng)
            order = np.argsort(columns, kind="stable")
            yield names[rows[order]], columns[order]


def _trade(
    row: np.ndarray, target: np.ndarray, names: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """All sources are paired at random, and each pair shares out anew the targets that only one of the two has.

    Curveball trades (Strona et al. 2014), all at once (global trades: Carstens, Hamann, Meyer, Penschuck, Tran &
    Wagner 2018). Neither of the two can be given to itself. `row` counts sources, `names` are their nodes.
    """
    n_rows, n_links = len(names), len(row)
    pair = np.empty(n_rows, dtype=np.int64)
    place = rng.permutation(n_rows)
    pair[place] = np.arange(n_rows) // 2
    nodes = np.full(n_rows + n_rows % 2, -1, dtype=np.int64)
    nodes[:n_rows] = names[place]
    partner = nodes.reshape(-1, 2)
    # sorting numbers that carry their place is several times faster than argsort
    bits = max(1, (n_links - 1).bit_length())
    width = int(target.max(initial=0)) + 1
    packed = np.sort((pair[row] * width + target) << bits | np.arange(n_links))
    row, target, key = row[packed & (1 << bits) - 1], target[packed & (1 << bits) - 1], packed >> bits
    both = np.zeros(n_links, dtype=bool)
    both[1:] = key[1:] == key[:-1]
    both[:-1] |= both[1:]
    here = pair[row]
    free = np.flatnonzero(~both & (target != partner[here, 0]) & (target != partner[here, 1]))
    # a random order within each pair; the links are in order of their pairs
    chance = rng.integers(1 << RANDOM_BITS, size=len(free))
    packed = np.sort((here[free] << RANDOM_BITS | chance) << bits | np.arange(len(free)))
    row[free] = row[free[packed & (1 << bits) - 1]]
    return row, target
