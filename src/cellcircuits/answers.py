"""What a question of the report is answered with: a number, its chance baseline, its interval, and a plain verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Literal

import numpy as np
import pandas as pd

from cellcircuits.stats import benjamini_hochberg
from cellcircuits.tables import make_table

SUPPORTED = "supported"
CHANCE = "not distinguishable from chance"
OPPOSITE = "the opposite is found"
UNTESTABLE = "cannot be tested with these inputs"
DESCRIPTION = "a description, not a test"


@dataclass(frozen=True)
class Answer:
    """One line of the report. Without `value` the question could not be asked, and `note` says what is missing."""

    question: str
    """Which question of the report it belongs to: the name of the module."""
    asked: str
    """The question in one sentence, ending with a question mark."""
    statistic: str
    """What `value` is, in words."""
    value: float = nan
    baseline: float = nan
    """`value` by chance."""
    baseline_is: str = ""
    """How chance was made: what is kept, and what is permuted."""
    low: float = nan
    """Lower end of the 95 % interval of `value`."""
    high: float = nan
    p_value: float = nan
    """Of the test against the baseline; NaN for a description."""
    published: float = nan
    """The same by the published procedure, on the same inputs."""
    published_is: str = ""
    """The published statistic in words, and why it may mislead."""
    unit: str = "1"
    """"share" is printed as a percentage."""
    note: str = ""
    claim: Literal["different", "higher", "lower"] = "different"
    """What a yes to the question says of `value`, beside `baseline`; a difference to the other side is the opposite."""


def untestable(question: str, asked: str, statistic: str, note: str) -> Answer:
    """An answer that says what is missing, and what to do to have it."""
    return Answer(question, asked, statistic, note=note)


@dataclass(frozen=True)
class Found:
    """What one question found."""

    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """Declared tables (`columns/`) by name."""
    answers: list[Answer] = field(default_factory=list)


def judge(answers: list[Answer], max_q: float) -> pd.DataFrame:
    """Table `answers`: q over all tested answers of a report (Benjamini-Hochberg), and verdicts at `max_q`."""
    p = np.array([answer.p_value for answer in answers], dtype=float)
    tested = np.isfinite(p)
    q = np.full(len(p), nan)
    q[tested] = benjamini_hochberg(p[tested])
    rows = [
        vars(answer) | {"q_value": q[i], "verdict": _verdict(answer, q[i], max_q)} for i, answer in enumerate(answers)
    ]
    names = [*Answer.__dataclass_fields__, "q_value", "verdict"]
    return make_table("answers", pd.DataFrame(rows, columns=names).drop(columns="claim"))


def _verdict(answer: Answer, q: float, max_q: float) -> str:
    if not isfinite(answer.value):
        return UNTESTABLE
    if not isfinite(q):
        return DESCRIPTION
    if q > max_q:
        return CHANCE
    above = answer.value - answer.baseline
    opposite = (answer.claim == "higher" and above < 0) or (answer.claim == "lower" and above > 0)
    return OPPOSITE if opposite else SUPPORTED
