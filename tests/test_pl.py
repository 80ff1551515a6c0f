"""Pictures of features: what is drawn is what the tables say; axes are taken and returned; no window is opened."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

import cellcircuits as cc
from cellcircuits.errors import DataError, RunError
from cellcircuits.progress import Progress
from cellcircuits.settings import StructureSettings
from cellcircuits.structure_tables import write_structure

pytestmark = pytest.mark.usefixtures("one_thread")


def rendered(ax):
    """The axes, drawn to the end."""
    ax.figure.canvas.draw()
    return ax


def test_axes_are_taken_and_returned(toy_run):
    for draw in (cc.pl.top_genes, cc.pl.cell_labels):
        ax = Figure().subplots()
        assert draw(toy_run, 1, ax=ax) is ax
    ax = Figure().subplots()
    assert cc.pl.quality(toy_run, ax=ax) is ax


def test_no_window_and_no_global_state():
    code = "import sys, cellcircuits as cc; cc.pl.quality; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_dots_are_the_shares_and_scores_of_top_genes(toy_run):
    ax = rendered(cc.pl.top_genes(toy_run, 1, features=[2, 0], n_genes=3))
    table = toy_run.feature_genes.query("layer == 1")
    symbols = [label.get_text() for label in ax.get_xticklabels()]
    assert [label.get_text().split()[0] for label in ax.get_yticklabels()] == ["F2", "F0"]
    tops = [table.query(f"feature == {f} and rank <= 3")["symbol"] for f in (2, 0)]
    assert set(symbols) == set(tops[0]) | set(tops[1]) and symbols[:3] == list(tops[0])
    expected = {}
    for row in table[table["feature"].isin([2, 0]) & table["symbol"].isin(symbols)].to_dict("records"):
        place = symbols.index(row["symbol"]), [2, 0].index(row["feature"])
        expected[place] = (8 + 112 * row["n_firings"] / row["n_positions"], row["score"])
    dots = ax.collections[0]
    drawn = zip(map(tuple, dots.get_offsets().astype(int).tolist()), dots.get_sizes(), dots.get_array(), strict=True)
    found = {place: (size, score) for place, size, score in drawn}
    assert set(found) == set(expected)
    for place, values in expected.items():
        assert found[place] == pytest.approx(values)


def test_the_heat_map_is_the_table(toy_run):
    table = toy_run.cell_labels.query("layer == 0 and column == 'cell_type'")
    ax = rendered(cc.pl.cell_labels(toy_run, 0, features=[3, 1]))
    grid = ax.images[0].get_array()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["A", "B"]
    for row, feature in enumerate([3, 1]):
        for column, label in enumerate(["A", "B"]):
            value = table.query(f"feature == {feature} and label == '{label}'")["auroc"].item()
            assert grid[row, column] == pytest.approx(value)
    assert ax.images[0].get_clim() == (0, 1)
    chosen = [label.get_text().split()[0] for label in cc.pl.cell_labels(toy_run, 0, n_features=1).get_yticklabels()]
    best = [f"F{table[table['label'] == label].nlargest(1, 'auroc')['feature'].item()}" for label in ("A", "B")]
    assert chosen == list(dict.fromkeys(best))


def test_quality_is_that_of_the_run(toy_run):
    ax = rendered(cc.pl.quality(toy_run, values=["variance_explained", "l0"]))
    quality = toy_run.quality
    lines = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert lines == {
        "variance explained": quality["variance_explained"].tolist(),
        "l0": quality["l0"].tolist(),
        "variance explained, principal components": quality["pca_variance_explained"].tolist(),
    }
    with pytest.raises(DataError, match="no 'beauty'"):
        cc.pl.quality(toy_run, values=["beauty"])


@pytest.fixture
def placed(monkeypatch):
    """Features placed along a line instead of by UMAP, which takes a minute to compile."""

    def place(vectors, n_neighbors, seed):
        return np.column_stack([np.arange(len(vectors)), np.zeros(len(vectors))])

    monkeypatch.setattr("cellcircuits.pl._embedding", place)


def test_features_are_coloured_by_label_number_and_module(demo_run, placed):
    features = demo_run.features.query("layer == 2 and n_firings > 0")
    ax = rendered(cc.pl.feature_umap(demo_run, 2))
    drawn = np.concatenate([dots.get_offsets()[:, 0] for dots in ax.collections])
    assert sorted(drawn) == list(range(len(features)))
    labels = features["label"].to_numpy()
    for dots in ax.collections[1:]:
        name = dots.get_label().rpartition(" (")[0].rstrip("…")
        assert all(labels[int(x)].startswith(name) for x in dots.get_offsets()[:, 0])
    ax = rendered(cc.pl.feature_umap(demo_run, 2, color="firing_rate", basis="genes"))
    np.testing.assert_allclose(ax.collections[0].get_array(), features["firing_rate"])
    with pytest.raises(RunError, match="no 'structure' yet"):
        cc.pl.feature_umap(demo_run, 2, color="module")
    write_structure(demo_run, StructureSettings(rewirings=0, min_together=5, null_draws=50), Progress())
    run = cc.open_run(demo_run.folder)
    ax = rendered(cc.pl.feature_umap(run, 2, color="module"))
    modules = run.structure.modules.query("layer == 2").set_index("feature")["module"]
    for dots in ax.collections[1:]:
        module = int(dots.get_label().split()[1])
        assert {modules[features["feature"].iloc[int(x)]] for x in dots.get_offsets()[:, 0]} == {module}
    with pytest.raises(DataError, match="no column 'colour'"):
        cc.pl.feature_umap(run, 2, color="colour")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ImportWarning")  # umap looks for tensorflow when it is first imported
def test_umap_is_seeded_and_has_a_place_for_every_feature():
    from cellcircuits.pl import _embedding

    vectors = np.random.default_rng(0).standard_normal((40, 8))
    first = _embedding(vectors, 15, 0)
    assert first.shape == (40, 2)
    np.testing.assert_array_equal(first, _embedding(vectors, 15, 0))


def test_wrong_layers_features_and_columns_are_named(toy_run):
    with pytest.raises(DataError, match="nothing of layer 7; there are layers 0, 1, 2"):
        cc.pl.top_genes(toy_run, 7)
    with pytest.raises(DataError, match="no features 99"):
        cc.pl.top_genes(toy_run, 1, features=[0, 99])
    with pytest.raises(DataError, match="obs column 'donor'; tested: cell_type"):
        cc.pl.cell_labels(toy_run, 1, column="donor")
