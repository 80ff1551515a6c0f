"""All comparisons of runs together, and their figures."""

from __future__ import annotations

from itertools import pairwise
from math import isnan

import numpy as np
import pytest

from cellcircuits.answers import Found, judge
from cellcircuits.comparison import ask_of_runs
from cellcircuits.figure_style import save_figure
from cellcircuits.figures import consensus, input_size, matching, selection
from cellcircuits.settings import FindingsSettings
from cellcircuits.tables import TABLES, check_table
from tests.several_runs import made_up_run

SETTINGS = FindingsSettings(permutations=20, match_min_cosine=0.2)
FIGURES = (consensus, matching, input_size, selection)


def compare(runs, settings, ceiling=None) -> Found:
    """All questions together."""
    found = ask_of_runs(runs, settings, ceiling).values()
    tables = {name: table for one in found for name, table in one.tables.items()}
    return Found(tables, [answer for one in found for answer in one.answers])


@pytest.fixture(scope="module")
def found() -> Found:
    runs = {"a run of the first model": made_up_run(0), "$b_1$": made_up_run(0), "c": made_up_run(1, n_layers=5)}
    return compare(runs, SETTINGS, ("a run of the first model", "$b_1$"))


def test_every_question_is_asked(found):
    assert set(found.tables) == {
        "consensus",
        "consensus_overlap",
        "held_out",
        "matching",
        "matched_features",
        "input_size",
        "input_size_curve",
        "selection",
    }
    for name, table in found.tables.items():
        assert check_table(name, table) is table and list(table) == [column.name for column in TABLES[name]]
    table = judge(found.answers, 0.05)
    assert set(table["question"]) == {"consensus", "matching", "input_size", "selection"}
    for answer in found.answers:
        assert answer.asked.endswith("?") and (isnan(answer.value) == (answer.baseline_is == "")) and answer.note
        assert isnan(answer.value) or isnan(answer.low) or answer.low <= answer.value <= answer.high


def test_one_run_and_none_say_what_is_missing():
    for runs in ({}, {"a": made_up_run(0)}):
        answers = compare(runs, SETTINGS).answers
        assert len(answers) == 4 and all(isnan(answer.value) and answer.note for answer in answers)


def test_figures_show_what_was_found(found, tmp_path):
    figures = {name: figure for module in FIGURES for name, figure in module.draw(found).items()}
    assert set(figures) == {"consensus", "held_out", "matching", "input_size", "selection"}
    for name, figure in figures.items():
        width, height = figure.get_size_inches()
        assert width <= 8 and height <= 5
        save_figure(figure, tmp_path / f"{name}.png", "foot")
    rows = found.tables["consensus_overlap"]
    line = next(line for line in figures["consensus"].axes[0].lines if line.get_label().startswith("found"))
    assert np.allclose(line.get_xdata(), rows["enrichment"][np.isfinite(rows["enrichment"])])
    assert figures["selection"].axes == [] and len(figures["input_size"].axes) == 2


def test_figures_of_nothing():
    for module in FIGURES:
        for figure in module.draw(Found()).values():
            assert figure.axes == [] and any("o" in text.get_text() for text in figure.texts)


def test_texts_of_a_figure_do_not_leave_it(found):
    for module in FIGURES:
        for figure in module.draw(found).values():
            figure.draw_without_rendering()
            right = figure.bbox.x1
            assert all(text.get_window_extent().x1 <= right for text in figure.texts)
            for axes in figure.axes:
                names = [text.get_window_extent() for text in axes.get_yticklabels() if text.get_text()]
                # labels of ticks outside of the limits are not drawn
                names = [box for box in names if axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1]
                assert names and all(box.x0 >= 0 for box in [*names, axes.yaxis.label.get_window_extent()])
                assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(names) if low.y0 < high.y0)
