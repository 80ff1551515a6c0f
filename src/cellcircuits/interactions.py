"""Do the top genes of a feature interact more than genes of the same degrees do?

Null: the labels of the network's genes are permuted among genes of similar degree, so that each gene of a list is
replaced by one of about as many partners, within the background, no gene twice. One permutation serves all lists.
p = (1 + permutations with at least as many interactions) / (1 + permutations).

Every list meets `network_draws` permutations. Where few lists are beyond all of them, the smallest p could not survive
Benjamini-Hochberg; those that at most 10 permutations reach then meet more, up to 20 times as many. The test stays
valid: a small p needs both rounds, and with all permutations of both its chance is at most p. Others are of the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from cellcircuits.enrichment import GeneLists
from cellcircuits.networks import Interactions
from cellcircuits.settings import AnnotateSettings
from cellcircuits.stats import benjamini_hochberg

LOOKUPS_PER_BLOCK = 8_000_000
FOLLOWED_UP = 10
"""Lists that so few permutations reach are tested against more of them."""
FOLLOW_UP_FACTOR = 20
"""Most permutations of those lists, in units of network_draws."""


@dataclass(frozen=True)
class _NullCounts:
    """Per list: permutations with at least as many interactions, mean and standard deviation of the number."""

    at_least: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


class InteractionTest:
    """The interactions among genes of a background, ready to test gene lists.

    symbols
        Symbols of the background, (gene,).
    """

    def __init__(self, network: Interactions, symbols: np.ndarray, settings: AnnotateSettings) -> None:
        self.name, self.settings = network.name, settings
        rows: dict[str, int] = {}
        for row, symbol in enumerate(symbols):
            rows.setdefault(str(symbol).upper(), row)
        pairs = [(rows[a], rows[b]) for a, b in network.pairs if a in rows and b in rows]
        ends = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
        degree = np.bincount(ends.ravel(), minlength=len(symbols))
        genes = np.flatnonzero(degree)
        genes = genes[np.argsort(degree[genes], kind="stable")]
        self.n_interactions, self.degrees = len(ends), degree[genes]
        self.place = np.full(len(symbols), -1, dtype=np.int64)
        self.place[genes] = np.arange(len(genes))
        self.bins = degree_bins(self.degrees, settings.degree_bin_genes)
        self.adjacent = _packed(self.place[ends], len(genes))

    def test(self, lists: GeneLists) -> pd.DataFrame:
        """One row per list: the columns of the table `interactions`, without layer and network."""
        place = self.place[lists.genes.indices]
        owner = np.repeat(np.arange(len(lists.features)), lists.sizes)[place >= 0]
        size = np.bincount(owner, minlength=len(lists.features))
        first, second, pairs_of = _pairs(place[place >= 0], size)
        observed = self._count(first[None], second[None], pairs_of)[0]
        rng, few = np.random.default_rng(self.settings.seed), self.settings.network_draws
        null = self._null(first, second, pairs_of, observed, few, rng)
        draws = np.full(len(size), few)
        # the smallest p must be small enough for all lists that are tested together
        rare, enough = null.at_least <= FOLLOWED_UP, self._draws_needed(null.at_least)
        if enough > few:
            chosen = np.repeat(rare, pairs_of)
            more = self._null(first[chosen], second[chosen], pairs_of[rare], observed[rare], enough - few, rng)
            null.at_least[rare] += more.at_least
            draws[rare] = enough
        p = (1 + null.at_least) / (1 + draws)
        columns = {"feature": lists.features, "n_list": lists.sizes, "n_in_network": size, "n_interactions": observed}
        columns |= {"null_mean": null.mean, "null_sd": null.sd, "n_draws": draws}
        return pd.DataFrame({**columns, "p_value": p, "q_value": benjamini_hochberg(p)})

    def _draws_needed(self, at_least: np.ndarray) -> int:
        """Draws with which the smallest p is a tenth of what Benjamini-Hochberg asks of the lists that none reaches."""
        few, n_best = self.settings.network_draws, max(int((at_least == 0).sum()), 1)
        wanted = 10 * len(at_least) / max(self.settings.max_q * n_best, 1e-9)
        return int(np.clip(np.ceil(wanted), few, few * FOLLOW_UP_FACTOR))

    def _null(
        self,
        first: np.ndarray,
        second: np.ndarray,
        pairs_of: np.ndarray,
        observed: np.ndarray,
        draws: int,
        rng: np.random.Generator,
    ) -> _NullCounts:
        """Interactions of every list in so many permutations of the genes within their bins."""
        at_least, total, squares = (np.zeros(len(pairs_of)) for _ in range(3))
        block = max(1, LOOKUPS_PER_BLOCK // max(len(first), len(self.bins), 1))
        for start in range(0, draws if len(first) else 0, block):
            permuted = self._permutations(min(block, draws - start), rng)
            counts = self._count(permuted[:, first], permuted[:, second], pairs_of)
            at_least += (counts >= observed).sum(axis=0)
            total += counts.sum(axis=0)
            squares += (counts.astype(np.float64) ** 2).sum(axis=0)
        if not len(first):
            at_least[:] = draws
        mean = total / draws
        variance = np.maximum(squares / draws - mean**2, 0) * draws / (draws - 1)
        return _NullCounts(at_least, mean, np.sqrt(variance))

    def _permutations(self, draws: int, rng: np.random.Generator) -> np.ndarray:
        """Permutations (draw, gene) of the genes within bins of degree."""
        genes = np.tile(np.arange(len(self.bins), dtype=np.int32), (draws, 1))
        limits = [0, *(np.flatnonzero(np.diff(self.bins)) + 1), len(self.bins)]
        for start, stop in pairwise(limits):
            rng.permuted(genes[:, start:stop], axis=1, out=genes[:, start:stop])
        return genes

    def _count(self, first: np.ndarray, second: np.ndarray, pairs_of: np.ndarray) -> np.ndarray:
        """Interactions of every list, int64 (draw, list), from pairs (draw, pair) sorted by list."""
        byte = self.adjacent.ravel().take(first * self.adjacent.shape[1] + (second >> 3))
        found = (byte >> (7 - (second & 7)).astype(np.uint8)) & 1
        counts = np.zeros((len(first), len(pairs_of)), dtype=np.int64)
        some = np.flatnonzero(pairs_of)
        if len(some):
            starts = (np.cumsum(pairs_of) - pairs_of)[some]
            counts[:, some] = np.add.reduceat(found, starts, axis=1, dtype=np.int64)
        return counts


def degree_bins(degrees: np.ndarray, least: int) -> np.ndarray:
    """Bin of each gene, int64, from ascending degrees: equal degrees share a bin, bins have at least `least` genes.

    The genes of highest degree that are too few for a bin of their own join the bin before.
    """
    starts = np.flatnonzero(np.diff(degrees, prepend=-1))
    edges: list[int] = []
    for start in starts:
        if not edges or start - edges[-1] >= least:
            edges.append(int(start))
    if len(edges) > 1 and len(degrees) - edges[-1] < least:
        edges.pop()
    bins = np.zeros(len(degrees), dtype=np.int64)
    bins[edges[1:]] = 1
    return np.cumsum(bins)


def _packed(ends: np.ndarray, n_genes: int) -> np.ndarray:
    """Adjacency (gene, gene) in bits, eight to a byte: it stays in the cache."""
    both = np.concatenate([ends, ends[:, ::-1]])
    packed = np.zeros((n_genes, (n_genes + 7) // 8), dtype=np.uint8)
    np.bitwise_or.at(packed, (both[:, 0], both[:, 1] >> 3), (128 >> (both[:, 1] & 7)).astype(np.uint8))
    return packed


def _pairs(place: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of members of each list: first, second, and the number of pairs per list (in their order)."""
    start = np.cumsum(size) - size
    firsts, seconds, owners = [], [], []
    for n in np.unique(size[size > 1]):
        lists = np.flatnonzero(size == n)
        members = place[start[lists][:, None] + np.arange(n)]
        one, other = np.triu_indices(n, 1)
        firsts.append(members[:, one].ravel())
        seconds.append(members[:, other].ravel())
        owners.append(np.repeat(lists, len(one)))
    if not firsts:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(len(size), dtype=np.int64)
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return np.concatenate(firsts)[order], np.concatenate(seconds)[order], np.bincount(owner, minlength=len(size))
