"""Tables of the findings on what edges mean: coherence, novelty, hierarchy, and differences between groups of cells."""

from cellcircuits.columns import columns

COHERENCE = columns("""
pairs | string | - | "all": edges between features with gene sets; "apart": those whose top genes have none in common; "published": the 50 strongest of each source and target layer
measure | string | - | "shared term": share with a gene set in common; "information": information of the common gene sets / of the gene sets of either
n_edges | int64 | edges | Edges compared
n_sources | int64 | features | Sources of these edges
value | float64 | 1 | Mean of the measure over the edges
interval_low | float64 | 1 | Lower end of the 95 % interval of value, resampling sources
interval_high | float64 | 1 | Upper end of the 95 % interval of value, resampling sources
matched | float64 | 1 | The same where targets are exchanged within layer, number of gene sets and firing rate; "published": where gene sets are exchanged among all annotated features of a layer, at sources and targets
matched_p | float64 | probability | Share of such exchanges with at least this mean, 1 added to both counts; NaN for "published"
non_edges | float64 | 1 | Mean over the features of the same layers that the same sources do not reach
non_edges_p | float64 | probability | Two-sided test of the difference from non-edges, sources as units: sign-flip up to 20 sources, else t
""")

COHERENCE_LAYERS = columns("""
source_layer | int64 | layer | Layer of the sources
target_layer | int64 | layer | Layer of the targets
n_edges | int64 | edges | Edges between features with gene sets
share | float64 | share | Of them, those with a gene set in common
matched_share | float64 | share | Expected where targets are exchanged within layer, number of gene sets and firing rate
non_edges_share | float64 | share | The same share over the features that the same sources do not reach
information | float64 | 1 | Mean information in common
matched_information | float64 | 1 | Expected by the same exchange
""")

TABLES = {
    "coherence": COHERENCE,
    "coherence_layers": COHERENCE_LAYERS,
}
"""Every table of this module by name; the file is <name>.parquet."""

ROWS = {
    "coherence": "One row per set of edges and measure of likeness.",
    "coherence_layers": "One row per pair of layers.",
}
"""What a row is."""
