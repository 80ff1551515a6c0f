"""What features fire on, against loops over positions, and the tables of a whole layer."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import scipy.sparse as sp

import cellcircuits as cc
from cellcircuits.annotation import Annotator
from cellcircuits.catalogue import FiringSums, background_tokens, count_firings, name_features, top_genes
from cellcircuits.codes import SparseSum
from cellcircuits.references import GeneSets
from cellcircuits.settings import AnnotateSettings

pytestmark = pytest.mark.usefixtures("one_thread")


# ------------------------------------------------------------------------------------------------ firings


def test_firings_equal_a_loop_over_positions(demo_model, demo_tokens, quick_saes):
    tokens = demo_tokens.take([0, 200, 400, 600, 699])
    saes = {layer: quick_saes[layer] for layer in (0, 3)}
    reported = []
    sums = count_firings(demo_model, tokens, saes, 2, reported.append)
    firings, activations, cells = (defaultdict(float), defaultdict(float), defaultdict(set))
    for row in range(len(tokens)):
        cell = tokens.take([row])
        for layer, hidden in demo_model.run_layers(demo_model.embed(cell), cell, 0, 4):
            if layer not in saes:
                continue
            for position in np.flatnonzero(cell.gene_mask[0]):
                code, token = saes[layer].encode(hidden[0, position]), cell.ids[0, position]
                for feature, value in zip(code.indices.tolist(), code.values.tolist(), strict=True):
                    if value > 0:
                        firings[layer, feature, token] += 1
                        activations[layer, feature, token] += value
                        cells[layer, feature].add(row)
    assert sum(reported) == 5
    for layer, total in sums.items():
        expected_firings, expected_sums = (np.zeros(total.firings.shape) for _ in range(2))
        for (at, feature, token), count in firings.items():
            if at == layer:
                expected_firings[feature, token] = count
                expected_sums[feature, token] = activations[at, feature, token]
        # in another batch a value may change in its last digits, and a feature at the edge of the top k with it
        assert (expected_firings != total.firings.toarray()).mean() < 1e-4
        np.testing.assert_allclose(total.activations.toarray().sum(1), expected_sums.sum(1), rtol=2e-3, atol=0.05)
        n_cells = [len(cells[layer, f]) for f in range(len(total.n_cells))]
        assert np.abs(total.n_cells - n_cells).sum() <= 2


def test_top_genes_equal_a_loop():
    rng = np.random.default_rng(0)
    n_features, n_tokens = 7, 50
    firings = rng.poisson(6, size=(n_features, n_tokens)) * (rng.random((n_features, n_tokens)) < 0.5)
    activations = firings * rng.choice([0.5, 1.0, 2.0], size=firings.shape)
    per_token = firings.max(axis=0) + rng.integers(0, 10, n_tokens)
    sums = FiringSums(sp.csr_matrix(firings, dtype=float), sp.csr_matrix(activations), np.zeros(n_features, int))
    settings = AnnotateSettings(top_genes=5, min_firings=4)
    found = top_genes(sums, per_token, settings)
    expected = []
    for feature in range(n_features):
        enough = [t for t in range(n_tokens) if firings[feature, t] >= 4]
        score = {t: activations[feature, t] / (per_token[t] + 4) for t in enough}
        best = sorted(enough, key=lambda t: (-score[t], t))[:5]
        expected += [
            (feature, rank, t, firings[feature, t], per_token[t], score[t]) for rank, t in enumerate(best, start=1)
        ]
    columns = ["feature", "rank", "token", "n_firings", "n_positions", "score"]
    np.testing.assert_allclose(found[columns], expected)


def test_a_gene_with_little_support_is_drawn_towards_zero():
    """Strong on 4 of 4 positions comes after weaker on 100 of 100."""
    sums = FiringSums(sp.csr_matrix([[4.0, 100.0]]), sp.csr_matrix([[4 * 2.0, 100 * 1.0]]), np.ones(1, int))
    assert list(top_genes(sums, np.array([4, 100]), AnnotateSettings(min_firings=4))["token"]) == [0, 1]
    assert list(top_genes(sums, np.array([4, 100]), AnnotateSettings(min_firings=3))["token"]) == [0, 1]
    weaker = FiringSums(sums.firings, sp.csr_matrix([[4 * 1.5, 100 * 1.0]]), np.ones(1, int))
    assert list(top_genes(weaker, np.array([4, 100]), AnnotateSettings(min_firings=4))["token"]) == [1, 0]


# ------------------------------------------------------------------------------------------------ a whole layer


def named_layer(layer, sums, tokens, norms, sets, settings):
    symbols = tokens.gene_symbols[background_tokens(tokens.count_genes(), settings)]
    return name_features(layer, sums, tokens, norms, Annotator(symbols, sets, [], settings), settings)


@pytest.fixture
def named(toy_cells):
    model = cc.load_model("toy")
    tokens = model.tokenize(toy_cells)
    saes = model.saes()
    sums = count_firings(model, tokens, saes, 16)
    # the genes on which feature 0 of layer 1 is strongest
    n_positions = np.bincount(tokens.ids[tokens.gene_mask], minlength=44)
    strength = sums[1].activations.toarray()[0] / (n_positions + 5)
    strong = frozenset(tokens.gene_symbols[np.argsort(-strength)[:6]])
    sets = [GeneSets("c", {"genes of 1/0": strong, "others": frozenset(f"GENE{i}" for i in range(9))})]
    settings = AnnotateSettings(top_genes=6, min_firings=5)
    return named_layer(1, sums[1], tokens, np.full(6, 1.5), sets, settings), tokens, sums[1]


def test_the_features_table_counts_what_fired(named):
    table, tokens, sums = named[0]["features"], named[1], named[2]
    firings = sums.firings.toarray()
    assert list(table["layer"].unique()) == [1] and list(table["feature"]) == list(range(6))
    for row in table.to_dict("records"):
        mine = firings[row["feature"]]
        assert row["n_firings"] == mine.sum()
        assert row["firing_rate"] == pytest.approx(mine.sum() / tokens.n_positions)
        assert row["n_unique_genes"] == (mine > 0).sum()
        assert row["mean_activation"] == pytest.approx(sums.activations[row["feature"]].sum() / mine.sum())
        assert row["n_cells"] == sums.n_cells[row["feature"]] <= 60
        assert row["decoder_norm"] == 1.5


def test_the_features_table_carries_label_and_score(named):
    features, terms, genes = (named[0][name] for name in ("features", "terms", "feature_genes"))
    assert features["label"][0] == "genes of 1/0"
    for row in features.to_dict("records"):
        mine = terms[terms["feature"] == row["feature"]]
        assert row["n_terms"] == len(mine)
        assert row["top_genes"] == ";".join(genes["symbol"][genes["feature"] == row["feature"]])
        if len(mine):
            assert (row["label"], row["label_q"]) == (mine["term"].iloc[0], mine["q_value"].min())
            score = 10 * mine["collection"].nunique() + len(mine) - np.log10(mine["q_value"].min())
            assert row["annotation_score"] == pytest.approx(score)
        else:
            assert (row["label"], row["annotation_score"]) == ("", 0) and np.isnan(row["label_q"])


def test_the_summary_of_a_layer(named):
    features, terms = named[0]["features"], named[0]["terms"]
    summary = named[0]["summary"]
    assert summary["n_features"] == summary["n_alive"] == summary["n_with_gene_list"] == 6
    assert summary["n_annotated"] == terms["feature"].nunique() == (features["label"] != "").sum()
    assert summary["annotated_share"] == pytest.approx(summary["n_annotated"] / 6)
    assert summary["n_background_genes"] == 40


def test_a_layer_of_dead_features(toy_cells):
    tokens = cc.load_model("toy").tokenize(toy_cells)
    empty = sp.csr_matrix((6, len(tokens.gene_ids)))
    sets = [GeneSets("c", {"a": frozenset(f"GENE{i}" for i in range(9))})]
    found = named_layer(0, FiringSums(empty, empty, np.zeros(6, int)), tokens, np.ones(6), sets, AnnotateSettings())
    assert (found["features"]["n_firings"] == 0).all() and (found["features"]["label"] == "").all()
    assert len(found["terms"]) == len(found["feature_genes"]) == 0
    assert found["summary"]["n_alive"] == found["summary"]["n_annotated"] == 0


# ------------------------------------------------------------------------------------------------ scores of cells


def test_scores_are_mean_activations_over_the_gene_positions(toy_cells):
    model = cc.load_model("toy")
    tokens, saes = model.tokenize(toy_cells), model.saes()
    scored = [3, 17, 18, 59]
    sums = count_firings(model, tokens, saes, 8, scored=scored)
    for layer, hidden in model.run_layers(model.embed(tokens), tokens, 0, 3):
        for place, row in enumerate(scored):
            codes = saes[layer].encode(hidden[row][tokens.gene_mask[row]]).dense(6).numpy()
            np.testing.assert_allclose(sums[layer].scores[[place]].toarray()[0], codes.mean(axis=0), rtol=1e-5)
        assert sums[layer].scores.shape == (4, 6)


def test_many_sparse_matrices_add_up():
    rng = np.random.default_rng(0)
    parts = [sp.random_array((30, 20), density=rng.uniform(0.01, 0.5), rng=rng, format="csr") for _ in range(12)]
    total = SparseSum((30, 20))
    for part in parts:
        total.add(part.copy())
    np.testing.assert_allclose(total.total().toarray(), sum(part.toarray() for part in parts))
    assert SparseSum((3, 4)).total().nnz == 0
