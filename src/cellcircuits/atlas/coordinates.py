"""Where features stand on the map of their layer: features whose directions are alike stand close to each other.

Points are decoder rows of unit length, so that distance means angle; where there are no autoencoders, rows of top-gene
scores of unit length, reduced to 50 dimensions. Distances between far points mean nothing, and neither do axes.

======  =========================================  ===============================================
method  what                                       cost of a layer on one core
======  =========================================  ===============================================
tsne    t-SNE (scikit-learn), from the main axes   400 features 0.7 s, 1,000 1.3 s, 4,600 9 s
pca     the first two principal axes               below 0.1 s
======  =========================================  ===============================================

"auto" takes t-SNE up to TSNE_FEATURES features of a layer and principal axes beyond. Source: van der Maaten & Hinton
2008. (UMAP gives similar maps at a similar cost, after half a minute of compilation.)
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

TSNE_FEATURES = 6000
FEWEST = 10
"""Features below which there is nothing to arrange: principal axes are taken."""
GENE_AXES = 50


def map_features(
    features: pd.DataFrame,
    feature_genes: pd.DataFrame,
    directions: dict[int, np.ndarray],
    method: str = "auto",
    seed: int = 0,
) -> pd.DataFrame:
    """Coordinates of every feature on the map of its layer.

    Parameters
    ----------
    features
        Table `features`.
    feature_genes
        Table `feature_genes`: used for layers without directions.
    directions
        {layer: float (feature, d_model)}: decoder rows; layers may be missing.
    method
        "auto", "tsne" or "pca".
    seed
        Seed of the methods that draw.

    Returns
    -------
    DataFrame
        layer, feature, x, y (float32, within 0 to 1) and method, in order of layer and feature. Features that never
        fire have NaN: their directions were not learned.
    """
    parts = []
    for layer, rows in features.sort_values(["layer", "feature"]).groupby("layer"):
        number = rows["feature"].to_numpy()
        points = directions.get(int(layer))
        if points is None or number.max() >= len(points):
            points, source = _gene_points(feature_genes[feature_genes["layer"] == layer], number, seed), "top genes"
        else:
            points, source = points[number], "decoder"
        fires = (rows["n_firings"].to_numpy() > 0) & np.isfinite(points).all(axis=1) & (points != 0).any(axis=1)
        chosen = _method(method, int(fires.sum()))
        place = np.full((len(rows), 2), np.nan, dtype=np.float32)
        place[fires] = _arranged(_unit(points[fires]), chosen, seed)
        made = {"layer": rows["layer"], "feature": number, "x": place[:, 0], "y": place[:, 1]}
        parts.append(pd.DataFrame(made).assign(method=f"{chosen} of {source}"))
    columns = ["layer", "feature", "x", "y", "method"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _method(asked: str, n_features: int) -> str:
    if n_features < FEWEST:
        return "pca"
    if asked != "auto":
        return asked
    return "tsne" if n_features <= TSNE_FEATURES else "pca"


def _unit(points: np.ndarray) -> np.ndarray:
    points = points.astype(np.float32)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _gene_points(genes: pd.DataFrame, number: np.ndarray, seed: int) -> np.ndarray:
    """Features by their top-gene scores, along the main axes of these."""
    from sklearn.decomposition import TruncatedSVD

    known = genes[genes["feature"].isin(number)]
    column, names = pd.factorize(known["gene_id"], sort=True)
    row = np.searchsorted(number, known["feature"])
    matrix = sparse.csr_matrix((known["score"].astype(np.float32), (row, column)), (len(number), len(names)))
    if min(matrix.shape) <= GENE_AXES:
        return matrix.toarray()
    return TruncatedSVD(GENE_AXES, random_state=seed).fit_transform(matrix)


def _arranged(points: np.ndarray, method: str, seed: int) -> np.ndarray:
    if len(points) == 0:
        return np.zeros((0, 2), dtype=np.float32)
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(points) - 1) / 3)
        tsne = TSNE(init="pca", perplexity=perplexity, angle=0.7, max_iter=400, random_state=seed, n_jobs=1)
        found = tsne.fit_transform(points)
    else:
        found = _principal_axes(points)
    return _within_unit_square(found)


def _principal_axes(points: np.ndarray) -> np.ndarray:
    """The first two principal axes; each turned so that its largest entry is positive, for the same map every time."""
    centred = points - points.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, np.argsort(values)[::-1][:2]]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    found = centred @ axes
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


def _within_unit_square(found: np.ndarray) -> np.ndarray:
    low, span = found.min(axis=0), np.ptp(found, axis=0).max()
    return ((found - low) / (span if span > 0 else 1)).astype(np.float32)
