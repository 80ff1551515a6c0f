"""The folder `interventions/` of a run: every experiment in turn, then one page of them all.

An experiment that is finished is kept at once, so that a run that was stopped goes on with the next one; and it is
taken over from the folder that is there, if that was made with the same settings and inputs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from math import nan
from pathlib import Path
from typing import Any

from cellcircuits import __version__
from cellcircuits.answers import Answer, Found, judge
from cellcircuits.errors import RunError
from cellcircuits.findings_page import findings_page
from cellcircuits.findings_report import REPORT, sections, summarise_answers, write_found, write_summary
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.interventions.experiments import STUDIES, Study
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.manifest import INPUTS, replace_folder
from cellcircuits.opened import Interventions, OpenRun, open_run
from cellcircuits.progress import Progress
from cellcircuits.tables import read_table, write_table

NAME = "interventions"


def intervene(
    folder: str | Path, settings: InterventionSettings | None = None, progress: Progress | None = None, **changes: Any
) -> Interventions:
    """Run experiments on a finished run; what `cellcircuits interventions` does.

    Parameters
    ----------
    folder
        Run folder with edges.
    settings, changes
        `InterventionSettings`, or single fields of it, for example `experiments=["dose_response"]`.
    progress
        Shows how far it is; None: silent.

    Returns
    -------
    Interventions
        The tables of `interventions/` as attributes.

    Raises
    ------
    CellCircuitsError
        If the run lacks something, or a setting cannot be.
    """
    run = open_run(folder)
    chosen = InterventionSettings(**{**vars(settings or InterventionSettings()), **changes})
    with run.locked():
        write_interventions(run, chosen, progress or Progress())
    return open_run(folder).interventions


def write_interventions(run: OpenRun, settings: InterventionSettings, progress: Progress) -> None:
    """Run the experiments of `settings` on a run with edges; write `interventions/`."""
    run.require(*INPUTS[NAME])
    inputs = Inputs(run, settings, progress)
    key = _key(run, settings)
    studies = [study for study in STUDIES if study.name in settings.experiments]
    found: dict[str, Found] = {study.name: _found(study, inputs, key) for study in studies}
    answers = judge([answer for one in found.values() for answer in one.answers], settings.max_q)
    summary = summarise_answers(answers)
    with run.writing(NAME, settings=asdict(settings), key=key, summary=summary) as folder:
        write_table("answers", answers, folder)
        for study in studies:
            _write_record(found[study.name], folder / f"{study.name}.json")
        figures = write_found(studies, found, folder, _caption(inputs))
        page = findings_page(
            title=f"Interventions: {run.folder.resolve().name}",
            traced=f"{_caption(inputs)}; {len(inputs.sources):,} features.",
            sections=sections(studies, found, figures),
            answers=answers,
            provenance=_provenance(inputs),
            max_q=settings.max_q,
        )
        (folder / REPORT).write_text(page, encoding="utf-8")
        write_summary(answers, summary, folder)
    shutil.rmtree(run.work_path(NAME), ignore_errors=True)


def _key(run: OpenRun, settings: InterventionSettings) -> str:
    """Hash of everything that an experiment depends on, but for which others are run."""
    content = asdict(replace(settings, experiments=["effects"])) | {s: run.stage_hash(s) for s in INPUTS[NAME]}
    content |= {"version": __version__}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _found(study: Study, inputs: Inputs, key: str) -> Found:
    """What an experiment found: now, before this process was stopped, or when the folder was made."""
    run = inputs.run
    part = run.work_path(NAME) / f"{study.name}-{key[:16]}"
    made = run.manifest(NAME) if run.status(NAME).state == "done" else None
    for folder in (part, run.path(NAME) if made and made["record"].get("key") == key else None):
        if folder and (folder / f"{study.name}.json").is_file():
            return _read(folder, study.name)
    found = study.ask(inputs)
    writing = part.with_name(f".{part.name}.writing")
    try:
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
        for name, table in found.tables.items():
            write_table(name, table, writing)
        _write_record(found, writing / f"{study.name}.json")
        replace_folder(part, writing)
    except OSError as error:
        raise RunError(f"Cannot write {part}: {error}. Nothing was changed.") from error
    return found


def _write_record(found: Found, path: Path) -> None:
    """The answers, and which tables belong to them; what is not known is null."""
    answers = [{k: None if v != v else v for k, v in vars(answer).items()} for answer in found.answers]
    content = {"tables": list(found.tables), "answers": answers}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(folder: Path, name: str) -> Found:
    content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    answers = [_answer(answer) for answer in content["answers"]]
    return Found({table: read_table(table, folder) for table in content["tables"]}, answers)


def _answer(stored: dict[str, Any]) -> Answer:
    known: dict[str, Any] = {name: nan if value is None else value for name, value in stored.items()}
    return Answer(**known)


def _caption(inputs: Inputs) -> str:
    record = (inputs.run.manifest("cells") or {"record": {"model": ""}})["record"]
    return f"{record['model']}, {len(inputs.cell_rows):,} cells"


def _provenance(inputs: Inputs) -> dict[str, str]:
    settings, run = inputs.settings, inputs.run
    amount = f" {settings.amount:g}" if settings.kind in ("scale", "clamp") else ""
    groups = [f"{name} {value!r}" for name, value in _groups(settings).items() if value]
    return {
        "cellcircuits": __version__,
        "model": (run.manifest("cells") or {"record": {}})["record"].get("model_fingerprint", "")[:16],
        "intervention": f"{settings.kind}{amount} at {settings.positions} positions",
        "cells": f"{len(inputs.cell_rows):,}" + (f" ({', '.join(groups)})" if groups else ""),
        "features": ", ".join(f"{layer}:{feature}" for layer, feature in inputs.sources),
        "features were": "named" if settings.features else "the sources with the most edges",
        "seed": str(settings.seed),
    }


def _groups(settings: InterventionSettings) -> dict[str, Any]:
    return {"column": settings.group_by, "from": settings.from_group, "in": settings.to_group}
