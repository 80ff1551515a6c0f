"""Contrasts of groups of features: against plain loops, on gates that are known, and where there is nothing."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, ttest_1samp

import cellcircuits as cc
from cellcircuits.answers import UNTESTABLE, judge
from cellcircuits.figures import interactions as figure
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.intervention_tables import write_interventions
from cellcircuits.interventions import interactions
from cellcircuits.interventions.changes import Change
from cellcircuits.interventions.contrast_tests import flipped
from cellcircuits.interventions.contrasts import Observer, Plan, blocks, contrast_weights, subsets
from cellcircuits.interventions.feature_groups import DIRECTIONS, NAMED, Group
from cellcircuits.models.toy import PlantedEdge, ToyModel
from cellcircuits.progress import Progress
from tests.gates import AND, AND_OF_THREE, OR, OR_OF_THREE, SUM, THRESHOLD, GateModel, gate_inputs, gates

PAIR, TRIPLET = Group(NAMED, ((0, 0), (0, 1)), 0), Group(NAMED, ((0, 0), (0, 1), (0, 2)), 1)
NAMES = ["0:0", "0:1", "0:2"]


@pytest.fixture(autouse=True)
def _one(one_thread):
    """Small tensors."""


def slow_contrast(inputs, cell, members, readout, three_way):
    """Epsilon of the six targets in one cell, position by position; NaN where a member is nowhere active."""
    tokens = inputs.cells.take([cell])
    state = inputs.model.embed(tokens)[0]
    active = [{p for p in range(len(state)) if tokens.gene_mask[0, p] and state[p, m] > 0} for m in members]
    if not all(active):
        return np.full(6, np.nan)
    positions = sorted(set.union(*active))

    def value(p, removed):
        left = state[p].clone()
        left[removed] = 0
        found = (left[6:] + gates(left)).numpy().astype(float)
        return found if readout == "pre" else np.maximum(found, 0)

    change = {}
    for size in range(1, len(members) + 1):
        for chosen in combinations(members, size):
            change[chosen] = sum(value(p, list(chosen)) - value(p, []) for p in positions) / len(positions)
    if three_way:
        return sum((-1) ** (len(members) - len(chosen)) * x for chosen, x in change.items())
    return change[tuple(members)] - sum(change[(member,)] for member in members)


@pytest.mark.parametrize("batch_size", [2, 16])
def test_contrasts_are_those_of_plain_loops(batch_size: int):
    inputs = gate_inputs(GateModel(), n_cells=4, batch_size=batch_size)
    plan = Plan([PAIR, TRIPLET], inputs.change)
    assert len(plan.conditions) == 7 and len(plan.condition_of) == 10, "a pair and its triplet share three conditions"
    sums = Observer(inputs.intervener([]), inputs.cells, [1]).observe(plan)[1]
    for readout, name in enumerate(("source", "pre")):
        for row, (group, contrast) in enumerate(plan.contrasts):
            members = [feature for _, feature in plan.groups[group].members]
            cells = range(len(inputs.cells))
            expected = [slow_contrast(inputs, cell, members, name, contrast == "three-way") for cell in cells]
            np.testing.assert_allclose(sums.by_cell[readout, row], expected, atol=2e-6)
            assert np.nanmax(np.abs(expected)) > 0.05
            np.testing.assert_allclose(sums.epsilon[readout].mean[row], np.nanmean(expected, axis=0), atol=2e-6)
    # what adds up is 0 to the bit
    np.testing.assert_array_equal(np.nan_to_num(sums.by_cell[1][:, :, [SUM, THRESHOLD]]), 0)


def test_gates_are_told_apart():
    inputs = gate_inputs(GateModel(), features=NAMES)
    found = interactions.ask(inputs)
    rows = found.tables["group_interactions"].set_index(["members", "contrast", "readout", "target_feature"])
    for members, and_gate, or_gate in (("0:0+0:1", AND, OR), ("0:0+0:1+0:2", AND_OF_THREE, OR_OF_THREE)):
        for readout in ("source", "pre"):
            needed, spare = (rows.loc[(members, "additivity", readout, target)] for target in (and_gate, or_gate))
            # removal lowers: where all are needed epsilon is positive, where one stands in for another negative
            assert needed["epsilon"] > 0 and needed["together"] == "less" and needed["high"] > needed["low"] > 0
            assert spare["epsilon"] < 0 and spare["together"] == "more" and spare["both_readouts"]
            for row in (needed, spare):
                alone = row[["alone_1", "alone_2", "alone_3"]].sum()
                assert row["expected"] == pytest.approx(alone, rel=1e-5, abs=1e-6)
                assert row["joint"] == pytest.approx(row["expected"] + row["epsilon"], rel=1e-5)
    # of all three features together, beyond any two: one sign for both gates, as (-1)^n and -1 of n members
    for target in (AND_OF_THREE, OR_OF_THREE):
        row = rows.loc[("0:0+0:1+0:2", "three-way", "pre", target)]
        pairs = row[["pair_12", "pair_13", "pair_23"]].sum() - row[["alone_1", "alone_2", "alone_3"]].sum()
        assert row["epsilon"] < 0 and row["expected"] == pytest.approx(pairs, rel=1e-4, abs=1e-6)
    targets = rows.reset_index().groupby("readout")["target_feature"].agg(set)
    assert SUM not in targets["source"] | targets["pre"]
    assert THRESHOLD in targets["source"] and THRESHOLD not in targets["pre"]
    own = rows.reset_index()
    assert not own[(own["readout"] == "source") & (own["target_feature"] == THRESHOLD)]["both_readouts"].any()


def test_effects_that_add_up_do_not_interact():
    edges = (PlantedEdge(0, 0, 1, 0, 0.8), PlantedEdge(0, 1, 1, 0, 0.6), PlantedEdge(0, 2, 2, 0, 0.5))
    inputs = gate_inputs(ToyModel(edges), features=NAMES)
    found = interactions.ask(inputs)
    groups = found.tables["interaction_groups"]
    own = groups[groups["panel"] == NAMED]
    assert (own["n_tested"] > 0).all() and (own["n_interacting"] == 0).all()
    assert (own["relative_size"].dropna() == 0).all()
    np.testing.assert_allclose(own.loc[own["contrast"] == "additivity", "reached"], 1)
    answers = judge(found.answers, 0.05)
    assert (answers["value"][:2] == 0).all() and (answers["p_value"][:3] == 1).all()


def test_the_published_ratio_is_below_1_where_effects_add_up():
    edges = (PlantedEdge(0, 0, 1, 0, 0.8), PlantedEdge(0, 1, 1, 0, 0.8))
    inputs = gate_inputs(ToyModel(edges), 60, features=NAMES[:2])
    answer = next(a for a in interactions.ask(inputs).answers if "sum" in a.asked)
    assert answer.value == pytest.approx(1) and answer.published < 0.9


def test_a_chain_counts_its_path_twice():
    edges = pd.DataFrame({"source_layer": [0], "source_feature": [0], "target_layer": [1], "target_feature": [0]})
    inputs = gate_inputs(ToyModel(), features=["0:0", "1:0"])
    inputs.run.edges = edges
    found = interactions.ask(inputs)
    rows = found.tables["group_interactions"].set_index(["readout", "target_layer", "target_feature"])
    row = rows.loc[("source", 2, 2)]
    # 0:0 raises 1:0 by 0.8, which raises 2:2 by 0.5: alone, 0:0 takes away 0.4 of itself, which is not there for 1:0
    assert row["epsilon"] == pytest.approx(-row["alone_1"], rel=1e-4) and row["together"] == "less"
    assert found.tables["interaction_groups"].query("panel == 'named'")["serial"].all()


def test_weights_leave_lower_orders_out():
    rng = np.random.default_rng(0)
    single, pair = rng.normal(size=3), rng.normal(size=(3, 3))
    x = [sum(single[i] for i in s) + sum(pair[i, j] for i, j in combinations(s, 2)) for s in subsets(3)]
    weights = contrast_weights(3)
    assert weights["three-way"] @ x == pytest.approx(0, abs=1e-12)
    assert weights["additivity"] @ x == pytest.approx(pair[0, 1] + pair[0, 2] + pair[1, 2])
    np.testing.assert_array_equal(contrast_weights(2)["additivity"], [-1, -1, 1])


def test_flipped_tests_are_t_tests():
    rng = np.random.default_rng(1)
    epsilon = rng.normal(0.5, 1, size=(12, 7)).astype(np.float32)
    epsilon[:, 3] = 0
    epsilon[[2, 8]] = np.nan
    signs = rng.choice([-1.0, 1.0], size=(30, 12))
    draw, p = flipped(epsilon, signs, 0.2)
    expected = []
    for number, sign in enumerate(signs):
        values = ttest_1samp((epsilon * sign[:, None])[~np.isnan(epsilon[:, 0])].astype(float), 0).pvalue
        expected += [(number, value) for value in values if value <= 0.2]
    assert len(expected) > 20
    np.testing.assert_array_equal(draw, [number for number, _ in expected])
    np.testing.assert_allclose(p, [value for _, value in expected], rtol=1e-6)


def test_q_is_over_all_groups_and_targets():
    inputs = gate_inputs(GateModel(), features=NAMES, random_directions=0, max_q=0.2)
    rows = interactions.ask(inputs).tables["group_interactions"]
    groups = [Group(NAMED, tuple(m), 0) for n in (2, 3) for m in combinations([(0, 0), (0, 1), (0, 2)], n)]
    plan = Plan(groups, inputs.change)
    sums = Observer(inputs.intervener([]), inputs.cells, [1]).observe(plan)[1]
    for readout, name in enumerate(("source", "pre")):
        p = []
        for row, (group, _) in enumerate(plan.contrasts):
            for target in range(6):
                x, epsilon = sums.x[readout], sums.by_cell[readout, row, :, target].astype(float)
                if x.sums["squares"][plan.uses[group], target].any():
                    value = ttest_1samp(epsilon, 0, nan_policy="omit").pvalue if np.nansum(epsilon**2) > 0 else 1.0
                    p.append(value)
        q = np.sort(false_discovery_control(np.array(p)))
        found = np.sort(rows.loc[rows["readout"] == name, "q_value"])
        np.testing.assert_allclose(found, q[q <= 0.2], rtol=1e-4)


def test_signs_that_are_coins_are_chance():
    p, shares = [], []
    for seed in range(24):
        model = GateModel(coin=True, seed=seed)
        inputs = gate_inputs(model, 12, seed=seed, features=NAMES, random_directions=0, max_q=0.2)
        answer = interactions.ask(inputs).answers[1]
        p.append(answer.p_value)
        shares.append(answer.value - answer.baseline)
    p = np.array(p)
    # called at 0.1 in 24 runs: at most 6 in 97 % of cases
    assert (p <= 0.1).sum() <= 6 and (p <= 0.02).sum() <= 2
    assert abs(np.mean(shares)) < 0.1


def test_blocks_hold_every_group_once():
    groups = [PAIR, TRIPLET, PAIR, PAIR]
    assert [g for part in blocks(groups, 100, 10, 1.0) for g in part] == groups
    assert len(list(blocks(groups, 100, 10, 1.0))) == 4 and len(list(blocks(groups, 100, 10, 1e9))) == 1


def test_blocks_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch):
    once = interactions.ask(gate_inputs(GateModel(), features=NAMES))
    monkeypatch.setattr(interactions, "MOST_BYTES", 1.0)
    again = interactions.ask(gate_inputs(GateModel(), features=NAMES, batch_size=3))
    for name, table in once.tables.items():
        pd.testing.assert_frame_equal(table, again.tables[name], rtol=1e-4, atol=1e-6)
    assert [a.p_value for a in once.answers] == pytest.approx([a.p_value for a in again.answers])


def test_random_directions_are_compared():
    found = interactions.ask(gate_inputs(GateModel(), features=NAMES))
    groups = found.tables["interaction_groups"]
    assert set(groups["panel"]) == {NAMED, DIRECTIONS}
    assert set(found.tables["group_interactions"]["panel"]) == {NAMED}
    compared = next(answer for answer in found.answers if "random directions" in answer.asked)
    sizes = groups[(groups["contrast"] == "additivity") & (groups["readout"] == "source")]
    means = sizes.groupby("panel")["relative_size"].mean()
    assert compared.value == pytest.approx(means[NAMED]) and compared.baseline == pytest.approx(means[DIRECTIONS])


def test_members_must_be_active():
    model = GateModel()
    model.drive[:, 1] = 0  # 0:1 is never active
    found = interactions.ask(gate_inputs(model))
    assert (found.tables["interaction_groups"]["n_cells"] == 0).all() and found.tables["group_interactions"].empty
    assert "active together" in found.answers[0].note and judge(found.answers, 0.05)["verdict"][0] == UNTESTABLE


@pytest.mark.parametrize("change", [Change("clamp", 3.0, "all"), Change("scale", 2.0)])
def test_other_changes(change: Change):
    inputs = gate_inputs(GateModel(), kind=change.kind, amount=change.amount, positions=change.positions)
    rows = interactions.ask(inputs).tables["group_interactions"]
    row = rows[(rows["target_feature"] == OR) & (rows["readout"] == "pre")].iloc[0]
    # more of one is enough for the larger of two
    assert row["joint"] > 0 and row["epsilon"] < 0 and row["together"] == "less"


def test_of_a_run(toy_run: cc.OpenRun):
    settings = InterventionSettings(experiments=["interactions"], n_cells=30)
    write_interventions(toy_run, settings, Progress())
    made = cc.open_run(toy_run.folder)
    answers, groups = made.interventions.answers, made.interventions.interaction_groups
    assert set(answers["question"]) == {"interactions"} and len(groups)
    # nothing interacts in the toy model
    assert (groups.loc[groups["panel"] != DIRECTIONS, "n_interacting"] == 0).all()
    before = {p.name: p.read_bytes() for p in made.path("interventions").glob("*.parquet")}
    (made.path("interventions") / "manifest.json").unlink()
    write_interventions(made, settings, Progress())
    assert before == {p.name: p.read_bytes() for p in made.path("interventions").glob("*.parquet")}


def test_one_feature_is_not_enough(toy_run: cc.OpenRun):
    settings = InterventionSettings(experiments=["interactions"], n_cells=30, features=["0:0"])
    write_interventions(toy_run, settings, Progress())
    answers = cc.open_run(toy_run.folder).interventions.answers
    assert list(answers["verdict"]) == [UNTESTABLE] and "at least two features" in answers["note"][0]


def test_the_figure():
    found = interactions.ask(gate_inputs(GateModel(), features=NAMES))
    drawn = figure.draw(found)
    assert set(drawn) == {"interactions"} and len(drawn["interactions"].axes) == 2
