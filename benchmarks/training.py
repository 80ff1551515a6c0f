"""Training against the published procedure (Kendiukhov 2026) on the same cells: tokens per second, memory, disk.

Published: cells pass through the model one at a time, the states of every layer are written to files, one layer after
the other is trained from its file. Kaiming weights, centred input, squared error over entries, Adam, a new permutation
every epoch, decoder normalised along its other axis, no revival of dead features. Written from the description of the
method, independently of the package's trainer. Ours: `fit_saes`, one pass over the model for all layers, nothing
written, and every buffer learned from as often as the published trainer has epochs.

Both have the same layers, features, k, epochs and batch, and are judged on the same held-out cells. A token is a gene
position that one layer's autoencoder learns from once. Since the package's autoencoders learn faster per step too, the
time to the published variance explained is given as well. Each side runs in a process of its own.

    python benchmarks/training.py --family geneformer --cells 200
    python benchmarks/training.py --shape V2-316M@512 --layers 4 --cells 24
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import nn

import cellcircuits as cc
from cellcircuits.autoencoders import SparseAutoencoder, TopKSAE
from cellcircuits.fit import fit_saes, split_cells
from cellcircuits.quality import measure_quality
from cellcircuits.settings import TrainSettings
from tracing import SHAPES, random_model

PUBLISHED_RATE = 3e-4
HELD_OUT = 0.15


# ------------------------------------------------------------------------------------------------ published


class PublishedSAE(nn.Module):
    """z = relu of the k largest of W_enc h + b_enc, for a centred h; h' = W_dec z + b_dec."""

    def __init__(self, width: int, n_features: int, k: int) -> None:
        super().__init__()
        self.W_enc, self.W_dec, self.k = nn.Linear(width, n_features), nn.Linear(n_features, width), k
        for layer in (self.W_enc, self.W_dec):
            nn.init.kaiming_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.normalise()

    @torch.no_grad()
    def normalise(self) -> None:
        """Unit norm along the features of each output dimension, as published."""
        self.W_dec.weight.copy_(nn.functional.normalize(self.W_dec.weight, dim=1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        values, indices = torch.topk(self.W_enc(hidden), self.k, dim=-1)
        code = torch.zeros(len(hidden), self.W_enc.out_features, device=hidden.device)
        return self.W_dec(code.scatter(-1, indices, torch.relu(values)))

    @torch.no_grad()
    def as_used(self, mean: torch.Tensor) -> TopKSAE:
        """The same function in the package's class."""
        sae = TopKSAE(self.W_enc.in_features, self.W_enc.out_features, self.k).requires_grad_(False)
        sae.W_enc.copy_(self.W_enc.weight.T)
        sae.b_enc.copy_(self.W_enc.bias)
        sae.W_dec.copy_(self.W_dec.weight.T)
        sae.b_dec.copy_(self.W_dec.bias + mean)
        sae.b_in.copy_(mean)
        return sae.eval()


@torch.no_grad()
def extract(model: cc.Model, tokens: cc.Tokens, layers: list[int], folder: Path) -> None:
    """Write layer_LL_activations.npy (position, d_model) of every layer, one cell at a time."""
    shape = (tokens.n_positions, model.d_model)
    files = {
        layer: np.lib.format.open_memmap(folder / f"layer_{layer:02d}_activations.npy", "w+", np.float32, shape)
        for layer in layers
    }
    written = 0
    for cell in range(len(tokens)):
        one = tokens.take([cell])
        genes = torch.from_numpy(one.gene_mask[0])
        for layer, state in model.run_layers(model.embed(one), one, 0, max(layers) + 1):
            if layer in files:
                files[layer][written : written + int(genes.sum())] = state[0, genes.to(state.device)].cpu().numpy()
        written += int(genes.sum())
    for file in files.values():
        file.flush()


def train_from_file(path: Path, expansion: int, k: int, epochs: int, batch: int, device: torch.device) -> TopKSAE:
    """One layer."""
    activations = torch.from_numpy(np.load(path))
    mean = activations.mean(dim=0)
    activations -= mean
    width = activations.shape[1]
    sae = PublishedSAE(width, expansion * width, k).to(device)
    optimiser = torch.optim.Adam(sae.parameters(), lr=PUBLISHED_RATE)
    for _ in range(epochs):
        order = torch.randperm(len(activations))
        for start in range(0, len(order), batch):
            hidden = activations[order[start : start + batch]].to(device)
            loss = nn.functional.mse_loss(sae(hidden), hidden)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            sae.normalise()
    return sae.as_used(mean.to(device))


# ------------------------------------------------------------------------------------------------ both sides


def load(arguments: argparse.Namespace) -> tuple[cc.Model, cc.Tokens, cc.Tokens, list[int]]:
    """(model, training cells, held-out cells, layers)."""
    torch.set_num_threads(arguments.threads)
    if arguments.shape:
        model, tokens = random_model(arguments.layers or SHAPES[arguments.shape][0], *SHAPES[arguments.shape][1:])
        tokens = tokens.take(range(arguments.cells))
    else:
        model = cc.load_model(arguments.family, arguments.path)
        tokens = model.tokenize(cc.demo_cells()[: arguments.cells])
    fitted, held_out = (tokens.take(rows) for rows in split_cells(len(tokens), HELD_OUT, 0))
    # the first optimiser of a process loads seconds of code, on both sides
    torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    return model, fitted, held_out, list(range(model.n_layers))


def judged(model: cc.Model, held_out: cc.Tokens, saes: dict[int, SparseAutoencoder]) -> dict[str, float]:
    """Medians over layers."""
    found = measure_quality(model, held_out, saes, 32).values()
    return {
        "variance_explained": float(np.median([quality.variance_explained for quality in found])),
        "dead_share": float(np.median([quality.dead_share for quality in found])),
    }


def peak_bytes() -> int:
    """Memory of this process at its peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def published_side(arguments: argparse.Namespace) -> dict[str, float]:
    """Extraction to files, then one layer after the other."""
    model, fitted, held_out, layers = load(arguments)
    torch.manual_seed(0)
    folder = Path(tempfile.mkdtemp())
    try:
        began = perf_counter()
        extract(model, fitted, layers, folder)
        extracted = perf_counter()
        saes: dict[int, SparseAutoencoder] = {}
        for layer in layers:
            path = folder / f"layer_{layer:02d}_activations.npy"
            sizes = (arguments.expansion, arguments.k, arguments.epochs, arguments.batch)
            saes[layer] = train_from_file(path, *sizes, model.device)
        seconds, written = perf_counter() - began, sum(path.stat().st_size for path in folder.iterdir())
    finally:
        shutil.rmtree(folder)
    tokens = fitted.n_positions * len(layers) * arguments.epochs
    result = {"seconds": seconds, "of_it_extraction": extracted - began, "tokens_per_second": tokens / seconds}
    return result | {"bytes_written": written, "peak_bytes": peak_bytes()} | judged(model, held_out, saes)


def our_side(arguments: argparse.Namespace, epochs: int) -> dict[str, float]:
    """All layers from one pass over the model, each buffer learned from `epochs` times."""
    model, fitted, held_out, layers = load(arguments)
    settings = TrainSettings(
        expansion=arguments.expansion,
        k=arguments.k,
        epochs=1,
        repeats=epochs,
        batch_positions=arguments.batch,
        buffer_positions=arguments.buffer,
    )
    began = perf_counter()
    saes = fit_saes(model, fitted, layers, settings)
    seconds = perf_counter() - began
    tokens = fitted.n_positions * len(layers) * epochs
    result = {"seconds": seconds, "tokens_per_second": tokens / seconds, "bytes_written": 0.0}
    return result | {"peak_bytes": peak_bytes()} | judged(model, held_out, saes)


def alone(work, *arguments) -> dict[str, float]:
    """Run in a process of its own, so that its peak is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(work, *arguments).result()


def compare(arguments: argparse.Namespace) -> dict[str, object]:
    """Both sides, and the fewest of our epochs that reach the published variance explained."""
    published = alone(published_side, arguments)
    ours = alone(our_side, arguments, arguments.epochs)
    found: dict[str, object] = {"published": published, "ours": ours}
    found["tokens_per_second_ratio"] = ours["tokens_per_second"] / published["tokens_per_second"]
    for epochs in range(1, arguments.epochs + 1):
        tried = ours if epochs == arguments.epochs else alone(our_side, arguments, epochs)
        if tried["variance_explained"] >= published["variance_explained"]:
            ratio = published["seconds"] / tried["seconds"]
            return found | {"same_quality": {"epochs": epochs, **tried, "times_as_fast": ratio}}
    return found | {"same_quality": None}


def main() -> None:
    """Compare, and print the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="geneformer")
    parser.add_argument("--path", default="demo", help="checkpoint folder, or demo")
    shapes = [name for name, shape in SHAPES.items() if shape]
    parser.add_argument("--shape", choices=shapes, help="a Geneformer of this shape, with random weights and genes")
    parser.add_argument("--layers", type=int, help="only its first layers")
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--expansion", type=int, default=4)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--buffer", type=int, default=65536, help="positions in the buffer, ours")
    parser.add_argument("--threads", type=int, default=math.ceil((os.cpu_count() or 1) / 2))
    print(json.dumps(compare(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
