"""The version of everything that is written to disk."""

FORMAT_VERSION = 1
"""Raised when an artifact changes its meaning; newer artifacts are refused."""
