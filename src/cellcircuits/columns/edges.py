"""Tables of stage `edges`."""

from cellcircuits.columns import columns

EDGES = columns("""
source_layer | int64 | layer | Layer of the ablated feature (0-based block output)
source_feature | int64 | index | Ablated feature
target_layer | int64 | layer | Layer of the measured feature
target_feature | int64 | index | Measured feature
n_cells | int64 | cells | Cells in which the source is active, hence measured
n_units | int64 | units | Units of observation: those cells, or the groups of cells that have any
n_positive | int64 | units | Units in which the target rises when the source is removed
n_negative | int64 | units | Units in which the target falls when the source is removed
mean_delta | float64 | activation | Mean over units of (ablated - clean) activation; negative: the source supports the target
sd_delta | float64 | activation | Standard deviation over units (n - 1)
snr | float64 | 1 | mean_delta / sd_delta: signal-to-noise ratio (the published "Cohen's d"), not an effect size
snr_low | float64 | 1 | Lower end of its 95 % interval (large-sample)
snr_high | float64 | 1 | Upper end of its 95 % interval (large-sample)
clean_activation | float64 | activation | Mean activation of the target in the clean pass at the same positions
relative_effect | float64 | 1 | mean_delta / clean_activation; NaN where the target is silent in the clean pass
sign_agreement | float64 | share | Share of responding units with the sign of the mean
responding_fraction | float64 | share | Share of units with a delta other than 0
consistency_published | float64 | share | max(n_positive, n_units - n_positive) / n_units: the published rule, zeros count as negative
p_value | float64 | probability | Two-sided test of no effect: of mean_delta, one-sample t over cells, sign-flip over few groups; with edges.test = "sign", exact sign test of n_positive against n_negative
q_value | float64 | probability | Verdict `exists`: Benjamini-Hochberg over all targets of all sources of the source layer with enough units; pairs that fail min_snr or min_agreement enter with p = 1
pre_delta | float64 | activation | Mean change before TopK where the source is active; NaN where not measured
passthrough_delta | float64 | activation | The part of pre_delta that the removed vector makes by persisting: carried through skip connections and norms, nothing computed
computed_delta | float64 | activation | pre_delta - passthrough_delta: what the blocks compute
computed_share | float64 | 1 | computed_delta / pre_delta; below 0 where the persisting vector has the other sign and is larger
specific_z | float64 | 1 | Distance of the computed effect from those of random directions of the same norm, in their standard deviations (t, moderated over sources and targets); NaN without controls
specific_q | float64 | probability | Verdict `specific`: Benjamini-Hochberg of that test over the same pairs, those that are no edge with p = 1; NaN without controls
specific | bool | - | specific_q within max_q
heterogeneity_q | float64 | probability | Do groups of cells differ in this effect? Welch's test of equal means, Benjamini-Hochberg over the edges; NaN without groups
stability | float64 | share | Share of bootstrap samples of the groups in which the pair passes the rule's thresholds; NaN without groups
""")

TESTED = columns("""
source_layer | int64 | layer | Layer of the sources
target_layer | int64 | layer | Layer of the targets
n_sources | int64 | features | Sources with enough cells to be tested
n_tested | int64 | pairs | Tested pairs of source and target
n_responding | int64 | pairs | Tested pairs with a delta other than 0 in any cell
""")

CONTROLS = columns("""
direction | string | - | What was removed: "own" (the sources themselves), "random" (a fixed random direction of the same norm), "feature" (that of a feature of the nearest firing rate). "random_weights": another model, the same with its weights permuted, and as many of its own features, of equal firing rates, in the same cells
context | string | - | Context in which it was traced
n_directions | int64 | directions | Directions per source
n_tested | float64 | pairs | Pairs with enough units, mean over the directions
edges_published | float64 | edges | Edges under the published rule, mean over the directions
edges_exist | float64 | edges | Edges under the calibrated rule, mean over the directions
edges_specific | float64 | edges | Of them, those beyond (the other) random directions, mean over the directions
share_exist | float64 | share | edges_exist / n_tested
share_specific | float64 | share | edges_specific / n_tested
""")

FIDELITY = columns("""
source_layer | int64 | layer | Layer of the sources
target_layer | int64 | layer | Layer of the targets
n_sources | int64 | features | Sources traced in both contexts
n_cells | int64 | cells | Most cells in which any of them is active
correlation | float64 | 1 | Correlation of the mean effects of all pairs, frozen against exact
slope | float64 | 1 | Frozen effect per exact effect (least squares through 0)
edges_exact | int64 | edges | Edges of the exact context
edges_frozen | int64 | edges | Edges of the frozen context
recall | float64 | share | Exact edges that the frozen context finds
precision | float64 | share | Frozen edges that are exact edges
jaccard | float64 | share | Edges of both / edges of either
sign_agreement | float64 | share | Exact edges whose effect has the same sign in the frozen context
""")

GENE_EFFECTS = columns("""
source_layer | int64 | layer | Layer of the source feature
source_feature | int64 | index | Source feature
gene | string | - | Gene whose state changed, although the source was not active at it
n_cells | int64 | cells | Cells in which it was expressed and the source active elsewhere
mean_change | float64 | share | Mean share of its norm by which its state at the highest target layer changed
sd_change | float64 | share | Standard deviation over cells (n - 1)
z_among_genes | float64 | 1 | log(mean_change) against the other genes of the same source, in standard deviations
removed_at | string | - | Genes at which the source was removed, most activation first, separated by ";"
""")

SWEEP = columns("""
direction | string | - | "own" (the sources) or "random" (mean over control directions)
min_snr | float64 | 1 | Threshold of |mean/sd|
min_agreement | float64 | share | Threshold of sign agreement
edges | float64 | edges | Edges of the calibrated rule with these thresholds
""")

SAMPLE_SIZE = columns("""
source_layer | int64 | layer | Layer of the sources
n_groups | int64 | groups | Groups of cells taken together, in their order
n_cells | int64 | cells | Most cells of any source
n_edges | int64 | edges | Edges called from these cells
n_kept | int64 | edges | Of them, those that are edges of all cells
recall | float64 | share | n_kept / edges of all cells
""")

TABLES = {
    "edges": EDGES,
    "tested": TESTED,
    "controls": CONTROLS,
    "fidelity": FIDELITY,
    "gene_effects": GENE_EFFECTS,
    "sweep": SWEEP,
    "sample_size": SAMPLE_SIZE,
}
"""Every table of this module by name; the file is <name>.parquet."""

ROWS = {
    "edges": "One row per edge: all tested pairs that pass the rule, without a cut.",
    "tested": "One row per pair of source layer and target layer.",
    "controls": "One row per kind of direction removed in the place of the sources, and one of the model with random weights. That is another model with other features: it says how many edges each rule calls where nothing was learned, and nothing of any single edge.",
    "fidelity": "One row per pair of layers.",
    "gene_effects": "One row per source and gene, of each source the genes that change most.",
    "sweep": "One row per pair of thresholds, for the sources and for random directions.",
    "sample_size": "One row per source layer and number of groups of cells.",
}
"""What a row is."""
