"""Tables of stage `annotate`."""

from cellcircuits.columns import columns

FEATURES = columns("""
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

FEATURE_GENES = columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
rank | int64 | rank | 1 is the top gene
gene_id | string | - | Identifier of the gene in the model's vocabulary
symbol | string | - | Symbol of the gene
score | float64 | activation | Sum of activations on the gene / (positions of the gene + min_firings)
n_firings | int64 | positions | Positions (cells) at which the feature fires on the gene
n_positions | int64 | positions | Positions (cells) of the gene
""")

ACTIVATION_BINS = columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
low | float64 | activation | Lower end of the bin; bins are half an octave wide (a factor of 1.41), the same for every feature
high | float64 | activation | Upper end of the bin, not part of it
n_positions | int64 | positions | Gene positions at which the feature's activation lies in the bin
""")

CELL_LABELS = columns("""
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

TERMS = columns("""
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

REGULATORS = columns("""
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

INTERACTIONS = columns("""
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

ANNOTATION_RATES = columns("""
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

BASELINES = columns("""
layer | int64 | layer | Layer of the features
kind | string | - | Dictionary: "autoencoder", "random_weights" (autoencoder of the model with random weights), "pca", "ica" or "neurons"
n_features | int64 | features | Features of the dictionary
l0 | float64 | features | Active features per gene position, mean
n_with_gene_list | int64 | features | Features with a gene list
n_annotated | int64 | features | Of them, those with an enriched gene set
annotated_share | float64 | share | n_annotated / n_with_gene_list; NaN without a list
null_share | float64 | share | The same for random gene lists as long as these
n_labels | int64 | labels | Different labels among them: many features may have one name
n_tested | int64 | features | Features that fire in the cells compared
n_associated | int64 | features | Of them, those with a label of an obs column at q <= max_q
associated_share | float64 | share | n_associated / n_tested; NaN without a column of labels
null_associated_share | float64 | share | The same when labels are permuted among the cells, once
median_auroc | float64 | probability | Median over these features of the largest AUROC of any label
null_auroc | float64 | probability | The same when labels are permuted: the largest of several is above 0.5 by chance
""")

TABLES = {
    "features": FEATURES,
    "feature_genes": FEATURE_GENES,
    "activation_bins": ACTIVATION_BINS,
    "cell_labels": CELL_LABELS,
    "terms": TERMS,
    "regulators": REGULATORS,
    "interactions": INTERACTIONS,
    "annotation_rates": ANNOTATION_RATES,
    "baselines": BASELINES,
}
"""Every table of this module by name; the file is <name>.parquet."""

ROWS = {
    "features": "One row per feature of every layer.",
    "feature_genes": "One row per feature and top gene.",
    "activation_bins": "One row per feature and bin that holds any of its activations.",
    "cell_labels": "One row per feature that fires in the cells compared, and label of an obs column.",
    "terms": "One row per feature and enriched gene set, best first.",
    "regulators": "One row per feature and set of targets enriched among its top genes, best first.",
    "interactions": "One row per feature with a gene list and network of interactions.",
    "annotation_rates": "One row per layer and source of annotations.",
    "baselines": "One row per layer and dictionary: the autoencoder, and what it is compared with.",
}
"""What a row is."""
