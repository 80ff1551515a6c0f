"""Which gene programs (labels) are joined by an edge in each of several runs, in codes that the runs share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan

import numpy as np
import pandas as pd
import polars as pl

from cellcircuits.evidence import Evidence
from cellcircuits.measures.ordered import ordered_mean


@dataclass(frozen=True)
class ProgramPairs:
    """Ordered pairs of labels that an edge of one run joins, in order of source and target; whole numbers."""

    source: np.ndarray
    """(pair,): label of the sources."""
    target: np.ndarray
    """(pair,): label of the targets."""
    n_edges: np.ndarray
    """(pair,): edges between features of these labels."""
    mean_snr: np.ndarray
    """(pair,): mean signal-to-noise ratio of those whose ratio is a number; NaN without any."""
    known: np.ndarray
    """bool (label,): labels of any feature of the run."""
    can_be_source: np.ndarray
    """bool (label,): labels of any ablated feature."""
    can_be_target: np.ndarray
    """bool (label,): labels of any feature above the lowest layer with ablated features."""
    leaving: np.ndarray
    """(pair of layers, label): edges, of those with two labels, whose source has the label."""
    reaching: np.ndarray
    """(pair of layers, label): edges, of those with two labels, whose target has the label."""

    def __len__(self) -> int:
        return len(self.source)

    def among(self, sources: np.ndarray, targets: np.ndarray) -> ProgramPairs:
        """The pairs of different labels with a source in `sources` and a target in `targets`, bool (label,)."""
        kept = sources[self.source] & targets[self.target] & (self.source != self.target)
        columns = {name: getattr(self, name)[kept] for name in ("source", "target", "n_edges", "mean_snr")}
        return replace(self, **columns)


def program_pairs(runs: dict[str, Evidence]) -> tuple[np.ndarray, dict[str, ProgramPairs]]:
    """(names of the labels of all runs, sorted; joined pairs of each run); edges of unlabelled ends are left out."""
    own = {name: evidence.labels for name, evidence in runs.items()}
    names = np.unique(np.concatenate([np.zeros(0, dtype=object), *(labels for labels, _ in own.values())]).astype(str))
    found = {}
    for name, evidence in runs.items():
        labels, code = own[name]
        # the place after the last is that of features that have no label, which -1 leads to
        shared = np.append(np.searchsorted(names, labels.astype(str)), -1)
        found[name] = _pairs(evidence, shared[code], len(names))
    return names.astype(object), found


def _pairs(evidence: Evidence, code: np.ndarray, n_labels: int) -> ProgramPairs:
    code = np.append(code, -1)
    ends = {end: code[evidence.edges[end].to_numpy()] for end in ("source", "target")}
    snr = evidence.edges["snr"].cast(pl.Float64).fill_nan(None)
    layers = evidence.edges["source_layer"] * evidence.n_layers + evidence.edges["target_layer"]
    named = pl.DataFrame({**ends, "snr": snr, "layers": layers}).filter(
        (pl.col("source") >= 0) & (pl.col("target") >= 0)
    )
    table = (
        named.group_by("source", "target")
        .agg(pl.len().alias("n_edges"), ordered_mean(pl.col("snr")))
        .sort("source", "target")
    )
    layer = evidence.features["layer"].to_numpy()
    sources = evidence.source_rows[evidence.source_rows >= 0]
    above = layer > layer[sources].min() if len(sources) else np.zeros(len(layer), dtype=bool)
    return ProgramPairs(
        source=table["source"].to_numpy().astype(np.int64),
        target=table["target"].to_numpy().astype(np.int64),
        n_edges=table["n_edges"].to_numpy().astype(np.int64),
        mean_snr=table["snr"].fill_null(np.nan).to_numpy(),
        known=_present(code[:-1], n_labels),
        can_be_source=_present(code[sources], n_labels),
        can_be_target=_present(code[:-1][above], n_labels),
        leaving=_counts(named, "source", n_labels),
        reaching=_counts(named, "target", n_labels),
    )


def _counts(named: pl.DataFrame, end: str, n_labels: int) -> np.ndarray:
    """int64 (pair of layers, label): edges by the label of this end; pairs of layers with edges, in their order."""
    strata, stratum = np.unique(named["layers"].to_numpy(), return_inverse=True)
    cell = stratum * n_labels + named[end].to_numpy()
    return np.bincount(cell, minlength=len(strata) * n_labels).reshape(len(strata), n_labels)


def _present(codes: np.ndarray, n_labels: int) -> np.ndarray:
    present = np.zeros(n_labels, dtype=bool)
    present[codes[codes >= 0]] = True
    return present


def by_pair(runs: list[ProgramPairs]) -> pd.DataFrame:
    """Every pair that any run joins: source, target, n_runs, n_edges, mean_snr (of the runs' means), n_negative,
    n_positive and same_sign, in order of source and target."""
    kinds = {"source": pl.Int64, "target": pl.Int64, "n_edges": pl.Int64, "mean_snr": pl.Float64}
    frames = [pl.DataFrame({name: getattr(run, name) for name in kinds}, schema=kinds) for run in runs]
    sign = pl.col("mean_snr").sign()
    table = (
        pl.concat(frames)
        .with_columns(pl.col("mean_snr").fill_nan(None))
        .group_by("source", "target")
        .agg(
            pl.len().cast(pl.Int64).alias("n_runs"),
            pl.col("n_edges").sum(),
            ordered_mean(pl.col("mean_snr")),
            (sign < 0).sum().cast(pl.Int64).alias("n_negative"),
            (sign > 0).sum().cast(pl.Int64).alias("n_positive"),
            ((sign.min() == sign.max()) & (sign.count() == pl.len())).fill_null(False).alias("same_sign"),
        )
        .sort("source", "target")
        .with_columns(pl.col("mean_snr").fill_null(nan))
    )
    return table.to_pandas()
