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

TABLES = {
    "intervention_effects": INTERVENTION_EFFECTS,
    "dose_response": DOSE_RESPONSE,
    "dose_trends": DOSE_TRENDS,
    "faithfulness": FAITHFULNESS,
    "circuits_kept": CIRCUITS_KEPT,
    "importance": IMPORTANCE,
}
ROWS = {
    "intervention_effects": "a feature that responds to an intervention on another",
    "dose_response": "an edge at one dose of its source",
    "dose_trends": "an edge whose source got several doses",
    "faithfulness": "a circuit of one size that was kept alone, or removed",
    "circuits_kept": "a feature of the circuits",
    "importance": "a hub and a control",
}
