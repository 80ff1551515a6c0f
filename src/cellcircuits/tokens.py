"""`Tokens`: cells in the form in which a model reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import InitVar, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cellcircuits.errors import DataError, RunError
from cellcircuits.mapped import mapped_arrays, release

CELLS_AT_A_TIME = 1024
"""Cells whose tokens are looked at together where all cells are."""
CELLS_CHECKED = 64
"""Cells of a file that are compared with what it says of their lengths; every cell is when it is taken."""


@dataclass(frozen=True)
class Tokens:
    """Tokenised cells.

    Every array is indexed ``(cell, position)`` and padded on the right. Those of a run folder stay on disk: `take`
    reads the cells that it is asked for.
    """

    ids: np.ndarray
    """int32 (cell, position): token ids; `pad_id` beyond the end of a cell."""
    gene_mask: np.ndarray
    """bool (cell, position): True where the token is a gene (not padding, not <cls>, <eos>, <mask>)."""
    values: np.ndarray | None = None
    """float32 (cell, position): expression value of each token, for models that read values; None otherwise."""
    pad_id: int = 0
    """Token id of padding."""
    gene_ids: np.ndarray = field(default_factory=lambda: np.array([], dtype=str))
    """str (token,): gene identifier of each token id, "" for special tokens. Empty when unknown."""
    gene_symbols: np.ndarray = field(default_factory=lambda: np.array([], dtype=str))
    """str (token,): gene symbol of each token id, "" for special tokens. Empty when unknown."""
    obs: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row per cell, indexed by cell name: the columns of `AnnData.obs` that were kept."""
    info: dict = field(default_factory=dict)
    """Provenance: model name, input mode, coverage report."""
    known_lengths: InitVar[np.ndarray | None] = None
    """Lengths that are known already, so that the tokens need not be read for them."""

    def __post_init__(self, known_lengths: np.ndarray | None) -> None:
        if self.ids.ndim != 2:
            raise DataError(f"Tokens need ids of shape (cell, position); found shape {self.ids.shape}.")
        for name in ("gene_mask", "values"):
            array = getattr(self, name)
            if array is not None and array.shape != self.ids.shape:
                raise DataError(f"Tokens.{name} has shape {array.shape}, ids have {self.ids.shape}; they must agree.")
        if len(self.obs) != len(self.ids):
            object.__setattr__(self, "obs", self._default_obs())
        object.__setattr__(self, "lengths", self._lengths() if known_lengths is None else known_lengths)

    lengths: np.ndarray = field(init=False)
    """int64 (cell,): number of tokens of each cell, special tokens included."""

    def _default_obs(self) -> pd.DataFrame:
        if len(self.obs):
            raise DataError(f"Tokens hold {len(self.ids)} cells but obs has {len(self.obs)} rows; they must agree.")
        return pd.DataFrame(index=[f"cell_{i}" for i in range(len(self.ids))])

    def _lengths(self) -> np.ndarray:
        positions = np.arange(self.ids.shape[1])
        lengths = np.zeros(len(self.ids), dtype=np.int64)
        for rows in self._chunks():
            real = self.ids[rows] != self.pad_id
            lengths[rows] = real.sum(axis=1)
            if (real != (positions < lengths[rows, None])).any():
                raise DataError(f"Padding (token {self.pad_id}) must stand only at the end of a cell.")
        if (lengths == 0).any():
            raise DataError(f"{int((lengths == 0).sum())} cells have no token at all; remove them first.")
        return lengths

    def _chunks(self) -> Iterator[slice]:
        """All rows, some at a time; those on disk leave the memory again."""
        for start in range(0, len(self.ids), CELLS_AT_A_TIME):
            yield slice(start, start + CELLS_AT_A_TIME)
            release(self.ids, self.gene_mask, self.values)

    @classmethod
    def from_ids(
        cls,
        ids: np.ndarray | Sequence[Sequence[int]],
        pad_id: int = 0,
        special_ids: Sequence[int] = (0, 1, 2, 3),
        values: np.ndarray | None = None,
    ) -> Tokens:
        """Tokens from ids that are already made, shape (cell, position); ragged lists are padded.

        `special_ids` are the tokens that are not genes (Geneformer V2: pad 0, mask 1, cls 2, eos 3).
        """
        if not isinstance(ids, np.ndarray):
            rows = [np.asarray(row, dtype=np.int32) for row in ids]
            ids = np.full((len(rows), max(map(len, rows), default=0)), pad_id, dtype=np.int32)
            for row, tokens in enumerate(rows):
                ids[row, : len(tokens)] = tokens
        ids = np.ascontiguousarray(ids, dtype=np.int32)
        gene_mask = ~np.isin(ids, [*special_ids, pad_id])
        return cls(ids=ids, gene_mask=gene_mask, values=values, pad_id=pad_id)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | np.ndarray) -> Tokens:
        """The cells at these positions (repeats allowed) or under this mask, padding trimmed to the longest of them."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        width = int(self.lengths[rows].max()) if len(rows) else 0
        taken = replace(
            self,
            ids=self.ids[rows, :width],
            gene_mask=self.gene_mask[rows, :width],
            values=None if self.values is None else self.values[rows, :width],
            obs=self.obs.iloc[rows],
        )
        release(self.ids, self.gene_mask, self.values)
        return taken

    @property
    def has_padding(self) -> bool:
        """Whether any cell is shorter than the array."""
        return bool((self.lengths < self.ids.shape[1]).any())

    @property
    def n_positions(self) -> int:
        """Number of gene positions over all cells."""
        return sum(int(self.gene_mask[rows].sum()) for rows in self._chunks())

    def count_genes(self) -> np.ndarray:
        """int64 (token,): gene positions of each token over all cells."""
        counts = np.zeros(len(self.gene_ids), dtype=np.int64)
        for rows in self._chunks():
            found = np.bincount(self.ids[rows][self.gene_mask[rows]])
            counts[: len(found)] += found
        return counts

    def fingerprint(self) -> str:
        """sha256 over ids, padding id, gene mask, values and gene ids: the same cells for the model, the same hash."""
        digest = hashlib.sha256(str(self.pad_id).encode())
        for array in (self.ids, self.gene_mask, self.values):
            if array is not None:
                digest.update(str((array.dtype, array.shape)).encode())
                for rows in self._chunks():
                    digest.update(np.ascontiguousarray(array[rows]).tobytes())
        digest.update("\n".join(map(str, self.gene_ids)).encode())
        return digest.hexdigest()


def save_tokens(tokens: Tokens, folder: Path) -> None:
    """Write tokens.safetensors, obs.parquet, genes.parquet and tokens.json."""
    from safetensors.numpy import save_file

    arrays = {"ids": tokens.ids, "gene_mask": tokens.gene_mask, "lengths": tokens.lengths}
    if tokens.values is not None:
        arrays["values"] = tokens.values
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / "tokens.safetensors")
    obs = tokens.obs.copy()
    for column in obs:
        if obs[column].dtype == object or isinstance(obs[column].dtype, pd.CategoricalDtype):
            obs[column] = obs[column].astype(object).where(obs[column].notna(), None).map(_text_or_none)
    obs.index = obs.index.astype(str)
    obs.rename_axis("cell").to_parquet(folder / "obs.parquet")
    genes = {"token_id": np.arange(len(tokens.gene_ids)), "gene_id": tokens.gene_ids, "symbol": tokens.gene_symbols}
    pd.DataFrame(genes).to_parquet(folder / "genes.parquet")
    record = {"pad_id": tokens.pad_id, "info": tokens.info}
    (folder / "tokens.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


def load_tokens(folder: Path, columns: Sequence[str] | None = None) -> Tokens:
    """What `save_tokens` wrote; the tokens stay on disk until cells are taken.

    `columns` of obs are read; None: all.

    Raises
    ------
    RunError
        If a file is missing or damaged.
    """
    from safetensors import SafetensorError

    try:
        arrays = mapped_arrays(folder / "tokens.safetensors")
        obs = pd.read_parquet(folder / "obs.parquet", columns=None if columns is None else list(columns))
        genes = pd.read_parquet(folder / "genes.parquet")
        record = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
        lengths = arrays.get("lengths")
        tokens = Tokens(
            ids=arrays["ids"],
            gene_mask=arrays["gene_mask"],
            values=arrays.get("values"),
            pad_id=record["pad_id"],
            gene_ids=genes["gene_id"].to_numpy(dtype=str),
            gene_symbols=genes["symbol"].to_numpy(dtype=str),
            obs=obs,
            info=record["info"],
            known_lengths=None if lengths is None else np.array(lengths),
        )
        _check_some_lengths(tokens)
        return tokens
    except (OSError, ValueError, KeyError, TypeError, DataError, SafetensorError) as error:
        raise RunError(
            f"The cells in {folder} are damaged ({error}). Delete the folder and run `cells` again."
        ) from error


def _check_some_lengths(tokens: Tokens) -> None:
    """Raise unless some cells are as long as the file says; reading all of them would take long."""
    if tokens.lengths.shape != (len(tokens),):
        raise DataError(f"there are {len(tokens)} cells and lengths of {tokens.lengths.shape}")
    rows = np.unique(np.linspace(0, len(tokens) - 1, min(CELLS_CHECKED, len(tokens))).astype(int))
    real = tokens.ids[rows] != tokens.pad_id
    if (real != (np.arange(real.shape[1]) < tokens.lengths[rows, None])).any():
        raise DataError("cells are not as long as the file says")
