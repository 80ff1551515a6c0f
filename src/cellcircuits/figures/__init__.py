"""A figure per question of the report, drawn from what it found."""
