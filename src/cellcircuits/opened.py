"""A run folder as a user reads it: every artifact as a table or an object."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from cellcircuits.run import Run, open_folder
from cellcircuits.tables import FINDINGS, INTERVENTIONS, STRUCTURE, empty_table, read_table

if TYPE_CHECKING:
    from cellcircuits.autoencoders import SparseAutoencoder
    from cellcircuits.moments import Moments
    from cellcircuits.tokens import Tokens


class Findings:
    """The tables of `findings/` as attributes: answers, hubs, circuits, coherence ... (`tables.FINDINGS`)."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name not in FINDINGS:
            raise AttributeError(f"findings/ has no table {name!r}; it has {', '.join(FINDINGS)}")
        self._run.require("findings")
        folder = self._run.path("findings")
        # questions that could not be asked, or were not, have no table
        table = read_table(name, folder) if (folder / f"{name}.parquet").exists() else empty_table(name)
        setattr(self, name, table)
        return table


class Structure:
    """The tables of `structure/` as attributes: modules, persistence, svd_alignment ... (`tables.STRUCTURE`)."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name not in STRUCTURE:
            raise AttributeError(f"structure/ has no table {name!r}; it has {', '.join(STRUCTURE)}")
        self._run.require("structure")
        table = read_table(name, self._run.path("structure"))
        setattr(self, name, table)
        return table


class Interventions:
    """The tables of `interventions/` as attributes: dose_response, group_interactions ... (`tables.INTERVENTIONS`)."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name not in INTERVENTIONS:
            raise AttributeError(f"interventions/ has no table {name!r}; it has {', '.join(INTERVENTIONS)}")
        self._run.require("interventions")
        folder = self._run.path("interventions")
        # experiments that were not asked for have no table
        table = read_table(name, folder) if (folder / f"{name}.parquet").exists() else empty_table(name)
        setattr(self, name, table)
        return table


class OpenRun(Run):
    """A run whose artifacts are read when first asked for; asking for one that is not there is a `RunError`."""

    @cached_property
    def quality(self) -> pd.DataFrame:
        """How well every layer's autoencoder describes held-out cells, beside its baselines."""
        return self._table("train", "quality")

    @cached_property
    def features(self) -> pd.DataFrame:
        """One row per feature."""
        return self._table("annotate", "features")

    @cached_property
    def feature_genes(self) -> pd.DataFrame:
        """Top genes of every feature."""
        return self._table("annotate", "feature_genes")

    @cached_property
    def activation_bins(self) -> pd.DataFrame:
        """How large the activations of every feature are."""
        return self._table("annotate", "activation_bins")

    @cached_property
    def cell_labels(self) -> pd.DataFrame:
        """Association of every feature with the labels of obs columns."""
        return self._table("annotate", "cell_labels")

    @cached_property
    def terms(self) -> pd.DataFrame:
        """Enriched gene sets of every feature."""
        return self._table("annotate", "terms")

    @cached_property
    def regulators(self) -> pd.DataFrame:
        """Transcription factors whose targets are enriched among a feature's top genes."""
        return self._table("annotate", "regulators")

    @cached_property
    def interactions(self) -> pd.DataFrame:
        """Interactions among the top genes of every feature."""
        return self._table("annotate", "interactions")

    @cached_property
    def annotation_rates(self) -> pd.DataFrame:
        """Annotation rates by layer and source, beside those of random gene lists."""
        return self._table("annotate", "annotation_rates")

    @cached_property
    def baselines(self) -> pd.DataFrame:
        """What gene sets and cell labels say of the autoencoders' features, and of those of other dictionaries."""
        return self._table("annotate", "baselines")

    @cached_property
    def sources(self) -> pd.DataFrame:
        """Features that were ablated."""
        return self._table("trace", "sources")

    @cached_property
    def edges(self) -> pd.DataFrame:
        """One row per edge."""
        return self._table("edges", "edges")

    @cached_property
    def tested(self) -> pd.DataFrame:
        """Numbers of tested pairs by pair of layers."""
        return self._table("edges", "tested")

    @cached_property
    def controls(self) -> pd.DataFrame:
        """What the rules find for control directions, beside the sources."""
        return self._table("edges", "controls")

    @cached_property
    def fidelity(self) -> pd.DataFrame:
        """The frozen context against the exact one."""
        return self._table("edges", "fidelity")

    @cached_property
    def sweep(self) -> pd.DataFrame:
        """Edges at other thresholds."""
        return self._table("edges", "sweep")

    @cached_property
    def sample_size(self) -> pd.DataFrame:
        """Edges from fewer cells, where cells are grouped."""
        return self._table("edges", "sample_size")

    @cached_property
    def gene_effects(self) -> pd.DataFrame:
        """Genes whose state changes although the source is not active at them."""
        return self._table("edges", "gene_effects")

    @cached_property
    def findings(self) -> Findings:
        """Answers to the biological questions."""
        return Findings(self)

    @cached_property
    def structure(self) -> Structure:
        """How features hang together, where `cellcircuits structure` was asked."""
        return Structure(self)

    @cached_property
    def interventions(self) -> Interventions:
        """What changes of features do, where `cellcircuits interventions` was asked."""
        return Interventions(self)

    @cached_property
    def cells(self) -> Tokens:
        """The tokenised cells."""
        from cellcircuits.tokens import load_tokens

        self.require("cells")
        return load_tokens(self.path("cells"))

    @cached_property
    def saes(self) -> dict[int, SparseAutoencoder]:
        """The autoencoders by layer."""
        from cellcircuits.sae import load_saes

        self.require("train")
        return load_saes(self.path("train"))

    @cached_property
    def moments(self) -> dict[int, Moments]:
        """The moments by source layer."""
        from cellcircuits.moments import load_trace

        self.require("trace")
        return {moments.source_layer: moments for moments in load_trace(self.path("trace"))}

    def _table(self, stage: str, name: str) -> pd.DataFrame:
        self.require(stage)
        return read_table(name, self.path(stage))


def open_run(folder: str | Path) -> OpenRun:
    """Open a run folder to read it.

    Raises
    ------
    RunError
        If the folder is no run folder.
    """
    run = open_folder(folder)
    return OpenRun(run.folder, run.settings)
