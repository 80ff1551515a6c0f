"""Does it matter how sources are selected? Ratios at equal firing rates, beside the plain ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellcircuits.answers import Found
from cellcircuits.figures.forest import SHORT, forest, shorten
from cellcircuits.tables import empty_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(found: Found) -> dict[str, Figure]:
    """`selection`: one row per pair of runs and statistic."""
    table = found.tables.get("selection", empty_table("selection"))
    pairs = table[["first", "second"]].drop_duplicates()
    heading = "Do effects depend on how sources are selected?"
    if len(pairs) == 1 and np.isfinite(table["ratio"].iloc[0]):
        row = table.iloc[0]
        heading = (
            f"{shorten(row['first'], SHORT)} has {row['ratio']:.2f} times the edges of {shorten(row['second'], SHORT)}"
        )
    names = [
        row.statistic if len(pairs) == 1 else f"{row.first} / {row.second}: {row.statistic}"
        for row in table.itertuples()
    ]
    figure = forest(
        heading,
        "Ratio of the runs' means at equal layers and firing rates; sources of both runs are left out.",
        names,
        table["ratio"].to_numpy(),
        table["interval_low"].to_numpy(),
        table["interval_high"].to_numpy(),
        {"firing rates ignored (published)": table["plain_ratio"].to_numpy()},
        "First run / second run",
        chance=1.0,
        logarithmic=True,
    )
    return {"selection": figure}
