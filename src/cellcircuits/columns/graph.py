"""Tables of the questions about the graph of edges: its reach, its hubs, its tails, and what it would be by chance."""

from cellcircuits.columns import columns

ATTENUATION_CURVE = columns("""
distance | int64 | layers | target_layer - source_layer
n_sources | int64 | features | Sources with targets tested at this distance
n_edges | int64 | edges | Edges over this distance
n_expected | float64 | edges | The same if each source's edges were spread evenly over its tested pairs
ratio | float64 | 1 | n_edges / n_expected; NaN where nothing is expected
ratio_low | float64 | 1 | Lower end of the 95 % interval, resampling sources
ratio_high | float64 | 1 | Upper end of it
edges_per_source | float64 | edges | n_edges / n_sources
published | float64 | edges | Mean over source layers of the published curve: edges per source among the sources that have any at this distance
""")

HUB_RATES = columns("""
direction | string | - | "out": sources by number of targets; "in": targets by number of sources
n_features | int64 | features | Features that fire and could have edges
n_edges | int64 | edges | Their edges
gini | float64 | 1 | Gini coefficient of the degree per reachable layer
gini_low | float64 | 1 | Lower end of its 95 % interval, resampling features
gini_high | float64 | 1 | Upper end of it
gini_rate | float64 | 1 | Mean of the same over degrees that only layer and firing rate make (Poisson)
gini_p | float64 | probability | Share of these draws with at least this Gini coefficient, 1 added to both counts
top_share | float64 | share | Edges of the 20 features with the most edges / all edges
top_low | float64 | share | Lower end of its 95 % interval, resampling features
top_high | float64 | share | Upper end of it
top_rate | float64 | share | Mean of the same over these draws
top_p | float64 | probability | Share of these draws with at least this share, 1 added to both counts
deviance_explained | float64 | share | Poisson deviance within layers that the firing rate explains
dispersion | float64 | 1 | a of variance = mean + a mean^2, by moments (negative binomial); 0 is Poisson
dispersion_p | float64 | probability | One-sided test of a = 0 (Cameron and Trivedi 1990)
spearman | float64 | 1 | Rank correlation of firing rate and degree per layer
spearman_low | float64 | 1 | Lower end of its 95 % interval, resampling features
spearman_high | float64 | 1 | Upper end of it
spearman_p | float64 | probability | Two-sided test of no correlation
n_draws | int64 | draws | Draws of the Poisson model
""")

CONVERGENCE = columns("""
source_layer | int64 | layer | Layer of the sources
target_layer | int64 | layer | Layer of the targets
n_sources | int64 | features | Sources with edges to targets that fire
n_targets | int64 | features | Features of the target layer that fire
n_edges | int64 | edges | Edges to them
n_distinct | int64 | features | Targets that at least one edge reaches
distinct_uniform | float64 | features | The same if every source picked as many targets at random
distinct_rate | float64 | features | The same if it picked them in proportion to their firing rate
p_uniform | float64 | probability | Chance of so few distinct targets, picked at random (normal approximation)
p_rate | float64 | probability | Chance of so few, picked in proportion to firing rate
q_rate | float64 | probability | Benjamini-Hochberg of p_rate over the pairs of layers
gini | float64 | 1 | Gini coefficient of the in-degrees of the targets that fire
gini_uniform | float64 | 1 | Mean of the same, picked at random
gini_rate | float64 | 1 | Mean of the same, picked in proportion to firing rate
max_in_degree | int64 | edges | Largest in-degree
max_uniform | float64 | edges | Mean of the same, picked at random
max_rate | float64 | edges | Mean of the same, picked in proportion to firing rate
published_edges | int64 | edges | Edges among the 50 with the largest |snr| of each source
published_distinct | int64 | features | Distinct targets of these
published_max | int64 | edges | Largest in-degree among these
""")

DEGREE_TAIL = columns("""
direction | string | - | "out" or "in" degrees
layer | int64 | layer | Layer of the features
n_features | int64 | features | Features of the layer with a degree above 0
x_min | int64 | edges | Least degree of the tail, by the smallest distance to a power law
n_tail | int64 | features | Features in the tail
alpha | float64 | 1 | Exponent of the power law, p(k) ~ k^-alpha for k >= x_min
distance | float64 | 1 | Largest distance of the distribution functions (Kolmogorov-Smirnov) of tail and power law
fit_p | float64 | probability | Goodness of fit: share of bootstrap samples of the fitted model at least as far away, 1 added to both counts; small: no power law
log_normal_ratio | float64 | 1 | Mean log likelihood ratio per feature of the tail, power law against log-normal; positive: the power law is nearer
log_normal_p | float64 | probability | Two-sided Vuong test of equal distance
exponential_ratio | float64 | 1 | The same against the exponential (geometric) distribution
exponential_p | float64 | probability | Two-sided Vuong test of equal distance
truncated_ratio | float64 | 1 | The same against the power law with an exponential cut-off, of which it is a special case; 0 or negative
truncated_p | float64 | probability | Likelihood-ratio test of no cut-off
best | string | - | "power law" if it is nearer than log-normal and exponential; the one alternative that is nearer, if only one is; "not a power law; the others cannot be told apart" if several are; else "none can be told apart". At p <= 0.05, one layer at a time
""")

COACTIVATION = columns("""
source_layer | int64 | layer | Layer of the sources
target_layer | int64 | layer | Layer of the targets
n_sources | int64 | features | Sources with edges and with other targets to compare them with
n_edges | int64 | edges | Their edges to targets that fire
n_pairs | int64 | pairs | Compared: an edge and a target of the same source, layer and tenth of firing rates that is none
auroc | float64 | probability | Chance that the edge has the higher PMI; ties count half. 0.5: edges know nothing of co-activation
spearman | float64 | 1 | Rank correlation of |snr| and PMI over edges of the same source and tenth of firing rates; NaN without variation
published_targets | int64 | features | Distinct targets of the 50 strongest edges of each source
published_overlap | float64 | share | Of them, targets of the 50 largest PMI of any source
published_chance | float64 | share | Targets of the 50 largest PMI / targets that fire: the overlap of any set of targets
""")

THRESHOLDS = columns("""
min_snr | float64 | 1 | Threshold of |mean/sd|
min_agreement | float64 | share | Threshold of sign agreement
n_edges | float64 | edges | Edges of the sources, calibrated rule with these thresholds
n_random | float64 | edges | Edges of random directions of the same norm, mean over directions, in the context in which controls were traced; NaN without them
random_ratio | float64 | 1 | n_random / n_edges: the share of edges that any push would make; above 1, random directions make more
share_tested | float64 | share | n_edges / tested pairs
share_kept | float64 | share | n_edges / edges at the run's thresholds
is_rule | bool | - | The thresholds nearest to those of the run
""")

CELL_NUMBERS = columns("""
n_groups | int64 | groups | Groups of cells taken together, in their order
n_cells | int64 | cells | Most cells of any source
n_edges | int64 | edges | Edges called from these cells
n_kept | int64 | edges | Of them, those that are edges of all cells
recall | float64 | share | n_kept / edges of all cells
precision | float64 | share | n_kept / n_edges
chance_recall | float64 | share | The recall of as many tested pairs picked at random
jaccard | float64 | share | n_kept / edges of either (the published statistic)
""")

TABLES = {
    "attenuation_curve": ATTENUATION_CURVE,
    "hub_rates": HUB_RATES,
    "convergence": CONVERGENCE,
    "degree_tail": DEGREE_TAIL,
    "coactivation": COACTIVATION,
    "thresholds": THRESHOLDS,
    "cell_numbers": CELL_NUMBERS,
}
"""Every table of this module by name; the file is <name>.parquet."""

ROWS = {
    "attenuation_curve": "One row per distance between source and target layer.",
    "hub_rates": 'One row per direction, "out" and "in".',
    "convergence": "One row per pair of layers with edges to targets that fire.",
    "degree_tail": "One row per direction and layer with enough features for a tail.",
    "coactivation": "One row per pair of layers in which edges can be compared with other targets.",
    "thresholds": "One row per pair of thresholds.",
    "cell_numbers": "One row per number of groups of cells, all source layers together.",
}
"""What a row is."""
