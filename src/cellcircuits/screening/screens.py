"""Read a perturbation screen: log-fold changes per cell line from cells (AnnData) or from a table.

Cells are read in blocks, so the file may be larger than memory. Counts are summed per replicate (`screen_design`) and
compared with the control (`pseudobulk`), each cell line by itself. Only HDF5, text and Parquet are read, no pickles.
"""

from __future__ import annotations

from dataclasses import dataclass

import anndata as ad
import numpy as np
import scipy.sparse as sp

from cellcircuits.counts import ENSEMBL_ID, Counts, read_counts, strip_version
from cellcircuits.errors import DataError, listed
from cellcircuits.screen_settings import ScreenSettings
from cellcircuits.screening.pseudobulk import compare_with_control
from cellcircuits.screening.responses import Responses, positions, verified_sources, verify
from cellcircuits.screening.screen_design import Design, make_design
from cellcircuits.screening.screen_tables import read_change_table, screen_name
from cellcircuits.settings import CellsSettings
from cellcircuits.stats import benjamini_hochberg

CELLS_PER_BLOCK = 4096


def read_screen(settings: ScreenSettings, symbols: dict[str, str] | None = None) -> list[Responses]:
    """Responses of every cell line of a screen, in order of their names.

    `symbols` maps Ensembl ids to symbols, for files with ids only: predictions are made for symbols.

    Raises
    ------
    DataError
        If the file cannot be read, or lacks columns, control cells, counts or symbols; with what to do.
    """
    if not settings.is_cells:
        return read_change_table(settings)
    try:
        cells = ad.read_h5ad(settings.path, backed="r")
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"Cannot read the screen {settings.path}: {error}. Expected an AnnData file (.h5ad)."
        ) from error
    try:
        return screen_responses(cells, settings, symbols)
    finally:
        cells.file.close()


def screen_responses(
    cells: ad.AnnData, settings: ScreenSettings, symbols: dict[str, str] | None = None
) -> list[Responses]:
    """As `read_screen`, from an AnnData object in memory or on disk."""
    design = make_design(cells.obs, settings)
    sums = _sum_cells(cells, design, settings, symbols or {})
    lines = sorted(set(design.replicates["cell_line"]))
    published = _published(sums, design)
    return [_cell_line(line, sums, published, design, settings) for line in lines]


@dataclass
class _Sums:
    """What is summed over cells; genes are columns."""

    genes: np.ndarray
    sources: dict[str, str]
    """Symbol of each label that is an Ensembl id."""
    replicate: np.ndarray
    """float64 (replicate, gene)."""
    library: np.ndarray
    """float64 (replicate,)."""
    stored: np.ndarray
    """float64 (label, gene): values as stored."""
    n_cells: np.ndarray
    """float64 (label,): cells in `stored`."""
    control: list[sp.csr_matrix]
    """log1p expression of the drawn control cells."""
    control_line: list[np.ndarray]


def _sum_cells(cells: ad.AnnData, design: Design, settings: ScreenSettings, symbols: dict[str, str]) -> _Sums:
    drawn = _drawn_controls(design, settings)
    found: _Sums | None = None
    place, columns = settings.counts, None
    for start in range(0, cells.n_obs, CELLS_PER_BLOCK):
        counts = _block_counts(_block(cells, start), place, settings)
        place = counts.source
        if found is None:
            genes, columns, sources = _columns(counts, design, settings, symbols)
            shape = (len(design.replicates), len(genes))
            found = _Sums(
                genes,
                sources,
                np.zeros(shape),
                np.zeros(shape[0]),
                np.zeros((len(design.labels), shape[1])),
                np.bincount(design.label[design.label >= 0], minlength=len(design.labels)).astype(float),
                [],
                [],
            )
        _add(found, counts, columns, design, drawn, settings)
    if found is None:
        raise DataError(f"{settings.path} has no cells.")
    return found


def _block(cells: ad.AnnData, start: int) -> ad.AnnData:
    """Some cells in memory, with their positions in obs; slices of a file with AnnData itself fail without a raw."""
    rows = slice(start, start + CELLS_PER_BLOCK)
    obs = cells.obs.iloc[rows]
    obs = obs[["n_counts"] if "n_counts" in obs else []].assign(position=np.arange(start, start + len(obs)))
    layers = {name: cells.layers[name][rows] for name in cells.layers}
    block = ad.AnnData(None if cells.X is None else cells.X[rows], obs=obs, var=cells.var, layers=layers)
    try:
        block.raw = None if cells.raw is None else ad.AnnData(cells.raw.X[rows], var=cells.raw.var)
    except AttributeError:
        # a file without raw still has the attribute
        block.raw = None
    return block


def _block_counts(block: ad.AnnData, place: str, settings: ScreenSettings) -> Counts:
    reading = CellsSettings(
        counts=place, gene_column=settings.gene_column, allow_non_counts=True, empty_cells="drop", min_mapped_genes=0
    )
    counts = read_counts(block, reading)
    data = counts.matrix.data
    if settings.values == "counts" and (data != np.rint(data)).any():
        raise DataError(
            f"{settings.path}: {counts.source} does not hold raw counts; {(data != np.rint(data)).mean():.0%} of its "
            f"values are not integers (largest {data.max():.3g}). Set counts to where the raw counts are, or "
            'values = "log1p" if these are logarithms of 1 + normalised counts.'
        )
    if settings.values == "log1p" and data.max(initial=0) > 20:
        raise DataError(
            f"{settings.path}: {counts.source} reaches {data.max():.4g}; logarithms of 1 + normalised counts stay "
            'below 20. Set values = "counts" if these are raw counts.'
        )
    return counts


def _columns(
    counts: Counts, design: Design, settings: ScreenSettings, symbols: dict[str, str]
) -> tuple[np.ndarray, sp.csr_matrix, dict[str, str]]:
    """(symbols, each once; (column, symbol) matrix that sums columns; symbol of each label that is an id)."""
    ids = counts.ensembl_ids if counts.ensembl_ids is not None else np.full(counts.matrix.shape[1], "", dtype=object)
    names = counts.symbols
    if names is None:
        names = np.array([symbols.get(i, "") for i in ids], dtype=object)
    known = dict(zip(ids, names, strict=True)) | symbols
    if not any(names):
        raise DataError(
            f"{settings.path} names its genes by Ensembl ids only ({listed(ids, 3)}), and predictions are made for "
            "symbols. Set gene_column to a column of var with symbols."
        )
    genes, first, code = np.unique(names.astype(str), return_index=True, return_inverse=True)
    named = genes != ""
    summing = sp.csr_matrix((np.ones(len(code)), (np.arange(len(code)), code)), shape=(len(code), len(genes)))
    order = np.argsort(first[named])
    plain = strip_version(design.labels[1:])
    sources = {
        label: known[i]
        for label, i in zip(design.labels[1:], plain, strict=True)
        if ENSEMBL_ID.match(i) and known.get(i)
    }
    return genes[named][order].astype(object), summing[:, np.flatnonzero(named)[order]], sources


def _drawn_controls(design: Design, settings: ScreenSettings) -> np.ndarray:
    """bool (cell,): control cells in which co-expression is computed."""
    rng = np.random.default_rng(settings.seed)
    drawn = np.zeros(len(design.label), dtype=bool)
    control = (design.label == 0) & (design.replicate >= 0)
    for line in sorted(set(design.cell_line[control])):
        rows = np.flatnonzero(control & (design.cell_line == line))
        drawn[rng.permutation(rows)[: settings.max_control_cells]] = True
    return drawn


def _add(
    found: _Sums, counts: Counts, columns: sp.csr_matrix, design: Design, drawn: np.ndarray, settings: ScreenSettings
) -> None:
    position = counts.obs["position"].to_numpy()
    stored = counts.matrix @ columns
    label, replicate = design.label[position], design.replicate[position]
    values, total = stored, counts.n_counts
    if settings.values == "log1p":
        raw = counts.matrix.expm1()
        values, total = raw @ columns, np.asarray(raw.sum(axis=1)).ravel()
    for codes, matrix, into in ((label, stored, found.stored), (replicate, values, found.replicate)):
        rows = np.flatnonzero(codes >= 0)
        present, row = np.unique(codes[rows], return_inverse=True)
        ones = sp.csr_matrix((np.ones(len(rows)), (row, rows)), shape=(len(present), len(codes)))
        into[present] += (ones @ matrix).toarray()
    inside = replicate >= 0
    found.library += np.bincount(replicate[inside], total[inside], minlength=len(found.library))
    chosen = np.flatnonzero(drawn[position])
    scaled = sp.diags(1e4 / total[chosen]) @ values[chosen]
    found.control.append(sp.csr_matrix(scaled, dtype=np.float32).log1p())
    found.control_line.append(design.cell_line[position[chosen]])


def _cell_line(line: str, sums: _Sums, published: np.ndarray, design: Design, settings: ScreenSettings) -> Responses:
    here = (design.replicates["cell_line"] == line).to_numpy()
    replicates = design.replicates[here]
    present, group = np.unique(replicates["label"], return_inverse=True)
    controls = sums.replicate[here][group == 0].sum(axis=0)
    measured = controls >= settings.min_control_counts
    if not measured.any():
        raise DataError(
            f"{settings.path}: no gene has {settings.min_control_counts:g} counts in the control cells of "
            f"{line or 'the screen'}. Lower min_control_counts."
        )
    found = compare_with_control(sums.replicate[here], sums.library[here], group, measured, settings.prior_count)
    sources = np.array([sums.sources.get(name, name) for name in design.labels[present[1:]]], dtype=object)
    q = np.full_like(found.p_value, np.nan)
    q[:, measured] = [benjamini_hochberg(row) for row in found.p_value[:, measured]]
    name = screen_name(settings)
    own = positions(sources, sums.genes)
    n_cells = np.bincount(group, replicates["n_cells"]).astype(int)[1:]
    n_guides = np.bincount(group, replicates["of_guides"]).astype(int)[1:]
    status = verify(settings, found.log_fc, found.p_value, own)
    table, used = verified_sources(settings, name, line, sources, n_cells, n_guides, status)
    control = sp.vstack(
        [rows[lines == line] for rows, lines in zip(sums.control, sums.control_line, strict=True)], format="csr"
    )
    return Responses(
        screen=name,
        cell_line=line,
        kind=settings.kind,
        sources=sources,
        genes=sums.genes,
        log_fc=found.log_fc,
        standard_error=found.standard_error,
        q_value=q,
        expression=found.expression,
        knock_downs=table,
        used=used,
        coexpression=correlations(control, own, measured),
        published_log_fc=published[present[1:]],
        notes=design.notes,
    )


def correlations(control: sp.csr_matrix, rows: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Pearson correlation over cells of genes `rows` with all genes, float32 (row, gene); NaN where it has no meaning.

    `rows` are columns of `control` (cell, gene), -1 for a gene that is not there.
    """
    found = np.full((len(rows), control.shape[1]), np.nan, dtype=np.float32)
    dense = control[:, measured].toarray().astype(np.float32)
    dense -= dense.mean(axis=0)
    norm = np.linalg.norm(dense, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        dense = np.where(norm > 0, dense / norm, np.float32(np.nan))
    place = np.cumsum(measured) - 1
    known = (rows >= 0) & measured[rows]
    found[np.ix_(known, measured)] = dense[:, place[rows[known]]].T @ dense
    return found


def _published(sums: _Sums, design: Design) -> np.ndarray:
    """float32 (label, gene): log2(mean + 1) minus that of the control, all cells of all cell lines as stored."""
    mean = sums.stored / np.maximum(sums.n_cells, 1)[:, None]
    change = np.log2(mean + 1)
    return (change - change[0]).astype(np.float32)
