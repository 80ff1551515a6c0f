"""Linear readouts of the last layer, and what features do to them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression, Ridge

import cellcircuits as cc
from cellcircuits.errors import CellCircuitsError
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.intervention_tables import write_interventions
from cellcircuits.interventions import probes
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.interventions.outputs import measure_outputs
from cellcircuits.interventions.probe_effects import ask_probes
from cellcircuits.interventions.probes import Readouts, learn, log_odds, make_readouts
from cellcircuits.models.toy import ToyModel
from cellcircuits.progress import Progress
from cellcircuits.settings import settings_from_dict
from cellcircuits.tokens import Tokens

pytestmark = pytest.mark.usefixtures("one_thread")

GENES_OF = {"A": range(0, 14), "B": range(10, 24), "C": range(20, 34)}


def labelled_cells(n_cells: int = 160) -> Tokens:
    """Cells whose label says from which genes theirs are drawn; `time` is the share of the first five genes."""
    rng = np.random.default_rng(0)
    labels = np.array(list(GENES_OF))[np.arange(n_cells) % 3]
    chosen = [rng.choice(list(GENES_OF[label]), 9, replace=False) for label in labels]
    ids = np.array([[2, *(4 + genes)] for genes in chosen], dtype=np.int32)
    names = np.array([""] * 4 + [f"GENE{i}" for i in range(40)])
    obs = pd.DataFrame(
        {
            "kind": labels,
            "time": [(genes < 5).mean() + 1e-3 * i / n_cells for i, genes in enumerate(chosen)],
            "coin": rng.permutation(labels),
        },
        index=[f"c{i}" for i in range(n_cells)],
    )
    return Tokens(ids, ids >= 4, None, 0, names, names, obs)


def inputs_of(cells: Tokens, **changes) -> Inputs:
    """Inputs of the toy model and of no run folder."""
    model = ToyModel()
    settings = settings_from_dict({"model": {"family": "toy"}, "cells": {"data": "x"}})
    run = SimpleNamespace(cells=cells, settings=settings, feature_genes=None)
    chosen = {"n_cells": 20, "min_cells": 5, "output_control_cells": 0, "random_directions": 4, **changes}
    made = Inputs(run, InterventionSettings(**chosen), Progress())
    vars(made).update(model=model, saes=model.saes(), sources=[(0, 0), (0, 2), (1, 3)])
    return made


def test_readouts_are_learnt_from_cells_without_interventions(monkeypatch: pytest.MonkeyPatch):
    cells = labelled_cells()
    inputs = inputs_of(cells, probe_columns=["kind", "time"], probe_cells=90)
    rows = probes.training_rows(inputs)
    assert len(rows) == 90 and not set(rows) & set(inputs.cell_rows)
    embedding = probes.embed_cells(inputs, rows)
    for number in (0, 17, 50):  # one cell alone, position by position
        cell = cells.take([rows[number]])
        *_, (_, hidden) = inputs.model.run_layers(inputs.model.embed(cell), cell, 0, 3)
        by_hand = np.mean([hidden[0, p].numpy() for p in range(10) if cell.gene_mask[0, p]], axis=0)
        np.testing.assert_allclose(embedding[number], by_hand, rtol=1e-4, atol=1e-5)
    _, table, missing = make_readouts(inputs)
    assert table["used"].all() and not missing and (table["n_train"] + table["n_held_out"] == 90).all()
    assert (table["score"] > [0.85, 0.5]).all()


def test_probes_say_what_scikit_learn_says():
    cells = labelled_cells()
    inputs = inputs_of(cells)
    embedding, obs = probes.embed_cells(inputs, np.arange(len(cells))), cells.obs
    for labels in (["A", "B", "C"], ["A", "B"]):
        rows = np.flatnonzero(obs["kind"].isin(labels))
        probe, row = learn("kind", obs["kind"].iloc[rows], embedding[rows], 20.0, 0)
        order = np.random.default_rng([0, 3]).permutation(len(rows))
        order = order[np.argsort(obs["kind"].to_numpy()[rows][order], kind="stable")]
        held_out = order[3::4]
        train = np.setdiff1d(np.arange(len(rows)), held_out)
        mean, sd = embedding[rows][train].mean(axis=0), embedding[rows][train].std(axis=0)
        u = (embedding[rows] - mean) / np.where(sd > 0, sd, 1)
        y = obs["kind"].to_numpy()[rows]
        model = LogisticRegression(C=1 / 20, max_iter=5000).fit(u[train], y[train])
        p = model.predict_proba(u)
        found = Readouts([probe]).values(embedding[rows], np.zeros((len(rows), 9)), np.zeros(9))
        n = len(labels)
        np.testing.assert_allclose(found[:, :n], np.log(p / (1 - p)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[:, n:], p, atol=1e-8)
        assert row["score"] == pytest.approx((model.predict(u[held_out]) == y[held_out]).mean())
        assert row["n_held_out"] == len(held_out) and set(np.unique(y[held_out])) == set(labels)
    values = obs["time"]
    probe, row = learn("time", values, embedding, 20.0, 0)
    held_out = np.random.default_rng([0, 3]).permutation(len(cells))[3::4]
    train = np.setdiff1d(np.arange(len(cells)), held_out)
    mean, sd = embedding[train].mean(axis=0), embedding[train].std(axis=0)
    model = Ridge(alpha=20.0).fit((embedding[train] - mean) / sd, values.iloc[train])
    np.testing.assert_allclose(probe.scores(embedding)[:, 0], model.predict((embedding - mean) / sd), rtol=1e-6)
    assert row["score"] == pytest.approx(
        1
        - ((values - model.predict((embedding - mean) / sd)) ** 2).iloc[held_out].sum()
        / ((values.iloc[held_out] - values.iloc[train].mean()) ** 2).sum()
    )


def test_log_odds_stay_finite_where_a_probability_is_one():
    assert np.allclose(log_odds(np.array([[800.0, 0.0, 0.0]])), [[800 - np.log(2), -800, -800]])
    scores = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(expit(log_odds(scores))[:, 0], expit(scores[:, 0] - scores[:, 1]))


def test_effects_on_readouts_are_paired_differences_cell_by_cell():
    cells = labelled_cells()
    inputs = inputs_of(cells, probe_columns=["kind", "time"], probe_signature=["GENE1", "GENE2", "GENE12"])
    readouts, table, missing = make_readouts(inputs)
    outputs = measure_outputs(inputs, readouts)
    effects, answers = ask_probes(inputs, outputs, readouts, table, missing)
    assert len(effects) == 3 * 5 and set(effects["readout"]) == {"kind", "time", "signature"}
    model, probe = inputs.model, readouts.probes
    for source, (layer, feature) in enumerate(inputs.sources):
        x = []
        for row in inputs.cell_rows:
            cell, values = cells.take([row]), []
            for removed in (False, True):
                hidden = model.embed(cell)
                for block in range(3):
                    ((_, hidden),) = model.run_layers(hidden, cell, block, block + 1)
                    if removed and block == layer:
                        hidden = hidden.clone()
                        hidden[..., model.column(layer, feature)] = 0  # what is active is what this dimension holds
                embedding = hidden[0, torch.from_numpy(cell.gene_mask[0])].mean(dim=0).double().numpy()
                s = probe[0].scores(embedding[None])[0]
                p = np.exp(s) / np.exp(s).sum()
                logits = (hidden[0] * model.drive[cell.ids[0]]).sum(-1).numpy()
                inside = [q for q in range(10) if cells.gene_ids[cell.ids[0, q]] in ("GENE1", "GENE2", "GENE12")]
                others = [q for q in range(1, 10) if q not in inside]
                signature = logits[inside].mean() - logits[others].mean() if inside else np.nan
                values.append([*np.log(p / (1 - p)), probe[1].scores(embedding[None])[0, 0], signature, *p])
            if (cell.gene_mask[0] & (model.drive[cell.ids[0], model.column(layer, feature)].numpy() > 0)).any():
                x.append(np.subtract(values[1], values[0]))
        x = np.array(x)
        mine = effects.iloc[5 * source : 5 * source + 5]
        np.testing.assert_allclose(mine["mean_delta"], np.nanmean(x[:, :5], axis=0), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(mine["sd_delta"], np.nanstd(x[:, :5], axis=0, ddof=1), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(mine["probability_delta"].iloc[:3], x[:, 5:].mean(axis=0), rtol=1e-3, atol=1e-6)
        assert mine["n_cells"].iloc[4] == np.isfinite(x[:, 4]).sum() < len(x)
    shift = next(answer for answer in answers if answer.asked == "Do features shift the readout of kind?")
    expected = effects[effects["readout"] == "kind"]["mean_delta"].abs().mean()
    assert shift.value == pytest.approx(expected) and np.isfinite(shift.p_value)


def test_a_readout_that_says_nothing_is_not_used():
    used = []
    for seed in range(12):
        inputs = inputs_of(labelled_cells(), probe_columns=["coin"], seed=seed)
        readouts, table, missing = make_readouts(inputs)
        used.append(bool(table["used"].iloc[0]))
        assert bool(readouts.probes) == used[-1] and ("coin" in missing) != used[-1]
    assert sum(used) <= 2
    inputs = inputs_of(labelled_cells(), probe_columns=["coin"], max_q=0.0)
    readouts, table, missing = make_readouts(inputs)
    effects, answers = ask_probes(inputs, measure_outputs(inputs, readouts), readouts, table, missing)
    assert effects.empty and np.isnan(answers[-1].value) and "chance" in answers[-1].note


def test_too_few_cells_are_told():
    inputs = inputs_of(labelled_cells(), probe_columns=["kind"], n_cells=0)
    readouts, table, missing = make_readouts(inputs)
    assert table.empty and not readouts.probes and "Lower n_cells" in missing["kind"]
    inputs = inputs_of(labelled_cells())
    assert make_readouts(inputs)[2] == {}, "no column was named, and the cells have no usual one"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probe_columns": ["nothing"]}, "they have no nothing"),
        ({"probe_signature": ["NO_GENE"]}, "knows none of NO_GENE"),
    ],
)
def test_mistakes_are_told(toy_run: cc.OpenRun, changes: dict, message: str):
    settings = InterventionSettings(["output_effects"], n_features=2, n_cells=20, **changes)
    with pytest.raises(CellCircuitsError, match=message):
        write_interventions(toy_run, settings, Progress())
