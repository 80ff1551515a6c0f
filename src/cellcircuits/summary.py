"""The key numbers of a run, each beside its chance baseline; printed at the end and shown in the atlas."""

from __future__ import annotations

import pandas as pd

from cellcircuits.baseline_table import over_layers
from cellcircuits.formats import AUTOENCODER, RANDOM_WEIGHTS
from cellcircuits.opened import OpenRun

KINDS = {
    RANDOM_WEIGHTS: "on random weights",
    "pca": "of principal components",
    "ica": "of independent components",
    "neurons": "of coordinates of the residual stream",
}
"""What the features of the autoencoders are compared with, in the words of the summary."""
Summary = dict[str, dict[str, str | int | float]]
"""{section: {name: value}}."""


def summarise(run: OpenRun) -> Summary:
    """Sections cells, autoencoders, annotation, trace, edges and findings of a run whose findings are done."""
    records = {stage: (run.manifest(stage) or {}).get("record", {}) for stage in ("cells", "annotate", "trace")}
    coverage, model = records["cells"]["coverage"], records["cells"]
    passes = records["trace"]["passes"]
    return {
        "Cells and model": {
            "model": f"{model['model']}, {model['n_layers']} layers of width {model['d_model']}",
            "cells": coverage["cells"],
            "genes known to the model": (
                f"{coverage['genes_detected_mapped']:,} of {coverage['genes_detected']:,} detected "
                f"({coverage['share_of_detected_genes_mapped']:.0%}), "
                f"{coverage['share_of_counts_mapped']:.0%} of counts"
            ),
            "input mode": coverage["input_mode"],
            "cells cut to the longest input": coverage["cells_truncated"],
        },
        "Autoencoders, on held-out cells": _quality_numbers(run.quality),
        "Annotation": _annotation_numbers(run, records["annotate"]),
        "Trace": {
            "source features": len(run.sources),
            "source layers": ", ".join(map(str, sorted(run.sources["layer"].unique()))),
            "clean passes": passes["clean"],
            "ablated passes": passes["ablated"],
        },
        "Edges": _edge_numbers(run),
    }


def _quality_numbers(quality: pd.DataFrame) -> dict[str, str | int | float]:
    """Quality of the autoencoders over layers, each number beside its baselines where the run has them."""
    numbers: dict[str, str | int | float] = {"layers": len(quality)}
    for name, column, form, baselines in (
        ("variance explained", "variance_explained", ".2f", {"as many principal components": "pca_variance_explained"}),
        ("final state recovered", "final_state_recovered", ".2f", {}),
        ("active features per position", "l0", ".1f", {}),
        ("dead features", "dead_share", ".1%", {}),
        ("features found by another seed", "stable_share", ".1%", {"random directions": "stable_share_random"}),
    ):
        beside = baselines | {"random weights": f"{RANDOM_WEIGHTS}_{column}"}
        if quality[column].notna().any():
            texts = [f"; {what}: {_span(quality[c], form)}" for what, c in beside.items() if _measured(quality, c)]
            numbers[name] = _span(quality[column], form) + "".join(texts)
    return numbers


def _measured(quality: pd.DataFrame, column: str) -> bool:
    return column in quality and bool(quality[column].notna().any())


def _annotation_numbers(run: OpenRun, record: dict) -> dict[str, str | int | float]:
    """Annotated features, beside random gene lists, and beside features on random weights where the run has them."""
    named = pd.DataFrame(record["summary"]).T
    numbers = {"features": int(named["n_features"].sum()), **_annotation_rates(run.annotation_rates)}
    beside = over_layers(run.baselines)
    for kind, name in KINDS.items():
        if kind in beside.index:
            numbers[f"the same {name}"] = f"{beside.loc[kind, 'annotated_share']:.1%} with an enriched gene set"
    for kind, name in {AUTOENCODER: "features", **KINDS}.items():
        if kind in beside.index and beside.loc[kind, "n_tested"] > 0:
            row = beside.loc[kind]
            text = f"{row['associated_share']:.1%} (labels permuted: {row['null_associated_share']:.1%}); largest AUROC"
            text += f" {row['median_auroc']:.2f} in the median (permuted: {row['null_auroc']:.2f})"
            numbers["features that tell labels of cells apart" if kind == AUTOENCODER else f"of those {name}"] = text
    return numbers


def _annotation_rates(rates: pd.DataFrame) -> dict[str, str | int | float]:
    """Share of features with an annotation from every source, beside random gene lists."""
    names = {
        "gene sets": "an enriched gene set",
        "targets": "enriched targets of a regulator",
        "interactions": "interacting top genes",
    }
    numbers: dict[str, str | int | float] = {}
    for (kind, source), rows in rates.groupby(["kind", "source"], sort=False):
        share = rows["n_annotated"].sum() / max(rows["n_lists"].sum(), 1)
        means = rows[["null_share", "null_share_at_cut", "listed_share_at_cut"]].mean()
        name = names[kind] if source == "all" else f"{names[kind]}, {source}"
        numbers[f"features with {name}"] = (
            f"{share:.1%} (random gene lists: {means['null_share']:.1%}; judged by the features' cut in p: "
            f"{means['null_share_at_cut']:.1%}, and as common as on their lists: {means['listed_share_at_cut']:.1%})"
        )
    return numbers


def _edge_numbers(run: OpenRun) -> dict[str, str | int | float]:
    summary = (run.manifest("edges") or {})["record"]["summary"]
    n_tested, max_q = summary["n_tested"], run.settings.edges.max_q
    numbers: dict[str, str | int | float] = {"tested pairs": n_tested}
    for row in run.findings.signs.to_dict("records"):
        name = f"edges, {row['rule']} rule"
        false = f"; at most {max_q * row['n_edges']:,.0f} false at q" if row["rule"] == "calibrated" else ""
        numbers[name] = f"{row['n_edges']:,} ({row['n_edges'] / max(n_tested, 1):.1%} of tested pairs{false})"
        numbers[f"negative effects, {row['rule']} rule"] = (
            f"{row['share_negative']:.1%} [{row['interval_low']:.1%}, {row['interval_high']:.1%}]"
            f" (the rule alone makes {row['chance_share']:.1%})"
        )
    return numbers | _control_numbers(run) | _fidelity_numbers(summary)


def _control_numbers(run: OpenRun) -> dict[str, str | int | float]:
    """What the rules find for the sources beside what they find for the controls, all in the same context."""
    names = {"own": "sources", "random": "random directions", "feature": "directions of other features"}
    names[RANDOM_WEIGHTS] = "features of the model with random weights"
    numbers: dict[str, str | int | float] = {}
    for row in run.controls.to_dict("records"):
        specific = "" if row["edges_specific"] != row["edges_specific"] else f"; specific {row['edges_specific']:,.0f}"
        numbers[f"{names[row['direction']]} ({row['context']})"] = (
            f"published rule {row['edges_published']:,.0f}; exist {row['edges_exist']:,.0f} "
            f"({row['share_exist']:.1%} of tested pairs){specific}"
        )
    return numbers


def _fidelity_numbers(summary: dict) -> dict[str, str | int | float]:
    found = summary["fidelity"]
    if found is None:
        return {}
    text = (
        f"correlation of effects {found['correlation']:.3f}, edges found {found['recall']:.0%}, "
        f"Jaccard {found['jaccard']:.2f}, same sign {found['sign_agreement']:.1%}"
    )
    return {"frozen against exact context": text}


def _span(values: pd.Series, form: str = ".2f") -> str:
    """Median with the range over layers."""
    return f"{values.median():{form}} (layers: {values.min():{form}} to {values.max():{form}})"


def top_circuits(run: OpenRun, limit: int = 5) -> pd.DataFrame:
    """The pairs of gene programs farthest beyond chance, with the genes of their strongest edge."""
    table = run.findings.circuits.head(limit).copy()
    for end in ("source", "target"):
        table[f"{end}_genes"] = table[f"{end}_genes"].str.split(";").str[:4].str.join(", ")
    return table
