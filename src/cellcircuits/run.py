"""A run folder: where each artifact is, whether it is complete, and what it was made from.

Every stage writes into a temporary sibling, then its manifest, then renames the folder into place: an artifact is
complete or absent. The manifest holds the settings, the hashes of its inputs, and the size and hash of each file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cellcircuits.errors import RunError, listed
from cellcircuits.formats import FORMAT_VERSION
from cellcircuits.settings import Settings, read_settings, write_settings

STAGES = ("cells", "train", "annotate", "trace", "edges", "findings", "atlas")
"""In the order in which they run."""
FOLDERS = {"train": "sae"}
"""Folder of a stage, where it is not the stage's name."""
INPUTS = {
    "cells": (),
    "train": ("cells",),
    "annotate": ("cells", "train"),
    "trace": ("cells", "train", "annotate"),
    "edges": ("trace",),
    "findings": ("cells", "annotate", "trace", "edges"),
    "atlas": ("annotate", "edges", "findings"),
}
"""Stages whose artifacts a stage reads."""
SECTIONS = {"cells": ("model", "cells")}
"""Settings that decide a stage's artifact, where they are not the section of its name alone."""
RUN_FILE = "run.json"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class StageStatus:
    """State of one stage of a run."""

    stage: str
    state: str
    """"done", "missing", "stale" (an input was made again since) or "damaged"."""
    size_bytes: int
    detail: str


class Run:
    """A run folder. Use `create_run` or `cellcircuits.open_run`."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings

    def path(self, stage: str) -> Path:
        """Folder of a stage's artifact."""
        return self.folder / FOLDERS.get(stage, stage)

    def work_path(self, stage: str) -> Path:
        """Folder of finished parts of a stage that is still under way."""
        return self.folder / f".{stage}.parts"

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """The manifest of a stage, or None if the stage is not done."""
        path = self.path(stage) / MANIFEST
        if not path.exists():
            return None
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["stage"] != stage or manifest["format_version"] > FORMAT_VERSION:
                raise RunError(f"{path} is of stage {manifest['stage']!r}, version {manifest['format_version']}.")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged ({error}). Delete {path.parent} and run `{stage}` again.") from error
        return manifest

    def stage_hash(self, stage: str) -> str:
        """Hash of a stage's manifest: changes when the artifact is made again from other inputs or settings."""
        manifest = self.manifest(stage)
        return "" if manifest is None else manifest["hash"]

    def stage_settings(self, stage: str) -> dict[str, Any]:
        """The settings that decide a stage's artifact."""
        everything = self.settings.to_dict()
        return {section: everything[section] for section in SECTIONS.get(stage, (stage,))}

    def status(self, stage: str) -> StageStatus:
        """Whether a stage is done, missing, stale or damaged."""
        try:
            manifest = self.manifest(stage)
        except RunError as error:
            return StageStatus(stage, "damaged", 0, str(error))
        if manifest is None:
            parts = len(list(self.work_path(stage).glob("*.safetensors"))) if self.work_path(stage).exists() else 0
            return StageStatus(stage, "missing", 0, f"{parts} parts finished" if parts else "")
        size = sum(file["size"] for file in manifest["files"].values())
        wrong = [n for n, f in manifest["files"].items() if _size(self.path(stage) / n) != f["size"]]
        if wrong:
            return StageStatus(stage, "damaged", size, f"missing or changed: {listed(wrong)}")
        stale = [name for name, known in manifest["inputs"].items() if self.stage_hash(name) != known]
        if stale:
            return StageStatus(stage, "stale", size, f"{listed(stale)} changed since")
        if manifest["settings"] != self.stage_settings(stage):
            return StageStatus(stage, "stale", size, "made with other settings")
        return StageStatus(stage, "done", size, manifest["created"])

    def require(self, *stages: str) -> None:
        """Raise unless all these stages are done.

        Raises
        ------
        RunError
            Saying what is wrong with which stage, and the command that makes it.
        """
        for stage in stages:
            status = self.status(stage)
            if status.state == "missing":
                raise RunError(f"{self.folder} has no {stage!r} yet. Make it with: cellcircuits {stage} {self.folder}")
            if status.state != "done":
                raise RunError(
                    f"{self.path(stage)} is {status.state} ({status.detail}). "
                    f"Make it again with: cellcircuits {stage} {self.folder}"
                )

    @contextmanager
    def writing(self, stage: str, **record: Any) -> Iterator[Path]:
        """Folder to write a stage's files into; it replaces the stage's artifact when the block ends without error.

        `record` goes into the manifest (hashes of inputs, seeds, counts). On an error nothing changes.
        """
        temporary = self.folder / f".{stage}.writing-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            yield temporary
            self._write_manifest(stage, temporary, record)
            _replace(self.path(stage), temporary)
        except OSError as error:
            raise RunError(f"Cannot write {self.path(stage)}: {error}. Nothing was changed.") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _write_manifest(self, stage: str, folder: Path, record: dict[str, Any]) -> None:
        files = {
            str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": file_hash(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        content: dict[str, Any] = {
            "stage": stage,
            "format_version": FORMAT_VERSION,
            "package_version": version("cellcircuits"),
            "settings": self.stage_settings(stage),
            "inputs": {name: self.stage_hash(name) for name in INPUTS[stage]},
            "record": record,
            "files": files,
        }
        content["hash"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        content["created"] = datetime.now(UTC).isoformat(timespec="seconds")
        (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises
        ------
        RunError
            If another process works on it, or the folder cannot be written.
        """
        try:
            lock = open(self.folder / ".lock", "w")
        except OSError as error:
            raise RunError(f"Cannot write into the run folder {self.folder}: {error.strerror or error}.") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(f"Another process is working on {self.folder}. Wait for it, or stop it first.") from None
            yield

    def change_settings(self, settings: Settings) -> None:
        """Use other settings from now on, and write them into the run folder."""
        self.settings = settings
        write_settings(settings, self.folder / "settings.toml")


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _replace(target: Path, source: Path) -> None:
    """Rename `source` to `target`, removing what was there."""
    if target.exists():
        old = target.with_name(f".{target.name}.old-{os.getpid()}")
        target.rename(old)
        source.rename(target)
        shutil.rmtree(old)
    else:
        source.rename(target)


def create_run(folder: str | Path, settings: Settings) -> Run:
    """Make a run folder, or open the one that is there with the same settings.

    Raises
    ------
    RunError
        If the folder holds something else, or a run with other settings (they are named).
    """
    folder = Path(folder)
    if folder.exists() and not (folder / RUN_FILE).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} exists and is not a run folder (no {RUN_FILE}). Choose another folder.")
    if (folder / RUN_FILE).exists():
        run = open_folder(folder)
        differing = differing_settings(run.settings, settings)
        if differing:
            raise RunError(
                f"{folder} was made with other settings; they differ in {listed(differing, 8)}. "
                "Choose another folder, or run single stages with their own flags."
            )
        return run
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_settings(settings, folder / "settings.toml")
        record = {"format_version": FORMAT_VERSION, "package_version": version("cellcircuits")}
        (folder / RUN_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"Cannot make the run folder {folder}: {error.strerror or error}.") from error
    return Run(folder, settings)


def open_folder(folder: str | Path) -> Run:
    """Open a run folder.

    Raises
    ------
    RunError
        If it is none, or was made by a newer version.
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        newer = record["format_version"] > FORMAT_VERSION
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder} is not a run folder of cellcircuits ({RUN_FILE}: {error}).") from error
    if newer:
        raise RunError(f"{folder} has format version {record['format_version']}, newer than this package knows.")
    return Run(folder, read_settings(folder / "settings.toml"))


def differing_settings(first: Settings, second: Settings) -> list[str]:
    """Names of the settings in which two differ, as section.name."""
    a, b = first.to_dict(), second.to_dict()
    return [f"{s}.{n} ({a[s][n]!r}, now {b[s][n]!r})" for s in a for n in a[s] if a[s][n] != b[s][n]]


def with_section(settings: Settings, section: str, values: Any) -> Settings:
    """`settings` with one section replaced."""
    return replace(settings, **{section: values})
