"""What questions found, as files: tables, figures, summary.json. The page itself is `findings_page`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from cellcircuits.answers import Found
from cellcircuits.figure_style import save_figure
from cellcircuits.findings_page import Section
from cellcircuits.tables import write_table

REPORT = "report.html"


class Topic(Protocol):
    """A question or an experiment: a section of the page."""

    @property
    def name(self) -> str:
        """Name in the table `answers`."""

    @property
    def title(self) -> str:
        """The question as a heading."""

    @property
    def paper(self) -> str:
        """Where the paper asks it, and by what name."""

    def draw(self, found: Found) -> dict[str, Any]:
        """Figures by name."""


def write_found(
    questions: Sequence[Topic], found: dict[str, Found], folder: Path, caption: str
) -> dict[str, list[Path]]:
    """Write the tables and figures of every question; returns the figures by question."""
    figures: dict[str, list[Path]] = {}
    for question in questions:
        for name, table in found[question.name].tables.items():
            write_table(name, table, folder)
        # a figure of nothing would still have a title that says something
        could_be_asked = any(isfinite(answer.value) for answer in found[question.name].answers)
        drawn = question.draw(found[question.name]) if could_be_asked else {}
        figures[question.name] = [folder / f"{name}.png" for name in drawn]
        for path, figure in zip(figures[question.name], drawn.values(), strict=True):
            save_figure(figure, path, caption)
    return figures


def sections(questions: Sequence[Topic], found: dict[str, Found], figures: dict[str, list[Path]]) -> list[Section]:
    """The questions as sections of the page."""
    return [
        Section(
            question.name, question.title, question.paper, figures[question.name], list(found[question.name].tables)
        )
        for question in questions
    ]


def summarise_answers(answers: pd.DataFrame) -> dict[str, Any]:
    """How many answers got each verdict."""
    counts = answers["verdict"].value_counts().sort_index()
    return {"verdicts": [{"verdict": str(name), "n_answers": int(count)} for name, count in counts.items()]}


def write_summary(answers: pd.DataFrame, record: dict[str, Any], folder: Path) -> None:
    """Write summary.json: the record, and every answer; what is not available is null."""
    rows = json.loads(answers.to_json(orient="records", double_precision=15))
    content = record | {"answers": rows}
    (folder / "summary.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
