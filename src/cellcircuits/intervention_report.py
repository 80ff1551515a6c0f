"""The interventions of a run for the terminal: every answer, then the strongest rows of each experiment."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from cellcircuits.findings_page import number, probability
from cellcircuits.opened import Interventions
from cellcircuits.report import print_answers

SHOWN = 6
"""Rows of each table that are printed."""


def print_interventions(found: Interventions, page: Path, console: Console) -> None:
    """Answers, a dose response, interactions, output effects, the curve of faithfulness: those that were asked."""
    print_answers(found.answers, page, console, "Interventions")
    for table in (_doses(found), _interactions(found), _outputs(found), _faithfulness(found)):
        if table is not None:
            console.print(table)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place == 0 else "right")
    return table


def _doses(found: Interventions) -> Table | None:
    """The edges with the clearest trend, one row each."""
    ends = ["source_layer", "source_feature", "target_layer", "target_feature"]
    trends, doses = found.dose_trends, found.dose_response
    if trends.empty:
        return None
    clearest = trends.assign(size=trends["rank_correlation"].abs()).nlargest(SHOWN, ["size", "n_cells"])
    factors = sorted(doses["dose"].unique())
    table = _table("Dose response: effect (straight line through removal)", "edge", *(f"x {d:g}" for d in factors))
    for row in clearest.to_dict("records"):
        mine = doses.merge(pd.DataFrame([row])[ends], on=ends).sort_values("dose")
        values = [f"{x.mean_delta:.2f} ({x.linear:.2f})" for x in mine.itertuples()]
        table.add_row("L{} F{} to L{} F{}".format(*(row[end] for end in ends)), *values)
    return table


def _interactions(found: Interventions) -> Table | None:
    """The largest interactions of the activation."""
    rows = found.group_interactions
    rows = rows[rows["readout"] == "source"]
    if rows.empty:
        return None
    heading = "Interactions: effect of all together beside the sum of each alone"
    table = _table(heading, "changed", "target", "together", "expected", "difference", "q")
    largest = rows.assign(size=rows["epsilon"].abs()).nlargest(SHOWN, ["size", "n_cells"])
    for row in largest.to_dict("records"):
        values = (f"{row[name]:.3f}" for name in ("joint", "expected", "epsilon"))
        target = f"L{row['target_layer']} F{row['target_feature']}"
        table.add_row(f"{row['members']} ({row['panel']})", target, *values, probability(row["q_value"]))
    return table


def _outputs(found: Interventions) -> Table | None:
    """The genes whose output responds most, those beyond random directions first."""
    rows = found.output_effects
    if rows.empty:
        return None
    heading = "Effects on the model's output for a gene"
    table = _table(heading, "changed", "gene", "change", "before", "cells", "q", "beyond random directions")
    order = rows.assign(size=rows["snr"].abs()).sort_values(["specific", "size"], ascending=False)
    for row in order.head(SHOWN).to_dict("records"):
        source = f"L{row['source_layer']} F{row['source_feature']}"
        values = f"{row['mean_delta']:.2f}", f"{row['clean']:.2f}", str(row["n_cells"]), probability(row["q_value"])
        table.add_row(source, row["symbol"], *values, "yes" if row["specific"] else "no")
    table.caption = f"{int(rows['specific'].sum()):,} of {len(rows):,} responding pairs are beyond random directions."
    return table


def _faithfulness(found: Interventions) -> Table | None:
    """Share of what the model knows about hidden genes, by size of the circuit."""
    rows = found.faithfulness
    if rows.empty:
        return None
    heading = "Circuits: share of the masked-gene loss (random circuits of equal size and firing rates)"
    table = _table(heading, "features", "kept alone", "p", "lost by removal", "p")
    for size, part in rows.groupby("size"):
        cells = [str(size)]
        for kind in ("keep", "remove"):
            for row in part[part["kind"] == kind].to_dict("records"):
                cells += [f"{number(row['share'], 'share')} ({number(row['random_mean'], 'share')})"]
                cells += [probability(row["p_value"])]
        table.add_row(*cells)
    return table
