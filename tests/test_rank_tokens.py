"""Geneformer's tokeniser against an independent one that goes gene by gene, on made-up and on real counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cellcircuits.counts import read_counts
from cellcircuits.dictionaries import read_dictionary
from cellcircuits.errors import DataError, ModelError, SettingsError
from cellcircuits.rank_tokens import GeneDictionaries, find_dictionaries, geneformer_tokens
from cellcircuits.settings import CellsSettings
from cellcircuits.tokens import Tokens

STEMS = ("token_dictionary", "gene_median_dictionary", "gene_name_id_dict", "ensembl_mapping_dict")
SIZES = {"gc104M": 20_275, "gc30M": 25_426}
LONGEST = {"gc104M": 4096, "gc30M": 2048}
REAL_CELLS = 24


def slow_official(
    ids: Sequence[str], matrix, n_counts: Sequence[float], raw: list[dict], limit: int
) -> list[list[int]]:
    """The official tokeniser, one cell and one gene at a time; `raw` are the four dictionaries as stored."""
    tokens, medians, _, mapping = raw
    columns: dict[str, list[int]] = {}
    for column, gene in enumerate(ids):
        target = mapping.get(gene.split(".")[0].upper() if gene.startswith("ENSG") else gene.upper())
        if target in tokens:
            columns.setdefault(target, []).append(column)
    # a gene with one column keeps its place, sums of several columns come last
    order = [g for g, c in columns.items() if len(c) == 1] + [g for g, c in columns.items() if len(c) > 1]
    made = []
    for row, total in zip(np.asarray(matrix).tolist(), n_counts, strict=True):
        counts = {gene: sum(row[column] for column in columns[gene]) for gene in order}
        value = {gene: count / total * 10_000 / medians[gene] for gene, count in counts.items() if count}
        ranked = [tokens[gene] for gene in sorted(value, key=lambda gene: -value[gene])]
        made.append([2, *ranked[: limit - 2], 3] if "<cls>" in tokens else ranked[:limit])
    return made


def slow_published(symbols: Sequence[str], matrix, raw: list[dict], limit: int) -> list[list[int]]:
    """The tokeniser of the published study: logarithm before the division, symbols by the name dictionary."""
    tokens, medians, names, _ = raw
    made = []
    for row in np.asarray(matrix).tolist():
        value = {}
        for symbol, count in zip(symbols, row, strict=True):
            if count and names.get(symbol) in tokens:
                value[names[symbol]] = math.log1p(count / sum(row) * 1e4) / medians.get(names[symbol], 1.0)
        ranked = [tokens[gene] for gene in sorted(value, key=lambda gene: -value[gene])]
        made.append([2, *ranked[: min(limit, 2048) - 2], 3])
    return made


def rows_of(tokens: Tokens) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(tokens.ids, tokens.lengths, strict=True)]


def tokenize(adata: ad.AnnData, raw: list[dict], limit: int = 4096, **changes) -> Tokens:
    settings = CellsSettings(**changes)
    return geneformer_tokens(read_counts(adata, settings), GeneDictionaries(*raw), limit, settings)


def ensembl(number: int) -> str:
    return f"ENSG{number:011d}"


def made_up_dictionaries(special: Sequence[str]) -> list[dict]:
    """30 genes with few different medians (so there are ties), former ids, symbols and aliases."""
    genes = [ensembl(i) for i in range(30)]
    tokens = {name: token for token, name in enumerate([*special, *genes])}
    medians = {gene: [0.5, 1.0, 3.0][i % 3] for i, gene in enumerate(genes)}
    names = {f"C{i}orf{i}": gene for i, gene in enumerate(genes)}
    former = {ensembl(100 + i): genes[i] for i in range(10)}
    aliases = {f"ALIAS{i}": genes[i] for i in range(10)}
    mapping = {g: g for g in genes} | {s.upper(): g for s, g in names.items()} | former | aliases
    mapping["KNOWN_BUT_NO_TOKEN"] = ensembl(999)
    return [tokens, medians, names, mapping]


V2 = made_up_dictionaries(["<pad>", "<mask>", "<cls>", "<eos>"])
V1 = made_up_dictionaries(["<pad>", "<mask>"])


def made_up_cells(seed: int, ids: Sequence[str]) -> ad.AnnData:
    """Eight cells with small counts of genes named `ids`; n_counts includes genes that are not there."""
    rng = np.random.default_rng(seed)
    matrix = rng.poisson(0.8, size=(8, len(ids))).astype(np.float32)
    matrix[:, 0] += 1
    obs = pd.DataFrame({"n_counts": matrix.sum(axis=1) + rng.integers(0, 50, 8)}, index=[f"c{i}" for i in range(8)])
    return ad.AnnData(
        matrix, obs=obs, var=pd.DataFrame({"ensembl_id": list(ids)}, index=[f"g{i}" for i in range(len(ids))])
    )


@pytest.mark.parametrize("raw", [V1, V2], ids=["V1", "V2"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limit", [6, 20, 4096])
def test_tokens_equal_those_of_the_slow_tokeniser(raw: list[dict], seed: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = [*rng.permutation(30)[:24], *rng.integers(0, 10, 6), *rng.integers(100, 110, 6)]
    ids = [ensembl(number) for number in numbers]
    ids[3], ids[5] = f"{ids[3]}.12", f"{ids[5]}.3"
    ids[7] = ids[7].lower()
    ids += ["", "unknown", ensembl(999)]
    adata = made_up_cells(seed, ids)
    made = tokenize(adata, raw, limit, gene_column="ensembl_id")
    assert rows_of(made) == slow_official(ids, adata.X, adata.obs["n_counts"], raw, limit)


def test_symbols_and_aliases_serve_as_ids() -> None:
    ids = ["c1ORF1", "ALIAS2", "C3orf3", "nonsense", ensembl(4)]
    adata = made_up_cells(0, ids)
    made = tokenize(adata, V2, gene_column="ensembl_id")
    assert rows_of(made) == slow_official(ids, adata.X, adata.obs["n_counts"], V2, 4096)
    assert made.info["genes_detected_mapped"] == 4


def test_a_symbol_helps_where_the_ensembl_id_does_not() -> None:
    adata = made_up_cells(0, [ensembl(1), "", ensembl(555), ""])
    adata.var_names = ["C1orf1", "C2orf2", "C3orf3", "nonsense"]
    assert tokenize(adata, V2).info["genes_detected_mapped"] == 3


@pytest.mark.parametrize(
    ("ids", "counts", "expected"),
    [
        # same median, same count: order of the columns
        ([9, 3, 6, 0], [2, 2, 2, 2], [9, 3, 6, 0]),
        # the sum of two columns comes after the single ones it ties with
        ([9, 3, 109, 6], [1, 2, 1, 2], [3, 6, 9]),
        # sums in order of first appearance
        ([6, 9, 106, 109], [1, 1, 1, 1], [6, 9]),
        # the same id twice counts once
        ([9, 3, 9], [1, 1, 1], [9, 3]),
    ],
)
def test_ties_keep_column_order_with_sums_last(ids: list[int], counts: list[int], expected: list[int]) -> None:
    names = [ensembl(i) for i in ids]
    raw = [*V2[:3], V2[3] | {ensembl(106): ensembl(6), ensembl(109): ensembl(9)}]
    adata = ad.AnnData(
        np.array([counts], dtype=np.float32), var=pd.DataFrame({"ensembl_id": names}, index=list("abcd")[: len(ids)])
    )
    assert rows_of(tokenize(adata, raw)) == [[2, *(i + 4 for i in expected), 3]]


def test_v2_frames_a_cell_and_v1_does_not() -> None:
    adata = made_up_cells(0, [ensembl(i) for i in range(30)])
    v2, v1 = tokenize(adata, V2, 10), tokenize(adata, V1, 10)
    assert v2.ids.shape == v1.ids.shape == (8, 10)
    assert (v2.ids[:, 0] == 2).all()
    assert (v2.ids[:, -1] == 3).all()
    np.testing.assert_array_equal(v2.ids[:, 1:-1] - 4, v1.ids[:, :8] - 2)
    assert v1.gene_mask.all()
    np.testing.assert_array_equal(v2.gene_mask.sum(axis=1), 8)


def test_shorter_inputs_can_be_asked_for_but_not_longer_ones() -> None:
    adata = made_up_cells(0, [ensembl(i) for i in range(30)])
    full = tokenize(adata, V2, 12)
    assert tokenize(adata, V2, 12, max_length=7).ids.shape == (8, 7)
    assert tokenize(adata, V2, 12, max_length=500).fingerprint() == full.fingerprint()
    assert full.info["cells_truncated"] == 8
    assert full.info["longest_input"] == 12
    assert tokenize(adata, V2).info["cells_truncated"] == 0


@pytest.mark.parametrize(("raw", "too_short"), [(V2, 2), (V2, 1)])
def test_an_input_without_room_for_genes_is_refused(raw: list[dict], too_short: int) -> None:
    with pytest.raises(SettingsError, match=f"`max_length` must be above 2, .* found {too_short}"):
        tokenize(made_up_cells(0, [ensembl(1)]), raw, max_length=too_short)


def test_tokens_name_their_genes() -> None:
    made = tokenize(made_up_cells(0, [ensembl(i) for i in range(30)]), V2)
    assert list(made.gene_ids[:5]) == ["", "", "", "", ensembl(0)]
    assert list(made.gene_symbols[:5]) == ["", "", "", "", "C0orf0"]
    assert (made.gene_ids[made.ids[made.gene_mask]] != "").all()


def test_coverage_is_reported() -> None:
    ids = [ensembl(1), ensembl(101), "", ensembl(2), "unknown", ensembl(3), ensembl(4)]
    matrix = np.array([[5, 1, 2, 0, 1, 1, 0], [4, 0, 2, 3, 1, 0, 0]], dtype=np.float32)
    adata = ad.AnnData(matrix, var=pd.DataFrame({"ensembl_id": ids}, index=[f"g{i}" for i in range(7)]))
    info = tokenize(adata, V2).info
    assert info.pop("share_of_detected_genes_mapped") == pytest.approx(4 / 6)
    assert info.pop("share_of_counts_mapped") == pytest.approx(14 / 20)
    assert info == {
        "genes": 7,
        "genes_detected": 6,
        "genes_detected_mapped": 4,
        "genes_summed_into_another": 1,
        "examples_unmapped": "g2, g4",
        "cells_truncated": 0,
        "longest_input": 4096,
        "input_mode": "official",
        "cells": 2,
        "cells_dropped": 0,
        "counts_from": "X",
    }


def test_data_of_which_less_than_half_is_known_are_refused() -> None:
    ids = [ensembl(1), ensembl(2), *(f"ENSMUSG{i:011d}" for i in range(3))]
    with pytest.raises(DataError, match=r"Only 40.0% of the 5 detected genes .* at least 50% .* Not found: g2, g3, g4"):
        tokenize(made_up_cells(0, ids), V2)
    assert tokenize(made_up_cells(0, ids), V2, min_mapped_genes=0.4).info["genes_detected_mapped"] == 2


@pytest.mark.parametrize("minimum", [0.0, 0.5])
def test_data_of_which_nothing_is_known_are_refused(minimum: float) -> None:
    with pytest.raises(DataError, match=r"Only 0.0% of the 2 detected genes|8 of 8 cells have no gene"):
        tokenize(made_up_cells(0, ["Trp53", "Gapdh"]), V2, min_mapped_genes=minimum)


def cells_of_which_one_is_unknown() -> ad.AnnData:
    adata = made_up_cells(0, [ensembl(1), ensembl(2), "unknown"])
    adata.X[3] = [0, 0, 5]
    return adata


def test_a_cell_without_known_genes_is_an_error_by_default() -> None:
    with pytest.raises(DataError, match=r"1 of 8 cells have no gene that the model knows \(c3\)"):
        tokenize(cells_of_which_one_is_unknown(), V2)


def test_a_cell_without_known_genes_is_dropped_when_asked() -> None:
    made = tokenize(cells_of_which_one_is_unknown(), V2, empty_cells="drop")
    assert list(made.obs.index) == ["c0", "c1", "c2", "c4", "c5", "c6", "c7"]
    assert (made.info["cells"], made.info["cells_dropped"]) == (7, 1)


def symbol_cells(seed: int) -> ad.AnnData:
    adata = made_up_cells(seed, [""] * 25)
    adata.var_names = [f"C{i}orf{i}" for i in np.random.default_rng(seed).permutation(30)[:24]] + ["unknown"]
    return adata


@pytest.mark.parametrize("seed", range(3))
def test_published_mode_equals_its_slow_version(seed: int) -> None:
    adata = symbol_cells(seed)
    # two genes without a median: the study took 1
    raw = [V2[0], {g: m * 1.7 for g, m in V2[1].items() if g not in (ensembl(5), ensembl(6))}, *V2[2:]]
    made = tokenize(adata, raw, input_mode="published")
    assert rows_of(made) == slow_published(adata.var_names, adata.X, raw, 4096)


def test_published_and_official_mode_differ_in_order_and_say_which_they_are() -> None:
    adata = symbol_cells(0)
    official, published = (tokenize(adata, V2, input_mode=mode) for mode in ("official", "published"))
    assert (official.info["input_mode"], published.info["input_mode"]) == ("official", "published")
    assert [sorted(r) for r in rows_of(official)] == [sorted(r) for r in rows_of(published)]
    assert rows_of(official) != rows_of(published)


def test_published_mode_reads_at_most_2048_tokens() -> None:
    genes = [ensembl(i) for i in range(3000)]
    raw = [
        {name: token for token, name in enumerate(["<pad>", "<mask>", "<cls>", "<eos>", *genes])},
        dict.fromkeys(genes, 1.0),
        {},
        {gene: gene for gene in genes},
    ]
    adata = ad.AnnData(np.ones((1, 3000), dtype=np.float32), var=pd.DataFrame(index=genes))
    assert tokenize(adata, raw, 4096).lengths == [3002]
    assert tokenize(adata, raw, 4096, input_mode="published").lengths == [2048]
    assert tokenize(adata, raw, 512, input_mode="published").lengths == [512]


def test_dictionaries_are_chosen_by_the_size_of_the_vocabulary(tmp_path: Path, write_dictionaries: Callable) -> None:
    write_dictionaries(tmp_path, 10)
    write_dictionaries(tmp_path, 20, ("<pad>", "<mask>"), "_gc30M")
    v2, v1 = GeneDictionaries.read(tmp_path, 14), GeneDictionaries.read(tmp_path, 22)
    assert sorted(v2.special) == ["<cls>", "<eos>", "<mask>", "<pad>"]
    assert sorted(v1.special) == ["<mask>", "<pad>"]
    assert (len(v2.medians), len(v1.medians)) == (10, 20)


def test_dictionaries_of_another_vocabulary_are_refused(tmp_path: Path, write_dictionaries: Callable) -> None:
    write_dictionaries(tmp_path, 10)
    with pytest.raises(ModelError, match=r"has 25,426 tokens, .* token_dictionary_gc104M\.pkl: 14\. V1 and V2"):
        GeneDictionaries.read(tmp_path, 25_426)


def test_without_a_mapping_every_id_is_its_own(tmp_path: Path, write_dictionaries: Callable) -> None:
    """As in old copies of V1."""
    write_dictionaries(tmp_path, 10)
    (tmp_path / "ensembl_mapping_dict_gc104M.pkl").unlink()
    dictionaries = GeneDictionaries.read(tmp_path, 14)
    genes = [gene for gene in dictionaries.tokens if not gene.startswith("<")]
    assert [dictionaries.token_of(gene, "") for gene in genes] == [dictionaries.tokens[gene] for gene in genes]


@pytest.mark.parametrize("stem", STEMS[1:3])
def test_a_missing_dictionary_is_named(tmp_path: Path, write_dictionaries: Callable, stem: str) -> None:
    write_dictionaries(tmp_path, 10)
    (tmp_path / f"{stem}_gc104M.pkl").unlink()
    with pytest.raises(ModelError, match=f"has token_dictionary_gc104M.pkl but not {stem}_gc104M.pkl"):
        GeneDictionaries.read(tmp_path, 14)


@pytest.mark.parametrize("place", [".", "..", "../geneformer", "geneformer", "../geneformer/gene_dictionaries_30m"])
def test_dictionaries_are_found_near_the_checkpoint(tmp_path: Path, write_dictionaries: Callable, place: str) -> None:
    checkpoint = tmp_path / "repository" / "Geneformer-V2-104M"
    checkpoint.mkdir(parents=True)
    write_dictionaries(checkpoint / place, 10)
    found = find_dictionaries(checkpoint, "", 14)
    assert found is not None
    assert found.resolve() == (checkpoint / place).resolve()
    assert find_dictionaries(checkpoint, "", 15) is None


def test_a_given_folder_without_dictionaries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"No token_dictionary\*\.pkl in"):
        find_dictionaries(tmp_path, tmp_path, 14)


# ---- real dictionaries on real cells

H5AD = ["pbmc3k_first1000_raw.h5ad", "pbmc4k_soupx_raw.h5ad", "zheng_sorted_pbmc_raw.h5ad"]
every_version = pytest.mark.parametrize("version", SIZES)
every_dataset = pytest.mark.parametrize("name", [*H5AD, "sc_celseq2.count.csv.gz"])


@lru_cache
def published_dictionaries(folder: Path, version: str) -> list[dict]:
    """The published dictionaries of V2 or V1, as stored."""
    return [read_dictionary(next(folder.glob(f"{stem}_{version}.pkl*"))) for stem in STEMS]


@lru_cache
def real_cells(path: Path) -> ad.AnnData:
    """Cells of one dataset, evenly spread, with all genes."""
    if path.suffix == ".h5ad":
        adata = ad.read_h5ad(path)
        adata = adata[np.linspace(0, adata.n_obs - 1, REAL_CELLS).astype(int)].copy()
        adata.X = adata.X.toarray()
        return adata
    # as R writes it: the header has no name for the column of genes
    columns = range(0, 275, 275 // REAL_CELLS)
    table = pd.read_csv(path, header=None, skiprows=1, index_col=0, usecols=columns)
    names = [f"cell{i}" for i in table.columns]
    var = pd.DataFrame({"ensembl_id": table.index.to_numpy()}, index=table.index.to_numpy())
    return ad.AnnData(table.to_numpy(np.float32).T, obs=pd.DataFrame(index=names), var=var)


def total_counts(adata: ad.AnnData) -> list[float]:
    totals = adata.obs["n_counts"] if "n_counts" in adata.obs else adata.X.sum(axis=1)
    return np.asarray(totals, dtype=float).tolist()


@every_version
@every_dataset
def test_real_cells_give_the_tokens_of_the_slow_tokeniser(real_data: Path, version: str, name: str) -> None:
    raw, adata = published_dictionaries(real_data / "geneformer", version), real_cells(real_data / "singlecell" / name)
    made = tokenize(adata, raw, LONGEST[version], gene_column="ensembl_id")
    ids = adata.var["ensembl_id"].astype(str)
    assert rows_of(made) == slow_official(ids, adata.X, total_counts(adata), raw, LONGEST[version])
    assert made.ids.shape[1] <= LONGEST[version]


@every_version
@every_dataset
def test_coverage_of_real_cells_equals_a_count_by_hand(real_data: Path, version: str, name: str) -> None:
    raw, adata = published_dictionaries(real_data / "geneformer", version), real_cells(real_data / "singlecell" / name)
    info = tokenize(adata, raw, LONGEST[version], gene_column="ensembl_id").info
    known = np.array([raw[3].get(i) in raw[0] for i in adata.var["ensembl_id"].astype(str)])
    detected = adata.X.sum(axis=0) > 0
    assert info["genes_detected_mapped"] == (known & detected).sum()
    assert info["genes_detected"] == detected.sum()
    assert info["share_of_counts_mapped"] == pytest.approx(adata.X[:, known].sum() / adata.X.sum())
    assert info["share_of_counts_mapped"] > 0.85


@pytest.mark.parametrize("name", H5AD)
def test_real_symbols_give_the_tokens_of_the_slow_tokeniser(real_data: Path, name: str) -> None:
    # only V2's mapping knows symbols
    raw, adata = published_dictionaries(real_data / "geneformer", "gc104M"), real_cells(real_data / "singlecell" / name)
    symbols_only = ad.AnnData(adata.X, obs=adata.obs, var=pd.DataFrame(index=adata.var_names))
    expected = slow_official(adata.var_names, adata.X, total_counts(adata), raw, 4096)
    assert rows_of(tokenize(symbols_only, raw)) == expected


def test_real_dictionaries_are_read_by_vocabulary_size(real_data: Path) -> None:
    for version, (size, check) in {"V2": (20_275, 8014), "V1": (25_426, 8088)}.items():
        dictionaries = GeneDictionaries.read(real_data / "geneformer", size)
        assert dictionaries.token_of("ENSG00000141510", "") == dictionaries.token_of("", "TP53") == check, version
        assert dictionaries.published_token_of("", "TP53") == check
        assert ("<cls>" in dictionaries.special) == (version == "V2")
        genes, symbols, medians = dictionaries.token_arrays()
        assert len(genes) == size
        assert (genes[check], symbols[check]) == ("ENSG00000141510", "TP53")
        assert np.isfinite(medians).sum() == size - len(dictionaries.special)
