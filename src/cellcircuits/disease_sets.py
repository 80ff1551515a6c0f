"""Disease gene sets of the user: GMT files, and tables as Open Targets and the GWAS Catalog export them.

A table needs a column of diseases and one of gene symbols, known by their names (`DISEASES`, `GENES`); a column of
scores (`SCORES`) or of p (`P_VALUES`) is used where a limit is set. Nothing of this kind comes with the package: terms
of use differ, and the choice of diseases is the user's.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd

from cellcircuits.counts import ENSEMBL_ID
from cellcircuits.errors import DataError, listed
from cellcircuits.references import GeneSets, read_gmt, read_text

DISEASES = (
    *("disease", "disease_name", "diseasename", "disease_label", "diseaselabel", "disease/trait", "trait"),
    *("mapped_trait", "phenotype", "diseaseid", "disease_id"),
)
"""Names of the column of diseases, in lower case, preferred ones first."""
GENES = (
    *("symbol", "gene", "gene_symbol", "genesymbol", "approvedsymbol", "approved_symbol", "targetsymbol"),
    *("target_symbol", "gene_name", "mapped_gene", "reported gene(s)"),
)
SCORES = (
    *("score", "overallscore", "overall_score", "overallassociationscore", "globalscore", "associationscore"),
    "association_score",
)
P_VALUES = ("p_value", "pvalue", "p-value", "p", "pval")
SEVERAL = re.compile(r"\s+-\s+|\s+x\s+|[,;|]")
"""What separates several genes in one field of the GWAS Catalog."""
EXPECTED = (
    "Expected GMT, or a table with a header (.csv, .tsv, .parquet) that has a column of diseases (such as disease) and "
    "one of gene symbols (such as symbol)."
)


def read_disease_sets(path: str | Path, min_score: float = 0.0, max_p: float = 1.0) -> GeneSets:
    """Gene sets by disease; symbols in upper case, each once.

    `path` is a GMT file or the word of a public collection (see `read_gmt`), or a table; text may be gzip-compressed.
    Rows of a table with a score below `min_score` or a p above `max_p` are left out.

    Raises
    ------
    DataError
        If the file cannot be read, lacks a column that is needed, holds identifiers instead of symbols, or holds no
        disease within the limits.
    """
    path = Path(path)
    name = path.name.removesuffix(".gz")
    if ".gmt" in name or "." not in name:
        return read_gmt(path)
    frame = _read_table(path, name)
    disease, gene = _column(path, frame, DISEASES, "diseases"), _column(path, frame, GENES, "gene symbols")
    kept = np.ones(len(frame), dtype=bool)
    if min_score > 0:
        kept &= _numbers(path, frame, SCORES, "scores", "findings.disease_min_score") >= min_score
    if max_p < 1:
        kept &= _numbers(path, frame, P_VALUES, "p", "findings.disease_max_p") <= max_p
    pairs = frame.loc[kept & frame[disease].notna() & frame[gene].notna(), [disease, gene]].astype(str)
    pairs[gene] = pairs[gene].str.upper().str.split(SEVERAL)
    pairs = pairs.explode(gene, ignore_index=True)
    pairs = pairs.assign(gene=pairs[gene].str.strip(), disease=pairs[disease].str.strip())
    pairs = pairs[(pairs["gene"] != "") & (pairs["disease"] != "")]
    _check_symbols(path, pairs["gene"])
    if pairs.empty:
        raise DataError(f"{path} holds no disease gene within the limits (score, p). {EXPECTED}")
    terms = {str(term): frozenset(genes) for term, genes in pairs.groupby("disease", sort=True)["gene"]}
    return GeneSets(name.rsplit(".", 1)[0], terms)


def _read_table(path: Path, name: str) -> pd.DataFrame:
    if name.endswith(".parquet"):
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise DataError(f"Cannot read the disease genes {path}: {error}. {EXPECTED}") from error
    text = read_text(path, "disease genes", EXPECTED)
    first = text.partition("\n")[0]
    separator = "\t" if "\t" in first else ","
    try:
        return pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise DataError(f"Cannot read the disease genes {path}: {error}. {EXPECTED}") from error


def _find(frame: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    known = {str(column).strip().lower(): column for column in reversed(list(frame.columns))}
    return next((known[name] for name in names if name in known), None)


def _column(path: Path, frame: pd.DataFrame, names: tuple[str, ...], what: str) -> str:
    column = _find(frame, names)
    if column is None:
        raise DataError(f"{path} has no column of {what}; its columns are {listed(frame.columns, 12)}. {EXPECTED}")
    return column


def _numbers(path: Path, frame: pd.DataFrame, names: tuple[str, ...], what: str, setting: str) -> np.ndarray:
    column = _find(frame, names)
    if column is None:
        raise DataError(
            f"{path} has no column of {what} ({', '.join(names[:3])}), so {setting} cannot be applied; its columns are "
            f"{listed(frame.columns, 12)}. Leave the setting at its default, or give a file with such a column."
        )
    numbers = pd.to_numeric(frame[column], errors="coerce")
    if numbers.isna().any():
        row = int(np.flatnonzero(numbers.isna())[0])
        raise DataError(
            f"{path}, row {row + 1}: expected a number in {column!r}, found {str(frame[column].iloc[row])!r}."
        )
    return numbers.to_numpy(dtype=float)


def _check_symbols(path: Path, genes: pd.Series) -> None:
    wrong = genes[genes.str.match(ENSEMBL_ID.pattern, case=False)]
    if len(wrong):
        raise DataError(
            f"{path} holds identifiers ({listed(wrong.unique(), 3)}), not gene symbols. Give the column of symbols one "
            f"of the names {', '.join(GENES[:5])}."
        )
