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
}
