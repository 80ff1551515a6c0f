"""A made-up perturbation screen with a known network, as AnnData in the layout of published screens."""

from __future__ import annotations

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp


@dataclass(frozen=True)
class SyntheticScreen:
    """Cells and the truth behind them."""

    cells: ad.AnnData
    """Raw counts; obs gene, guide, cell_line, gem_group; var index: symbols."""
    effects: pd.DataFrame
    """source_gene, target_gene, log_fc: log2 change of the target when the source is knocked down."""


def synthetic_screen(
    seed: int = 0,
    n_genes: int = 200,
    n_sources: int = 12,
    n_targets: int = 10,
    effect: float = 1.0,
    efficacy: float = 0.8,
    n_guides: int = 3,
    n_control_guides: int = 8,
    cells_per_guide: int = 20,
    cell_lines: tuple[str, ...] = ("K562",),
    guide_sd: float = 0.1,
    dispersion: float = 0.3,
    depth: float = 2000.0,
    control: str = "non-targeting",
) -> SyntheticScreen:
    """Negative-binomial counts of cells in which one gene each is knocked down.

    mean_cg = depth_c share_g(cell line) 2^(change_g of the perturbation + guide_sd normal), variance mean + dispersion
    mean^2. A source's own transcript falls to 1 - efficacy of its level; each of its `n_targets` targets changes by
    `effect` (log2) in a random direction; with effect 0 nothing but the source itself changes.
    """
    rng = np.random.default_rng(seed)
    genes = np.array([f"G{i}" for i in range(n_genes)], dtype=object)
    sources = rng.choice(n_genes, size=n_sources, replace=False)
    change, effects = _network(rng, genes, sources, n_targets, effect, efficacy)
    labels = [*genes[sources], control]
    guides = [
        (row, k) for row in range(n_sources + 1) for k in range(n_guides if row < n_sources else n_control_guides)
    ]
    log_share = rng.normal(0, 1, n_genes)
    blocks, obs = [], []
    for line in cell_lines:
        share = np.exp(log_share + rng.normal(0, 0.5, n_genes))
        for row, k in guides:
            level = np.log2(share / share.sum()) + change[row] + guide_sd * rng.normal(size=n_genes)
            size = depth * np.exp(rng.normal(0, 0.3, cells_per_guide))
            mean = size[:, None] * 2**level
            blocks.append(rng.negative_binomial(1 / dispersion, 1 / (1 + dispersion * mean)).astype(np.int32))
            names = {"gene": labels[row], "guide": f"{labels[row]}_{k + 1}", "cell_line": line}
            obs.append(pd.DataFrame(names, index=range(cells_per_guide)))
    table = pd.concat(obs, ignore_index=True)
    table["gem_group"] = rng.integers(1, 4, len(table)).astype(str)
    table.index = [f"cell{i}" for i in range(len(table))]
    cells = ad.AnnData(sp.csr_matrix(np.vstack(blocks)), obs=table, var=pd.DataFrame(index=genes.astype(str)))
    return SyntheticScreen(cells, effects)


def _network(
    rng: np.random.Generator, genes: np.ndarray, sources: np.ndarray, n_targets: int, effect: float, efficacy: float
) -> tuple[np.ndarray, pd.DataFrame]:
    """(log2 change (perturbation, gene), the last row of the control; table of effects)."""
    change = np.zeros((len(sources) + 1, len(genes)))
    known = []
    for row, source in enumerate(sources):
        targets = rng.choice(np.delete(np.arange(len(genes)), source), size=n_targets, replace=False)
        signed = effect * rng.choice([-1.0, 1.0], size=n_targets)
        change[row, targets] = signed
        change[row, source] = np.log2(1 - efficacy)
        known.append(pd.DataFrame({"source_gene": genes[source], "target_gene": genes[targets], "log_fc": signed}))
    return change, pd.concat(known, ignore_index=True)
