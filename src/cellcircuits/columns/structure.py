"""Tables of `structure/`."""

from cellcircuits.columns import columns

MODULES = columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
module | int64 | index | Module, 0 is the largest of the layer; -1: in none
n_partners | int64 | features | Features that it fires together with beyond min_pmi, at min_together positions or more
mean_pmi | float64 | bits | Mean PMI with them; NaN without any
""")

MODULE_LABELS = columns("""
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

MODULE_RATES = columns("""
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

PERSISTENCE = columns("""
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

PERSISTENCE_RATES = columns("""
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

DEPENDENCIES = columns("""
source_layer | int64 | layer | Layer of the traced source
source_feature | int64 | index | Traced source feature
target_layer | int64 | layer | Layer of the target
target_feature | int64 | index | Target feature; targets that never fire together with the source are left out (PMI -inf)
n_together | int64 | positions | Gene positions at which both fire
n_expected | float64 | positions | Such positions if they fired independently
pmi | float64 | bits | log2(n_together / n_expected)
""")

DEPENDENCY_OVERLAP = columns("""
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
expected_by_gene | float64 | pairs | The same, drawn among targets of similar firing rate that share about as many genes with the source: what co-firing by gene alone predicts
z_by_gene | float64 | 1 | (n_both - expected_by_gene) / standard deviation of these draws; NaN where nothing can vary
""")

SVD_ALIGNMENT = columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
axis | int64 | index | Singular vector of the layer's centred activations with the largest |cosine|; 0 is the first
cosine | float64 | 1 | That |cosine| with the decoder direction
captured | float64 | share | Squared norm of the decoder direction within the top svd_axes vectors
""")

SVD_RATES = columns("""
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

UNANNOTATED = columns("""
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

UNANNOTATED_RATES = columns("""
layer | int64 | layer | Layer
n_features | int64 | features | Features that fire and have no label
in_module_share | float64 | share | Of them, those in a module
annotated_in_module_share | float64 | share | The same of the features with a label
neighbour_share | float64 | share | Those with a labelled neighbour of at least min_jaccard
null_neighbour_share | float64 | share | The same for random lists of the same sizes, genes as common as on the features' lists
cell_label_share | float64 | share | Those with a cell label at q <= 0.05
annotated_cell_label_share | float64 | share | The same of the features with a label
""")

PERTURBATIONS = columns("""
layer | int64 | layer | Layer of the feature
perturbation | string | - | Label of the perturbed cells
feature | int64 | index | Feature
n_cells | int64 | cells | Cells with the perturbation
n_control | int64 | cells | Control cells
mean_difference | float64 | activation | Mean score of the perturbed cells - mean score of the control cells
auroc | float64 | probability | Chance that a perturbed cell has a higher score than a control cell
p_value | float64 | probability | Two-sided Mann-Whitney test with tie correction; cells are the units
q_value | float64 | probability | Benjamini-Hochberg over all features and perturbations of the layer
target_genes | string | - | Genes known to the model that the label names, separated by ";": also those of guides (STAT2g2, ZAP70_1) and enhancers (MYC-A); "" if none
target_listed | bool | - | One of them is among the feature's top genes
""")

PERTURBATION_RATES = columns("""
layer | int64 | layer | Layer
n_perturbations | int64 | perturbations | Perturbations with enough cells
n_with_gene | int64 | perturbations | Of them, those whose label names a gene that the model knows
n_features | int64 | features | Features that fire in these cells
called_share | float64 | share | Pairs of perturbation and feature with q <= 0.05
null_called_share | float64 | share | The same when labels are permuted among perturbed and control cells
n_listed | int64 | pairs | Pairs whose feature lists the perturbed gene
listed_called_share | float64 | share | Of them, those with q <= 0.05; NaN without any
listed_lower_share | float64 | share | Of them, those whose score is lower in the perturbed cells; a half by chance. NaN without any
""")

TABLES = {
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
"""Every table of this module by name; the file is <name>.parquet."""

ROWS = {
    "modules": "One row per feature.",
    "module_labels": "One row per module.",
    "module_rates": "One row per layer: pairs and modules beside those of chance.",
    "persistence": "One row per feature that fires, but for the last layer.",
    "persistence_rates": "One row per layer but the last, each number beside its chance baseline.",
    "dependencies": "One row per traced source and target that fire together at any position.",
    "dependency_overlap": "One row per pair of source layer and target layer.",
    "svd_alignment": "One row per feature that fires.",
    "svd_rates": "One row per layer, each number beside its chance baseline.",
    "unannotated": "One row per feature that fires and has no label.",
    "unannotated_rates": "One row per layer, each number beside what it is to be compared with.",
    "perturbations": "One row per perturbation with enough cells and feature that fires in these cells.",
    "perturbation_rates": "One row per layer, each number beside that of permuted labels.",
}
"""What a row is."""
