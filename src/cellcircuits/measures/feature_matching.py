"""Which features of two runs are the same, by the genes that they fire on: mutual best cosine of gene loadings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from cellcircuits.evidence import Evidence, feature_rows

ROWS_AT_ONCE = 1000
"""Features whose cosines with all features of the other run are held at a time."""


@dataclass(frozen=True)
class Matches:
    """Pairs of features of two runs, in order of the first."""

    first: np.ndarray
    """(pair,): rows of the first run's features."""
    second: np.ndarray
    """(pair,): rows of their partners."""
    cosine: np.ndarray
    """(pair,)."""

    def __len__(self) -> int:
        return len(self.first)

    def swapped(self) -> Matches:
        """The same pairs, seen from the other run."""
        return Matches(self.second, self.first, self.cosine)


def loadings(first: Evidence, second: Evidence) -> tuple[csr_array, csr_array, int]:
    """Gene loadings (feature, gene) of two runs, float32, rows of norm 1 (or 0), and the number of genes.

    A loading is the feature's score on a gene of its list (table `feature_genes`), 0 for other genes. Genes are told
    by their symbols in upper case, by their identifiers without one; only genes on lists of both runs count. Scores
    that are not above 0 are left out.
    """
    lists = [_lists(evidence) for evidence in (first, second)]
    genes = np.intersect1d(*[frame["gene"].unique().astype(str) for frame in lists])
    place = pd.Index(genes.astype(object))
    parts = []
    for evidence, frame in zip((first, second), lists, strict=True):
        column = place.get_indexer(frame["gene"])
        kept = column >= 0
        entries = frame["score"].to_numpy(np.float64)[kept], (frame["row"].to_numpy()[kept], column[kept])
        matrix = csr_array(entries, shape=(len(evidence.features), len(genes)))
        matrix.sum_duplicates()
        norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        matrix.data /= np.repeat(np.where(norm > 0, norm, 1.0), np.diff(matrix.indptr))
        parts.append(matrix.astype(np.float32))
    return parts[0], parts[1], len(genes)


def _lists(evidence: Evidence) -> pd.DataFrame:
    """row (of the features), gene and score of every gene on a list."""
    table = evidence.table("feature_genes")
    symbol = table["symbol"].str.upper() if len(table) else table["symbol"]
    frame = pd.DataFrame(
        {
            "row": feature_rows(evidence.features, table["layer"], table["feature"]),
            "gene": symbol.where(symbol != "", table["gene_id"]),
            "score": table["score"],
        }
    )
    return frame[(frame["row"] >= 0) & (frame["score"] > 0) & np.isfinite(frame["score"])]


def depth_groups(first: Evidence, second: Evidence, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Part of the model's depth of every feature of both runs: its layer if they have equally many layers, else
    floor(n_bins layer / (layers - 1)), the last layer in the last part."""
    layers = [evidence.features["layer"].to_numpy() for evidence in (first, second)]
    if first.n_layers == second.n_layers:
        return layers[0], layers[1]
    depth = [layer / max(run.n_layers - 1, 1) for layer, run in zip(layers, (first, second), strict=True)]
    binned = [np.minimum((n_bins * part).astype(np.int64), n_bins - 1) for part in depth]
    return binned[0], binned[1]


def mutual_best(
    first: csr_array,
    second: csr_array,
    groups: tuple[np.ndarray, np.ndarray],
    rows: tuple[np.ndarray, np.ndarray],
    min_cosine: float,
) -> Matches:
    """Pairs of features, each the other's nearest in cosine among those of its group, with at least `min_cosine`.

    `first` and `second` are loadings (feature, gene); `groups` (feature,) of each; `rows`: the features of either run
    that take part. Of equally near ones the first counts.
    """
    parts = []
    for group in np.intersect1d(groups[0][rows[0]], groups[1][rows[1]]):
        own, other = (side[part[side] == group] for side, part in zip(rows, groups, strict=True))
        best, cosine, back = _nearest(first[own], second[other])
        mutual = np.flatnonzero((cosine >= min_cosine) & (cosine > 0) & (back[best] == np.arange(len(own))))
        parts.append((own[mutual], other[best[mutual]], cosine[mutual]))
    if not parts:
        return Matches(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
    a, b, cosine = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(a, kind="stable")
    return Matches(a[order], b[order], cosine[order].astype(np.float64))


def _nearest(first: csr_array, second: csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(nearest row of `second` for each of `first`, their cosine, nearest row of `first` for each of `second`)."""
    best, cosine = np.zeros(first.shape[0], dtype=np.int64), np.zeros(first.shape[0], dtype=np.float32)
    back, back_cosine = np.full(second.shape[0], -1), np.zeros(second.shape[0], dtype=np.float32)
    transposed = second.T.tocsr()
    for start in range(0, first.shape[0], ROWS_AT_ONCE):
        product = csr_array(first[start : start + ROWS_AT_ONCE] @ transposed)
        rows, where, highest = _largest(product)
        best[start + rows], cosine[start + rows] = where, highest
        columns, where, highest = _largest(csr_array(product.T.tocsr()))
        higher = highest > back_cosine[columns]
        back[columns[higher]], back_cosine[columns[higher]] = start + where[higher], highest[higher]
    return best, cosine, back


def _largest(matrix: csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows with entries, column of the largest entry of each, that entry); the first column of equal ones."""
    length = np.diff(matrix.indptr)
    rows = np.flatnonzero(length)
    if len(rows) == 0:
        return rows, rows, matrix.data[:0]
    starts = matrix.indptr[rows]
    highest = np.maximum.reduceat(matrix.data, starts)
    is_highest = matrix.data == np.repeat(highest, length[rows])
    columns = np.where(is_highest, matrix.indices, matrix.shape[1])
    return rows, np.minimum.reduceat(columns, starts), highest
