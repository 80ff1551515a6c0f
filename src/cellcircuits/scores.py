"""Features in AnnData: how strongly each fires in every cell and on every gene, where scanpy finds it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.catalogue import FiringSums, count_firings
from cellcircuits.codes import stream_codes
from cellcircuits.counts import gene_names
from cellcircuits.errors import DataError, ModelError, listed
from cellcircuits.models.base import Model
from cellcircuits.run import Run
from cellcircuits.run_model import run_model
from cellcircuits.sae import check_saes, load_saes
from cellcircuits.settings import AnnotateSettings, CellsSettings
from cellcircuits.tables import read_table
from cellcircuits.tokens import Tokens

UNS = "cellcircuits"
SCORE = "mean activation over the gene positions of the cell"
LOADING = "sum of activations on the gene / (positions of the gene + min_firings), in the cells scored"


def cell_scores(
    model: Model, tokens: Tokens, saes: dict[int, SparseAutoencoder], batch_cells: int = 32, report=lambda n_cells: None
) -> dict[int, sp.csr_matrix]:
    """{layer: float32 (cell, feature)}: mean activation over the gene positions of every cell."""
    found: dict[int, list[sp.csr_matrix]] = {layer: [] for layer in saes}
    for batch in stream_codes(model, tokens, saes, batch_cells):
        for layer, codes in batch.codes.items():
            found[layer].append(batch.cell_means(codes))
        report(len(batch.by_cell[0]))
    return {layer: sp.csr_matrix(sp.vstack(parts)) for layer, parts in found.items()}


@dataclass(frozen=True)
class _Scorer:
    """What scores cells, from a run or as given."""

    model: Model
    sae: SparseAutoencoder
    cells: CellsSettings
    min_firings: int
    labels: dict[int, str]


def score_cells(
    source: Run | Model,
    adata: ad.AnnData,
    layer: int,
    saes: dict[int, SparseAutoencoder] | None = None,
    batch_cells: int = 32,
) -> None:
    """Score the features of a layer in the cells of `adata`, in place.

    Written, for layer 3:

    * ``adata.obsm["X_cellcircuits_L03"]``: float32 (cell, feature), sparse; mean activation over the gene positions.
    * ``adata.varm["cellcircuits_L03"]``: float32 (gene, feature), sparse; the score by which top genes are picked,
      counted in these cells; 0 for genes that the model does not know.
    * ``adata.uns["cellcircuits"]["L03"]``: names and labels of the features, and where the numbers come from.

    Parameters
    ----------
    source
        A run (`cc.open_run`), whose model, autoencoders and input mode are used; or a model, with `saes`.
    adata
        Cells with raw counts, any that the model can read. Every cell needs a gene that the model knows.
    saes
        Autoencoders by layer, if `source` is a model.

    Raises
    ------
    DataError, ModelError
        If the cells cannot be tokenised, or there is no autoencoder for the layer.
    """
    scorer = _scorer(source, layer, saes)
    tokens = scorer.model.tokenize(adata, scorer.cells)
    found = count_firings(scorer.model, tokens, {layer: scorer.sae}, batch_cells, scored=np.arange(len(tokens)))[layer]
    key = f"L{layer:02d}"
    adata.obsm[f"X_cellcircuits_{key}"] = found.scores
    adata.varm[f"cellcircuits_{key}"] = _loadings(found, tokens, adata, scorer)
    known = dict(adata.uns.get(UNS, {}))
    known[key] = {
        "layer": layer,
        "features": np.array([f"L{layer}_F{i}" for i in range(scorer.sae.n_features)], dtype=object),
        "labels": np.array([scorer.labels.get(i, "") for i in range(scorer.sae.n_features)], dtype=object),
        "score": SCORE,
        "loading": LOADING,
        "min_firings": scorer.min_firings,
        "model": scorer.model.name,
        "model_fingerprint": scorer.model.fingerprint(),
        "input_mode": scorer.cells.input_mode,
        "run": str(source.folder) if isinstance(source, Run) else "",
        "cellcircuits_version": version("cellcircuits"),
    }
    adata.uns[UNS] = known


def feature_adata(adata: ad.AnnData, layer: int) -> ad.AnnData:
    """An AnnData with features in the place of genes, for scanpy: ``sc.pl.umap(features, color="L3_F12")``.

    X holds the scores that `score_cells` wrote; obs, obsm and obsp are those of `adata`, var has the labels.

    Raises
    ------
    DataError
        If the layer was not scored.
    """
    key = f"L{layer:02d}"
    known = adata.uns.get(UNS, {})
    if key not in known:
        raise DataError(
            f"adata has no scores of layer {layer}; it has those of {listed(known) or 'none'}. "
            f"Make them with cellcircuits.score_cells(run, adata, layer={layer})."
        )
    var = pd.DataFrame({"label": known[key]["labels"]}, index=pd.Index(known[key]["features"], dtype=object))
    found = ad.AnnData(sp.csr_matrix(adata.obsm[f"X_cellcircuits_{key}"]), obs=adata.obs.copy(), var=var)
    found.obsm = {name: value for name, value in adata.obsm.items() if not name.startswith("X_cellcircuits_")}
    found.obsp = dict(adata.obsp)
    found.uns = {name: value for name, value in adata.uns.items() if name != UNS} | {UNS: {key: known[key]}}
    return found


def _scorer(source: Run | Model, layer: int, saes: dict[int, SparseAutoencoder] | None) -> _Scorer:
    if not isinstance(source, Run):
        if saes is None:
            raise ModelError("A model alone cannot score cells: give its autoencoders, saes = cc.load_saes(folder).")
        check_saes(saes, source.d_model, source.n_layers, CellsSettings().input_mode)
        sae = _sae(saes, layer).to(source.device)
        return _Scorer(source, sae, CellsSettings(), AnnotateSettings().min_firings, {})
    source.require("train")
    model, labels = run_model(source), {}
    if source.status("annotate").state == "done":
        features = read_table("features", source.path("annotate"))
        labels = features[features["layer"] == layer].set_index("feature")["label"].to_dict()
    sae = _sae(load_saes(source.path("train")), layer).to(model.device)
    # a cell left out would shift the rows of all after it
    cells = CellsSettings(**{**vars(source.settings.cells), "empty_cells": "error"})
    return _Scorer(model, sae, cells, source.settings.annotate.min_firings, labels)


def _sae(saes: dict[int, SparseAutoencoder], layer: int) -> SparseAutoencoder:
    if layer not in saes:
        raise ModelError(f"There is no autoencoder for layer {layer}; there are some for layers {listed(saes, 20)}.")
    return saes[layer]


def _loadings(found: FiringSums, tokens: Tokens, adata: ad.AnnData, scorer: _Scorer) -> sp.csr_matrix:
    """float32 (gene of adata, feature)."""
    token = gene_tokens(adata.var, tokens, scorer.cells)
    scale = sp.diags_array(1 / (tokens.count_genes() + scorer.min_firings))
    by_token = sp.csr_matrix(scale @ found.activations.T, dtype=np.float32)
    known = np.flatnonzero(token >= 0)
    place = sp.csr_matrix((np.ones(len(known), np.float32), (known, token[known])), (len(token), by_token.shape[0]))
    return sp.csr_matrix(place @ by_token)


def gene_tokens(var: pd.DataFrame, tokens: Tokens, settings: CellsSettings) -> np.ndarray:
    """Token of every gene of `var` by its Ensembl id, or else its symbol; int64, -1 where there is none."""
    found = np.full(len(var), -1, dtype=np.int64)
    for names in gene_names(var, settings):
        for known in (tokens.gene_ids, tokens.gene_symbols):
            if names is None or not len(known):
                continue
            index = {name.upper(): i for i, name in reversed(list(enumerate(known))) if name}
            matched = np.array([index.get(str(name).upper(), -1) for name in names], dtype=np.int64)
            found = np.where(found >= 0, found, matched)
    return found
