"""Which features carry the genes of a disease, are they central, and do edges join features of the same disease?

Gene sets are the user's (`findings.disease_sets`). The published study takes unions of gene ontology terms as diseases
and labels features by terms of the same ontology, calls what has an uncorrected p below 0.05, and compares numbers of
edges without regard to how many genes and cells a feature has. Here each is tested against features and genes that are
alike in these respects.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.enrichment import BackgroundSets, cut_to_background
from cellcircuits.evidence import Evidence
from cellcircuits.measures.degree_regression import MARK, degree_regression
from cellcircuits.measures.degree_strata import degree_of, degree_strata
from cellcircuits.measures.loading_enrichment import LoadingNull, LoadingTests, called_by_chance, loading_tests
from cellcircuits.measures.loadings import Loadings, read_loadings
from cellcircuits.measures.published_disease import DiseaseEdges, labels_with_disease, same_disease_odds
from cellcircuits.measures.shared_labels import SharedLabels, shared_labels
from cellcircuits.references import GeneSets
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import benjamini_hochberg, cluster_bootstrap
from cellcircuits.tables import empty_table, make_table

QUESTION = "disease"
FEWEST_WITH_DISEASE = 2
WHERE = (
    "Give gene sets in findings.disease_sets: GMT, or a table of diseases and gene symbols, as Open Targets and the "
    "GWAS Catalog export them."
)
ASKED = {
    "enriched": "Do features carry disease genes more often than random genes that are detected as often?",
    "out": "Do features with a disease act on more features than others of equal firing rate and number of genes?",
    "in": "Do more sources act on features with a disease than on others of equal firing rate and number of genes?",
    "same": "Do edges join features of the same disease more often than features that are alike otherwise?",
}
STATISTICS = {
    "enriched": "share of features with a list in which a disease is enriched",
    "out": "number of edges that leave a feature, with / without a disease",
    "in": "number of edges that reach a feature, with / without a disease",
    "same": "edges that join features of the same disease / expected",
}


def ask(evidence: Evidence, settings: FindingsSettings, disease_sets: Sequence[GeneSets] = ()) -> Found:
    """Enrichment, centrality and shared diseases.

    Parameters
    ----------
    evidence
        With the table `feature_genes`.
    disease_sets
        Genes by disease (`disease_sets.read_disease_sets`); without any, nothing can be tested.
    """
    loadings = read_loadings(evidence)
    sets = cut_to_background(loadings.symbols, list(disease_sets), settings.disease_min_genes, len(loadings.symbols))
    if sets.names.empty:
        return _nothing(disease_sets, settings, len(loadings.symbols))
    null = LoadingNull(loadings.scores, loadings.detection_bins)
    tests = loading_tests(null, sets)
    called = disease_matrix(tests, sets, len(evidence.features), settings.max_q)
    edges = DiseaseEdges(*(evidence.edges[end].to_numpy() for end in ("source", "target")))
    mixing = same_disease(evidence, edges, called, np.diff(loadings.ranks.indptr) > 0)
    degrees = degree_table(evidence, edges, np.diff(called.indptr) > 0, settings)
    tables = {
        "disease": disease_table(evidence, loadings, sets, tests, settings.max_q),
        "disease_sets": sets_table(sets, called, mixing),
        "disease_degree": degrees,
    }
    answers = [
        _enriched_answer(evidence, settings, null, sets, tests, called, loadings),
        *(_degree_answer(evidence, edges, degrees, called, direction) for direction in ("out", "in")),
        _same_answer(evidence, settings, edges, called, mixing),
    ]
    return Found(tables, answers)


def disease_matrix(tests: LoadingTests, sets: BackgroundSets, n_features: int, max_q: float) -> sp.csr_matrix:
    """float64 (feature, set): 1 where the set is enriched on the feature."""
    kept = tests.q <= max_q
    place = (tests.feature[kept], tests.set[kept])
    return sp.csr_matrix((np.ones(int(kept.sum())), place), (n_features, len(sets.names)))


def same_disease(
    evidence: Evidence, edges: DiseaseEdges, called: sp.csr_matrix, has_list: np.ndarray
) -> SharedLabels | None:
    """Edges whose ends share a disease, among features with a list; None without two features with a disease."""
    if (np.diff(called.indptr) > 0).sum() < FEWEST_WITH_DISEASE:
        return None
    rows = np.flatnonzero(has_list)
    place = np.full(len(has_list) + 1, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    source, target = place[edges.source], place[edges.target]
    known = (source >= 0) & (target >= 0)
    stratum = np.unique(degree_strata(evidence)[rows], return_inverse=True)[1]
    found = shared_labels(source[known], target[known], called[rows], stratum)
    per_source = np.zeros(len(has_list), dtype=np.int64)
    per_source[rows] = found.per_source
    return SharedLabels(found.observed, found.expected, found.sd, per_source, found.total_sd)


def degree_table(
    evidence: Evidence, edges: DiseaseEdges, has_disease: np.ndarray, settings: FindingsSettings
) -> pd.DataFrame:
    """Table `disease_degree`."""
    parts = []
    for direction in ("out", "in"):
        rows, degree = degrees(evidence, edges, direction)
        known = degree, has_disease[rows], evidence.features.iloc[rows]
        fit = degree_regression(*known, settings.permutations, settings.seed)
        parts.append(fit.assign(direction=direction))
    table = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    return make_table("disease_degree", table)


def degrees(evidence: Evidence, edges: DiseaseEdges, direction: str) -> tuple[np.ndarray, np.ndarray]:
    """(features that could have edges in a direction, numbers of edges): ablated ones, or those of target layers."""
    if direction == "out":
        rows = evidence.source_rows
        rows = rows[rows >= 0]
    else:
        layers = np.unique(evidence.edges["target_layer"].to_numpy())
        rows = np.flatnonzero(np.isin(evidence.features["layer"].to_numpy(), layers))
    ends = edges.source if direction == "out" else edges.target
    return rows, degree_of(ends, len(evidence.features))[rows]


def disease_table(
    evidence: Evidence, loadings: Loadings, sets: BackgroundSets, tests: LoadingTests, max_q: float
) -> pd.DataFrame:
    """Table `disease`: the pairs that are called, best first."""
    hit = np.flatnonzero(tests.q <= max_q)
    if not len(hit):
        return empty_table("disease")
    row, column = tests.feature[hit], tests.set[hit]
    names = sets.names.iloc[column]
    shared = loadings.scores[row].multiply(sets.members.T.tocsr()[column]).tocsr()
    shared.sort_indices()
    genes = [";".join(loadings.symbols[part]) for part in np.split(shared.indices, shared.indptr[1:-1])]
    table = pd.DataFrame(
        {
            "layer": evidence.features["layer"].to_numpy()[row],
            "feature": evidence.features["feature"].to_numpy()[row],
            "collection": names["collection"].to_numpy(dtype=object),
            "disease": names["term"].to_numpy(dtype=object),
            "n_set": names["n_term"].to_numpy(),
            "n_list": np.diff(loadings.scores.indptr)[row],
            "n_overlap": tests.n_overlap[hit],
            "loading": tests.loading[hit],
            "expected": tests.expected[hit],
            "z": tests.z[hit],
            "p_value": tests.p[hit],
            "q_value": tests.q[hit],
            "genes": genes,
        }
    )
    order = ["q_value", "p_value", "z", "layer", "feature", "collection", "disease"]
    ascending = [True, True, False, True, True, True, True]
    return make_table("disease", table.sort_values(order, ascending=ascending, ignore_index=True))


def sets_table(sets: BackgroundSets, called: sp.csr_matrix, mixing: SharedLabels | None) -> pd.DataFrame:
    """Table `disease_sets`, most features first."""
    n_features = np.bincount(called.indices, minlength=len(sets.names))
    table = sets.names.rename(columns={"term": "disease", "n_term": "n_set"}).assign(n_features=n_features, n_edges=0)
    table = table.assign(n_expected=np.nan, sd_expected=np.nan, p_value=np.nan, q_value=np.nan)
    if mixing is not None:
        p = np.where(n_features >= FEWEST_WITH_DISEASE, mixing.p_values, np.nan)
        q = np.full(len(p), np.nan)
        q[np.isfinite(p)] = benjamini_hochberg(p[np.isfinite(p)])
        table = table.assign(n_edges=mixing.observed, n_expected=mixing.expected, sd_expected=mixing.sd)
        table = table.assign(p_value=p, q_value=q)
    order = ["n_features", "collection", "disease"]
    return make_table("disease_sets", table.sort_values(order, ascending=[False, True, True], ignore_index=True))


def _nothing(disease_sets: Sequence[GeneSets], settings: FindingsSettings, n_genes: int) -> Found:
    missing = f"No disease gene sets were given. {WHERE}"
    if disease_sets:
        missing = (
            f"No set of the files given has {settings.disease_min_genes} of the {n_genes:,} genes that features list "
            f"(findings.disease_min_genes). {WHERE}"
        )
    if not n_genes:
        missing = "No feature lists a gene. Lower annotate.min_firings, or take more cells."
    tables = {name: empty_table(name) for name in ("disease", "disease_sets", "disease_degree")}
    return Found(tables, [untestable(QUESTION, ASKED[key], STATISTICS[key], missing) for key in ASKED])


def _enriched_answer(
    evidence: Evidence,
    settings: FindingsSettings,
    null: LoadingNull,
    sets: BackgroundSets,
    tests: LoadingTests,
    called: sp.csr_matrix,
    loadings: Loadings,
) -> Answer:
    rng = np.random.default_rng(settings.seed)
    n_lists = max(int((null.length > 0).sum()), 1)
    n_called = int((np.diff(called.indptr) > 0).sum())
    drawn = called_by_chance(null, sets, tests.cut(settings.max_q), settings.disease_draws, rng)
    edges = DiseaseEdges(*(evidence.edges[end].to_numpy() for end in ("source", "target")))
    n_disease, n_labels = labels_with_disease(evidence, edges, loadings.scores > 0, sets.members)
    note = (
        f"{n_called:,} of {n_lists:,} features and {len(sets.names):,} gene sets; Benjamini-Hochberg over all pairs, "
        f"q <= {settings.max_q:g}. Overlap with a disease gene set says nothing of causes."
    )
    return Answer(
        QUESTION,
        ASKED["enriched"],
        STATISTICS["enriched"],
        value=n_called / n_lists,
        baseline=float(drawn.mean()) / n_lists,
        baseline_is="gene lists and gene sets are kept; genes are permuted within deciles of detection, and judged by "
        "the p that was asked of the features",
        p_value=(1 + int((drawn >= n_called).sum())) / (1 + len(drawn)),
        published=n_disease / n_labels if n_labels else np.nan,
        published_is=f"share of labels at edges with an uncorrected Fisher p below 0.05 for any set "
        f"({n_disease:,} of {n_labels:,}); more genes and more sets make it larger",
        unit="share",
        note=note,
    )


def _degree_answer(
    evidence: Evidence, edges: DiseaseEdges, table: pd.DataFrame, called: sp.csr_matrix, direction: str
) -> Answer:
    row = table[(table["direction"] == direction) & (table["term"] == MARK)]
    if row.empty:
        missing = (
            "There are fewer than 5 features with or without a disease in this direction, or no edges on one side. "
        )
        missing += "Trace more sources, or give sets of diseases that the cells express."
        return untestable(QUESTION, ASKED[direction], STATISTICS[direction], missing)
    row = row.iloc[0]
    rows, degree = degrees(evidence, edges, direction)
    mark = (np.diff(called.indptr) > 0)[rows]
    medians = [float(np.median(degree[mark == side])) for side in (True, False)]
    return Answer(
        QUESTION,
        ASKED[direction],
        STATISTICS[direction],
        value=float(np.exp(row["coefficient"])),
        baseline=1.0,
        baseline_is="Poisson regression given layer, firing rate and number of genes; p: diseases permuted within "
        "thirds of both in each layer",
        low=float(np.exp(row["low"])),
        high=float(np.exp(row["high"])),
        p_value=float(row["p_value"]),
        claim="higher",
        published=medians[0] / medians[1] if medians[1] > 0 else np.nan,
        published_is=f"ratio of the medians ({medians[0]:g} and {medians[1]:g} edges), nothing adjusted for: features "
        "that fire often have more edges and more genes",
        note=f"{int(row['n_disease']):,} of {int(row['n_features']):,} features have a disease. The interval is of "
        "robust standard errors and a little short where few have one; p is not.",
    )


def _same_answer(
    evidence: Evidence,
    settings: FindingsSettings,
    edges: DiseaseEdges,
    called: sp.csr_matrix,
    mixing: SharedLabels | None,
) -> Answer:
    if mixing is None or (expected := float(mixing.expected.sum())) <= 0:
        missing = "No two features that an edge could join have the same disease. Give more gene sets, or trace more."
        return untestable(QUESTION, ASKED["same"], STATISTICS["same"], missing)
    counts = mixing.per_source[evidence.source_rows]
    low, high = cluster_bootstrap(
        evidence.source_rows,
        lambda weight: float((counts * weight).sum()),
        settings.permutations,
        np.random.default_rng(settings.seed),
    )
    return Answer(
        QUESTION,
        ASKED["same"],
        STATISTICS["same"],
        value=float(mixing.observed.sum()) / expected,
        baseline=1.0,
        baseline_is="features are permuted with their diseases within layer, ablated or not, thirds of number of "
        "edges, firing rate and number of genes; exact mean and variance",
        low=low / expected,
        high=high / expected,
        p_value=mixing.total_p,
        claim="higher",
        published=same_disease_odds(evidence, edges, called),
        published_is="odds ratio of sharing a disease x being an edge over all pairs, without strata (of one run: "
        "edges in the place of the published consensus)",
        note=f"{int(mixing.observed.sum()):,} edges, {expected:,.1f} expected; an edge counts once for each disease "
        "that its ends share. They may list the same genes, as one feature found in two layers would. The interval "
        "resamples sources.",
    )
