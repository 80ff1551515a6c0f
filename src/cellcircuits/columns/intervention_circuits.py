"""Tables of `interventions/` on circuits, hubs and attribution."""

from cellcircuits.columns import columns

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
    "faithfulness": FAITHFULNESS,
    "circuits_kept": CIRCUITS_KEPT,
    "importance": IMPORTANCE,
    "attribution": ATTRIBUTION,
    "attribution_candidates": ATTRIBUTION_CANDIDATES,
    "attribution_slice": ATTRIBUTION_SLICE,
}
ROWS = {
    "faithfulness": "a circuit of one size that was kept alone, or removed",
    "circuits_kept": "a feature of the circuits",
    "importance": "a hub and a control",
    "attribution": "a feature below the target, the 1,000 with the largest attribution",
    "attribution_candidates": "one of the features with the largest attribution, removed in other cells",
    "attribution_slice": "a random feature below the target, removed in other cells",
}
