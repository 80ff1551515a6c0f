"""Several runs compared: a folder of its own with tables, figures and one page, as the findings of a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from cellcircuits import __version__
from cellcircuits.answers import Found, judge
from cellcircuits.errors import RunError, SettingsError
from cellcircuits.evidence import Evidence, scan_evidence
from cellcircuits.findings import consensus, input_size, matching, selection
from cellcircuits.findings_page import findings_page
from cellcircuits.findings_report import REPORT, sections, summarise_answers, write_found, write_summary
from cellcircuits.manifest import replace_folder
from cellcircuits.opened import OpenRun, open_run
from cellcircuits.questions import COMPARISONS
from cellcircuits.settings import FindingsSettings, differing_settings
from cellcircuits.tables import write_table


def compare_runs(folders: Sequence[Path], out: Path, settings: FindingsSettings) -> Path:
    """Ask of several runs what they agree on; write `out`, whole or not at all, and return it.

    Raises
    ------
    SettingsError
        If fewer than two runs are given, or two have the same name.
    RunError
        If a run has no edges yet, or `out` cannot be written or holds something else.
    """
    runs = _opened(folders)
    # known now, rather than after everything was computed
    if out.exists() and not (out / REPORT).exists() and any(out.iterdir()):
        raise RunError(f"{out} holds something else than a comparison. Give another folder with --out.")
    evidence = {name: _evidence(run) for name, run in runs.items()}
    found = ask_of_runs(evidence, settings, _reseeded(runs))
    _write(runs, evidence, found, out, settings)
    return out


def ask_of_runs(
    evidence: dict[str, Evidence], settings: FindingsSettings, ceiling: tuple[str, str] | None = None
) -> dict[str, Found]:
    """What every question of a comparison finds, by its name.

    `evidence`: of each run by its name, in the order in which they are reported, with the tables `feature_genes`,
    `sources` and `tested`. `ceiling` names two runs that are the same model with autoencoders of different train.seed.
    """
    return {
        "consensus": consensus.ask(evidence, settings),
        "matching": matching.ask(evidence, settings, ceiling),
        "input_size": input_size.ask(evidence, settings),
        "selection": selection.ask(evidence, settings),
    }


def _opened(folders: Sequence[Path]) -> dict[str, OpenRun]:
    if len(folders) < 2:
        raise SettingsError(f"A comparison needs two runs or more; found {len(folders)}. Name their folders.")
    runs: dict[str, OpenRun] = {}
    for folder in folders:
        run = open_run(folder)
        run.require("annotate", "trace", "edges")
        name = run.folder.resolve().name
        if name in runs:
            raise SettingsError(
                f"Runs are told apart by the names of their folders; two are called {name!r}. Rename one."
            )
        runs[name] = run
    return runs


def _evidence(run: OpenRun) -> Evidence:
    tables = {"feature_genes": run.feature_genes, "sources": run.sources, "tested": run.tested}
    return scan_evidence(run.path("edges") / "edges.parquet", run.features, **tables)


def _reseeded(runs: dict[str, OpenRun]) -> tuple[str, str] | None:
    """Two runs that differ in the seed of their autoencoders alone: how far features can be matched at best."""
    for (first, one), (second, other) in combinations(runs.items(), 2):
        if differing_settings(one.settings, other.settings) == ["train.seed"]:
            return first, second
    return None


def _write(
    runs: dict[str, OpenRun],
    evidence: dict[str, Evidence],
    found: dict[str, Found],
    out: Path,
    settings: FindingsSettings,
) -> None:
    answers = judge([answer for one in found.values() for answer in one.answers], settings.max_q)
    temporary = out.with_name(f".{out.name}.writing-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        write_table("answers", answers, temporary)
        figures = write_found(COMPARISONS, found, temporary, " and ".join(runs))
        page = findings_page(
            title=f"{len(runs)} runs compared",
            traced="; ".join(f"{name}: {one.edges.height:,} edges" for name, one in evidence.items()),
            sections=sections(COMPARISONS, found, figures),
            answers=answers,
            provenance=_provenance(runs, settings),
            max_q=settings.max_q,
        )
        (temporary / REPORT).write_text(page, encoding="utf-8")
        write_summary(answers, summarise_answers(answers) | {"runs": list(runs)}, temporary)
        replace_folder(out, temporary)
    except OSError as error:
        raise RunError(f"Cannot write {out}: {error}. Nothing was changed.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _provenance(runs: dict[str, OpenRun], settings: FindingsSettings) -> dict[str, str]:
    records = {"cellcircuits": __version__}
    for name, run in runs.items():
        cells = (run.manifest("cells") or {})["record"]
        records[name] = (
            f"{cells['model']}, {cells['coverage']['cells']:,} cells, weights {cells['model_fingerprint'][:16]}; edges "
            f"{run.stage_hash('edges')[:16]}"
        )
    return records | {"permutations, seed": f"{settings.permutations:,}; {settings.seed}"}
