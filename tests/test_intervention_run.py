"""Interventions of a run, as a user asks for them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import cellcircuits as cc
from cellcircuits.cli import main
from cellcircuits.errors import CellCircuitsError
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.intervention_tables import write_interventions
from cellcircuits.interventions import dose_response, effects
from cellcircuits.progress import Progress

QUICK = {"n_features": 4, "n_cells": 30, "random_directions": 4}
EDGE = (0, 0, 1, 0)


def settings(**changes) -> InterventionSettings:
    return InterventionSettings(**{**QUICK, "experiments": ["effects", "dose_response"], **changes})


@pytest.fixture
def made(toy_run: cc.OpenRun) -> cc.OpenRun:
    write_interventions(toy_run, settings(), Progress())
    return cc.open_run(toy_run.folder)


def test_the_toy_model_does_what_it_was_built_for(made: cc.OpenRun):
    found = made.interventions.intervention_effects
    ends = set(found[["source_layer", "source_feature", "target_layer", "target_feature"]].itertuples(index=False))
    # planted edges and their chain, and nothing else
    assert ends <= {(0, 0, 1, 0), (0, 1, 2, 1), (1, 0, 2, 2), (0, 0, 2, 2)} and EDGE in ends
    doses = made.interventions.dose_response
    of_edge = doses[(doses["source_layer"] == 0) & (doses["source_feature"] == 0) & (doses["target_layer"] == 1)]
    np.testing.assert_allclose(of_edge["mean_delta"], of_edge["linear"], rtol=1e-4)
    trends = made.interventions.dose_trends.set_index(["source_layer", "source_feature", "target_layer"])
    assert trends["monotone"].all()
    driven = trends.drop(index=(0, 1, 2))  # the other edge is inhibition: its target stops at 0
    assert np.allclose(driven["of_linear"], 1, rtol=1e-4) and np.allclose(driven["rank_correlation"], 1)
    assert 0 < trends.loc[(0, 1, 2), "of_linear"] < 1 and trends.loc[(0, 1, 2), "rank_correlation"] < -0.5


def test_the_page_and_the_answers(made: cc.OpenRun):
    page = (made.path("interventions") / "report.html").read_text()
    assert "Do effects grow with the dose?" in page and "data:image/png" in page
    summary = json.loads((made.path("interventions") / "summary.json").read_text())
    assert {answer["question"] for answer in summary["answers"]} == {"effects", "dose_response"}
    assert set(made.interventions.answers["question"]) == {"effects", "dose_response"}


def test_the_same_settings_give_the_same_bytes(made: cc.OpenRun):
    before = {p.name: p.read_bytes() for p in made.path("interventions").glob("*.parquet")}
    manifest = made.manifest("interventions")
    assert manifest is not None
    (made.path("interventions") / "manifest.json").unlink()
    write_interventions(made, settings(), Progress())
    assert before == {p.name: p.read_bytes() for p in made.path("interventions").glob("*.parquet")}


def test_finished_experiments_are_kept(toy_run: cc.OpenRun, monkeypatch: pytest.MonkeyPatch):
    def stop(inputs):
        raise KeyboardInterrupt

    ask = dose_response.ask
    monkeypatch.setattr(dose_response, "ask", stop)
    with pytest.raises(KeyboardInterrupt):
        write_interventions(toy_run, settings(), Progress())
    assert toy_run.status("interventions").state == "missing"
    monkeypatch.setattr(dose_response, "ask", ask)
    monkeypatch.setattr(effects, "ask", stop)  # is not asked again
    write_interventions(toy_run, settings(), Progress())
    assert not toy_run.work_path("interventions").exists()
    monkeypatch.setattr(dose_response, "ask", stop)  # nor is what the folder holds
    write_interventions(toy_run, settings(experiments=["dose_response"]), Progress())
    with pytest.raises(KeyboardInterrupt):
        write_interventions(toy_run, settings(seed=1), Progress())


def test_named_features_and_groups(toy_run: cc.OpenRun):
    chosen = settings(
        features=["0:0", "1:0"], kind="patch", positions="all", group_by="cell_type", from_group="A", to_group="B"
    )
    write_interventions(toy_run, chosen, Progress())
    made = cc.open_run(toy_run.folder)
    assert made.manifest("interventions")["record"]["settings"]["from_group"] == "A"
    assert set(made.interventions.dose_response["source_feature"]) <= {0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ["0"]}, "layer:feature"),
        ({"features": ["7:0"]}, "has no autoencoder"),
        ({"features": ["0:99"]}, "Features of layer 0"),
        ({"features": ["2:0"]}, "is the last"),
        ({"kind": "patch"}, "from_group"),
        ({"from_group": "A"}, "group_by"),
        ({"group_by": "nothing", "from_group": "A", "kind": "mean"}, "no obs column"),
        ({"group_by": "cell_type", "to_group": "Z"}, "No cell has"),
        ({"doses": [0.5]}, "above 1"),
        ({"max_q": 2.0}, "max_q"),
        ({"experiments": []}, "must name some"),
    ],
)
def test_mistakes_are_told(toy_run: cc.OpenRun, changes: dict, message: str):
    with pytest.raises(CellCircuitsError, match=message):
        write_interventions(toy_run, settings(**changes), Progress())
    assert toy_run.status("interventions").state == "missing"


def test_the_command(toy_run: cc.OpenRun, capsys: pytest.CaptureFixture):
    folder = str(toy_run.folder)
    main(["interventions", folder, "--experiments", "effects", "--n-cells", "20", "--n-features", "2"])
    assert "Interventions: 1 tested answers" in capsys.readouterr().out
    main(["status", folder])
    assert "interventions" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["interventions", folder, "--kind", "patch"])
    assert stopped.value.code == 2
