"""scGPT's tokeniser against an independent one that goes cell by cell, on made-up and on real counts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cellcircuits.counts import read_counts
from cellcircuits.errors import DataError, ModelError, SettingsError
from cellcircuits.settings import CellsSettings
from cellcircuits.tokens import Tokens
from cellcircuits.value_tokens import Vocabulary, bin_values, scgpt_tokens

ARGUMENTS = {"n_bins": 51, "max_seq_len": 1200, "pad_value": -2}
SYMBOLS = [f"GENE{i}" for i in range(40)]
TOKENS = {name: token for token, name in enumerate([*reversed(SYMBOLS), "<pad>", "<cls>", "<eoc>", "ENSG00000999999"])}
VOCABULARY = Vocabulary(TOKENS, TOKENS["<pad>"])
CLS = TOKENS["<cls>"]


def digitize(values: np.ndarray, edges: np.ndarray, uniform: np.ndarray | float) -> np.ndarray:
    """scGPT's own function, with its random number as an argument."""
    left_digits = np.digitize(values, edges)
    right_digits = np.digitize(values, edges, right=True)
    return np.ceil(uniform * (right_digits - left_digits) + left_digits).astype(np.int64)


def official_bins(values: np.ndarray, n_bins: int, uniform: np.ndarray | float) -> np.ndarray:
    return digitize(values, np.quantile(values, np.linspace(0, 1, n_bins - 1)), uniform)


def slow_official(symbols: Sequence[str], matrix, tokens: dict, longest: int = 1200) -> list[list[tuple[int, float]]]:
    """(token, value) pairs of each cell by the official preprocessing, ties in the middle, most expressed kept."""
    made = []
    for row in np.asarray(matrix):
        genes = [(tokens[s], count) for s, count in zip(symbols, row.tolist(), strict=True) if count and s in tokens]
        bins = official_bins(np.array([count for _, count in genes]), 51, 0.5)
        places = sorted(range(len(genes)), key=lambda i: -genes[i][1])[: longest - 1]
        made.append([(tokens["<cls>"], -2.0), *((genes[i][0], float(bins[i])) for i in sorted(places))])
    return made


def slow_published(symbols: Sequence[str], matrix, tokens: dict, longest: int = 1200) -> list[list[tuple[int, float]]]:
    """(token, value) pairs of each cell as in the published study: values as they are, in descending order."""
    made = []
    for row in np.asarray(matrix):
        genes = [(tokens[s], value) for s, value in zip(symbols, row.tolist(), strict=True) if value and s in tokens]
        made.append(sorted(genes, key=lambda pair: -pair[1])[:longest])
    return made


def pairs_of(tokens: Tokens) -> list[list[tuple[int, float]]]:
    return [
        list(zip(ids[:n].tolist(), values[:n].tolist(), strict=True))
        for ids, values, n in zip(tokens.ids, tokens.values, tokens.lengths, strict=True)
    ]


def tokenize(adata: ad.AnnData, vocabulary: Vocabulary = VOCABULARY, longest: int = 1200, **changes) -> Tokens:
    settings = CellsSettings(**changes)
    return scgpt_tokens(read_counts(adata, settings), vocabulary, ARGUMENTS | {"max_seq_len": longest}, settings)


def made_up_cells(seed: int = 0, symbols: Sequence[str] = SYMBOLS) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    matrix = rng.negative_binomial(1, 0.3, size=(8, len(symbols))).astype(np.float32)
    matrix[:, 0] += 1
    return ad.AnnData(
        matrix, obs=pd.DataFrame(index=[f"c{i}" for i in range(8)]), var=pd.DataFrame(index=list(symbols))
    )


def value_vectors() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    counts = [rng.negative_binomial(1, p, size=n) + 1.0 for p in (0.05, 0.3, 0.8) for n in (1, 2, 7, 50, 51, 900)]
    return [*counts, rng.normal(2, 0.3, size=300), np.arange(1.0, 50), np.arange(1.0, 51), np.arange(1.0, 5000)]


@pytest.mark.parametrize("n_bins", [51, 11, 3])
@pytest.mark.parametrize("values", value_vectors(), ids=lambda v: f"{len(v)} values")
def test_bins_are_the_official_ones_with_ties_in_the_middle(values: np.ndarray, n_bins: int) -> None:
    np.testing.assert_array_equal(bin_values(values, n_bins), official_bins(values, n_bins, 0.5))


@pytest.mark.parametrize("values", value_vectors(), ids=lambda v: f"{len(v)} values")
def test_every_official_draw_lies_between_the_edges_that_enclose_ours(values: np.ndarray) -> None:
    edges = np.quantile(values, np.linspace(0, 1, 50))
    low, high = np.searchsorted(edges, values, side="left"), np.searchsorted(edges, values, side="right")
    draws = np.array([digitize(values, edges, u) for u in np.random.default_rng(1).random((40, len(values)))])
    assert (low <= draws.min(axis=0)).all()
    assert (draws.max(axis=0) <= high).all()
    ours = bin_values(values, 51)
    assert (low <= ours).all()
    assert (ours <= high).all()
    # where no tie leaves a choice, every draw is ours
    settled = high - low <= 1
    assert (draws[:, settled] == ours[settled]).all()


@pytest.mark.parametrize("values", value_vectors(), ids=lambda v: f"{len(v)} values")
def test_bins_are_1_to_50_and_keep_the_order_of_the_values(values: np.ndarray) -> None:
    bins = bin_values(values, 51)
    assert bins.dtype == np.float32
    assert bins.min() >= 1
    assert bins.max() <= 50
    assert (np.diff(bins[np.argsort(values)]) >= 0).all()


@pytest.mark.parametrize("n_values", [1, 2, 30, 500])
def test_equal_values_get_the_middle_bin(n_values: int) -> None:
    np.testing.assert_array_equal(bin_values(np.full(n_values, 3.0), 51), 25)


def test_fifty_different_values_get_a_bin_each() -> None:
    np.testing.assert_array_equal(bin_values(np.arange(50.0) ** 2, 51), np.arange(1, 51))


def test_bins_do_not_depend_on_library_size_or_logarithm() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = np.ceil(rng.gamma(0.6, 12, size=800))
        normalised = np.log1p(values / values.sum() * 10_000)
        np.testing.assert_array_equal(bin_values(values, 51), bin_values(normalised, 51))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("longest", [2, 9, 1200])
def test_tokens_equal_those_of_the_slow_tokeniser(seed: int, longest: int) -> None:
    symbols = [*np.random.default_rng(seed).permutation(SYMBOLS)[:30], "unknown", "gene1", ""]
    adata = made_up_cells(seed, symbols)
    made = tokenize(adata, longest=longest)
    assert pairs_of(made) == slow_official(symbols, adata.X, TOKENS, longest)
    assert made.info["cells_truncated"] == sum((adata.X[:, :30] > 0).sum(axis=1) > longest - 1)


def test_the_most_expressed_genes_are_kept_in_the_order_of_the_data() -> None:
    adata = made_up_cells(0, SYMBOLS[:6])[:1].copy()
    adata.X = np.array([[4, 1, 9, 0, 4, 6]], dtype=np.float32)
    kept = tokenize(adata, longest=4).gene_symbols[tokenize(adata, longest=4).ids[0]]
    assert list(kept) == ["", "GENE0", "GENE2", "GENE5"]


def test_cls_comes_first_with_the_padding_value_and_is_no_gene() -> None:
    made = tokenize(made_up_cells())
    assert (made.ids[:, 0] == CLS).all()
    assert (made.values[:, 0] == -2).all()
    assert not made.gene_mask[:, 0].any()
    padding = made.ids == VOCABULARY.pad_id
    assert padding.any()
    assert (made.values[padding] == -2).all()
    assert made.gene_mask.sum() == (~padding[:, 1:]).sum()


def test_a_vocabulary_without_cls_gives_genes_alone() -> None:
    tokens = {name: token for token, name in enumerate([*SYMBOLS, "<pad>"])}
    made = tokenize(made_up_cells(), Vocabulary(tokens, 40), longest=5)
    assert made.gene_mask.all()
    assert made.ids.shape == (8, 5)


def test_repeated_symbols_are_summed() -> None:
    adata = made_up_cells(0, SYMBOLS[:6])
    adata.var["feature_name"] = [*SYMBOLS[:5], "GENE1"]
    adata.X = np.array([[1, 2, 3, 4, 5, 2]] * 8, dtype=np.float32)
    made = tokenize(adata)
    assert made.info["genes_summed_into_another"] == 1
    values = dict(pairs_of(made)[0])
    assert values[TOKENS["GENE1"]] == values[TOKENS["GENE3"]]


def test_an_ensembl_id_is_looked_up_where_the_symbol_is_unknown() -> None:
    adata = made_up_cells(0, ["GENE0", "unknown"])
    adata.var["ensembl_id"] = ["ENSG00000000001", "ENSG00000999999.2"]
    assert tokenize(adata).info["genes_detected_mapped"] == 2


def test_special_tokens_are_not_genes() -> None:
    made = tokenize(made_up_cells(0, [*SYMBOLS[:5], "<cls>", "<pad>", "<eoc>"]))
    assert made.info["genes_detected_mapped"] == 5
    assert [made.gene_symbols[TOKENS[t]] for t in ("<pad>", "<cls>", "<eoc>", "GENE3")] == ["", "", "", "GENE3"]


def test_an_input_without_room_for_genes_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"`max_length` must be above 1, .* found 1"):
        tokenize(made_up_cells(), max_length=1)


def test_shorter_inputs_can_be_asked_for_but_not_longer_ones() -> None:
    assert tokenize(made_up_cells(), max_length=7).ids.shape == (8, 7)
    assert tokenize(made_up_cells(), longest=7, max_length=9).ids.shape == (8, 7)


def test_data_of_which_less_than_half_is_known_are_refused() -> None:
    with pytest.raises(DataError, match=r"Only 40.0% of the 5 detected genes .* Not found: Trp53, Gapdh, Actb"):
        tokenize(made_up_cells(0, ["GENE0", "GENE1", "Trp53", "Gapdh", "Actb"]))


def test_a_cell_without_known_genes_is_refused_or_dropped() -> None:
    adata = made_up_cells(0, ["GENE0", "GENE1", "unknown"])
    adata.X[2] = [0, 0, 5]
    with pytest.raises(DataError, match=r"1 of 8 cells have no gene that the model knows \(c2\)"):
        tokenize(adata)
    assert "c2" not in tokenize(adata, empty_cells="drop").obs.index


@pytest.mark.parametrize("longest", [9, 1200])
def test_published_mode_equals_its_slow_version(longest: int) -> None:
    adata = made_up_cells()
    # the study took the values as they are, whatever they are
    adata.X = np.log1p(adata.X)
    made = tokenize(adata, longest=longest, input_mode="published")
    assert pairs_of(made) == slow_published(SYMBOLS, adata.X, TOKENS, longest)
    np.testing.assert_array_equal(made.gene_mask, made.ids != VOCABULARY.pad_id)


def test_published_and_official_mode_differ_and_say_which_they_are() -> None:
    official, published = (tokenize(made_up_cells(), input_mode=mode) for mode in ("official", "published"))
    assert (official.info["input_mode"], published.info["input_mode"]) == ("official", "published")
    in_data_order = [[TOKENS[s] for s in SYMBOLS if TOKENS[s] in row] for row in published.ids]
    assert [row[1:n].tolist() for row, n in zip(official.ids, official.lengths, strict=True)] == in_data_order
    assert [row[:n].tolist() for row, n in zip(published.ids, published.lengths, strict=True)] != in_data_order


def write_vocabulary(folder: Path, content: object) -> Path:
    (folder / "vocab.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "vocab.json"


@pytest.mark.parametrize("content", [{"<pad>": 0, "A": 2}, {"<pad>": 0, "A": 0}, {"<pad>": 1, "A": 2}, {"<pad>": "0"}])
def test_token_ids_must_be_consecutive(tmp_path: Path, content: dict) -> None:
    with pytest.raises(ModelError, match="token ids must be the whole numbers 0 to"):
        Vocabulary.read(write_vocabulary(tmp_path, content), "<pad>")


def test_the_padding_token_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no padding token '<pad>'"):
        Vocabulary.read(write_vocabulary(tmp_path, {"A": 0, "B": 1}), "<pad>")


# ---- the real vocabulary on real cells


@pytest.fixture(scope="module")
def real_vocabulary(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """The vocabulary of the whole-human checkpoint."""
    path = tmp_path_factory.mktemp("scgpt") / "vocab.json"
    path.write_bytes(gzip.decompress((real_data / "scgpt" / "whole_human_vocab.json.gz").read_bytes()))
    return Vocabulary.read(path, "<pad>")


def test_the_real_vocabulary_holds_what_it_should(real_vocabulary: Vocabulary) -> None:
    assert len(real_vocabulary.tokens) == 60_697
    assert (real_vocabulary.pad_id, real_vocabulary.special_ids) == (60_694, [60_694, 60_695, 60_696])
    known = {"TP53": 33_921, "GAPDH": 9_833, "MS4A1": 17_014, "GATA1": 9_865, "A1BG": 0}
    assert {symbol: real_vocabulary.token_of("", symbol) for symbol in known} == known
    assert list(real_vocabulary.names()[[0, 33_921, 60_695]]) == ["A1BG", "TP53", ""]


@pytest.mark.parametrize("name", ["pbmc3k_first1000_raw", "pbmc4k_soupx_raw", "zheng_sorted_pbmc_raw"])
def test_real_cells_give_the_tokens_of_the_slow_tokeniser(
    real_data: Path, real_vocabulary: Vocabulary, name: str
) -> None:
    adata = ad.read_h5ad(real_data / "singlecell" / f"{name}.h5ad")
    adata = adata[np.linspace(0, adata.n_obs - 1, 24).astype(int)].copy()
    longest = json.loads((real_data / "scgpt" / "whole_human_args.json").read_text())["max_seq_len"]
    assert longest == 1200
    made = tokenize(adata, real_vocabulary, longest)
    counts = adata.X.toarray().astype(float)
    assert pairs_of(made) == slow_official(adata.var_names, counts, real_vocabulary.tokens)
    known = np.array([s in real_vocabulary.tokens for s in adata.var_names])
    detected = counts.sum(axis=0) > 0
    assert made.info["genes_detected_mapped"] == (known & detected).sum()
    assert made.info["share_of_counts_mapped"] == pytest.approx(counts[:, known].sum() / counts.sum())
    assert made.info["cells_truncated"] == ((counts[:, known] > 0).sum(axis=1) > 1199).sum()
