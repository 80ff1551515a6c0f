"""What the gene lists of one layer mean: gene sets, regulators and interactions, with their false annotation rates."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.calibration import Called, NullLists, null_lists, rates
from cellcircuits.enrichment import (
    BackgroundSets,
    GeneLists,
    OverlapTests,
    cut_to_background,
    enriched_sets,
    overlap_tests,
)
from cellcircuits.interactions import InteractionTest
from cellcircuits.networks import Interactions, Network, Targets
from cellcircuits.references import GeneSets
from cellcircuits.settings import AnnotateSettings
from cellcircuits.tables import TABLES

ALL = "all"
"""The source of the rates of all gene set collections together: the features with a label."""


class Annotator:
    """Gene sets and networks, cut to one background, ready for the lists of any layer.

    symbols
        Symbols of the background: every gene that could be on a list, (gene,).
    """

    def __init__(
        self, symbols: np.ndarray, collections: list[GeneSets], networks: list[Network], settings: AnnotateSettings
    ) -> None:
        self.symbols, self.settings = np.asarray(symbols, dtype=object), settings
        least, most = settings.min_term_genes, settings.max_term_genes
        self.collections = [collection.name for collection in collections]
        self.sets = cut_to_background(self.symbols, collections, least, most)
        # what binds a promoter binds thousands: no upper limit
        self.targets = [
            (network, cut_to_background(self.symbols, [network.sets], least, len(self.symbols)))
            for network in networks
            if isinstance(network, Targets)
        ]
        pairs = [network for network in networks if isinstance(network, Interactions)]
        self.interactions = [InteractionTest(network, self.symbols, settings) for network in pairs]

    def annotate(self, lists: GeneLists) -> dict[str, pd.DataFrame]:
        """Tables terms, regulators, interactions and annotation_rates of one layer, without the column layer."""
        null = null_lists(lists, self.settings)
        terms, rows = self._test_sets("gene sets", self._sources(), self.sets, lists, null)
        regulators, interactions = [], []
        for network, sets in self.targets:
            every = {network.name: np.ones(len(sets.names), dtype=bool)}
            found, more = self._test_sets("targets", every, sets, lists, null)
            regulators.append(_with_regulator(found, network, lists, self.symbols))
            rows += more
        for test in self.interactions:
            real, uniform, listed = (test.test(some) for some in (lists, null.uniform, null.listed))
            interactions.append(real.assign(network=test.name))
            one = {test.name: np.ones(1, dtype=bool)}
            rows += rates("interactions", one, real, uniform, listed, self._call_interactions)
        return {
            "terms": terms,
            "regulators": _stacked("regulators", regulators),
            "interactions": _stacked("interactions", interactions),
            "annotation_rates": pd.DataFrame(rows),
        }

    def _sources(self) -> dict[str, np.ndarray]:
        """All sets, and those of each collection where there are several, bool (set,)."""
        names = self.sets.names["collection"].to_numpy(dtype=object)
        each = {name: names == name for name in self.collections} if len(self.collections) > 1 else {}
        return {ALL: np.ones(len(names), dtype=bool), **each}

    def _test_sets(
        self, kind: str, sources: dict[str, np.ndarray], sets: BackgroundSets, lists: GeneLists, null: NullLists
    ) -> tuple[pd.DataFrame, list[dict]]:
        """The sets enriched in the lists, and the rates of every source."""
        real, uniform, listed = (overlap_tests(some, sets) for some in (lists, null.uniform, null.listed))
        found = enriched_sets(lists, sets, real, self.symbols, self.settings)
        return found, rates(kind, sources, real, uniform, listed, self._call_sets)

    def _call_sets(self, tests: OverlapTests, cut: float | None) -> tuple[Called, float]:
        passed = tests.q <= self.settings.max_q if cut is None else tests.p <= cut
        called = passed & (tests.overlap >= self.settings.min_overlap)
        return Called(tests.n_lists, tests.list[called], tests.set[called]), self._cut(passed, tests.n_tests)

    def _call_interactions(self, tests: pd.DataFrame, cut: float | None) -> tuple[Called, float]:
        passed = (tests["q_value"] <= self.settings.max_q if cut is None else tests["p_value"] <= cut).to_numpy()
        rows = np.flatnonzero(passed)
        called = Called(len(tests), rows, np.zeros(len(rows), dtype=np.int64))
        return called, self._cut(passed, len(tests))

    def _cut(self, passed: np.ndarray, n_tests: int) -> float:
        """The p that Benjamini-Hochberg asks where so many of the tests pass; where none does, of a single one."""
        return self.settings.max_q * max(int(passed.sum()), 1) / max(n_tests, 1)


def _with_regulator(found: pd.DataFrame, network: Targets, lists: GeneLists, symbols: np.ndarray) -> pd.DataFrame:
    """Enriched target sets with their regulator, and whether it is on the list itself."""
    found = found.assign(regulator=[network.regulator(name) for name in found["term"]])
    owner, gene = lists.genes.nonzero()
    listed = pd.MultiIndex.from_arrays([lists.features[owner], [str(symbol).upper() for symbol in symbols[gene]]])
    found["regulator_listed"] = pd.MultiIndex.from_frame(found[["feature", "regulator"]]).isin(listed)
    names = {"collection": "network", "term": "target_set", "n_term": "n_targets"}
    return found.rename(columns=names).drop(columns="redundant_with")


def _stacked(name: str, frames: list[pd.DataFrame]) -> pd.DataFrame:
    """The frames one after the other; with no frame, the declared columns without rows."""
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return pd.DataFrame({column.name: [] for column in TABLES[name] if column.name != "layer"})
    return pd.concat(frames, ignore_index=True)
