"""Settings of circuits: what is ablated and measured, and when an effect is called an edge."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from cellcircuits.errors import SettingsError
from cellcircuits.ranges import PROBABILITY
from cellcircuits.ranges import check_ranges as _check_ranges

Readout = Literal["source", "target", "other", "pre", "computed"]
EVERYWHERE = ("target", "other")
"""Readouts that look at positions outside those of the removal, so the whole cell must be carried upward."""
FOLD = "fold"
EXACT_PASS_POSITIONS = 8192
"""Longest batch of ablated copies: with more positions a pass no longer gets faster per copy (measured on CPUs)."""
FROZEN_READS_PER_COPY = 32
"""A frozen batch holds only changed positions: at most batch_size times this many."""


@dataclass(frozen=True)
class TraceSettings:
    """Which features are ablated, in which cells, and what is measured."""

    source_layers: list[int] = field(default_factory=list)
    """Layers whose features are ablated; empty: the first layer, and those at one and two thirds of the depth."""
    target_layers: list[int] = field(default_factory=list)
    """Layers that are measured; empty: every layer above the source that has an autoencoder."""
    select: Literal["annotated", "random", "frequent", "matched", "all"] = "annotated"
    """How sources are picked from the features with a firing rate of at least `min_firing_rate`: by the published
    annotation score, at random, by firing rate, or all of them. "matched": half of them by annotation score, and for
    each the feature without annotation that fires most nearly as often."""
    n_features: int = 30
    """Source features per layer."""
    min_firing_rate: float = 0.01
    """Smallest share of gene positions at which a source fires."""
    n_cells: int = 200
    """Cells traced; 0: all."""
    stratify_by: str = ""
    """obs column whose labels are drawn in proportion; empty: draw uniformly."""
    context: Literal["exact", "frozen", "screen"] = "exact"
    """"exact": every position is carried upward. "frozen": only those at which the source is active, the others stay as
    they were in the clean pass; far cheaper where sources are active at few positions. "screen": frozen first, then
    sources in which it finds edges again, exactly."""
    screen_min_edges: int = 1
    """Screen: edges in the frozen context with which a source is traced again exactly."""
    fidelity_sources: int = 2
    """Frozen: source features per layer that are traced exactly as well, at random, to measure what the frozen context
    leaves out; 0: none."""
    fidelity_cells: int = 60
    """Frozen: cells in which they are."""
    random_directions: int = 16
    """Control directions per source: Gaussian, of the norm of the source's own, fixed over positions and cells; with
    fewer than 4 there is no verdict on whether an edge is specific."""
    matched_features: int = 4
    """Control directions per source: those of other features, of the nearest firing rates."""
    control_cells: int = 0
    """Cells in which control directions are traced, evenly spread over those of the sources; 0: all of them. What the
    sources themselves do is traced there as well, so that like is compared with like."""
    control_parts: int = 4
    """Parts in which control directions are traced, at most: they have many sums, and every part of them is on disk
    until all are there. More parts keep more workers busy."""
    control_context: Literal["frozen", "exact"] = "frozen"
    """Context in which control directions are traced. "exact" costs as much per direction as the source itself, and is
    needed for a verdict on effects at other positions."""
    group_by: str = ""
    """obs column for whose labels sums are kept apart (cell type, donor, batch, guide), or "fold" for random folds;
    memory and disk grow with the number of labels. Empty: no groups."""
    n_folds: int = 10
    """Folds of cells, if grouped by "fold"."""
    readouts: list[Readout] = field(default_factory=lambda: ["source", "pre", "computed"])
    """What is measured. "source": activation where the source is active (published). "target": where the target is
    active. "other": at all other gene positions, what attention carries from gene to gene. "pre": activation before
    TopK, where the source is active. "computed": of that, what the blocks compute, beyond the removed vector that
    merely persists. "target" and "other" need an exact context."""
    batch_size: int = 16
    """Ablated copies of a cell per forward pass, at most; long cells take fewer."""
    cells_per_part: int = 10
    """Cells per part: the unit that is saved, resumed and merged."""
    block_megabytes: int = 1024
    """Sums held at a time, in megabytes: with more source features than fit, a part takes a block of them. Changes
    memory only; every block needs a clean pass of its own."""
    threads: int = 0
    """CPU threads per part; 0: as many as torch takes here. Recorded in the plan: every worker uses as many, and the
    bits are the same."""
    seed: int = 0
    """Seed of the draws of cells and features."""

    def __post_init__(self) -> None:
        outside = sorted(set(EVERYWHERE) & set(self.readouts))
        if outside and self.context != "exact":
            raise SettingsError(
                f"The readouts {', '.join(outside)} look at positions that a {self.context} context leaves as they "
                'were. Set context = "exact", or leave them out.'
            )
        if not self.readouts or len(set(self.readouts)) < len(self.readouts):
            raise SettingsError("`readouts` must name at least one readout, each once.")
        _check_ranges(self, *PROBABILITY, "min_firing_rate")
        _check_ranges(self, 2, inf, "n_folds", *(["n_features"] if self.select == "matched" else []))
        _check_ranges(self, 0, inf, "fidelity_sources", "random_directions", "matched_features", "control_cells")
        _check_ranges(
            self,
            1,
            inf,
            "screen_min_edges",
            "fidelity_cells",
            "n_features",
            "batch_size",
            "cells_per_part",
            "control_parts",
            "block_megabytes",
        )
        _check_ranges(self, 0, inf, "n_cells", "threads", "seed")

    @property
    def n_controls(self) -> int:
        """Control directions per source."""
        return self.random_directions + self.matched_features

    def copies_per_pass(self, n_positions: int) -> int:
        """Ablated copies per exact pass of a cell of this length."""
        return max(1, min(self.batch_size, EXACT_PASS_POSITIONS // n_positions))


@dataclass(frozen=True)
class EdgesSettings:
    """When an effect is called an edge."""

    rule: Literal["calibrated", "published"] = "calibrated"
    """"calibrated": q, number of cells, mean/sd and sign agreement among responding cells. "published": |mean/sd| and
    the consistency of Kendiukhov 2026, which counts zeros as negative."""
    readout: Readout = "source"
    """Readout at which an effect must exist."""
    unit: Literal["cell", "group"] = "cell"
    """Unit of observation: cells, or the groups of trace.group_by (donor, batch, guide), each by its mean."""
    test: Literal["t", "sign"] = "t"
    """Where p comes from. "t": of the mean, one-sample t over cells, sign-flip over up to 20 groups. "sign": exact sign
    test of the responding units, which holds for any number of them and any symmetric distribution."""
    max_q: float = 0.05
    """Largest Benjamini-Hochberg q, over all targets tested from one source layer; of both verdicts, `exists` and
    `specific`."""
    min_cells: int = 20
    """Fewest cells in which the source is active."""
    min_groups: int = 6
    """Fewest groups in which the source is active, where groups are the unit."""
    min_snr: float = 0.5
    """|mean / sd| over units must be above this (both rules)."""
    min_agreement: float = 0.7
    """Calibrated: share of responding units with the sign of the mean, at least. Published: consistency above this."""
    require_specific: bool = False
    """Calibrated: call only edges that are also beyond random directions of the same norm."""

    def __post_init__(self) -> None:
        _check_ranges(self, *PROBABILITY, "max_q", "min_agreement")
        _check_ranges(self, 2, inf, "min_cells", "min_groups")
        _check_ranges(self, 0, inf, "min_snr")
