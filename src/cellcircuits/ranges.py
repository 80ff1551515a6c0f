"""Range checks of settings."""

from __future__ import annotations

from math import inf

from cellcircuits.errors import SettingsError

PROBABILITY = (0.0, 1.0)


def check_ranges(section: object, low: float, high: float, *names: str) -> None:
    """Check that these attributes of a section lie between `low` and `high`.

    Raises
    ------
    SettingsError
        Naming the first that does not (NaN lies nowhere).
    """
    for name in names:
        value = getattr(section, name)
        if not low <= value <= high:
            allowed = f"be at least {low}" if high == inf else f"lie between {low} and {high}"
            raise SettingsError(f"`{name}` must {allowed}; found {value}.")
