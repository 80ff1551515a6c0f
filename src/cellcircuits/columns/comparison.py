"""Tables of the comparison of two or more runs."""

from cellcircuits.columns import columns

CONSENSUS = columns("""
source_label | string | - | Label of the source features
target_label | string | - | Label of the target features
n_runs | int64 | runs | Runs in which an edge joins the two labels
runs | string | - | Their names, separated by ";"
n_edges | int64 | edges | Edges between features of these labels, in all these runs
mean_snr | float64 | 1 | Mean over these runs of each run's mean signal-to-noise ratio
n_negative | int64 | runs | Runs with a negative mean snr (the source supports the target)
same_sign | bool | - | Whether the mean snr has the same sign in all of them
chance_runs | float64 | runs | Runs that would join the labels if only their popularity mattered: sum over the runs that have both labels of min(1, pairs of the source label x pairs of the target label / pairs of the run)
""")

CONSENSUS_OVERLAP = columns("""
first | string | - | Run, or "all runs"
second | string | - | The run whose pairs are rewired; empty for all runs, each of which is rewired
n_labels_first | int64 | labels | Labels of the features of the first run; of all runs together
n_labels_second | int64 | labels | The same of the second run; 0 for all runs
n_labels_shared | int64 | labels | Labels that they share
n_first | int64 | pairs | Ordered pairs of different labels that the first run connects, of those that could be connected in both; of all runs: that any run connects, of those that could be connected in all
n_second | int64 | pairs | The same of the second run; 0 for all runs
n_shared | int64 | pairs | Pairs that both runs connect; of all runs: sum over the pairs of runs
n_expected | float64 | pairs | Mean of n_shared over the rewirings
sd_expected | float64 | pairs | Standard deviation of n_shared over the rewirings
enrichment | float64 | ratio | n_shared / n_expected; NaN if nothing is expected
interval_low | float64 | ratio | Lower end of its 95 % interval: the wider of source labels reweighted at random, and exact Poisson of the count
interval_high | float64 | ratio | Upper end
p_value | float64 | probability | (1 + rewirings with at least as many shared pairs) / (1 + rewirings); findings.permutations rewirings, fewer (200 at least) of graphs with more than 40,000 pairs
shuffled_expected | float64 | pairs | Mean of n_shared when the target labels of the second run's edges are permuted within pairs of layers, exact; NaN for all runs
shuffled_p_value | float64 | probability | Chance of at least n_shared pairs under these permutations, an upper bound
published_shared | int64 | pairs | Shared pairs by the published count: pairs of equal labels included, all labels
published_expected | float64 | pairs | Mean of that count over random renamings of the second run's labels, exact; NaN for all runs
published_enrichment | float64 | ratio | published_shared / published_expected
n_same_sign | int64 | pairs | Shared pairs whose mean snr has the same sign in both runs; of all runs: sum over the pairs of runs
share_same_sign | float64 | share | n_same_sign / n_shared
expected_same_sign | float64 | share | The same if the signs of the shared pairs were independent: p q + (1 - p)(1 - q), with p and q the runs' shares of negative pairs among the shared ones; NaN for all runs
sign_low | float64 | share | Lower end of the 95 % interval of share_same_sign, source and target labels reweighted
sign_high | float64 | share | Upper end
sign_p_value | float64 | probability | One-sided test of share_same_sign - expected_same_sign, from the same draws; NaN with fewer than three source or target labels
""")

HELD_OUT = columns("""
run | string | - | Run that is left out
n_pairs | int64 | pairs | Pairs it connects, of those that could be connected in it and in at least two others
n_consensus | int64 | pairs | Pairs that at least two of the other runs connect, of the same
n_found | int64 | pairs | Pairs of both
n_expected | float64 | pairs | Mean of n_found over the rewirings of the run left out
recall | float64 | share | n_found / n_pairs
expected_recall | float64 | share | n_expected / n_pairs
precision | float64 | share | n_found / n_consensus
expected_precision | float64 | share | n_expected / n_consensus
interval_low | float64 | share | Lower end of the 95 % interval of precision: the wider of source labels reweighted at random, and exact binomial
interval_high | float64 | share | Upper end
p_value | float64 | probability | (1 + rewirings with at least as many pairs of both) / (1 + rewirings)
""")

MATCHING = columns("""
first | string | - | Run whose edges are looked for
second | string | - | Run in which they are looked for
is_ceiling | bool | - | Whether the two are reseeded autoencoders of one model
n_genes | int64 | genes | Genes by which features are compared: those on gene lists of both runs
n_sources | int64 | features | Ablated features of the first run with a partner among those of the second
n_targets | int64 | features | Features of the first run with a partner in the second
share_sources | float64 | share | n_sources / ablated features of the first run
share_targets | float64 | share | n_targets / features of the first run with a gene list
median_cosine | float64 | 1 | Median cosine of gene loadings over the partners (targets)
n_edges | int64 | edges | Edges of the first run between matched features whose partners could be an edge of the second run
n_found | int64 | edges | Of them, those whose partners are an edge of the second run
share_found | float64 | share | n_found / n_edges
chance_share | float64 | share | The same when the partners of sources and of targets are permuted among those of the same layer and class of firing rate
p_value | float64 | probability | (1 + permutations with at least as many) / (1 + permutations)
popularity_share | float64 | share | The same when only the partners of sources are permuted: every target keeps its number of edges
popularity_p_value | float64 | probability | (1 + permutations with at least as many) / (1 + permutations); NaN with fewer than 20 arrangements
n_arrangements | float64 | permutations | Ways to permute the partners of sources: product of the factorials of the sizes of their strata
interval_low | float64 | share | Lower end of the 95 % interval of share_found: the wider of sources reweighted at random, and exact binomial
interval_high | float64 | share | Upper end
share_same_sign | float64 | share | Edges found in both whose snr has the same sign
expected_same_sign | float64 | share | The same if the signs were independent
sign_low | float64 | share | Lower end of the 95 % interval of share_same_sign, sources and targets reweighted
sign_high | float64 | share | Upper end
sign_p_value | float64 | probability | One-sided test against expected_same_sign from the same draws
snr_correlation | float64 | 1 | Spearman correlation of snr in the two runs over the edges found in both
correlation_low | float64 | 1 | Lower end of its 95 % interval, sources and targets reweighted
correlation_high | float64 | 1 | Upper end
correlation_p_value | float64 | probability | One-sided test against 0 from the same draws
""")

MATCHED_FEATURES = columns("""
first | string | - | Run
second | string | - | Run
role | string | - | "source": both are ablated features, matched among these; "target": matched among all features
layer_first | int64 | layer | Layer of the feature in the first run
feature_first | int64 | index | Feature of the first run
layer_second | int64 | layer | Layer of its partner
feature_second | int64 | index | Its partner in the second run
cosine | float64 | 1 | Cosine of their gene loadings
label_first | string | - | Label of the feature
label_second | string | - | Label of its partner
""")

INPUT_SIZE = columns("""
first | string | - | Run
second | string | - | Run
measure | string | - | "snr": |mean/sd|; "relative effect": |mean delta / clean activation|
n_tested_first | int64 | pairs | Tested pairs of the first run
n_tested_second | int64 | pairs | Tested pairs of the second run
share_of_tested | float64 | share | Share of the tested pairs of either run that is compared, the strongest ones: half the smaller of their shares of edges
mean_first | float64 | 1 | Geometric mean of the measure over this share of the first run (a few effects that hardly vary between cells have an snr of any size)
mean_second | float64 | 1 | The same of the second run
ratio | float64 | ratio | mean_first / mean_second
interval_low | float64 | ratio | Lower end of its 95 % interval, sources reweighted at random
interval_high | float64 | ratio | Upper end
p_value | float64 | probability | Two-sided test of log(ratio) = 0 from the same draws
n_common_pairs | int64 | pairs | Ordered pairs of different labels that the edges compared join in both runs
common_ratio | float64 | ratio | Geometric mean over these of the ratio of the two runs' geometric mean measure
common_low | float64 | ratio | Lower end of its 95 % interval, source and target labels reweighted
common_high | float64 | ratio | Upper end
common_p_value | float64 | probability | Two-sided test of log(common_ratio) = 0 from the same draws
published_ratio | float64 | ratio | Ratio of the arithmetic mean measure over the 50 strongest targets of every source and layer
""")

INPUT_SIZE_CURVE = columns("""
run | string | - | Run
measure | string | - | "snr" or "relative effect"
share_of_tested | float64 | share | Share of the tested pairs
value | float64 | 1 | Value that this share of the tested pairs reaches
""")

SELECTION = columns("""
first | string | - | Run
second | string | - | Run with the same features and other sources
statistic | string | - | What is compared, one number per source
n_first | int64 | features | Sources of the first run that the second did not trace, with this statistic
n_second | int64 | features | The same the other way around
n_both | int64 | features | Sources that both runs traced, left out
n_compared_first | int64 | features | Of n_first, those in strata (layer and class of firing rate) with sources of both runs
n_compared_second | int64 | features | The same of the second run
median_rate_first | float64 | share | Median firing rate of the n_first sources
median_rate_second | float64 | share | Median firing rate of the n_second sources
mean_first | float64 | see statistic | Mean over the n_first sources
mean_second | float64 | see statistic | Mean over the n_second sources
standardised_first | float64 | see statistic | Mean over the strata, both runs weighted alike: n1 n2 / (n1 + n2)
standardised_second | float64 | see statistic | The same of the second run
ratio | float64 | ratio | standardised_first / standardised_second
interval_low | float64 | ratio | Lower end of its 95 % interval, sources reweighted at random
interval_high | float64 | ratio | Upper end
p_value | float64 | probability | Rank-sum test within the strata (van Elteren)
plain_ratio | float64 | ratio | mean_first / mean_second
""")

TABLES = {
    "consensus": CONSENSUS,
    "consensus_overlap": CONSENSUS_OVERLAP,
    "held_out": HELD_OUT,
    "matching": MATCHING,
    "matched_features": MATCHED_FEATURES,
    "input_size": INPUT_SIZE,
    "input_size_curve": INPUT_SIZE_CURVE,
    "selection": SELECTION,
}
"""Every table of this module by name; the file is <name>.parquet."""

ROWS = {
    "consensus": "One row per ordered pair of different labels that at least two runs connect.",
    "consensus_overlap": "One row per pair of runs; with three or more runs, one for all of them.",
    "held_out": "One row per run, left out of the consensus of the others; empty with fewer than three runs.",
    "matching": "One row per ordered pair of runs.",
    "matched_features": "One row per feature with a partner in another run, for each pair of runs and each role.",
    "input_size": "One row per pair of runs and measure of strength.",
    "input_size_curve": "One row per run, measure and share of the tested pairs, as far as the edges reach.",
    "selection": "One row per pair of runs over the same features, and statistic.",
}
"""What a row is."""
