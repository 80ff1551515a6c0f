"""scGPT's tokeniser: genes with binned expression values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellcircuits.checkpoints import read_json
from cellcircuits.counts import Counts
from cellcircuits.errors import ModelError
from cellcircuits.settings import CellsSettings
from cellcircuits.tokens import Tokens
from cellcircuits.vocabulary import assemble_tokens, map_genes, room_for_genes

SPECIAL_TOKENS = ("<pad>", "<cls>", "<eoc>")


@dataclass(frozen=True)
class Vocabulary:
    """vocab.json: gene symbol or special token to id."""

    tokens: dict[str, int]
    pad_id: int

    @classmethod
    def read(cls, path: Path, pad_token: str) -> Vocabulary:
        """Read vocab.json; ids must be consecutive and the padding token present."""
        tokens = read_json(path)
        if sorted(tokens.values(), key=str) != sorted(range(len(tokens)), key=str):
            raise ModelError(f"{path}: token ids must be the whole numbers 0 to {len(tokens) - 1}, each once.")
        if pad_token not in tokens:
            raise ModelError(f"{path} has no padding token {pad_token!r}, which args.json names.")
        return cls(tokens, tokens[pad_token])

    @property
    def special_ids(self) -> list[int]:
        """Ids of the tokens that are not genes."""
        return sorted({self.tokens[t] for t in SPECIAL_TOKENS if t in self.tokens} | {self.pad_id})

    def token_of(self, ensembl_id: str, symbol: str) -> int | None:
        """Token of a gene: by symbol (exactly as written), else by Ensembl id (the vocabulary holds some)."""
        for name in (symbol, ensembl_id):
            token = self.tokens.get(name)
            if token is not None and token not in self.special_ids:
                return token
        return None

    def names(self) -> np.ndarray:
        """Symbol of every token; "" for special tokens."""
        names = np.array(sorted(self.tokens, key=self.tokens.__getitem__), dtype=object)
        names[self.special_ids] = ""
        return names.astype(str)


def bin_values(values: np.ndarray, n_bins: int) -> np.ndarray:
    """scGPT's quantile bins 1 ... n_bins - 1 of the non-zero `values` (gene,) of one cell.

    The edges are the n_bins - 1 quantiles of the values. A value between edges i and i + 1 gets bin i + 1. A value
    that lies on several edges (a tie) may get any bin between them; scGPT draws one at random, here it is the middle
    one: ceil((low + high) / 2).
    """
    edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))
    high = np.searchsorted(edges, values, side="right")
    low = np.searchsorted(edges, values, side="left")
    return np.ceil((low + high) / 2).astype(np.float32)


def scgpt_tokens(counts: Counts, vocabulary: Vocabulary, arguments: dict[str, Any], settings: CellsSettings) -> Tokens:
    """Non-zero genes of each cell with their values.

    official:   <cls> (with the padding value), then the genes in the order of the data with values in per-cell
                quantile bins; if there are more than fit, the most expressed are kept (scGPT keeps a random subset)
    published:  no <cls>, values as they are, genes in descending order of value, at most `max_seq_len`
                (Kendiukhov 2026; outside the distribution that the model was trained on)

    Bins need no library-size normalisation or logarithm: they depend on the order of the values in a cell alone.
    """
    official = settings.input_mode == "official"
    mapped = map_genes(counts, vocabulary.token_of, settings.min_mapped_genes)
    limit = min(arguments["max_seq_len"], settings.max_length or arguments["max_seq_len"])
    front = [vocabulary.tokens["<cls>"]] if official and "<cls>" in vocabulary.tokens else []
    room = room_for_genes(limit, len(front))
    matrix, rows, values = mapped.matrix, [], []
    n_genes = np.diff(matrix.indptr)
    for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        raw, columns = matrix.data[start:stop], matrix.indices[start:stop]
        chosen = np.argsort(-raw, kind="stable")[:room]
        if official:
            chosen.sort()
            binned = bin_values(raw, arguments["n_bins"])[chosen] if len(raw) else raw
            value = np.concatenate([np.full(len(front), arguments["pad_value"]), binned])
        else:
            value = raw[chosen]
        rows.append(np.array([*front, *mapped.token_ids[columns[chosen]]], dtype=np.int32))
        values.append(value.astype(np.float32))
    names = vocabulary.names()
    return assemble_tokens(
        rows,
        counts,
        empty=n_genes == 0,
        special_ids=vocabulary.special_ids,
        pad_id=vocabulary.pad_id,
        names=(names, names),
        info=mapped.coverage
        | {"cells_truncated": int((n_genes > room).sum()), "longest_input": limit, "input_mode": settings.input_mode},
        empty_cells=settings.empty_cells,
        values=values,
        pad_value=arguments["pad_value"],
    )
