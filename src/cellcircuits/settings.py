"""Every knob of every stage, written once: name, type, default and meaning.

The TOML file, the command line and the Python API all read these classes; a default stands nowhere else.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any, Literal

from cellcircuits.errors import SettingsError
from cellcircuits.ranges import PROBABILITY
from cellcircuits.ranges import check_ranges as _check_ranges
from cellcircuits.references import NAMES
from cellcircuits.screen_settings import ScreenSettings

Readout = Literal["source", "target", "other", "pre", "computed"]
Baseline = Literal["pca", "ica", "neurons"]
EVERYWHERE = ("target", "other")
"""Readouts that look at positions outside those of the removal, so the whole cell must be carried upward."""
FOLD = "fold"
EXACT_PASS_POSITIONS = 8192
"""Longest batch of ablated copies: with more positions a pass no longer gets faster per copy (measured on CPUs)."""
FROZEN_READS_PER_COPY = 32
"""A frozen batch holds only changed positions: at most batch_size times this many."""
FINAL_BATCH = 4
"""Cells per pass in which reconstructions are put into the model: the states of all layers are held."""
SPARSE_FEATURES_PER_ACTIVE = 32
"""TopK training on a CPU gathers the rows of active features where there are this many features per active one."""
FEW_CHANGED = 0.2
"""Up to this share of changed positions, attention is brought up to date instead of computed anew."""


@dataclass(frozen=True)
class ModelSettings:
    """Which foundation model, and where its files are."""

    family: str = "geneformer"
    """Adapter: "geneformer", "scgpt", "toy" or the entry point of a plug-in."""
    path: str = ""
    """Folder of the checkpoint. Geneformer: config.json and model.safetensors; scGPT: args.json, vocab.json,
    best_model.pt. "demo" takes the small model that is shipped with the package."""
    dictionaries: str = ""
    """Folder of Geneformer's gene dictionaries; empty: look beside the checkpoint."""
    variant: str = ""
    """Published size ("V1-10M", "V1-12L", "V2-104M", "V2-316M", "whole-human"); only `plan` reads it, for when the
    checkpoint is not there yet."""
    device: str = "auto"
    """Torch device; "auto" takes CUDA where there is one, else the CPU."""


@dataclass(frozen=True)
class CellsSettings:
    """Which cells, and how they become tokens."""

    data: str = ""
    """Path of an AnnData file (.h5ad). "demo" takes the PBMC cells that scanpy ships."""
    counts: str = "auto"
    """Where the raw counts are: "X", "raw", the name of a layer, or "auto" (first of layers["counts"], X, raw that
    holds integers)."""
    gene_column: str = ""
    """Column of var with gene ids or symbols; empty: found by name and content."""
    input_mode: Literal["official", "published"] = "official"
    """"official": the model's own preprocessing. "published": the input of Kendiukhov 2026, for reproduction."""
    allow_non_counts: bool = False
    """Accept values that are not integers. The official tokenisers expect raw counts."""
    empty_cells: Literal["error", "drop"] = "error"
    """What to do with cells without any counts, or without any gene that the model knows."""
    min_mapped_genes: float = 0.5
    """Stop if a smaller share of the detected genes is in the model's vocabulary."""
    max_length: int = 0
    """Longest token sequence; 0: the model's own maximum."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Cells to keep: obs column to accepted labels, for example {cell_line = ["K562"]}."""
    n_cells: int = 0
    """Number of cells to draw; 0: all."""
    stratify_by: str = ""
    """obs column whose labels are drawn in proportion, each at least once; empty: draw uniformly."""
    seed: int = 0
    """Seed of the draw."""

    def __post_init__(self) -> None:
        _check_ranges(self, *PROBABILITY, "min_mapped_genes")
        _check_ranges(self, 0, inf, "max_length", "n_cells", "seed")


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


@dataclass(frozen=True)
class FindingsSettings:
    """The biological questions."""

    max_q: float = 0.05
    """Largest Benjamini-Hochberg q at which a pair of gene programs counts as connected beyond chance, and a question
    of the report as answered with yes."""
    all: bool = False
    """Also ask what reads more than tables: the controls of the published study's revision that need the cells
    (co-expression) or the moments of every group of cells (trace.group_by)."""
    permutations: int = 1000
    """Random draws behind each chance baseline that has no closed form."""
    seed: int = 0
    """Seed of these draws."""
    strata_bins: int = 4
    """Parts into which the features of a layer are cut by each covariate (number of gene sets, firing rate): what is
    exchanged by chance is exchanged within them."""
    min_stratum: int = 10
    """Fewest features of such a part, about; layers with few annotated features are cut into fewer parts."""
    min_shared_genes: int = 3
    """Genes that two gene sets share from which the published rule calls them related."""
    screens: list[ScreenSettings] = field(default_factory=list)
    """Perturbation screens against which predictions are checked: entries [[findings.screens]]. Empty: none."""
    gene_pairs_genes: int = 10
    """Top genes of each end of an edge whose pairs are predictions."""
    gene_pairs_kept: int = 100_000
    """Pairs of genes that are kept, of the highest score."""
    disease_sets: list[str] = field(default_factory=list)
    """Files of disease genes: GMT, or a table (.csv, .tsv, .parquet) with a column of diseases and one of gene symbols,
    as Open Targets and the GWAS Catalog export."""
    disease_min_score: float = 0.0
    """Least score of a gene in such a table (Open Targets: 0 to 1)."""
    disease_max_p: float = 1.0
    """Largest p of an association in such a table (GWAS: 5e-8)."""
    disease_min_genes: int = 5
    """Fewest genes of a disease that features list."""
    disease_draws: int = 100
    """Permutations of the genes behind the number of features that get a disease by chance."""
    coexpression_cells: int = 1000
    """Cells, drawn at random, in which the correlation of genes is computed; 0: all."""
    coexpression_genes: int = 10
    """Top genes of each feature that are correlated."""
    coexpression_sources: int = 300
    """Sources, drawn at random, that are compared with all their possible targets."""
    match_min_cosine: float = 0.3
    """Comparison of runs: least cosine of gene loadings from which two features count as the same."""
    match_depth_bins: int = 6
    """Comparison of runs: parts of the model's depth within which features are matched; if both runs have equally many
    layers, these are the parts instead."""
    match_rate_bins: int = 3
    """Comparison of runs: classes of firing rate within which matches are permuted."""
    selection_rate_bins: int = 10
    """Comparison of runs: classes of firing rate within which differently selected sources are compared."""

    def __post_init__(self) -> None:
        _check_ranges(self, *PROBABILITY, "max_q", "disease_max_p", "match_min_cosine")
        _check_ranges(self, 20, inf, "permutations", "disease_draws")
        _check_ranges(self, 1, inf, "gene_pairs_genes", "gene_pairs_kept", "coexpression_genes", "coexpression_sources")
        _check_ranges(self, 1, inf, "strata_bins", "min_shared_genes", "match_depth_bins", "match_rate_bins")
        _check_ranges(self, 1, inf, "selection_rate_bins")
        _check_ranges(self, 2, inf, "disease_min_genes", "min_stratum")
        _check_ranges(self, 0, inf, "seed", "disease_min_score", "coexpression_cells")


@dataclass(frozen=True)
class AtlasSettings:
    """The static web site."""

    title: str = "Circuits of a single-cell foundation model"
    """Heading of the site."""
    also: list[str] = field(default_factory=list)
    """Folders of other finished runs that the site shows too, with a page that compares them."""
    comparison: str = ""
    """Folder with the tables `consensus` and `answers` of a comparison of these runs; empty: the folder `comparison`
    beside the run, where there is one and `also` names a run."""
    map_method: Literal["auto", "tsne", "pca"] = "auto"
    """How features are placed on the map of their layer; "auto": t-SNE up to 6,000 features of a layer, principal axes
    beyond."""
    seed: int = 0
    """Seed of the map."""

    def __post_init__(self) -> None:
        _check_ranges(self, 0, inf, "seed")


@dataclass(frozen=True)
class StructureSettings:
    """How features hang together (`cellcircuits structure`); not part of a run's settings."""

    max_cells: int = 1000
    """Cells looked at, drawn at random; 0: all."""
    min_together: int = 50
    """Fewest positions at which two features fire together."""
    min_pmi: float = 2.0
    """Least pointwise mutual information of a pair, in bits."""
    resolution: float = 1.0
    """Resolution of the Leiden partition: higher gives more modules."""
    min_module: int = 3
    """Fewest features of a module."""
    rewirings: int = 3
    """Rewired graphs with which the modularity is compared; 0: none."""
    min_cosine: float = 0.7
    """Cosine of decoder directions from which a feature counts as found again in the next layer."""
    svd_axes: int = 50
    """Top right-singular vectors of a layer's activations."""
    svd_positions: int = 50_000
    """Gene positions, at random, from which they are computed."""
    min_axis_cosine: float = 0.5
    """|Cosine| from which a feature counts as aligned with one of them."""
    min_jaccard: float = 0.15
    """Jaccard index of top genes from which a labelled feature counts as a neighbour."""
    null_draws: int = 1000
    """Random directions, or gene lists, behind each chance baseline."""
    null_features: int = 200
    """Features, at random, whose correlations are measured again over permuted positions."""
    perturbations: str = ""
    """AnnData file (.h5ad) of a perturbation screen, with raw counts; empty: none."""
    perturbation_column: str = "perturbation"
    """Its obs column with the perturbed gene."""
    control_label: str = "control"
    """Label of that column for control cells."""
    min_perturbed_cells: int = 10
    """Fewest cells of a perturbation that is tested."""
    min_mapped_genes: float = 0.5
    """Stop if a smaller share of the screen's detected genes is in the model's vocabulary. Cells of the screen without
    any of them are left out."""
    seed: int = 0
    """Seed of every draw."""

    def __post_init__(self) -> None:
        _check_ranges(self, *PROBABILITY, "min_cosine", "min_axis_cosine", "min_jaccard", "min_mapped_genes")
        _check_ranges(self, 1, inf, "min_together", "svd_axes", "null_draws", "null_features")
        _check_ranges(self, 2, inf, "min_module", "svd_positions", "min_perturbed_cells")
        _check_ranges(self, 0, inf, "max_cells", "min_pmi", "resolution", "rewirings", "seed")


@dataclass(frozen=True)
class Settings:
    """All settings of one run."""

    model: ModelSettings = field(default_factory=ModelSettings)
    cells: CellsSettings = field(default_factory=CellsSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    annotate: AnnotateSettings = field(default_factory=AnnotateSettings)
    trace: TraceSettings = field(default_factory=TraceSettings)
    edges: EdgesSettings = field(default_factory=EdgesSettings)
    findings: FindingsSettings = field(default_factory=FindingsSettings)
    atlas: AtlasSettings = field(default_factory=AtlasSettings)

    def __post_init__(self) -> None:
        # known now, rather than after hours of tracing
        for wanted, why in (("source", "sources are counted by it"), (self.edges.readout, "edges.readout asks for it")):
            if wanted not in self.trace.readouts:
                raise SettingsError(f'trace.readouts lacks "{wanted}" ({why}); it has {self.trace.readouts}. Add it.')
        if self.edges.unit == "group" and not self.trace.group_by:
            raise SettingsError('edges.unit = "group" needs trace.group_by: an obs column, or "fold".')

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain nested dictionary, as stored in manifests."""
        return asdict(self)


def settings_from_dict(content: dict[str, Any], origin: str = "settings") -> Settings:
    """`Settings` from a nested dictionary; unknown sections, unknown names and wrong types are errors."""
    from pydantic import TypeAdapter, ValidationError

    known = {f.name: f.type for f in fields(Settings)}
    sections = {}
    for section, values in content.items():
        if section not in known:
            raise SettingsError(f"{origin} has an unknown section [{section}]; the sections are {', '.join(known)}.")
        kind = type(getattr(Settings(), section))
        names = [f.name for f in fields(kind)]
        unknown = sorted(set(values) - set(names)) if isinstance(values, dict) else [str(values)]
        if unknown:
            raise SettingsError(
                f"{origin} [{section}] has unknown names: {', '.join(unknown)}. Known: {', '.join(names)}."
            )
        try:
            sections[section] = TypeAdapter(kind).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            if isinstance(cause := first.get("ctx", {}).get("error"), SettingsError):
                raise SettingsError(f"{origin} [{section}]: {cause}") from error
            place = ".".join(str(part) for part in first["loc"])
            raise SettingsError(f"{origin} [{section}] {place}: {first['msg']}; found {first['input']!r}.") from error
    return Settings(**sections)


def read_settings(path: str | Path) -> Settings:
    """Read a TOML settings file; paths inside it are taken relative to the file.

    Raises
    ------
    SettingsError
        If the file is missing, not TOML, or has an unknown or wrong entry.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"Cannot read the settings file {path}: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not a TOML file: {error}.") from error
    return resolve_paths(settings_from_dict(content, origin=path.name), path.parent)


def resolve_paths(settings: Settings, base: Path) -> Settings:
    """The same settings with absolute paths; relative ones are taken from `base`."""

    def resolve(text: str, words: tuple[str, ...] = ("demo", "")) -> str:
        return text if text in words else str((base / Path(text).expanduser()).resolve())

    return replace(
        settings,
        model=replace(
            settings.model, path=resolve(settings.model.path), dictionaries=resolve(settings.model.dictionaries)
        ),
        cells=replace(settings.cells, data=resolve(settings.cells.data)),
        train=replace(settings.train, saes=resolve(settings.train.saes)),
        annotate=replace(
            settings.annotate,
            gene_sets=[resolve(path, words=NAMES) for path in settings.annotate.gene_sets],
            networks=[resolve(path, words=NAMES) for path in settings.annotate.networks],
        ),
        findings=replace(
            settings.findings,
            screens=[replace(screen, path=resolve(screen.path)) for screen in settings.findings.screens],
            disease_sets=[resolve(path, words=NAMES) for path in settings.findings.disease_sets],
        ),
        atlas=replace(
            settings.atlas,
            also=[resolve(path, words=()) for path in settings.atlas.also],
            comparison=resolve(settings.atlas.comparison, words=("",)),
        ),
    )


def write_settings(settings: Settings, path: str | Path) -> None:
    """Write all settings, defaults included, as TOML."""
    import tomli_w

    Path(path).write_text(tomli_w.dumps(settings.to_dict()), encoding="utf-8")
