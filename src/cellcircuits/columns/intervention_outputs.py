"""Tables of `interventions/` on what the model predicts and what can be read from it."""

from cellcircuits.columns import columns

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

TABLES = {
    "output_effects": OUTPUT_EFFECTS,
    "output_loss": OUTPUT_LOSS,
    "probes": PROBES,
    "probe_effects": PROBE_EFFECTS,
}
ROWS = {
    "output_effects": "a gene whose output responds to an intervention on a feature",
    "output_loss": "a feature and the loss of hidden genes",
    "probes": "a linear readout",
    "probe_effects": "a feature and a readout",
}
