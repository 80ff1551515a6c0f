"""The page of the findings and the comparison of runs: what they show, and that nothing on them is markup."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from math import nan

import pandas as pd
import pytest

from cellcircuits.answers import CHANCE, OPPOSITE, SUPPORTED, UNTESTABLE, Answer, judge, untestable
from cellcircuits.cli import main
from cellcircuits.comparison import compare_runs
from cellcircuits.errors import CellCircuitsError, RunError, SettingsError
from cellcircuits.findings_page import Section, findings_page, number, probability
from cellcircuits.findings_report import REPORT
from cellcircuits.pipeline import run_pipeline
from cellcircuits.progress import Progress
from cellcircuits.questions import COMPARISONS, QUESTIONS
from cellcircuits.run import create_run
from cellcircuits.settings import FindingsSettings
from cellcircuits.tables import FINDINGS, TABLES, check_table, read_table

EVIL = '<script>alert("x")</script> & "quotes"'
ANSWERS = [
    Answer(
        "hubs", "Few?", "share", 0.42, 0.2, "permuted", 0.38, 0.46, 0.001, 0.5, "cut at 50", unit="share", note=EVIL
    ),
    Answer("attenuation", "Far?", "correlation", -0.2, 0.0, low=-0.3, high=0.1, p_value=0.4),
    untestable("disease", "Central?", "odds ratio", "Give gene sets."),
]


class Tags(HTMLParser):
    """Names of all elements, their addresses and the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.names, self.addresses, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += f" {data}"


def page(answers=ANSWERS, title="Findings", figures=()) -> Tags:
    sections = [Section(a.question, f"About {a.question}", "E12", figures, [a.question]) for a in answers]
    tags = Tags()
    tags.feed(findings_page(title, "traced", sections, judge(answers, 0.05), {"model": EVIL}, 0.05))
    return tags


def test_numbers_stand_beside_chance():
    text = " ".join(page().text.split())
    assert (
        "share value 42.0% by chance 20.0% 95 % interval 38.0% to 46.0% p 0.001 q over the page 0.002 "
        "as published 50.0%" in text
    )
    for verdict in (SUPPORTED, CHANCE, UNTESTABLE):
        assert f"1 {verdict}" in text
    assert "odds ratio: not available. Give gene sets." in text


@pytest.mark.parametrize(
    ("claim", "value", "p", "verdict"),
    [
        ("higher", 0.37, 0.001, SUPPORTED),
        ("higher", 0.33, 0.001, OPPOSITE),
        ("higher", 0.33, 0.4, CHANCE),
        ("lower", 0.33, 0.001, SUPPORTED),
        ("lower", 0.37, 0.001, OPPOSITE),
        ("different", 0.33, 0.001, SUPPORTED),
        ("different", 0.37, 0.001, SUPPORTED),
    ],
)
def test_a_difference_to_the_other_side_is_no_support(claim, value, p, verdict):
    found = judge([Answer("effects", "More?", "share", value, 0.35, p_value=p, claim=claim)], 0.05)
    assert found["verdict"].tolist() == [verdict]


def test_texts_are_no_markup():
    tags = page(title=EVIL)
    assert "script" not in tags.names
    assert tags.text.count('<script>alert("x")</script>') == 4  # title, heading, note, provenance


def test_the_page_needs_no_other_file(tmp_path):
    picture = tmp_path / "a_b.png"
    picture.write_bytes(b"\x89PNG")
    addresses = page(figures=[picture]).addresses
    assert any(address.startswith("data:image/png;base64,") for address in addresses)
    assert all(address.startswith(("data:", "#")) for address in addresses)


def test_questions_without_answers_are_left_out():
    sections = [Section("hubs", "Hubs"), Section("novelty", "Novelty")]
    html = findings_page("t", "t", sections, judge(ANSWERS[:1], 0.05), {}, 0.05)
    assert 'id="hubs"' in html and "Novelty" not in html


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.5234, "share", "52.3%"),
        (0.0004, "share", "0.04%"),
        (0.0, "share", "0.0%"),
        (1234.0, "1", "1,234"),
        (0.123456, "1", "0.123"),
        (2.5, "layers", "2.5 layers"),
        (nan, "1", ""),
        (float("inf"), "1", "∞"),
    ],
)
def test_numbers_as_text(value, unit, text):
    assert number(value, unit) == text


def test_probabilities_as_text():
    assert [probability(p) for p in (nan, 0.0, 0.0123)] == ["", "< 1e-300", "0.012"]


def test_every_question_has_a_table_and_a_name_in_the_paper():
    for question in (*QUESTIONS, *COMPARISONS):
        assert question.name in TABLES and question.paper and question.title.endswith("?")
    names = [question.name for question in QUESTIONS]
    assert names.index("gene_pairs") < names.index("screens")  # whose predictions it checks
    assert set(names) <= set(FINDINGS)


def test_the_stage_writes_page_answers_and_summary(toy_run):
    folder = toy_run.path("findings")
    answers = read_table("answers", folder)
    asked = {question.name for question in QUESTIONS if not question.control}
    assert set(answers["question"]) == asked
    summary = json.loads((folder / "summary.json").read_text())
    assert sum(row["n_answers"] for row in summary["verdicts"]) == len(answers) == len(summary["answers"])
    html = (folder / REPORT).read_text()
    for question in QUESTIONS:
        assert (f'id="{question.name}"' in html) == (question.name in asked)
    for path in folder.glob("*.parquet"):
        check_table(path.stem, read_table(path.stem, folder))


def test_all_asks_the_controls_too(toy_run, capsys):
    main(["findings", str(toy_run.folder), "--all", "--permutations", "20"])
    answers = read_table("answers", toy_run.path("findings"))
    assert set(answers["question"]) == {question.name for question in QUESTIONS}
    # the toy run has no groups of cells
    groups = answers[answers["question"].isin(["tissues", "cell_types"])]
    assert set(groups["verdict"]) == {UNTESTABLE} and groups["note"].str.contains("group_by").all()


def test_compare_writes_a_page_and_prints_it(toy_run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(toy_run.folder, other)
    out = tmp_path / "comparison"
    for _ in range(2):  # the second replaces the first
        main(["compare", str(toy_run.folder), str(other), "--out", str(out), "--permutations", "20"])
    printed = " ".join(capsys.readouterr().out.split())
    answers = read_table("answers", out)
    assert set(answers["question"]) == {question.name for question in COMPARISONS}
    assert "the page says what is missing" in printed
    html = (out / REPORT).read_text()
    assert re.findall(r'<section id="(\w+)"', html) == [*(question.name for question in COMPARISONS), "methods"]
    assert not list(tmp_path.glob(".*"))
    overlap = read_table("consensus_overlap", out)
    assert (overlap["n_shared"] == overlap["n_first"]).all()  # a run and its copy


def test_comparisons_that_cannot_be(toy_run, tmp_path):
    with pytest.raises(SettingsError, match="two runs or more"):
        compare_runs([toy_run.folder], tmp_path / "c", FindingsSettings())
    twin = tmp_path / "elsewhere" / toy_run.folder.name
    shutil.copytree(toy_run.folder, twin)
    with pytest.raises(SettingsError, match="told apart"):
        compare_runs([toy_run.folder, twin], tmp_path / "c", FindingsSettings())
    twin = twin.rename(tmp_path / "other")
    kept = tmp_path / "mine"
    kept.mkdir()
    (kept / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="something else"):
        compare_runs([toy_run.folder, twin], kept, FindingsSettings(permutations=20))
    assert [path.name for path in kept.iterdir()] == ["thesis.txt"]
    assert not (tmp_path / "c").exists()


def test_files_that_the_questions_need_are_missed_before_anything_runs(toy_settings, tmp_path):
    screen = {"path": str(tmp_path / "no.h5ad"), "control": "NT", "perturbation_column": "gene"}
    for place, findings in enumerate(({"screens": [screen]}, {"disease_sets": [str(tmp_path / "no.gmt")]})):
        run = create_run(tmp_path / f"run{place}", toy_settings(findings=findings))
        with pytest.raises(CellCircuitsError, match=r"no\.(h5ad|gmt)"):
            run_pipeline(run, Progress())
        assert run.status("cells").state == "missing"


def test_tables_that_were_not_written_are_empty(toy_run):
    assert toy_run.findings.responses.empty and list(toy_run.findings.answers) == [c.name for c in TABLES["answers"]]
    with pytest.raises(AttributeError, match="no table"):
        _ = toy_run.findings.no_such_table


def test_judged_answers_are_a_declared_table():
    assert isinstance(check_table("answers", judge(ANSWERS, 0.05)), pd.DataFrame)
