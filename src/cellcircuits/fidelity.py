"""What a frozen context leaves out: the same sources in the same cells, traced in both contexts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from cellcircuits.edge_calling import call_edges, statistics_of
from cellcircuits.moments import Moments
from cellcircuits.settings import EdgesSettings
from cellcircuits.tables import make_table


def fidelity(exact: Moments, frozen: Moments, settings: EdgesSettings) -> pd.DataFrame:
    """Table `fidelity` of one source layer: one row per target layer.

    Edges are called by the rule of `settings`, at the readout "source", in each context on its own.
    """
    rule = replace(settings, readout="source", unit="cell", require_specific=False)
    known = {name: statistics_of(m, rule) for name, m in (("exact", exact), ("frozen", frozen))}
    rows = []
    for layer, values in known["exact"].items():
        other = known["frozen"][layer]
        a, b = values["mean_delta"].ravel(), other["mean_delta"].ravel()
        called, found = (call_edges(v, rule).ravel() for v in (values, other))
        both, either = (called & found).sum(), (called | found).sum()
        rows.append(
            {
                "source_layer": exact.source_layer,
                "target_layer": layer,
                "n_sources": len(exact.source_features),
                "n_cells": int(exact.cells().max(initial=0)),
                "correlation": _ratio(float(np.mean((a - a.mean()) * (b - b.mean()))), float(a.std() * b.std())),
                "slope": _ratio(float(a @ b), float(a @ a)),
                "edges_exact": int(called.sum()),
                "edges_frozen": int(found.sum()),
                "recall": _ratio(both, called.sum()),
                "precision": _ratio(both, found.sum()),
                "jaccard": _ratio(both, either),
                "sign_agreement": _ratio((np.sign(a) == np.sign(b))[called].sum(), called.sum()),
            }
        )
    return make_table("fidelity", pd.DataFrame(rows))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
