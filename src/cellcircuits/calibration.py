"""How often do random gene lists mean something? The false annotation rate beside every annotation rate.

Random lists have the sizes of the real ones and go through the same tests. They are judged twice: on their own, by the
same procedure, and by the cut in p to which the real lists led. The second is the harder question. Benjamini-Hochberg
controls the share of false pairs among all pairs called, and where many true pairs are, the cut is generous to each
list. Lists are drawn twice as well: every gene of the background alike, and genes as common as on the real lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import scipy.sparse as sp

from cellcircuits.enrichment import GeneLists
from cellcircuits.settings import AnnotateSettings

DRAWS_PER_BLOCK = 500


@dataclass(frozen=True)
class Called:
    """Which tests of a set of gene lists are called."""

    n_lists: int
    list: np.ndarray
    """int64 (call,): the list."""
    test: np.ndarray
    """int64 (call,): what was found in it, the column of the gene set; 0 where there is one test per list."""

    def count(self, chosen: np.ndarray) -> int:
        """Lists with any call among the chosen tests, bool (test,)."""
        return len(np.unique(self.list[chosen[self.test]]))

    def share(self, chosen: np.ndarray) -> float:
        """Their share of all lists; 0 without lists."""
        return self.count(chosen) / self.n_lists if self.n_lists else 0.0


@dataclass(frozen=True)
class NullLists:
    """Random gene lists."""

    uniform: GeneLists
    """Any gene of the background is as likely as any other."""
    listed: GeneLists
    """A gene is as likely as it is common on the real lists."""


def null_lists(lists: GeneLists, settings: AnnotateSettings) -> NullLists:
    """`null_draws` random lists of either kind, with sizes drawn from those of the real lists."""
    rng = np.random.default_rng(settings.seed)
    n_genes = lists.genes.shape[1]
    popularity = np.asarray(lists.genes.sum(axis=0), dtype=np.float64).ravel()
    sizes = rng.choice(lists.sizes, settings.null_draws) if len(lists.sizes) else np.zeros(0, dtype=np.int64)
    return NullLists(random_lists(sizes, np.ones(n_genes), rng), random_lists(sizes, popularity, rng))


def random_lists(sizes: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> GeneLists:
    """Lists of these sizes; genes (gene,) are drawn in proportion to their weights, each at most once per list.

    Drawing one after the other without replacement is the same as taking the largest log weight + Gumbel noise.
    """
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    chosen = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(sizes), DRAWS_PER_BLOCK):
        block = sizes[start : start + DRAWS_PER_BLOCK]
        keys = log_weights + rng.gumbel(size=(len(block), len(weights)))
        order = np.argsort(-keys, axis=1)[:, : int(block.max())]
        chosen.append(order[np.arange(order.shape[1]) < block[:, None]])
    genes = np.concatenate(chosen).astype(np.int64)
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    matrix = sp.csr_matrix((np.ones(len(genes), dtype=np.int32), genes, indptr), (len(sizes), len(weights)))
    matrix.sort_indices()
    return GeneLists(np.arange(len(sizes)), matrix)


Tests = TypeVar("Tests")


def rates(
    kind: str,
    tests_of: dict[str, np.ndarray],
    real: Tests,
    uniform: Tests,
    listed: Tests,
    call: Callable[[Tests, float | None], tuple[Called, float]],
) -> list[dict]:
    """Rows of the table annotation_rates, without the layer.

    tests_of
        For every source: which tests are its own, bool (test,).
    real, uniform, listed
        The tests of the features' lists and of both kinds of random lists.
    call
        What is called: by their q where the second argument is None, else by this cut in p. Also returns the cut that
        Benjamini-Hochberg makes: max_q x tests that pass / tests.
    """
    found, cut = call(real, None)
    alone, at_cut, as_listed = call(uniform, None)[0], call(uniform, cut)[0], call(listed, cut)[0]
    return [
        {
            "kind": kind,
            "source": source,
            "n_tests": int(chosen.sum()),
            "n_lists": found.n_lists,
            "n_annotated": found.count(chosen),
            "share": found.share(chosen),
            "null_share": alone.share(chosen),
            "null_share_at_cut": at_cut.share(chosen),
            "listed_share_at_cut": as_listed.share(chosen),
        }
        for source, chosen in tests_of.items()
    ]
