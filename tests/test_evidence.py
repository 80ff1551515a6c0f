"""Edges with integer codes for their ends, from memory and from disk; answers and their verdicts."""

import numpy as np
import pandas as pd
import pytest

from cellcircuits.answers import CHANCE, DESCRIPTION, SUPPORTED, UNTESTABLE, Answer, judge, untestable
from cellcircuits.evidence import feature_rows, make_evidence, scan_evidence
from cellcircuits.stats import benjamini_hochberg
from cellcircuits.tables import write_table
from tests.made_up_evidence import filled, made_up_evidence, made_up_features


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """(edges, features)."""
    evidence = made_up_evidence()
    columns = evidence.edges.drop("source", "target").to_pandas()
    return filled("edges", len(columns), **columns), evidence.features


def test_ends_are_rows_of_the_features():
    edges, features = tables()
    evidence = make_evidence(edges.sample(frac=1.0, random_state=0), features)
    assert evidence.edges.height == len(edges)
    for end in ("source", "target"):
        found = evidence.features.iloc[evidence.edges[end].to_numpy()]
        assert np.array_equal(found["layer"], evidence.edges[f"{end}_layer"].to_numpy())
        assert np.array_equal(found["feature"], evidence.edges[f"{end}_feature"].to_numpy())


def test_disk_and_memory_are_the_same(tmp_path):
    edges, features = tables()
    write_table("edges", edges, tmp_path)
    first, second = make_evidence(edges, features), scan_evidence(tmp_path / "edges.parquet", features)
    assert first.edges.equals(second.edges)


def test_an_end_that_is_no_feature_has_no_row():
    features = made_up_features(np.random.default_rng(0), 3, 10, 4)
    assert feature_rows(features, pd.Series([99, 0]), pd.Series([0, int(features["feature"][0])])).tolist() == [-1, 0]


def test_labels_are_codes():
    evidence = made_up_evidence()
    names, code = evidence.labels
    expected = evidence.features["label"].to_numpy(dtype=object)
    assert [names[c] if c >= 0 else "" for c in code] == expected.tolist()


def test_sources_are_those_ablated_or_else_those_with_edges():
    edges, features = tables()
    evidence = make_evidence(edges, features)
    assert evidence.table("sources").empty
    assert evidence.source_rows.tolist() == sorted(set(evidence.edges["source"].to_list()))
    ablated = filled("sources", 2, layer=[0, 1], feature=[3, 5])
    assert make_evidence(edges, features, sources=ablated).source_rows.tolist() == [3, 65]


def test_verdicts():
    answers = [
        Answer("a", "A?", "x", 1.0, p_value=0.001),
        Answer("a", "A?", "y", 1.0, p_value=0.04),
        Answer("b", "B?", "z", 1.0),
        untestable("c", "C?", "z", "Nothing to count."),
    ]
    table = judge(answers, 0.05)
    assert table["verdict"].tolist() == [SUPPORTED, SUPPORTED, DESCRIPTION, UNTESTABLE]
    assert np.allclose(table["q_value"][:2], benjamini_hochberg(np.array([0.001, 0.04])))
    assert judge(answers, 0.01)["verdict"].tolist()[:2] == [SUPPORTED, CHANCE]


@pytest.mark.parametrize("answers", [[], [untestable("c", "C?", "z", "Nothing.")]])
def test_reports_without_tests(answers):
    assert len(judge(answers, 0.05)) == len(answers)
