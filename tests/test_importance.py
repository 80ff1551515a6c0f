"""Hubs beside other features: known importance, slow versions, the published statistic, and the null."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu, ttest_rel

import cellcircuits as cc
from cellcircuits.errors import SettingsError
from cellcircuits.figures import importance as figure
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.intervention_tables import write_interventions
from cellcircuits.interventions import importance
from cellcircuits.masking import draw_masks
from cellcircuits.models.planted import planted
from cellcircuits.progress import Progress
from tests.known_task import known_inputs

pytestmark = pytest.mark.usefixtures("one_thread")


def hub_edges(hubs: list[int], n: int = 3) -> list[tuple[int, int, int, int, float]]:
    return [(0, hub, 1, target, 1.0) for hub in hubs for target in range(n)]


def test_hubs_that_matter_are_found():
    hubs = [1, 3, 4, 8, 11, 17]
    weights = np.zeros(24)
    weights[hubs] = 1
    found = importance.ask(known_inputs(weights, hub_edges(hubs), n_cells=12, importance_controls=2))
    table, (answer,) = found.tables["importance"], found.answers
    assert sorted(set(table["hub"])) == hubs and not set(table["control"]) & set(hubs)
    assert (table["n_cells"] == 12).all() and (table["hub_edges"] == 3).all() and (table["control_edges"] == 0).all()
    assert (table["mean_hub"] > 0).all() and np.allclose(table["mean_control"], 0)
    assert answer.value == pytest.approx(table["mean_hub"].mean()) and answer.p_value == pytest.approx(2 / 2**6)
    assert answer.low > 0 and (table["q_value"] < 0.05).all()
    assert set(figure.draw(found)) == {"importance"}


def test_changes_are_those_of_a_slow_version():
    inputs = known_inputs(np.linspace(0, 2, 8), hub_edges([2]), n_cells=4, importance_controls=1, min_cells=2)
    (row,) = importance.ask(inputs).tables["importance"].itertuples()
    model, cells = inputs.model, inputs.cells
    masks = draw_masks(cells, 0.15, 0)
    changes = []
    for number in range(len(cells)):
        cell = cells.take([number])
        at = masks[number : number + 1, : cell.ids.shape[1]]
        masked = model.mask(cell, at)
        losses = []
        for removed in (None, row.hub, row.control):
            hidden = model.embed(masked)
            if removed is not None:
                hidden[..., removed] = 0
            *_, (_, last) = model.run_layers(hidden, masked, 0, 2)
            losses.append(float(model.masked_loss(last, cell, at)[0]))
        changes.append([losses[1] - losses[0], losses[2] - losses[0]])
    hub, control = np.array(changes).T
    assert row.mean_hub == pytest.approx(hub.mean(), rel=1e-6)
    assert row.mean_control == pytest.approx(control.mean(), rel=1e-6)
    assert row.p_value == pytest.approx(ttest_rel(hub, control).pvalue, rel=1e-5)


def test_paired_statistics():
    rng = np.random.default_rng(0)
    hub, control = rng.normal(size=(2, 30, 4))
    hub[rng.random(hub.shape) < 0.3] = np.nan
    control[rng.random(hub.shape) < 0.3] = np.nan
    control[:, 3] = np.nan
    found = importance.paired(hub, control)
    for pair in range(3):
        both = ~np.isnan(hub[:, pair]) & ~np.isnan(control[:, pair])
        expected = ttest_rel(hub[both, pair], control[both, pair])
        assert found["n_cells"][pair] == both.sum()
        assert found["difference"][pair] == pytest.approx((hub - control)[both, pair].mean())
        assert found["p_value"][pair] == pytest.approx(expected.pvalue)
        interval = expected.confidence_interval()
        assert (found["low"][pair], found["high"][pair]) == pytest.approx((interval.low, interval.high))
    assert found["n_cells"][3] == 0 and found["p_value"][3] == 1 and found["difference"][3] == 0


def test_which_cells_a_feature_is_active_in_is_no_effect():
    """The published statistic sees an effect where the hub is merely active in cells that are hard to predict."""
    clean = np.array([1.0, 1.0, 1.0, 5.0, 5.0, 5.0])
    rise = np.zeros((6, 3))
    rise[:3, 0] = np.nan
    difference, p = importance.as_published(rise, clean, np.array([0]), np.array([1, 2]))
    assert difference == pytest.approx(2) and p == pytest.approx(mannwhitneyu([2.0], [0.0, 0.0]).pvalue)
    assert importance.paired(rise[:, [0]], rise[:, [1]])["difference"] == 0
    assert np.isnan(importance.as_published(rise * np.nan, clean, np.array([0]), np.array([1]))).all()


def test_where_hubs_are_like_others_p_is_uniform():
    p = []
    for seed in range(30):
        rng = np.random.default_rng([seed, 9])
        hubs = sorted(rng.choice(24, 7, replace=False).tolist())
        inputs = known_inputs(rng.exponential(size=24), hub_edges(hubs), seed, n_cells=6, min_cells=5)
        p.append(importance.ask(inputs).answers[0].p_value)
    # at most 5 of 30 are below 0.05 with a probability above 0.99
    assert np.sum(np.array(p) <= 0.05) <= 5 and abs(np.mean(p) - 0.5) < 0.15


def test_controls_are_used_once_and_fire_as_often():
    features = pd.DataFrame({"layer": [0] * 8 + [1] * 4, "feature": [*range(8), *range(4)]})
    features["firing_rate"] = [0.5, 0.1, 0.45, 0.12, 0.09, 0.55, 0.3, 0.0, 0.2, 0.3, 0.0, 0.0]
    features["n_firings"] = (1000 * features["firing_rate"]).astype(int)
    found = importance.matched_controls([(0, 0), (0, 1), (1, 0)], features, 2)
    pairs = set(found[["layer", "hub", "control"]].itertuples(index=False, name=None))
    assert pairs == {(0, 0, 2), (0, 0, 5), (0, 1, 3), (0, 1, 4), (1, 0, 1)}
    assert not found.duplicated(["layer", "control"]).any()
    assert found.loc[found["control"] == 3, "control_rate"].item() == 0.12


def test_what_cannot_be_tested_is_said():
    weights = np.ones(6)
    assert "No source has an edge" in importance.ask(known_inputs(weights, [])).answers[0].note
    all_hubs = known_inputs(weights, hub_edges(list(range(6))))
    assert "no controls" in importance.ask(all_hubs).answers[0].note
    few = importance.ask(known_inputs(weights, hub_edges([1]), n_cells=5, min_cells=10))
    assert "min_cells = 10" in few.answers[0].note and np.isnan(few.answers[0].value)
    headless = known_inputs(weights, hub_edges([1]))
    headless.__dict__["model"] = planted("direct", n_cells=2).model
    assert "no output head" in importance.ask(headless).answers[0].note


def test_named_features_take_the_place_of_hubs():
    found = importance.ask(known_inputs(np.ones(8), hub_edges([1]), features=["0:5"], n_cells=12))
    assert set(found.tables["importance"]["hub"]) == {5} and "named features" in found.answers[0].note


def test_a_run(toy_run: cc.OpenRun):
    chosen = InterventionSettings(experiments=["importance"], n_cells=20)
    write_interventions(toy_run, chosen, Progress())
    made = cc.open_run(toy_run.folder)
    before = (made.path("interventions") / "importance.parquet").read_bytes()
    assert (
        np.isfinite(made.interventions.answers["value"]).all()
        and (made.interventions.importance["hub_edges"] > 0).all()
    )
    (made.path("interventions") / "manifest.json").unlink()
    write_interventions(made, chosen, Progress())
    assert before == (made.path("interventions") / "importance.parquet").read_bytes()


@pytest.mark.parametrize("changes", [{"importance_hubs": 1}, {"importance_controls": 0}])
def test_settings_are_checked(changes: dict):
    with pytest.raises(SettingsError, match=next(iter(changes))):
        InterventionSettings(**changes)
