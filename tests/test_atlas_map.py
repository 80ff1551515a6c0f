"""Maps of layers: similar directions stand close together, the same map every time, nothing lost."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cellcircuits.atlas import coordinates
from cellcircuits.atlas.coordinates import map_features
from tests.made_up_evidence import filled

NO_GENES = filled("feature_genes", 0)


def clustered(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Directions in three groups, and the group of each."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, n)
    centres = np.linalg.qr(rng.normal(size=(16, 16)))[0][:3]
    return centres[group] + 0.15 * rng.normal(size=(n, 16)), group


def table(n: int, **columns: object) -> pd.DataFrame:
    return filled("features", n, feature=np.arange(n), n_firings=5, **columns)


def same_group_neighbours(found: pd.DataFrame, group: np.ndarray) -> float:
    """Share of features whose nearest neighbour on the map is of their group."""
    place = found[["x", "y"]].to_numpy(dtype=float)
    distance = ((place[:, None] - place[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distance, np.inf)
    return (group[distance.argmin(axis=1)] == group).mean()


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_similar_directions_stand_close_together(method):
    directions, group = clustered(120)
    found = map_features(table(120), NO_GENES, {0: directions}, method)
    assert same_group_neighbours(found, group) > 0.95
    assert set(found["method"]) == {f"{method} of decoder"}
    assert found["x"].between(0, 1).all() and found["y"].between(0, 1).all()
    assert found[["x", "y"]].max().max() == pytest.approx(1)


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_the_same_seed_gives_the_same_map_and_scale_does_not_matter(method):
    directions, _ = clustered(40)
    maps = [map_features(table(40), NO_GENES, {0: directions * c}, method, seed=1) for c in (1, 1, 4)]
    pd.testing.assert_frame_equal(maps[0], maps[1])
    pd.testing.assert_frame_equal(maps[0], maps[2])


def test_top_genes_take_the_place_of_directions():
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1], 30)
    rows = [
        (0, f, r, f"G{group[f] * 40 + g}") for f in range(60) for r, g in enumerate(rng.choice(40, 20, replace=False))
    ]
    genes = pd.DataFrame(rows, columns=["layer", "feature", "rank", "gene_id"]).assign(score=rng.uniform(1, 2, 1200))
    found = map_features(table(60), genes, {}, "pca")
    assert same_group_neighbours(found, group) > 0.95 and set(found["method"]) == {"pca of top genes"}


def test_features_that_never_fire_have_no_place():
    directions, _ = clustered(30)
    directions[4] = 0
    features = table(30)
    features.loc[[2, 9], "n_firings"] = 0
    found = map_features(features, NO_GENES, {0: directions}, "pca")
    assert list(np.flatnonzero(found["x"].isna())) == [2, 4, 9]


def test_layers_have_maps_of_their_own_and_any_order_gives_the_same():
    features = pd.concat([table(20), table(20, layer=3)], ignore_index=True)
    directions = {0: clustered(20)[0], 3: clustered(20, 1)[0]}
    found = map_features(features, NO_GENES, directions, "pca")
    assert list(found["layer"]) == [0] * 20 + [3] * 20 and list(found["feature"][20:]) == list(range(20))
    alone = map_features(table(20, layer=3), NO_GENES, directions, "pca")
    pd.testing.assert_frame_equal(found[20:].reset_index(drop=True), alone)
    pd.testing.assert_frame_equal(map_features(features[::-1], NO_GENES, directions, "pca"), found)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_features_are_placed_too(n):
    found = map_features(table(n), NO_GENES, {0: np.eye(3)[:n]}, "auto")
    assert len(found) == n and np.isfinite(found[["x", "y"]].to_numpy(dtype=float)).all()


@pytest.mark.parametrize(("n", "expected"), [(9, "pca"), (6000, "tsne"), (6001, "pca")])
def test_the_method_follows_the_number_of_features(n, expected):
    assert coordinates._method("auto", n) == expected
    assert coordinates._method("pca", n) == "pca"
