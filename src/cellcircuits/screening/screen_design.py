"""Which cells of a screen are compared: perturbed genes, cell lines, and the replicates of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellcircuits.errors import DataError, listed
from cellcircuits.screen_settings import ScreenSettings

REMAINING = "remaining guides"
CONTROL_WORDS = ("ctrl", "control")
"""Words for the control inside a combination ("KLF1+ctrl")."""


@dataclass(frozen=True)
class Design:
    """Codes of cells, and what they mean."""

    label: np.ndarray
    """int32 (cell,): row of `labels`; -1 for combinations and cells without a label."""
    labels: np.ndarray
    """object (label,): the control first, then perturbed genes in order."""
    replicate: np.ndarray
    """int32 (cell,): row of `replicates`; -1 for cells that are not compared."""
    replicates: pd.DataFrame
    """cell_line, label (code), n_cells, of_guides (whether it is a guide, not a random part)."""
    cell_line: np.ndarray
    """object (cell,)."""
    notes: tuple[str, ...]


def make_design(obs: pd.DataFrame, settings: ScreenSettings) -> Design:
    """Replicates of every perturbed gene and of the control in every cell line.

    With `guide_column`, a replicate is a guide with enough cells; cells of all others of a gene are one more replicate
    if they are enough together. Without it, or for a control with fewer than two such guides, replicates are random
    parts of the cells.

    Raises
    ------
    DataError
        If a column or the control label is missing, or no cell line has enough cells of the control and of a
        perturbation.
    """
    names = obs_column(obs, settings.perturbation_column, "perturbation_column", settings)
    single, n_combined = single_genes(names, settings)
    if not (single == settings.control).any():
        raise DataError(
            f"{settings.path}: no cell has the control label {settings.control!r} in "
            f"obs[{settings.perturbation_column!r}]; its labels are {listed(names.value_counts().index, 8)}. "
            f"Set control{_suggestion(obs, settings)}."
        )
    labels = np.array([settings.control, *sorted(set(single.dropna()) - {settings.control})], dtype=object)
    label = pd.Index(labels).get_indexer(single.fillna("\0")).astype(np.int32)
    lines = [obs_column(obs, name, "cell_line_columns", settings).fillna("") for name in settings.cell_line_columns]
    cell_line = lines[0].str.cat(lines[1:], sep=", ") if lines else pd.Series("", index=obs.index)
    guide = obs_column(obs, settings.guide_column, "guide_column", settings) if settings.guide_column else None
    cells = pd.DataFrame(
        {
            "cell_line": cell_line.to_numpy(dtype=object),
            "label": label,
            "guide": "" if guide is None else guide.fillna(REMAINING).to_numpy(dtype=object),
        }
    )
    replicate, replicates = _replicates(cells, labels, settings)
    notes = [] if not n_combined else [f"{n_combined:,} cells with combinations of genes are left out"]
    if guide is None:
        notes.append("no guides: random parts of the cells are the replicates, so differences of guides are not seen")
    elif not replicates.loc[replicates["label"] == 0, "of_guides"].all():
        notes.append("fewer than two control guides: random parts of the control cells stand in for them")
    return Design(label, labels, replicate, replicates, cells["cell_line"].to_numpy(), tuple(notes))


def obs_column(obs: pd.DataFrame, name: str, knob: str, settings: ScreenSettings) -> pd.Series:
    """A column of obs as text (NaN where missing), or an error that names likely columns."""
    if name not in obs:
        raise DataError(
            f"{settings.path} has no obs column {name!r} ({knob}); it has {listed(obs.columns, 12) or 'none'}. "
            f"Set {knob}{_suggestion(obs, settings) if knob == 'perturbation_column' else ''}."
        )
    column = obs[name].astype(object)
    return column.where(column.isna(), column.astype(str))


def _suggestion(obs: pd.DataFrame, settings: ScreenSettings) -> str:
    """Columns that hold the control label, or a word like it."""
    texts = {name: set(obs[name].dropna().astype(str).unique()) for name in obs if obs[name].nunique() < len(obs) / 2}
    holds = [name for name, labels in texts.items() if settings.control in labels]
    words = ("non-targeting", "nontargeting", "control", "ctrl", "nt", "neg", "safe")
    likely = [
        f"{label!r} in obs[{name!r}]"
        for name, labels in texts.items()
        for label in sorted(labels)
        if label.lower().replace("_", "-").startswith(words)
    ]
    if holds:
        return f" ({settings.control!r} is in {listed(f'obs[{name!r}]' for name in holds)})"
    return f" (control cells may be {listed(likely, 4)})" if likely else ""


def single_genes(names: pd.Series, settings: ScreenSettings) -> tuple[pd.Series, int]:
    """(perturbed gene or control of every cell, NaN for combinations; number of cells with combinations)."""
    if not settings.combined:
        return names, 0
    spelled = {}
    for name in names.dropna().unique():
        parts = [part.strip() for part in name.split(settings.combined)]
        genes = [part for part in parts if part != settings.control and part.lower() not in CONTROL_WORDS]
        if name == settings.control or len(parts) == 1:
            spelled[name] = name
        elif len(genes) <= 1:
            spelled[name] = genes[0] if genes else settings.control
    single = names.map(spelled).astype(object)
    return single, int((names.notna() & single.isna()).sum())


def _replicates(cells: pd.DataFrame, labels: np.ndarray, settings: ScreenSettings) -> tuple[np.ndarray, pd.DataFrame]:
    """Code of every cell's replicate (-1: none), and the replicates."""
    cells = cells.assign(part=_guide_parts(cells, settings) if settings.guide_column else "")
    by_gene = ["cell_line", "label"]
    known = (cells["label"] >= 0) & (cells["part"] != "-")
    size = known.groupby([cells[name] for name in by_gene]).transform("sum")
    known &= size >= settings.min_cells
    control_guides = cells[known & (cells["label"] == 0)].groupby("cell_line")["part"].nunique()
    few = cells["cell_line"].map(control_guides).fillna(0) < 2
    split = (cells["label"] == 0) & few if settings.guide_column else pd.Series(True, index=cells.index)
    cells.loc[known & split, "part"] = _random_parts(cells[known & split], settings)
    lines = cells.loc[known].groupby("cell_line")["label"].agg(["min", "nunique"])
    usable = lines.index[(lines["min"] == 0) & (lines["nunique"] > 1)]
    known &= cells["cell_line"].isin(usable)
    if not known.any():
        counts = cells[cells["label"] >= 0].groupby(by_gene).size().sort_values(ascending=False, kind="stable")
        largest = [f"{n} of {labels[code]}{' in ' * bool(line)}{line}" for (line, code), n in counts.items()]
        raise DataError(
            f"{settings.path}: no cell line has {settings.min_cells} control cells and {settings.min_cells} cells of a "
            f"perturbation; the largest groups are {listed(largest, 4)}. Lower min_cells, or "
            "take fewer cell_line_columns."
        )
    chosen = cells[known].assign(of_guides=~split[known])
    groups = chosen.groupby([*by_gene, "part"], sort=True)
    code = np.full(len(cells), -1, dtype=np.int32)
    code[known.to_numpy()] = groups.ngroup().to_numpy()
    table = groups.agg(n_cells=("guide", "size"), of_guides=("of_guides", "first")).reset_index()
    return code, table[["cell_line", "label", "n_cells", "of_guides"]]


def _guide_parts(cells: pd.DataFrame, settings: ScreenSettings) -> pd.Series:
    """Guides with enough cells by name, all others of a gene together, "-" where these are too few."""
    by_guide = cells.groupby(["cell_line", "label", "guide"])["guide"].transform("size")
    part = cells["guide"].where((by_guide >= settings.min_guide_cells) & (cells["guide"] != REMAINING), REMAINING)
    together = part.groupby([cells["cell_line"], cells["label"], part]).transform("size")
    return part.where(together >= settings.min_guide_cells, "-")


def _random_parts(cells: pd.DataFrame, settings: ScreenSettings) -> pd.Series:
    """Random parts of the cells of each gene, as equal as can be, at most `n_splits` of at least `min_guide_cells`."""
    shuffled = cells.sample(frac=1, random_state=np.random.default_rng(settings.seed))
    groups = shuffled.groupby(["cell_line", "label"])["label"]
    n_parts = (groups.transform("size") // settings.min_guide_cells).clip(1, settings.n_splits)
    # two halves of the control, however few its cells, for a variance
    n_parts = n_parts.where(shuffled["label"] != 0, n_parts.clip(lower=2))
    return ("part " + (groups.cumcount() % n_parts).astype(str)).reindex(cells.index)
