"""Which distribution have the degrees of the most connected features: is the graph "scale-free"?

Degrees of one layer are fitted at a time: features of different layers reach different numbers of layers, and a mixture
of layers has a heavy tail whatever its parts have.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.findings.hubs import DIRECTIONS, degree_of
from cellcircuits.measures.tails import FEWEST_TAIL, Tail, cut_off_p, fit_tail, vuong_p
from cellcircuits.settings import FindingsSettings
from cellcircuits.tables import TABLES, make_table

TAIL_DRAWS = 200
"""Bootstrap samples behind each goodness of fit, at most."""
ALTERNATIVES = ("log_normal", "exponential", "truncated")
LEVEL = 0.05
"""p at which one family is called nearer than another."""
POOR_FIT = 0.1
"""Goodness of fit at which a power law is ruled out (Clauset, Shalizi and Newman 2009)."""
UNTOLD = "none can be told apart"
BEATEN = "not a power law; the others cannot be told apart"
PUBLISHED = (
    "Kendiukhov 2026 fits one layer (exponent 6.05, 157 features): its tail fits a power law, log-normal, exponential "
    "and truncated power law alike"
)


def ask(evidence: Evidence, settings: FindingsSettings) -> Found:
    """Table `degree_tail`, and for both directions whether a power law is nearer than other families."""
    layer, rows = evidence.features["layer"].to_numpy(), []
    fits: dict[str, list[Tail]] = {"out": [], "in": []}
    for direction in fits:
        degree = degree_of(evidence, direction)
        for here in range(evidence.n_layers):
            rng = np.random.default_rng([settings.seed, here, direction == "in"])
            tail = fit_tail(degree[(layer == here) & (degree > 0)], min(TAIL_DRAWS, settings.permutations), rng)
            if tail is not None:
                fits[direction].append(tail)
                rows.append({"direction": direction, "layer": here} | _row(tail))
    table = pd.DataFrame(rows, columns=[column.name for column in TABLES["degree_tail"]])
    answers = [answer for direction in fits for answer in _answers(direction, fits[direction])]
    return Found({"degree_tail": make_table("degree_tail", table)}, answers)


def _p_of(tails: list[Tail], family: str) -> tuple[float, float]:
    """(Mean log likelihood ratio per feature, p) of power law against `family`, all tails together."""
    total, variance = np.sum([tail.ratio(family) for tail in tails], axis=0)
    n = sum(int(tail.counts.sum()) for tail in tails)
    p = cut_off_p(total, len(tails)) if family == "truncated" else vuong_p(total, variance)
    return float(total / n), p


def best_family(tails: list[Tail]) -> str:
    """The power law if it is nearer than all others, or the alternative that is the only one to beat it."""
    signs = {}
    for family in ALTERNATIVES:
        ratio, p = _p_of(tails, family)
        signs[family] = np.sign(ratio) if p <= LEVEL else 0.0
    nearer = [family for family in ALTERNATIVES if signs[family] < 0]
    if len(nearer) == 1:
        return {"truncated": "truncated power law"}.get(nearer[0], nearer[0].replace("_", "-"))
    if nearer:
        return BEATEN
    return "power law" if signs["log_normal"] > 0 and signs["exponential"] > 0 else UNTOLD


def _row(tail: Tail) -> dict:
    row = {
        "n_features": tail.n_features,
        "x_min": tail.x_min,
        "n_tail": int(tail.counts.sum()),
        "alpha": tail.alpha,
        "distance": tail.distance,
        "fit_p": tail.fit_p,
        "best": best_family([tail]),
    }
    for family in ALTERNATIVES:
        row[f"{family}_ratio"], row[f"{family}_p"] = _p_of([tail], family)
    return row


def _asked(direction: str) -> str:
    ends = "numbers of targets of the best connected sources"
    if direction == "in":
        ends = "numbers of sources of the best connected targets"
    return f"Do the {ends} follow a power law?"


def _answers(direction: str, tails: list[Tail]) -> list[Answer]:
    asked = _asked(direction)
    if not tails:
        why = f"No layer has {FEWEST_TAIL} {DIRECTIONS[direction]} with edges of different numbers; trace more sources."
        return [untestable("degree_tail", asked, "Log likelihood ratio of power law and log-normal per feature", why)]
    n = sum(int(tail.counts.sum()) for tail in tails)
    best, (cut, cut_p) = best_family(tails), _p_of(tails, "truncated")
    told = f"All layers together: {best}."
    told += f" Cut-off of the power law: {cut:.3g} per feature, p = {cut_p:.2g}. {PUBLISHED}."
    answers = [_against(direction, tails, family, n, told) for family in ("log_normal", "exponential")]
    return [*answers, _fit_answer(direction, tails)]


def _against(direction: str, tails: list[Tail], family: str, n: int, told: str) -> Answer:
    name = family.replace("_", "-")
    ratio, p = _p_of(tails, family)
    error = 1.96 * np.sqrt(sum(tail.ratio(family)[1] for tail in tails)) / n
    nearer = f"The {'power law' if ratio > 0 else name} is nearer" if p <= LEVEL else "The two cannot be told apart"
    return Answer(
        "degree_tail",
        _asked(direction),
        f"Log likelihood ratio of power law and {name} per feature of the tail (positive: power law)",
        ratio,
        0.0,
        "both families equally near (Vuong's test); layers fitted one at a time, their ratios added",
        ratio - error,
        ratio + error,
        p,
        claim="higher",
        note=f"{nearer} on {n:,} features of {len(tails)} tails. {told}",
    )


def _fit_answer(direction: str, tails: list[Tail]) -> Answer:
    poor = sum(tail.fit_p <= POOR_FIT for tail in tails)
    interval = binomtest(poor, len(tails), POOR_FIT).proportion_ci(method="wilson")
    return Answer(
        "degree_tail",
        f"Is a power law ruled out for the tails of {'out' if direction == 'out' else 'in'}-degrees?",
        f"Share of the layers whose tail a power law does not fit (bootstrap p <= {POOR_FIT})",
        poor / len(tails),
        POOR_FIT,
        "degrees drawn from the fitted power laws, x_min and exponent fitted anew; layers taken as independent",
        interval.low,
        interval.high,
        float(binomtest(poor, len(tails), POOR_FIT, alternative="greater").pvalue),
        unit="share",
        note="A power law that is not ruled out is not shown: small tails rule out nothing.",
    )
