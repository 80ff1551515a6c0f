"""Panels of groups: what members share, and how other panels are matched."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
import torch

import cellcircuits as cc
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.interventions import interactions
from cellcircuits.interventions.feature_groups import (
    CROSS,
    DIRECTIONS,
    NAMED,
    RANDOM,
    SAME,
    Pool,
    active_in_cells,
    choose_groups,
)
from cellcircuits.models.toy import PlantedEdge, ToyModel
from tests.gates import made_inputs

N = 24
"""Features per layer."""


def an_inputs(seed: int = 0, terms: bool = True, **settings):
    """A toy model of three layers of 24 features; those below 16 are sources, and all but each fourth have terms."""
    rng = np.random.default_rng(seed)
    wires = tuple(PlantedEdge(layer, i, layer + 1, i, 0.5) for layer in range(2) for i in range(N))
    model = ToyModel(wires, features_per_layer=N, seed=seed)
    cells = cc.Tokens.from_ids([[2, *rng.choice(np.arange(4, 44), 3, replace=False)] for _ in range(20)])
    ends = [(layer, feature) for layer in range(3) for feature in range(N)]
    features = pd.DataFrame(ends, columns=["layer", "feature"]).assign(
        firing_rate=rng.uniform(0.01, 0.9, len(ends)),
        mean_activation=rng.uniform(0.5, 2, len(ends)),
        decoder_norm=1.0,
    )
    shared = [(*end, "sets", f"term {t}") for end in ends if end[1] % 4 for t in rng.choice(12, 2, replace=False)]
    columns = ["layer", "feature", "collection", "term"]
    edges = [(0, f, 1, g) for f in range(N) for g in range(N) if rng.random() < 0.3]
    tables = {
        "features": features,
        "sources": pd.DataFrame([e for e in ends if e[1] < 16], columns=["layer", "feature"]),
        "edges": pd.DataFrame(edges, columns=["source_layer", "source_feature", "target_layer", "target_feature"]),
    }
    if terms:
        tables["terms"] = pd.DataFrame(shared, columns=columns)
    return made_inputs(model, cells, InterventionSettings(**{"min_cells": 8, **settings}), **tables)


def terms_of(inputs, member):
    table = inputs.run.terms
    return set(table.loc[(table["layer"] == member[0]) & (table["feature"] == member[1]), "term"])


def active(inputs):
    """{layer: bool (cell, feature)}: cells in which each feature is active, one by one."""
    model, found = inputs.model, {layer: [] for layer in range(3)}
    for row in range(len(inputs.cells)):
        cell = inputs.cells.take([row])
        for layer, state in model.run_layers(model.embed(cell), cell, 0, 3):
            z = state[0, torch.from_numpy(cell.gene_mask[0]), N * layer : N * (layer + 1)]
            found[layer].append((z > 0).any(dim=0).numpy())
    return {layer: np.array(cells) for layer, cells in found.items()}


@pytest.fixture(autouse=True)
def _one(one_thread):
    """Small tensors."""


@pytest.fixture(scope="module")
def chosen():
    inputs = an_inputs()
    return inputs, choose_groups(inputs)


def test_panels_are_what_they_say(chosen):
    inputs, groups = chosen
    edges, found = set(inputs.run.edges.itertuples(index=False, name=None)), active(inputs)
    for group in groups:
        terms = [terms_of(inputs, member) for member in group.members]
        if group.panel in (SAME, DIRECTIONS):
            assert set.intersection(*terms)
        else:
            assert all(not a & b for a, b in combinations(terms, 2))
        if group.panel == CROSS:
            assert all(terms)
        assert list(group.members) == sorted(set(group.members)) and max(group.members)[0] < 2
        assert all(feature < 16 for _, feature in group.members) or group.panel == RANDOM
        assert not any((*a, *b) in edges for a, b in combinations(group.members, 2))
        together = np.logical_and.reduce([found[layer][:, feature] for layer, feature in group.members])
        assert together.sum() >= inputs.settings.min_cells
        assert (group.random >= 0) == (group.panel == DIRECTIONS)
    names = [(group.panel == DIRECTIONS, group.members) for group in groups]
    assert len(set(names)) == len(names)
    sizes = pd.Series([f"{group.panel} {len(group.members)}" for group in groups]).value_counts()
    assert sizes[f"{SAME} 2"] == sizes[f"{DIRECTIONS} 2"] == 6 and sizes[f"{SAME} 3"] == sizes[f"{DIRECTIONS} 3"] == 2
    assert sizes[f"{CROSS} 2"] >= 4 and sizes[f"{RANDOM} 2"] == 6


def test_matched_groups_lie_in_the_same_layers(chosen):
    _, groups = chosen
    layers = {g.matched_set: [layer for layer, _ in g.members] for g in groups if g.panel == SAME}
    assert len(layers) == 8
    for group in groups:
        assert [layer for layer, _ in group.members] == layers[group.matched_set]


def test_the_first_match_is_the_nearest_of_all():
    inputs = an_inputs(seed=2, interaction_triplets=0, interaction_pairs=1)
    same, cross = choose_groups(inputs)[:2]
    assert (same.panel, cross.panel) == (SAME, CROSS)
    pool, table = Pool(inputs), inputs.run.features.set_index(["layer", "feature"])
    logs = np.log(table[["firing_rate", "mean_activation"]])

    def distance(members):
        return min(
            sum(float(np.abs(logs.loc[a] - logs.loc[b]).sum()) for a, b in zip(order, same.members, strict=True))
            for order in (members, members[::-1])
            if [a[0] for a in order] == [b[0] for b in same.members]
        )

    possible = [
        tuple(sorted(pair))
        for pair in product(*([s for s in pool.sources if s[0] == layer] for layer, _ in same.members))
        if pair[0] != pair[1]
        and not set(pair) & set(same.members)
        and all(terms_of(inputs, m) for m in pair)
        and not terms_of(inputs, pair[0]) & terms_of(inputs, pair[1])
        and pool.usable(pair)
    ]
    assert distance(cross.members) == pytest.approx(min(distance(pair) for pair in possible))


def test_activity_is_what_the_features_do(chosen):
    inputs, _ = chosen
    found, expected = active_in_cells(inputs, [0, 1]), active(inputs)
    assert set(found) == {0, 1} and 0.1 < found[0].mean() < 0.95
    for layer in found:
        np.testing.assert_array_equal(found[layer], expected[layer])


def test_the_seed_draws_the_groups(chosen):
    _, groups = chosen
    assert choose_groups(an_inputs()) == groups
    again = an_inputs()
    again = made_inputs(
        again.model,
        again.run.cells,
        InterventionSettings(min_cells=8, seed=1),
        **{name: getattr(again.run, name) for name in ("features", "sources", "edges", "terms")},
    )
    assert choose_groups(again) != groups


def test_without_gene_sets_groups_are_random():
    inputs = an_inputs(terms=False)
    groups = choose_groups(inputs)
    assert {group.panel for group in groups} == {RANDOM, DIRECTIONS}
    answers = interactions.ask(inputs).answers
    same = [answer for answer in answers if "same pathway" in answer.asked]
    assert len(same) == 2 and all(np.isnan(a.value) and "gene set" in a.note for a in same)


def test_named_features_make_all_groups_up_to_a_limit():
    named = an_inputs(features=["0:1", "0:2", "1:3", "1:5"], random_directions=0)
    groups = choose_groups(named)
    assert {g.panel for g in groups} == {NAMED}
    assert {g.members for g in groups if len(g.members) == 2} == set(combinations(named.sources, 2))
    assert sum(len(g.members) == 3 for g in groups) == 2


def test_nothing_is_active_together():
    inputs = an_inputs(min_cells=21)
    (answer,) = interactions.ask(inputs).answers
    assert np.isnan(answer.value) and "active together" in answer.note


@pytest.mark.parametrize("panel", [CROSS, RANDOM])
def test_panels_of_one_kind_are_compared_by_permutation(panel: str):
    """Where nothing is there to be found, p is not small too often: labels of matched groups are exchangeable."""
    p = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rows = [
            {"contrast": "additivity", "readout": readout, "panel": name, "matched_set": i, "relative_size": s}
            for readout in ("source", "pre")
            for name in (SAME, panel)
            for i, s in enumerate(rng.gamma(2, size=8))
        ]
        inputs = made_inputs(ToyModel(), None, InterventionSettings(seed=seed))
        p.append(interactions._panel_answer(inputs, pd.DataFrame(rows), SAME, panel).p_value)
    assert (np.array(p) <= 0.1).mean() < 0.2 and 0.35 < np.mean(p) < 0.65
