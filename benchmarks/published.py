"""The published tracing procedure (Kendiukhov 2026), as slow as it is: what the engine is measured against.

Batch size 1; the clean pass and every ablation are full passes from the embedding through transformers' own BERT with
eager attention; a forward hook replaces the output of the source block; the clean and the ablated states of every
gene position are encoded again for each source feature; running mean and variance (Welford) over cells. Written from
the description of the method, independently of the engine.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from cellcircuits.autoencoders import TopKSAE
from cellcircuits.models.geneformer import Geneformer
from cellcircuits.models.scgpt import ScGPT
from cellcircuits.tokens import Tokens


class Welford:
    """Mean and spread over cells of a vector of deltas, and how often each is above 0."""

    def __init__(self, size: int) -> None:
        self.n = 0
        self.mean, self.m2 = np.zeros(size), np.zeros(size)
        self.positive = np.zeros(size, dtype=int)

    def add(self, delta: np.ndarray) -> None:
        """One cell."""
        self.n += 1
        step = delta - self.mean
        self.mean += step / self.n
        self.m2 += step * (delta - self.mean)
        self.positive += delta > 0

    def edges(self, min_snr: float, min_consistency: float) -> set[int]:
        """Targets that pass the published rule."""
        if self.n < 2:
            return set()
        sd = np.sqrt(self.m2 / (self.n - 1))
        snr = self.mean / np.maximum(sd, 1e-10)
        consistency = np.maximum(self.positive, self.n - self.positive) / self.n
        return set(np.flatnonzero((np.abs(snr) > min_snr) & (consistency > min_consistency)).tolist())


class BertPasses:
    """Full passes of Geneformer by transformers, one cell at a time."""

    def __init__(self, model: Geneformer) -> None:
        from transformers import BertConfig, BertForMaskedLM

        config = BertConfig(**{**model.config, "attn_implementation": "eager"})
        self.bert = BertForMaskedLM(config).eval()
        stored = model.to_checkpoint()
        stored["cls.predictions.decoder.weight"] = stored["bert.embeddings.word_embeddings.weight"]
        stored["cls.predictions.decoder.bias"] = stored["cls.predictions.bias"]
        self.bert.load_state_dict(stored, strict=True)
        self.layers = self.bert.bert.encoder.layer

    def run(self, cell: Tokens) -> None:
        """One full pass; the states are seen by hooks on `layers`."""
        ids = torch.from_numpy(cell.ids).long()
        self.bert(ids, attention_mask=torch.ones_like(ids))


class ScgptPasses:
    """Passes of scGPT by torch's encoder layers, one cell at a time."""

    def __init__(self, model: ScGPT) -> None:
        self.model = model
        stored, made = model.to_checkpoint(), []
        for layer in range(model.n_layers):
            width, heads, hidden = model.d_model, model.arguments["nheads"], model.arguments["d_hid"]
            block = nn.TransformerEncoderLayer(width, heads, hidden, dropout=0.0, batch_first=True)
            prefix = f"transformer_encoder.layers.{layer}."
            own = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
            block.load_state_dict({k.replace("Wqkv.", "in_proj_"): v for k, v in own.items()}, strict=True)
            made.append(block.train())
        self.layers = nn.ModuleList(made)

    def run(self, cell: Tokens) -> None:
        """One full pass; the states are seen by hooks on `layers`."""
        hidden = self.model.embed(cell)
        padding = torch.zeros(cell.ids.shape, dtype=torch.bool)
        for block in self.layers:
            hidden = block(hidden, src_key_padding_mask=padding)


def dense_code(sae: TopKSAE, hidden: torch.Tensor) -> torch.Tensor:
    """Codes (position, feature)."""
    pre = (hidden - sae.b_in) @ sae.W_enc + sae.b_enc
    values, indices = torch.topk(pre, sae.k, dim=-1)
    return torch.zeros_like(pre).scatter_(-1, indices, torch.relu(values))


def _states(passes: BertPasses | ScgptPasses, cell: Tokens, source: int, replacement: torch.Tensor | None) -> dict:
    """Block outputs {layer: (position, d_model)} of one full pass; the source block's output is replaced if given."""
    found = {}

    def watch(layer: int):
        def hook(module, inputs, output):
            state = output[0] if isinstance(output, tuple) else output
            if layer == source and replacement is not None:
                state = replacement
            found[layer] = state[0]
            return (state, *output[1:]) if isinstance(output, tuple) else state

        return hook

    handles = [block.register_forward_hook(watch(layer)) for layer, block in enumerate(passes.layers)]
    try:
        passes.run(cell)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def published_trace(
    passes: BertPasses | ScgptPasses, cells: Tokens, saes: dict[int, TopKSAE], source: int, features: list[int]
) -> dict[tuple[int, int], Welford]:
    """{(feature, target layer): statistics}, by the published procedure."""
    targets = [layer for layer in saes if layer > source]
    totals = {(f, t): Welford(saes[t].n_features) for f in features for t in targets}
    for row in range(len(cells)):
        cell = cells.take([row])
        genes = torch.from_numpy(cell.gene_mask[0])
        clean = _states(passes, cell, source, None)
        code = dense_code(saes[source], clean[source][genes])
        for feature in features:
            active = code[:, feature] > 0
            if not active.any():
                continue
            without = code.clone()
            without[:, feature] = 0
            change = without @ saes[source].W_dec - code @ saes[source].W_dec
            replacement = clean[source].clone()
            replacement[genes] += change
            ablated = _states(passes, cell, source, replacement[None])
            for target in targets:
                before = dense_code(saes[target], clean[target][genes])
                after = dense_code(saes[target], ablated[target][genes])
                delta = (after[active] - before[active]).mean(dim=0)
                totals[feature, target].add(delta.numpy().astype(np.float64))
    return totals
