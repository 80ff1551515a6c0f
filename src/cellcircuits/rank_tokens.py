"""Geneformer's tokeniser: gene dictionaries, and cells as genes ranked by relative expression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp

from cellcircuits.counts import Counts
from cellcircuits.dictionaries import read_dictionary
from cellcircuits.errors import ModelError
from cellcircuits.settings import CellsSettings
from cellcircuits.tokens import Tokens
from cellcircuits.vocabulary import MappedCounts, assemble_tokens, map_genes, room_for_genes

PUBLISHED_MAX_LENGTH = 2048


def find_dictionaries(folder: Path, given: str | Path | None, vocabulary_size: int) -> Path | None:
    """Folder with the token dictionary: the one given, the checkpoint's, or as in the published repository."""
    if given:
        if not list(Path(given).glob("token_dictionary*.pkl*")):
            raise ModelError(f"No token_dictionary*.pkl in {given}; set `dictionaries` to the folder that has it.")
        return Path(given)
    near = [folder, folder.parent, folder / "geneformer", folder.parent / "geneformer"]
    for place in [*near, *(p / "gene_dictionaries_30m" for p in near)]:
        for path in sorted(place.glob("token_dictionary*.pkl*")):
            if len(read_dictionary(path)) == vocabulary_size:
                return place
    return None


class GeneDictionaries:
    """The four dictionaries of one Geneformer version."""

    def __init__(self, tokens: dict, medians: dict, names: dict, mapping: dict) -> None:
        self.tokens = {key: int(value) for key, value in tokens.items()}
        self.medians = medians
        self.names = names
        self.mapping = {key: value for key, value in mapping.items() if value in self.tokens}
        self.special = {key: self.tokens[key] for key in ("<pad>", "<mask>", "<cls>", "<eos>") if key in self.tokens}

    @classmethod
    def read(cls, folder: Path, vocabulary_size: int) -> GeneDictionaries:
        """Read the dictionaries in `folder`; where it holds several versions, the one of this vocabulary size."""
        candidates = {path: read_dictionary(path) for path in sorted(folder.glob("token_dictionary*.pkl*"))}
        fitting = [path for path, tokens in candidates.items() if len(tokens) == vocabulary_size]
        if not fitting:
            sizes = ", ".join(f"{p.name}: {len(t):,}" for p, t in candidates.items())
            raise ModelError(
                f"The checkpoint has {vocabulary_size:,} tokens, the dictionaries in {folder} have {sizes}. "
                "V1 and V2 dictionaries are not interchangeable; use those of this checkpoint."
            )
        path = fitting[0]
        version = path.name.split(".")[0].removeprefix("token_dictionary")

        def read(stem: str) -> dict:
            found = sorted(folder.glob(f"{stem}{version}.pkl*"))
            if not found:
                raise ModelError(f"{folder} has {path.name} but not {stem}{version}.pkl, which belongs to it.")
            return read_dictionary(found[0])

        # old copies of V1 come without it; there it maps every id to itself
        has_mapping = bool(list(folder.glob(f"ensembl_mapping_dict{version}.pkl*")))
        mapping = read("ensembl_mapping_dict") if has_mapping else {gene: gene for gene in candidates[path]}
        return cls(candidates[path], read("gene_median_dictionary"), read("gene_name_id_dict"), mapping)

    def token_of(self, ensembl_id: str, symbol: str) -> int | None:
        """Token of a gene: by Ensembl id (old ids are mapped to current ones), else by symbol or alias."""
        for name in (ensembl_id, symbol):
            if name:
                gene = self.mapping.get(name.upper()) or self.names.get(name)
                if gene in self.tokens and gene in self.medians:
                    return self.tokens[gene]
        return None

    def published_token_of(self, ensembl_id: str, symbol: str) -> int | None:
        """Token as the published study looked it up: symbol by the name dictionary, else the Ensembl id itself."""
        return self.tokens.get(self.names.get(symbol, "")) or self.tokens.get(ensembl_id)

    def token_arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(gene id, symbol, median) of every token; "" and NaN for special tokens."""
        size = max(self.tokens.values()) + 1
        genes, symbols, medians = np.full(size, "", object), np.full(size, "", object), np.full(size, np.nan)
        symbol_of = {gene: symbol for symbol, gene in self.names.items()}
        for gene, token in self.tokens.items():
            if gene not in self.special:
                genes[token], symbols[token] = gene, symbol_of.get(gene, gene)
                medians[token] = self.medians.get(gene, np.nan)
        return genes.astype(str), symbols.astype(str), medians


def geneformer_tokens(
    counts: Counts, dictionaries: GeneDictionaries, max_length: int, settings: CellsSettings
) -> Tokens:
    """Genes of each cell in descending order of their expression relative to the gene's median.

    official:   r = count / n_counts * 10,000 / median          (Geneformer's own tokeniser)
    published:  r = log(1 + count / row sum * 10,000) / median  (Kendiukhov 2026; missing medians count as 1)

    Ties keep the column order (the published tokenisers leave them to an unstable sort). V2 dictionaries add <cls>
    and <eos>; the longest input is the model's, in published mode at most 2,048.
    """
    official = settings.input_mode == "official"
    lookup = dictionaries.token_of if official else dictionaries.published_token_of
    mapped = map_genes(counts, lookup, settings.min_mapped_genes)
    genes, symbols, medians = dictionaries.token_arrays()
    scores = _official_scores if official else _published_scores
    ranked = scores(counts, mapped, medians[mapped.token_ids])
    limit = min(max_length, settings.max_length or max_length, max_length if official else PUBLISHED_MAX_LENGTH)
    framed = {"<cls>", "<eos>"} <= set(dictionaries.special)
    front = [dictionaries.special["<cls>"]] if framed else []
    back = [dictionaries.special["<eos>"]] if framed else []
    room = room_for_genes(limit, len(front) + len(back))
    rows, n_genes = [], np.diff(ranked.indptr)
    for start, stop in zip(ranked.indptr[:-1], ranked.indptr[1:], strict=True):
        order = np.argsort(-ranked.data[start:stop], kind="stable")[:room]
        rows.append(np.array([*front, *mapped.token_ids[ranked.indices[start:stop][order]], *back], dtype=np.int32))
    return assemble_tokens(
        rows,
        counts,
        empty=n_genes == 0,
        special_ids=sorted(dictionaries.special.values()),
        pad_id=dictionaries.special["<pad>"],
        names=(genes, symbols),
        info=mapped.coverage
        | {"cells_truncated": int((n_genes > room).sum()), "longest_input": limit, "input_mode": settings.input_mode},
        empty_cells=settings.empty_cells,
    )


def _official_scores(counts: Counts, mapped: MappedCounts, medians: np.ndarray) -> sp.csr_matrix:
    scores = mapped.matrix.copy()
    per_value = np.repeat(counts.n_counts, np.diff(scores.indptr))
    scores.data = scores.data / per_value * 10_000 / medians[scores.indices]
    return scores


def _published_scores(counts: Counts, mapped: MappedCounts, medians: np.ndarray) -> sp.csr_matrix:
    scores = mapped.matrix.copy()
    row_sums = np.asarray(counts.matrix.sum(axis=1)).ravel()
    per_value = np.repeat(row_sums, np.diff(scores.indptr))
    scores.data = np.log1p(scores.data / per_value * 10_000) / np.nan_to_num(medians, nan=1.0)[scores.indices]
    return scores
