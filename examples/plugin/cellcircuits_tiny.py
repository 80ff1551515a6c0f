"""A model family for cellcircuits: a small encoder over gene symbols. Its folder holds genes.txt and weights."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from cellcircuits import Model
from cellcircuits.checkpoints import check_weights, read_tensors
from cellcircuits.counts import read_counts
from cellcircuits.settings import CellsSettings
from cellcircuits.vocabulary import assemble_tokens, map_genes


class Tiny(Model):
    name, n_layers, d_model, max_length = "tiny", 3, 32, 512

    def __init__(self, genes):
        super().__init__()
        self.genes = np.array(["", *genes])  # token 0 is padding
        self.token_of = {gene: token for token, gene in enumerate(genes, start=1)}
        self.embedding = torch.nn.Embedding(len(self.genes), self.d_model)
        make = torch.nn.TransformerEncoderLayer
        blocks = [make(self.d_model, 4, 64, dropout=0.0, batch_first=True) for _ in range(self.n_layers)]
        self.blocks = torch.nn.ModuleList(blocks)

    def tokenize(self, adata, settings=None, **changes):
        settings = CellsSettings(**{**vars(settings or CellsSettings()), **changes})
        counts = read_counts(adata, settings)
        mapped = map_genes(counts, lambda ensembl, symbol: self.token_of.get(symbol), settings.min_mapped_genes)
        room = min(settings.max_length or self.max_length, self.max_length)
        rows = [mapped.token_ids[r.indices[np.argsort(-r.data, kind="stable")[:room]]] for r in mapped.matrix]
        n_genes = np.diff(mapped.matrix.indptr)
        info = mapped.coverage | {"cells_truncated": int((n_genes > room).sum()), "input_mode": settings.input_mode}
        wanted = {"special_ids": [0], "pad_id": 0, "names": (self.genes, self.genes), "info": info}
        return assemble_tokens(rows, counts, empty=n_genes == 0, empty_cells=settings.empty_cells, **wanted)

    def embed(self, tokens):
        return self.embedding(torch.from_numpy(tokens.ids).long().to(self.device))

    def run_layers(self, hidden, tokens, start, stop):
        padding = torch.from_numpy(tokens.ids == tokens.pad_id).to(hidden.device) if tokens.has_padding else None
        for layer in range(start, stop):
            hidden = self.blocks[layer](hidden, src_key_padding_mask=padding)
            yield layer, hidden


def load_tiny(path, _dictionaries=""):  # the entry point: (path, dictionaries) -> Model
    model, weights = Tiny(Path(path, "genes.txt").read_text().split()), read_tensors(Path(path, "weights.safetensors"))
    check_weights({key: tuple(value.shape) for key, value in model.state_dict().items()}, weights, str(path))
    model.load_state_dict(weights, strict=True)
    return model


def write_checkpoint(folder, genes):  # random weights from a fixed seed: a stand-in for a trained model
    Path(folder, "genes.txt").write_text("\n".join(genes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(Tiny(list(genes)).state_dict(), Path(folder, "weights.safetensors"))
