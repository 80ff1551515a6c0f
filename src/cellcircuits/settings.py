"""Every knob of every stage, written once: name, type, default and meaning.

The TOML file, the command line and the Python API all read these classes; a default stands nowhere else. The larger
sections are in modules of their own, and are imported from here.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any, Literal

from cellcircuits.errors import SettingsError
from cellcircuits.feature_settings import AnnotateSettings, Baseline, TrainSettings
from cellcircuits.question_settings import FindingsSettings, StructureSettings
from cellcircuits.ranges import PROBABILITY
from cellcircuits.ranges import check_ranges as _check_ranges
from cellcircuits.references import NAMES
from cellcircuits.trace_settings import (
    EVERYWHERE,
    EXACT_PASS_POSITIONS,
    FOLD,
    FROZEN_READS_PER_COPY,
    EdgesSettings,
    Readout,
    TraceSettings,
)

__all__ = [
    "EVERYWHERE",
    "EXACT_PASS_POSITIONS",
    "FEW_CHANGED",
    "FINAL_BATCH",
    "FOLD",
    "FROZEN_READS_PER_COPY",
    "SPARSE_FEATURES_PER_ACTIVE",
    "AnnotateSettings",
    "AtlasSettings",
    "Baseline",
    "CellsSettings",
    "EdgesSettings",
    "FindingsSettings",
    "ModelSettings",
    "Readout",
    "Settings",
    "StructureSettings",
    "TraceSettings",
    "TrainSettings",
    "read_settings",
    "resolve_paths",
    "settings_from_dict",
    "write_settings",
]

FINAL_BATCH = 4
"""Cells per pass in which reconstructions are put into the model: the states of all layers are held."""
SPARSE_FEATURES_PER_ACTIVE = 32
"""TopK training on a CPU gathers the rows of active features where there are this many features per active one."""
FEW_CHANGED = 0.2
"""Up to this share of changed positions, attention is brought up to date instead of computed anew."""


@dataclass(frozen=True)
class ModelSettings:
    """Which foundation model, and where its files are."""

    family: str = "geneformer"
    """Adapter: "geneformer", "scgpt", "toy" or the entry point of a plug-in."""
    path: str = ""
    """Folder of the checkpoint. Geneformer: config.json and model.safetensors; scGPT: args.json, vocab.json,
    best_model.pt. "demo" takes the small model that is shipped with the package."""
    dictionaries: str = ""
    """Folder of Geneformer's gene dictionaries; empty: look beside the checkpoint."""
    variant: str = ""
    """Published size ("V1-10M", "V1-12L", "V2-104M", "V2-316M", "whole-human"); only `plan` reads it, for when the
    checkpoint is not there yet."""
    device: str = "auto"
    """Torch device; "auto" takes CUDA where there is one, else the CPU."""


@dataclass(frozen=True)
class CellsSettings:
    """Which cells, and how they become tokens."""

    data: str = ""
    """Path of an AnnData file (.h5ad). "demo" takes the PBMC cells that scanpy ships."""
    counts: str = "auto"
    """Where the raw counts are: "X", "raw", the name of a layer, or "auto" (first of layers["counts"], X, raw that
    holds integers)."""
    gene_column: str = ""
    """Column of var with gene ids or symbols; empty: found by name and content."""
    input_mode: Literal["official", "published"] = "official"
    """"official": the model's own preprocessing. "published": the input of Kendiukhov 2026, for reproduction."""
    allow_non_counts: bool = False
    """Accept values that are not integers. The official tokenisers expect raw counts."""
    empty_cells: Literal["error", "drop"] = "error"
    """What to do with cells without any counts, or without any gene that the model knows."""
    min_mapped_genes: float = 0.5
    """Stop if a smaller share of the detected genes is in the model's vocabulary."""
    max_length: int = 0
    """Longest token sequence; 0: the model's own maximum."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Cells to keep: obs column to accepted labels, for example {cell_line = ["K562"]}."""
    n_cells: int = 0
    """Number of cells to draw; 0: all."""
    stratify_by: str = ""
    """obs column whose labels are drawn in proportion, each at least once; empty: draw uniformly."""
    seed: int = 0
    """Seed of the draw."""

    def __post_init__(self) -> None:
        _check_ranges(self, *PROBABILITY, "min_mapped_genes")
        _check_ranges(self, 0, inf, "max_length", "n_cells", "seed")


@dataclass(frozen=True)
class AtlasSettings:
    """The static web site."""

    title: str = "Circuits of a single-cell foundation model"
    """Heading of the site."""
    also: list[str] = field(default_factory=list)
    """Folders of other finished runs that the site shows too, with a page that compares them."""
    comparison: str = ""
    """Folder with the tables `consensus` and `answers` of a comparison of these runs; empty: the folder `comparison`
    beside the run, where there is one and `also` names a run."""
    map_method: Literal["auto", "tsne", "pca"] = "auto"
    """How features are placed on the map of their layer; "auto": t-SNE up to 6,000 features of a layer, principal axes
    beyond."""
    seed: int = 0
    """Seed of the map."""

    def __post_init__(self) -> None:
        _check_ranges(self, 0, inf, "seed")


@dataclass(frozen=True)
class Settings:
    """All settings of one run."""

    model: ModelSettings = field(default_factory=ModelSettings)
    cells: CellsSettings = field(default_factory=CellsSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    annotate: AnnotateSettings = field(default_factory=AnnotateSettings)
    trace: TraceSettings = field(default_factory=TraceSettings)
    edges: EdgesSettings = field(default_factory=EdgesSettings)
    findings: FindingsSettings = field(default_factory=FindingsSettings)
    atlas: AtlasSettings = field(default_factory=AtlasSettings)

    def __post_init__(self) -> None:
        # known now, rather than after hours of tracing
        for wanted, why in (("source", "sources are counted by it"), (self.edges.readout, "edges.readout asks for it")):
            if wanted not in self.trace.readouts:
                raise SettingsError(f'trace.readouts lacks "{wanted}" ({why}); it has {self.trace.readouts}. Add it.')
        if self.edges.unit == "group" and not self.trace.group_by:
            raise SettingsError('edges.unit = "group" needs trace.group_by: an obs column, or "fold".')

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain nested dictionary, as stored in manifests."""
        return asdict(self)


def settings_from_dict(content: dict[str, Any], origin: str = "settings") -> Settings:
    """`Settings` from a nested dictionary; unknown sections, unknown names and wrong types are errors."""
    from pydantic import TypeAdapter, ValidationError

    known = {f.name: f.type for f in fields(Settings)}
    sections = {}
    for section, values in content.items():
        if section not in known:
            raise SettingsError(f"{origin} has an unknown section [{section}]; the sections are {', '.join(known)}.")
        kind = type(getattr(Settings(), section))
        names = [f.name for f in fields(kind)]
        unknown = sorted(set(values) - set(names)) if isinstance(values, dict) else [str(values)]
        if unknown:
            raise SettingsError(
                f"{origin} [{section}] has unknown names: {', '.join(unknown)}. Known: {', '.join(names)}."
            )
        try:
            sections[section] = TypeAdapter(kind).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            if isinstance(cause := first.get("ctx", {}).get("error"), SettingsError):
                raise SettingsError(f"{origin} [{section}]: {cause}") from error
            place = ".".join(str(part) for part in first["loc"])
            raise SettingsError(f"{origin} [{section}] {place}: {first['msg']}; found {first['input']!r}.") from error
    return Settings(**sections)


def read_settings(path: str | Path) -> Settings:
    """Read a TOML settings file; paths inside it are taken relative to the file.

    Raises
    ------
    SettingsError
        If the file is missing, not TOML, or has an unknown or wrong entry.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"Cannot read the settings file {path}: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not a TOML file: {error}.") from error
    return resolve_paths(settings_from_dict(content, origin=path.name), path.parent)


def resolve_paths(settings: Settings, base: Path) -> Settings:
    """The same settings with absolute paths; relative ones are taken from `base`."""

    def resolve(text: str, words: tuple[str, ...] = ("demo", "")) -> str:
        return text if text in words else str((base / Path(text).expanduser()).resolve())

    return replace(
        settings,
        model=replace(
            settings.model, path=resolve(settings.model.path), dictionaries=resolve(settings.model.dictionaries)
        ),
        cells=replace(settings.cells, data=resolve(settings.cells.data)),
        train=replace(settings.train, saes=resolve(settings.train.saes)),
        annotate=replace(
            settings.annotate,
            gene_sets=[resolve(path, words=NAMES) for path in settings.annotate.gene_sets],
            networks=[resolve(path, words=NAMES) for path in settings.annotate.networks],
        ),
        findings=replace(
            settings.findings,
            screens=[replace(screen, path=resolve(screen.path)) for screen in settings.findings.screens],
            disease_sets=[resolve(path, words=NAMES) for path in settings.findings.disease_sets],
        ),
        atlas=replace(
            settings.atlas,
            also=[resolve(path, words=()) for path in settings.atlas.also],
            comparison=resolve(settings.atlas.comparison, words=("",)),
        ),
    )


def write_settings(settings: Settings, path: str | Path) -> None:
    """Write all settings, defaults included, as TOML."""
    import tomli_w

    Path(path).write_text(tomli_w.dumps(settings.to_dict()), encoding="utf-8")


def differing_settings(first: Settings, second: Settings) -> list[str]:
    """Names of the settings in which two differ, as section.name."""
    a, b = first.to_dict(), second.to_dict()
    return [f"{s}.{n} ({a[s][n]!r}, now {b[s][n]!r})" for s in a for n in a[s] if a[s][n] != b[s][n]]


def with_section(settings: Settings, section: str, values: Any) -> Settings:
    """`settings` with one section replaced."""
    return replace(settings, **{section: values})
