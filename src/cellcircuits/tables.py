"""Columns of every table: name, type, unit, meaning; one place to declare, check, write and read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellcircuits.errors import RunError, listed
from cellcircuits.formats import FORMAT_VERSION


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    dtype: str
    unit: str
    meaning: str


def _columns(text: str) -> tuple[Column, ...]:
    """Columns from lines of `name | dtype | unit | meaning`."""
    rows = [[part.strip() for part in line.split("|", 3)] for line in text.strip().splitlines()]
    return tuple(Column(*row) for row in rows)


EDGES = _columns("""
source_layer | int64 | layer | Layer of the ablated feature (0-based block output)
source_feature | int64 | index | Ablated feature
target_layer | int64 | layer | Layer of the measured feature
target_feature | int64 | index | Measured feature
n_cells | int64 | cells | Cells in which the source is active, hence measured
n_units | int64 | units | Units of observation: those cells, or the groups of cells that have any
n_positive | int64 | units | Units in which the target rises when the source is removed
n_negative | int64 | units | Units in which the target falls when the source is removed
mean_delta | float64 | activation | Mean over units of (ablated - clean) activation; negative: the source supports the target
sd_delta | float64 | activation | Standard deviation over units (n - 1)
snr | float64 | 1 | mean_delta / sd_delta: signal-to-noise ratio (the published "Cohen's d"), not an effect size
snr_low | float64 | 1 | Lower end of its 95 % interval (large-sample)
snr_high | float64 | 1 | Upper end of its 95 % interval (large-sample)
clean_activation | float64 | activation | Mean activation of the target in the clean pass at the same positions
relative_effect | float64 | 1 | mean_delta / clean_activation; NaN where the target is silent in the clean pass
sign_agreement | float64 | share | Share of responding units with the sign of the mean
responding_fraction | float64 | share | Share of units with a delta other than 0
consistency_published | float64 | share | max(n_positive, n_units - n_positive) / n_units: the published rule, zeros count as negative
p_value | float64 | probability | Two-sided test of no effect: of mean_delta, one-sample t over cells, sign-flip over few groups; with edges.test = "sign", exact sign test of n_positive against n_negative
q_value | float64 | probability | Verdict `exists`: Benjamini-Hochberg over all targets of all sources of the source layer with enough units; pairs that fail min_snr or min_agreement enter with p = 1
pre_delta | float64 | activation | Mean change before TopK where the source is active; NaN where not measured
passthrough_delta | float64 | activation | The part of pre_delta that the removed vector makes by persisting: carried through skip connections and norms, nothing computed
computed_delta | float64 | activation | pre_delta - passthrough_delta: what the blocks compute
computed_share | float64 | 1 | computed_delta / pre_delta; below 0 where the persisting vector has the other sign and is larger
specific_z | float64 | 1 | Distance of the computed effect from those of random directions of the same norm, in their standard deviations (t, moderated over sources and targets); NaN without controls
specific_q | float64 | probability | Verdict `specific`: Benjamini-Hochberg of that test over the same pairs, those that are no edge with p = 1; NaN without controls
specific | bool | - | specific_q within max_q
heterogeneity_q | float64 | probability | Do groups of cells differ in this effect? Welch's test of equal means, Benjamini-Hochberg over the edges; NaN without groups
stability | float64 | share | Share of bootstrap samples of the groups in which the pair passes the rule's thresholds; NaN without groups
""")

QUALITY = _columns("""
layer | int64 | layer | Layer of the autoencoder (0-based block output)
variance_explained | float64 | share | 1 - squared error / variance, over held-out gene positions
pca_variance_explained | float64 | share | Baseline: the same of the best linear subspace of as many dimensions as features are active (l0, rounded), fitted to these positions
random_weights_variance_explained | float64 | share | Baseline: variance_explained on the model with random weights; NaN without train.random_weights
final_state_recovered | float64 | share | 1 - squared change of the last block's output with the reconstruction in place of the state / with the mean state in its place; NaN with train.quality_cells = 0
random_weights_final_state_recovered | float64 | share | Baseline: the same on the model with random weights
l0 | float64 | features | Mean number of active features per held-out gene position
random_weights_l0 | float64 | features | The same on the model with random weights
dead_share | float64 | share | Features that fire at no held-out gene position
random_weights_dead_share | float64 | share | The same on the model with random weights
density_q05 | float64 | share | Share of held-out gene positions at which a feature fires: 5 % quantile over features
density_q25 | float64 | share | Lower quartile of the same
density_q50 | float64 | share | Median of the same
density_q75 | float64 | share | Upper quartile of the same
density_q95 | float64 | share | 95 % quantile of the same
decoder_norm_min | float64 | 1 | Smallest norm of a decoder row; all are 1 in autoencoders trained here
decoder_norm_median | float64 | 1 | Median norm of a decoder row
decoder_norm_max | float64 | 1 | Largest norm of a decoder row
stable_share | float64 | share | Firing features that another seed found too (decoder cosine above 0.7, one to one), mean over the other seeds; NaN with one seed
stable_share_random | float64 | share | Baseline: the same with random directions of the activations' covariance in place of the other seed's features
n_positions | int64 | positions | Held-out gene positions
n_cells_final | int64 | cells | Held-out cells in which final_state_recovered was measured
""")

FEATURES = _columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
firing_rate | float64 | share | Share of gene positions at which the feature is active
n_firings | int64 | positions | Number of gene positions at which the feature is active
n_cells | int64 | cells | Number of cells in which the feature is active at any gene
mean_activation | float64 | activation | Mean activation where active
decoder_norm | float64 | activation | Norm of the decoder row (1 for autoencoders trained here)
n_unique_genes | int64 | genes | Number of genes on which the feature fires
n_terms | int64 | terms | Number of enriched gene sets
label | string | - | Name of the most enriched gene set, "" if none
label_q | float64 | probability | q of that gene set, NaN if none
label_odds_ratio | float64 | 1 | Odds ratio of that gene set, NaN if none
annotation_score | float64 | 1 | Published score for picking sources: 10 collections + terms - log10(smallest q); 0 if not annotated
top_genes | string | - | Symbols of the top genes, best first, separated by ";"
""")

FEATURE_GENES = _columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
rank | int64 | rank | 1 is the top gene
gene_id | string | - | Identifier of the gene in the model's vocabulary
symbol | string | - | Symbol of the gene
score | float64 | activation | Sum of activations on the gene / (positions of the gene + min_firings)
n_firings | int64 | positions | Positions (cells) at which the feature fires on the gene
n_positions | int64 | positions | Positions (cells) of the gene
""")

CELL_LABELS = _columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
column | string | - | Column of obs
label | string | - | Label of the column
n_cells | int64 | cells | Cells with the label
auroc | float64 | probability | Chance that a cell with the label has a higher score than one of the other cells (equal ones count half); 0.5 without association. Score: mean activation over the cell's gene positions
mean_inside | float64 | activation | Mean score of the cells with the label
mean_outside | float64 | activation | Mean score of the other cells
p_value | float64 | probability | Two-sided Mann-Whitney test with tie correction; cells are the units
q_value | float64 | probability | Benjamini-Hochberg over all features and labels of the layer
""")

TERMS = _columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
collection | string | - | Gene set file
term | string | - | Name of the gene set
n_overlap | int64 | genes | Top genes in the set
n_list | int64 | genes | Top genes of the feature
n_term | int64 | genes | Genes of the set within the background
n_background | int64 | genes | Genes that could have been a top gene
odds_ratio | float64 | 1 | Odds ratio with 0.5 added to each count
p_value | float64 | probability | One-sided hypergeometric test
q_value | float64 | probability | Benjamini-Hochberg over all features and terms of the layer
genes | string | - | The shared genes, separated by ";"
redundant_with | string | - | A better term of the feature, itself not redundant, that holds most of these genes; "" if none
""")

REGULATORS = _columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
network | string | - | Network file
regulator | string | - | Transcription factor, in upper case
target_set | string | - | Its set of targets: the factor, or the experiment
n_overlap | int64 | genes | Top genes among the targets
n_list | int64 | genes | Top genes of the feature
n_targets | int64 | genes | Targets within the background
n_background | int64 | genes | Genes that could have been a top gene
odds_ratio | float64 | 1 | Odds ratio with 0.5 added to each count
p_value | float64 | probability | One-sided hypergeometric test
q_value | float64 | probability | Benjamini-Hochberg over all features of the layer and target sets of the network
regulator_listed | bool | - | Whether the factor itself is a top gene of the feature
genes | string | - | The shared genes, separated by ";"
""")

INTERACTIONS = _columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
network | string | - | Network file
n_list | int64 | genes | Top genes of the feature
n_in_network | int64 | genes | Of them, those with a partner within the background
n_interactions | int64 | pairs | Pairs of top genes that interact
null_mean | float64 | pairs | Mean number of pairs when each gene is replaced by one of similar degree
null_sd | float64 | pairs | Standard deviation of that number
n_draws | int64 | draws | Random replacements: network_draws; more where at most 10 reach the number and few lists are as good
p_value | float64 | probability | (1 + draws with at least as many pairs) / (1 + draws)
q_value | float64 | probability | Benjamini-Hochberg over all features of the layer with a gene list
""")

ANNOTATION_RATES = _columns("""
layer | int64 | layer | Layer of the features
kind | string | - | "gene sets", "targets" or "interactions"
source | string | - | File, or "all": all gene set files together, the features with a label
n_tests | int64 | tests | Tests per feature: gene sets or target sets of testable size; 1 for interactions
n_lists | int64 | features | Features with a gene list
n_annotated | int64 | features | Of them, those for which something is called
share | float64 | share | n_annotated / n_lists
null_share | float64 | share | The same for random gene lists that go through the same procedure on their own
null_share_at_cut | float64 | share | The same random lists, judged by the p that was asked of the features' lists: max_q x pairs called / pairs tested
listed_share_at_cut | float64 | share | So judged, random lists on which genes are as common as on the features' lists
""")

SOURCES = _columns("""
layer | int64 | layer | Layer of the source feature
feature | int64 | index | Source feature
firing_rate | float64 | share | Share of gene positions at which the feature is active
n_cells | int64 | cells | Traced cells in which the feature is active
context | string | - | "exact" or "frozen": how the effects of this source were traced
matched_with | int64 | index | Feature of equal firing rate with which it is compared, where sources are picked in pairs; on random weights: the source of the trained model; -1 otherwise
""")

TESTED = _columns("""
source_layer | int64 | layer | Layer of the sources
target_layer | int64 | layer | Layer of the targets
n_sources | int64 | features | Sources with enough cells to be tested
n_tested | int64 | pairs | Tested pairs of source and target
n_responding | int64 | pairs | Tested pairs with a delta other than 0 in any cell
""")

CONTROLS = _columns("""
direction | string | - | What was removed: "own" (the sources themselves), "random" (a fixed random direction of the same norm), "feature" (that of a feature of the nearest firing rate). "random_weights": another model, the same with its weights permuted, and as many of its own features, of equal firing rates, in the same cells
context | string | - | Context in which it was traced
n_directions | int64 | directions | Directions per source
n_tested | float64 | pairs | Pairs with enough units, mean over the directions
edges_published | float64 | edges | Edges under the published rule, mean over the directions
edges_exist | float64 | edges | Edges under the calibrated rule, mean over the directions
edges_specific | float64 | edges | Of them, those beyond (the other) random directions, mean over the directions
share_exist | float64 | share | edges_exist / n_tested
share_specific | float64 | share | edges_specific / n_tested
""")

FIDELITY = _columns("""
source_layer | int64 | layer | Layer of the sources
target_layer | int64 | layer | Layer of the targets
n_sources | int64 | features | Sources traced in both contexts
n_cells | int64 | cells | Most cells in which any of them is active
correlation | float64 | 1 | Correlation of the mean effects of all pairs, frozen against exact
slope | float64 | 1 | Frozen effect per exact effect (least squares through 0)
edges_exact | int64 | edges | Edges of the exact context
edges_frozen | int64 | edges | Edges of the frozen context
recall | float64 | share | Exact edges that the frozen context finds
precision | float64 | share | Frozen edges that are exact edges
jaccard | float64 | share | Edges of both / edges of either
sign_agreement | float64 | share | Exact edges whose effect has the same sign in the frozen context
""")

GENE_EFFECTS = _columns("""
source_layer | int64 | layer | Layer of the source feature
source_feature | int64 | index | Source feature
gene | string | - | Gene whose state changed, although the source was not active at it
n_cells | int64 | cells | Cells in which it was expressed and the source active elsewhere
mean_change | float64 | share | Mean share of its norm by which its state at the highest target layer changed
sd_change | float64 | share | Standard deviation over cells (n - 1)
z_among_genes | float64 | 1 | log(mean_change) against the other genes of the same source, in standard deviations
removed_at | string | - | Genes at which the source was removed, most activation first, separated by ";"
""")

SWEEP = _columns("""
direction | string | - | "own" (the sources) or "random" (mean over control directions)
min_snr | float64 | 1 | Threshold of |mean/sd|
min_agreement | float64 | share | Threshold of sign agreement
edges | float64 | edges | Edges of the calibrated rule with these thresholds
""")

SAMPLE_SIZE = _columns("""
source_layer | int64 | layer | Layer of the sources
n_groups | int64 | groups | Groups of cells taken together, in their order
n_cells | int64 | cells | Most cells of any source
n_edges | int64 | edges | Edges called from these cells
n_kept | int64 | edges | Of them, those that are edges of all cells
recall | float64 | share | n_kept / edges of all cells
""")

ATTENUATION = _columns("""
source_layer | int64 | layer | Layer of the sources
target_layer | int64 | layer | Layer of the targets
distance | int64 | layers | target_layer - source_layer
n_sources | int64 | features | Sources that could be tested
n_edges | int64 | edges | Edges between the two layers
edges_per_source | float64 | edges | Edges per source
share_of_tested | float64 | share | Edges / tested pairs
chance_share | float64 | share | False edges at this q, at most, as a share of the tested pairs: max_q x share_of_tested; NaN under the published rule
mean_abs_snr | float64 | 1 | Mean |mean/sd| over the edges
median_abs_relative_effect | float64 | 1 | Median |relative effect| over the edges
share_negative | float64 | share | Share of the edges with a negative delta (source supports target)
""")

HUBS = _columns("""
direction | string | - | "out": sources by number of targets; "in": targets by number of sources
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
label | string | - | Label of the feature
degree | int64 | edges | Edges that leave ("out") or reach ("in") the feature
degree_per_layer | float64 | edges | Degree / number of layers that were measured above ("out") or traced below ("in")
firing_rate | float64 | share | Share of gene positions at which the feature is active
degree_residual | float64 | 1 | log10(1 + degree per layer) beyond what the firing rate predicts (linear in log10 firing rate); NaN if it never fires
""")

SIGNS = _columns("""
rule | string | - | Rule by which edges are called
n_edges | int64 | edges | Edges under the rule
share_negative | float64 | share | Share of edges with a negative delta (the source supports the target)
interval_low | float64 | share | Lower end of the 95 % interval, resampling sources
interval_high | float64 | share | Upper end of the 95 % interval, resampling sources
chance_share | float64 | share | The share that the rule alone makes: every pair's sign turned around with probability 1/2, then called by the rule
""")

CIRCUITS = _columns("""
source_label | string | - | Label of the source features
target_label | string | - | Label of the target features
n_edges | int64 | edges | Edges between features of these labels
n_expected | float64 | edges | Mean number when target labels are permuted within each pair of layers
p_value | float64 | probability | Chance of at least as many edges under these permutations, exact
q_value | float64 | probability | Benjamini-Hochberg over all pairs of different labels that could have an edge
mean_snr | float64 | 1 | Mean signal-to-noise ratio
share_negative | float64 | share | Share of edges with a negative delta (the source supports the target)
strongest | string | - | Strongest edge, as L<layer>/F<feature> -> L<layer>/F<feature>
source_genes | string | - | Top genes of the strongest edge's source, separated by ";"
target_genes | string | - | Top genes of the strongest edge's target, separated by ";"
""")

CONSENSUS = _columns("""
source_label | string | - | Label of the source features
target_label | string | - | Label of the target features
n_edges_first | int64 | edges | Edges in the first run
n_edges_second | int64 | edges | Edges in the second run
mean_snr_first | float64 | 1 | Mean signal-to-noise ratio in the first run
mean_snr_second | float64 | 1 | Mean signal-to-noise ratio in the second run
same_sign | bool | - | Whether both means have the same sign
""")

MODULES = _columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
module | int64 | index | Module, 0 is the largest of the layer; -1: in none
n_partners | int64 | features | Features that it fires together with beyond min_pmi, at min_together positions or more
mean_pmi | float64 | bits | Mean PMI with them; NaN without any
""")

MODULE_LABELS = _columns("""
layer | int64 | layer | Layer of the module
module | int64 | index | Module
n_features | int64 | features | Features in it
n_annotated | int64 | features | Of them, those with a label
label | string | - | The label that is most enriched among them, "" if none has one
n_label | int64 | features | Features of the module with this label
p_value | float64 | probability | One-sided hypergeometric test among the labelled features of all modules of the layer; NaN without a label
q_value | float64 | probability | Benjamini-Hochberg over all pairs of module and label of the layer, those without a shared feature included
top_genes | string | - | Genes on the most lists of its features, separated by ";"
""")

MODULE_RATES = _columns("""
layer | int64 | layer | Layer
n_positions | int64 | positions | Gene positions looked at
n_features | int64 | features | Features that fire there
n_pairs | int64 | pairs | Pairs with at least min_together common positions and a PMI of at least min_pmi
null_pairs | float64 | pairs | Such pairs expected if all features fired independently at their rates (Poisson)
null_pairs_by_gene | float64 | pairs | Such pairs expected if features fired independently among the positions of each gene: those that only share genes
n_modules | int64 | modules | Modules of at least min_module features
covered_share | float64 | share | Features in a module / features that fire
modularity | float64 | 1 | Modularity of the partition
null_modularity | float64 | 1 | The same of graphs rewired at random with every degree kept, mean; NaN without rewirings
""")

PERSISTENCE = _columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
next_layer | int64 | layer | Next layer with an autoencoder
cosine_feature | int64 | index | Feature of the next layer with the largest cosine between decoder directions
cosine | float64 | 1 | That cosine
correlation_there | float64 | 1 | Correlation of activations with that feature over gene positions
correlated_feature | int64 | index | Feature of the next layer with the largest correlation of activations over gene positions
correlation | float64 | 1 | That correlation
cosine_there | float64 | 1 | Cosine with that feature
mutual | bool | - | The correlated feature's own best match in this layer is this feature
""")

PERSISTENCE_RATES = _columns("""
layer | int64 | layer | Layer
next_layer | int64 | layer | Next layer with an autoencoder
n_features | int64 | features | Features that fire
median_cosine | float64 | 1 | Median over features of the best cosine
null_cosine | float64 | 1 | The same for random directions with the covariance of the layer's decoder directions
matched_share | float64 | share | Features with a best cosine of at least min_cosine
null_matched_share | float64 | share | The same for those random directions
median_correlation | float64 | 1 | Median over features of the best correlation
null_correlation | float64 | 1 | The same when the positions of one layer are permuted within batches of cells
mutual_share | float64 | share | Features whose best match by correlation is mutual
same_match_share | float64 | share | Features whose best matches by cosine and by correlation are the same
chance_same | float64 | share | 1 / features of the next layer that fire
""")

DEPENDENCIES = _columns("""
source_layer | int64 | layer | Layer of the traced source
source_feature | int64 | index | Traced source feature
target_layer | int64 | layer | Layer of the target
target_feature | int64 | index | Target feature; targets that never fire together with the source are left out (PMI -inf)
n_together | int64 | positions | Gene positions at which both fire
n_expected | float64 | positions | Such positions if they fired independently
pmi | float64 | bits | log2(n_together / n_expected)
""")

DEPENDENCY_OVERLAP = _columns("""
source_layer | int64 | layer | Layer of the sources
target_layer | int64 | layer | Layer of the targets
n_sources | int64 | features | Traced sources
n_targets | int64 | features | Targets that fire
n_dependent | int64 | pairs | Pairs with at least min_together common positions and a PMI of at least min_pmi
n_edges | int64 | edges | Causal edges among the same pairs
n_both | int64 | pairs | Pairs that are both
expected_both | float64 | pairs | Such pairs if the targets of each source's edges were drawn at random
expected_matched | float64 | pairs | The same, drawn among targets of similar firing rate (tenths)
z_matched | float64 | 1 | (n_both - expected_matched) / standard deviation of these draws; NaN where nothing can vary
""")

SVD_ALIGNMENT = _columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
axis | int64 | index | Singular vector of the layer's centred activations with the largest |cosine|; 0 is the first
cosine | float64 | 1 | That |cosine| with the decoder direction
captured | float64 | share | Squared norm of the decoder direction within the top svd_axes vectors
""")

SVD_RATES = _columns("""
layer | int64 | layer | Layer
n_axes | int64 | vectors | Top right-singular vectors
variance_share | float64 | share | Variance of the activations that they hold
n_features | int64 | features | Features that fire
aligned_share | float64 | share | Features with a |cosine| of at least min_axis_cosine with one vector
null_aligned_share | float64 | share | The same for random directions, all directions alike
drawn_aligned_share | float64 | share | The same for random directions with the covariance of the activations
mean_captured | float64 | share | Mean of `captured` over features
null_captured | float64 | share | The same for random directions, all alike: n_axes / d_model
drawn_captured | float64 | share | The same for random directions with the covariance of the activations
""")

UNANNOTATED = _columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature that fires and has no label
firing_rate | float64 | share | Share of gene positions at which it is active
module | int64 | index | Its module, -1 if none
module_label | string | - | Label of the module
neighbour | int64 | index | Labelled feature of the layer with the largest Jaccard index of top genes; -1 if no gene is shared with any
neighbour_label | string | - | Its label
jaccard | float64 | share | Shared top genes / top genes of either
cell_column | string | - | obs column of the label with the smallest q, ties by AUROC farthest from 0.5; "" if none was tested
cell_label | string | - | That label
auroc | float64 | probability | Its AUROC
cell_q | float64 | probability | Its q
top_genes | string | - | Symbols of the top genes, best first, separated by ";"
""")

UNANNOTATED_RATES = _columns("""
layer | int64 | layer | Layer
n_features | int64 | features | Features that fire and have no label
in_module_share | float64 | share | Of them, those in a module
annotated_in_module_share | float64 | share | The same of the features with a label
neighbour_share | float64 | share | Those with a labelled neighbour of at least min_jaccard
null_neighbour_share | float64 | share | The same for random lists of the same sizes, genes as common as on the features' lists
cell_label_share | float64 | share | Those with a cell label at q <= 0.05
annotated_cell_label_share | float64 | share | The same of the features with a label
""")

PERTURBATIONS = _columns("""
layer | int64 | layer | Layer of the feature
perturbation | string | - | Label of the perturbed cells
feature | int64 | index | Feature
n_cells | int64 | cells | Cells with the perturbation
n_control | int64 | cells | Control cells
mean_difference | float64 | activation | Mean score of the perturbed cells - mean score of the control cells
auroc | float64 | probability | Chance that a perturbed cell has a higher score than a control cell
p_value | float64 | probability | Two-sided Mann-Whitney test with tie correction; cells are the units
q_value | float64 | probability | Benjamini-Hochberg over all features and perturbations of the layer
target_listed | bool | - | The perturbed gene is among the feature's top genes
""")

PERTURBATION_RATES = _columns("""
layer | int64 | layer | Layer
n_perturbations | int64 | perturbations | Perturbations with enough cells
n_features | int64 | features | Features that fire in these cells
called_share | float64 | share | Pairs of perturbation and feature with q <= 0.05
null_called_share | float64 | share | The same when labels are permuted among perturbed and control cells
listed_called_share | float64 | share | The same among pairs whose feature lists the perturbed gene; NaN without any
""")

STRUCTURE = (
    "modules",
    "module_labels",
    "module_rates",
    "persistence",
    "persistence_rates",
    "dependencies",
    "dependency_overlap",
    "svd_alignment",
    "svd_rates",
    "unannotated",
    "unannotated_rates",
    "perturbations",
    "perturbation_rates",
)
"""Tables of `structure/`."""

TABLES = {
    "quality": QUALITY,
    "edges": EDGES,
    "features": FEATURES,
    "feature_genes": FEATURE_GENES,
    "cell_labels": CELL_LABELS,
    "terms": TERMS,
    "regulators": REGULATORS,
    "interactions": INTERACTIONS,
    "annotation_rates": ANNOTATION_RATES,
    "sources": SOURCES,
    "tested": TESTED,
    "controls": CONTROLS,
    "fidelity": FIDELITY,
    "gene_effects": GENE_EFFECTS,
    "sweep": SWEEP,
    "sample_size": SAMPLE_SIZE,
    "attenuation": ATTENUATION,
    "hubs": HUBS,
    "signs": SIGNS,
    "circuits": CIRCUITS,
    "consensus": CONSENSUS,
    "modules": MODULES,
    "module_labels": MODULE_LABELS,
    "module_rates": MODULE_RATES,
    "persistence": PERSISTENCE,
    "persistence_rates": PERSISTENCE_RATES,
    "dependencies": DEPENDENCIES,
    "dependency_overlap": DEPENDENCY_OVERLAP,
    "svd_alignment": SVD_ALIGNMENT,
    "svd_rates": SVD_RATES,
    "unannotated": UNANNOTATED,
    "unannotated_rates": UNANNOTATED_RATES,
    "perturbations": PERTURBATIONS,
    "perturbation_rates": PERTURBATION_RATES,
}
"""Every table by name; the file is <name>.parquet."""


def make_table(name: str, columns: dict[str, object] | pd.DataFrame) -> pd.DataFrame:
    """A table with the declared columns in their order and types; raises if one is missing or undeclared."""
    declared = TABLES[name]
    frame = pd.DataFrame(columns)
    wrong = set(frame.columns) ^ {c.name for c in declared}
    if wrong:
        raise RunError(f"Table {name!r} does not have its declared columns; they differ in {listed(sorted(wrong))}.")
    return pd.DataFrame({c.name: _cast(frame[c.name], c.dtype) for c in declared})


def _cast(values: pd.Series, dtype: str) -> pd.Series:
    return values.astype(object).astype(str) if dtype == "string" else values.astype(np.dtype(dtype))


def check_table(name: str, frame: pd.DataFrame, origin: str = "") -> pd.DataFrame:
    """Return `frame` if it has the declared columns and types.

    Raises
    ------
    RunError
        Naming what differs.
    """
    declared = TABLES[name]
    missing = [c.name for c in declared if c.name not in frame]
    if missing:
        raise RunError(f"{origin or name} lacks columns {listed(missing)}; it was not written by this version.")
    for column in declared:
        if column.dtype != "string" and frame[column.name].dtype != np.dtype(column.dtype):
            raise RunError(
                f"{origin or name}: column {column.name} has type {frame[column.name].dtype}, expected {column.dtype}."
            )
    return frame


def write_table(name: str, frame: pd.DataFrame, folder: Path) -> None:
    """Write <name>.parquet with the format version in its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(check_table(name, frame), preserve_index=False)
    extra = {b"cellcircuits": f'{{"table": "{name}", "format_version": {FORMAT_VERSION}}}'.encode()}
    pq.write_table(
        table.replace_schema_metadata({**(table.schema.metadata or {}), **extra}), folder / f"{name}.parquet"
    )


def read_table(name: str, folder: Path) -> pd.DataFrame:
    """Read and check <name>.parquet.

    Raises
    ------
    RunError
        If the file is missing, damaged, or has other columns.
    """
    path = folder / f"{name}.parquet"
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RunError(
            f"Cannot read the table {path}: {error}. Delete the folder {folder} and run its stage again."
        ) from error
    for column in TABLES[name]:
        if column.dtype == "string" and column.name in frame:
            frame[column.name] = frame[column.name].astype(object)
    return check_table(name, frame, str(path))
