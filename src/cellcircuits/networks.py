"""Networks of genes from files: interactions between proteins, and targets of transcription factors.

The kind of a file is known from its columns:

* interactions: two columns of symbols and, if there is one, a score. Direction and repeats do not matter;
* targets: a column of regulators (`source` or `tf`) and one of targets (`target`): CollecTRI, DoRothEA, decoupler; the
  four columns of a TRRUST file, which has no header; or a GMT file with sets named TF or TF_CELL_ASSEMBLY.
  Activation and repression are not told apart.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from cellcircuits.errors import DataError, listed
from cellcircuits.references import GeneSets, network_path, read_gmt, read_text

PAIRS = (
    ("protein1", "protein2"),
    ("protein_a", "protein_b"),
    ("gene1", "gene2"),
    ("gene_a", "gene_b"),
    ("a", "b"),
    ("node1", "node2"),
    ("symbol1", "symbol2"),
    ("preferredname_a", "preferredname_b"),
)
"""Headers of the two columns of an interaction, in lower case."""
REGULATORS = ("source", "tf", "regulator")
SCORES = ("combined_score", "score", "weight", "confidence")
TRRUST_MODES = {"Activation", "Repression", "Unknown"}
ENSEMBL = re.compile(r"^(\d+\.)?ENS[A-Z]*\d{6,}")
EXPECTED = (
    "Expected interactions (a header with two columns of symbols, such as protein1, protein2, and perhaps "
    "combined_score), targets (a header with source or tf, and target), a TRRUST file (TF, target, mode, PMID, "
    "no header), or a GMT file of target sets."
)


@dataclass(frozen=True)
class Interactions:
    """Interactions between proteins, each pair once."""

    name: str
    pairs: frozenset[tuple[str, str]]
    """Upper-case symbols, the first before the second in the alphabet."""


@dataclass(frozen=True)
class Targets:
    """Target sets of transcription factors."""

    name: str
    sets: GeneSets
    """Targets by name of the set: the regulator, or the experiment."""

    def regulator(self, name: str) -> str:
        """The regulator of a set, in upper case: what stands before the first "_" or space."""
        return re.split("[_ ]", name)[0].upper()


Network = Interactions | Targets


def read_network(path: str | Path, min_score: float = 0.0) -> Network:
    """Read a network; interactions with a score below `min_score` are left out.

    `path` is a file, plain or gzip-compressed, with tabs, commas or spaces between columns, or the name of a resource
    that was fetched before (`cellcircuits fetch`).

    Raises
    ------
    DataError
        If the file is missing or damaged, its columns are of no known kind, or it holds identifiers, not symbols.
    """
    path = network_path(path)
    if ".gmt" in path.name:
        return Targets(path.name.split(".gmt")[0], read_gmt(path))
    name = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    header, rows = _rows(path)
    columns = [column.lower().lstrip("#") for column in header]
    regulator = next((columns.index(word) for word in REGULATORS if word in columns), None)
    if regulator is not None and "target" in columns:
        return Targets(name, _target_sets(path, name, rows, regulator, columns.index("target")))
    pair = next((pair for pair in PAIRS if set(pair) <= set(columns)), None)
    if pair is not None:
        return _interactions(path, name, columns, pair, rows, min_score)
    if len(header) >= 3 and header[2] in TRRUST_MODES:
        return Targets(name, _target_sets(path, name, [(1, header), *rows], 0, 1))
    raise DataError(f"{path} is no known network; its columns begin {listed(header)}. {EXPECTED}")


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The first line and the others with their numbers, split into fields."""
    text = read_text(path, "network", EXPECTED)
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty. {EXPECTED}")
    first = lines[0][1]
    separator = next((mark for mark in ("\t", ",", " ") if mark in first), "\t")
    fields = csv.reader((line for _, line in lines), delimiter=separator, skipinitialspace=True)
    split = [[field.strip() for field in row] for row in fields]
    return split[0], list(zip((number for number, _ in lines[1:]), split[1:], strict=True))


def _symbols(path: Path, number: int, row: list[str], first: int, second: int) -> tuple[str, str]:
    """Two symbols of a row, in upper case."""
    if len(row) <= max(first, second) or not row[first] or not row[second]:
        raise DataError(f"{path}, line {number}: expected two gene symbols, found {','.join(row)[:60]!r}.")
    for field in (row[first], row[second]):
        if ENSEMBL.match(field):
            raise DataError(
                f"{path}, line {number} holds the identifier {field!r}; gene symbols are needed. For STRING, "
                "`cellcircuits fetch string` writes a file with symbols."
            )
    return row[first].upper(), row[second].upper()


def _target_sets(path: Path, name: str, rows: list[tuple[int, list[str]]], regulator: int, target: int) -> GeneSets:
    found: dict[str, set[str]] = {}
    for number, row in rows:
        source, gene = _symbols(path, number, row, regulator, target)
        found.setdefault(source, set()).add(gene)
    if not found:
        raise DataError(f"{path} holds no target.")
    return GeneSets(name, {source: frozenset(genes) for source, genes in found.items()})


def _interactions(
    path: Path,
    name: str,
    columns: list[str],
    pair: tuple[str, str],
    rows: list[tuple[int, list[str]]],
    min_score: float,
) -> Interactions:
    first, second = columns.index(pair[0]), columns.index(pair[1])
    score = next((columns.index(word) for word in SCORES if word in columns), None)
    if min_score > 0 and score is None:
        raise DataError(
            f"{path} has no score (none of the columns {', '.join(SCORES)}), so min_interaction_score = {min_score:g} "
            "cannot be applied. Set it to 0, or give a file with scores."
        )
    found = set()
    for number, row in rows:
        one, other = _symbols(path, number, row, first, second)
        if one != other and (min_score <= 0 or _number(path, number, row, score or 0) >= min_score):
            found.add((min(one, other), max(one, other)))
    if not found:
        raise DataError(f"{path} holds no interaction with a score of at least {min_score:g}.")
    return Interactions(name, frozenset(found))


def _number(path: Path, number: int, row: list[str], column: int) -> float:
    try:
        return float(row[column])
    except (ValueError, IndexError):
        raise DataError(f"{path}, line {number}: expected a score, found {','.join(row)[:60]!r}.") from None
