"""Edges at other thresholds and from fewer cells: shares by hand, cut-offs by the t test, missing tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t, ttest_1samp

from cellcircuits.evidence import Evidence, make_evidence
from cellcircuits.figures import cell_numbers as cell_figure
from cellcircuits.figures import thresholds as threshold_figure
from cellcircuits.findings import cell_numbers, thresholds
from cellcircuits.settings import EdgesSettings, FindingsSettings
from tests.made_up_evidence import filled, made_up_evidence

SETTINGS = FindingsSettings()
SWEPT = [(snr, agreement) for snr in (0.3, 0.5, 1.0) for agreement in (0.6, 0.7)]


def swept(own: list[float], random: list[float] | None) -> pd.DataFrame:
    parts = [("own", own)] + ([("random", random)] if random else [])
    rows = [(name, *at, n) for name, values in parts for at, n in zip(SWEPT, values, strict=True)]
    return pd.DataFrame(rows, columns=["direction", "min_snr", "min_agreement", "edges"])


def signs() -> pd.DataFrame:
    return filled("signs", 2, rule=["published", "calibrated"], n_edges=[360, 600])


def test_shares_of_the_sweep():
    tables = {"sweep": swept([900, 800, 500, 400, 100, 0], [1000, 900, 450, 300, 20, 0]), "signs": signs()}
    found = thresholds.ask(made_up_evidence(**tables), SETTINGS)
    table = found.tables["thresholds"]
    assert list(zip(table["min_snr"], table["min_agreement"], strict=True)) == SWEPT
    assert table["is_rule"].tolist() == [False, False, False, True, False, False]
    assert np.allclose(table["random_ratio"][:5], [10 / 9, 9 / 8, 0.9, 0.75, 0.2]) and np.isnan(
        table["random_ratio"][5]
    )
    assert np.allclose(table["share_kept"], [2.25, 2, 1.25, 1, 0.25, 0])
    # 10 sources of each layer, 60 targets of each of six pairs of layers
    assert np.allclose(table["share_tested"], table["n_edges"] / 3600)
    answer = found.answers[0]
    assert answer.value == 400 / 3600 and answer.published == 0.1 and np.isnan(answer.baseline)
    assert set(threshold_figure.draw(found)) == {"thresholds"}


def test_sources_and_random_directions_are_of_one_context():
    controls = filled(
        "controls", 2, direction=["own", "random"], context="frozen", share_exist=[0.2, 0.3], edges_exist=[720, 1080]
    )
    tables = {"sweep": swept([900, 800, 500, 400, 100, 0], [1000, 900, 450, 300, 20, 0]), "controls": controls}
    answer = thresholds.ask(made_up_evidence(**tables), SETTINGS).answers[0]
    assert (answer.value, answer.baseline) == (0.2, 0.3) and "frozen" in answer.note
    assert "0.75 edges" in answer.note and "1 of 3 thresholds" in answer.note and "0.75 at 0.5" in answer.note


def test_the_rule_of_the_run_is_marked():
    evidence = made_up_evidence(sweep=swept([6, 5, 4, 3, 2, 1], None))
    table = thresholds.thresholds(evidence, EdgesSettings(min_snr=0.9, min_agreement=0.6))
    assert table["is_rule"].tolist() == [False] * 4 + [True, False] and table["n_random"].isna().all()
    assert "No random directions" in thresholds.ask(evidence, SETTINGS).answers[0].note


def test_the_cut_off_is_that_of_the_t_test():
    published = float(thresholds.parametric_cut_off(550_000, np.array([200]))[0])
    assert published == pytest.approx(0.392, abs=0.001)
    assert published * np.sqrt(200) == pytest.approx(5.55, abs=0.01)
    x = np.random.default_rng(0).normal(0.5, 1, 30)
    snr, p = x.mean() / x.std(ddof=1), ttest_1samp(x, 0).pvalue
    # a family in which this p is exactly the level
    cut_off = float(thresholds.parametric_cut_off(0.05 / p, np.array([30]))[0])
    assert cut_off == pytest.approx(snr)
    assert np.isinf(thresholds.parametric_cut_off(10, np.array([0, 1]))).all()


def test_edges_beyond_their_cut_off_equal_a_loop():
    evidence = made_up_evidence()
    answer = thresholds.ask(evidence, SETTINGS).answers[1]
    beyond = [
        abs(e["snr"]) * np.sqrt(e["n_cells"]) > t.isf(0.05 / 3600 / 2, e["n_cells"] - 1)
        for e in evidence.edges.to_dicts()
    ]
    assert answer.value == pytest.approx(np.mean(beyond)) and 0 < answer.value < 1
    assert answer.baseline == 0.05 / 600
    assert answer.published == pytest.approx((evidence.edges["snr"].abs() > 0.3925).mean(), abs=0.01)


def test_no_false_edge_is_beyond_the_cut_off():
    """Null effects: the chance of any edge beyond is at most 5 % of runs."""
    rng, beyond = np.random.default_rng(0), 0
    for _ in range(100):
        x = rng.normal(size=(500, 25))
        snr = np.abs(x.mean(axis=1) / x.std(axis=1, ddof=1))
        beyond += bool((snr > thresholds.parametric_cut_off(500, np.array([25]))[0]).any())
    # 5 of 100 are expected; 12 or more have a chance of 0.4 %
    assert beyond < 12


def test_without_tables():
    evidence = made_up_evidence()
    found = thresholds.ask(make_evidence(evidence.edges.head(0).drop("source", "target"), evidence.features), SETTINGS)
    assert all(np.isnan(answer.value) and answer.note for answer in found.answers)
    assert found.tables["thresholds"].empty and threshold_figure.draw(found)
    assert np.isnan(thresholds.ask(evidence, SETTINGS).answers[0].value)


# ------------------------------------------------------------------------------------------------ cell numbers


def sizes() -> pd.DataFrame:
    rows = [
        (0, 1, 40, 50, 30, 0.3),
        (0, 2, 90, 80, 70, 0.7),
        (0, 3, 120, 90, 85, 0.85),
        (0, 4, 160, 100, 100, 1.0),
        (1, 1, 30, 20, 10, 0.5),
        (1, 2, 70, 20, 20, 1.0),
    ]
    return pd.DataFrame(rows, columns=["source_layer", "n_groups", "n_cells", "n_edges", "n_kept", "recall"])


def test_layers_are_added_up():
    found = cell_numbers.ask(made_up_evidence(sample_size=sizes()), SETTINGS)
    table = found.tables["cell_numbers"]
    assert table["n_groups"].tolist() == [1, 2, 3, 4] and table["n_cells"].tolist() == [40, 90, 120, 160]
    # a layer with two groups keeps the edges of both
    assert table["n_edges"].tolist() == [70, 100, 110, 120] and table["n_kept"].tolist() == [40, 90, 105, 120]
    assert np.allclose(table["recall"], [40 / 120, 90 / 120, 105 / 120, 1])
    assert np.allclose(table["precision"], [40 / 70, 0.9, 105 / 110, 1])
    assert np.allclose(table["jaccard"], [40 / 150, 90 / 130, 105 / 125, 1])
    assert np.allclose(table["chance_recall"], table["n_edges"] / 3600)
    answer = found.answers[0]
    assert answer.value == 0.75 and answer.baseline == pytest.approx(100 / 3600)
    assert answer.published == pytest.approx(90 / 130) and "2 of 4 groups" in answer.note
    assert set(cell_figure.draw(found)) == {"cell_numbers"}


def test_chance_is_that_of_pairs_picked_at_random():
    """Of 3,600 tested pairs, as many as half of the cells give, against the edges of all cells."""
    rng = np.random.default_rng(0)
    kept = [np.isin(rng.choice(3600, 100, replace=False), np.arange(120)).sum() / 120 for _ in range(2000)]
    found = cell_numbers.ask(made_up_evidence(sample_size=sizes()), SETTINGS)
    assert found.answers[0].baseline == pytest.approx(np.mean(kept), abs=0.002)


@pytest.mark.parametrize("table", [None, sizes().head(1), sizes().assign(n_edges=0, n_kept=0)])
def test_one_group_or_no_edges(table):
    evidence = made_up_evidence(**({} if table is None else {"sample_size": table}))
    found = cell_numbers.ask(Evidence(evidence.edges, evidence.features, evidence.tables), SETTINGS)
    assert np.isnan(found.answers[0].value) and "group_by" in found.answers[0].note
    assert cell_figure.draw(found)
