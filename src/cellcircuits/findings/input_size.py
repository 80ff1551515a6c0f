"""Are effects stronger in one run than in another, once dictionaries of different size are compared alike?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import exp, nan

import numpy as np
import pandas as pd
import polars as pl

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.columns.comparison import INPUT_SIZE
from cellcircuits.evidence import Evidence
from cellcircuits.measures.run_programs import program_pairs
from cellcircuits.settings import FindingsSettings
from cellcircuits.stats import bootstrap_p, interval, reweighted_sums
from cellcircuits.tables import empty_table, make_table

QUESTION = "input_size"
MEASURES = {"snr": "|mean / sd|", "relative effect": "|mean delta / clean activation|"}
COLUMN = {"snr": "snr", "relative effect": "relative_effect"}
LISTED = 50
"""Targets per source and layer that the published comparison keeps."""
BINS = 256
"""Classes of strength, equally wide in its logarithm, in which a source's edges are counted for the intervals."""
COMPARED = 0.5
"""Part of the edges that is compared, of the run with the smaller share of edges: with all of them, sources could not
be reweighted without running out of edges."""
CURVE_POINTS = 40
PUBLISHED = (
    f"ratio of the means over the {LISTED} strongest targets per source and layer. With a smaller dictionary "
    f"{LISTED} targets are a larger share, and the mean is lower for that reason. The paper (1.40 in scGPT, 1.05 in "
    "Geneformer) also multiplies by the number of features, which has no statistical meaning"
)


@dataclass(frozen=True)
class Strengths:
    """How strong the edges of one run are."""

    log: np.ndarray
    """float32 (edge,): natural logarithm of the measure, NaN where it is 0 or no number."""
    source: np.ndarray
    """int32 (edge,): place of the edge's source among the run's sources."""
    tested: np.ndarray
    """(source,): pairs tested of each source."""

    @property
    def share(self) -> float:
        """Edges with a strength / tested pairs; 0 where the run does not say how many were tested."""
        return float(np.isfinite(self.log).sum() / self.tested.sum()) if self.tested.sum() > 0 else 0.0


def ask(runs: dict[str, Evidence], settings: FindingsSettings) -> Found:
    """Tables `input_size` and `input_size_curve`; three answers per pair of runs."""
    asked, statistic = "Are the effects of one run stronger than those of another?", "ratio of mean strengths"
    if len(runs) < 2:
        note = "A comparison of strengths needs two runs or more. Name a second run."
        return Found({}, [untestable(QUESTION, asked, statistic, note)])
    rng = np.random.default_rng(settings.seed)
    rows, curves, answers = [], [], []
    for measure in MEASURES:
        found = {name: strengths(run, measure) for name, run in runs.items()}
        curves += [curve(name, measure, one) for name, one in found.items()]
        for first, second in combinations(runs, 2):
            pair = {name: runs[name] for name in (first, second)}
            row = _compare(pair, {name: found[name] for name in pair}, measure, settings.permutations, rng)
            rows.append(row)
            answers += _answers(row)
    table = make_table("input_size_curve", pd.concat(curves)) if curves else empty_table("input_size_curve")
    return Found({QUESTION: make_table(QUESTION, pd.DataFrame(rows)), "input_size_curve": table}, answers)


def strengths(run: Evidence, measure: str) -> Strengths:
    """Strengths of a run's edges, and the pairs tested of each source: those of its layer, shared out equally."""
    rows = run.source_rows[run.source_rows >= 0]
    layer = run.features["layer"].to_numpy()[rows]
    place = np.full(len(run.features) + 1, -1, dtype=np.int32)
    place[rows] = np.arange(len(rows), dtype=np.int32)
    source = place[run.edges["source"].to_numpy()]
    values = (
        np.abs(run.edges[COLUMN[measure]].to_numpy()) if COLUMN[measure] in run.edges.columns else np.zeros(len(source))
    )
    values = np.where((values > 0) & np.isfinite(values) & (source >= 0), values, np.nan)
    tested = run.table("tested").groupby("source_layer")["n_tested"].sum()
    n_sources = np.bincount(layer, minlength=run.n_layers)
    per_source = tested.reindex(range(run.n_layers), fill_value=0).to_numpy() / np.maximum(n_sources, 1)
    return Strengths(np.log(values).astype(np.float32), source, per_source[layer])


def strongest(found: Strengths, share: float) -> tuple[float, np.ndarray]:
    """(mean logarithm over the strongest edges, their places): as many as `share` of the tested pairs, at least one."""
    places = np.flatnonzero(np.isfinite(found.log))
    n = min(len(places), max(1, round(share * float(found.tested.sum()))))
    order = np.argpartition(found.log[places], len(places) - n)[len(places) - n :]
    chosen = np.sort(places[order])
    return float(found.log[chosen].mean(dtype=np.float64)), chosen


def drawn_means(found: Strengths, share: float, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draw,): mean logarithm over the strongest `share` of the tested pairs when every source gets a random weight.

    From each source's edges counted in BINS classes of strength; of the class at the boundary, the part that is needed.
    """
    kept = np.isfinite(found.log)
    log, source, n_sources = found.log[kept], found.source[kept], len(found.tested)
    low, high = float(log.min()), float(log.max())
    bins = np.minimum(((high - log) / max(high - low, 1e-9) * BINS).astype(np.int64), BINS - 1)
    cell = source.astype(np.int64) * BINS + bins
    count = np.bincount(cell, minlength=n_sources * BINS).reshape(n_sources, BINS)
    total = np.bincount(cell, weights=log, minlength=n_sources * BINS).reshape(n_sources, BINS)
    sums = reweighted_sums(np.column_stack([found.tested, count, total]), np.arange(n_sources), draws=draws, rng=rng)
    wanted, count, total = share * sums[:, :1], sums[:, 1 : BINS + 1], sums[:, BINS + 1 :]
    before = np.cumsum(count, axis=1) - count
    part = np.clip((wanted - before) / np.where(count > 0, count, 1.0), 0.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (part * total).sum(axis=1) / (part * count).sum(axis=1)


def common_pairs(pair: dict[str, Evidence], logs: dict[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """Ordered pairs of different labels that the given edges join in both runs: source, target, and the difference
    (first - second) of the runs' mean logarithms. `logs`: places of the edges of each run, and their logarithms."""
    # the strength stands in the place of the signal-to-noise ratio, of which program pairs hold the mean
    chosen = {}
    for name, run in pair.items():
        places, log = logs[name]
        edges = run.edges[places].with_columns(snr=pl.Series(log, dtype=pl.Float32))
        chosen[name] = Evidence(edges, run.features, run.tables)
    _, found = program_pairs(chosen)
    first, second = (
        pd.DataFrame({"source": one.source, "target": one.target, "log": one.mean_snr}) for one in found.values()
    )
    both = first.merge(second, on=["source", "target"], suffixes=("_first", "_second"))
    both = both[both["source"] != both["target"]].reset_index(drop=True)
    return both.assign(difference=both["log_first"] - both["log_second"])


def published_ratio(pair: dict[str, Evidence], measure: str) -> float:
    """Ratio of the means of the measure over the LISTED strongest targets of every source and target layer."""
    means = []
    for run in pair.values():
        if COLUMN[measure] not in run.edges.columns:
            return nan
        value = pl.col(COLUMN[measure]).cast(pl.Float64).abs()
        edges = run.edges.select("source", "target_layer", value=value).filter(pl.col("value").is_finite())
        listed = edges.group_by("source", "target_layer").agg(pl.col("value").top_k(LISTED)).explode("value")
        means.append(listed["value"].sort().to_numpy().mean() if listed.height else nan)
    return float(means[0] / means[1])


def _compare(
    pair: dict[str, Evidence], found: dict[str, Strengths], measure: str, draws: int, rng: np.random.Generator
) -> dict:
    """Row of `input_size`."""
    both = list(found.values())
    share = COMPARED * min(one.share for one in both)
    row = {
        **dict(zip(("first", "second"), pair, strict=True)),
        **dict.fromkeys((column.name for column in INPUT_SIZE[3:]), nan),
        "measure": measure,
        "n_tested_first": int(both[0].tested.sum()),
        "n_tested_second": int(both[1].tested.sum()),
        "share_of_tested": share,
        "n_common_pairs": 0,
    }
    if share <= 0:
        return row
    means, chosen = zip(*[strongest(one, share) for one in both], strict=True)
    drawn = np.subtract(*[drawn_means(one, share, draws, rng) for one in both])
    low, high = interval(np.exp(drawn))
    difference = means[0] - means[1]
    n_sources = min(int((one.tested > 0).sum()) for one in both)
    row |= {
        "mean_first": exp(means[0]),
        "mean_second": exp(means[1]),
        "ratio": exp(difference),
        "interval_low": low,
        "interval_high": high,
        "p_value": bootstrap_p(difference, 0.0, drawn, n_sources, "two-sided"),
        "published_ratio": published_ratio(pair, measure),
    }
    logs = {name: (places, found[name].log[places]) for name, places in zip(pair, chosen, strict=True)}
    return row | _common(common_pairs(pair, logs), draws, rng)


def _common(common: pd.DataFrame, draws: int, rng: np.random.Generator) -> dict:
    """The part of a row on the pairs of labels that both runs join."""
    if common.empty:
        return {"n_common_pairs": 0}
    clusters = [np.unique(common[end], return_inverse=True)[1] for end in ("source", "target")]
    difference = common["difference"].to_numpy()
    sums = reweighted_sums(np.column_stack([np.ones(len(common)), difference]), *clusters, draws=draws, rng=rng)
    drawn, value = sums[:, 1] / sums[:, 0], float(difference.mean())
    low, high = interval(np.exp(drawn))
    n_clusters = min(int(member.max()) + 1 for member in clusters)
    return {
        "n_common_pairs": len(common),
        "common_ratio": exp(value),
        "common_low": low,
        "common_high": high,
        "common_p_value": bootstrap_p(value, 0.0, drawn, n_clusters, "two-sided"),
    }


def curve(name: str, measure: str, found: Strengths) -> pd.DataFrame:
    """Rows of `input_size_curve`: the strength that a share of the tested pairs reaches, at equal steps of its log."""
    ordered = np.sort(found.log[np.isfinite(found.log)])[::-1]
    n = len(ordered)
    ranks = (
        np.unique(np.geomspace(1, n, CURVE_POINTS).round().astype(np.int64))
        if found.share > 0
        else np.zeros(0, dtype=np.int64)
    )
    columns = {
        "run": np.full(len(ranks), name, dtype=object),
        "measure": np.full(len(ranks), measure, dtype=object),
        "share_of_tested": ranks / float(found.tested.sum()),
        "value": np.exp(ordered[ranks - 1].astype(np.float64)),
    }
    return make_table("input_size_curve", pd.DataFrame(columns))


def _answers(row: dict) -> list[Answer]:
    first, second, measure = row["first"], row["second"], row["measure"]
    asked = f"Are the effects of {first} stronger than those of {second} ({measure})?"
    statistic = f"ratio of the geometric means of {MEASURES[measure]}, over the same share of the tested pairs of both"
    if not np.isfinite(row["ratio"]):
        note = "Both runs need edges with this measure, and their numbers of tested pairs. Run the stage edges of both."
        return [untestable(QUESTION, asked, statistic, note)]
    whole = Answer(
        QUESTION,
        asked,
        statistic,
        value=row["ratio"],
        baseline=1.0,
        baseline_is="both runs equally strong",
        low=row["interval_low"],
        high=row["interval_high"],
        p_value=row["p_value"],
        claim="higher",
        published=row["published_ratio"],
        published_is=PUBLISHED,
        unit="ratio",
        note=f"Means {row['mean_first']:.3g} and {row['mean_second']:.3g} over the strongest "
        f"{row['share_of_tested']:.2%} of {row['n_tested_first']:,} and {row['n_tested_second']:,} tested pairs.",
    )
    if not row["n_common_pairs"]:
        return [whole]
    common = Answer(
        QUESTION,
        f"Are the effects of {first} stronger than those of {second} between the same gene programs ({measure})?",
        f"geometric mean, over the pairs of gene programs joined in both, of the ratio of mean {MEASURES[measure]}",
        value=row["common_ratio"],
        baseline=1.0,
        baseline_is="both runs equally strong",
        low=row["common_low"],
        high=row["common_high"],
        p_value=row["common_p_value"],
        claim="higher",
        unit="ratio",
        note=f"{row['n_common_pairs']:,} pairs of gene programs, by the same edges.",
    )
    return [whole, common]
