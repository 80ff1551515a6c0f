"""How well autoencoders describe activations that they were not trained on, and what chance would make of each number.

variance explained   1 - sum |h - h'|^2 / sum |h - mean h|^2, over held-out gene positions
of PCA               share of the k largest eigenvalues of the covariance of the same positions, k = L0 rounded
final state          1 - sum |h_L(h -> h') - h_L|^2 / sum |h_L(h -> mean h) - h_L|^2, over gene positions of some
recovered            held-out cells; h_L is the output of the last block, and h -> x puts x into the model at all
                     gene positions of the layer
loss recovered       1 - (loss with h' - loss) / (loss with mean h - loss), of masked genes (or their values) in the
                     same cells: 15 % of the gene positions of each are masked, once; h' and mean h are put into the
                     model at all gene positions; only for models with an output head
stable share         features that are found again by another seed: most pairs, one to one, whose decoder rows have
                     a cosine above 0.7, over features that fire; chance: random directions drawn from the
                     activations' covariance in place of the other seed's
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import nan
from typing import Any

import numpy as np
import torch

from cellcircuits.activations import stream_activations
from cellcircuits.autoencoders import SparseAutoencoder, SparseCode
from cellcircuits.models.base import Model
from cellcircuits.splicing import final_state_recovered, loss_recovered
from cellcircuits.tokens import Tokens

SAME_FEATURE = 0.7
"""Cosine of two decoder rows above which they count as the same feature."""
DENSITY_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Quality:
    """Quality of one autoencoder on held-out gene positions; NaN where it was not measured."""

    variance_explained: float
    """1 - sum |h - h'|^2 / sum |h - mean(h)|^2 over held-out gene positions."""
    pca_variance_explained: float
    """The same of the best linear subspace of as many dimensions as features are active, fitted to these positions."""
    final_state_recovered: float
    """1 - error of the last block's output with the reconstruction / with the mean in place of the state."""
    loss_recovered: float
    """1 - (masked loss with the reconstruction - loss) / (with the mean - loss), in the same cells."""
    l0: float
    """Mean number of active features per position."""
    dead_share: float
    """Share of features that fire at no held-out position."""
    density_q05: float
    """5 % quantile over features of the share of positions at which they fire."""
    density_q25: float
    """Lower quartile of the same."""
    density_q50: float
    """Median of the same."""
    density_q75: float
    """Upper quartile of the same."""
    density_q95: float
    """95 % quantile of the same."""
    decoder_norm_min: float
    """Smallest norm of a decoder row."""
    decoder_norm_median: float
    """Median norm of a decoder row."""
    decoder_norm_max: float
    """Largest norm of a decoder row."""
    stable_share: float
    """Share of firing features that the other seeds found too; mean over these."""
    stable_share_random: float
    """The same for random directions of the activations' covariance."""
    n_positions: int
    """Held-out gene positions."""
    n_cells_final: int
    """Held-out cells in which the final state was measured."""


def measure_quality(
    model: Model,
    tokens: Tokens,
    saes: Mapping[int, SparseAutoencoder],
    batch_cells: int,
    final_cells: int = 0,
    others: list[dict[int, SparseAutoencoder]] | None = None,
    seed: int = 0,
) -> dict[int, Quality]:
    """Quality of each layer's autoencoder on the gene positions of `tokens`, from one pass over the model.

    In `final_cells` of the cells reconstructions are put into the model. `others` are the autoencoders of other seeds.
    """
    sums = {layer: PositionSums(sae) for layer, sae in saes.items()}
    again = [{layer: PositionSums(other[layer]) for layer in saes} for other in others or []]
    for batch in stream_activations(model, tokens, list(saes), batch_cells):
        for layer, hidden in batch.layers.items():
            sums[layer].add(hidden)
            for other in again:
                other[layer].count(hidden)
    found = {layer: total.quality() for layer, total in sums.items()}
    for layer in found if again else ():
        stable = stability(sums[layer], [other[layer] for other in again], seed)
        found[layer] = replace(found[layer], stable_share=stable[0], stable_share_random=stable[1])
    rows = np.unique(np.linspace(0, len(tokens) - 1, min(final_cells, len(tokens))).astype(int))
    if len(rows):
        means = {layer: total.mean() for layer, total in sums.items()}
        recovered = final_state_recovered(model, tokens.take(rows), saes, means)
        losses = loss_recovered(model, tokens.take(rows), saes, means, seed) if model.output_name else {}
        for layer, share in recovered.items():
            found[layer] = replace(
                found[layer],
                final_state_recovered=share,
                loss_recovered=losses.get(layer, nan),
                n_cells_final=len(rows),
            )
    return found


class PositionSums:
    """Sums over positions, in float64."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae, self.device = sae, sae.W_dec.device
        self.n, self.error, self.squares = 0, 0.0, 0.0
        self.total = torch.zeros(sae.d_model, dtype=torch.float64, device=self.device)
        self.firings = torch.zeros(sae.n_features, dtype=torch.long, device=self.device)
        self.origin: torch.Tensor | None = None
        self.products = torch.zeros(sae.d_model, sae.d_model, dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def add(self, hidden: torch.Tensor) -> None:
        """Add positions (position, d_model)."""
        code = self.count(hidden)
        self.error += float((hidden - self.sae.decode(code)).double().square().sum())
        self.squares += float(hidden.double().square().sum())
        self.total += hidden.double().sum(dim=0)
        if self.origin is None:
            self.origin = hidden.mean(dim=0)
        # about some point near the mean: products of large numbers would leave nothing of small differences
        near = hidden - self.origin
        self.products += (near.T @ near).double()

    @torch.no_grad()
    def count(self, hidden: torch.Tensor) -> SparseCode:
        """Count firings only; gives the code of these positions."""
        code = self.sae.encode(hidden)
        self.n += len(hidden)
        self.firings += torch.bincount(code.indices[code.values > 0], minlength=self.sae.n_features)
        return code

    def mean(self) -> torch.Tensor:
        """Mean state, float32 (d_model,)."""
        return (self.total / self.n).float()

    def covariance(self) -> np.ndarray:
        """float64 (d_model, d_model), divided by the number of positions."""
        origin = torch.zeros_like(self.total) if self.origin is None else self.origin.double()
        shift = self.total / self.n - origin
        return (self.products / self.n - torch.outer(shift, shift)).cpu().numpy()

    def quality(self) -> Quality:
        """Everything that these sums say."""
        spread = self.squares - float(self.total.square().sum()) / self.n
        density = self.firings.double().cpu().numpy() / self.n
        norms = self.sae.W_dec.double().norm(dim=1).cpu().numpy()
        l0 = float(density.sum())
        measured: dict[str, Any] = {field.name: nan for field in fields(Quality)} | {
            "variance_explained": 1 - self.error / spread,
            "pca_variance_explained": pca_variance_explained(self.covariance(), round(l0)),
            "l0": l0,
            "dead_share": float((density == 0).mean()),
            "decoder_norm_min": float(norms.min()),
            "decoder_norm_median": float(np.median(norms)),
            "decoder_norm_max": float(norms.max()),
        }
        for quantile in DENSITY_QUANTILES:
            measured[f"density_q{round(100 * quantile):02d}"] = float(np.quantile(density, quantile))
        return Quality(**measured | {"n_positions": self.n, "n_cells_final": 0})


def pca_variance_explained(covariance: np.ndarray, k: int) -> float:
    """Share of the variance in the `k` principal components with the largest variance."""
    values = np.linalg.eigvalsh(covariance)[::-1].clip(min=0)
    return float(values[:k].sum() / values.sum()) if values.sum() > 0 else nan


# ------------------------------------------------------------------------------------------------ seeds


def stability(own: PositionSums, others: list[PositionSums], seed: int) -> tuple[float, float]:
    """(share of firing features that other seeds found too, the same for random directions); means over seeds."""
    rows = _firing_rows(own)
    if len(rows) == 0:
        return nan, nan
    rng = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(own.covariance())
    root = vectors * np.sqrt(values.clip(min=0))
    shares = []
    for other in others:
        found = _firing_rows(other)
        random = rng.standard_normal(found.shape) @ root.T
        shares.append([matched_share(rows, found), matched_share(rows, random)])
    return float(np.mean(shares, axis=0)[0]), float(np.mean(shares, axis=0)[1])


def _firing_rows(sums: PositionSums) -> np.ndarray:
    return sums.sae.W_dec[sums.firings > 0].double().cpu().numpy()


def matched_share(first: np.ndarray, second: np.ndarray, cosine: float = SAME_FEATURE) -> float:
    """Largest share of the rows of `first` that can be paired, one to one, with rows of `second` of a larger cosine."""
    import scipy.sparse as sp
    from scipy.sparse.csgraph import maximum_bipartite_matching

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    alike = sp.csr_matrix(unit(first) @ unit(second).T > cosine)
    return float((maximum_bipartite_matching(alike, perm_type="column") >= 0).mean())
