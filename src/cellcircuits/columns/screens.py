"""Tables of the perturbation screens."""

from cellcircuits.columns import columns

SCREENS = columns("""
screen | string | - | Screen
cell_line | string | - | Cell line or condition within the screen; "" if it has one only
predictor | string | - | "circuits"; on the same pairs: "co-expression" (over control cells), "other perturbations" (mean response of the target to all others), "PMI" (of features, where given)
pairs | string | - | "all"; "responding": the response has q <= max_q; "direct", "indirect": the target is, or is not, among the source's targets in a network that knows the source
n_sources | int64 | genes | Perturbed genes with a pair
n_pairs | int64 | pairs | Pairs of perturbed gene and predicted target
accuracy | float64 | share | Share of the pairs whose target changed in the predicted direction
accuracy_low | float64 | share | Lower end of the 95 % interval, resampling perturbed genes
accuracy_high | float64 | share | Upper end of the 95 % interval, resampling perturbed genes
share_predicted_down | float64 | share | Share of the pairs whose target is predicted to fall
share_down | float64 | share | Share of the pairs whose target fell
sign_bias_accuracy | float64 | share | Accuracy by these two shares alone: p q + (1 - p)(1 - q)
excess | float64 | share | accuracy - sign_bias_accuracy
excess_low | float64 | share | Lower end of the 95 % interval, resampling perturbed genes
excess_high | float64 | share | Upper end of the 95 % interval, resampling perturbed genes
p_excess | float64 | probability | One-sided, of accuracy beyond target_permuted_accuracy: signs of the perturbed genes' differences are flipped
target_permuted_accuracy | float64 | share | Mean accuracy when responses are permuted among the targets of each perturbed gene; exact
p_target_permuted | float64 | probability | Chance of at least this accuracy under these permutations; too small where targets respond together
other_source_accuracy | float64 | share | Mean accuracy with the responses to other perturbed genes in place of its own
p_accuracy | float64 | probability | One-sided, of accuracy beyond other_source_accuracy: signs of the perturbed genes' differences are flipped
balanced_accuracy | float64 | share | Mean of the accuracies among targets that rose and that fell; 1/2 by chance
majority_accuracy | float64 | share | Accuracy of predicting the commoner direction for every pair
spearman | float64 | 1 | Rank correlation of |predicted| and |log fold change| within perturbed genes, mean over those with 5 or more pairs
spearman_low | float64 | 1 | Lower end of the 95 % interval, resampling perturbed genes
spearman_high | float64 | 1 | Upper end of the 95 % interval, resampling perturbed genes
other_source_spearman | float64 | 1 | The same with the responses to other perturbed genes
p_spearman | float64 | probability | One-sided, as p_accuracy
auroc | float64 | share | Chance that a predicted target responds more strongly (|log fold change|) than another gene of the same decile of expression, mean over perturbed genes; NaN for "responding"
auroc_low | float64 | share | Lower end of the 95 % interval, resampling perturbed genes
auroc_high | float64 | share | Upper end of the 95 % interval, resampling perturbed genes
other_source_auroc | float64 | share | The same with the responses to other perturbed genes
p_auroc | float64 | probability | One-sided, as p_accuracy
enrichment | float64 | 1 | Responding genes among predicted targets / number expected by deciles of expression, summed over perturbed genes
enrichment_low | float64 | 1 | Lower end of the 95 % interval, resampling perturbed genes
enrichment_high | float64 | 1 | Upper end of the 95 % interval, resampling perturbed genes
other_source_enrichment | float64 | 1 | The same with the responses to other perturbed genes
p_enrichment | float64 | probability | One-sided, as p_accuracy, of the number beyond that expected
""")

SCREEN_SOURCES = columns("""
screen | string | - | Screen
cell_line | string | - | Cell line or condition
source_gene | string | - | Perturbed gene
n_pairs | int64 | pairs | Predicted targets that were measured
accuracy | float64 | share | Share of them that changed in the predicted direction
target_permuted_accuracy | float64 | share | Mean of it when responses are permuted among them
spearman | float64 | 1 | Rank correlation of |predicted| and |log fold change|; NaN below 5 pairs
auroc | float64 | share | Chance that a predicted target responds more strongly than another gene of the same decile of expression
auroc_p | float64 | probability | One-sided rank test within deciles; too small where targets respond together
auroc_q | float64 | probability | Benjamini-Hochberg over the perturbed genes of the cell line
n_responding | int64 | genes | Measured genes with q <= max_q
n_responding_targets | int64 | genes | Predicted targets among them
n_expected_targets | float64 | genes | Number expected by deciles of expression
enrichment_p | float64 | probability | Chance of at least as many: Fisher's exact test within deciles of expression
enrichment_q | float64 | probability | Benjamini-Hochberg over the perturbed genes of the cell line
""")

RESPONSES = columns("""
screen | string | - | Screen
cell_line | string | - | Cell line or condition
source_gene | string | - | Perturbed gene
target_gene | string | - | Predicted target
predicted | float64 | 1 | Predicted change of the target: mean signal-to-noise ratio of the edges behind the pair (turned around for an activation); negative: it falls
log_fc | float64 | log2 | Change of the target
standard_error | float64 | log2 | Standard error of log_fc
q_value | float64 | probability | Benjamini-Hochberg over the genes of the perturbation
control_expression | float64 | log2 CPM | Mean expression in control cells; NaN where unknown
coexpression | float64 | 1 | Correlation of source and target over control cells; NaN where unknown
n_edges | int64 | edges | Edges behind the prediction
n_cells | int64 | cells | Cells with the perturbation; 0 where unknown
n_guides | int64 | guides | Guides among the replicates; 0 where unknown
direct | string | - | "direct", "indirect", or "" where no network knows the source
""")

KNOCK_DOWNS = columns("""
screen | string | - | Screen
cell_line | string | - | Cell line or condition
source_gene | string | - | Perturbed gene
kind | string | - | "knock-down", "knock-out" or "activation"
n_cells | int64 | cells | Cells with the perturbation; 0 where unknown
n_guides | int64 | guides | Guides among the replicates; 0 where unknown
log_fc | float64 | log2 | Change of the gene's own transcript; NaN where it was not measured
p_value | float64 | probability | Two-sided test of this change
status | string | - | "verified", "not verified", "not measured", or "not judged" (knock-outs: the transcript may stay)
used | bool | - | Whether predictions are compared with it
""")

TABLES = {
    "screens": SCREENS,
    "screen_sources": SCREEN_SOURCES,
    "responses": RESPONSES,
    "knock_downs": KNOCK_DOWNS,
}
"""Every table of this module by name; the file is <name>.parquet."""

ROWS = {
    "screens": "One row per cell line of a screen, predictor and kind of pairs.",
    "screen_sources": "One row per cell line and perturbed gene with a predicted target.",
    "responses": "One row per cell line and predicted pair that it measured, of the perturbations that are used.",
    "knock_downs": "One row per cell line and perturbed gene.",
}
"""What a row is."""
