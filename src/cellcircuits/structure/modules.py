"""Which features of a layer fire together: pairs beyond chance, and the modules that they form.

    PMI(i, j) = log2(n_ij N / (n_i n_j))    over N gene positions

Pairs with at least `min_together` common positions and `min_pmi` bits are the edges of a graph, weighted by PMI, which
the Leiden algorithm cuts into modules. Any graph has modules; the rewired graphs say how clear-cut those of chance are.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import gammainc

from cellcircuits.errors import SettingsError
from cellcircuits.settings import StructureSettings
from cellcircuits.stats import benjamini_hochberg, hypergeometric_enrichment
from cellcircuits.structure.counting import StructureSums
from cellcircuits.tables import make_table

FEATURES_AT_A_TIME = 256
FEWEST_EXPECTED = 1e-3
"""Pairs that are expected at fewer positions than this are never found together by chance."""


@dataclass(frozen=True)
class PmiGraph:
    """Pairs of features, first < second."""

    first: np.ndarray
    second: np.ndarray
    pmi: np.ndarray
    """float64 (pair,), bits."""


def pmi_graph(together: np.ndarray, firings: np.ndarray, n_positions: int, settings: StructureSettings) -> PmiGraph:
    """The pairs of a layer, from common positions (feature, feature) and positions (feature,)."""
    first, second = np.nonzero(np.triu(together >= settings.min_together, k=1))
    expected = firings[first] * (firings[second] / n_positions)
    pmi = np.log2(together[first, second] / expected)
    kept = pmi >= settings.min_pmi
    return PmiGraph(first[kept], second[kept], pmi[kept])


def expected_pairs(
    firings: np.ndarray,
    n_positions: int,
    settings: StructureSettings,
    by_gene: tuple[sp.csr_matrix, np.ndarray] | None = None,
) -> float:
    """Pairs that would be in the graph if features fired independently: sum of Poisson tails over all pairs.

    `by_gene` holds the positions of every gene at which each feature fires, (gene, feature), and those of the gene:
    features are then independent only among the positions of the same gene, so pairs that like the same genes remain.
    """
    alive = np.flatnonzero(firings)
    rates, found = firings[alive].astype(np.float64), 0.0
    if by_gene is not None:
        fired = sp.csc_matrix(by_gene[0][by_gene[1] > 0][:, alive], dtype=np.float64)
        shares = sp.csr_matrix(sp.diags_array(1 / by_gene[1][by_gene[1] > 0]) @ fired)
    for start in range(0, len(alive), FEATURES_AT_A_TIME):
        stop = min(start + FEATURES_AT_A_TIME, len(alive))
        alike = np.outer(rates[start:stop], rates) / n_positions
        least = np.maximum(settings.min_together, np.ceil(2**settings.min_pmi * alike))
        expected = alike if by_gene is None else (fired[:, start:stop].T @ shares).toarray()
        later = np.arange(len(alive)) > np.arange(start, stop)[:, None]
        chosen = later & (expected > FEWEST_EXPECTED)
        found += float(gammainc(least[chosen], expected[chosen]).sum())
    return found


def partition(graph: PmiGraph, n_features: int, settings: StructureSettings) -> tuple[np.ndarray, float]:
    """Module of every feature, int64 (feature,), and the modularity (NaN without pairs).

    Modules are numbered from the largest; -1 is a feature in none, or in one of fewer than `min_module` features.

    Raises
    ------
    SettingsError
        If leidenalg is not installed.
    """
    module = np.full(n_features, -1, dtype=np.int64)
    if not len(graph.pmi):
        return module, float("nan")
    nodes, network = _network(graph)
    member, modularity = _leiden(network, graph.pmi, settings)
    sizes = np.bincount(member)
    order = np.argsort(-sizes, kind="stable")
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    number[sizes < settings.min_module] = -1
    module[nodes] = number[member]
    return module, modularity


def rewired_modularity(graph: PmiGraph, settings: StructureSettings) -> float:
    """Mean modularity of graphs with the same degrees and the same weights, joined at random."""
    if not len(graph.pmi) or not settings.rewirings:
        return float("nan")
    igraph, _ = _packages()
    _, network = _network(graph)
    rng, found = np.random.default_rng(settings.seed), []
    for draw in range(settings.rewirings):
        igraph.set_random_number_generator(random.Random(settings.seed + draw))
        rewired = network.copy()
        rewired.rewire(n=10 * rewired.ecount())
        found.append(_leiden(rewired, rng.permutation(graph.pmi), settings)[1])
    igraph.set_random_number_generator(random)
    return float(np.mean(found))


def _network(graph: PmiGraph) -> tuple[np.ndarray, Any]:
    """Features that have a pair, and an igraph Graph of them."""
    igraph, _ = _packages()
    nodes, places = np.unique(np.concatenate([graph.first, graph.second]), return_inverse=True)
    return nodes, igraph.Graph(n=len(nodes), edges=places.reshape(2, -1).T.tolist())


def _leiden(network: Any, weights: np.ndarray, settings: StructureSettings) -> tuple[np.ndarray, float]:
    _, leidenalg = _packages()
    found = leidenalg.find_partition(
        network,
        leidenalg.RBConfigurationVertexPartition,
        weights=weights.tolist(),
        resolution_parameter=settings.resolution,
        n_iterations=-1,
        seed=settings.seed,
    )
    return np.array(found.membership), float(network.modularity(found.membership, weights=weights.tolist()))


def _packages() -> tuple[Any, Any]:
    try:
        import igraph
        import leidenalg
    except ImportError as error:
        raise SettingsError(
            "Modules need the packages igraph and leidenalg. Install them with: pip install 'cellcircuits[structure]'"
        ) from error
    return igraph, leidenalg


def layer_modules(layer: int, sums: StructureSums, settings: StructureSettings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables modules and module_rates of one layer."""
    firings, n = sums.firings[layer], sums.n_positions
    graph = pmi_graph(sums.together[layer], firings, n, settings)
    module, modularity = partition(graph, len(firings), settings)
    ends = np.concatenate([graph.first, graph.second])
    partners = np.bincount(ends, minlength=len(firings))
    pmi = np.bincount(ends, np.tile(graph.pmi, 2), minlength=len(firings))
    with np.errstate(invalid="ignore"):
        columns = {
            "feature": np.arange(len(firings)),
            "module": module,
            "n_partners": partners,
            "mean_pmi": pmi / partners,
        }
    rates = {
        "layer": layer,
        "n_positions": n,
        "n_features": len(sums.alive(layer)),
        "n_pairs": len(graph.pmi),
        "null_pairs": expected_pairs(firings, n, settings),
        "null_pairs_by_gene": expected_pairs(firings, n, settings, (sums.by_token[layer], sums.per_token)),
        "n_modules": module.max(initial=-1) + 1,
        "covered_share": (module >= 0).sum() / max(len(sums.alive(layer)), 1),
        "modularity": modularity,
        "null_modularity": rewired_modularity(graph, settings),
    }
    table = pd.DataFrame(columns).assign(layer=layer)
    return make_table("modules", table), make_table("module_rates", pd.DataFrame([rates]))


def module_labels(modules: pd.DataFrame, features: pd.DataFrame, feature_genes: pd.DataFrame) -> pd.DataFrame:
    """Table module_labels of one layer, from the tables modules, features and feature_genes of that layer."""
    found = modules[modules["module"] >= 0].merge(features[["feature", "label"]], on="feature")
    n_modules = int(found["module"].max() + 1) if len(found) else 0
    labelled = found[found["label"] != ""]
    codes, names = pd.factorize(labelled["label"], sort=True)
    shape = (n_modules, len(names))
    counts = sp.coo_matrix((np.ones(len(codes)), (labelled["module"], codes)), shape).toarray()
    p = hypergeometric_enrichment(counts, counts.sum(axis=1)[:, None], counts.sum(axis=0), len(labelled))
    q = benjamini_hochberg(p)
    genes = feature_genes.merge(found[["feature", "module"]], on="feature")
    listed = genes.groupby(["module", "symbol"]).size().reset_index(name="n")
    listed = listed.sort_values(["module", "n", "symbol"], ascending=[True, False, True])
    tops = listed.groupby("module")["symbol"].agg(lambda symbols: ";".join(symbols[:10]))
    rows = []
    for module, size in found.groupby("module").size().items():
        row = {
            "module": module,
            "n_features": size,
            "n_annotated": int(counts[module].sum()),
            "label": "",
            "n_label": 0,
        }
        row |= {"p_value": np.nan, "q_value": np.nan, "top_genes": tops.get(module, "")}
        if row["n_annotated"]:
            best = np.lexsort((-counts[module], p[module]))[0]
            row |= {"label": names[best], "n_label": int(counts[module, best])}
            row |= {"p_value": p[module, best], "q_value": q[module, best]}
        rows.append(row)
    columns = ["module", "n_features", "n_annotated", "label", "n_label", "p_value", "q_value", "top_genes"]
    layer = int(modules["layer"].iloc[0])
    return make_table("module_labels", pd.DataFrame(rows, columns=columns).assign(layer=layer))
