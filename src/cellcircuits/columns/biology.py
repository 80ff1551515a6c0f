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

NOVELTY = columns("""
source_label | string | - | Label of the source features
target_label | string | - | Label of the target features
n_edges | int64 | edges | Edges between features of these labels
n_expected | float64 | edges | Mean number when labels of targets are exchanged within layer and firing rate
p_value | float64 | probability | Chance of at least as many edges by this exchange: from its exact mean, variance and third cumulant (Pearson type III)
q_value | float64 | probability | Benjamini-Hochberg over all ordered pairs of different labels with gene sets that could have an edge
share_negative | float64 | share | Share of the edges with a negative delta (the source supports the target)
n_source_genes | int64 | genes | Genes of the source label's gene set
n_target_genes | int64 | genes | Genes of the target label's gene set
n_shared_genes | int64 | genes | Genes of both
overlap_q | float64 | probability | One-sided hypergeometric test of the shared genes among the genes of all sets, Benjamini-Hochberg over all pairs of labels
n_interactions | int64 | pairs | Interactions between genes of only one and genes of only the other; 0 without a network
interactions_expected | float64 | pairs | Number of them that the genes' degrees make
interactions_q | float64 | probability | Poisson test of that number, Benjamini-Hochberg over all pairs of labels; NaN without a network
known | bool | - | A relation is known: overlap_q or interactions_q within max_q
known_published | bool | - | At least min_shared_genes shared genes
candidate | bool | - | Joined beyond chance (q_value within max_q) although no relation is known
""")

HIERARCHY = columns("""
label | string | - | Gene program
n_features | int64 | features | Features with this label
relative_depth | float64 | share | Mean layer of these features / highest layer
depth_low | float64 | share | Lower end of its 95 % interval (t over features); NaN for one feature
depth_high | float64 | share | Upper end of its 95 % interval
depth_expected | float64 | share | Mean over all labelled features
depth_q | float64 | probability | Test of the depth against as many labelled features at random, Benjamini-Hochberg over the labels
endpoint_depth | float64 | share | The published depth: mean over the ends of the 50 strongest edges of each source and target layer; set by which layers were traced. NaN without any
n_outgoing | int64 | programs | Programs that it reaches beyond chance
n_incoming | int64 | programs | Programs that reach it beyond chance
page_rank | float64 | share | PageRank (damping 0.85) in the graph of pairs joined beyond chance; without any difference it is 1 / number of labels
published_page_rank | float64 | share | The same in the published graph: every pair joined by any edge
component | int64 | index | Strongly connected group of the pairs joined beyond chance, 0 is the largest; -1: in none of two or more
""")

HIERARCHY_PAIRS = columns("""
first_label | string | - | Gene program, the first in the alphabet
second_label | string | - | Gene program
n_forward | int64 | edges | Edges from the first to the second
n_backward | int64 | edges | Edges from the second to the first
expected_forward | float64 | edges | Mean number of edges from the first to the second when labels of targets are exchanged within layer and firing rate
expected_backward | float64 | edges | Mean number from the second to the first by this exchange
z | float64 | 1 | (n_forward - n_backward) beyond its expectation, in standard deviations of the exchange; above 0: the first leads
p_value | float64 | probability | Two-sided test of n_forward - n_backward by this exchange: normal where both numbers are large, a bound from both numbers where not
q_value | float64 | probability | Benjamini-Hochberg over all pairs of labels that could have edges
forward_q | float64 | probability | Test of at least n_forward edges, Benjamini-Hochberg over all ordered pairs
backward_q | float64 | probability | Test of at least n_backward edges
both_beyond_chance | bool | - | Both directions are joined beyond chance: at different layers, no signal returns
""")

GROUP_EDGES = columns("""
source_layer | int64 | layer | Layer of the ablated feature
source_feature | int64 | index | Ablated feature
target_layer | int64 | layer | Layer of the measured feature
target_feature | int64 | index | Measured feature
group | string | - | Group of cells: a label of trace.group_by
n_cells | int64 | cells | Cells of the group in which the source is active
mean_delta | float64 | activation | Mean over these cells of (ablated - clean) activation
sd_delta | float64 | activation | Standard deviation over these cells (n - 1)
snr | float64 | 1 | mean_delta / sd_delta
is_edge | bool | - | The rule calls the pair from the cells of this group alone
is_edge_of_all | bool | - | The rule calls the pair from all cells together
difference | float64 | activation | mean_delta minus the mean over all other cells; NaN where either has no cell
difference_p | float64 | probability | Welch's t test of that difference; NaN where the group or the others have fewer than min_cells
difference_q | float64 | probability | Benjamini-Hochberg over all tested pairs and groups of the source layer; pairs that are no edge anywhere with p = 1
differs_p | float64 | probability | Do groups differ in this pair? Smallest difference_p of its groups times their number
differs_q | float64 | probability | Benjamini-Hochberg of it over all tested pairs of the source layer; pairs that are no edge anywhere with p = 1
""")

GROUP_PAIRS = columns("""
source_layer | int64 | layer | Layer of the ablated feature
source_feature | int64 | index | Ablated feature
first_group | string | - | Group of cells with at least min_cells in which the source is active
second_group | string | - | Another one
n_tested | int64 | pairs | Targets tested in both
n_first | int64 | edges | Edges of the first group
n_second | int64 | edges | Edges of the second group
n_both | int64 | edges | Edges of both
expected_first | float64 | edges | Edges of the first group if every effect were that of both groups' cells together, by the power of its number of cells
expected_second | float64 | edges | The same for the second group
expected_both | float64 | edges | Edges of both, if effects were the same in both
""")

TISSUES = columns("""
group | string | - | Group of cells
source_label | string | - | Label of the source features
target_label | string | - | Label of the target features
n_edges | int64 | edges | Tested edges (in all cells or in any group) between features of these labels
n_edges_of_group | int64 | edges | Of them, edges of this group alone
n_differ | int64 | edges | Of them, those whose effect in this group differs from that in all other cells (difference_q within max_q)
n_expected | float64 | edges | n_differ by chance: the share between the same layers, labels of targets exchanged within layer and firing rate
mean_difference | float64 | activation | Mean over the edges of the effect in this group minus that in all other cells
p_value | float64 | probability | Chance of at least n_differ by this exchange (Pearson type III)
q_value | float64 | probability | Benjamini-Hochberg over all rows
""")

TISSUE_CLASSES = columns("""
group | string | - | Group of cells
class | string | - | Class of gene programs, by words in their names
n_only_with | int64 | pairs | Pairs of programs that are joined in this group only, with a program of the class at either end
n_only_without | int64 | pairs | The same without
n_shared_with | int64 | pairs | Pairs of programs that are joined in this group and in another, with a program of the class
n_shared_without | int64 | pairs | The same without
odds_ratio | float64 | 1 | Of these four numbers; NaN or infinite where a margin is 0
p_value | float64 | probability | One-sided Fisher test, as published
q_value | float64 | probability | Benjamini-Hochberg over all rows
""")

CELL_TYPES = columns("""
first_group | string | - | Group of cells
second_group | string | - | Another one
n_sources | int64 | features | Sources with enough cells in both
n_first | int64 | edges | Their edges in the first group
n_second | int64 | edges | Their edges in the second group
n_both | int64 | edges | Edges of both
jaccard | float64 | share | Edges of both / edges of either
jaccard_low | float64 | share | Lower end of its 95 % interval, resampling sources
jaccard_high | float64 | share | Upper end of it
expected_jaccard | float64 | share | The same if effects were equal in both groups, by the power of their numbers of cells
p_value | float64 | probability | Two-sided test of n_both against its expectation, sources as units: sign-flip up to 20 sources, else t
n_edges | int64 | edges | Edges of all cells, tested in both groups
correlation | float64 | 1 | Correlation over these edges of the effects (mean / pooled standard deviation) in the two groups
correlation_low | float64 | 1 | Lower end of its 95 % interval, resampling sources
correlation_high | float64 | 1 | Upper end of it
expected_correlation | float64 | 1 | The correlation if true effects were equal: what the noise of so many cells leaves
""")

TABLES = {
    "coherence": COHERENCE,
    "coherence_layers": COHERENCE_LAYERS,
    "novelty": NOVELTY,
    "hierarchy": HIERARCHY,
    "hierarchy_pairs": HIERARCHY_PAIRS,
    "group_edges": GROUP_EDGES,
    "group_pairs": GROUP_PAIRS,
    "tissues": TISSUES,
    "tissue_classes": TISSUE_CLASSES,
    "cell_types": CELL_TYPES,
}
"""Every table of this module by name; the file is <name>.parquet."""

ROWS = {
    "coherence": "One row per set of edges and measure of likeness.",
    "coherence_layers": "One row per pair of layers.",
    "novelty": "One row per ordered pair of different labels with gene sets that an edge joins; candidates first.",
    "hierarchy": "One row per label, in order of depth.",
    "hierarchy_pairs": "One row per pair of labels that an edge joins, in either direction.",
    "group_edges": "One row per group of cells and pair that is an edge in all cells or in any group.",
    "group_pairs": "One row per source and two groups of cells.",
    "tissues": "One row per group of cells and ordered pair of different labels with a tested edge.",
    "tissue_classes": "One row per group of cells and class of programs.",
    "cell_types": "One row per two groups of cells.",
}
"""What a row is."""
