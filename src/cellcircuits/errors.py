"""Errors that a user can cause. Each message says what was expected, what was found and what to do next.

The command line prints the message alone and exits with code 2; anything else is a bug and keeps its traceback.
"""


class CellCircuitsError(ValueError):
    """Base of all errors a user can cause."""


class DataError(CellCircuitsError):
    """The cells, gene sets or tables given cannot be used."""


class ModelError(CellCircuitsError):
    """A checkpoint, dictionary or sparse autoencoder cannot be used."""


class SettingsError(CellCircuitsError):
    """A setting is unknown, contradictory or out of range."""


class RunError(CellCircuitsError):
    """A run folder is missing, damaged, foreign, or made with other settings."""


def listed(items, limit: int = 5) -> str:
    """First few items as text, with the number left out: ``a, b, c and 7 more``."""
    items = [str(item) for item in items]
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
