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
    "attribution": ATTRIBUTION,
    "attribution_candidates": ATTRIBUTION_CANDIDATES,
    "attribution_slice": ATTRIBUTION_SLICE,
}
ROWS = {
    "intervention_effects": "a feature that responds to an intervention on another",
    "dose_response": "an edge at one dose of its source",
    "dose_trends": "an edge whose source got several doses",
    "attribution": "a feature below the target, the 1,000 with the largest attribution",
    "attribution_candidates": "one of the features with the largest attribution, removed in other cells",
    "attribution_slice": "a random feature below the target, removed in other cells",
}
