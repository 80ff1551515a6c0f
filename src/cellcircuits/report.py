"""Text and tables for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console
from rich.table import Table

from cellcircuits.answers import UNTESTABLE
from cellcircuits.baseline_table import over_layers
from cellcircuits.findings_page import number
from cellcircuits.findings_report import REPORT
from cellcircuits.manifest import ASKED_FOR, STAGES
from cellcircuits.opened import OpenRun
from cellcircuits.run import Run
from cellcircuits.summary import summarise, top_circuits

if TYPE_CHECKING:
    from cellcircuits.trace_cost import StageCost


QUALITY_SHOWN = (
    ("layer", "layer", "d"),
    ("variance explained", "variance_explained", ".3f"),
    ("of PCA", "pca_variance_explained", ".3f"),
    ("random weights", "random_weights_variance_explained", ".3f"),
    ("final state recovered", "final_state_recovered", ".3f"),
    ("random weights", "random_weights_final_state_recovered", ".3f"),
    ("loss recovered", "loss_recovered", ".3f"),
    ("active", "l0", ".1f"),
    ("dead", "dead_share", ".1%"),
    ("fires at: median", "density_q50", ".2%"),
    ("95 %", "density_q95", ".2%"),
    ("found by another seed", "stable_share", ".1%"),
    ("random directions", "stable_share_random", ".1%"),
)
"""(heading, column, format) of the table that is printed."""


def readable_bytes(size: float) -> str:
    """12.3 MB and the like."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def readable_seconds(seconds: float) -> str:
    """Seconds, minutes, hours or days."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def print_status(run: Run, console: Console) -> None:
    """State and size of every stage, and of what is no stage and made only when asked for."""
    table = Table(title=str(run.folder), title_justify="left")
    for heading in ("stage", "state", "size", ""):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    for stage in STAGES:
        status = run.status(stage)
        size = readable_bytes(status.size_bytes) if status.size_bytes else ""
        table.add_row(stage, status.state, size, status.detail)
    for name in ASKED_FOR:
        status = run.status(name)
        if status.state == "missing":
            table.add_row(name, "not asked", "", f"cellcircuits {name} {run.folder}")
        else:
            size = readable_bytes(status.size_bytes) if status.size_bytes else ""
            done = name == "structure" and status.state == "done"
            table.add_row(name, status.state, size, _structure_made(run) if done else status.detail)
    console.print(table)


def _structure_made(run: Run) -> str:
    """When `structure/` was made, and whether before there were edges to compare with."""
    manifest = run.manifest("structure") or {"record": {}, "created": ""}
    early = not manifest["record"].get("edges") and run.status("edges").state == "done"
    return manifest["created"] + (", before there were edges" if early else "")


def print_plan(costs: list[StageCost], rate: float, interpreter_bytes: int, console: Console, given: bool) -> None:
    """Cost of every stage, and the time that it takes at least at a rate in operations per second.

    The rate is that of this machine, unless it was `given`.
    """
    table = Table(title="Cost before anything starts", title_justify="left")
    time = f"at {rate / 1e12:g} T/s" if given else "at least, here"
    for heading in ("stage", "passes", "operations", time, "memory", "disk"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for cost in costs:
        table.add_row(
            f"{cost.stage}, {cost.part}" if cost.part else cost.stage,
            f"{cost.passes:,}",
            f"{cost.operations / 1e12:,.2f} T",
            readable_seconds(cost.operations / rate),
            readable_bytes(cost.memory_bytes + interpreter_bytes),
            readable_bytes(cost.disk_bytes),
        )
    console.print(table)
    origin = (
        f"{rate / 1e12:g} T per second, as given"
        if given
        else f"{rate / 1e9:,.0f} G per second, the rate of a matrix product measured here just now"
    )
    console.print(
        f"Time is operations / {origin}. Memory is that of a process at its peak, {readable_bytes(interpreter_bytes)} "
        "of it for Python and its libraries, measured here; on a GPU model and states are in the GPU's. Sources are "
        "taken to be active in every cell.",
        highlight=False,
    )


def print_summary(run: OpenRun, console: Console) -> None:
    """Key numbers of a finished run and its strongest circuits."""
    table = Table(show_header=False, title=str(run.folder), title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for section, numbers in summarise(run).items():
        table.add_section()
        for position, (name, value) in enumerate(numbers.items()):
            text = f"{value:,}" if isinstance(value, int) else str(value)
            table.add_row(f"{section}: {name}" if position == 0 else f"  {name}", text)
    console.print(table)
    print_quality(run, console)
    print_baselines(run, console)
    print_circuits(run, console)
    print_answers(run.findings.answers, run.path("findings") / REPORT, console)


def print_quality(run: OpenRun, console: Console) -> None:
    """The table `quality`, without columns that were not measured."""
    quality = run.quality
    table = Table(title="Autoencoders on held-out cells, by layer (docs/features.md)", title_justify="left")
    shown = [(heading, column, form) for heading, column, form in QUALITY_SHOWN if quality[column].notna().any()]
    for heading, _, _ in shown:
        table.add_column(heading, justify="right")
    for row in quality.to_dict("records"):
        table.add_row(*(format(row[column], form) for _, column, form in shown))
    console.print(table)


def print_baselines(run: OpenRun, console: Console) -> None:
    """The table `baselines` over all layers: the autoencoders' features beside those of other dictionaries."""
    title = "Features and what they are compared with, all layers (in brackets: by chance; docs/features.md)"
    table = Table(title=title, title_justify="left")
    headings = ("dictionary", "features", "active", "with a gene list", "with a gene set", "different sets")
    for heading in (*headings, "tells labels apart", "largest AUROC, median"):
        table.add_column(heading, justify="left" if heading == "dictionary" else "right")
    for kind, row in over_layers(run.baselines).iterrows():
        tested = row["n_tested"] > 0
        table.add_row(
            str(kind).replace("_", " "),
            f"{row['n_features']:,.0f}",
            f"{row['l0']:.1f}",
            f"{row['n_with_gene_list']:,.0f}",
            f"{row['annotated_share']:.1%} ({row['null_share']:.1%})",
            f"{row['n_labels']:.0f} per layer",
            f"{row['associated_share']:.1%} ({row['null_associated_share']:.1%})" if tested else "",
            f"{row['median_auroc']:.3f} ({row['null_auroc']:.3f})" if tested else "",
        )
    console.print(table)


def print_circuits(run: OpenRun, console: Console) -> None:
    """The pairs of gene programs farthest beyond chance."""
    circuits = top_circuits(run)
    if circuits.empty:
        console.print("No edge joins two named gene programs.")
        return
    pairs, max_q = run.findings.circuits, run.settings.findings.max_q
    beyond = int((pairs["q_value"] <= max_q).sum())
    title = (
        f"Circuits between gene programs: {beyond} of {len(pairs):,} pairs have more edges than chance (q <= {max_q})"
    )
    table = Table(title=title, title_justify="left")
    negative = f"negative (all edges: {(run.edges['mean_delta'] < 0).mean():.0%})"
    for heading in ("source", "target", "edges", "expected", "q", negative, "genes of the strongest edge"):
        table.add_column(heading, justify="left" if heading in ("source", "target") else "right")
    for row in circuits.to_dict("records"):
        table.add_row(
            row["source_label"],
            row["target_label"],
            f"{row['n_edges']:,}",
            f"{row['n_expected']:.1f}",
            f"{row['q_value']:.2g}",
            f"{row['share_negative']:.0%}",
            f"{row['source_genes']} -> {row['target_genes']}",
        )
    console.print(table)
    console.print(
        "A negative effect (target falls when the source is removed) means that the source supports the target."
    )


def print_answers(answers: pd.DataFrame, page: Path, console: Console, title: str = "Findings") -> None:
    """Every tested answer beside its chance baseline, and where the page is that shows them all."""
    tested = answers[answers["p_value"].notna()]
    table = Table(title=f"{title}: {len(tested)} tested answers", title_justify="left")
    for heading in ("question", "statistic", "value", "by chance", "q", "verdict"):
        table.add_column(heading, justify="right" if heading in ("value", "by chance", "q") else "left")
    before = ""
    for row in tested.to_dict("records"):
        name = "" if row["question"] == before else row["question"].replace("_", " ")
        before = row["question"]
        numbers = (number(row[column], row["unit"]) for column in ("value", "baseline"))
        table.add_row(name, row["statistic"], *numbers, f"{row['q_value']:.2g}", row["verdict"])
    console.print(table)
    untested = int((answers["verdict"] == UNTESTABLE).sum())
    console.print(
        f"{untested} answers cannot be given with these inputs; the page says what is missing: {page.resolve()}",
        highlight=False,
        soft_wrap=True,
    )


def print_structure(run: OpenRun, console: Console) -> None:
    """The rates of `structure/`, each beside its chance baseline."""
    found = run.structure
    table = Table(title="Structure (in brackets: by chance)", title_justify="left")
    names = ("layer", "pairs", "modules", "modularity", "same direction", "correlation", "axes hold", "neighbour")
    for name in names:
        table.add_column(name, justify="right")
    rows = found.module_rates.set_index("layer")
    for rates in (found.svd_rates, found.unannotated_rates, found.persistence_rates):
        rows = rows.join(rates.drop(columns="n_features").set_index("layer"))
    for row in rows.reset_index().to_dict("records"):
        above = row["next_layer"] == row["next_layer"]
        table.add_row(
            str(row["layer"]),
            f"{row['n_pairs']:,} ({row['null_pairs']:,.0f}; shared genes {row['null_pairs_by_gene']:,.0f})",
            f"{row['n_modules']} with {row['covered_share']:.0%}",
            f"{row['modularity']:.2f} ({row['null_modularity']:.2f})",
            f"{row['matched_share']:.0%} ({row['null_matched_share']:.0%})" if above else "",
            f"{row['median_correlation']:.2f} ({row['null_correlation']:.2f})" if above else "",
            f"{row['mean_captured']:.0%} ({row['null_captured']:.0%}; as drawn {row['drawn_captured']:.0%})",
            f"{row['neighbour_share']:.0%} ({row['null_neighbour_share']:.0%})",
        )
    table.caption = (
        "pairs: features that fire together. modules: how many, and their share of features. same direction, "
        "correlation: best matches in the next layer, share with a like direction and median. axes hold: share of a "
        "direction within the top singular vectors. neighbour: features without a label that list genes as one with it."
    )
    console.print(table)
    for row in found.dependency_overlap.to_dict("records"):
        console.print(
            f"L{row['source_layer']} to L{row['target_layer']}: {row['n_both']:,} of {row['n_edges']:,} edges join "
            f"features that fire together (by chance at equal firing rates {row['expected_matched']:,.0f}; "
            f"also with as many shared genes {row['expected_by_gene']:,.0f}, z = {row['z_by_gene']:.1f})",
            highlight=False,
        )
    for row in found.perturbation_rates.to_dict("records"):
        console.print(
            f"L{row['layer']}, {row['n_perturbations']} perturbations: {row['called_share']:.1%} of pairs with a "
            f"feature called (labels permuted: {row['null_called_share']:.1%}); {row['n_listed']:,} pairs list the "
            f"perturbed gene"
            + (
                f", {row['listed_called_share']:.1%} of them called, {row['listed_lower_share']:.0%} lower"
                if row["n_listed"]
                else ""
            ),
            highlight=False,
        )
