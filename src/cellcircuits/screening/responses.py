"""How genes answer when another gene is perturbed, in one cell line of a screen: matrices of perturbation and gene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellcircuits.screen_settings import ScreenSettings
from cellcircuits.tables import make_table

VERIFIED, NOT_VERIFIED, NOT_MEASURED, NOT_JUDGED = "verified", "not verified", "not measured", "not judged"


@dataclass(frozen=True)
class Responses:
    """One cell line of a screen; matrices are float32 (perturbation, gene), NaN where not measured."""

    screen: str
    cell_line: str
    """Labels of the columns of cell lines, joined by ", "; "" without such columns."""
    kind: str
    """ "knock-down", "knock-out" or "activation"."""
    sources: np.ndarray
    """object (perturbation,): perturbed genes, each once."""
    genes: np.ndarray
    """object (gene,): measured genes, each once."""
    log_fc: np.ndarray
    """log2 fold change against the control."""
    standard_error: np.ndarray
    q_value: np.ndarray
    """Benjamini-Hochberg over the genes of each perturbation."""
    expression: np.ndarray
    """float32 (gene,): mean log2 expression of the control; NaN where unknown."""
    knock_downs: pd.DataFrame
    """Table `knock_downs`: one row per perturbation, in the order of `sources`."""
    used: np.ndarray
    """bool (perturbation,): verified, or kept without."""
    coexpression: np.ndarray | None = None
    """Pearson correlation of the genes over control cells."""
    published_log_fc: np.ndarray | None = None
    """log2(mean + 1) of the perturbed cells minus that of the control, all cell lines pooled, values as stored."""
    notes: tuple[str, ...] = ()
    """What a reader must know of how these were made."""

    @property
    def name(self) -> str:
        """Screen and cell line in words."""
        return f"{self.screen}, {self.cell_line}" if self.cell_line else self.screen

    @property
    def own(self) -> np.ndarray:
        """int (perturbation,): column of the perturbed gene itself, -1 where it is not among the genes."""
        return positions(self.sources, self.genes)


def positions(names: np.ndarray | pd.Series, among: np.ndarray) -> np.ndarray:
    """int (name,): place of each name in `among`, whatever the case; the first of several, -1 where there is none."""
    first = pd.Series(np.arange(len(among)), index=_upper(among))
    first = first[~first.index.duplicated()]
    return first.reindex(_upper(names)).fillna(-1).to_numpy(dtype=np.int64)


def _upper(names: np.ndarray | pd.Series) -> np.ndarray:
    return pd.Series(np.asarray(names), dtype=object).astype(str).str.upper().to_numpy(dtype=object)


def verify(
    settings: ScreenSettings, log_fc: np.ndarray, p_value: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(status, log2 fold change, p) of every perturbation's own transcript; `own` is its column, -1 without one.

    Verified: it changes by at least `min_change` in the direction of the perturbation, and p is at most `max_p`. Where
    no p is known (all NaN), the size alone decides. Knock-outs are not judged: the transcript may stay.
    """
    at = np.arange(len(own)), np.maximum(own, 0)
    change = np.where(own >= 0, log_fc[at], np.nan)
    p = np.where(own >= 0, p_value[at], np.nan)
    directed = change if settings.kind == "activation" else -change
    with np.errstate(invalid="ignore"):
        enough = (directed >= settings.min_change) & ((p <= settings.max_p) | np.isnan(p))
    status = np.where(np.isnan(change), NOT_MEASURED, np.where(enough, VERIFIED, NOT_VERIFIED)).astype(object)
    if settings.kind == "knock-out":
        status = np.full(len(own), NOT_JUDGED, dtype=object)
    return status, change, p


def verified_sources(
    settings: ScreenSettings,
    screen: str,
    cell_line: str,
    sources: np.ndarray,
    n_cells: np.ndarray,
    n_guides: np.ndarray,
    verification: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> tuple[pd.DataFrame, np.ndarray]:
    """(table knock_downs, bool (perturbation,): those that are used) of one cell line; see `verify`."""
    status, change, p = verification
    used = (status == VERIFIED) | (status == NOT_JUDGED) | ((status == NOT_MEASURED) & (settings.unverified == "keep"))
    columns = {
        "screen": screen,
        "cell_line": cell_line,
        "source_gene": sources,
        "kind": settings.kind,
        "n_cells": n_cells,
        "n_guides": n_guides,
        "log_fc": change,
        "p_value": p,
        "status": status,
        "used": used,
    }
    return make_table("knock_downs", pd.DataFrame(columns)), used.astype(bool)
