"""The engine against the published procedure on the same work, in one process, and against the machine's limit.

    python benchmarks/tracing.py                     every shape
    python benchmarks/tracing.py demo V1-10M@512     some

For each shape, over three source layers: seconds of the published procedure, of the exact and of the frozen context, on
the same model, autoencoders, cells and features; how many edges under the published rule are the same; and the share of
our time that the strictly necessary arithmetic would take at the rate of a matrix product measured in the same run.
"""

import argparse
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch

import cellcircuits as cc
import cellcircuits.readouts
from cellcircuits.ablate import Tracer
from cellcircuits.autoencoders import TopKSAE
from cellcircuits.fit import fit_saes
from cellcircuits.models.geneformer import CONFIG_DEFAULTS, Geneformer
from cellcircuits.plan import matmul_rate
from cellcircuits.settings import TraceSettings, TrainSettings
from cellcircuits.tracing import trace_cells
from published import BertPasses, ScgptPasses, published_trace

SHAPES = {
    "demo-geneformer": None,
    "demo-scgpt": None,
    "V1-10M@512": (6, 256, 4, 512, 512),
    "V1-10M@2048": (6, 256, 4, 512, 2048),
    "V2-316M@512": (18, 1152, 18, 4608, 512),
}
"""Layers, width, heads, feed-forward width, tokens per cell. Random weights serve for speed."""
COLUMNS = ["shape", "source layers", "features x cells", "active positions", "published s", "exact s", "frozen s"]
COLUMNS += ["published / exact", "by source layer", "published / frozen", "by source layer", "limit / exact"]
COLUMNS += ["limit / frozen"]
COLUMNS += ["same edges", "r of frozen and exact"]


def random_model(layers: int, width: int, heads: int, feedforward: int, length: int):
    """A Geneformer of this shape with random weights, and cells of random genes."""
    torch.manual_seed(0)
    config = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": feedforward,
        "max_position_embeddings": length,
        "vocab_size": 5000,
        "model_type": "bert",
    }
    model = Geneformer(CONFIG_DEFAULTS | config).eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    ids = np.array([rng.choice(np.arange(4, 5000), size=length, replace=False) for _ in range(64)])
    return model, cc.Tokens.from_ids(ids)


def random_saes(model, cells, k: int = 32) -> dict[int, TopKSAE]:
    """Autoencoders with random unit directions, centred on the activations: k of 4 x width features fire."""
    made, cell = {}, cells.take([0])
    for layer, state in model.run_layers(model.embed(cell), cell, 0, model.n_layers):
        directions = torch.nn.functional.normalize(torch.randn(4 * model.d_model, model.d_model), dim=1)
        sae = TopKSAE(model.d_model, 4 * model.d_model, k)
        zeros = torch.zeros(4 * model.d_model)
        mean = state[0].mean(dim=0)
        weights = {"W_enc": directions.T.clone(), "W_dec": directions, "b_enc": zeros, "b_dec": mean, "b_in": mean}
        sae.load_state_dict(weights)
        made[layer] = sae.requires_grad_(False)
    return made


def prepare(name: str, n_cells: int):
    """(model, cells, autoencoders, passes of the published procedure) of a shape."""
    if name.startswith("demo"):
        family = name.removeprefix("demo-")
        model = cc.load_model(family, "demo", device="cpu")
        cells = model.tokenize(cc.demo_cells())
        settings = TrainSettings(k=16, epochs=2)
        saes = fit_saes(model, cells, list(range(model.n_layers)), settings)
        chosen = cells.take(np.linspace(0, 699, n_cells).astype(int))
    else:
        model, cells = random_model(*SHAPES[name])
        saes, chosen = random_saes(model, cells), cells.take(range(n_cells))
    passes = ScgptPasses(model) if model.name == "scgpt" else BertPasses(model)
    return model, chosen, saes, passes


def firing_features(model, cells, saes, layer: int, number: int, rng) -> np.ndarray:
    """Random features of a layer that are active in the first cell."""
    code = Tracer(model, saes, TraceSettings()).clean_pass(cells.take([0]), [layer], [layer]).codes[layer]
    active = np.unique(code.indices[code.values > 0].numpy())
    return np.sort(rng.choice(active, size=min(number, len(active)), replace=False))


def necessary_operations(work: "Work", reads: dict[int, float], frozen: bool = False) -> float:
    """Arithmetic of a trace that nothing can save: one clean pass, and above each source what a copy changes.

    The first block above a source: the changed positions, what they change in the attention of all others, and the
    layers after the attention. Blocks in between: everything. The last block: keys and values of all positions, the
    rest for the positions that are read. With one block above the source, and in a frozen context everywhere: the
    changed positions alone.
    """
    model, n_sae = work.model, next(iter(work.saes.values())).n_features
    d, ff = model.d_model, model.blocks[0].linear1.out_features
    total = 0.0
    for length in work.cells.lengths.astype(float):
        position = 8 * d**2 + 4 * d * ff + 4 * d * length
        total += model.n_layers * length * (position + 2 * d * n_sae)
        for source, features in work.sources.items():
            above, read = model.n_layers - 1 - source, reads[source]
            copy = above * read * 2 * d * n_sae
            if frozen or above == 1:
                copy += above * read * position
            else:
                copy += read * (6 * d**2 + 4 * d * length) + 8 * d * read * length + length * (2 * d**2 + 4 * d * ff)
                copy += (above - 2) * length * position
                copy += length * 4 * d**2 + read * (4 * d**2 + 4 * d * ff + 4 * d * length)
            total += len(features) * copy
    return total


def timed(work):
    """(seconds, result)."""
    started = perf_counter()
    result = work()
    return perf_counter() - started, result


def same_edges(moments, published, min_snr: float = 0.5, min_consistency: float = 0.7) -> tuple[int, int]:
    """(edges in both, edges in either) under the published rule."""
    ours = cc.edges(moments, rule="published", min_snr=min_snr, min_agreement=min_consistency)
    columns = ours[["source_feature", "target_layer", "target_feature"]]
    mine = set(map(tuple, columns.itertuples(index=False, name=None)))
    theirs = {(f, t, e) for (f, t), w in published.items() for e in w.edges(min_snr, min_consistency)}
    return len(mine & theirs), len(mine | theirs)


class Work(NamedTuple):
    """What is traced: the same for the published procedure and for the engine."""

    model: cc.Model
    cells: cc.Tokens
    saes: dict[int, TopKSAE]
    sources: dict[int, np.ndarray]
    """{source layer: features}."""

    def trace(self, context: str):
        """Moments by the engine: one clean pass of a cell serves all source layers."""
        targets = {source: [t for t in self.saes if t > source] for source in self.sources}
        return trace_cells(
            self.model,
            self.cells,
            self.saes,
            self.sources,
            targets,
            TraceSettings(context=context, readouts=["source"]),
        )

    def publish(self, passes, source: int):
        """Statistics of one source layer by the published procedure."""
        return published_trace(passes, self.cells, self.saes, source, self.sources[source].tolist())

    def seconds(self, context: str) -> tuple[float, dict[int, float]]:
        """Seconds of the engine for all source layers together, and for each alone (with a clean pass of its own)."""
        self.trace(context)  # the first run of a shape also pays for memory and thread pools
        together, _ = timed(partial(self.trace, context))
        alone = {s: timed(partial(self._replace(sources={s: f}).trace, context))[0] for s, f in self.sources.items()}
        return together, alone


def measure(name: str, n_cells: int, n_features: int) -> None:
    """Print the row of one shape."""
    model, cells, saes, passes = prepare(name, n_cells)
    rng = np.random.default_rng(0)
    sources = [layer for layer in (0, model.n_layers // 3, 2 * model.n_layers // 3) if layer < model.n_layers - 1]
    work = Work(model, cells, saes, {s: firing_features(model, cells, saes, s, n_features, rng) for s in sources})
    exact, frozen = work.seconds("exact"), work.seconds("frozen")
    rate = matmul_rate()
    by_layer = {source: timed(partial(work.publish, passes, source)) for source in sources}
    published = sum(seconds for seconds, _ in by_layer.values())
    moments = work.trace("exact")
    counts = np.sum([same_edges(moments[source], by_layer[source][1]) for source in sources], axis=0)
    reads = mean_reads(work)

    def ratios(ours: tuple[float, dict[int, float]]) -> tuple[str, str]:
        alone = ", ".join(f"{by_layer[source][0] / seconds:.1f}" for source, seconds in ours[1].items())
        return f"{published / ours[0]:.1f}", alone

    print_row(
        name,
        f"{', '.join(map(str, sources))}",
        f"{n_features} x {len(cells)}",
        f"{np.mean(list(reads.values())):.0f} of {cells.lengths.mean():.0f}",
        *(f"{s:.2f}" for s in (published, exact[0], frozen[0])),
        *ratios(exact),
        *ratios(frozen),
        f"{necessary_operations(work, reads) / rate / exact[0]:.2f}",
        f"{necessary_operations(work, reads, frozen=True) / rate / frozen[0]:.2f}",
        f"{counts[0]:,} of {counts[1]:,}",
        f"{correlation(moments, work.trace('frozen')):.4f}",
    )


def print_row(*cells: str) -> None:
    """One row of the table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def mean_reads(work: Work) -> dict[int, float]:
    """{source layer: mean number of active positions of an ablated copy}."""
    tracer, found = Tracer(work.model, work.saes, TraceSettings()), {}
    for source, features in work.sources.items():
        counts = []
        for row in range(len(work.cells)):
            cell = work.cells.take([row])
            code = tracer.clean_pass(cell, [source], [source]).codes[source].dense(work.saes[source].n_features)
            active = code[torch.from_numpy(cell.gene_mask[0])][:, features] > 0
            counts += [n for n in active.sum(dim=0).tolist() if n]
        found[source] = float(np.mean(counts))
    return found


def correlation(exact, frozen) -> float:
    """Correlation of mean deltas between the two contexts, over all pairs of all source layers."""
    a, b = (np.concatenate([m.mean(t).ravel() for m in found.values() for t in m.sums]) for found in (exact, frozen))
    return float(np.corrcoef(a, b)[0, 1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), help=", ".join(SHAPES))
    parser.add_argument("--cells", type=int, default=2)
    parser.add_argument("--features", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    # the published procedure takes any change for a response, however small
    cellcircuits.readouts.ROUNDING = 0.0
    print(f"matrix product: {matmul_rate() / 1e9:.0f} G operations per second, {given.threads} threads")
    print_row(*COLUMNS)
    print_row(*["---"] * len(COLUMNS))
    for shape in given.shapes:
        measure(shape, given.cells, given.features)
