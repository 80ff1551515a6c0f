"""One figure per question of the report: what was found in, matplotlib figures of no window out."""
