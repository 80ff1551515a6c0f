"""What an atlas is made of: the tables of one or more runs, and what a comparison of them found."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from cellcircuits.errors import RunError, listed
from cellcircuits.tables import empty_table

PAGES = frozenset(
    "features feature map circuit gene program findings interventions compare comparison methods data js".split()
)
"""Names that an address gives a meaning of its own, so that no run may have them."""


@dataclass(frozen=True)
class Interventions:
    """What changes of features do (`cellcircuits interventions`)."""

    answers: pd.DataFrame
    """Table `answers`."""
    figures: list[Path] = field(default_factory=list)
    """PNG files."""
    report: Path | None = None
    """The report as one HTML file."""


@dataclass(frozen=True)
class AtlasRun:
    """Everything that the atlas shows of one run."""

    key: str
    """Name of the run in addresses and folders: lower-case letters, digits, "-" and "_"; use `run_keys`."""
    name: str
    """Name of the run for readers."""
    tables: dict[str, pd.DataFrame]
    """Tables by name, with the columns of `tables.py`. `edges` and `features` are needed; others may be missing. With
    `sources`, a page can tell a feature without outgoing edges from one that was never ablated."""
    summary: dict[str, Any] = field(default_factory=dict)
    """Key numbers: {section: {name: value or text}}."""
    figures: list[Path] = field(default_factory=list)
    """PNG files, shown in this order."""
    report: Path | None = None
    """A report as one HTML file, copied beside the figures."""
    interventions: Interventions | None = None
    """What changes of features do; None: that was not asked."""
    provenance: list[dict[str, Any]] = field(default_factory=list)
    """Manifests of the stages, in their order, without the list of files."""
    coordinates: pd.DataFrame | None = None
    """What `map_features` gives; None: the layers have no map."""

    def table(self, name: str) -> pd.DataFrame:
        """A table of the run; without rows if the run does not have it."""
        return self.tables.get(name, empty_table(name))


@dataclass(frozen=True)
class Comparison:
    """What two or more runs agree on."""

    consensus: pd.DataFrame
    """Table `consensus`."""
    answers: pd.DataFrame
    """Table `answers`."""
    figures: list[Path] = field(default_factory=list)
    """PNG files."""


def run_keys(names: list[str]) -> list[str]:
    """A key for each name, all different and none that is a page."""
    keys: list[str] = []
    for name in names:
        key = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")[:40] or "run"
        if key in PAGES or key.isdigit():
            key = f"run-{key}"
        plain, number = key, 2
        while key in keys:
            key, number = f"{plain}-{number}", number + 1
        keys.append(key)
    return keys


def check_inputs(runs: list[AtlasRun], folder: Path) -> None:
    """Raise unless these runs make an atlas that can be written into `folder`.

    Raises
    ------
    RunError
        If the folder is not empty, keys are not fit for addresses, or a table or figure cannot be used.
    """
    if not folder.is_dir() or any(folder.iterdir()):
        raise RunError(
            f"The atlas needs an existing, empty folder; {folder} is missing or not empty. Give another one."
        )
    keys = [run.key for run in runs]
    if not keys or len(set(keys)) < len(keys) or any(run_keys([key]) != [key] for key in keys):
        raise RunError(f"The atlas needs runs with different keys fit for addresses; found {listed(keys)}.")
    for run in runs:
        missing = {"edges", "features"} - set(run.tables)
        if missing:
            raise RunError(f"The atlas needs the tables edges and features; missing: {listed(sorted(missing))}.")
        for part in (run, run.interventions):
            if part is not None:
                check_figures(part.figures)
                _check_report(part.report)


def _check_report(report: Path | None) -> None:
    if report is not None and (report.suffix != ".html" or not report.is_file()):
        raise RunError(f"A report must be an existing HTML file; {report} is not.")


def check_figures(figures: list[Path]) -> None:
    """Raise unless these are PNG files of different names."""
    wrong = [path for path in figures if path.suffix != ".png" or not path.is_file()]
    if wrong:
        raise RunError(f"Figures must be existing PNG files; these are not: {listed(wrong)}.")
    names = [path.name for path in figures]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RunError(f"Figures need different file names; found more than once: {listed(twice)}.")
