"""The published feature atlases (Kendiukhov 2026) against their own files, and against a test that corrects for all.

python benchmarks/published_atlas.py FOLDER... [--gene-sets FILE...] [--layers N...] [--vocabulary FILE]

FOLDER holds one atlas (see `cellcircuits.read_published_atlas`). Printed as Markdown: published numbers beside those
recomputed from the files; the background of the published test, from its odds ratios; and, with gene sets, the share of
features that keep an annotation when every test is corrected for, beside random gene lists under both procedures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from cellcircuits.annotation import Annotator
from cellcircuits.calibration import NullLists, null_lists
from cellcircuits.enrichment import GeneLists, gene_lists, overlap_tests
from cellcircuits.published_atlas import PublishedAtlas, read_part, read_published_atlas
from cellcircuits.references import GeneSets, read_gmt
from cellcircuits.settings import AnnotateSettings
from cellcircuits.stats import benjamini_hochberg

LIST = 20
"""Genes on a published list."""
SETTINGS = AnnotateSettings(null_draws=1000)
PUBLISHED = {
    "geneformer": {
        "features alive": 82525,
        "features dead": 419,
        "annotated share of alive features": 0.524,
        "annotated share, lowest layer": 0.454,
        "annotated share, highest layer": 0.586,
        "variance explained, lowest layer": 0.768,
        "variance explained, highest layer": 0.853,
        "variance explained, mean": 0.817,
        "modules": 141,
        "features aligned with an SVD axis": 189,
        "records GO BP": 145106,
        "records KEGG": 34486,
        "records Reactome": 154253,
        "records STRING": 3924,
        "records TRRUST": 2784,
        "unannotated, layer 0": 1906,
        "unannotated, layer 5": 2193,
        "unannotated, layer 11": 2015,
        "unannotated, layer 17": 2426,
        "features with a PMI partner above 3, L00_L05": 4530,
        "features with a PMI partner above 3, L05_L11": 4401,
        "features with a PMI partner above 3, L11_L17": 4544,
        "causal patching, median ratio": 2.36,
        "causal patching, mean ratio": 8.98,
        "causal patching, ratios above 2": 30,
    },
    "scgpt": {
        "features alive": 24527,
        "features dead": 49,
        "annotated share of alive features": 0.310,
        "annotated share, lowest layer": 0.287,
        "annotated share, highest layer": 0.339,
        "variance explained, lowest layer": 0.857,
        "variance explained, highest layer": 0.935,
        "variance explained, mean": 0.902,
        "modules": 76,
        "PMI edges, L00_L04": 75305,
        "PMI edges, L04_L08": 61263,
        "PMI edges, L08_L11": 45258,
        "causal patching, median ratio": 0.98,
    },
}
"""Numbers of the atlas paper and its repository."""


def recomputed_numbers(atlas: PublishedAtlas, folder: Path) -> dict[str, float]:
    """What the files give for the published quantities; those of which they hold nothing are left out."""
    layers = atlas.layers
    alive, annotated = layers["alive"].sum(), layers["annotated"].sum()
    rate = layers["annotated"] / layers["alive"]
    found = {
        "features alive": alive,
        "features dead": layers["dead"].sum(),
        "annotated share of alive features": annotated / alive,
        "annotated share, lowest layer": rate.min(),
        "annotated share, highest layer": rate.max(),
        "variance explained, lowest layer": layers["variance_explained"].min(),
        "variance explained, highest layer": layers["variance_explained"].max(),
        "variance explained, mean": layers["variance_explained"].mean(),
        "features aligned with an SVD axis": layers["n_svd_aligned"].sum(),
    }
    for name in ("GO_BP", "KEGG", "Reactome", "STRING", "TRRUST"):
        found[f"records {name.replace('_', ' ')}"] = layers[f"n_{name}"].sum()
    for layer, rows in atlas.features.groupby("layer"):
        found[f"unannotated, layer {layer}"] = int(((rows["n_records"] == 0) & ~rows["dead"]).sum())
    modules = read_part(folder, "modules")
    if modules is not None:
        found["modules"] = len(modules)
    for pair, graph in (read_part(folder, "cross_layer_graph") or {}).items():
        found[f"features with a PMI partner above 3, {pair}"] = graph["summary"]["n_highways"]
        if "n_pmi_edges" in graph["summary"]:
            found[f"PMI edges, {pair}"] = graph["summary"]["n_pmi_edges"]
    comparison = read_part(folder, "svd_comparison")
    if comparison is not None:
        explained = [layer["sae_variance"] for layer in comparison["per_layer"].values()]
        found |= {
            "variance explained, lowest layer": min(explained),
            "variance explained, highest layer": max(explained),
        }
        found["variance explained, mean"] = float(np.mean(explained))
    patching = read_part(folder, "causal_patching")
    if patching is not None:
        ratios = np.array([feature["sr"] for feature in patching["features"]])
        found["causal patching, median ratio"] = float(np.median(ratios))
        found["causal patching, mean ratio"] = float(ratios.mean())
        found["causal patching, ratios above 2"] = int((ratios > 2).sum())
    return {name: float(value) for name, value in found.items()}


def same(published: float, found: float) -> bool:
    """Equal to the digits that were published."""
    text = f"{published:g}"
    digits = len(text.partition(".")[2])
    # one more than half a digit: files are rounded as well
    return abs(published - found) <= 0.501 * 10.0**-digits


def layer_agreement(atlas: PublishedAtlas) -> pd.DataFrame:
    """Per layer with features: what the summary says beside what the layer's own files hold."""
    rows = []
    for layer, features in atlas.features.groupby("layer"):
        stated = atlas.layers.set_index("layer").loc[layer]
        tested = features["n_terms"] > 0
        rows.append(
            {
                "layer": layer,
                "alive": (int(stated["alive"]), int((~features["dead"]).sum())),
                "dead": (int(stated["dead"]), int(features["dead"].sum())),
                "annotated": (int(stated["annotated"]), int((features["n_records"] > 0).sum())),
                "with_gene_set": int(tested.sum()) if features["n_terms"].notna().all() else -1,
            }
        )
    return pd.DataFrame(rows)


def recovered_background(terms: pd.DataFrame, largest: int = 100_000) -> tuple[int, int, int]:
    """The background of the published test, from its odds ratios: genes, terms that agree, terms that could.

    A published odds ratio is a (N - 20 - t + a) / ((20 - a)(t - a)), with overlap a, term size t and background N, in
    two decimals. For a term found with several overlaps only some pairs (t, N) give all of them; N is the one on which
    the terms agree.
    """
    votes, n_terms = np.zeros(largest + 2, dtype=np.int64), 0
    full = terms[(terms["n_list"] == LIST) & (terms["odds_ratio"] > 0)]
    for _, rows in full.drop_duplicates(["collection", "term", "n_overlap"]).groupby(["collection", "term"]):
        if len(rows) < 3:
            continue
        n_terms += 1
        a, ratio = rows["n_overlap"].to_numpy()[:, None], rows["odds_ratio"].to_numpy()[:, None]
        size = np.arange(rows["n_overlap"].max() + 1, 3000)[None, :]
        factor = (LIST - a) * (size - a) / a
        rest = LIST + size - a
        low = np.ceil((factor * (ratio - 0.005) + rest).max(axis=0) - 1e-6).astype(np.int64)
        high = np.floor((factor * (ratio + 0.005) + rest).min(axis=0) + 1e-6).astype(np.int64)
        possible = np.zeros(largest + 2, dtype=bool)
        for start, stop in zip(low, np.minimum(high, largest), strict=True):
            possible[start : stop + 1] = start <= stop
        votes += possible
    best = int(votes.argmax())
    return best, int(votes[best]), n_terms


def atlas_background(atlas: PublishedAtlas, vocabulary: Path | None = None) -> np.ndarray:
    """All genes that the files list anywhere: those known to have been possible; or all of the model's vocabulary."""
    listed = set(atlas.feature_genes["symbol"])
    if vocabulary is not None:
        listed |= {name for name in read_part(vocabulary.parent, vocabulary.name.split(".")[0]) if name[0] != "<"}
    return np.array(sorted(listed), dtype=object)


def lists_of(atlas: PublishedAtlas, layer: int, background: np.ndarray, length: int) -> GeneLists:
    """Gene lists of a layer, cut to `length`; features of which fewer genes are known are left out."""
    genes = atlas.feature_genes
    genes = genes[(genes["layer"] == layer) & (genes["rank"] <= length)]
    enough = genes.groupby("feature")["rank"].transform("max") == length
    genes = genes[enough]
    return gene_lists(genes["feature"], np.searchsorted(background, genes["symbol"]), len(background))


def published_rule(lists: GeneLists, annotator: Annotator) -> float:
    """Share of lists annotated when only overlaps of at least 2 count as tests: the published correction."""
    tests = overlap_tests(lists, annotator.sets)
    counted = tests.overlap >= 2
    q = benjamini_hochberg(tests.p[counted])
    return len(np.unique(tests.list[counted][q <= 0.05])) / max(tests.n_lists, 1)


def retest(
    atlas: PublishedAtlas, layer: int, collections: list[GeneSets], length: int, background: np.ndarray
) -> dict[str, float]:
    """Our procedure and the published one on a layer's lists, beside random lists."""
    annotator = Annotator(background, collections, [], SETTINGS)
    lists = lists_of(atlas, layer, background, length)
    null: NullLists = null_lists(lists, SETTINGS)
    rates = annotator.annotate(lists)["annotation_rates"].iloc[0]
    n_alive = atlas.layers.set_index("layer")["alive"][layer]
    return {
        "layer": layer,
        "genes": length,
        "lists": int(rates["n_lists"]),
        "of_alive": rates["n_annotated"] / n_alive,
        "share": rates["share"],
        "null_share": rates["null_share"],
        "null_share_at_cut": rates["null_share_at_cut"],
        "listed_share_at_cut": rates["listed_share_at_cut"],
        "published_rule": published_rule(lists, annotator),
        "published_rule_null": published_rule(null.uniform, annotator),
        "published_share_of_alive": atlas.layers.set_index("layer")["annotation_rate"][layer],
    }


def markdown(frame: pd.DataFrame) -> str:
    """A table as Markdown."""
    rows = [" | ".join(map(str, row)) for row in [list(frame), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]]
    return "\n".join(f"| {row} |" for row in rows)


def report(folder: Path, collections: list[GeneSets], layers: list[int], vocabulary: Path | None) -> None:
    """Print everything of one atlas."""
    atlas = read_published_atlas(folder)
    name = "geneformer" if len(atlas.layers) == 18 else "scgpt"
    found = recomputed_numbers(atlas, folder)
    rows = [
        (quantity, f"{value:g}", f"{found[quantity]:.6g}", "yes" if same(value, found[quantity]) else "no")
        for quantity, value in PUBLISHED[name].items()
        if quantity in found
    ]
    print(f"## {folder.name}\n")
    print(markdown(pd.DataFrame(rows, columns=["quantity", "published", "from the files", "same"])))
    print(f"\nRecords that name no gene set: {atlas.other_records['ontology'].value_counts().to_dict()}")
    named = atlas.features[atlas.features["n_terms"] > 0]
    agree = (named["label"] == named["published_label"]).mean()
    print(f"Labels by our rule that equal the published label: {agree:.1%} of {len(named)}")
    print("\nSummary beside the layers' own files (stated, counted):\n")
    print(markdown(layer_agreement(atlas)))
    annotated = sorted(atlas.terms["layer"].unique())
    print("\nBackground of the published test (genes, terms that agree, terms that could):")
    for layer in annotated:
        rows_of = atlas.terms[atlas.terms["layer"] == layer]
        listed = atlas.feature_genes[atlas.feature_genes["layer"] == layer]["symbol"].nunique()
        print(f"  layer {layer}: {recovered_background(rows_of)}; listed in the files {listed}")
    if collections:
        chosen = [layer for layer in annotated if not layers or layer in layers]
        background = atlas_background(atlas, vocabulary)
        results = [retest(atlas, layer, collections, length, background) for layer in chosen for length in (LIST, 5)]
        print(f"\nBackground of the new test: {len(background)} genes\n")
        print(markdown(pd.DataFrame(results).map(lambda x: f"{x:.4f}".rstrip("0").rstrip("."))))
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders of published atlases")
    parser.add_argument("--gene-sets", nargs="*", type=Path, default=[], help="GMT files for the new test")
    parser.add_argument("--layers", nargs="*", type=int, default=[], help="layers to test again; all if empty")
    parser.add_argument("--vocabulary", type=Path, help="vocab.json: count its genes as possible, too")
    arguments = parser.parse_args()
    sets = [read_gmt(path) for path in arguments.gene_sets]
    for each in arguments.folders:
        report(each, sets, arguments.layers, arguments.vocabulary)
