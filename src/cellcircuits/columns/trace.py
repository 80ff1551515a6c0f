"""Tables of stage `trace`."""

from cellcircuits.columns import columns

SOURCES = columns("""
layer | int64 | layer | Layer of the source feature
feature | int64 | index | Source feature
firing_rate | float64 | share | Share of gene positions at which the feature is active
n_cells | int64 | cells | Traced cells in which the feature is active
context | string | - | "exact" or "frozen": how the effects of this source were traced
matched_with | int64 | index | Feature of equal firing rate with which it is compared, where sources are picked in pairs; on random weights: the source of the trained model; -1 otherwise
""")

TABLES = {
    "sources": SOURCES,
}
"""Every table of this module by name; the file is <name>.parquet."""

ROWS = {
    "sources": "One row per ablated feature.",
}
"""What a row is."""
