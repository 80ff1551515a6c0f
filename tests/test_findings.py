"""The biological questions against loops over random tables; chance finds nothing, planted answers are found."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pandas as pd
import pytest

from cellcircuits.evidence import make_evidence
from cellcircuits.findings.attenuation import attenuation
from cellcircuits.findings.circuits import circuits, labelled_edges
from cellcircuits.findings.hubs import hubs
from cellcircuits.tables import TABLES, empty_table, make_table

LAYERS = ((0, 1), (0, 2), (1, 2))
NO_FEATURES = empty_table("features")


def random_edges(rng: np.random.Generator, n_edges: int, n_features: int = 40, layers=LAYERS) -> pd.DataFrame:
    """Edges table: distinct pairs of features, equally many for each pair of layers; some relative effects are NaN."""
    parts = []
    for source_layer, target_layer in layers:
        pairs = rng.choice(n_features**2, n_edges // len(layers), replace=False)
        ends = {"source_feature": pairs // n_features, "target_feature": pairs % n_features}
        parts.append(pd.DataFrame({"source_layer": source_layer, "target_layer": target_layer} | ends))
    edges = pd.concat(parts, ignore_index=True)
    columns = {column.name: np.zeros(len(edges)) for column in TABLES["edges"]} | {name: edges[name] for name in edges}
    columns["snr"] = rng.normal(size=len(edges))
    columns["mean_delta"] = columns["snr"] * rng.uniform(0.1, 2, len(edges))
    columns["relative_effect"] = np.where(rng.random(len(edges)) < 0.2, np.nan, columns["mean_delta"])
    return make_table("edges", columns)


def features_with(labels: np.ndarray, rate: np.ndarray | None = None) -> pd.DataFrame:
    """Features table from labels (layer, feature)."""
    n_layers, n_features = labels.shape
    columns = {column.name: np.zeros(labels.size) for column in TABLES["features"]}
    columns |= {
        "layer": np.repeat(np.arange(n_layers), n_features),
        "feature": np.tile(np.arange(n_features), n_layers),
        "label": labels.ravel(),
        "top_genes": [f"G{i};H{i}" for i in range(labels.size)],
        "firing_rate": np.full(labels.size, 0.1) if rate is None else rate.ravel(),
    }
    return make_table("features", columns)


def random_labels(rng: np.random.Generator, n_labels: int, n_features: int = 40, unlabelled: float = 0.3) -> np.ndarray:
    names = np.array([f"t{i:03d}" for i in range(n_labels)], dtype=object)
    chosen = rng.choice(names, size=(3, n_features))
    return np.where(rng.random(chosen.shape) < unlabelled, "", chosen)


def pairs_tested(layers=LAYERS, n_sources: int = 20, n_targets: int = 40) -> pd.DataFrame:
    rows = [(s, t, n_sources, n_sources * n_targets, 5) for s, t in layers]
    return make_table("tested", pd.DataFrame(rows, columns=[c.name for c in TABLES["tested"]]))


def sources_table(n_sources: int, layers=(0, 1)) -> pd.DataFrame:
    rows = [(layer, feature, 0.1, 9, "exact", -1) for layer in layers for feature in range(n_sources)]
    return make_table("sources", pd.DataFrame(rows, columns=[c.name for c in TABLES["sources"]]))


def slow_q(p: list[float]) -> dict[float, float]:
    ordered = sorted(p)
    bounds = [value * len(p) / rank for rank, value in enumerate(ordered, start=1)]
    return {value: min(b for other, b in zip(ordered, bounds, strict=True) if other >= value) for value in p}


# ------------------------------------------------------------------------------------------------ attenuation


def test_attenuation_equals_loops():
    edges, tested = random_edges(np.random.default_rng(0), 300), pairs_tested()
    found = attenuation(make_evidence(edges, NO_FEATURES, tested=tested), 0.05)
    assert list(zip(found["source_layer"], found["target_layer"], strict=True)) == list(LAYERS)
    for row in found.to_dict("records"):
        mine = [
            e
            for e in edges.to_dict("records")
            if (e["source_layer"], e["target_layer"]) == (row["source_layer"], row["target_layer"])
        ]
        relative = sorted(abs(e["relative_effect"]) for e in mine if e["relative_effect"] == e["relative_effect"])
        assert row["distance"] == row["target_layer"] - row["source_layer"]
        assert row["n_edges"] == len(mine) == 100
        assert row["edges_per_source"] == len(mine) / 20
        assert row["share_of_tested"] == len(mine) / 800
        assert row["chance_share"] == pytest.approx(0.05 * len(mine) / 800)
        assert row["mean_abs_snr"] == pytest.approx(sum(abs(e["snr"]) for e in mine) / len(mine))
        assert row["median_abs_relative_effect"] == pytest.approx(np.median(relative))
        assert row["share_negative"] == sum(e["mean_delta"] < 0 for e in mine) / len(mine)


def test_layers_without_edges_stay_in_the_table():
    edges = random_edges(np.random.default_rng(0), 30, layers=((0, 1),))
    found = attenuation(make_evidence(edges, NO_FEATURES, tested=pairs_tested()), 0.05)
    assert list(found["n_edges"]) == [30, 0, 0]
    assert found["mean_abs_snr"].isna().tolist() == [False, True, True]
    nothing = attenuation(make_evidence(edges.iloc[:0], NO_FEATURES, tested=pairs_tested(n_sources=0)), 0.05)
    assert list(nothing["edges_per_source"]) == list(nothing["share_of_tested"]) == [0, 0, 0]


# ------------------------------------------------------------------------------------------------ hubs


def test_hubs_equal_loops():
    rng = np.random.default_rng(1)
    edges = random_edges(rng, 600, n_features=20)
    rate = rng.uniform(0.001, 0.9, size=(3, 20))
    features = features_with(random_labels(rng, 5, 20), rate)
    found = hubs(make_evidence(edges, features, sources=sources_table(20), tested=pairs_tested()))
    out, into = Counter(), Counter()
    for e in edges.to_dict("records"):
        out[e["source_layer"], e["source_feature"]] += 1
        into[e["target_layer"], e["target_feature"]] += 1
    # layer 0 was measured in layers 1 and 2; layer 2 was reached from layers 0 and 1
    layers = {"out": {0: 2, 1: 1}, "in": {1: 1, 2: 2}}
    for direction, degree in (("out", out), ("in", into)):
        table = found[found["direction"] == direction]
        keys = set(product((0, 1), range(20))) if direction == "out" else set(into)
        assert set(zip(table["layer"], table["feature"], strict=True)) == keys
        x, y = [], []
        for row in table.to_dict("records"):
            expected = degree[row["layer"], row["feature"]]
            assert row["degree"] == expected
            assert row["degree_per_layer"] == expected / layers[direction][row["layer"]]
            assert row["firing_rate"] == rate[row["layer"], row["feature"]]
            assert row["label"] == features["label"][20 * row["layer"] + row["feature"]]
            x.append([1, np.log10(row["firing_rate"])])
            y.append(np.log10(1 + row["degree_per_layer"]))
        line = np.linalg.lstsq(np.array(x), np.array(y), rcond=None)[0]
        np.testing.assert_allclose(table["degree_residual"], np.array(y) - np.array(x) @ line, atol=1e-10)
    assert list(found["direction"]) == sorted(found["direction"], reverse=True)


def test_a_source_without_edges_is_in_the_table():
    edges = random_edges(np.random.default_rng(0), 30, n_features=8)
    found = hubs(
        make_evidence(
            edges,
            features_with(random_labels(np.random.default_rng(0), 3)),
            sources=sources_table(40),
            tested=pairs_tested(),
        )
    )
    silent = found[(found["direction"] == "out") & (found["degree"] == 0)]
    assert len(silent) >= 64


def test_a_firing_rate_that_explains_everything_leaves_no_hubs():
    rows = [(0, f, 1, t) for f in range(20) for t in range(f + 1)]
    edges = random_edges(np.random.default_rng(0), len(rows), layers=((0, 1),))
    edges[["source_layer", "source_feature", "target_layer", "target_feature"]] = rows
    # feature f has f + 1 edges in the one layer above
    rate = np.tile(np.arange(2, 22) / 100, (3, 1))
    features = features_with(random_labels(np.random.default_rng(0), 3, 20), rate)
    found = hubs(make_evidence(edges, features, sources=sources_table(20, (0,)), tested=pairs_tested(((0, 1),))))
    np.testing.assert_allclose(found["degree_residual"][found["direction"] == "out"], 0, atol=1e-10)


def test_targets_that_never_fired_have_no_residual():
    """An ablation can wake a feature that is silent in every cell."""
    rng = np.random.default_rng(2)
    edges = random_edges(rng, 300, n_features=10)
    rate = rng.uniform(0.1, 0.9, size=(3, 10))
    rate[2, 4] = 0
    found = hubs(
        make_evidence(
            edges, features_with(random_labels(rng, 3, 10), rate), sources=sources_table(10), tested=pairs_tested()
        )
    )
    silent = (found["direction"] == "in") & (found["layer"] == 2) & (found["feature"] == 4)
    assert silent.sum() == 1
    assert (found["degree_residual"].isna() == silent).all()


@pytest.mark.parametrize("n_edges", [0, 3])
def test_too_few_hubs_for_a_line(n_edges):
    edges = random_edges(np.random.default_rng(0), 3).iloc[:n_edges]
    found = hubs(
        make_evidence(
            edges,
            features_with(random_labels(np.random.default_rng(0), 3)),
            sources=sources_table(2),
            tested=pairs_tested(),
        )
    )
    assert (found["degree_residual"] == 0).all()
    assert len(found) == 4 + edges.groupby(["target_layer", "target_feature"]).ngroups


# ------------------------------------------------------------------------------------------------ circuits


def test_labelled_edges_keep_every_edge():
    rng = np.random.default_rng(0)
    edges, features = random_edges(rng, 90), features_with(random_labels(rng, 5))
    found = labelled_edges(edges, features)
    assert len(found) == 90
    for row in found.to_dict("records"):
        for end in ("source", "target"):
            feature = features.iloc[40 * row[f"{end}_layer"] + row[f"{end}_feature"]]
            assert (row[f"{end}_label"], row[f"{end}_genes"]) == (feature["label"], feature["top_genes"])


def slow_circuits(labelled: pd.DataFrame, draws: int, rng: np.random.Generator):
    """{pair: edges}, and {pair: list of edges in each permutation}, by shuffling lists."""
    rows = [r for r in labelled.to_dict("records") if r["source_label"] and r["target_label"]]
    observed = Counter((r["source_label"], r["target_label"]) for r in rows)
    strata = {}
    for row in rows:
        strata.setdefault((row["source_layer"], row["target_layer"]), []).append(row)
    permuted = []
    for _ in range(draws):
        count = Counter()
        for members in strata.values():
            targets = [r["target_label"] for r in members]
            rng.shuffle(targets)
            count.update(zip([r["source_label"] for r in members], targets, strict=True))
        permuted.append(count)
    return observed, permuted


def test_circuits_equal_permutations():
    rng = np.random.default_rng(0)
    edges, features = random_edges(rng, 150, n_features=20), features_with(random_labels(rng, 4, 20))
    found = circuits(make_evidence(edges, features))
    observed, permuted = slow_circuits(labelled_edges(edges, features), 2000, rng)
    different = {pair: n for pair, n in observed.items() if pair[0] != pair[1]}
    assert dict(zip(zip(found["source_label"], found["target_label"], strict=True), found["n_edges"], strict=True)) == (
        different
    )
    for row in found.to_dict("records"):
        drawn = np.array([count[row["source_label"], row["target_label"]] for count in permuted])
        assert row["n_expected"] == pytest.approx(drawn.mean(), abs=5 * drawn.std() / np.sqrt(2000))
        share = (drawn >= row["n_edges"]).mean()
        assert row["p_value"] == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / 2000) + 1e-9)


def test_all_pairs_that_could_have_an_edge_are_corrected_for():
    rng = np.random.default_rng(3)
    edges, features = random_edges(rng, 60), features_with(random_labels(rng, 12))
    found = circuits(make_evidence(edges, features))
    possible = set()
    for _, part in labelled_edges(edges, features).groupby(["source_layer", "target_layer"]):
        possible |= set(product(set(part["source_label"]) - {""}, set(part["target_label"]) - {""}))
    n_possible = sum(source != target for source, target in possible)
    assert n_possible > 2 * len(found)
    q = slow_q([*found["p_value"], *[1.0] * (n_possible - len(found))])
    np.testing.assert_allclose(found["q_value"], [q[p] for p in found["p_value"]])
    assert list(found["q_value"]) == sorted(found["q_value"])


def test_circuits_describe_their_edges():
    rng = np.random.default_rng(4)
    edges, features = random_edges(rng, 240), features_with(random_labels(rng, 3))
    labelled = labelled_edges(edges, features).to_dict("records")
    for row in circuits(make_evidence(edges, features)).to_dict("records"):
        pair = row["source_label"], row["target_label"]
        mine = [e for e in labelled if (e["source_label"], e["target_label"]) == pair]
        best = max(mine, key=lambda e: abs(e["snr"]))
        assert row["mean_snr"] == pytest.approx(np.mean([e["snr"] for e in mine]))
        assert row["share_negative"] == np.mean([e["mean_delta"] < 0 for e in mine])
        assert row["strongest"] == (
            f"L{best['source_layer']}/F{best['source_feature']} -> L{best['target_layer']}/F{best['target_feature']}"
        )
        assert (row["source_genes"], row["target_genes"]) == (best["source_genes"], best["target_genes"])


@pytest.mark.parametrize(("n_edges", "n_labels"), [(300, 6), (90, 60), (300, 200)])
def test_independent_labels_make_no_circuits(n_edges, n_labels):
    """Few labels with many edges each, and many labels for which a single edge is already rare."""
    called, small, possible = 0, 0, 0
    draws = 40
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        features = features_with(random_labels(rng, n_labels))
        found = circuits(make_evidence(random_edges(rng, n_edges), features))
        called += bool((found["q_value"] <= 0.05).any())
        small += int((found["p_value"] <= 0.05).sum())
        possible += n_labels * (n_labels - 1)
    assert small / possible <= 0.05
    # 2 of 40 are expected at most; 6 or more have a chance of 1.4 %
    assert called < 6


def test_p_of_frequent_pairs_is_uniform():
    values = []
    for draw in range(40):
        rng = np.random.default_rng(draw)
        features = features_with(random_labels(rng, 3, unlabelled=0))
        values += list(circuits(make_evidence(random_edges(rng, 1500), features))["p_value"])
    for level in (0.1, 0.3, 0.5, 0.8):
        # p of whole numbers of edges is a little too large
        assert level - 0.15 < np.mean(np.array(values) <= level) < level + 0.07


def test_a_planted_circuit_is_found():
    rng = np.random.default_rng(5)
    labels = random_labels(rng, 20, unlabelled=0)
    edges = random_edges(rng, 300)
    planted = [(0, s, 1, t) for s, t in product(range(5), range(5))]
    labels[0, :5], labels[1, :5] = "interferon", "antigen presentation"
    keys = ["source_layer", "source_feature", "target_layer", "target_feature"]
    edges.loc[:24, keys] = planted
    edges = edges.drop_duplicates(keys, ignore_index=True)
    found = circuits(make_evidence(edges, features_with(labels)))
    assert (found["source_label"][0], found["target_label"][0]) == ("interferon", "antigen presentation")
    assert found["n_edges"][0] >= 25 > 2 * found["n_expected"][0]
    assert (found["q_value"] <= 0.05).sum() == 1


def test_pairs_of_one_label_are_left_out():
    """Labels that always lead to themselves are no circuits, however many there are."""
    labels = np.tile(np.array(["a", "b"], dtype=object), (3, 20))
    edges = random_edges(np.random.default_rng(0), 600)
    same = edges[edges["source_feature"] % 2 == edges["target_feature"] % 2]
    assert circuits(make_evidence(same, features_with(labels))).empty


@pytest.mark.parametrize("labels", [np.full((3, 40), "", dtype=object), np.full((3, 40), "a", dtype=object)])
def test_no_pairs_of_labels(labels):
    found = circuits(make_evidence(random_edges(np.random.default_rng(0), 60), features_with(labels)))
    assert found.empty and list(found) == [c.name for c in TABLES["circuits"]]
    assert circuits(make_evidence(random_edges(np.random.default_rng(0), 0), features_with(labels))).empty
