"""Every question that is asked of two or more runs."""

from __future__ import annotations

from cellcircuits.answers import Found
from cellcircuits.evidence import Evidence
from cellcircuits.findings import consensus, input_size, matching, selection
from cellcircuits.settings import FindingsSettings


def compare(runs: dict[str, Evidence], settings: FindingsSettings, ceiling: tuple[str, str] | None = None) -> Found:
    """Tables and answers of consensus, matching, input size and selection.

    `runs`: evidence by the name of the run, in the order in which they are reported; each needs the tables
    `feature_genes`, `sources` and `tested`. `ceiling` names two runs that are the same model with autoencoders of
    different train.seed.
    """
    found = [
        consensus.ask(runs, settings),
        matching.ask(runs, settings, ceiling),
        input_size.ask(runs, settings),
        selection.ask(runs, settings),
    ]
    tables = {name: table for part in found for name, table in part.tables.items()}
    return Found(tables, [answer for part in found for answer in part.answers])
