"""Every question of the report on made-up edges: seconds and memory as the number of edges grows to ten million.

    PYTHONPATH=. python benchmarks/findings.py --millions 0.1 1 10

80,000 features in 18 layers, half of them with gene sets, all with 20 top genes of 6,000; networks of 130,000
interactions and 700 regulators. Each size runs in a process of its own, one question after the other; the time for
making the edges up does not count. Questions of groups of cells and of screens are not of edges, and are left out.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from time import perf_counter, process_time

import numpy as np
import pandas as pd
import scipy.sparse as sp
from tests.made_up_evidence import filled, made_up_evidence
from tests.made_up_genes import gene_table

from cellcircuits.answers import Found
from cellcircuits.evidence import Evidence
from cellcircuits.findings import (
    attenuation,
    circuits,
    coactivation,
    coexpression,
    coherence,
    convergence,
    degree_tail,
    disease,
    gene_pairs,
    hierarchy,
    hubs,
    novelty,
)
from cellcircuits.networks import Interactions, Targets
from cellcircuits.references import GeneSets
from cellcircuits.settings import FindingsSettings

N_LAYERS, N_FEATURES, N_LABELS, N_TERMS = 18, 4444, 1000, 800
N_GENES = 6000
"""As many genes as the features of a layer of the published Geneformer atlas list."""
EDGES_PER_SOURCE = 450
SETTINGS = FindingsSettings()


def made_up_run(millions: float) -> Evidence:
    """Edges, and the tables beside them."""
    sources = max(10, round(millions * 1e6 / (N_LAYERS - 1) / EDGES_PER_SOURCE))
    evidence = made_up_evidence(0, N_LAYERS, N_FEATURES, sources, EDGES_PER_SOURCE, N_LABELS, N_GENES)
    rng = np.random.default_rng(1)
    features = evidence.features.assign(n_unique_genes=rng.integers(5, 500, len(evidence.features)))
    tables = {"terms": made_up_terms(features, rng), "feature_genes": gene_table(features)}
    tables["dependencies"] = made_up_dependencies(evidence, rng)
    return replace(evidence, features=features, tables=evidence.tables | tables)


def made_up_terms(features: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Some eight gene sets for every other feature."""
    n = np.where(rng.random(len(features)) < 0.5, rng.geometric(1 / 8, len(features)), 0)
    row = np.repeat(np.arange(len(features)), n)
    weight = 1 / np.arange(1, N_TERMS + 1) ** 0.7
    pairs = pd.DataFrame({"row": row, "term": rng.choice(N_TERMS, len(row), p=weight / weight.sum())}).drop_duplicates()
    places = {name: features[name].to_numpy()[pairs["row"]] for name in ("layer", "feature")}
    terms = ("set " + pairs["term"].astype(str)).to_numpy(dtype=object)
    return filled("terms", len(pairs), **places, collection="sets", term=terms)


def made_up_dependencies(evidence: Evidence, rng: np.random.Generator) -> pd.DataFrame:
    """PMI of every tenth edge, and of as many other pairs of the same sources."""
    some = evidence.edges.gather_every(10).select("source_layer", "source_feature", "target_layer", "target_feature")
    table = some.to_pandas()
    others = table.assign(target_feature=rng.integers(0, N_FEATURES, len(table)))
    table = pd.concat([table, others]).drop_duplicates(ignore_index=True)
    return filled("dependencies", len(table), **table, pmi=rng.normal(size=len(table)))


def questions(evidence: Evidence) -> dict[str, Callable[[], Found]]:
    """Each question with what it reads."""
    rng = np.random.default_rng(2)
    names = np.array([f"G{i}" for i in range(N_GENES)], dtype=object)
    pairs = names[rng.integers(N_GENES, size=(130_000, 2))].tolist()
    interactions = Interactions("interactions", frozenset(tuple(sorted(pair)) for pair in pairs))
    regulated = {f"G{i}": frozenset(names[rng.integers(N_GENES, size=60)].tolist()) for i in range(700)}
    networks = [interactions, Targets("targets", GeneSets("targets", regulated))]
    of_label = {name: frozenset(names[rng.integers(N_GENES, size=40)].tolist()) for name in evidence.labels[0]}
    diseases = GeneSets("d", {f"d{i}": frozenset(names[rng.integers(N_GENES, size=100)].tolist()) for i in range(100)})
    cells = sp.random(1000, N_GENES, 0.1, format="csr", dtype=np.float32, random_state=0)
    plain = (attenuation, hubs, convergence, degree_tail, coactivation, coherence, circuits, hierarchy)
    asked = {module.__name__.split(".")[-1]: lambda module=module: module.ask(evidence, SETTINGS) for module in plain}
    return asked | {
        "novelty": lambda: novelty.ask(evidence, SETTINGS, gene_sets=of_label),
        "gene_pairs": lambda: gene_pairs.ask(evidence, SETTINGS, networks),
        "disease": lambda: disease.ask(evidence, SETTINGS, [diseases]),
        "coexpression": lambda: coexpression.ask(evidence, SETTINGS, cells, names),
    }


def measure(millions: float) -> list[tuple[str, float, float, float]]:
    """(question, seconds, seconds of all cores, GB at its end), the first row for making the edges up."""
    began, worked = perf_counter(), process_time()
    evidence = made_up_run(millions)
    rows = [(f"{evidence.edges.height:,} edges made up", perf_counter() - began, process_time() - worked, _peak())]
    for name, ask in questions(evidence).items():
        began, worked = perf_counter(), process_time()
        ask()
        rows.append((name, perf_counter() - began, process_time() - worked, _peak()))
        print("  {}: {:.1f} s ({:.1f} of all cores), peak so far {:.1f} GB".format(*rows[-1]), flush=True)
    return rows


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, nargs="+", default=[0.1, 1, 10])
    for millions in parser.parse_args().millions:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
            rows = executor.submit(measure, millions).result()
        seconds, worked = (sum(row[i] for row in rows[1:]) for i in (1, 2))
        print(f"{rows[0][0]}: all questions {seconds:.1f} s ({worked:.1f} of all cores), peak {rows[-1][3]:.1f} GB")


if __name__ == "__main__":
    main()
