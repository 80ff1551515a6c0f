"""What an autoencoder's features are compared with: dictionaries that need no autoencoder, read in the same way.

    neurons   the coordinates of the residual stream
    pca       its principal components
    ica       independent components (FastICA) within the space of the largest principal components

Each direction a gives two features that are never negative: its coordinate and the negative of it. As many features as
the autoencoder has active on average, the k largest of a position, are active; all others are 0:

    z(+a) = max((h - mean) w_a |a|, 0)        z(-a) = max(-(h - mean) w_a |a|, 0)

w_a reads the coordinate (a itself, where directions are orthogonal), |a| measures it in units of the residual stream.
So decoder rows have unit norm and activations are lengths, as in the autoencoders trained here, and gene lists, gene
sets and cells of these features are found by the very code that finds those of the autoencoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from cellcircuits.activations import stream_activations
from cellcircuits.autoencoders import SparseAutoencoder, SparseCode, TopKSAE
from cellcircuits.catalogue import FiringSums
from cellcircuits.models.base import Model
from cellcircuits.settings import AnnotateSettings
from cellcircuits.tokens import Tokens
from cellcircuits.top_k import top_k_indices

POSITIONS_PER_CELL = 100
"""Positions of one cell from which a baseline is fitted, at most: more cells say more than more of their genes."""
SMALLEST_VARIANCE = 1e-6
"""Principal components with less of the largest one's variance are rounding, and no space to look for others in."""
ICA_STEPS = 200
ICA_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Axes:
    """Directions of one layer's states, before they are split by sign."""

    mean: np.ndarray
    """float64 (d_model,)."""
    read: np.ndarray
    """float64 (d_model, axis): columns w_a |a|."""
    directions: np.ndarray
    """float64 (axis, d_model): rows a / |a|."""
    n_steps: int = 0
    """Steps until FastICA converged; `ICA_STEPS` if it did not."""


def sample_states(
    model: Model, tokens: Tokens, layers: list[int], settings: AnnotateSettings, batch_cells: int
) -> dict[int, np.ndarray]:
    """{layer: float32 (position, d_model)} of `settings.baseline_positions` random gene positions, from one pass.

    The pass is over random cells, as many as give that number with `POSITIONS_PER_CELL` of each.
    """
    rng = np.random.default_rng(settings.seed)
    order = rng.permutation(len(tokens))
    available = np.minimum(tokens.gene_mask.sum(axis=1)[order], POSITIONS_PER_CELL)
    n_cells = min(int(np.searchsorted(np.cumsum(available), settings.baseline_positions)) + 1, len(tokens))
    states: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
    for batch in stream_activations(model, tokens, layers, batch_cells, order[:n_cells]):
        # in random order, the first ones of every cell
        shuffled = rng.permutation(len(batch.cells))
        by_cell = shuffled[np.argsort(batch.cells[shuffled], kind="stable")]
        cells = batch.cells[by_cell]
        rank = np.arange(len(cells)) - np.searchsorted(cells, cells)
        chosen = np.sort(by_cell[rank < POSITIONS_PER_CELL])
        for layer in layers:
            states[layer].append(batch.layers[layer][torch.from_numpy(chosen)].float().cpu().numpy())
    return {layer: np.concatenate(parts)[: settings.baseline_positions] for layer, parts in states.items()}


def active_features(sae: SparseAutoencoder, states: np.ndarray) -> int:
    """Mean number of active features over positions (position, d_model), rounded; at least 1."""
    code = sae.encode(torch.from_numpy(states).to(sae.W_dec.device))
    return max(1, round(float((code.values > 0).sum(dim=-1).double().mean())))


# ------------------------------------------------------------------------------------------------ directions


def neurons(states: np.ndarray) -> Axes:
    """The coordinates of the residual stream, about their mean."""
    mean = states.mean(axis=0, dtype=np.float64)
    return Axes(mean, np.eye(len(mean)), np.eye(len(mean)))


def principal_components(states: np.ndarray) -> tuple[Axes, np.ndarray]:
    """Orthogonal axes, the largest variance first, and their variances; what is only rounding is left out."""
    mean = states.mean(axis=0, dtype=np.float64)
    centred = states - mean
    variances, vectors = np.linalg.eigh(centred.T @ centred / len(states))
    variances, vectors = variances[::-1], vectors[:, ::-1]
    kept = variances > SMALLEST_VARIANCE * variances[0]
    # the sign of an eigenvector is free: its largest entry is positive
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    return Axes(mean, vectors[:, kept], vectors[:, kept].T), variances[kept]


def independent_components(states: np.ndarray, n_components: int, seed: int) -> Axes:
    """FastICA (log cosh, symmetric) of the states within at most `n_components` of the largest principal components.

    Whitened states x = D^(-1/2) V'(h - mean) have independent coordinates W x; h - mean is the sum of these times the
    rows of W D^(1/2) V', which are the directions a.
    """
    import warnings

    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    axes, variances = principal_components(states)
    vectors, scale = axes.read[:, :n_components], np.sqrt(variances[:n_components])
    white = ((states - axes.mean) @ (vectors / scale)).astype(np.float32)
    ica = FastICA(whiten=False, random_state=seed, max_iter=ICA_STEPS, tol=ICA_TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said by n_steps
        ica.fit(white)
    mixing = ica.components_ * scale @ vectors.T
    norms = np.linalg.norm(mixing, axis=1)
    return Axes(axes.mean, (vectors / scale) @ ica.components_.T * norms, mixing / norms[:, None], int(ica.n_iter_))


def find_axes(kind: str, states: np.ndarray, settings: AnnotateSettings) -> Axes:
    """The axes of a baseline by its name in `annotate.baselines`."""
    if kind == "neurons":
        return neurons(states)
    if kind == "pca":
        return principal_components(states)[0]
    return independent_components(states, settings.baseline_components, settings.seed)


class SplitAxes(TopKSAE):
    """A TopK dictionary with two features per axis, 2 j for its positive side and 2 j + 1 for its negative one.

    At most one of the two is above 0, so the k largest of all are on the k axes with the largest absolute values: half
    of the products.
    """

    axes: torch.Tensor
    """float32 (d_model, axis): reads the coordinates, the even columns of W_enc."""

    def __init__(self, axes: Axes, k: int) -> None:
        n_axes, width = axes.directions.shape
        super().__init__(width, 2 * n_axes, min(k, n_axes))
        read = np.stack([axes.read, -axes.read], axis=2).reshape(width, 2 * n_axes)
        write = np.stack([axes.directions, -axes.directions], axis=1).reshape(2 * n_axes, width)
        weights = {"W_enc": read, "W_dec": write, "b_enc": np.zeros(2 * n_axes), "b_dec": axes.mean, "b_in": axes.mean}
        self.load_state_dict({name: torch.from_numpy(value).float() for name, value in weights.items()})
        self.register_buffer("axes", torch.from_numpy(axes.read).float().contiguous(), persistent=False)
        self.eval().requires_grad_(False)

    def encode(self, hidden: torch.Tensor) -> SparseCode:
        """The k largest features of hidden states (..., d_model)."""
        values = (hidden - self.b_in) @ self.axes
        indices = top_k_indices(values.abs(), self.k)
        values = values.gather(-1, indices)
        return SparseCode(values.abs(), 2 * indices + (values < 0))


def fit_baselines(
    states: np.ndarray, sae: SparseAutoencoder, settings: AnnotateSettings
) -> tuple[dict[str, SparseAutoencoder], dict[str, int]]:
    """The dictionaries of `settings.baselines` for one layer, and {kind: steps of FastICA}.

    They are active at as many features per position as the autoencoder is at these states, on average.
    """
    k = active_features(sae, states)
    made: dict[str, SparseAutoencoder] = {}
    steps: dict[str, int] = {}
    for kind in dict.fromkeys(settings.baselines):
        axes = find_axes(kind, states, settings)
        made[kind] = SplitAxes(axes, k).to(sae.W_dec.device)
        if kind == "ica":
            steps[kind] = axes.n_steps
    return made, steps


# ------------------------------------------------------------------------------------------------ one pass for all


@dataclass(frozen=True)
class SideBySide:
    """Dictionaries of one layer as one, so that one pass over the model counts the firings of all."""

    parts: Mapping[str, SparseAutoencoder]

    @property
    def n_features(self) -> int:
        """Features of all dictionaries, one after the other."""
        return sum(sae.n_features for sae in self.parts.values())

    def encode(self, hidden: torch.Tensor) -> SparseCode:
        """The codes of hidden states (..., d_model), one after the other."""
        first, codes = 0, []
        for sae in self.parts.values():
            code = sae.encode(hidden)
            codes.append(SparseCode(code.values, code.indices + first))
            first += sae.n_features
        values, indices = (torch.cat(parts, dim=-1) for parts in zip(*codes, strict=True))
        return SparseCode(values, indices)

    def split(self, sums: FiringSums) -> dict[str, FiringSums]:
        """What was counted, by dictionary."""
        if len(self.parts) == 1:
            return {name: sums for name in self.parts}
        found, first = {}, 0
        for name, sae in self.parts.items():
            own = slice(first, first + sae.n_features)
            scores = None if sums.scores is None else sums.scores[:, own]
            found[name] = FiringSums(sums.firings[own], sums.activations[own], sums.n_cells[own], scores)
            first += sae.n_features
        return found
