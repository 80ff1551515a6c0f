"""Circuits kept and removed: known circuits, slow versions, and what is found where there is nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import cellcircuits as cc
from cellcircuits.errors import DataError, SettingsError
from cellcircuits.figures import faithfulness as figure
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.intervention_tables import write_interventions
from cellcircuits.interventions import faithfulness
from cellcircuits.interventions.circuits import NEAREST, random_circuits, ranked_nodes
from cellcircuits.interventions.masked_loss import loss_changes
from cellcircuits.masking import draw_masks
from cellcircuits.models.planted import planted
from cellcircuits.progress import Progress
from tests.known_task import known_inputs

CIRCUIT = [(0, 0, 1, 0, 5.0), (0, 1, 1, 1, -4.0)]
"""Edges of the features that matter where the weights are NEEDED."""
NEEDED = np.array([1.0, 1.0] + [0.0] * 28)
QUICK = {"circuit_cells": 12, "circuit_random": 19}

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_known_circuit_carries_everything():
    inputs = known_inputs(NEEDED, CIRCUIT, circuit_sizes=[1, 2, 4, 99], **QUICK)
    found = faithfulness.ask(inputs)
    nodes = found.tables["circuits_kept"]
    ends = list(zip(nodes["layer"], nodes["feature"], strict=True))
    assert ends == [(0, 0), (1, 0), (0, 1), (1, 1)] and list(nodes["strength"]) == [5, 5, 4, 4]
    table = found.tables["faithfulness"].set_index(["kind", "size"])
    assert list(table.index) == [(kind, size) for kind in ("keep", "remove") for size in (1, 2, 4)]
    for kind in ("keep", "remove"):
        assert table.loc[(kind, 4), "share"] == pytest.approx(1, abs=1e-6)
        assert table.loc[(kind, 4), "p_value"] == pytest.approx(1 / 20)
        # a random circuit rarely holds a feature that matters, and hardly ever both of a path
        assert table.loc[kind, "random_mean"].abs().max() < 0.25 and table.loc[kind, "random_low"].abs().max() < 1e-6
    # nothing comes through layer 1 unless both are kept
    assert table.loc[("keep", 1), "share"] == pytest.approx(0, abs=1e-6)
    assert table["loss_intact"].abs().max() < 1e-9 and (table["loss_nothing"] > 0.001).all()
    keep, remove = found.answers
    assert keep.value > 0.3 and remove.value > 0.3 and keep.p_value == remove.p_value == 0.05
    assert keep.baseline < 0.1 and remove.baseline < 0.1 and keep.low <= keep.value <= keep.high
    assert set(figure.draw(found)) == {"faithfulness"}


def test_losses_are_those_of_a_slow_version():
    inputs = known_inputs(np.linspace(0, 2, 8), CIRCUIT, circuit_sizes=[2, 4], circuit_cells=0, circuit_random=2)
    inputs.run.cells = inputs.run.cells.take(range(3))  # type: ignore[misc]
    nodes = ranked_nodes(inputs.run.edges, [0, 1])
    losses = faithfulness.measure(inputs, nodes)
    cells, model, saes = inputs.cells, inputs.model, inputs.saes
    masks = draw_masks(cells, 0.15, 0)
    means = slow_means(model, saes, model.mask(cells, masks))
    random = random_circuits(nodes, inputs.run.features, 2, (0, 5))
    for number in range(len(cells)):
        intact = slow_loss(model, saes, means, cells.take([number]), masks[number], lambda layer, feature: True)
        nothing = slow_loss(model, saes, means, cells.take([number]), masks[number], lambda layer, feature: False)
        assert losses.intact[number] == pytest.approx(intact, abs=1e-9)
        assert losses.nothing[number] == pytest.approx(nothing - intact, rel=1e-4)
        for circuit, members in enumerate([nodes["feature"].to_numpy(), *random]):
            for i, size in enumerate((2, 4)):
                chosen = set(zip(nodes["layer"][:size], members[:size], strict=True))
                for kind in range(2):
                    loss = slow_loss(
                        model,
                        saes,
                        means,
                        cells.take([number]),
                        masks[number],
                        lambda layer, feature, kind=kind, chosen=chosen: ((layer, feature) in chosen) == (kind == 0),
                    )
                    assert losses.circuits[number, kind, circuit, i] == pytest.approx(loss - intact, rel=1e-3, abs=1e-7)


def slow_means(model, saes, masked):
    """{layer: mean of each feature over the gene positions of masked cells}, cell by cell."""
    values = {0: [], 1: []}
    for row in range(len(masked)):
        cell = masked.take([row])
        for layer, state in model.run_layers(model.embed(cell), cell, 0, 2):
            dense = saes[layer].encode(state[0]).dense(model.n_features)
            values[layer] += [dense[p].numpy() for p in range(len(dense)) if cell.gene_mask[0, p]]
    return {layer: np.mean(rows, axis=0) for layer, rows in values.items()}


def slow_loss(model, saes, means, cell, at, kept):
    """Loss of one cell with the features of which `kept(layer, feature)` is False set to their means."""
    at = at[None, : cell.ids.shape[1]]
    masked = model.mask(cell, at)
    state = model.embed(masked)
    for layer in range(2):
        ((_, state),) = model.run_layers(state, masked, layer, layer + 1)
        state = state.clone()
        code = saes[layer].encode(state[0]).dense(model.n_features)
        for p in np.flatnonzero(cell.gene_mask[0]):
            for feature in range(model.n_features):
                if not kept(layer, feature):
                    state[0, p] += (means[layer][feature] - code[p, feature]) * saes[layer].W_dec[feature]
    return float(model.masked_loss(state, cell, at)[0])


def test_where_nothing_is_special_p_is_uniform():
    """Features matter to different degrees; which are called is drawn, so the circuit is one of the random ones."""
    p = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        ends = rng.permutation(24)[:8].tolist(), rng.permutation(24)[:8].tolist()
        edges = [(0, source, 1, target, 10.0 - i) for i, (source, target) in enumerate(zip(*ends, strict=True))]
        weights = np.sqrt(rng.exponential(size=24))
        inputs = known_inputs(weights, edges, seed, circuit_sizes=[16], circuit_random=9, circuit_cells=6)
        p.append([answer.p_value for answer in faithfulness.ask(inputs).answers])
    p = np.array(p)
    # at most 7 of 30 are at 0.1 with a probability of 0.99
    assert ((p <= 0.101).sum(axis=0) <= 7).all() and (np.abs(p.mean(axis=0) - 0.55) < 0.15).all()


def test_p_is_the_rank_among_random_circuits():
    draws = np.random.default_rng(0).standard_cauchy((4000, 20))
    p = faithfulness.rank_p(draws[:, 0], draws[:, 1:].T)
    for level in (0.05, 0.1, 0.5):
        assert np.mean(p <= level + 1e-9) == pytest.approx(level, abs=0.025)
    assert faithfulness.rank_p(np.array(1.0), np.ones(5)) == 1
    assert faithfulness.rank_p(np.array(1.0), np.array([0.5, 1.5, 0.9])) == 0.5


def test_ratio_of_means():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        bottom = rng.normal(4, 1, size=8)
        top = 0.3 * bottom + rng.normal(0, 0.5, size=8)
        _, low, high = faithfulness.ratio_of_means(top, bottom)
        covered += low <= 0.3 <= high
    assert 0.92 < covered / 1000 < 0.98
    top = rng.normal(size=(8, 2, 3))
    ratio, low, high = faithfulness.ratio_of_means(top, bottom)
    for i in range(2):
        for j in range(3):
            one = faithfulness.ratio_of_means(top[:, i, j], bottom)
            assert one == pytest.approx((ratio[i, j], low[i, j], high[i, j]))
            assert ratio[i, j] == pytest.approx(top[:, i, j].sum() / bottom.sum())


def test_the_mean_over_log_size():
    sizes = np.array([2, 5, 40])
    x, y = np.log(sizes), np.array([0.1, 0.5, 0.9])
    assert faithfulness.over_log_size(sizes) @ y == pytest.approx(np.trapezoid(y, x) / (x[-1] - x[0]))
    assert list(faithfulness.over_log_size(np.array([7]))) == [1.0]


def test_random_circuits_fire_as_often():
    rng = np.random.default_rng(2)
    features = pd.DataFrame({"layer": np.repeat([0, 1], 100), "feature": np.tile(np.arange(100), 2)})
    features["firing_rate"] = np.where(rng.random(200) < 0.1, 0.0, rng.random(200) ** 3)
    alive = features[features["firing_rate"] > 0]
    nodes = alive.sample(40, random_state=1).reset_index(drop=True)
    drawn = random_circuits(nodes, features, 5, (0, 1))
    rate = features.set_index(["layer", "feature"])["firing_rate"]
    for circuit in drawn:
        taken: set[tuple[int, int]] = set()
        for layer, node, feature in zip(nodes["layer"], nodes["feature"], circuit, strict=True):
            free = [other for other in alive.loc[alive["layer"] == layer, "feature"] if (layer, other) not in taken]
            gap = sorted(abs(np.log(rate[layer, other] / rate[layer, node])) for other in free)
            assert feature in free and abs(np.log(rate[layer, feature] / rate[layer, node])) <= gap[NEAREST - 1]
            taken.add((layer, feature))
    assert len({tuple(circuit) for circuit in drawn}) == 5
    # all features of a layer are called: a random circuit is the same in another order
    everyone = features[features["layer"] == 0].head(30)
    assert set(random_circuits(everyone, everyone, 1, (0,))[0]) == set(range(30))
    # circuits do not depend on how many are drawn
    np.testing.assert_array_equal(random_circuits(nodes, features, 2, (0, 1)), drawn[:2])


def test_masks_hide_genes_alone():
    cells = cc.Tokens.from_ids([[2, *range(4, 24)], [2, 5, 6]])
    masks = draw_masks(cells, 0.15, 0)
    assert list(masks.sum(axis=1)) == [3, 1] and not masks[~cells.gene_mask].any()
    np.testing.assert_array_equal(draw_masks(cells, 0.15, 0), masks)
    assert (draw_masks(cells, 0.15, 1) != masks).any()
    with pytest.raises(DataError, match="no gene"):
        draw_masks(cc.Tokens.from_ids([[2, 3]]), 0.15, 0)


def test_batches_change_nothing_but_speed():
    found = [
        faithfulness.ask(known_inputs(NEEDED, CIRCUIT, batch_size=size, **QUICK)).tables["faithfulness"]
        for size in (1, 50)
    ]
    pd.testing.assert_frame_equal(*found, rtol=1e-6, atol=1e-9)


def test_what_cannot_be_tested_is_said():
    without_edges = faithfulness.ask(known_inputs(NEEDED, [], **QUICK))
    assert "no edge" in without_edges.answers[0].note and without_edges.tables["faithfulness"].empty
    nothing_needed = faithfulness.ask(known_inputs(np.zeros(12), CIRCUIT, **QUICK))
    assert "does not rise" in nothing_needed.answers[1].note
    one_cell = faithfulness.ask(known_inputs(NEEDED, CIRCUIT, circuit_cells=1))
    assert "1 cells" in one_cell.answers[0].note
    made = planted("direct", n_cells=3)
    headless = known_inputs(NEEDED, CIRCUIT)
    headless.__dict__["model"] = made.model
    found = faithfulness.ask(headless)
    assert "no output head" in found.answers[0].note and len(found.answers) == 2
    assert np.isnan([answer.value for answer in found.answers]).all()


def test_named_features_are_the_circuit():
    inputs = known_inputs(NEEDED, CIRCUIT, features=["0:1", "0:0", "0:5"], circuit_sizes=[3], **QUICK)
    found = faithfulness.ask(inputs)
    nodes = found.tables["circuits_kept"]
    assert list(nodes["feature"]) == [0, 1, 5] and list(nodes["strength"]) == [5, 4, 0]
    # layer 1 passes nothing on while its features are at their means
    table = found.tables["faithfulness"].set_index("kind")["share"]
    assert table["keep"] == pytest.approx(0, abs=1e-6) and table["remove"] == pytest.approx(1, abs=1e-6)


def test_a_feature_that_is_not_active_changes_nothing():
    from cellcircuits.interventions.changes import condition

    inputs = known_inputs(NEEDED, CIRCUIT)
    inputs.model.drive.data[:, 3] = 0
    engine = inputs.intervener([(0, 3)])
    masks = draw_masks(inputs.cells, 0.15, 0)
    rise, clean = loss_changes(engine, inputs.cells, masks, [condition([(0, 3)]), condition([(0, 0)])])
    assert np.isnan(rise[:, 0]).all() and (rise[:, 1] > 0).all() and np.abs(clean).max() < 1e-9


def test_a_run(toy_run: cc.OpenRun):
    chosen = InterventionSettings(experiments=["faithfulness"], circuit_sizes=[1, 2], circuit_random=3, circuit_cells=6)
    write_interventions(toy_run, chosen, Progress())
    made = cc.open_run(toy_run.folder)
    before = {path.name: path.read_bytes() for path in made.path("interventions").glob("*.parquet")}
    assert len(made.interventions.answers) == 2
    (made.path("interventions") / "manifest.json").unlink()
    write_interventions(made, chosen, Progress())
    assert before == {path.name: path.read_bytes() for path in made.path("interventions").glob("*.parquet")}


@pytest.mark.parametrize(
    "changes",
    [
        {"circuit_sizes": []},
        {"circuit_sizes": [0]},
        {"circuit_random": 1},
        {"masked_share": 1.5},
        {"circuit_cells": -1},
    ],
)
def test_settings_are_checked(changes: dict):
    with pytest.raises(SettingsError, match=next(iter(changes))):
        InterventionSettings(**changes)
