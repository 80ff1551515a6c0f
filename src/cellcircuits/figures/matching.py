"""Do edges between features that are matched by their genes coincide? Shares found again, beside chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellcircuits.answers import Found
from cellcircuits.figures.forest import SHORT, forest, shorten
from cellcircuits.tables import empty_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(found: Found) -> dict[str, Figure]:
    """`matching`: one row per ordered pair of runs."""
    table = found.tables.get("matching", empty_table("matching"))
    share = table["share_found"].to_numpy()
    known = np.isfinite(share)
    heading = "Do matched features act on matched features?"
    if known.any():
        chance = np.median(table["chance_share"].to_numpy()[known])
        heading = f"{np.median(share[known]):.0%} of edges between matched features recur, by chance {chance:.0%}"
    names = [
        f"{shorten(row.first, SHORT)} in {shorten(row.second, SHORT)}{' *' if row.is_ceiling else ''}"
        for row in table.itertuples()
    ]
    figure = forest(
        heading,
        "Features matched by the genes they fire on. Chance: partners permuted at equal layer and firing rate."
        + (" *: ceiling." if table["is_ceiling"].any() else ""),
        names,
        share,
        table["interval_low"].to_numpy(),
        table["interval_high"].to_numpy(),
        {
            "all partners permuted": table["chance_share"].to_numpy(),
            "sources only": table["popularity_share"].to_numpy(),
        },
        "Share of the first run's edges that are edges of the second",
        percent=True,
    )
    return {"matching": figure}
