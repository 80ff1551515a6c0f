"""Which genes does the model connect, and are these pairs known from networks of genes?

Two kinds of pairs. (a) As published: all pairs of the top genes of the two ends of an edge. The two lists name genes at
the same positions of a cell, so such a pair is a product of lists, no measured influence of one gene on another. (b) As
measured: a source was removed at one gene and the state of another changed, where the source was not active; attention
carried it there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.measures.gene_products import edges_with_lists, pairs_of_genes
from cellcircuits.measures.loadings import Loadings, read_loadings
from cellcircuits.measures.measured_pairs import measured_gene_pairs
from cellcircuits.measures.network_support import GenePairs, in_network, network_matrix, network_support
from cellcircuits.networks import Network
from cellcircuits.references import GeneSets
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import benjamini_hochberg
from cellcircuits.tables import empty_table, make_table

QUESTION = "gene_pairs"
SHARED_SETS = 2
"""Gene sets that the genes of a "plausible" pair share."""
PAIRS_PER_BLOCK = 100_000
BASELINE = (
    "the source gene, and the detection decile and number of network partners of the target gene are kept; target "
    "genes are permuted within these strata, alike for all sources"
)
PUBLISHED = "pairs in the network / all pairs kept, without background: it says how large the network is"
WHERE = (
    "Name networks in annotate.networks (fetch one: `cellcircuits fetch string`, `collectri`, `trrust`, `dorothea`)."
)
ORIGINS = {"lists": "top genes of edges", "measured": "genes whose states change"}


def ask(
    evidence: Evidence,
    settings: FindingsSettings,
    networks: Sequence[Network] = (),
    gene_sets: Sequence[GeneSets] = (),
) -> Found:
    """Pairs of genes and their support.

    Parameters
    ----------
    evidence
        With the table `feature_genes`, and `gene_effects` for the measured pairs.
    networks
        Networks in which pairs may be known; without any, support cannot be tested.
    gene_sets
        Gene sets (the published study: GO biological processes) of which a "plausible" pair shares two.
    """
    loadings = read_loadings(evidence)
    listed, n_edges = list_pairs(evidence, loadings, settings)
    listed["status"] = pair_status(listed, networks, gene_sets)
    measured = measured_gene_pairs(evidence.table("gene_effects"), settings.gene_pairs_kept)
    tables = {"gene_pairs": listed, "measured_gene_pairs": measured}
    rows, curves = [], []
    for origin, name in (("lists", "gene_pairs"), ("measured", "measured_gene_pairs")):
        pairs = coded_pairs(tables[name], loadings)
        for network in networks if len(pairs.source) else ():
            support = network_support(pairs, network, settings.permutations, settings.seed)
            rows.append({"origin": origin, **support.row})
            curves.append(support.curve.assign(origin=origin, network=network.name))
    tables["gene_pair_support"] = support_table(rows)
    tables["gene_pair_precision"] = (
        make_table("gene_pair_precision", pd.concat(curves)) if curves else empty_table("gene_pair_precision")
    )
    answers = [_described(listed, n_edges, evidence.edges.height)]
    answers += _answers(tables, len(networks) > 0)
    return Found(tables, answers)


def list_pairs(evidence: Evidence, loadings: Loadings, settings: FindingsSettings) -> tuple[pd.DataFrame, int]:
    """(table `gene_pairs` with an empty status; number of edges whose ends both list genes)."""
    ranks = loadings.best(settings.gene_pairs_genes)
    pairs = pairs_of_genes(evidence.edges, ranks, settings.gene_pairs_kept)
    names = {f"{end}_gene": loadings.symbols[pairs[end].to_numpy(dtype=np.int64)] for end in ("source", "target")}
    table = make_table("gene_pairs", pairs.drop(columns=["source", "target"]).assign(**names, status=""))
    return table, edges_with_lists(evidence.edges, ranks).height


def pair_status(pairs: pd.DataFrame, networks: Sequence[Network], gene_sets: Sequence[GeneSets]) -> np.ndarray:
    """Published status of each pair: "confirmed", "plausible" or "novel"; "" without networks."""
    if not networks or pairs.empty:
        return np.full(len(pairs), "", dtype=object)
    codes, symbols = pd.factorize(pd.concat([pairs["source_gene"], pairs["target_gene"]]), sort=True)
    source, target = codes[: len(pairs)].astype(np.int64), codes[len(pairs) :].astype(np.int64)
    confirmed = np.zeros(len(pairs), dtype=bool)
    for network in networks:
        confirmed |= in_network(network_matrix(network, np.asarray(symbols)), source, target)
    plausible = shared_sets(np.asarray(symbols), gene_sets, source, target) >= SHARED_SETS
    return np.where(confirmed, "confirmed", np.where(plausible, "plausible", "novel")).astype(object)


def shared_sets(
    symbols: np.ndarray, gene_sets: Sequence[GeneSets], source: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """int64 (pair,): gene sets that hold both genes."""
    rows = {symbol: row for row, symbol in enumerate(symbols)}
    terms = [genes for collection in gene_sets for genes in collection.terms.values()]
    inside = [sorted(rows[gene] for gene in genes if gene in rows) for genes in terms]
    places = np.concatenate([np.zeros(0, dtype=np.int64), *(np.array(row, dtype=np.int64) for row in inside)])
    owner = np.repeat(np.arange(len(inside)), [len(row) for row in inside])
    shape = (len(symbols), max(len(terms), 1))
    member = sp.csr_matrix((np.ones(len(places), dtype=np.int32), (places, owner)), shape)
    blocks = [slice(start, start + PAIRS_PER_BLOCK) for start in range(0, len(source), PAIRS_PER_BLOCK)]
    counts = [np.asarray(member[source[b]].multiply(member[target[b]]).sum(axis=1)).ravel() for b in blocks]
    return np.concatenate([np.zeros(0, dtype=np.int64), *counts]).astype(np.int64)


def coded_pairs(pairs: pd.DataFrame, loadings: Loadings) -> GenePairs:
    """Pairs as rows of genes; those with a gene that no feature lists are left out."""
    source, target = (loadings.gene_rows(pairs[f"{end}_gene"].to_numpy()) for end in ("source", "target"))
    known = (source >= 0) & (target >= 0)
    return GenePairs(loadings.symbols, loadings.detection_bins, source[known], target[known])


def support_table(rows: list[dict]) -> pd.DataFrame:
    """Table `gene_pair_support`, with q over the rows that were tested."""
    if not rows:
        return empty_table("gene_pair_support")
    table = pd.DataFrame(rows)
    tested = table["p_value"].notna().to_numpy()
    table["q_value"] = np.nan
    table.loc[tested, "q_value"] = benjamini_hochberg(table.loc[tested, "p_value"].to_numpy())
    return make_table("gene_pair_support", table)


def _described(pairs: pd.DataFrame, n_with_lists: int, n_edges: int) -> Answer:
    asked = "How many ordered pairs of genes do the edges connect?"
    statistic = "pairs of top genes kept: those of the published cut with the highest score"
    if pairs.empty:
        missing = "No edge has gene lists at both ends. Lower annotate.min_firings, or trace more sources."
        return untestable(QUESTION, asked, statistic, missing)
    counts = pairs["status"].value_counts()
    words = ", ".join(f"{counts.get(word, 0):,} {word}" for word in ("confirmed", "plausible", "novel"))
    note = f"From {n_with_lists:,} of {n_edges:,} edges, those with gene lists at both ends. "
    note += f"Published status: {words}; it depends on what the files given hold." if counts.index[0] else WHERE
    return Answer(QUESTION, asked, statistic, value=float(len(pairs)), unit="pairs", note=note)


def _answers(tables: dict[str, pd.DataFrame], has_networks: bool) -> list[Answer]:
    found = []
    for origin, words in ORIGINS.items():
        asked = f"Are pairs of genes ({words}) known from networks more often than matched pairs?"
        statistic = "share of testable pairs that are in the network"
        rows = tables["gene_pair_support"].query("origin == @origin")
        pairs = tables["gene_pairs" if origin == "lists" else "measured_gene_pairs"]
        if pairs.empty:
            more = "Trace more sources." if origin == "lists" else 'Add "other" to trace.readouts and trace again.'
            found.append(untestable(QUESTION, asked, statistic, f"There are no such pairs. {more}"))
        elif not has_networks:
            found.append(untestable(QUESTION, asked, statistic, f"No network was given. {WHERE}"))
        found += [_support_answer(asked, statistic, row) for row in rows.to_dict("records")]
    return found


def _support_answer(asked: str, statistic: str, row: dict) -> Answer:
    statistic = f"{statistic} {row['network']}"
    if not row["n_testable"]:
        missing = f"None of the {row['n_kept']:,} pairs has both genes in this network; give one of these genes."
        return untestable(QUESTION, asked, statistic, missing)
    interval = f" ({row['odds_ratio_low']:.2f} to {row['odds_ratio_high']:.2f}, resampling source genes)"
    note = (
        f"{row['n_supported']:,} of {row['n_testable']:,} testable pairs of {row['n_sources']:,} source genes; odds "
        f"ratio {row['odds_ratio']:.2f}{'' if np.isnan(row['odds_ratio_low']) else interval}."
    )
    return Answer(
        QUESTION,
        asked,
        statistic,
        value=row["share"],
        baseline=row["chance_share"],
        baseline_is=BASELINE,
        low=row["share_low"],
        high=row["share_high"],
        p_value=row["p_value"],
        published=row["published_share"],
        published_is=PUBLISHED,
        unit="share",
        note=note,
    )
