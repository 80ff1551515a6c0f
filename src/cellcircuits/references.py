"""Gene sets and networks: files of the user, the shipped set, and public resources in a cache."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

from cellcircuits.errors import DataError
from cellcircuits.resources import RESOURCES, cached_path

SHIPPED = {"immune": Path(__file__).parent / "data" / "immune.gmt"}
"""Gene sets that come with the package, by the word that names them."""
NAMES = (*SHIPPED, *RESOURCES)
"""Words that name a reference without a path."""


@dataclass(frozen=True)
class GeneSets:
    """One collection of gene sets."""

    name: str
    """Name of the collection: the file's name without its ending."""
    terms: dict[str, frozenset[str]]
    """Gene set name to upper-case gene symbols."""


def gene_sets_path(path: str | Path) -> Path:
    """The file given, the shipped one for its word, or the one that was fetched under this name."""
    return _named(path, "gene sets")


def network_path(path: str | Path) -> Path:
    """The file given, or the one that was fetched under this name."""
    return _named(path, "network")


def _named(path: str | Path, kind: str) -> Path:
    name = str(path)
    if name in RESOURCES and RESOURCES[name].kind != kind:
        place = {"gene sets": "annotate.gene_sets", "network": "annotate.networks"}[RESOURCES[name].kind]
        raise DataError(f"{name!r} is not a source of {kind}. Name it in {place}.")
    if name in RESOURCES:
        return cached_path(name)
    return SHIPPED.get(name, Path(path)) if kind == "gene sets" else Path(path)


def read_text(path: Path, kind: str, expected: str) -> str:
    """Content of a text file, plain or gzip-compressed (known by its content); the words are for the error."""
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the {kind} {path}: {error}. {expected}") from error


def read_gmt(path: str | Path) -> GeneSets:
    """Read a GMT file, plain or gzip-compressed; "immune" names the set that is shipped with the package.

    Symbols are compared in upper case; weights as in Enrichr libraries ("TP53,1.0") are dropped; sets that occur twice
    are an error.

    Raises
    ------
    DataError
        If the file is missing, not text, or a line is not name, description and at least one gene, tab-separated.
    """
    path = gene_sets_path(path)
    text = read_text(path, "gene sets", "Expected a GMT file.")
    terms: dict[str, frozenset[str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, *rest = (part.strip() for part in line.split("\t"))
        genes = frozenset(gene.split(",")[0].strip().upper() for gene in rest[1:] if gene)
        if not name or not genes:
            raise DataError(
                f"{path}, line {number} is not GMT: expected name, description and genes separated by tabs, "
                f"found {line[:60]!r}."
            )
        if name in terms:
            raise DataError(f"{path}, line {number}: the gene set {name!r} occurs twice. Names must be unique.")
        terms[name] = genes
    if not terms:
        raise DataError(f"{path} holds no gene set.")
    return GeneSets(path.name.split(".gmt")[0], terms)
