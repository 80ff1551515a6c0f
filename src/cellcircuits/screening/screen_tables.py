"""Screens that come as a table of log-fold changes: one row per perturbed gene and measured gene."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from cellcircuits.errors import DataError, listed
from cellcircuits.references import read_text
from cellcircuits.screen_settings import ScreenSettings
from cellcircuits.screening.responses import Responses, positions, verified_sources, verify
from cellcircuits.stats import benjamini_hochberg

NAMES = {
    "perturbed": ("perturbed_gene", "source_gene", "perturbation", "source", "regulator", "target_contrast", "gene"),
    "measured": ("measured_gene", "target_gene", "target", "gene_symbol", "symbol", "gene_name", "gene"),
    "log_fc": ("log_fc", "logfc", "log2fc", "log2foldchange", "log_fold_change", "lfc", "avg_log2fc"),
    "standard_error": ("standard_error", "lfcse", "se", "std_error", "log_fc_se"),
    "p_value": ("p_value", "pvalue", "p", "pval", "p_val"),
    "expression": ("expression", "basemean", "base_mean", "mean_expression", "control_mean", "control_expression"),
}
"""Names of columns, in lower case; the first that a table has is taken."""


def screen_name(settings: ScreenSettings) -> str:
    """The name given, or that of the file without its endings."""
    return settings.name or Path(settings.path).name.split(".")[0]


def read_change_table(settings: ScreenSettings) -> list[Responses]:
    """Responses of every cell line in a table of log2 fold changes; pairs that are not listed are not measured.

    Needs columns of the perturbed gene, the measured gene and the log2 fold change; takes standard error, p and mean
    expression where it has them. Without p, p is that of |log_fc / standard error| in a normal distribution.

    Raises
    ------
    DataError
        If the file cannot be read, lacks a column, or holds a pair twice in a cell line.
    """
    frame = _read(settings)
    column = {role: _column(frame, role, settings) for role in NAMES}
    missing = [name for name in settings.cell_line_columns if name not in frame]
    if missing:
        raise DataError(
            f"{settings.path} has no column {missing[0]!r} (cell_line_columns); it has {listed(frame, 12)}."
        )
    lines = [frame[name].fillna("").astype(str) for name in settings.cell_line_columns]
    tidy = pd.DataFrame(
        {
            "cell_line": lines[0].str.cat(lines[1:], sep=", ") if lines else "",
            "perturbed": frame[column["perturbed"]].astype(str).str.strip(),
            "measured": frame[column["measured"]].astype(str).str.strip(),
        },
        index=frame.index,
    )
    for role in ("log_fc", "standard_error", "p_value", "expression"):
        name = column[role]
        tidy[role] = pd.to_numeric(frame[name], errors="coerce") if name else np.nan
    if column["expression"] in ("baseMean", "base_mean"):
        tidy["expression"] = np.log2(tidy["expression"] + 1)
    tidy = tidy[np.isfinite(tidy["log_fc"])]
    twice = tidy.duplicated(["cell_line", "perturbed", "measured"])
    if twice.any():
        row = tidy[twice].iloc[0]
        raise DataError(
            f"{settings.path} has {row['perturbed']} and {row['measured']} more than once"
            f"{' in ' + row['cell_line'] if row['cell_line'] else ''}. Name the columns that tell such rows apart "
            f"(condition, cell line) in cell_line_columns; the columns are {listed(frame, 12)}."
        )
    if tidy.empty:
        raise DataError(f"{settings.path} holds no finite log-fold change in column {column['log_fc']!r}.")
    return [_cell_line(str(line), rows, settings) for line, rows in tidy.groupby("cell_line", sort=True)]


def _read(settings: ScreenSettings) -> pd.DataFrame:
    path, expected = Path(settings.path), "Expected a table with a header: .csv, .tsv, .txt (also .gz) or .parquet."
    ending = path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]
    try:
        if ending == "parquet":
            return pd.read_parquet(path)
        if ending not in ("csv", "tsv", "txt"):
            raise DataError(f"{path} is neither a table nor an AnnData file (.h5ad). {expected}")
        text = read_text(path, "screen", expected)
        header = text.split("\n", 1)[0]
        return pd.read_csv(io.StringIO(text), sep="\t" if "\t" in header else ",")
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read the screen {path}: {error}. {expected}") from error


def _column(frame: pd.DataFrame, role: str, settings: ScreenSettings) -> str:
    """Name of the column that plays a role; "" for one that is not needed and not there."""
    given = {"perturbed": settings.perturbation_column, "measured": settings.gene_column}.get(role, "")
    lower = {str(name).lower(): str(name) for name in frame.columns[::-1]}
    name = given or next((lower[word] for word in NAMES[role] if word in lower), "")
    needed = {"perturbed": "perturbation_column", "measured": "gene_column", "log_fc": "a column log_fc"}
    if role in needed and name not in frame:
        raise DataError(
            f"{settings.path} has no column {name or NAMES[role][0]!r}; it has {listed(frame, 12)}. "
            f"Expected the {role.replace('_', ' ')} "
            f"{'gene' if role != 'log_fc' else '(log2 fold change)'}; give {needed[role]}."
        )
    return name


def _cell_line(line: str, rows: pd.DataFrame, settings: ScreenSettings) -> Responses:
    sources, source = np.unique(rows["perturbed"].to_numpy(dtype=str), return_inverse=True)
    genes, gene = np.unique(rows["measured"].to_numpy(dtype=str), return_inverse=True)
    sources, genes = sources.astype(object), genes.astype(object)

    def matrix(values: np.ndarray) -> np.ndarray:
        full = np.full((len(sources), len(genes)), np.nan, dtype=np.float32)
        full[source, gene] = values
        return full

    error = rows["standard_error"].to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_error = 2 * norm.sf(np.abs(rows["log_fc"].to_numpy(float)) / np.where(error > 0, error, np.nan))
    p = np.where(np.isfinite(rows["p_value"]), rows["p_value"], of_error)
    q = np.full(len(p), np.nan)
    for code in range(len(sources)):
        tested = (source == code) & np.isfinite(p)
        q[tested] = benjamini_hochberg(p[tested])
    log_fc, p_matrix = matrix(rows["log_fc"].to_numpy(float)), matrix(p)
    known = np.isfinite(rows["expression"].to_numpy(float))
    n_known = np.bincount(gene[known], minlength=len(genes))
    total = np.bincount(gene[known], rows["expression"].to_numpy(float)[known], minlength=len(genes))
    expression = np.where(n_known > 0, total / np.maximum(n_known, 1), np.nan).astype(np.float32)
    name = screen_name(settings)
    own = positions(sources, genes)
    none = np.zeros(len(sources), dtype=int)
    table, used = verified_sources(settings, name, line, sources, none, none, verify(settings, log_fc, p_matrix, own))
    notes = [f"a table of {len(rows):,} of {log_fc.size:,} pairs: if responses were picked, so is the background"]
    notes += [] if known.any() else ["no expression is given: the background is not matched by expression"]
    return Responses(
        screen=name,
        cell_line=line,
        kind=settings.kind,
        sources=sources,
        genes=genes,
        log_fc=log_fc,
        standard_error=matrix(error),
        q_value=matrix(q),
        expression=expression,
        knock_downs=table,
        used=used,
        notes=tuple(notes),
    )
