"""The table behind the report of the findings."""

from cellcircuits.columns import columns

ANSWERS = columns("""
question | string | - | Question of the report
asked | string | - | The question in one sentence
statistic | string | - | What `value` is
value | float64 | see unit | The number; NaN where the question cannot be asked of these inputs
baseline | float64 | see unit | The same by chance
baseline_is | string | - | How chance was made
low | float64 | see unit | Lower end of the 95 % interval of value; NaN where there is none
high | float64 | see unit | Upper end of it
p_value | float64 | probability | Test against the baseline; NaN for a description
published | float64 | see unit | The same by the published procedure on the same inputs; NaN where there is none
published_is | string | - | The published statistic, and why it may mislead
unit | string | - | Unit of value, baseline, low, high and published
note | string | - | What a reader must know, or what is missing
q_value | float64 | probability | Benjamini-Hochberg over all tested answers of the report
verdict | string | - | "supported", "the opposite is found", "not distinguishable from chance", "cannot be tested with these inputs", or "a description, not a test"
""")

TABLES = {"answers": ANSWERS}
"""Every table of this module by name; the file is <name>.parquet."""

ROWS = {"answers": "One row per statistic of the report."}
"""What a row is."""
