"""The questions of the report in their order: under what name the paper asks them, and what of a run each one reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.answers import Found
from cellcircuits.evidence import Evidence, scan_evidence
from cellcircuits.networks import Interactions, Targets, read_network
from cellcircuits.references import GeneSets, read_gmt
from cellcircuits.run import Run
from cellcircuits.tables import read_table

OF_EDGES = ("tested", "signs", "sweep", "sample_size", "controls", "gene_effects")
OF_ANNOTATION = ("feature_genes", "terms")


class Inputs:
    """What the questions read of a run, each read when it is first asked for."""

    def __init__(self, run: Run) -> None:
        self.run, self.settings = run, run.settings.findings
        self.found: dict[str, Found] = {}
        """What the questions before found."""

    @cached_property
    def evidence(self) -> Evidence:
        """Edges, features and the tables beside them."""
        run = self.run
        tables = {name: read_table(name, run.path("edges")) for name in OF_EDGES}
        tables |= {name: read_table(name, run.path("annotate")) for name in OF_ANNOTATION}
        tables["sources"] = read_table("sources", run.path("trace"))
        if run.status("structure").state == "done":
            tables["dependencies"] = read_table("dependencies", run.path("structure"))
        features = read_table("features", run.path("annotate"))
        return scan_evidence(run.path("edges") / "edges.parquet", features, **tables)

    @cached_property
    def with_groups(self) -> Evidence:
        """The same with the edges of each group of cells, called from the moments; empty where there are no groups."""
        from cellcircuits.group_edges import group_edges
        from cellcircuits.moments import load_moments, trace_files

        files = trace_files(self.run.path("trace"))
        found = [
            group_edges([partial(load_moments, path) for path in paths], self.run.settings.edges)
            for paths in files.values()
        ]
        tables = {
            "group_edges": pd.concat([one.edges for one in found], ignore_index=True),
            "group_pairs": pd.concat([one.pairs for one in found], ignore_index=True),
        }
        evidence = self.evidence
        return Evidence(evidence.edges, evidence.features, evidence.tables | tables)

    @cached_property
    def gene_sets(self) -> list[GeneSets]:
        """The collections that features were annotated with."""
        return [read_gmt(path) for path in self.run.settings.annotate.gene_sets]

    @cached_property
    def networks(self) -> list[Interactions | Targets]:
        """The networks that features were annotated with."""
        named = self.run.settings.annotate
        return [read_network(path, named.min_interaction_score) for path in named.networks]

    @cached_property
    def symbols(self) -> dict[str, str]:
        """The model's symbol of every gene id: screens may name genes by ids alone."""
        genes = pd.read_parquet(self.run.path("cells") / "genes.parquet")
        return {gene: symbol for gene, symbol in zip(genes["gene_id"], genes["symbol"], strict=True) if gene and symbol}

    @cached_property
    def expression(self) -> tuple[sp.csr_matrix, np.ndarray]:
        """Log-normalised counts of some cells of the run, and the symbols of their genes."""
        from cellcircuits.cell_data import read_cells
        from cellcircuits.expression import cell_expression
        from cellcircuits.tokens import load_tokens

        settings = self.run.settings
        adata = read_cells(settings.cells)
        tokens = load_tokens(self.run.path("cells"))
        return cell_expression(adata, settings.cells, tokens, self.settings.coexpression_cells, self.settings.seed)


Ask = Callable[[Any, Inputs], Found]


def _plain(module: Any, inputs: Inputs) -> Found:
    return module.ask(inputs.evidence, inputs.settings)


def _by_rule(module: Any, inputs: Inputs) -> Found:
    return module.ask(inputs.evidence, inputs.settings, inputs.run.settings.edges)


def _by_group(module: Any, inputs: Inputs) -> Found:
    return module.ask(inputs.with_groups, inputs.settings)


def _novelty(module: Any, inputs: Inputs) -> Found:
    sets = {name: genes for collection in inputs.gene_sets for name, genes in collection.terms.items()}
    known = next((network for network in inputs.networks if isinstance(network, Interactions)), None)
    return module.ask(inputs.evidence, inputs.settings, gene_sets=sets, interactions=known)


def _gene_pairs(module: Any, inputs: Inputs) -> Found:
    return module.ask(inputs.evidence, inputs.settings, inputs.networks, inputs.gene_sets)


def _screens(module: Any, inputs: Inputs) -> Found:
    from cellcircuits.screening.screens import read_screen

    responses = [one for screen in inputs.settings.screens for one in read_screen(screen, inputs.symbols)]
    direct = [network for network in inputs.networks if isinstance(network, Targets)]
    pairs = inputs.found["gene_pairs"].tables["gene_pairs"]
    return module.ask(inputs.evidence, inputs.settings, responses=responses, pairs=pairs, networks=direct)


def _disease(module: Any, inputs: Inputs) -> Found:
    from cellcircuits.disease_sets import read_disease_sets

    named = inputs.settings
    sets = [read_disease_sets(path, named.disease_min_score, named.disease_max_p) for path in named.disease_sets]
    return module.ask(inputs.evidence, named, sets)


def _coexpression(module: Any, inputs: Inputs) -> Found:
    expression, genes = inputs.expression
    return module.ask(inputs.evidence, inputs.settings, expression, genes)


@dataclass(frozen=True)
class Question:
    """One question of the report."""

    name: str
    """The module in `findings/`, its figures in `figures/`, and its main table."""
    title: str
    paper: str
    """What the paper calls it, and its number there."""
    inputs: Ask = field(default=_plain)
    control: bool = False
    """A control of the paper's revision that reads more than tables: only asked with `findings.all`."""

    def ask(self, inputs: Inputs) -> Found:
        """Tables and answers."""
        return self.inputs(import_module(f"cellcircuits.findings.{self.name}"), inputs)

    def draw(self, found: Found) -> dict[str, Any]:
        """Figures by name."""
        return import_module(f"cellcircuits.figures.{self.name}").draw(found)


QUESTIONS = (
    Question("attenuation", "How far do effects reach?", "attenuation of effects across layers", _by_rule),
    Question("hubs", "Do a few features carry most edges?", "hub features, by out-degree and in-degree"),
    Question("convergence", "Do edges converge on few targets?", "in-degree convergence"),
    Question("degree_tail", "Which law do the numbers of edges follow?", "heavy-tailed degrees (follow-up study)"),
    Question(
        "coactivation", "Do edges only repeat what fires together?", "comparison with PMI, 90.6 to 94.8 % overlap"
    ),
    Question("coherence", "Do edges join features that mean the same?", "biological coherence, 53 to 69 %; null E12"),
    Question("circuits", "Which gene programs act on which?", "domain pairs (16,067 of them)"),
    Question(
        "novelty", "Are there circuits that nobody has described?", "novel relationships (29,864 edges)", _novelty
    ),
    Question(
        "hierarchy",
        "Do gene programs act in an order?",
        "process hierarchy: PageRank, feedback loops, repair before cell cycle",
    ),
    Question(
        "gene_pairs",
        "Which genes act on which, and is it known?",
        "gene-level predictions; ChIP-seq support E4",
        _gene_pairs,
    ),
    Question("screens", "Do real perturbations agree?", "CRISPRi validation, 56.4 % of signs; E1, E1b, E3", _screens),
    Question("disease", "Are disease genes central?", "disease mapping (1,073 of 1,127 domains)", _disease),
    Question("thresholds", "What do other thresholds give?", "threshold sweep E11"),
    Question("cell_numbers", "What do fewer cells give?", "cell-number bootstrap E9"),
    Question(
        "coexpression",
        "Does co-expression explain the effects?",
        "co-expression control E7 (R² 0.010)",
        _coexpression,
        True,
    ),
    Question(
        "tissues",
        "Do circuits differ between groups of cells?",
        "tissue-specific circuits (immune, blood, kidney, lung)",
        _by_group,
        True,
    ),
    Question(
        "cell_types", "Are edges the same in every group of cells?", "per-cell-type stability E10", _by_group, True
    ),
)
"""In the order of the report; a question may read what those before found."""

COMPARISONS = (
    Question(
        "consensus", "Do the models connect the same gene programs?", "cross-model consensus, 1,142 pairs, 10.6-fold"
    ),
    Question(
        "matching",
        "Do the models connect the same features, whatever their names?",
        "label-free consensus; not in the paper",
    ),
    Question("input_size", "Are effects stronger in one model?", "input-size normalisation E5 (1.40 against 1.05)"),
    Question("selection", "Does it matter how sources were selected?", "selection bias E6"),
)
"""Questions that are asked of several runs (`cellcircuits compare`)."""
