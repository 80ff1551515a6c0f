"""One figure per question of the findings: what a question found in, matplotlib figures out."""
