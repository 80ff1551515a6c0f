"""Tables of `interventions/`."""

from cellcircuits.columns import columns

ENDS = """
source_layer | int64 | layer | Layer of the feature that is changed
source_feature | int64 | index | Feature that is changed
target_layer | int64 | layer | Layer of the feature that is measured
target_feature | int64 | index | Feature that is measured
"""

INTERVENTION_EFFECTS = columns(
    "kind | string | - | What became of the source's activation: zero, mean, resample, scale, clamp or patch"
    + ENDS
    + """
n_cells | int64 | cells | Cells in which the intervention changes something
mean_delta | float64 | activation | Mean change of the target where the source is changed
sd_delta | float64 | activation | Standard deviation of that change over cells
snr | float64 | 1 | mean / sd
low | float64 | activation | Lower end of the 95 % interval of the mean
high | float64 | activation | Upper end
clean | float64 | activation | Mean activation of the target there without the intervention
sign_agreement | float64 | share | Responding cells with the sign of the mean
p_value | float64 | probability | One-sample t test over cells
q_value | float64 | probability | Benjamini-Hochberg over all tested pairs of the target layer, random directions included
"""
)

DOSE_RESPONSE = columns(
    ENDS
    + """
dose | float64 | 1 | Factor of the source's activation; 0 is removal
n_cells | int64 | cells | Cells in which the source is active
mean_delta | float64 | activation | Mean change of the target where the source is active
sd_delta | float64 | activation | Standard deviation of that change over cells
low | float64 | activation | Lower end of the 95 % interval of the mean
high | float64 | activation | Upper end
linear | float64 | activation | Change that a straight line through removal and the undisturbed cell predicts: (1 - dose) x change by removal
p_value | float64 | probability | One-sample t test over cells; 1 with fewer than min_cells
q_value | float64 | probability | Benjamini-Hochberg over all pairs and doses
"""
)

DOSE_TRENDS = columns(
    ENDS
    + """
n_cells | int64 | cells | Cells in which the source is active
removal | float64 | activation | Mean change of the target by removal
rank_correlation | float64 | 1 | Spearman correlation of dose and change over doses of 1 and above, mean over cells
monotone | bool | - | The mean change only rises or only falls over all doses
of_linear | float64 | 1 | Change by the highest dose / what a straight line through removal predicts
p_value | float64 | probability | One-sample t test of the rank correlation over cells; 1 with fewer than min_cells
q_value | float64 | probability | Benjamini-Hochberg over all pairs
"""
)

GENE_PERTURBATIONS = columns("""
gene | string | - | Symbol of the gene
gene_id | string | - | Identifier of the gene in the model's vocabulary
kind | string | - | delete: taken out of the input; overexpress: at the highest rank or value
matched_to | string | - | Of a control gene: the perturbed gene that it is compared with; "" for perturbed genes
n_cells | int64 | cells | Cells in which it was perturbed
n_expressing | int64 | cells | Of the cells looked at, those that express it
expression_rank | float64 | 1 | Mean place by expression among the genes of a cell: 0 is the most expressed, 1 the least
shift | float64 | 1 | 1 - cosine of the cell embeddings (mean state of the last layer) before and after, over all genes but this one; mean over cells
low | float64 | 1 | Lower end of the 95 % interval of the mean
high | float64 | 1 | Upper end
shift_with_gene | float64 | 1 | The same over all genes of each cell: this gene's own leaving, or moving, is part of it
control_shift | float64 | 1 | Mean of `shift` over its control genes; NaN without any, and for control genes
p_value | float64 | probability | One-sample t test over cells of its shift minus the mean of its control genes in the same cell: against these genes, not all genes; 1 with fewer than min_cells such cells, NaN for control genes
q_value | float64 | probability | Benjamini-Hochberg over the perturbed genes
n_features | int64 | features | Features of all measured layers that were tested
n_responding | int64 | features | Of them, those that respond
control_responding | float64 | features | Mean of `n_responding` over its control genes; NaN without any, and for control genes
output_change | float64 | output | Mean size of the change of the model's output for the other genes, mean over cells; NaN without a head
""")

GENE_PERTURBATION_FEATURES = columns("""
gene | string | - | Symbol of the perturbed gene
kind | string | - | delete or overexpress
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature that responds
n_cells | int64 | cells | Cells in which the gene was perturbed
mean_delta | float64 | activation | Mean change of the feature over all genes but this one
sd_delta | float64 | activation | Standard deviation of that change over cells
snr | float64 | 1 | mean / sd
low | float64 | activation | Lower end of the 95 % interval of the mean
high | float64 | activation | Upper end
clean | float64 | activation | Mean activation of the feature there in the undisturbed cell
sign_agreement | float64 | share | Responding cells with the sign of the mean
p_value | float64 | probability | One-sample t test over cells
q_value | float64 | probability | Benjamini-Hochberg over all tested pairs of the layer, control genes included
""")

GENE_PERTURBATION_OUTPUTS = columns("""
gene | string | - | Symbol of the perturbed gene
kind | string | - | delete or overexpress
target_gene | string | - | Gene whose output responds
n_cells | int64 | cells | Cells that have both genes
mean_delta | float64 | output | Mean change of the model's output for the target gene, where it stands
sd_delta | float64 | output | Standard deviation of that change over cells
snr | float64 | 1 | mean / sd
clean | float64 | output | Mean output in the undisturbed cell
sign_agreement | float64 | share | Responding cells with the sign of the mean
p_value | float64 | probability | One-sample t test over cells
q_value | float64 | probability | Benjamini-Hochberg over all tested pairs, control genes included
""")

FEATURE_GENE_SIMILARITY = columns("""
source_layer | int64 | layer | Layer of the feature that is changed
source_feature | int64 | index | Feature that is changed
gene | string | - | Symbol of the gene that is perturbed
gene_id | string | - | Identifier of the gene in the model's vocabulary
is_top_gene | bool | - | Whether it is one of the feature's top genes; else a control gene, top gene of none of the features
rank | int64 | rank | Its rank among the feature's top genes; 0 for control genes
matched_to | string | - | Of a control gene: the top gene that it is compared with; "" for top genes
n_cells | int64 | cells | Cells in which both were done
n_features | int64 | features | Features above the source that either of both changes
correlation | float64 | 1 | Rank correlation over these features of the mean changes by the feature and by the gene; NaN with fewer than min_cells cells, or where one of both changes nothing
""")
GROUP = """
panel | string | - | "same pathway", "cross pathway", "random", "named", or "random directions" in the place of the members of the first panel
members | string | - | The features that are changed together, as "layer:feature", joined by "+"
n_members | int64 | features | 2 or 3
contrast | string | - | "additivity": all together - the sum of each alone; "three-way": what singles and pairs of a triplet do not explain
readout | string | - | "source": the activation; "pre": before TopK and the floor at 0
"""

GROUP_INTERACTIONS = columns(
    GROUP
    + """
target_layer | int64 | layer | Layer of the feature that is measured
target_feature | int64 | index | Feature that is measured
n_cells | int64 | cells | Cells in which every member alone changes something
clean | float64 | activation | Mean value of the target without the intervention, at the positions of any member
alone_1 | float64 | activation | Mean change of the target there when the first member alone is changed
alone_2 | float64 | activation | The same for the second member
alone_3 | float64 | activation | The same for the third; NaN for pairs
pair_12 | float64 | activation | Mean change by the first two of three members together; NaN for pairs
pair_13 | float64 | activation | The same for the first and the third
pair_23 | float64 | activation | The same for the second and the third
joint | float64 | activation | Mean change by all members together
expected | float64 | activation | What the contrast measures it against: joint - epsilon; for "additivity" the sum of the members alone
epsilon | float64 | activation | Mean contrast over cells
sd_epsilon | float64 | activation | Standard deviation of the contrast over cells
low | float64 | activation | Lower end of the 95 % interval of the mean contrast
high | float64 | activation | Upper end
together | string | - | "more" if joint is larger in size than expected, else "less"
both_readouts | bool | - | The other readout has an interaction of the same sign; if not, an interaction of readout "source" is the target's own threshold
p_value | float64 | probability | One-sample t test of the contrast over cells
q_value | float64 | probability | Benjamini-Hochberg over all groups, contrasts and targets of the readout
"""
)

INTERACTION_GROUPS = columns(
    GROUP
    + """
matched_set | int64 | index | Groups of different panels with the same number are matched in layers, firing rates and sizes
serial | bool | - | An edge leads from one member to another, so that the sum counts a path twice
n_cells | int64 | cells | Cells in which every member alone changes something
n_tested | int64 | targets | Targets that any condition changes in any cell; 0 with fewer than min_cells
n_interacting | int64 | targets | Of them, those with q <= max_q; for random directions of q among themselves
n_more | int64 | targets | Of these, those that the members change more together than expected
n_less | int64 | targets | Those that they change less
relative_size | float64 | 1 | Mean size (absolute value) of the contrast / mean size of expected, over cells and tested targets; NaN where nothing is expected
median_relative_size | float64 | 1 | Median over tested targets of that ratio of means over cells
reached | float64 | 1 | Slope of the joint change on the expected one over cells and tested targets, without intercept; 1 if effects add up
"""
)

SOURCE = """
kind | string | - | What became of the source's activation: zero, mean, resample, scale, clamp or patch
source_layer | int64 | layer | Layer of the feature that is changed
source_feature | int64 | index | Feature that is changed
"""
BEYOND_RANDOM = """
random_mean | float64 | {unit} | Mean change by random directions of the same norm in the place of the source's own, in the control cells, mean over them; NaN without any
specific_z | float64 | 1 | How far the mean change is from those of random directions in the same control cells, in their standard deviations; NaN with fewer than 4 of them
specific_q | float64 | probability | Benjamini-Hochberg of the t test of specific_z over all tested pairs; those that do not respond have p = 1
specific | bool | - | Responds, and specific_q is at most max_q
"""

OUTPUT_EFFECTS = columns(
    SOURCE
    + """
gene_id | string | - | Gene whose output is measured, at the position where it stands
symbol | string | - | Its symbol
n_cells | int64 | cells | Cells that have the gene and in which the intervention changes something
mean_delta | float64 | output | Mean change of the model's output for the gene: its logit, or its predicted value
sd_delta | float64 | output | Standard deviation of that change over cells
snr | float64 | 1 | mean / sd
low | float64 | output | Lower end of the 95 % interval of the mean
high | float64 | output | Upper end
clean | float64 | output | Mean output without the intervention
share_active | float64 | share | Of these cells, those in which the source is active at the gene itself; elsewhere the change came through attention
in_top_genes | bool | - | The gene is one of the source's top genes
sign_agreement | float64 | share | Responding cells with the sign of the mean
p_value | float64 | probability | One-sample t test over cells
q_value | float64 | probability | Benjamini-Hochberg over all tested pairs of a source and a gene
"""
    + BEYOND_RANDOM.format(unit="output")
)

OUTPUT_LOSS = columns(
    SOURCE
    + """
n_cells | int64 | cells | Cells in which the intervention changes something
mean_delta | float64 | loss | Mean change of the loss of hidden genes, the same genes hidden in the same cell with and without the intervention: cross-entropy in nats, or squared error
sd_delta | float64 | loss | Standard deviation of that change over cells
low | float64 | loss | Lower end of the 95 % interval of the mean
high | float64 | loss | Upper end
clean | float64 | loss | Mean loss of these cells without the intervention
p_value | float64 | probability | One-sample t test over cells; 1 with fewer than min_cells
q_value | float64 | probability | Benjamini-Hochberg over the sources
random_mean | float64 | loss | Mean change by random directions of the same norm in the place of the source's own, mean over them; NaN without any
"""
)

PROBES = columns("""
readout | string | - | obs column that a linear readout of the mean state of the last layer has learnt
measure | string | - | "log-odds" of a label, or "value" of a number
n_labels | int64 | labels | Labels told apart; 0 for a number
n_train | int64 | cells | Cells it has learnt from; interventions were made in none of them
n_held_out | int64 | cells | Other cells in which it was tested; interventions were made in none of them
score | float64 | 1 | Accuracy in the held-out cells, or R2 of a number
chance | float64 | 1 | Share of the commonest label among them, or 0
p_value | float64 | probability | One-sided: binomial test of the accuracy against chance, or of the correlation with the number
used | bool | - | p is at most max_q: effects on it are measured
""")

PROBE_EFFECTS = columns(
    SOURCE
    + """
readout | string | - | obs column, or "signature"
label | string | - | Label of the column; "" for a number and for the signature
measure | string | - | "log-odds" of the label, "value" of the number, or "output" of the signature's genes less that of all others
n_cells | int64 | cells | Cells in which the intervention changes something
mean_delta | float64 | measure | Mean change of the readout
sd_delta | float64 | measure | Standard deviation of that change over cells
snr | float64 | 1 | mean / sd
low | float64 | measure | Lower end of the 95 % interval of the mean
high | float64 | measure | Upper end
clean | float64 | measure | Mean of the readout without the intervention
probability_delta | float64 | probability | Mean change of the label's probability; NaN for others
p_value | float64 | probability | One-sample t test over cells; 1 with fewer than min_cells
q_value | float64 | probability | Benjamini-Hochberg over all tested pairs of a source and a readout
"""
    + BEYOND_RANDOM.format(unit="measure")
)

FAITHFULNESS = columns("""
kind | string | - | "keep": only the circuit is kept, all other features are set to their mean. "remove": only the circuit is
size | int64 | features | Features of the circuit
n_cells | int64 | cells | Cells
loss | float64 | loss | Mean masked-gene loss over cells (nats for cross-entropy, bins^2 for values)
loss_intact | float64 | loss | The same of the undisturbed model
loss_nothing | float64 | loss | The same where no feature is kept
share | float64 | share | Faithfulness ("keep"): (loss_nothing - loss) / (loss_nothing - loss_intact). Completeness ("remove"): (loss - loss_intact) / (loss_nothing - loss_intact)
low | float64 | share | Lower end of its 95 % interval: ratio of means over cells, linearised
high | float64 | share | Upper end
random_mean | float64 | share | Mean share of random circuits of the same size, layers and similar firing rates, in the same cells
random_low | float64 | share | Smallest of them
random_high | float64 | share | Largest of them
n_random | int64 | circuits | Random circuits
p_value | float64 | probability | (1 + random circuits with at least this share) / (1 + random circuits); with n_random circuits not below 1 / (1 + n_random)
""")

CIRCUITS_KEPT = columns("""
rank | int64 | rank | A circuit of n features are those of rank 1 to n
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
strength | float64 | 1 | Sum of |snr| over its edges, in and out
n_edges | int64 | edges | Its edges, in and out
firing_rate | float64 | share | Share of gene positions at which the feature is active
""")

IMPORTANCE = columns("""
layer | int64 | layer | Layer of both features
hub | int64 | index | Feature with many edges
control | int64 | index | Feature of a similar firing rate
hub_rate | float64 | share | Share of gene positions at which the hub is active
control_rate | float64 | share | The same of the control
hub_edges | int64 | edges | Edges out of the hub
control_edges | int64 | edges | Edges out of the control; 0 also where it was not traced
n_cells | int64 | cells | Cells in which both are active
mean_hub | float64 | loss | Mean change of the masked-gene loss by the intervention on the hub, over these cells
mean_control | float64 | loss | The same of the control
difference | float64 | loss | Mean over cells of the hub's - the control's change in the same cell
sd_difference | float64 | loss | Standard deviation of that over cells
low | float64 | loss | Lower end of the 95 % interval of the difference
high | float64 | loss | Upper end
p_value | float64 | probability | One-sample t test of the difference over cells; 1 with fewer than min_cells
q_value | float64 | probability | Benjamini-Hochberg over all tested pairs
""")
ATTRIBUTED = """
target | string | - | What is explained: "layer:feature" or "gene:SYMBOL"
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature that could drive the target
n_cells_screened | int64 | cells | Screened cells with the target in which the feature is active
attribution | float64 | target | Change of the target by removal of the feature as the gradient says, mean over those
sd_attribution | float64 | target | Standard deviation of that over cells
removed | float64 | state | Norm of what the removal takes from the residual stream, summed over positions, mean over those cells
"""
ATTRIBUTION = columns(ATTRIBUTED)

REMOVED = (
    ATTRIBUTED
    + """
n_cells | int64 | cells | Other cells with the target in which the feature is active: in these it is removed
attribution_here | float64 | target | Mean attribution in these cells
mean_delta | float64 | target | Mean change of the target by removal of the feature
sd_delta | float64 | target | Standard deviation of that change over cells
low | float64 | target | Lower end of the 95 % interval of the mean
high | float64 | target | Upper end
clean | float64 | target | Mean of the target there without the intervention
p_value | float64 | probability | One-sample t test over cells
q_value | float64 | probability | Benjamini-Hochberg over candidates and random slice together
confirmed | bool | - | q is at most max_q, and the sign is that of the attribution
"""
)
ATTRIBUTION_CANDIDATES = columns("rank | int64 | 1 | Place by the size of the attribution, from 1" + REMOVED)
ATTRIBUTION_SLICE = columns(REMOVED)

TABLES = {
    "intervention_effects": INTERVENTION_EFFECTS,
    "dose_response": DOSE_RESPONSE,
    "dose_trends": DOSE_TRENDS,
    "gene_perturbations": GENE_PERTURBATIONS,
    "gene_perturbation_features": GENE_PERTURBATION_FEATURES,
    "gene_perturbation_outputs": GENE_PERTURBATION_OUTPUTS,
    "feature_gene_similarity": FEATURE_GENE_SIMILARITY,
    "group_interactions": GROUP_INTERACTIONS,
    "interaction_groups": INTERACTION_GROUPS,
    "output_effects": OUTPUT_EFFECTS,
    "output_loss": OUTPUT_LOSS,
    "probes": PROBES,
    "probe_effects": PROBE_EFFECTS,
    "faithfulness": FAITHFULNESS,
    "circuits_kept": CIRCUITS_KEPT,
    "importance": IMPORTANCE,
    "attribution": ATTRIBUTION,
    "attribution_candidates": ATTRIBUTION_CANDIDATES,
    "attribution_slice": ATTRIBUTION_SLICE,
}
ROWS = {
    "intervention_effects": "a feature that responds to an intervention on another",
    "dose_response": "an edge at one dose of its source",
    "dose_trends": "an edge whose source got several doses",
    "gene_perturbations": "a gene that was perturbed, or a control gene",
    "gene_perturbation_features": "a feature that responds to the perturbation of a gene",
    "gene_perturbation_outputs": "a gene whose output responds to the perturbation of another",
    "feature_gene_similarity": "a feature, and one of its top genes or a control gene",
    "group_interactions": "a target on which members of a group interact",
    "interaction_groups": "a contrast of a group of features at one readout",
    "output_effects": "a gene whose output responds to an intervention on a feature",
    "output_loss": "a feature and the loss of hidden genes",
    "probes": "a linear readout",
    "probe_effects": "a feature and a readout",
    "faithfulness": "a circuit of one size that was kept alone, or removed",
    "circuits_kept": "a feature of the circuits",
    "importance": "a hub and a control",
    "attribution": "a feature below the target, the 1,000 with the largest attribution",
    "attribution_candidates": "one of the features with the largest attribution, removed in other cells",
    "attribution_slice": "a random feature below the target, removed in other cells",
}
