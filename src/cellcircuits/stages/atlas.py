"""Stage `atlas`: the static web site of a run, and of others beside it. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellcircuits.atlas.build import COMPARISON, build_site
from cellcircuits.atlas.coordinates import map_features
from cellcircuits.atlas.inputs import AtlasRun, Comparison, Interventions, run_keys
from cellcircuits.errors import RunError
from cellcircuits.manifest import ASKED_FOR, INPUTS, STAGES
from cellcircuits.opened import OpenRun, open_run
from cellcircuits.progress import Progress
from cellcircuits.run import Run, content_hash
from cellcircuits.settings import AtlasSettings
from cellcircuits.summary import summarise
from cellcircuits.tables import read_table

OPTIONAL = {
    "activation_bins": "annotate",
    "quality": "train",
    "answers": "findings",
    "modules": "structure",
    "module_labels": "structure",
}
"""Tables that runs may lack, by stage: those of stages that are not needed, and those that older runs did not write."""
REPORT = "report.html"
WEIGHTS, DECODER = "sae_weights.safetensors", "W_dec"


def atlas_stage(run: Run, progress: Progress) -> None:
    """Write the site from the tables of the run and of `atlas.also`; write `atlas/`."""
    run.require("annotate", "trace", "edges", "findings")
    settings = run.settings.atlas
    opened = [OpenRun(run.folder, run.settings), *(open_run(folder) for folder in settings.also)]
    for other in opened[1:]:
        other.require(*INPUTS["atlas"])
    keys = run_keys([each.folder.resolve().name for each in opened])
    beside = {name: run.stage_hash(name) for name in ASKED_FOR}
    also = {str(other.folder.resolve()): content_hash(other.folder) for other in opened[1:]}
    with run.writing("atlas", beside=beside, also=also) as folder:
        write_atlas(opened, keys, folder, settings, progress)


def write_atlas(
    runs: list[OpenRun], keys: list[str], folder: Path, settings: AtlasSettings, progress: Progress
) -> None:
    """Write one site of several finished runs into an empty folder.

    `keys` name the runs in addresses (`run_keys`). The comparison is read from `settings.comparison`, or else from the
    folder `comparison` beside the first run where there is one and there are several runs.
    """
    shown = []
    with progress.task("Mapping the features", len(runs)) as advance:
        for run, key in zip(runs, keys, strict=True):
            shown.append(gather(run, key, settings))
            advance(1)
    with progress.task("Writing the atlas", 1) as advance:
        build_site(shown, folder, settings.title, _comparison(runs, settings))
        advance(1)


def gather(run: OpenRun, key: str, settings: AtlasSettings) -> AtlasRun:
    """Everything that the atlas shows of a finished run."""
    tables = {
        "features": run.features,
        "feature_genes": run.feature_genes,
        "cell_labels": run.cell_labels,
        "terms": run.terms,
        "regulators": run.regulators,
        "interactions": run.interactions,
        "edges": run.edges,
        "attenuation": run.findings.attenuation,
        "hubs": run.findings.hubs,
        "signs": run.findings.signs,
        "circuits": run.findings.circuits,
        "sources": run.sources,
    }
    tables |= {name: table for name, stage in OPTIONAL.items() if (table := _optional(run, stage, name)) is not None}
    report = run.path("findings") / REPORT
    coordinates = map_features(
        tables["features"], tables["feature_genes"], _directions(run), settings.map_method, settings.seed
    )
    return AtlasRun(
        key=key,
        name=_name(run, key),
        tables=tables,
        summary=summarise(run),
        figures=sorted(run.path("findings").rglob("*.png")),
        report=report if report.is_file() else None,
        interventions=_interventions(run),
        provenance=_provenance(run),
        coordinates=coordinates,
    )


def _interventions(run: OpenRun) -> Interventions | None:
    folder = run.path("interventions")
    if run.status("interventions").state != "done":
        return None
    return Interventions(run.interventions.answers, sorted(folder.glob("*.png")), folder / REPORT)


def _name(run: OpenRun, key: str) -> str:
    model = (run.manifest("cells") or {})["record"]["model"]
    return model if key in model.lower() else f"{key} ({model})"


def _optional(run: OpenRun, stage: str, name: str) -> pd.DataFrame | None:
    folder = run.path(stage)
    return read_table(name, folder) if (folder / f"{name}.parquet").is_file() else None


def _directions(run: OpenRun) -> dict[int, np.ndarray]:
    """Decoder rows by layer, read without torch; layers whose autoencoder is not there are left out."""
    from safetensors import SafetensorError, safe_open

    found = {}
    for path in sorted(run.path("train").glob(f"L*/{WEIGHTS}")):
        try:
            with safe_open(path, framework="numpy") as weights:
                found[int(path.parent.name[1:])] = weights.get_tensor(DECODER)
        except (OSError, SafetensorError, ValueError) as error:
            raise RunError(f"Cannot read {path}: {error}. Run the stage `train` again.") from error
    return found


def _provenance(run: OpenRun) -> list[dict[str, Any]]:
    """The manifests of the stages before this one, with the number and size of their files in place of the files."""
    found = []
    for stage in STAGES[:-1]:
        manifest = run.manifest(stage)
        if manifest is not None:
            files = manifest.pop("files")
            found.append(manifest | {"n_files": len(files), "size_bytes": sum(f["size"] for f in files.values())})
    return found


def _comparison(runs: list[OpenRun], settings: AtlasSettings) -> Comparison | None:
    folder = Path(settings.comparison) if settings.comparison else runs[0].folder.resolve().parent / COMPARISON
    if not settings.comparison and (len(runs) < 2 or not folder.is_dir()):
        return None
    consensus, answers = (read_table(name, folder) for name in ("consensus", "answers"))
    return Comparison(consensus, answers, sorted(folder.rglob("*.png")))
