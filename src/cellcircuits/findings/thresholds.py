"""How many edges are there at other thresholds, and how many of them would any push have made?"""

from __future__ import annotations

from math import nan

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.settings import EdgesSettings, FindingsSettings
from cellcircuits.tables import TABLES, make_table

FAMILY_ERROR = 0.05
"""Chance of any false edge at the parametric cut-off (Bonferroni)."""
PUBLISHED_TESTS, PUBLISHED_CELLS = 550_000, 200
"""Tests and cells that Kendiukhov 2026 assumes for the parametric cut-off, experiment E11: |snr| of 0.392."""
ASKED = "Do the sources have more edges than random directions of the same norm?"
BEYOND_ASKED = "Would the edges survive a threshold at which not one false edge is expected?"
COUNT = "Share of the tested pairs that are edges at the run's thresholds"
BEYOND = "Share of the edges with an |snr| above their parametric cut-off"


def ask(evidence: Evidence, settings: FindingsSettings, rule: EdgesSettings | None = None) -> Found:
    """Table `thresholds`, the edges of sources beside those of random directions, and the parametric cut-off.

    `rule` are the settings by which the edges were called; without it the defaults.
    """
    table = thresholds(evidence, rule or EdgesSettings())
    return Found({"thresholds": table}, [_count_answer(evidence, table), _cut_off_answer(evidence)])


def thresholds(evidence: Evidence, rule: EdgesSettings) -> pd.DataFrame:
    """Table `thresholds`, from the tables `sweep` and `tested`."""
    sweep, keys = evidence.table("sweep"), ["min_snr", "min_agreement"]
    if sweep.empty:
        return make_table("thresholds", pd.DataFrame(columns=[column.name for column in TABLES["thresholds"]]))
    own, random = (sweep[sweep["direction"] == name].set_index(keys)["edges"] for name in ("own", "random"))
    table = own.rename("n_edges").to_frame().join(random.rename("n_random")).sort_index().reset_index()
    n_tested = evidence.table("tested")["n_tested"].sum()
    far = (table["min_snr"] - rule.min_snr).abs() + (table["min_agreement"] - rule.min_agreement).abs()
    table["is_rule"] = np.arange(len(table)) == int(far.to_numpy().argmin())
    table["random_ratio"] = _share(table["n_random"], table["n_edges"])
    table["share_tested"] = table["n_edges"] / n_tested if n_tested else nan
    table["share_kept"] = _share(table["n_edges"], table.loc[table["is_rule"], "n_edges"].iloc[0])
    return make_table("thresholds", table)


def _share(part: pd.Series, whole: pd.Series | float) -> np.ndarray:
    """part / whole, NaN where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=float), np.asarray(whole, dtype=float))
    return np.divide(part, whole, out=np.full(part.shape, nan), where=whole > 0)


def parametric_cut_off(n_tests: float, n_cells: np.ndarray) -> np.ndarray:
    """Least |snr| that a two-sided one-sample t test takes at FAMILY_ERROR / n_tests, for each number of cells.

    |mean / sd| = t / sqrt(n) with n - 1 degrees of freedom; infinite for fewer than two cells.
    """
    n = np.asarray(n_cells, dtype=float)
    t = scipy_stats.t.isf(FAMILY_ERROR / (2 * max(n_tests, 1)), np.maximum(n - 1, 1))
    return np.where(n >= 2, t / np.sqrt(np.maximum(n, 1)), np.inf)


def _count_answer(evidence: Evidence, table: pd.DataFrame) -> Answer:
    n_tested = evidence.table("tested")["n_tested"].sum()
    if table.empty or n_tested == 0:
        why = "The run has no table sweep, or nothing was tested; run the stage edges again."
        return untestable("thresholds", ASKED, COUNT, why)
    used, signs = table[table["is_rule"]].iloc[0], evidence.table("signs")
    published = signs.loc[signs["rule"] == "published", "n_edges"]
    value, baseline, context = _controlled(evidence, used)
    note = "No random directions were traced; set trace.random_directions to have a baseline."
    if not np.isnan(baseline):
        note = f"Both traced in the {context} context. {_sweep_note(table, used)}"
    return Answer(
        "thresholds",
        ASKED,
        COUNT,
        value,
        baseline,
        "a fixed random direction of the same norm removed at the same positions, mean over directions",
        published=float(published.iloc[0] / n_tested) if len(published) else nan,
        published_is="edges of the published rule, which asks for no q and counts cells without response as negative",
        unit="share",
        note=note,
    )


def _controlled(evidence: Evidence, used: pd.Series) -> tuple[float, float, str]:
    """(Share of sources, share of random directions, context): both in one context if the run has the table controls.

    The sweep is of the sources as they were traced; the controls may have been traced in another context.
    """
    controls = evidence.table("controls").set_index("direction")
    if {"own", "random"} <= set(controls.index):
        own, random = controls.loc["own"], controls.loc["random"]
        return float(own["share_exist"]), float(random["share_exist"]), str(own["context"])
    return float(used["share_tested"]), nan, ""


def _sweep_note(table: pd.DataFrame, used: pd.Series) -> str:
    """Where along the sweep of |snr| sources have more edges than random directions."""
    same = table[table["min_agreement"] == used["min_agreement"]]
    more = same[(same["random_ratio"] < 1) & (same["n_edges"] > 0)]
    start = (
        f"Thresholds: at |snr| > {used['min_snr']:g} and agreement >= {used['min_agreement']:g}, random directions "
        f"make {used['random_ratio']:.2f} edges for each of the sources as traced. "
    )
    if more.empty:
        return start + "At no threshold of |snr| do sources have more edges: that an edge exists says nothing special."
    best = more.loc[more["random_ratio"].idxmin()]
    return (
        start + f"Sources have more at {len(more)} of {len(same)} thresholds of |snr|; the least ratio is "
        f"{best['random_ratio']:.2f} at {best['min_snr']:g} ({best['n_edges']:,.0f} edges)."
    )


def _cut_off_answer(evidence: Evidence) -> Answer:
    n_tested, edges = float(evidence.table("tested")["n_tested"].sum()), evidence.edges
    if n_tested == 0 or edges.height == 0 or "n_cells" not in edges.columns:
        why = "No edges, or nothing was tested; look at the table tested, and trace more cells."
        return untestable("thresholds", BEYOND_ASKED, BEYOND, why)
    cells, place = np.unique(edges["n_cells"].to_numpy(), return_inverse=True)
    cut_off = parametric_cut_off(n_tested, cells)
    strength = np.abs(edges["snr"].to_numpy())
    published = float(parametric_cut_off(PUBLISHED_TESTS, np.array([PUBLISHED_CELLS]))[0])
    middle = float(np.median(cut_off[place]))
    return Answer(
        "thresholds",
        BEYOND_ASKED,
        BEYOND,
        float((strength > cut_off[place]).mean()),
        min(1.0, FAMILY_ERROR / edges.height),
        f"at most {FAMILY_ERROR} false edges expected among all tested pairs (Bonferroni), as a share of the edges",
        published=float((strength > published).mean()),
        published_is=f"share of the edges with |snr| > {published:.3f}: {PUBLISHED_TESTS:,} tests and "
        f"{PUBLISHED_CELLS} cells for all; a source that is active in few cells needs more",
        unit="share",
        note=f"{n_tested:,.0f} tested pairs; median cut-off |snr| > {middle:.3f}. It bounds edges that differ from no "
        "effect by chance, not edges that any push would make.",
    )
