"""Rank tests and associations with cell labels, against scipy, scikit-learn and a loop; calibrated where nothing is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import hypergeom, mannwhitneyu

from cellcircuits import rank_tests as module
from cellcircuits.associations import association_columns, cell_labels
from cellcircuits.errors import DataError
from cellcircuits.rank_tests import rank_tests
from cellcircuits.settings import AnnotateSettings
from cellcircuits.stats import benjamini_hochberg


def tied_scores(rng, n_cells=70, n_columns=25):
    """Many zeros and many ties; one column is all 0, one is nowhere 0, one has a single value."""
    scores = rng.integers(1, 6, size=(n_cells, n_columns)) * (rng.random((n_cells, n_columns)) < 0.6)
    scores[:, 3], scores[:, 4], scores[:, 5] = 0, rng.permutation(n_cells) + 1, 2
    return scores.astype(np.float32)


def slow_p(inside: np.ndarray, outside: np.ndarray) -> float:
    """Mann-Whitney's p; that of the number of cells above 0, summed up, where few are and most are not."""
    n_inside, n_outside = len(inside), len(outside)
    n, above = n_inside + n_outside, int((inside > 0).sum() + (outside > 0).sum())
    if len({*inside, *outside}) == 1:
        return 1.0
    if above < n / 2 and above * min(n_inside, n_outside) / n < 10:
        pmf = hypergeom(n, above, n_inside).pmf
        x = int((inside > 0).sum())
        tails = [sum(pmf(i) for i in range(x + 1)), sum(pmf(i) for i in range(x, n_inside + 1))]
        return min(1.0, 2 * min(tails))
    return mannwhitneyu(inside, outside, method="asymptotic").pvalue


@pytest.mark.parametrize("entries", [4_000_000, 40])
@pytest.mark.parametrize("control", [None, 2])
def test_rank_tests_equal_scipy_and_sklearn(control, entries, monkeypatch):
    from sklearn.metrics import roc_auc_score

    monkeypatch.setattr(module, "ENTRIES_PER_BLOCK", entries)
    rng = np.random.default_rng(0)
    scores = tied_scores(rng)
    labels = rng.choice(4, len(scores), p=[0.4, 0.3, 0.2, 0.1])
    found = rank_tests(sp.csr_matrix(scores), labels, 4, control)
    for label in set(range(4)) - {control}:
        inside = labels == label
        outside = ~inside if control is None else labels == control
        for column, values in enumerate(scores.T):
            test = mannwhitneyu(values[inside], values[outside], method="asymptotic")
            truth = np.repeat([1, 0], [inside.sum(), outside.sum()])
            auroc = roc_auc_score(truth, np.concatenate([values[inside], values[outside]]))
            assert found.auroc[column, label] == pytest.approx(auroc)
            assert found.auroc[column, label] == pytest.approx(test.statistic / inside.sum() / outside.sum())
            assert found.p_value[column, label] == pytest.approx(slow_p(values[inside], values[outside]))
            assert found.mean_inside[column, label] == pytest.approx(values[inside].mean())
            assert found.mean_outside[column, label] == pytest.approx(values[outside].mean())


@pytest.mark.parametrize("control", [None, 0])
def test_rank_tests_are_calibrated_where_labels_are_random(control):
    rng = np.random.default_rng(1)
    scores = sp.random_array((300, 3000), density=0.3, rng=rng, format="csr")
    labels = np.arange(300) % 5
    p = rank_tests(scores, labels, 5, control).p_value[:, 1:].ravel()
    for level in (0.05, 0.01):
        assert 0.7 * level < (p <= level).mean() < 1.1 * level
    assert benjamini_hochberg(p).min() > 0.05


@pytest.mark.parametrize("control", [None, 0])
def test_one_cell_of_a_small_label_is_no_discovery(control):
    """Features that fire in few cells: the normal approximation would give p = 1e-10 for a single cell."""
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1, 2], [1900, 70, 30])
    scores = sp.lil_matrix((2000, 400), dtype=np.float32)
    for column in range(400):
        scores[rng.choice(2000, 1 + column % 40, replace=False), column] = rng.random(1 + column % 40) + 0.1
    scores[1970, 0] = 1.0
    found = rank_tests(sp.csr_matrix(scores), labels, 3, control).p_value[:, 1:]
    for level in (0.05, 0.01, 1e-3):
        assert (found <= level).mean() <= 1.2 * level
    assert benjamini_hochberg(found.ravel()).min() > 0.05
    # many cells of the label, and few others, are one
    scores[1970:1985, 5] = 1.0
    assert rank_tests(sp.csr_matrix(scores), labels, 3, control).p_value[5, 2] < 1e-12


def obs_of(labels):
    return pd.DataFrame({"cell_type": labels, "donor": ["d1", "d2"] * (len(labels) // 2)})


def test_the_table_is_a_loop_over_features_and_labels():
    rng = np.random.default_rng(2)
    scores = tied_scores(rng, 60, 8)
    labels = np.array(["T", "B", "NK", "rare"] * 15, dtype=object)
    labels[labels == "rare"] = None
    labels[3] = "rare"
    table = cell_labels(4, sp.csr_matrix(scores), obs_of(labels), ["cell_type", "donor"], 5)
    alive = [f for f in range(8) if scores[:, f].any()]
    groups = [("cell_type", x) for x in ("B", "NK", "T")] + [("donor", "d1"), ("donor", "d2")]
    assert {*zip(table["feature"], table["column"], table["label"], strict=True)} == {
        (f, *g) for f in alive for g in groups
    }
    assert len(table) == len(alive) * 5 and (table["layer"] == 4).all()
    for row in table.to_dict("records"):
        column = obs_of(labels)[row["column"]]
        inside, outside = column == row["label"], (column != row["label"]) & column.notna()
        values = scores[:, row["feature"]]
        assert row["n_cells"] == inside.sum()
        assert row["mean_outside"] == pytest.approx(values[outside].mean())
        assert row["p_value"] == pytest.approx(slow_p(values[inside], values[outside]), rel=1e-6)
    np.testing.assert_allclose(table["q_value"], benjamini_hochberg(table["p_value"].to_numpy()))


def test_a_layer_without_features_or_columns_gives_an_empty_table():
    scores = sp.csr_matrix(np.ones((60, 2), dtype=np.float32))
    assert cell_labels(0, scores, obs_of(["T", "B"] * 30), [], 5).empty
    assert cell_labels(0, sp.csr_matrix((60, 2)), obs_of(["T", "B"] * 30), ["cell_type"], 5).empty
    assert cell_labels(0, scores, obs_of(["T"] * 60), ["cell_type"], 5).empty


def test_columns_by_default_and_on_demand():
    obs = obs_of(["T", "B"] * 30).assign(age=np.arange(60.0), lane="1")
    assert association_columns(obs, AnnotateSettings()) == ["cell_type"]
    assert association_columns(obs, AnnotateSettings(), "donor") == ["donor", "cell_type"]
    assert association_columns(obs, AnnotateSettings(), "cell_type") == ["cell_type"]
    assert association_columns(obs.drop(columns="cell_type"), AnnotateSettings(), "lane") == []
    assert association_columns(obs, AnnotateSettings(associate=["donor"]), "cell_type") == ["donor"]
    for column, words in (("batch", "names the obs column 'batch'"), ("age", "60 labels"), ("lane", "1 labels")):
        with pytest.raises(DataError, match=words):
            association_columns(obs, AnnotateSettings(associate=[column]))
