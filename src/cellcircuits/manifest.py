"""The manifest of a stage's artifact: its settings, the hashes of its inputs, and the size and hash of each file.

Also which stages there are, and what each of them reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cellcircuits.errors import RunError, listed
from cellcircuits.formats import FORMAT_VERSION

STAGES = ("cells", "train", "annotate", "trace", "edges", "findings", "atlas")
"""In the order in which they run."""
ASKED_FOR = ("structure", "interventions")
"""What is no stage, but asked of a run with flags of its own."""
FOLDERS = {"train": "sae"}
"""Folder of a stage, where it is not the stage's name."""
# annotate proposes sources to trace, but a trace stays true when features get other names
INPUTS = {
    "cells": (),
    "train": ("cells",),
    "annotate": ("cells", "train"),
    "trace": ("cells", "train"),
    "edges": ("cells", "trace"),
    "findings": ("cells", "annotate", "trace", "edges"),
    "atlas": ("annotate", "trace", "edges", "findings"),
    "structure": ("cells", "train", "annotate"),
    "interventions": ("cells", "train", "annotate", "trace", "edges"),
}
"""Stages whose artifacts a stage reads."""
SECTIONS: dict[str, tuple[str, ...]] = {"cells": ("model", "cells"), **dict.fromkeys(ASKED_FOR, ())}
"""Settings that decide a stage's artifact, where they are not the section of its name alone."""
MANIFEST = "manifest.json"
MANIFEST_KEYS = {"stage", "format_version", "settings", "inputs", "record", "files", "hash", "created"}


def read_manifest(folder: Path, stage: str) -> dict[str, Any] | None:
    """The manifest in the folder of a stage, or None if there is none.

    Raises
    ------
    RunError
        If it is damaged, of another stage, or of a newer version.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        newer = manifest["format_version"] > FORMAT_VERSION
        absent = sorted(MANIFEST_KEYS - set(manifest))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}). Delete {path.parent} and run `{stage}` again.") from error
    if newer:
        raise RunError(
            f"{path} has format version {manifest['format_version']}, newer than this package knows. "
            "Install a newer cellcircuits."
        )
    if absent or manifest["stage"] != stage:
        fault = f"no {listed(absent)}" if absent else f"it is of stage {manifest['stage']!r}"
        raise RunError(f"{path} is damaged ({fault}). Delete {path.parent} and run `{stage}` again.")
    return manifest


def write_manifest(
    folder: Path, stage: str, settings: dict[str, Any], inputs: dict[str, str], record: dict[str, Any]
) -> None:
    """Write the manifest of the files in a folder; `inputs` are hashes of the stages that were read."""
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": file_hash(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    content: dict[str, Any] = {
        "stage": stage,
        "format_version": FORMAT_VERSION,
        "package_version": version("cellcircuits"),
        "settings": settings,
        "inputs": inputs,
        "record": record,
        "files": files,
    }
    content["hash"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    content["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def changed_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of the files that are missing or have another size than the manifest says."""
    return [name for name, file in manifest["files"].items() if _size(folder / name) != file["size"]]


def optional_inputs(manifest: dict[str, Any]) -> dict[str, str]:
    """{stage: its hash} of what was read because it was there; "" of what was not there.

    `structure` compares with edges where a run has them, the atlas shows what was asked beside the stages.
    """
    record = manifest["record"]
    if manifest["stage"] == "structure":
        return {"edges": record["edges"]} if record.get("edges") else {}
    return record.get("beside", {})


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def replace_folder(target: Path, source: Path) -> None:
    """Rename `source` to `target`, removing what was there; if that fails, what was there is put back."""
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        target.rename(old)
    try:
        source.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
