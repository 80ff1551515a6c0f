"""Is an effect between two features explained by the co-expression of their genes?

Co-expression of an edge: the mean |Pearson r| over cells between a top gene of the source and one of the target, no
gene with itself. The published study takes the largest |r| of up to 400 pairs of genes, which is near its ceiling for
any pair of features, and only edges, so that co-expression can hardly vary; its R2 of 0.010 does not show independence.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse as sp

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.measures.candidate_targets import Candidates, ScoredEdges, compare_candidates
from cellcircuits.measures.gene_correlation import ListCorrelation, list_correlation
from cellcircuits.measures.loadings import nested_bins, read_loadings
from cellcircuits.settings import FindingsSettings
from cellcircuits.tables import empty_table, make_table

QUESTION = "coexpression"
FIRING_BINS = 5
BINS = 10
FEWEST_EDGES = 10
RANKS = 10_000
"""Co-expression is ranked among about so many edges, where pairs that are no edge are ranked too."""
ASKED = {
    "spearman": "Are effects stronger between features whose genes are co-expressed?",
    "partial": "Are effects stronger between features whose genes are co-expressed, given how often both fire?",
    "auroc": "Do edges lead to features whose genes are co-expressed with those of the source?",
}
STATISTICS = {
    "spearman": "Spearman correlation of |snr| with co-expression",
    "partial": "partial Spearman correlation, given the firing rates of both ends",
    "auroc": "chance that an edge has a higher co-expression than a pair of the same source without an edge",
}
BASELINE = (
    "sources and edges are kept; gene lists of targets are permuted within target layer and fifth of firing rate, "
    "alike for all sources"
)


def ask(
    evidence: Evidence,
    settings: FindingsSettings,
    expression: sp.csr_matrix | None = None,
    genes: np.ndarray | None = None,
) -> Found:
    """Correlation of |snr| with co-expression, and co-expression of edges against pairs without an edge.

    Parameters
    ----------
    evidence
        With the table `feature_genes`.
    expression
        (cell, gene): log-normalised, of cells like those traced (`expression.cell_expression`).
    genes
        str (gene,): symbols.
    """
    if expression is None or genes is None:
        return _nothing("The run has no expression matrix. Set cells.data to the AnnData file of the cells.")
    lists = list_correlation(read_loadings(evidence), settings.coexpression_genes, expression, genes)
    edges = edge_table(evidence, lists)
    if edges.height < FEWEST_EDGES:
        missing = f"{edges.height} edges join features that list genes of these cells; {FEWEST_EDGES} are needed."
        return _nothing(f"{missing} Trace more sources, or give cells with the genes of the model.")
    y, x = (edges[name].rank().to_numpy() for name in ("abs_snr", "mean"))
    given = [edges[f"{end}_rate"].rank().to_numpy() for end in ("source", "target")]
    residual_y, residual_x = residuals(y, given), residuals(x, given)
    pairs = [(y - y.mean(), x - x.mean()), (residual_y, residual_x)]
    found = _candidates(evidence, settings, lists, edges, np.stack([a for a, _ in pairs]))
    tables = {"coexpression": by_layers(edges), "coexpression_bins": by_bins(edges)}
    rng = np.random.default_rng(settings.seed)
    source = edges["source"].to_numpy()
    answers = [
        _correlation_answer(key, edges, *pair, source, found, number, settings, rng)
        for number, (key, pair) in enumerate(zip(("spearman", "partial"), pairs, strict=True))
    ]
    return Found(tables, [*answers, _auroc_answer(found, settings, rng)])


def edge_table(evidence: Evidence, lists: ListCorrelation) -> pl.DataFrame:
    """Edges with co-expression, sorted by source: source, target, layers, abs_snr, mean, largest, shared, rates."""
    has_list = np.append(lists.n_listed > 0, False)
    ends = [evidence.edges[end].to_numpy() for end in ("source", "target")]
    kept = has_list[ends[0]] & has_list[ends[1]] & np.isfinite(evidence.edges["snr"].to_numpy())
    edges = evidence.edges.filter(pl.Series(kept)).sort("source", "target")
    source, target = edges["source"].to_numpy(), edges["target"].to_numpy()
    mean, largest, shared = lists.of_pairs(source, target)
    rate = evidence.features["firing_rate"].to_numpy(np.float32)
    more = {"mean": mean, "largest": largest, "shared": shared}
    more |= {"source_rate": rate[source], "target_rate": rate[target]}
    edges = edges.select("source", "target", "source_layer", "target_layer", abs_snr=pl.col("snr").abs())
    return edges.with_columns(**{name: pl.Series(values) for name, values in more.items()}).filter(
        pl.col("mean").is_not_nan()
    )


def residuals(values: np.ndarray, given: list[np.ndarray]) -> np.ndarray:
    """What is left of `values` (n,) after least squares on a constant and the variables given."""
    design = np.column_stack([np.ones(len(values)), *(variable - variable.mean() for variable in given)])
    scale = np.sqrt((design**2).sum(axis=0))
    design = design[:, scale > 0] / scale[scale > 0]
    coefficients = np.linalg.lstsq(design.T @ design, design.T @ values, rcond=1e-10)[0]
    return values - design @ coefficients


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of two centred variables; NaN where one does not vary."""
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length > 1e-9 * len(a) else float("nan")


def by_layers(edges: pl.DataFrame) -> pd.DataFrame:
    """Table `coexpression`."""
    rows = []
    for (source_layer, target_layer), part in edges.group_by("source_layer", "target_layer", maintain_order=True):
        y, x, *given = (part[name].rank().to_numpy() for name in ("abs_snr", "mean", "source_rate", "target_rate"))
        row = {"source_layer": source_layer, "target_layer": target_layer, "n_edges": part.height}
        row |= {"mean_correlation": part["mean"].mean(), "max_correlation": part["largest"].mean()}
        row |= {"spearman": correlation(y - y.mean(), x - x.mean())}
        row |= {"partial_spearman": correlation(residuals(y, given), residuals(x, given))}
        rows.append(row)
    table = make_table("coexpression", pd.DataFrame(rows))
    return table.sort_values(["source_layer", "target_layer"], ignore_index=True)


def by_bins(edges: pl.DataFrame) -> pd.DataFrame:
    """Table `coexpression_bins`."""
    place = (edges["mean"].rank("ordinal") - 1) * BINS // edges.height
    groups = edges.with_columns(bin=place).group_by("bin")
    snr, mean = pl.col("abs_snr"), pl.col("mean")
    table = groups.agg(
        correlation_low=mean.min(),
        correlation_high=mean.max(),
        n_edges=pl.len(),
        abs_snr_q25=snr.quantile(0.25, "linear"),
        abs_snr_median=snr.median(),
        abs_snr_q75=snr.quantile(0.75, "linear"),
    ).sort("bin")
    return make_table("coexpression_bins", {name: table[name].to_numpy() for name in table.columns})


def _candidates(
    evidence: Evidence, settings: FindingsSettings, lists: ListCorrelation, edges: pl.DataFrame, weights: np.ndarray
) -> Candidates:
    source, target = (edges[end].to_numpy().astype(np.int64) for end in ("source", "target"))
    layer = evidence.features["layer"].to_numpy(np.int64)
    sources = np.unique(source)
    if len(sources) > settings.coexpression_sources:
        rng = np.random.default_rng(settings.seed)
        sources = np.sort(rng.choice(sources, settings.coexpression_sources, replace=False))
    possible = np.flatnonzero(np.isin(layer, layer[target]) & (lists.n_listed > 0))
    stratum = np.full(len(layer), -1, dtype=np.int64)
    rate = evidence.features["firing_rate"].to_numpy()
    stratum[possible] = nested_bins(layer[possible], rate[possible], FIRING_BINS)
    linked = np.zeros((evidence.n_layers, evidence.n_layers), dtype=bool)
    linked[layer[source], layer[target]] = True
    layer_of = np.zeros(int(stratum.max()) + 1, dtype=np.int64)
    layer_of[stratum[possible]] = layer[possible]
    known = np.sort(edges["mean"].to_numpy())[:: max(1, edges.height // RANKS)]
    scored = ScoredEdges(source, target, weights, known)
    reached = linked[layer[sources]][:, layer_of]
    return compare_candidates(scored, sources, stratum, reached, lists, settings.permutations, settings.seed)


def _correlation_answer(
    key: str,
    edges: pl.DataFrame,
    y: np.ndarray,
    x: np.ndarray,
    source: np.ndarray,
    found: Candidates,
    number: int,
    settings: FindingsSettings,
    rng: np.random.Generator,
) -> Answer:
    names, row = np.unique(source, return_inverse=True)
    parts = np.column_stack([np.bincount(row, values) for values in (y * x, y * y, x * x)])
    drawn = _resampled(parts, settings.permutations, rng)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = _ends(drawn[:, 0] / np.sqrt(drawn[:, 1] * drawn[:, 2]))
        # the null mean is of ranks between 0 and 1; x are ranks between 1 and n
        baseline = found.expected[number] * len(x) / (np.sqrt((y @ y) * (x @ x)) / len(x))
    published = np.where(edges["shared"].to_numpy() > 0, 1.0, edges["largest"].to_numpy())
    strength = edges["abs_snr"].to_numpy().astype(float)
    r = correlation(published - published.mean(), strength - strength.mean())
    note = f"{edges.height:,} edges of {len(names):,} sources; p from the {found.n_edges:,} edges of up to "
    note += f"{settings.coexpression_sources} sources. The interval resamples sources."
    return Answer(
        QUESTION,
        ASKED[key],
        STATISTICS[key],
        value=correlation(y, x),
        baseline=float(baseline),
        baseline_is=BASELINE,
        low=low,
        high=high,
        p_value=float(found.p_weights[number]),
        claim="higher",
        published=r**2,
        published_is="R2 of |snr| on the largest |r|, genes with themselves included; near its ceiling for most edges",
        note=note,
    )


def _auroc_answer(found: Candidates, settings: FindingsSettings, rng: np.random.Generator) -> Answer:
    if not found.compared.sum():
        missing = "Every possible target of these sources is an edge, or none is. Use stricter edges."
        return untestable(QUESTION, ASKED["auroc"], STATISTICS["auroc"], missing)
    drawn = _resampled(np.column_stack([found.concordant, found.compared]), settings.permutations, rng)
    low, high = _ends(drawn[:, 0] / np.maximum(drawn[:, 1], 1))
    return Answer(
        QUESTION,
        ASKED["auroc"],
        STATISTICS["auroc"],
        value=found.auroc,
        baseline=0.5,
        baseline_is=BASELINE + "; compared within these strata",
        low=low,
        high=high,
        p_value=found.p_auroc,
        claim="higher",
        note=f"{found.n_edges:,} edges of {len(found.compared):,} sources. The interval resamples sources.",
    )


def _resampled(parts: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draw, part): sums of the rows of `parts` (source, part), sources drawn with replacement."""
    n = len(parts)
    return np.stack([np.bincount(rng.integers(n, size=n), minlength=n) @ parts for _ in range(draws)])


def _ends(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _nothing(missing: str) -> Found:
    tables = {name: empty_table(name) for name in ("coexpression", "coexpression_bins")}
    return Found(tables, [untestable(QUESTION, ASKED[key], STATISTICS[key], missing) for key in ASKED])
