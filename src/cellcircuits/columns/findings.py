"""Tables of stage `findings`."""

from cellcircuits.columns import columns

ATTENUATION = columns("""
source_layer | int64 | layer | Layer of the sources
target_layer | int64 | layer | Layer of the targets
distance | int64 | layers | target_layer - source_layer
n_sources | int64 | features | Sources that could be tested
n_edges | int64 | edges | Edges between the two layers
edges_per_source | float64 | edges | Edges per source
share_of_tested | float64 | share | Edges / tested pairs
chance_share | float64 | share | False edges at this q, at most, as a share of the tested pairs: max_q x share_of_tested; NaN under the published rule
mean_abs_snr | float64 | 1 | Mean |mean/sd| over the edges
median_abs_relative_effect | float64 | 1 | Median |relative effect| over the edges
share_negative | float64 | share | Share of the edges with a negative delta (source supports target)
""")

HUBS = columns("""
direction | string | - | "out": sources by number of targets; "in": targets by number of sources
layer | int64 | layer | Layer of the feature
feature | int64 | index | Feature
label | string | - | Label of the feature
degree | int64 | edges | Edges that leave ("out") or reach ("in") the feature
degree_per_layer | float64 | edges | Degree / number of layers that were measured above ("out") or traced below ("in")
firing_rate | float64 | share | Share of gene positions at which the feature is active
degree_residual | float64 | 1 | log10(1 + degree per layer) beyond what the firing rate predicts (linear in log10 firing rate); NaN if it never fires
""")

SIGNS = columns("""
rule | string | - | Rule by which edges are called
n_edges | int64 | edges | Edges under the rule
share_negative | float64 | share | Share of edges with a negative delta (the source supports the target)
interval_low | float64 | share | Lower end of the 95 % interval, resampling sources
interval_high | float64 | share | Upper end of the 95 % interval, resampling sources
chance_share | float64 | share | The share that the rule alone makes: every pair's sign turned around with probability 1/2, then called by the rule
""")

CIRCUITS = columns("""
source_label | string | - | Label of the source features
target_label | string | - | Label of the target features
n_edges | int64 | edges | Edges between features of these labels
n_expected | float64 | edges | Mean number when target labels are permuted within each pair of layers
p_value | float64 | probability | Chance of at least as many edges under these permutations, exact
q_value | float64 | probability | Benjamini-Hochberg over all pairs of different labels that could have an edge
mean_snr | float64 | 1 | Mean signal-to-noise ratio
share_negative | float64 | share | Share of edges with a negative delta (the source supports the target)
strongest | string | - | Strongest edge, as L<layer>/F<feature> -> L<layer>/F<feature>
source_genes | string | - | Top genes of the strongest edge's source, separated by ";"
target_genes | string | - | Top genes of the strongest edge's target, separated by ";"
""")

TABLES = {
    "attenuation": ATTENUATION,
    "hubs": HUBS,
    "signs": SIGNS,
    "circuits": CIRCUITS,
}
"""Every table of this module by name; the file is <name>.parquet."""

ROWS = {
    "attenuation": "One row per pair of source layer and target layer.",
    "hubs": 'One row per ablated feature ("out") and per target of an edge ("in").',
    "signs": "One row per rule: the share of negative effects beside the share that the rule alone makes.",
    "circuits": "One row per ordered pair of different labels that an edge joins.",
}
"""What a row is."""
