"""Gene sets from GMT files: what is read, what is refused, and the set that comes with the package."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from cellcircuits.errors import DataError
from cellcircuits.references import SHIPPED, read_gmt


def written(folder: Path, text: str | bytes, name: str = "sets.gmt") -> Path:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / name


def test_names_descriptions_and_genes(tmp_path):
    sets = read_gmt(written(tmp_path, "T cell\thttp://x\tCD3E\tCD3D\nB cell\t\tCD19\n", "cells.v2.gmt"))
    assert sets.name == "cells.v2"
    assert sets.terms == {"T cell": {"CD3E", "CD3D"}, "B cell": {"CD19"}}


def test_symbols_are_compared_in_upper_case(tmp_path):
    assert read_gmt(written(tmp_path, "a\t-\tCd3e\tcd3E\tCD3D \n")).terms == {"a": {"CD3E", "CD3D"}}


def test_enrichr_weights_are_dropped(tmp_path):
    text = "a\t\tTP53,1.0\tMDM2,0.37\t\n"
    assert read_gmt(written(tmp_path, text)).terms == {"a": {"TP53", "MDM2"}}


@pytest.mark.parametrize("name", ["sets.gmt.gz", "sets.gmt"])
def test_gzip_is_known_by_its_content(tmp_path, name):
    path = written(tmp_path, gzip.compress(b"a\t-\tTP53\n"), name)
    assert read_gmt(path).terms == {"a": {"TP53"}}
    assert read_gmt(path).name == "sets"


def test_line_ends_of_windows_and_empty_lines(tmp_path):
    assert read_gmt(written(tmp_path, "\r\na\t-\tTP53\r\n\r\nb\t-\tMDM2\r\n")).terms == {"a": {"TP53"}, "b": {"MDM2"}}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\t-\tTP53\nb\t-\n", 2),
        ("a\n", 1),
        ("a\tTP53\n", 1),
        ("\t-\tTP53\n", 1),
        ("a\t-\t \t\n", 1),
        ("a,-,TP53\n", 1),
        ("a - TP53\n", 1),
        ("{\n", 1),
    ],
)
def test_a_line_that_is_not_gmt(tmp_path, text, line):
    with pytest.raises(DataError, match=rf"sets\.gmt, line {line} is not GMT: expected name, description and genes"):
        read_gmt(written(tmp_path, text))


@pytest.mark.parametrize("second", ["a", "a ", " a"])
def test_a_name_that_occurs_twice(tmp_path, second):
    with pytest.raises(DataError, match=r"line 2: the gene set 'a' occurs twice"):
        read_gmt(written(tmp_path, f"a\t-\tTP53\n{second}\t-\tMDM2\n"))


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_gene_sets(tmp_path, text):
    with pytest.raises(DataError, match=r"sets\.gmt holds no gene set"):
        read_gmt(written(tmp_path, text))


def broken_gzip() -> bytes:
    """The header is right, the compressed data are not."""
    content = bytearray(gzip.compress(b"a\t-\tTP53\n" * 100))
    content[10:20] = b"\xff" * 10
    return bytes(content)


DAMAGED = {
    "binary": b"\xff\xfe\x00binary",
    "cut gzip": gzip.compress(b"a\t-\tTP53\n")[:-9],
    "start of gzip": b"\x1f\x8b",
    "broken gzip": broken_gzip(),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file(tmp_path, content):
    with pytest.raises(DataError, match=r"Cannot read the gene sets .*sets\.gmt: .*Expected a GMT file"):
        read_gmt(written(tmp_path, content))


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read the gene sets .*absent\.gmt.*No such file"):
        read_gmt(tmp_path / "absent.gmt")


def test_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read the gene sets .*Is a directory"):
        read_gmt(tmp_path)


# ------------------------------------------------------------------------------------------------ immune.gmt


def test_the_shipped_sets_are_named_by_a_word():
    assert read_gmt("immune").terms == read_gmt(SHIPPED["immune"]).terms
    assert read_gmt("immune").name == "immune"


def test_the_shipped_sets_can_be_tested():
    terms = read_gmt("immune").terms
    assert len(terms) >= 50
    assert min(map(len, terms.values())) >= 5
    assert max(map(len, terms.values())) < 100
    assert len(set(terms.values())) == len(terms)


def test_the_shipped_genes_are_demo_genes():
    with open(SHIPPED["immune"].parent / "demo_genes.csv", newline="") as file:
        known = {row["symbol"].upper() for row in csv.DictReader(file)}
    genes = set().union(*read_gmt("immune").terms.values())
    assert genes <= known
    assert len(genes) > 0.5 * len(known)


def test_every_shipped_set_has_a_source():
    for line in SHIPPED["immune"].read_text().splitlines():
        name, source, *genes = line.split("\t")
        assert any(c.isdigit() for c in source), name
        assert genes == sorted(genes) and len(set(genes)) == len(genes), name


@pytest.mark.parametrize(
    ("name", "gene"),
    [
        ("B-cell identity", "MS4A1"),
        ("Cytotoxic granules", "GNLY"),
        ("Classical monocyte", "LYZ"),
        ("MHC class II antigen presentation", "HLA-DRA"),
        ("T-cell receptor complex and signalling", "CD3E"),
    ],
)
def test_well_known_genes_are_in_their_sets(name, gene):
    assert gene in read_gmt("immune").terms[name]


# ------------------------------------------------------------------------------------------------ published files


@pytest.mark.parametrize(
    ("name", "n_terms"),
    [
        ("h.all.v7.0.symbols.gmt", 50),
        ("GO_Biological_Process_2021.enrichr.gmt.gz", 6036),
        ("KEGG_2016.enrichr.gmt.gz", 293),
        ("c2.cp.kegg.v7.5.1.symbols.gmt", 186),
        ("c2.cp.reactome.v7.5.1.symbols.gmt.gz", 1615),
    ],
)
def test_published_collections(real_data, name, n_terms):
    sets = read_gmt(real_data / "genesets" / name)
    assert len(sets.terms) == n_terms
    assert not any("," in gene or gene != gene.upper() for genes in sets.terms.values() for gene in genes)
    assert any("TP53" in genes for genes in sets.terms.values())
