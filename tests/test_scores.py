"""Features in AnnData: the numbers against loops, the places where scanpy looks, and what is refused."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import cellcircuits as cc
from cellcircuits.errors import DataError, ModelError
from cellcircuits.scores import cell_scores, gene_tokens
from cellcircuits.settings import CellsSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def scored(toy_run, toy_cells) -> ad.AnnData:
    cc.score_cells(toy_run, toy_cells, layer=1)
    return toy_cells


def dense_codes(adata, layer):
    """Tokens, and the dense code (cell, position, feature) of the toy model."""
    model = cc.load_model("toy")
    tokens = model.tokenize(adata)
    hidden = dict(model.run_layers(model.embed(tokens), tokens, 0, 3))[layer]
    return tokens, model.saes()[layer].encode(hidden).dense(6).numpy()


def test_scores_and_loadings_are_loops(scored, toy_run):
    tokens, codes = dense_codes(scored, 1)
    scores, loadings = scored.obsm["X_cellcircuits_L01"], scored.varm["cellcircuits_L01"]
    assert scores.shape == (60, 6) and loadings.shape == (40, 6) and sp.issparse(scores) and sp.issparse(loadings)
    for cell in range(60):
        np.testing.assert_allclose(
            scores[[cell]].toarray()[0], codes[cell][tokens.gene_mask[cell]].mean(axis=0), rtol=1e-5
        )
    least = toy_run.settings.annotate.min_firings
    for gene, name in enumerate(scored.var_names):
        here = (tokens.gene_symbols[tokens.ids] == name) & tokens.gene_mask
        expected = codes[here].sum(axis=0) / (here.sum() + least)
        np.testing.assert_allclose(loadings[[gene]].toarray()[0], expected, rtol=1e-5)
    top = toy_run.feature_genes.query("layer == 1 and rank == 1").iloc[0]
    assert loadings[scored.var_names.get_loc(top["symbol"]), top["feature"]] == pytest.approx(top["score"], rel=1e-5)


def test_where_the_numbers_come_from_is_written(scored, toy_run, tmp_path):
    found = scored.uns["cellcircuits"]["L01"]
    labels = toy_run.features.query("layer == 1")["label"]
    assert list(found["labels"]) == list(labels) and list(found["features"]) == [f"L1_F{i}" for i in range(6)]
    assert found["model"] == "toy" and found["model_fingerprint"] == cc.load_model("toy").fingerprint()
    assert found["run"] == str(toy_run.folder) and found["input_mode"] == "official"
    cc.score_cells(toy_run, scored, layer=2)
    assert set(scored.uns["cellcircuits"]) == {"L01", "L02"}
    scored.write_h5ad(tmp_path / "scored.h5ad")
    again = ad.read_h5ad(tmp_path / "scored.h5ad")
    np.testing.assert_array_equal(
        again.obsm["X_cellcircuits_L02"].toarray(), scored.obsm["X_cellcircuits_L02"].toarray()
    )
    assert list(again.uns["cellcircuits"]["L01"]["labels"]) == list(labels)


def test_a_model_with_its_autoencoders_gives_the_same(scored, toy_cells):
    other, model = toy_cells.copy(), cc.load_model("toy")
    del other.obsm["X_cellcircuits_L01"], other.uns["cellcircuits"]
    cc.score_cells(model, other, 1, saes=model.saes())
    np.testing.assert_array_equal(
        other.obsm["X_cellcircuits_L01"].toarray(), scored.obsm["X_cellcircuits_L01"].toarray()
    )
    tokens = model.tokenize(other)
    alone = cell_scores(model, tokens, model.saes(), batch_cells=7)[1]
    np.testing.assert_allclose(alone.toarray(), other.obsm["X_cellcircuits_L01"].toarray(), rtol=1e-6)


def test_scanpy_takes_the_scores(scored):
    import scanpy as sc
    from matplotlib.figure import Figure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scanpy and its parts
        sc.pp.neighbors(scored, n_neighbors=5, use_rep="X_cellcircuits_L01")
        assert scored.obsp["connectivities"].shape == (60, 60)
        scored.obsm["X_pca"] = np.random.default_rng(0).random((60, 2))
        features = cc.feature_adata(scored, 1)
        ax = Figure().subplots()
        sc.pl.embedding(features, "pca", color="L1_F0", ax=ax, show=False)
        ranked = sc.get.obs_df(features, ["L1_F0", "cell_type"])
    drawn = ax.collections[0].get_array()
    assert sorted(drawn) == pytest.approx(sorted(scored.obsm["X_cellcircuits_L01"][:, [0]].toarray().ravel()))
    assert list(ranked["cell_type"]) == list(scored.obs["cell_type"])


def test_features_in_the_place_of_genes(scored):
    features = cc.feature_adata(scored, 1)
    np.testing.assert_array_equal(features.X.toarray(), scored.obsm["X_cellcircuits_L01"].toarray())
    assert list(features.var["label"]) == list(scored.uns["cellcircuits"]["L01"]["labels"])
    assert not [name for name in features.obsm if name.startswith("X_cellcircuits")]
    with pytest.raises(DataError, match=r"no scores of layer 2; it has those of L01"):
        cc.feature_adata(scored, 2)


def test_what_cannot_be_scored_is_refused(toy_run, toy_cells):
    with pytest.raises(ModelError, match="no autoencoder for layer 9; there are some for layers 0, 1, 2"):
        cc.score_cells(toy_run, toy_cells, 9)
    with pytest.raises(ModelError, match="give its autoencoders"):
        cc.score_cells(cc.load_model("toy"), toy_cells, 0)
    toy_cells.X[5] = 0
    with pytest.raises(DataError, match="1 of 60 cells have no counts"):
        cc.score_cells(toy_run, toy_cells, 0)


def test_genes_are_found_by_id_and_by_symbol(demo_model, demo_tokens, pbmc):
    token = gene_tokens(pbmc.var, demo_tokens, CellsSettings())
    known = np.zeros(len(demo_tokens.gene_ids), dtype=bool)
    known[token[token >= 0]] = True
    # every gene that stands in a cell is one of these
    assert known[np.unique(demo_tokens.ids[demo_tokens.gene_mask])].mean() > 0.99
    names = {name.upper() for name in [*demo_tokens.gene_ids, *demo_tokens.gene_symbols]}
    for gene, found in zip(pbmc.var_names[:300], token, strict=False):
        if found >= 0:
            assert gene.upper() in (demo_tokens.gene_symbols[found].upper(), demo_tokens.gene_ids[found].upper())
        else:
            assert gene.upper() not in names
    assert (gene_tokens(pd.DataFrame(index=["nothing", "here"]), demo_tokens, CellsSettings()) == -1).all()
