"""Tables of genes for made-up evidence, and networks of them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.evidence import Evidence
from cellcircuits.references import GeneSets
from tests.made_up_evidence import filled, made_up_evidence


def gene_table(features: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Table `feature_genes` of the lists in `features`; scores fall with the rank, genes are unevenly common."""
    rng = np.random.default_rng(seed)
    table = features[["layer", "feature"]].assign(symbol=features["top_genes"].str.split(";")).explode("symbol")
    table = table[table["symbol"].fillna("") != ""]
    rank = table.groupby(["layer", "feature"]).cumcount() + 1
    symbols = np.unique(table["symbol"].to_numpy(dtype=object))
    positions = dict(zip(symbols, rng.integers(10, 700, len(symbols)), strict=True))
    return filled(
        "feature_genes",
        len(table),
        layer=table["layer"].to_numpy(),
        feature=table["feature"].to_numpy(),
        rank=rank.to_numpy(),
        symbol=table["symbol"].to_numpy(),
        score=rng.gamma(2, 1, len(table)) / rank.to_numpy(),
        n_positions=table["symbol"].map(positions).to_numpy(),
    )


def evidence_with_genes(seed: int = 0, n_genes: int = 120, list_size: int = 8, **sizes: int) -> Evidence:
    """Made-up evidence whose features list genes; no edge knows them."""
    evidence = made_up_evidence(seed, **sizes)
    rng = np.random.default_rng(seed + 1000)
    names = np.array([f"G{i}" for i in range(n_genes)], dtype=object)
    weight = 1 / np.arange(5, n_genes + 5)
    lists = [
        ";".join(rng.choice(names, list_size, replace=False, p=weight / weight.sum())) for _ in evidence.features.index
    ]
    n_unique = rng.integers(10, 90, len(lists))
    features = evidence.features.assign(top_genes=lists, n_unique_genes=n_unique)
    return Evidence(evidence.edges, features, evidence.tables | {"feature_genes": gene_table(features, seed)})


def random_sets(seed: int, n_sets: int, size: int, n_genes: int = 120) -> GeneSets:
    rng = np.random.default_rng(seed)
    terms = {f"set {i}": [f"G{g}" for g in rng.choice(n_genes, size, replace=False)] for i in range(n_sets)}
    return GeneSets("made up", {name: frozenset(genes) for name, genes in terms.items()})
