"""Tables of the questions about genes: pairs of genes, disease, co-expression."""

from cellcircuits.columns import columns

GENE_PAIRS = columns("""
source_gene | string | - | Gene among the top genes of the sources, in upper case
target_gene | string | - | Gene among the top genes of the targets
n_edges | int64 | edges | Edges whose source lists the one and whose target lists the other
mean_snr | float64 | 1 | Published score: sum of snr x weight over these edges / n_edges; the weight is 1 / (rank of the one x rank of the other)
mean_abs_snr | float64 | 1 | The same of |snr|; the pairs are sorted by it
max_abs_snr | float64 | 1 | Largest |snr| of these edges, without weight
status | string | - | As published: "confirmed" (in a network), "plausible" (at least 2 gene sets in common), "novel" (neither, in the files given); "" without networks
""")

MEASURED_GENE_PAIRS = columns("""
source_gene | string | - | Gene at which a source was removed, in upper case
target_gene | string | - | Gene whose state changed, although the source was not active at it
n_sources | int64 | features | Sources that connect the two
mean_z | float64 | 1 | Mean z_among_genes over these sources, weighted with 1 / rank of the one among the genes at which the source was removed; the pairs are sorted by it
mean_change | float64 | share | Mean share of its norm by which the state changed, weighted likewise
""")

GENE_PAIR_SUPPORT = columns("""
origin | string | - | "lists" (table gene_pairs) or "measured" (table measured_gene_pairs)
network | string | - | Network file
kind | string | - | "interactions" (without direction) or "targets" (of transcription factors)
n_kept | int64 | pairs | Pairs of the table
n_testable | int64 | pairs | Of them, those whose source has a partner in the network and whose target has one
n_sources | int64 | genes | Source genes of these
n_supported | int64 | pairs | Testable pairs that are in the network
share | float64 | share | n_supported / n_testable
chance_share | float64 | share | The same when the target is another gene of the same detection decile and degree in the network; exact mean
odds_ratio | float64 | 1 | Mantel-Haenszel odds ratio over strata of source gene, detection decile and degree
odds_ratio_low | float64 | 1 | Lower end of its 95 % interval, resampling source genes
odds_ratio_high | float64 | 1 | Upper end of it
share_low | float64 | share | Lower end of the 95 % interval of share, resampling source genes
share_high | float64 | share | Upper end of it
p_value | float64 | probability | One-sided: target genes permuted within strata of detection and degree, the same for all sources
q_value | float64 | probability | Benjamini-Hochberg over the rows
published_share | float64 | share | Pairs in the network / all pairs of the table, without background
""")

GENE_PAIR_PRECISION = columns("""
origin | string | - | "lists" or "measured"
network | string | - | Network file
n_best | int64 | pairs | So many testable pairs of the highest score
precision | float64 | share | Of them in the network
chance | float64 | share | Expected when the target is another gene of the same detection decile and degree
""")

DISEASE = columns("""
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
collection | string | - | File of the gene set
disease | string | - | Name of the gene set
n_set | int64 | genes | Genes of the set within the background
n_list | int64 | genes | Genes on the feature's list
n_overlap | int64 | genes | Genes of the list in the set
loading | float64 | activation | Sum of the scores of these genes
expected | float64 | activation | Its mean over random sets of as many genes of each detection decile, exact
z | float64 | 1 | (loading - expected) / standard deviation over such sets, exact
p_value | float64 | probability | One-sided chance of such a loading: below 0.01 by convolution over the genes of the list, else from mean, variance and skewness
q_value | float64 | probability | Benjamini-Hochberg over all features with a list and all sets
genes | string | - | The shared genes, separated by ";"
""")

DISEASE_SETS = columns("""
collection | string | - | File of the gene set
disease | string | - | Name of the gene set
n_set | int64 | genes | Genes of the set within the background
n_features | int64 | features | Features in which it is enriched
n_edges | int64 | edges | Edges between two of these features
n_expected | float64 | edges | Mean number when features are permuted within strata of layer, firing rate and number of genes; exact
sd_expected | float64 | edges | Standard deviation of it, exact
p_value | float64 | probability | Chance of at least as many edges, from a negative binomial distribution of this mean and variance
q_value | float64 | probability | Benjamini-Hochberg over the sets with at least two features
""")

DISEASE_DEGREE = columns("""
direction | string | - | "out": sources by number of targets; "in": targets by number of sources
term | string | - | Regressor
coefficient | float64 | 1 | Change of log(expected number of edges); "disease": with against without a disease; others: per unit of the regressor
low | float64 | 1 | Lower end of the 95 % interval (robust standard errors)
high | float64 | 1 | Upper end of it
p_value | float64 | probability | Two-sided: "disease" permuted within strata of layer, firing rate and number of genes; others by Wald test
n_features | int64 | features | Features in the regression
n_disease | int64 | features | Of them, those with a disease
""")

COEXPRESSION = columns("""
source_layer | int64 | layer | Layer of the sources
target_layer | int64 | layer | Layer of the targets
n_edges | int64 | edges | Edges with co-expression: both features list genes that vary in these cells
mean_correlation | float64 | 1 | Mean over edges of the co-expression: mean |Pearson r| of a top gene of the source with one of the target, no gene with itself
max_correlation | float64 | 1 | Mean over edges of the largest such |r|
spearman | float64 | 1 | Rank correlation of |snr| with co-expression
partial_spearman | float64 | 1 | The same, given the ranks of the firing rates of both ends
""")

COEXPRESSION_BINS = columns("""
bin | int64 | index | Tenth of the edges by co-expression, 0: lowest
correlation_low | float64 | 1 | Least co-expression in it
correlation_high | float64 | 1 | Most
n_edges | int64 | edges | Edges
abs_snr_q25 | float64 | 1 | First quartile of |snr|
abs_snr_median | float64 | 1 | Median
abs_snr_q75 | float64 | 1 | Third quartile
""")

TABLES = {
    "gene_pairs": GENE_PAIRS,
    "measured_gene_pairs": MEASURED_GENE_PAIRS,
    "gene_pair_support": GENE_PAIR_SUPPORT,
    "gene_pair_precision": GENE_PAIR_PRECISION,
    "disease": DISEASE,
    "disease_sets": DISEASE_SETS,
    "disease_degree": DISEASE_DEGREE,
    "coexpression": COEXPRESSION,
    "coexpression_bins": COEXPRESSION_BINS,
}
"""Every table of this module by name; the file is <name>.parquet."""

ROWS = {
    "gene_pairs": "One row per ordered pair of genes that edges connect: those of the published cut with the highest score.",
    "measured_gene_pairs": "One row per ordered pair of genes: removed at the one, changed at the other.",
    "gene_pair_support": "One row per origin of the pairs and network.",
    "gene_pair_precision": "One row per origin, network and number of best pairs.",
    "disease": "One row per feature and disease gene set enriched among its genes, best first.",
    "disease_sets": "One row per disease gene set.",
    "disease_degree": "One row per direction and regressor: Poisson regression of the number of edges.",
    "coexpression": "One row per pair of layers with edges.",
    "coexpression_bins": "One row per tenth of the edges.",
}
"""What a row is."""
