"""A toy model whose circuit is written by hand: for examples, plug-in authors, and the proof of the tracing engine.

Every layer has features of its own, each a direction of its own in the residual stream. A token switches features on
directly; on top of that, each planted edge makes block l add `strength` times the source's activation to the target:

    h[target, l] <- h[target, l] + sum over planted edges into it of strength * h[source, layer of source]

Nothing else is connected, so ablation must find the planted edges (and their chains), and only they.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import torch
from torch.nn.functional import cross_entropy

from cellcircuits.autoencoders import SparseAutoencoder, TopKSAE
from cellcircuits.counts import read_counts
from cellcircuits.gene_edits import Perturbation, delete_gene
from cellcircuits.models.base import Model
from cellcircuits.settings import CellsSettings
from cellcircuits.tokens import Tokens
from cellcircuits.vocabulary import assemble_tokens, map_genes

N_SPECIAL = 4
"""Token ids 0 to 3 are special, as in Geneformer V2."""
MASK = 1


class PlantedEdge(NamedTuple):
    """One connection: (source layer, source feature) drives (target layer, target feature)."""

    source_layer: int
    source: int
    target_layer: int
    target: int
    strength: float


DEFAULT_EDGES = (PlantedEdge(0, 0, 1, 0, 0.8), PlantedEdge(0, 1, 2, 1, -0.4), PlantedEdge(1, 0, 2, 2, 0.5))


class ToyModel(Model):
    """Three layers by default; genes are named GENE0, GENE1, ..."""

    name = "toy"
    output_name = "logit of the gene where it stands"

    def __init__(
        self,
        edges: tuple[PlantedEdge, ...] = DEFAULT_EDGES,
        n_layers: int = 3,
        features_per_layer: int = 6,
        n_genes: int = 40,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.n_layers, self.features_per_layer, self.n_genes = n_layers, features_per_layer, n_genes
        self.d_model = n_layers * features_per_layer
        rng = np.random.default_rng(seed)
        # each gene switches on about half of the features, by 1 to 2
        drive = rng.uniform(1, 2, size=(N_SPECIAL + n_genes, self.d_model))
        drive *= rng.random(drive.shape) < 0.5
        drive[:N_SPECIAL] = 0
        self.drive = torch.nn.Parameter(torch.from_numpy(drive).float())
        weights = torch.zeros(n_layers, self.d_model, self.d_model)
        for edge in edges:
            weights[edge.target_layer, self.column(edge.source_layer, edge.source)][
                self.column(edge.target_layer, edge.target)
            ] = edge.strength
        self.weights = torch.nn.Parameter(weights)
        self.requires_grad_(False)

    def column(self, layer: int, feature: int) -> int:
        """Residual-stream dimension of a feature."""
        return layer * self.features_per_layer + feature

    def tokenize(self, adata: ad.AnnData, settings: CellsSettings | None = None, **changes: Any) -> Tokens:
        """Detected genes in the order of the data; the symbols are GENE0, GENE1, ..."""
        settings = CellsSettings(**{**vars(settings or CellsSettings()), **changes})
        counts = read_counts(adata, settings)
        symbols = np.array([""] * N_SPECIAL + [f"GENE{i}" for i in range(self.n_genes)])
        token_of = {symbol: token for token, symbol in enumerate(symbols) if symbol}
        mapped = map_genes(counts, lambda ensembl, symbol: token_of.get(symbol), settings.min_mapped_genes)
        rows = [mapped.token_ids[row.indices] for row in mapped.matrix]
        return assemble_tokens(
            rows,
            counts,
            empty=np.array([len(row) == 0 for row in rows]),
            special_ids=list(range(N_SPECIAL)),
            pad_id=0,
            names=(symbols, symbols),
            info=mapped.coverage | {"cells_truncated": 0, "input_mode": settings.input_mode},
            empty_cells=settings.empty_cells,
        )

    def embed(self, tokens: Tokens) -> torch.Tensor:
        return self.drive[torch.from_numpy(tokens.ids).long().to(self.device)]

    def run_layers(
        self, hidden: torch.Tensor, tokens: Tokens, start: int, stop: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        for layer in range(start, stop):
            hidden = hidden + hidden @ self.weights[layer]
            yield layer, hidden

    def gene_outputs(self, hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        """Logits by a head that is tied to the embedding: state . drive of the gene."""
        return (hidden * self.embed(tokens)).sum(-1)

    def mask(self, tokens: Tokens, at: np.ndarray) -> Tokens:
        """Token 1, which drives nothing, in place of the genes."""
        return replace(tokens, ids=np.where(at, np.int32(MASK), tokens.ids))

    def masked_loss(self, hidden: torch.Tensor, tokens: Tokens, at: np.ndarray) -> torch.Tensor:
        """Cross-entropy of the hidden genes, in nats."""
        ids = torch.from_numpy(tokens.ids).long().expand(len(hidden), -1)
        masked = torch.from_numpy(at).expand(len(hidden), -1)
        logits = hidden @ self.drive.T
        return torch.stack([cross_entropy(row[m], genes[m]) for row, genes, m in zip(logits, ids, masked, strict=True)])

    perturbations = ("delete",)

    def perturb_gene(self, tokens: Tokens, token_id: int, kind: Perturbation) -> Tokens:
        """Without the gene; genes have neither order nor value here, so none can be over-expressed."""
        return delete_gene(tokens, token_id) if kind == "delete" else super().perturb_gene(tokens, token_id, kind)

    def saes(self) -> dict[int, SparseAutoencoder]:
        """Autoencoders that read each layer's features exactly (feature i of layer l is the i-th of that layer)."""
        made: dict[int, SparseAutoencoder] = {}
        for layer in range(self.n_layers):
            sae = TopKSAE(self.d_model, self.features_per_layer, k=self.features_per_layer)
            own = torch.eye(self.d_model)[self.column(layer, 0) : self.column(layer + 1, 0)]
            sae.load_state_dict(
                {
                    "W_enc": own.T.clone(),
                    "W_dec": own.clone(),
                    "b_enc": torch.zeros(self.features_per_layer),
                    "b_dec": torch.zeros(self.d_model),
                    "b_in": torch.zeros(self.d_model),
                }
            )
            sae.info = {"input_mode": "official"}
            made[layer] = sae.eval().requires_grad_(False)
        return made


def load_toy(_path: Path, _dictionaries: str | Path = "") -> ToyModel:
    """The toy model with its default circuit; it needs no files."""
    return ToyModel()
