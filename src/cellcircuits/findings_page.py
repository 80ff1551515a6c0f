"""The findings as one HTML page without other files: question, figure, number, chance, verdict.

Texts of the user's files reach the page through a template that escapes everything.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import pandas as pd

from cellcircuits.answers import CHANCE, DESCRIPTION, OPPOSITE, SUPPORTED, UNTESTABLE

TEMPLATES = Path(__file__).parent / "templates"
MARKS = {SUPPORTED: "✓", OPPOSITE: "✗", CHANCE: "≈", UNTESTABLE: "?", DESCRIPTION: "i"}
"""A sign beside each verdict, so that colour is not needed to tell them apart."""
KINDS = {
    SUPPORTED: "supported",
    OPPOSITE: "opposite",
    CHANCE: "chance",
    UNTESTABLE: "untestable",
    DESCRIPTION: "description",
}


@dataclass(frozen=True)
class Section:
    """One question of the page."""

    name: str
    """Name of the question in the table `answers`."""
    title: str
    """The question as a heading."""
    paper: str = ""
    """Where the paper asks it, and by what name."""
    figures: Sequence[Path] = ()
    """PNG files."""
    tables: Sequence[str] = ()
    """Names of its tables."""


def findings_page(
    title: str,
    traced: str,
    sections: Sequence[Section],
    answers: pd.DataFrame,
    provenance: dict[str, str],
    max_q: float,
) -> str:
    """The page as HTML.

    Parameters
    ----------
    title, traced
        Heading, and one line on what was traced.
    sections
        Questions in their order; those without answers are left out.
    answers
        Table `answers`.
    provenance
        What the numbers were made from, {name: value}, printed at the end.
    max_q
        Largest q of an answer that counts as supported.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [_section(section, answers) for section in sections]
    counts = answers["verdict"].value_counts()
    return environment.get_template("findings.html").render(
        title=title,
        traced=traced,
        sections=[section for section in shown if section["answers"]],
        verdicts=[(name, MARKS[name], KINDS[name], int(counts.get(name, 0))) for name in MARKS],
        n_tested=int(answers["q_value"].notna().sum()),
        provenance=provenance,
        max_q=max_q,
    )


def _section(section: Section, answers: pd.DataFrame) -> dict[str, object]:
    rows = answers[answers["question"] == section.name].to_dict("records")
    return {
        "name": section.name,
        "title": section.title,
        "paper": section.paper,
        "figures": [(_data_uri(path), path.stem.replace("_", " ")) for path in section.figures],
        "tables": list(section.tables),
        "asked": list(dict.fromkeys(row["asked"] for row in rows)),
        "answers": [_answer(row) for row in rows],
    }


def _answer(row: dict) -> dict[str, object]:
    unit = row["unit"]
    interval = ""
    if isfinite(row["low"]) and isfinite(row["high"]):
        interval = f"{number(row['low'], unit)} to {number(row['high'], unit)}"
    return {
        **{name: row[name] for name in ("asked", "statistic", "note", "baseline_is", "published_is", "verdict")},
        "mark": MARKS[row["verdict"]],
        "kind": KINDS[row["verdict"]],
        "value": number(row["value"], unit),
        "baseline": number(row["baseline"], unit),
        "published": number(row["published"], unit),
        "interval": interval,
        "p": probability(row["p_value"]),
        "q": probability(row["q_value"]),
    }


def number(value: float, unit: str) -> str:
    """A number with its unit; "" for NaN. Shares are percentages, counts are whole."""
    if not isfinite(value):
        return "" if value != value else ("∞" if value > 0 else "-∞")
    if unit == "share":
        return f"{value:.1%}" if abs(value) >= 0.001 or value == 0 else f"{100 * value:.2g}%"
    text = f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"
    return text if unit in ("1", "") else f"{text} {unit}"


def probability(value: float) -> str:
    """A p or q; "" for NaN."""
    return "" if value != value else ("< 1e-300" if value == 0 else f"{value:.2g}")


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
