"""Stage `findings`: every question in turn, from tables to tables, answers and figures; then one page of them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cellcircuits import __version__
from cellcircuits.answers import judge
from cellcircuits.evidence import ENDS
from cellcircuits.findings_page import findings_page
from cellcircuits.findings_report import REPORT, sections, summarise_answers, write_found, write_summary
from cellcircuits.manifest import file_hash
from cellcircuits.plots import write_plots
from cellcircuits.progress import Progress
from cellcircuits.questions import QUESTIONS, Inputs
from cellcircuits.run import Run
from cellcircuits.tables import read_table, write_table


def findings_stage(run: Run, progress: Progress) -> None:
    """Ask the biological questions of the run's edges; write `findings/`."""
    run.require("cells", "annotate", "trace", "edges")
    inputs = Inputs(run)
    asked = [question for question in QUESTIONS if run.settings.findings.all or not question.control]
    with progress.task("Asking the questions", len(asked) + 1) as advance:
        for question in asked:
            inputs.found[question.name] = question.ask(inputs)
            advance(1)
        answers = judge([answer for found in inputs.found.values() for answer in found.answers], inputs.settings.max_q)
        record = summarise_answers(answers) | {"n_edges": inputs.evidence.edges.height} | _circuits_record(inputs)
        with run.writing("findings", summary=record, files=_file_hashes(run)) as folder:
            write_table("answers", answers, folder)
            write_table("signs", read_table("signs", run.path("edges")), folder)
            figures = write_found(asked, inputs.found, folder, _caption(run))
            _write_overview(inputs, folder, _caption(run))
            page = findings_page(
                title=f"Findings: {run.folder.resolve().name}",
                traced=f"{_caption(run)}; {record['n_edges']:,} edges of {_n_sources(inputs)} ablated features.",
                sections=sections(asked, inputs.found, figures),
                answers=answers,
                provenance=_provenance(run),
                max_q=inputs.settings.max_q,
            )
            (folder / REPORT).write_text(page, encoding="utf-8")
            write_summary(answers, record, folder)
        advance(1)


def _write_overview(inputs: Inputs, folder: Path, caption: str) -> None:
    """The figures that belong to no question alone."""
    columns = [*ENDS, "snr", "mean_delta", "relative_effect"]
    edges = inputs.evidence.edges.select(columns).to_pandas()
    attenuation = inputs.found["attenuation"].tables["attenuation"]
    write_plots(edges, attenuation, inputs.found["hubs"].tables["hubs"], inputs.evidence.n_layers, folder, caption)


def _circuits_record(inputs: Inputs) -> dict[str, Any]:
    circuits, max_q = inputs.found["circuits"].tables["circuits"], inputs.settings.max_q
    beyond = int((circuits["q_value"] <= max_q).sum())
    return {
        "n_label_pairs": len(circuits),
        "n_label_pairs_beyond_chance": beyond,
        "n_label_pairs_beyond_chance_expected_false": max_q * beyond,
    }


def _caption(run: Run) -> str:
    cells = (run.manifest("cells") or {})["record"]
    return f"{cells['model']}, {cells['coverage']['cells']:,} cells"


def _n_sources(inputs: Inputs) -> str:
    return f"{len(inputs.evidence.source_rows):,}"


def _file_hashes(run: Run) -> dict[str, str]:
    """Of the files that the questions read beside the run."""
    named = run.settings.findings
    paths = [*named.disease_sets, *(screen.path for screen in named.screens)]
    return {path: file_hash(Path(path)) for path in paths if Path(path).is_file()}


def _provenance(run: Run) -> dict[str, str]:
    """What the numbers were made from."""
    settings = run.settings
    records = {stage: (run.manifest(stage) or {}).get("record", {}) for stage in ("cells", "trace", "edges")}
    controls = read_table("controls", run.path("edges"))
    edges = settings.edges
    return {
        "cellcircuits": __version__,
        "model": f"{records['cells']['model']}, {records['cells']['n_layers']} layers, "
        f"weights {records['cells']['model_fingerprint'][:16]}",
        "cells": f"{records['cells']['coverage']['cells']:,} from {Path(settings.cells.data).name}",
        "sources": f"trace.select = {settings.trace.select!r}, context {settings.trace.context!r}, "
        f"readout {edges.readout!r}",
        "edges": f"rule {edges.rule!r}: q ≤ {edges.max_q}, |snr| ≥ {edges.min_snr}, sign agreement ≥ "
        f"{edges.min_agreement}, at least {edges.min_cells} cells, unit {edges.unit!r}, test {edges.test!r}",
        "edges of random directions": "; ".join(
            f"{row['direction']}: {row['edges_exist']:,.0f} exist"
            + ("" if row["edges_specific"] != row["edges_specific"] else f", {row['edges_specific']:,.0f} specific")
            for row in controls.to_dict("records")
        )
        or "no controls were traced",
        "gene sets": ", ".join(Path(path).name for path in settings.annotate.gene_sets) or "none",
        "networks": ", ".join(Path(path).name for path in settings.annotate.networks) or "none",
        "permutations, seed": f"{settings.findings.permutations:,}; {settings.findings.seed}",
        "answers to": "all questions, the revision's controls included"
        if settings.findings.all
        else "the main questions (cellcircuits findings RUN --all also asks the revision's controls)",
    }
