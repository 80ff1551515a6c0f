"""Sums over cells that add up, and what follows from them.

One observation is one cell: delta = mean over the read positions of (ablated - clean) activation of a target. Kept are
the sums of ALL targets, so a new rule for edges never needs a new trace. `a + b` merges disjoint sets of cells.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cellcircuits.errors import RunError, SettingsError

STATISTICS = ("sum_delta", "sum_squared_delta", "n_positive", "n_negative", "sum_clean")
"""First axis of `Moments.sums`."""
GENE_STATISTICS = ("n_removed", "sum_removed", "n_changed", "sum_change", "sum_squared_change")
"""First axis of `Moments.genes`: cells in which the source was removed at this gene, and how much activation; cells in
which the gene stood elsewhere, and by which share its state changed."""
ALL, OWN = "all", "own"
"""Name of the only group, or of all groups together; name of a source's own direction."""
SMALLEST_SD = 1e-10
"""Floor of the standard deviation in mean/sd, as in the published code."""


@dataclass(frozen=True)
class Moments:
    """Sums over cells for the source features of one layer."""

    source_layer: int
    source_features: np.ndarray
    """int64 (source,)."""
    n_cells: np.ndarray
    """int64 (group, readout, source): cells in which the source was active, hence measured."""
    sums: dict[int, np.ndarray]
    """{target layer: float64 (statistic, group, readout, source, target)}, statistics in the order of `STATISTICS`."""
    groups: tuple[str, ...] = (ALL,)
    """Groups of cells with sums of their own."""
    readouts: tuple[str, ...] = ("source",)
    """What is measured of a target, and where: see the module `readouts`."""
    directions: tuple[str, ...] = (OWN,)
    """What is removed in place of each source: "own" is its own direction, others are controls. With several, the
    source axis of the arrays runs over (source, direction) pairs, directions fastest."""
    genes: np.ndarray | None = None
    """float64 (statistic, source, token): sums over cells by gene, statistics in the order of `GENE_STATISTICS`."""

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets of cells together.

        Raises
        ------
        RunError
            If the two are not of the same sources, targets, groups and readouts.
        """
        self._check_addable(other)
        sums = {layer: self.sums[layer] + other.sums[layer] for layer in self.sums}
        genes = None if self.genes is None or other.genes is None else self.genes + other.genes
        return replace(self, n_cells=self.n_cells + other.n_cells, sums=sums, genes=genes)

    def __iadd__(self, other: Moments) -> Moments:
        """Add in place: the same numbers as `self + other`, without memory for a third."""
        self._check_addable(other)
        np.add(self.n_cells, other.n_cells, out=self.n_cells)
        for layer, values in self.sums.items():
            np.add(values, other.sums[layer], out=values)
        if self.genes is not None and other.genes is not None:
            np.add(self.genes, other.genes, out=self.genes)
        return self

    def _check_addable(self, other: Moments) -> None:
        same = (
            self.source_layer == other.source_layer
            and np.array_equal(self.source_features, other.source_features)
            and self._labels == other._labels
            and {k: v.shape for k, v in self.sums.items()} == {k: v.shape for k, v in other.sums.items()}
        )
        if not same:
            raise RunError(
                f"Moments of different traces cannot be added: layer {self.source_layer} with "
                f"{len(self.source_features)} sources, layer {other.source_layer} with {len(other.source_features)}."
            )

    @classmethod
    def join(cls, blocks: Sequence[Moments]) -> Moments:
        """Moments of all sources of `blocks`, in this order: blocks of different sources in the same cells.

        Raises
        ------
        RunError
            If they share a source, or are not of the same layer, targets, groups and readouts.
        """
        first = blocks[0]
        features = np.concatenate([block.source_features for block in blocks])
        kinds = {(m.source_layer, m._labels, tuple((t, v.shape[-1]) for t, v in m.sums.items())) for m in blocks}
        if len(kinds) > 1 or len(np.unique(features)) < len(features):
            raise RunError(f"Blocks of different traces cannot be joined (layer {first.source_layer}). Trace again.")
        if len(blocks) == 1:
            return first
        return replace(
            first,
            source_features=features,
            n_cells=np.concatenate([block.n_cells for block in blocks], axis=2),
            sums={t: np.concatenate([block.sums[t] for block in blocks], axis=3) for t in first.sums},
            genes=None if first.genes is None else np.concatenate([b.genes for b in blocks if b.genes is not None], 1),
        )

    @property
    def _labels(self) -> tuple:
        """What two moments must share to belong together."""
        return self.groups, self.readouts, self.directions, None if self.genes is None else self.genes.shape[-1]

    @classmethod
    def zeros(
        cls,
        source_layer: int,
        source_features: np.ndarray,
        n_targets: dict[int, int],
        groups: tuple[str, ...] = (ALL,),
        readouts: tuple[str, ...] = ("source",),
        directions: tuple[str, ...] = (OWN,),
        n_tokens: int = 0,
    ) -> Moments:
        """Moments of no cells, for {target layer: number of targets}; with `n_tokens` also sums by gene."""
        features = np.asarray(source_features, dtype=np.int64)
        shape = len(groups), len(readouts), len(features) * len(directions)
        sums = {layer: np.zeros((len(STATISTICS), *shape, size)) for layer, size in n_targets.items()}
        genes = np.zeros((len(GENE_STATISTICS), len(features), n_tokens)) if n_tokens else None
        return cls(source_layer, features, np.zeros(shape, dtype=np.int64), sums, groups, readouts, directions, genes)

    def of_direction(self, index: int) -> Moments:
        """The moments of one of the directions alone."""
        step = len(self.directions)
        return replace(
            self,
            n_cells=self.n_cells[..., index::step],
            sums={layer: values[..., index::step, :] for layer, values in self.sums.items()},
            directions=(self.directions[index],),
            genes=None,
        )

    def of_groups(self, names: Sequence[str]) -> Moments:
        """The moments of some groups of cells alone."""
        index = [self.groups.index(name) for name in names]
        sums = {layer: values[:, index] for layer, values in self.sums.items()}
        return replace(self, n_cells=self.n_cells[index], sums=sums, groups=tuple(names), genes=None)

    def of_sources(self, rows: np.ndarray) -> Moments:
        """The moments of some of the sources: `rows` are positions in `source_features`."""
        step = len(self.directions)
        chosen = (np.asarray(rows)[:, None] * step + np.arange(step)).ravel()
        return replace(
            self,
            source_features=self.source_features[rows],
            n_cells=self.n_cells[..., chosen],
            sums={layer: values[..., chosen, :] for layer, values in self.sums.items()},
            genes=None if self.genes is None else self.genes[:, rows],
        )

    def replace_sources(self, rows: np.ndarray, found: Moments) -> None:
        """Put the sums of `found` in the place of some of the sources; in place. For one direction only."""
        self.n_cells[..., rows] = found.n_cells
        for layer, values in self.sums.items():
            values[..., rows, :] = found.sums[layer]

    def statistic(self, target_layer: int, name: str, group: str = ALL, readout: str = "source") -> np.ndarray:
        """One sum, float64 (source, target); of all groups together unless one is named."""
        values = self.sums[target_layer][STATISTICS.index(name), :, self._readout(readout)]
        return self._of_group(values, group)

    def cells(self, group: str = ALL, readout: str = "source") -> np.ndarray:
        """Number of cells of each source, int64 (source,); of all groups together unless one is named."""
        return self._of_group(self.n_cells[:, self._readout(readout)], group)

    def _readout(self, name: str) -> int:
        if name not in self.readouts:
            raise SettingsError(
                f"These moments hold the readouts {', '.join(self.readouts)}, not {name!r}. Trace again with it."
            )
        return self.readouts.index(name)

    def _of_group(self, values: np.ndarray, group: str) -> np.ndarray:
        """`values` (group, ...) of one group, or their sum."""
        if group == ALL and len(self.groups) > 1:
            return values.sum(axis=0)
        return values[0 if group == ALL else self.groups.index(group)]

    def mean(self, target_layer: int, **which: str) -> np.ndarray:
        """Mean delta over cells, (source, target); 0 where no cell was measured."""
        return self.statistic(target_layer, "sum_delta", **which) / np.maximum(self.cells(**which), 1)[:, None]

    def mean_clean(self, target_layer: int, **which: str) -> np.ndarray:
        """Mean activation of the target in the clean pass at the same positions, (source, target)."""
        return self.statistic(target_layer, "sum_clean", **which) / np.maximum(self.cells(**which), 1)[:, None]

    def sd(self, target_layer: int, **which: str) -> np.ndarray:
        """Sample standard deviation over cells (n - 1), (source, target); 0 for fewer than two cells."""
        n = self.cells(**which)[:, None]
        mean = self.mean(target_layer, **which)
        squares = self.statistic(target_layer, "sum_squared_delta", **which) - n * mean**2
        # rounding leaves up to about 1e-16 of the squares where all cells agree
        squares = np.where(squares > 1e-13 * n * mean**2, squares, 0.0)
        return np.sqrt(squares / np.maximum(n - 1, 1))

    def snr(self, target_layer: int, **which: str) -> np.ndarray:
        """Mean / sd over cells: a signal-to-noise ratio (the published "Cohen's d"), (source, target)."""
        return self.mean(target_layer, **which) / np.maximum(self.sd(target_layer, **which), SMALLEST_SD)


def save_moments(moments: Moments, path: Path) -> None:
    """Write moments as safetensors (numbers) with the labels in its metadata."""
    import json

    from safetensors.numpy import save_file

    arrays = {"source_features": moments.source_features, "n_cells": moments.n_cells}
    arrays |= {f"sums/{layer:02d}": values for layer, values in moments.sums.items()}
    if moments.genes is not None:
        arrays["genes"] = moments.genes
    labels = {
        "source_layer": moments.source_layer,
        "groups": moments.groups,
        "readouts": moments.readouts,
        "directions": moments.directions,
        "statistics": STATISTICS,
    }
    # one entry only: safetensors writes several in random order, and the same moments would not have the same bytes
    arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    save_file(arrays, path, metadata={"labels": json.dumps(labels)})


def load_moments(path: Path) -> Moments:
    """Read moments written by `save_moments`.

    Raises
    ------
    RunError
        If the file is damaged or of another kind.
    """
    import json

    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            labels = json.loads(file.metadata()["labels"])
            arrays = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} is not a file of moments, or is damaged ({error}). Delete it and trace again."
        ) from error
    sums = {int(key.removeprefix("sums/")): value for key, value in arrays.items() if key.startswith("sums/")}
    return Moments(
        source_layer=labels["source_layer"],
        source_features=arrays["source_features"],
        n_cells=arrays["n_cells"],
        sums=dict(sorted(sums.items())),
        groups=tuple(labels["groups"]),
        readouts=tuple(labels["readouts"]),
        directions=tuple(labels["directions"]),
        genes=arrays.get("genes"),
    )


def moments_file(folder: Path, layer: int, block: int, kind: str = "") -> Path:
    """File of a finished trace with the moments of the sources of one layer in one block.

    `kind` is "" for the sources, "controls" for control directions in their place, "exact" and "frozen" for sources
    that were traced in both contexts.
    """
    return folder / f"{kind or 'moments'}_L{layer:02d}_B{block:04d}.safetensors"


def trace_files(folder: Path, kind: str = "") -> dict[int, list[Path]]:
    """{source layer: files of its blocks, in order} of a finished trace, for reading one at a time.

    Raises
    ------
    RunError
        If there are no moments of sources; of another `kind` there may be none.
    """
    pattern = f"{kind or 'moments'}_L*_B*.safetensors"
    found = sorted(folder.glob(pattern), key=lambda path: [int(n) for n in _numbers(path)])
    if not found and not kind:
        raise RunError(f"{folder} holds no moments. Run `trace` again.")
    files: dict[int, list[Path]] = {}
    for path in found:
        files.setdefault(int(_numbers(path)[0]), []).append(path)
    return files


def _numbers(path: Path) -> list[str]:
    """Layer and block in the name of a file of moments."""
    return re.findall(r"\d+", path.stem)


def load_trace(folder: Path) -> list[Moments]:
    """Moments of every source layer of a finished trace, in order of layer.

    Raises
    ------
    RunError
        If there are none.
    """
    return [Moments.join([load_moments(path) for path in paths]) for paths in trace_files(folder).values()]
