"""Interventions beyond the ablation of one feature: other values, several features, whole circuits, and outputs."""
