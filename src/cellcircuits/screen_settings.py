"""Every knob of one perturbation screen: an entry [[findings.screens]] of the settings file."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from cellcircuits.errors import SettingsError
from cellcircuits.ranges import PROBABILITY, check_ranges


@dataclass(frozen=True)
class ScreenSettings:
    """A screen: cells with counts (AnnData), or a table of log-fold changes."""

    path: str
    """AnnData file (.h5ad), or a table with a header (.csv, .tsv, .txt, each also .gz, or .parquet) with a row per
    perturbed gene and measured gene."""
    name: str = ""
    """Name in tables and figures; empty: the name of the file."""
    kind: Literal["knock-down", "knock-out", "activation"] = "knock-down"
    """What was done to the gene. "knock-down" (CRISPRi, RNAi) and "activation" (CRISPRa) can be verified in the gene's
    own transcript, "knock-out" cannot: the transcript often stays. Predictions are turned around for "activation"."""
    control: str = ""
    """Label of the control cells, for example "non-targeting". An AnnData file needs one."""
    perturbation_column: str = ""
    """obs column (of a table: column) with the perturbed gene. An AnnData file needs one; in a table, empty: found by
    name."""
    guide_column: str = ""
    """obs column with the guide: guides are the replicates. Empty: random parts of the cells, which say nothing of how
    guides differ."""
    cell_line_columns: list[str] = field(default_factory=list)
    """obs columns (of a table: columns) with cell line, stimulation or another condition: every combination of their
    labels is looked at alone, against its own control cells."""
    gene_column: str = ""
    """Column of var with gene symbols (of a table: column of the measured gene); empty: found by name and content."""
    counts: str = "auto"
    """Where the values are: "X", "raw", the name of a layer, or "auto" (the first that holds integers)."""
    values: Literal["counts", "log1p"] = "counts"
    """"counts": raw counts. "log1p": natural logarithm of 1 + normalised counts."""
    combined: str = "+"
    """Sign between the genes of a combination ("A+B"): these are left out, but those with the control or "ctrl" are
    perturbations of one gene. Empty: labels are taken as they are."""
    min_cells: int = 30
    """Fewest cells of a perturbation, and of the control, in a cell line."""
    min_guide_cells: int = 10
    """Fewest cells of a guide that is a replicate."""
    n_splits: int = 4
    """Random parts of the cells that stand in for guides where there are fewer than two (control), or no guides."""
    min_control_counts: float = 10.0
    """Fewest counts of a gene in all control cells of a cell line; others count as not measured."""
    prior_count: float = 2.0
    """Added to every count before the logarithm, in proportion to the library size."""
    min_change: float = 0.5
    """A perturbation is verified if its own transcript changes by at least this much (log2 fold) in the right
    direction."""
    max_p: float = 0.05
    """And the p of this change is at most this."""
    unverified: Literal["drop", "keep"] = "drop"
    """What to do with perturbations whose own gene was not measured."""
    max_control_cells: int = 5000
    """Control cells of a cell line in which co-expression is computed, drawn at random."""
    seed: int = 0
    """Seed of random parts and draws."""

    # unknown names in an entry are an error
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic, no field

    def __post_init__(self) -> None:
        if self.is_cells and not self.control:
            raise SettingsError(
                f'`control` must name the label of the control cells of {self.path}, for example "non-targeting".'
            )
        if self.is_cells and not self.perturbation_column:
            raise SettingsError(
                f"`perturbation_column` must name the obs column of {self.path} with the perturbed gene; it is often "
                '"gene" or "perturbation".'
            )
        check_ranges(self, *PROBABILITY, "max_p")
        check_ranges(self, 2, inf, "min_cells", "n_splits", "max_control_cells")
        check_ranges(self, 1, inf, "min_guide_cells")
        check_ranges(self, 0, inf, "min_control_counts", "min_change", "seed")
        check_ranges(self, 1e-6, inf, "prior_count")

    @property
    def is_cells(self) -> bool:
        """Whether the file holds cells, not a table."""
        return self.path.lower().endswith(".h5ad")
