"""Time and memory of naming the features of one layer: gene sets, redundancy, and all random gene lists.

python benchmarks/annotation.py [--lists 4608] [--annotated 1500] [--genes 15000] [--sets 6036] [--gene-sets FILE.gmt]

Lists and, without a file, sets are made up: sets as large as those of GO biological processes (5 to 500 genes, most of
them small); `annotated` lists are drawn half from one set and half from anywhere, all others from anywhere. Printed as
Markdown, with what is called, so that speed is not bought with other results.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from cellcircuits.annotation import Annotator
from cellcircuits.enrichment import GeneLists, gene_lists
from cellcircuits.references import GeneSets, read_gmt
from cellcircuits.settings import AnnotateSettings


def made_up_sets(n_sets: int, symbols: np.ndarray, rng: np.random.Generator) -> GeneSets:
    """Random gene sets of log-normal sizes, half of them below 20 genes."""
    sizes = np.clip(rng.lognormal(np.log(20), 1.1, n_sets), 5, 500).astype(int)
    terms = {f"set {i}": frozenset(rng.choice(symbols, size, replace=False)) for i, size in enumerate(sizes)}
    return GeneSets("made up", terms)


def made_up_lists(
    shape: argparse.Namespace, sets: GeneSets, symbols: np.ndarray, rng: np.random.Generator
) -> GeneLists:
    """Lists of `top_genes` genes, the first `annotated` of them with half of their genes from one set."""
    row = {symbol: place for place, symbol in enumerate(symbols)}
    members = [[row[gene] for gene in sorted(genes) if gene in row] for genes in sets.terms.values()]
    members = [genes for genes in members if len(genes) >= shape.top_genes // 2]
    owners, genes = [], []
    for feature in range(shape.lists):
        chosen = rng.choice(len(symbols), shape.top_genes, replace=False)
        if feature < shape.annotated:
            chosen[: shape.top_genes // 2] = rng.choice(
                members[rng.integers(len(members))], shape.top_genes // 2, replace=False
            )
        owners.append(np.full(shape.top_genes, feature))
        genes.append(chosen)
    return gene_lists(np.concatenate(owners), np.concatenate(genes), len(symbols))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"lists": 4608, "annotated": 1500, "genes": 15_000, "sets": 6036, "top_genes": 20}
    for name, default in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--gene-sets", type=Path, help="GMT file (also .gz) in place of made-up sets")
    shape = parser.parse_args()
    rng, settings = np.random.default_rng(0), AnnotateSettings(top_genes=shape.top_genes)
    if shape.gene_sets:
        sets = read_gmt(shape.gene_sets)
        # the genes of the sets, and others to make up the background
        inside = sorted(set().union(*sets.terms.values()))[: shape.genes]
        symbols = np.array([*inside, *(f"OTHER{i}" for i in range(shape.genes - len(inside)))], dtype=object)
    else:
        symbols = np.array([f"GENE{i}" for i in range(shape.genes)], dtype=object)
        sets = made_up_sets(shape.sets, symbols, rng)
    lists = made_up_lists(shape, sets, symbols, rng)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    annotator = Annotator(symbols, [sets], [], settings)
    cut, start = time.perf_counter() - start, time.perf_counter()
    found = annotator.annotate(lists)
    seconds = time.perf_counter() - start
    rates = found["annotation_rates"].iloc[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("| lists | genes | sets tested | pairs tested | annotations | annotated | random lists | s | more memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {shape.lists:,} | {len(symbols):,} | {rates['n_tests']:,} | {rates['n_tests'] * rates['n_lists']:,} | "
        f"{len(found['terms']):,} | {rates['share']:.1%} | {rates['null_share']:.1%} | {seconds:.1f} "
        f"(and {cut:.1f} to cut the sets to the background) | {(peak - before) / 1e6:.0f} MB |"
    )


if __name__ == "__main__":
    main()
