"""Cells and sources are drawn as asked for, with seeds, and what cannot be drawn is said."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellcircuits.errors import DataError, SettingsError
from cellcircuits.selection import default_source_layers, matched_pairs, pair_by_firing_rate, pick_sources, select_cells
from cellcircuits.settings import TraceSettings


def obs(*sizes: int, seed: int = 0) -> pd.DataFrame:
    """Cells of types t0, t1, ... in mixed order, with a donor."""
    labels = np.random.default_rng(seed).permutation(np.repeat([f"t{i}" for i in range(len(sizes))], sizes))
    donor = pd.Categorical(np.where(np.arange(len(labels)) % 2, "d1", "d0"))
    return pd.DataFrame({"cell_type": labels, "donor": donor}, index=[f"c{i}" for i in range(len(labels))])


def counts(frame: pd.DataFrame, rows: np.ndarray) -> dict[str, int]:
    return frame["cell_type"].iloc[rows].value_counts().to_dict()


# ------------------------------------------------------------------------------------------------ cells


def test_all_cells():
    assert list(select_cells(obs(5, 5), {}, 0, "", 0)) == list(range(10))
    assert list(select_cells(obs(5, 5), {}, 10, "cell_type", 0)) == list(range(10))


def test_cells_that_match_every_column():
    frame = obs(20, 20, 20)
    rows = select_cells(frame, {"cell_type": ["t0", "t2"], "donor": ["d1"]}, 0, "", 0)
    expected = [
        i
        for i, (kind, donor) in enumerate(zip(frame["cell_type"], frame["donor"], strict=True))
        if kind in ("t0", "t2") and donor == "d1"
    ]
    assert list(rows) == expected != []


def test_labels_are_compared_as_text():
    frame = pd.DataFrame({"batch": [1, 2, 2], "good": [True, False, True]})
    assert list(select_cells(frame, {"batch": ["2"], "good": ["True"]}, 0, "", 0)) == [2]


def test_a_draw_is_sorted_unique_and_seeded():
    frame = obs(100)
    first, again, other = (select_cells(frame, {}, 30, "", seed) for seed in (0, 0, 1))
    assert list(first) == sorted(set(first)) and len(first) == 30
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_uniform_draw_is_uniform():
    drawn = np.bincount(np.concatenate([select_cells(obs(20), {}, 5, "", seed) for seed in range(400)]), minlength=20)
    # 100 expected in each cell, standard deviation 8.7
    assert drawn.min() > 65 and drawn.max() < 135


@pytest.mark.parametrize(
    ("sizes", "n_cells", "expected"),
    [
        ((50, 30, 20), 10, [5, 3, 2]),
        ((97, 2, 1), 10, [8, 1, 1]),
        ((997, 2, 1), 3, [1, 1, 1]),
        ((10, 10), 3, [2, 1]),
        ((4, 1, 1), 5, [3, 1, 1]),
    ],
)
def test_labels_are_drawn_in_proportion_each_at_least_once(sizes, n_cells, expected):
    frame = obs(*sizes)
    found = counts(frame, select_cells(frame, {}, n_cells, "cell_type", 0))
    assert [found[f"t{i}"] for i in range(len(sizes))] == expected


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), data=st.data())
@settings(max_examples=60, deadline=None)
def test_quotas_hold_for_any_sizes(sizes, data):
    """Each label at least once, never more than there are, within one cell of its share of the rest."""
    n_cells = data.draw(st.integers(len(sizes), sum(sizes)))
    frame = obs(*sizes)
    rows = select_cells(frame, {}, n_cells, "cell_type", 0)
    found = counts(frame, rows)
    assert len(set(rows)) == n_cells
    for i, size in enumerate(sizes):
        share = 1 + (n_cells - len(sizes)) * (size - 1) / max(sum(sizes) - len(sizes), 1)
        assert 1 <= found[f"t{i}"] <= size
        assert abs(found[f"t{i}"] - share) < 1 + 1e-9


def test_strata_are_those_of_the_matching_cells():
    frame = obs(30, 30, 30)
    rows = select_cells(frame, {"cell_type": ["t0", "t1"]}, 6, "cell_type", 0)
    assert counts(frame, rows) == {"t0": 3, "t1": 3}


@pytest.mark.parametrize(
    ("where", "n_cells", "stratify_by", "message"),
    [
        ({"tissue": ["x"]}, 0, "", r"obs has no column 'tissue'; it has cell_type, donor"),
        ({"cell_type": ["t0", "B", "A"]}, 0, "", r"obs\['cell_type'\] has no A, B; its labels are t0, t1"),
        ({"cell_type": []}, 0, "", r"No cell has all of \{'cell_type': \[\]\}"),
        ({}, 21, "", r"21 cells were asked for; only 20 are there\. Lower n_cells"),
        ({"cell_type": ["t1"]}, 11, "", r"11 cells were asked for; only 10 are there"),
        ({}, 5, "tissue", r"obs has no column 'tissue'"),
        ({}, 1, "cell_type", r"1 cells cannot hold all 2 labels; raise n_cells or do not stratify"),
    ],
)
def test_what_cannot_be_drawn(where, n_cells, stratify_by, message):
    with pytest.raises(DataError, match=message):
        select_cells(obs(10, 10), where, n_cells, stratify_by, 0)


def test_no_columns_at_all():
    with pytest.raises(DataError, match=r"obs has no column 'cell_type'; it has none"):
        select_cells(pd.DataFrame(index=["a", "b"]), {"cell_type": ["B"]}, 0, "", 0)


# ------------------------------------------------------------------------------------------------ sources


def features(seed: int = 0, n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rate = np.where(rng.random(n) < 0.3, 0.0, rng.choice([0.005, 0.01, 0.02, 0.3], n))
    n_terms = rng.integers(0, 4, n)
    return pd.DataFrame(
        {
            "layer": 4,
            "feature": np.arange(n),
            "firing_rate": rate,
            "n_firings": (rate * 1000).astype(int),
            "n_terms": n_terms,
            "annotation_score": np.where(n_terms > 0, rng.integers(1, 5, n), 0.0),
        }
    )


def picked(table: pd.DataFrame, seed: int = 0, **changes) -> list[int]:
    return list(pick_sources(table, TraceSettings(**changes), np.random.default_rng(seed)))


def slow_choice(table: pd.DataFrame, min_rate: float, key, n: int) -> list[int]:
    pool = [row for row in table.to_dict("records") if row["firing_rate"] >= min_rate and row["n_firings"] > 0]
    return sorted(row["feature"] for row in sorted(filter(lambda row: key(row) is not None, pool), key=key)[:n])


@pytest.mark.parametrize("min_rate", [0.0, 0.01, 0.02])
def test_every_way_to_pick(min_rate):
    table = features()

    def by_score(row):
        return (-row["annotation_score"], -row["firing_rate"], row["feature"]) if row["n_terms"] else None

    common = {"min_firing_rate": min_rate, "n_features": 9}
    assert picked(table, select="annotated", **common) == slow_choice(table, min_rate, by_score, 9)
    by_rate = slow_choice(table, min_rate, lambda row: (-row["firing_rate"], -row["n_firings"], row["feature"]), 9)
    assert picked(table, select="frequent", **common) == by_rate
    assert picked(table, select="all", **common) == slow_choice(table, min_rate, lambda row: row["feature"], 60)


def test_random_sources_come_from_the_pool():
    table = features()
    pool = set(picked(table, select="all"))
    first, again, other = (picked(table, seed, select="random", n_features=9) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 9 and set(first) <= pool and first == sorted(first)
    drawn = {f for seed in range(100) for f in picked(table, seed, select="random", n_features=9)}
    assert drawn == pool


@pytest.mark.parametrize("select", ["annotated", "random", "frequent"])
def test_fewer_sources_than_asked_for(select):
    table = features()
    pool = table[(table["firing_rate"] >= 0.3) & ((table["n_terms"] > 0) | (select != "annotated"))]
    assert picked(table, select=select, min_firing_rate=0.3, n_features=50) == list(pool["feature"])


@pytest.mark.parametrize("select", ["annotated", "random", "frequent", "matched", "all"])
def test_no_source_at_all(select):
    assert picked(features().assign(firing_rate=0.0, n_firings=0), select=select, min_firing_rate=0.0) == []


@pytest.mark.parametrize(
    ("layers", "n_layers", "expected"),
    [(range(18), 18, [0, 6, 12]), (range(3), 3, [0, 1]), (range(2), 2, [0]), ([5, 11, 17], 18, [5]), ([0, 6], 18, [0])],
)
def test_default_source_layers(layers, n_layers, expected):
    assert default_source_layers(list(layers), n_layers) == expected


# ------------------------------------------------------------------------------------------------ pairs


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_as_near_as_can_be(seed):
    """Against all ways to give four features different partners."""
    rng = np.random.default_rng(seed)
    rates = [rng.choice([0.01, 0.02, 0.1, 0.3], n) * rng.uniform(0.9, 1.1, n) for n in (4, 6)]
    first, second = (pd.DataFrame({"feature": rng.permutation(50)[: len(rate)], "firing_rate": rate}) for rate in rates)
    found = pair_by_firing_rate(first, second)
    assert set(found) == set(first["feature"]) and len(set(found.values())) == 4
    of = [dict(zip(table["feature"], np.log(table["firing_rate"]), strict=True)) for table in (first, second)]

    def distance(pairs) -> float:
        return sum(abs(of[0][a] - of[1][b]) for a, b in pairs)

    best = min(distance(zip(of[0], partners, strict=True)) for partners in permutations(of[1], 4))
    assert distance(found.items()) == pytest.approx(best)
    assert pair_by_firing_rate(first.iloc[::-1], second.iloc[::-1]) == found


@pytest.mark.parametrize("n_features", [2, 7, 12])
def test_matched_sources_are_the_best_annotated_and_partners_without_annotation(n_features):
    table = features().assign(firing_rate=np.random.default_rng(1).uniform(0, 0.3, 60), n_firings=100)
    wanted = {"min_firing_rate": 0.02, "n_features": n_features}
    settings = TraceSettings(select="matched", **wanted)
    pairs = matched_pairs(table, settings)
    assert sorted(pairs) == picked(table, select="annotated", **wanted | {"n_features": n_features // 2})
    row = table.set_index("feature")
    assert (row.loc[list(pairs.values()), "n_terms"] == 0).all()
    assert (row.loc[list(pairs.values()), "firing_rate"] >= 0.02).all()
    others = table[(table["n_terms"] == 0) & (table["firing_rate"] >= 0.02)]
    assert pairs == pair_by_firing_rate(table[table["feature"].isin(pairs)], others)
    assert picked(table, select="matched", **wanted) == sorted([*pairs, *pairs.values()])
    assert len(pairs) == n_features // 2


def test_one_annotated_feature_has_the_nearest_partner():
    table = features(n=5).assign(n_terms=[0, 0, 2, 0, 1], firing_rate=[0.1, 0.05, 0.06, 0.2, 0.5], n_firings=9)
    assert matched_pairs(table, TraceSettings(select="matched", n_features=2)) in ({2: 1}, {4: 3})


def test_too_few_features_without_annotation():
    table = features().assign(firing_rate=0.1, n_firings=9, n_terms=lambda t: (t["feature"] > 2) * 1)
    assert len(matched_pairs(table, TraceSettings(select="matched", n_features=6))) == 3
    message = r"a feature without annotation for each of 4 annotated ones; layer 4 has 3 .*Lower n_features"
    with pytest.raises(SettingsError, match=message):
        matched_pairs(table, TraceSettings(select="matched", n_features=8))


def test_a_pair_needs_two_features():
    with pytest.raises(SettingsError, match="`n_features` must be at least 2"):
        TraceSettings(select="matched", n_features=1)
