"""Tables of stage `train`."""

from cellcircuits.columns import columns

QUALITY = columns("""
layer | int64 | layer | Layer of the autoencoder (0-based block output)
variance_explained | float64 | share | 1 - squared error / variance, over held-out gene positions
pca_variance_explained | float64 | share | Baseline: the same of the best linear subspace of as many dimensions as features are active (l0, rounded), fitted to these positions
random_weights_variance_explained | float64 | share | Baseline: variance_explained on the model with random weights; NaN without train.random_weights
final_state_recovered | float64 | share | 1 - squared change of the last block's output with the reconstruction in place of the state / with the mean state in its place; NaN with train.quality_cells = 0
random_weights_final_state_recovered | float64 | share | Baseline: the same on the model with random weights
loss_recovered | float64 | share | 1 - (loss of masked genes with the reconstruction in place of the state - loss) / (with the mean state - loss); the mean state is the baseline, 0; NaN without an output head, where the mean does no harm, or with train.quality_cells = 0
l0 | float64 | features | Mean number of active features per held-out gene position
random_weights_l0 | float64 | features | The same on the model with random weights
dead_share | float64 | share | Features that fire at no held-out gene position
random_weights_dead_share | float64 | share | The same on the model with random weights
density_q05 | float64 | share | Share of held-out gene positions at which a feature fires: 5 % quantile over features
density_q25 | float64 | share | Lower quartile of the same
density_q50 | float64 | share | Median of the same
density_q75 | float64 | share | Upper quartile of the same
density_q95 | float64 | share | 95 % quantile of the same
decoder_norm_min | float64 | 1 | Smallest norm of a decoder row; all are 1 in autoencoders trained here
decoder_norm_median | float64 | 1 | Median norm of a decoder row
decoder_norm_max | float64 | 1 | Largest norm of a decoder row
stable_share | float64 | share | Firing features that another seed found too (decoder cosine above 0.7, one to one), mean over the other seeds; NaN with one seed
stable_share_random | float64 | share | Baseline: the same with random directions of the activations' covariance in place of the other seed's features
n_positions | int64 | positions | Held-out gene positions
n_cells_final | int64 | cells | Held-out cells in which final_state_recovered and loss_recovered were measured
""")

TABLES = {
    "quality": QUALITY,
}
"""Every table of this module by name; the file is <name>.parquet."""

ROWS = {
    "quality": "One row per layer with an autoencoder. What each number means: [features.md](features.md).",
}
"""What a row is."""
