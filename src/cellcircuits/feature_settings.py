"""Settings of features: how autoencoders are trained, and how their features are catalogued and named."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from cellcircuits.errors import SettingsError
from cellcircuits.ranges import PROBABILITY
from cellcircuits.ranges import check_ranges as _check_ranges

Baseline = Literal["pca", "ica", "neurons"]


@dataclass(frozen=True)
class TrainSettings:
    """Sparse autoencoders: one dictionary per layer, all trained in one pass over the model."""

    saes: str = ""
    """Folder of trained sparse autoencoders to use instead of training (SAELens folders, or layerNN_x4_k32/)."""
    accept_input_mode: str = ""
    """Input mode of those autoencoders, where their files do not say it ("official" or "published")."""
    layers: list[int] = field(default_factory=list)
    """Layers (0-based, block outputs); empty: all."""
    architecture: Literal["topk", "batchtopk", "matryoshka", "jumprelu"] = "topk"
    """"topk": k features at every position. "batchtopk": k on average over positions. "matryoshka": BatchTopK whose
    first features must also reconstruct alone. "jumprelu": a learned threshold per feature, about k on average. All
    but "topk" are trained by SAELens (the extra `train`)."""
    expansion: int = 4
    """Features per model dimension."""
    k: int = 32
    """Active features per position; on average, in all architectures but "topk"."""
    matryoshka_levels: int = 4
    """Nested dictionaries of a Matryoshka autoencoder, each half as wide as the next."""
    sparsity_weight: float = 1.0
    """JumpReLU: weight of the penalty on active features beside k, relative to the squared error."""
    epochs: int = 20
    """Passes of the training cells through the model."""
    repeats: int = 1
    """Times that the activations in the buffer are learned from, each time in another order, before new ones are
    computed: epochs x repeats times in all. Where the model costs more than the autoencoders, more repeats and fewer
    epochs are faster; the buffer must then be large enough to mix many cells."""
    batch_positions: int = 2048
    """Gene positions per optimiser step."""
    buffer_positions: int = 65536
    """Gene positions held in memory for shuffling, per layer."""
    learning_rate: float = 2e-3
    """Peak learning rate of Adam; cosine decay to a tenth."""
    auxiliary_weight: float = 1 / 32
    """Weight of the auxiliary loss with which dead features are revived (Gao et al. 2024)."""
    dead_after_positions: int = 200_000
    """A feature is dead when it has not fired for this many positions."""
    held_out: float = 0.15
    """Share of cells kept out of training, on which quality is reported."""
    held_out_by: str = ""
    """obs column of groups of cells (donor, batch): whole groups are kept out, up to about that share of the cells.
    Empty: cells, at random."""
    quality_cells: int = 16
    """Held-out cells in which reconstructions are put into the model; 0: none."""
    model_batch: int = 32
    """Cells per forward pass."""
    n_seeds: int = 1
    """Autoencoders per layer, from different initial weights and orders; all are trained from the same pass over the
    model. Only the first is used; the others tell which features are found again."""
    mixed_precision: bool = False
    """Train autoencoders in bfloat16 where it is safe (CUDA only). The model's pass stays in float32: that is what is
    traced."""
    checkpoint_seconds: float = 60.0
    """Training is saved after a buffer when it has not been for this long, and goes on from there when stopped, to the
    same bits; 0: after every buffer."""
    random_weights: bool = False
    """Also train autoencoders of the same settings on the model with random weights: the baseline for quality,
    annotation and edges. Doubles the cost of training and annotation, and adds a trace."""
    seed: int = 0
    """Seed of initial weights, order, split, and of the model with random weights."""

    def __post_init__(self) -> None:
        _check_ranges(self, 0.01, 0.9, "held_out")
        _check_ranges(self, 1, inf, "expansion", "k", "epochs", "repeats", "batch_positions", "model_batch", "n_seeds")
        _check_ranges(self, 2, inf, "matryoshka_levels")
        _check_ranges(self, 0, inf, "learning_rate", "auxiliary_weight", "dead_after_positions", "seed")
        _check_ranges(self, 0, inf, "sparsity_weight", "quality_cells", "checkpoint_seconds")
        if self.buffer_positions < self.batch_positions:
            raise SettingsError("`buffer_positions` must be at least `batch_positions`.")


@dataclass(frozen=True)
class AnnotateSettings:
    """Names for features: top genes, enriched gene sets, one label."""

    gene_sets: list[str] = field(default_factory=lambda: ["immune"])
    """GMT files (also .gz), or names of resources that were fetched (`cellcircuits fetch`); "immune" is the small set
    shipped with the package."""
    networks: list[str] = field(default_factory=list)
    """Files (also .gz) of protein interactions (STRING and the like) or targets of transcription factors (TRRUST,
    CollecTRI, DoRothEA, ChIP-seq sets as GMT), or names of resources that were fetched; known by their columns."""
    min_interaction_score: float = 0.0
    """Interactions with a lower score are left out, in the unit of the file (STRING: 0 to 1000)."""
    top_genes: int = 20
    """Genes per feature."""
    min_firings: int = 10
    """A gene counts for a feature when the feature fired on it in at least this many cells."""
    min_term_genes: int = 5
    """Smallest gene set tested, counted within the background."""
    max_term_genes: int = 500
    """Largest gene set tested, counted within the background."""
    min_overlap: int = 2
    """Fewest shared genes for an annotation. All terms are tested and corrected for; this only limits the call."""
    max_q: float = 0.05
    """Largest Benjamini-Hochberg q of an annotation."""
    max_cells: int = 0
    """Cells used; 0: all."""
    associate: list[str] = field(default_factory=list)
    """obs columns (cell type, donor, batch, ...) with whose labels every feature is associated; empty:
    `cells.stratify_by` and "cell_type", where the cells have them."""
    associate_cells: int = 5000
    """Cells in which it is, drawn at random; 0: all. Memory is up to 8 bytes per cell, feature and layer."""
    min_label_cells: int = 10
    """Fewest cells of a label that is tested."""
    null_draws: int = 200
    """Random gene lists per layer with which the false annotation rate is measured."""
    redundant_share: float = 0.5
    """A term is marked as redundant when more than this share of its genes on the list belong to a better term."""
    network_draws: int = 1000
    """Permutations of a network against which interactions are tested; up to 20 times as many for the best lists."""
    degree_bin_genes: int = 200
    """Fewest genes of similar degree among which a permutation exchanges labels."""
    baselines: list[Baseline] = field(default_factory=list)
    """Dictionaries without an autoencoder that go through the same catalogue and tests, beside it: "pca" (principal
    components), "ica" (independent components, FastICA), "neurons" (coordinates of the residual stream)."""
    baseline_positions: int = 10_000
    """Gene positions per layer to which they are fitted, at random, at most 100 of a cell. Memory is 4 bytes per
    position, model dimension and layer."""
    baseline_components: int = 256
    """Independent components per layer, at most: the largest principal components in which they are looked for."""
    seed: int = 0
    """Seed of the random gene lists and permutations."""

    def __post_init__(self) -> None:
        _check_ranges(self, *PROBABILITY, "max_q", "redundant_share")
        _check_ranges(self, 3, inf, "top_genes")
        _check_ranges(self, 1, inf, "min_firings", "min_term_genes", "max_term_genes", "min_overlap", "null_draws")
        _check_ranges(self, 2, inf, "degree_bin_genes", "min_label_cells")
        _check_ranges(self, 20, inf, "network_draws")
        _check_ranges(self, 2, inf, "baseline_positions", "baseline_components")
        _check_ranges(self, 0, inf, "min_interaction_score", "max_cells", "associate_cells", "seed")
