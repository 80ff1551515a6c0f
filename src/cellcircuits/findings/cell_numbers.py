"""How many cells do edges need? Edges called from fewer cells that are also edges of all cells."""

from __future__ import annotations

from math import nan

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.settings import FindingsSettings
from cellcircuits.tables import TABLES, make_table

ASKED = "Are the edges of fewer cells those of all cells?"
STATISTIC = "Recall: edges of all cells that about half of the groups already give"
CHANCE = "as many of the tested pairs picked at random"


def ask(evidence: Evidence, settings: FindingsSettings) -> Found:
    """Table `cell_numbers`, and the recall of about half of the groups of cells."""
    table = cell_numbers(evidence)
    return Found({"cell_numbers": table}, [_answer(table)])


def cell_numbers(evidence: Evidence) -> pd.DataFrame:
    """Table `cell_numbers`: the table `sample_size` with all source layers together.

    Layers with fewer groups than others keep the edges of all their groups.
    """
    table = evidence.table("sample_size")
    names = [column.name for column in TABLES["cell_numbers"]]
    if table.empty:
        return make_table("cell_numbers", pd.DataFrame(columns=names))
    wide = table.pivot(index="n_groups", columns="source_layer", values=["n_cells", "n_edges", "n_kept"]).ffill()
    rows = pd.DataFrame(
        {
            "n_cells": wide["n_cells"].max(axis=1),
            "n_edges": wide["n_edges"].sum(axis=1),
            "n_kept": wide["n_kept"].sum(axis=1),
        }
    ).reset_index()
    everything, n_tested = rows["n_edges"].iloc[-1], evidence.table("tested")["n_tested"].sum()
    either = rows["n_edges"] + everything - rows["n_kept"]
    rows["recall"] = rows["n_kept"] / everything if everything else nan
    rows["precision"] = rows["n_kept"] / rows["n_edges"].where(rows["n_edges"] > 0)
    rows["chance_recall"] = rows["n_edges"] / n_tested if n_tested else nan
    rows["jaccard"] = rows["n_kept"] / either.where(either > 0)
    return make_table("cell_numbers", rows)


def _answer(table: pd.DataFrame) -> Answer:
    if len(table) < 2 or np.isnan(table["recall"]).all():
        why = "Cells were traced in one group, or no edge was called; set trace.group_by to a column with groups."
        return untestable("cell_numbers", ASKED, STATISTIC, why)
    everything = table.iloc[-1]
    half = table.iloc[:-1].iloc[(table["n_groups"].iloc[:-1] - everything["n_groups"] / 2).abs().argmin()]
    return Answer(
        "cell_numbers",
        ASKED,
        STATISTIC,
        half["recall"],
        half["chance_recall"],
        CHANCE,
        published=half["jaccard"],
        published_is="Jaccard index with the edges of all cells, which are in part the same cells",
        unit="share",
        note=f"{int(half['n_groups'])} of {int(everything['n_groups'])} groups, at most {int(half['n_cells']):,} of "
        f"{int(everything['n_cells']):,} cells of a source. Of the edges called from them, "
        f"{100 * half['precision']:.0f} % are edges of all cells. The cells are part of all cells, so this bounds "
        "agreement with new cells from above.",
    )
