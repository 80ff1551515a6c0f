"""Perturbation screens: read, compared with their control, and set against what circuits predict."""
