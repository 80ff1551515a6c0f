"""Which gene programs (labels) are joined by an edge in each of several runs, in codes that the runs share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from cellcircuits.evidence import Evidence


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
    table = (
        pl.DataFrame({**ends, "snr": snr})
        .filter((pl.col("source") >= 0) & (pl.col("target") >= 0))
        .group_by("source", "target")
        .agg(pl.len().alias("n_edges"), pl.col("snr").mean())
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
    )


def _present(codes: np.ndarray, n_labels: int) -> np.ndarray:
    present = np.zeros(n_labels, dtype=bool)
    present[codes[codes >= 0]] = True
    return present
