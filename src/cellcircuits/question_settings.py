"""Settings of questions: those of the report, and how features hang together."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from cellcircuits.ranges import PROBABILITY
from cellcircuits.ranges import check_ranges as _check_ranges
from cellcircuits.screen_settings import ScreenSettings


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
