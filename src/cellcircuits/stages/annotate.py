"""Stage `annotate`: catalogue and name the features of every autoencoder."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pandas as pd

from cellcircuits.annotation import Annotator
from cellcircuits.catalogue import background_tokens, count_firings, name_features
from cellcircuits.networks import read_network
from cellcircuits.progress import Progress
from cellcircuits.references import gene_sets_path, network_path, read_gmt
from cellcircuits.run import Run, file_hash
from cellcircuits.sae import load_saes
from cellcircuits.stages.cells import run_model
from cellcircuits.tables import write_table
from cellcircuits.tokens import load_tokens


def annotate_stage(run: Run, progress: Progress) -> None:
    """Catalogue and name the features of every autoencoder; write `annotate/`."""
    run.require("cells", "train")
    settings = run.settings.annotate
    collections = [read_gmt(path) for path in settings.gene_sets]
    networks = [read_network(path, settings.min_interaction_score) for path in settings.networks]
    tokens, saes, model = load_tokens(run.path("cells")), load_saes(run.path("train")), run_model(run)
    if settings.max_cells and settings.max_cells < len(tokens):
        rows = np.random.default_rng(settings.seed).choice(len(tokens), settings.max_cells, replace=False)
        tokens = tokens.take(np.sort(rows))
    with progress.task("Cataloguing features", len(tokens)) as advance:
        sums = count_firings(model, tokens, saes, run.settings.train.model_batch, advance)
    tables: dict[str, list[pd.DataFrame]] = defaultdict(list)
    summary = {}
    symbols = tokens.gene_symbols[background_tokens(tokens.count_genes(), settings)]
    annotator = Annotator(symbols, collections, networks, settings)
    with progress.task("Testing gene sets and networks", len(saes)) as advance:
        for layer, sae in saes.items():
            norms = sae.W_dec.norm(dim=1).double().cpu().numpy()
            named = name_features(layer, sums[layer], tokens, norms, annotator, settings)
            summary[f"L{layer:02d}"] = named.pop("summary")
            for name, frame in named.items():
                tables[name].append(frame)
            advance(1)
    hashes = {path: file_hash(gene_sets_path(path)) for path in settings.gene_sets}
    of_networks = {path: file_hash(network_path(path)) for path in settings.networks}
    record = {"summary": summary, "gene_sets_sha256": hashes, "networks_sha256": of_networks}
    with run.writing("annotate", **record) as folder:
        for name, frames in tables.items():
            write_table(name, pd.concat(frames, ignore_index=True), folder)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
