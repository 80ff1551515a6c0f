"""The engine of interventions against slow versions, and against the tracing engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cellcircuits as cc
from cellcircuits.ablate import Tracer
from cellcircuits.interventions.changes import Change, condition
from cellcircuits.interventions.engine import Intervener
from cellcircuits.interventions.features import feature_changes
from cellcircuits.interventions.observations import Observations
from cellcircuits.interventions.reference import measure_reference
from cellcircuits.models.planted import planted
from cellcircuits.models.toy import ToyModel
from cellcircuits.settings import TraceSettings

KINDS = (
    Change("zero"),
    Change("scale", 2.5),
    Change("clamp", 3.0),
    Change("clamp", 3.0, "all"),
    Change("mean"),
    Change("mean", positions="all"),
    Change("patch", positions="all"),
    Change("resample"),
)


@pytest.fixture(scope="module")
def small():
    """A planted model with attention and LayerNorm, and a few of its cells."""
    made = planted("mixed", seed=3, n_cells=6)
    features = {0: np.arange(8), 1: np.arange(8)}
    references = measure_reference(made.model, made.cells, made.saes, features)
    return made, Intervener(made.model, made.saes, references, batch_size=3, seed=1)


def slow_states(made, engine, cell, number, chosen):
    """The states of all layers, block by block and position by position, as the docstrings say."""
    model, token_ids = made.model, cell.ids[0]
    state, states = model.embed(cell)[0], {}
    for layer in range(model.n_layers):
        ((_, out),) = model.run_layers(state[None], cell, layer, layer + 1)
        state = out[0].clone()
        if layer in chosen.layers:
            z = made.saes[layer].encode(state).dense(made.saes[layer].n_features)
            own = [int(f) for f in chosen.of(layer)]
            features = [f for f in range(z.shape[1]) if f not in own] if chosen.others else own
            for feature in features:
                reference, change = engine.references.get(layer), chosen.change
                for p in range(len(state)):
                    old = float(z[p, feature])
                    if not cell.gene_mask[0, p] or (change.positions == "active" and old <= 0):
                        continue
                    if change.kind == "mean":
                        every = change.positions == "all"
                        new = float((reference.mean if every else reference.mean_active)[feature])
                    elif change.kind == "patch":
                        new = float(reference.by_gene[feature][token_ids[p]])
                        new = old if np.isnan(new) else new
                    elif change.kind == "resample":
                        new = float(reference._drawn(feature, len(state), False, (engine.seed, number, layer))[p])
                    else:
                        new = {"zero": 0.0, "scale": old * change.amount, "clamp": change.amount}[change.kind]
                    vector = made.saes[layer].W_dec[feature]
                    if chosen.random >= 0:
                        vector = engine._random_direction(layer, feature, chosen.random)
                    state[p] += (new - old) * vector
        states[layer] = state
    return states


@pytest.mark.parametrize("change", KINDS, ids=lambda c: f"{c.kind}-{c.positions}")
def test_every_kind_is_what_it_says(small, change):
    made, engine = small
    conditions = [
        condition([(0, 1)], change),
        condition([(0, 2), (0, 5)], change),
        condition([(1, 3)], change),
        condition([(0, 1), (1, 2)], change),
        condition([(0, 4)], change, random=2),
    ]
    if change.kind in ("zero", "mean", "clamp"):
        conditions.append(condition([(0, 1), (1, 4)], change, others=True))
    # layers without a feature of the circuit: all of it is changed, or nothing
    conditions.append(condition([(1, 4)], change, layers=[0]))
    if change.kind in ("zero", "mean", "clamp"):
        conditions += [
            condition([(1, 4)], change, others=True, layers=[0]),
            condition([], change, others=True, layers=[0, 1]),
        ]
    cell = made.cells.take([2])
    clean = engine.clean(cell, conditions)
    seen = set()
    for changed in engine.run(clean, conditions, 2, [0, 1, 2]):
        for row, state in zip(changed.rows, changed.states, strict=True):
            expected = slow_states(made, engine, cell, 2, conditions[row])
            torch.testing.assert_close(state, expected[changed.layer], atol=2e-3, rtol=1e-4)
            seen.add((int(row), changed.layer))
    assert {row for row, layer in seen if layer == 2} == set(range(len(conditions)))


def test_zero_is_what_the_tracing_engine_does(small):
    made, engine = small
    cell, features = made.cells.take([0]), np.arange(16)
    conditions = [condition([(0, f)]) for f in features]
    clean = engine.clean(cell, conditions)
    where = engine.positions(clean, conditions)
    some = np.flatnonzero(where.any(axis=1))
    traced = Tracer(made.model, made.saes, TraceSettings(readouts=["source"]))
    expected = {
        (int(row), effects.layer): effects.delta[0, i]
        for effects in traced.ablate(traced.clean_pass(cell, [0], [1, 2]), 0, features, [1, 2])
        for i, row in enumerate(effects.rows)
    }
    found = {}
    for changed in engine.run(clean, [conditions[i] for i in some], 0, [1, 2]):
        x, _ = feature_changes(clean, changed, where[some[changed.rows]], made.saes)
        found |= {(int(some[row]), changed.layer): x[i] for i, row in enumerate(changed.rows)}
    assert set(found) == set(expected) and len(found) > 10
    for key, values in found.items():
        np.testing.assert_allclose(values, expected[key], atol=1e-4)


def test_batches_change_nothing_but_speed(small):
    made, engine = small
    conditions = [condition([(0, f)], Change("resample")) for f in range(7)]
    cell = made.cells.take([1])
    outcomes = []
    for size in (1, 7):
        other = Intervener(made.model, made.saes, engine.references, batch_size=size, seed=1)
        clean = other.clean(cell, conditions)
        outcomes.append(
            {int(r): s for c in other.run(clean, conditions, 1) for r, s in zip(c.rows, c.states, strict=True)}
        )
    for row, state in outcomes[0].items():
        torch.testing.assert_close(state, outcomes[1][row], atol=1e-4, rtol=1e-5)


def test_in_the_toy_model_effects_are_linear_in_the_dose():
    toy = ToyModel()
    cells = cc.Tokens.from_ids([[2, *range(4, 24)]])
    engine = Intervener(toy, toy.saes())
    conditions = [condition([(0, 0)], Change("scale", dose)) for dose in (0.0, 0.5, 2.0, 4.0)]
    clean = engine.clean(cells, conditions)
    where = engine.positions(clean, conditions)
    (changed,) = engine.run(clean, conditions, 0, [1])
    x, before = feature_changes(clean, changed, where, toy.saes())
    # the planted edge 0:0 -> 1:0 has strength 0.8
    z = clean.codes[0].dense(6)[torch.from_numpy(where[0]), 0].mean().item()
    np.testing.assert_allclose(x[:, 0], 0.8 * z * np.array([-1.0, -0.5, 1.0, 3.0]), rtol=1e-5)
    assert np.abs(x[:, 1:]).max() < 1e-6 and (before >= 0).all()


def test_reference_is_what_the_features_do(small):
    made, _ = small
    found = measure_reference(made.model, made.cells, made.saes, {1: np.array([2, 5])})[1]
    values, genes = [], []
    for row in range(len(made.cells)):
        cell = made.cells.take([row])
        states = dict(made.model.run_layers(made.model.embed(cell), cell, 0, 2))
        mask = cell.gene_mask[0]
        values.append(made.saes[1].encode(states[1][0]).dense(24)[torch.from_numpy(mask)].numpy())
        genes.append(cell.ids[0, mask])
    values, genes = np.concatenate(values), np.concatenate(genes)
    np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-4)
    for feature in (2, 5):
        active = values[values[:, feature] > 0, feature]
        assert found.mean_active[feature].item() == pytest.approx(active.mean(), rel=1e-4)
        np.testing.assert_array_equal(np.sort(found.samples[feature]), np.sort(active))
        for gene in np.unique(genes):
            expected = values[genes == gene, feature].mean()
            assert found.by_gene[feature][gene] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert np.isnan(found.by_gene[2][0]), "no cell has padding as a gene"


def test_observations_leave_out_what_a_cell_does_not_have():
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 1, size=(30, 4, 5))
    x[rng.random(x.shape) < 0.2] = np.nan
    clean = rng.random(x.shape)
    sums = Observations(4, 5)
    for cell in range(len(x)):
        sums.add(np.array([3, 0, 1, 2]), x[cell][[3, 0, 1, 2]], clean[cell][[3, 0, 1, 2]])
    found = sums.statistics(min_cells=5)
    from scipy.stats import false_discovery_control, ttest_1samp

    expected = ttest_1samp(x, 0, nan_policy="omit")
    np.testing.assert_allclose(found["mean_delta"], np.nanmean(x, axis=0))
    np.testing.assert_allclose(found["sd_delta"], np.nanstd(x, axis=0, ddof=1))
    np.testing.assert_allclose(found["clean"], np.nanmean(np.where(np.isnan(x), np.nan, clean), axis=0))
    np.testing.assert_allclose(found["p_value"], expected.pvalue)
    np.testing.assert_allclose(found["q_value"].ravel(), false_discovery_control(expected.pvalue.ravel()))
    few = Observations(1, 1)
    few.add(np.array([0]), np.ones((1, 1)), np.ones((1, 1)))
    assert not few.statistics(2)["tested"].any() and few.statistics(2)["p_value"] == 1
