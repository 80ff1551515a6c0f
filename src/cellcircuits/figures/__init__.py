"""One picture per question of the report."""
