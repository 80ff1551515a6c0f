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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from cellcircuits.errors import RunError, listed
from cellcircuits.formats import FORMAT_VERSION
from cellcircuits.manifest import (
    ASKED_FOR,
    FOLDERS,
    INPUTS,
    SECTIONS,
    STAGES,
    changed_files,
    file_hash,
    optional_inputs,
    read_manifest,
    replace_folder,
    write_manifest,
)
from cellcircuits.settings import Settings, differing_settings, read_settings, resolve_paths, write_settings

RUN_FILE = "run.json"


@dataclass(frozen=True)
class StageStatus:
    """State of one stage of a run."""

    stage: str
    state: str
    """"done", "missing", "stale" (made from inputs or settings that are no longer those of the run) or "damaged"."""
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
        return read_manifest(self.path(stage), stage)

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
            parts = self._finished_parts(stage)
            return StageStatus(stage, "missing", 0, f"{parts} parts finished" if parts else "")
        size = sum(file["size"] for file in manifest["files"].values())
        wrong = changed_files(self.path(stage), manifest)
        if wrong:
            return StageStatus(stage, "damaged", size, f"missing or changed: {listed(wrong)}")
        # an input that is itself stale or damaged makes everything above it stale, although its hash is still the same
        inputs = manifest["inputs"] | optional_inputs(manifest)
        changed = [name for name, known in inputs.items() if not self._is_still(name, known)]
        others = manifest["record"].get("also", {})
        changed += [folder for folder, known in others.items() if content_hash(Path(folder)) != known]
        if changed:
            return StageStatus(stage, "stale", size, f"{listed(changed)} changed since")
        if manifest["settings"] != self.stage_settings(stage):
            return StageStatus(stage, "stale", size, "made with other settings")
        return StageStatus(stage, "done", size, manifest["created"])

    def _is_still(self, stage: str, known: str) -> bool:
        """Whether a stage is done and has this hash, or with "" is still not there."""
        state = self.status(stage).state
        return (state == "done" and self.stage_hash(stage) == known) if known else state == "missing"

    def begun(self, stage: str) -> bool:
        """Whether a stage has an artifact or parts of one."""
        return self.path(stage).exists() or self.work_path(stage).exists()

    def _finished_parts(self, stage: str) -> int:
        """Number of parts of a stage under way."""
        from cellcircuits.parts import finished_parts

        try:
            return finished_parts(self.work_path(stage))
        except RunError:
            return 0  # a damaged plan: the stage says so

    def discard_work(self, stage: str) -> None:
        """Remove the finished parts of a stage, whose artifact is there now."""
        # renamed first: what is left when this is stopped half-way must not be taken for parts to go on with
        doomed = self.folder / f".{stage}.parts.writing-{os.getpid()}"
        with suppress(OSError):  # the artifact is complete, and the next process that works on the run tries again
            self.work_path(stage).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

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
            inputs = {name: self.stage_hash(name) for name in INPUTS[stage]}
            write_manifest(temporary, stage, self.stage_settings(stage), inputs, record)
            replace_folder(self.path(stage), temporary)
        except (OSError, SafetensorError) as error:
            raise RunError(f"Cannot write {self.path(stage)}: {error}. Nothing was changed.") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

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
            self._tidy()
            yield

    def _tidy(self) -> None:
        """Clear away what a process that was killed while writing left behind; only safe while holding the lock."""
        for old in self.folder.glob(".*.old-*"):
            target = self.folder / old.name[1:].rpartition(".old-")[0]
            if not target.exists():
                old.rename(target)
        for pattern in (".*.old-*", ".*.writing-*"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)
        for work in self.folder.glob(".*.parts"):
            self._tidy_work(work.name[1:].removesuffix(".parts"))

    def _tidy_work(self, stage: str) -> None:
        """Remove the parts of an artifact that is complete: the process was killed in between."""
        if stage == "train" and self._is_done("train"):
            self.discard_work("train")
            return
        plan, manifest = self.work_path(stage) / "plan.json", self.manifest(stage) if self._is_done(stage) else None
        if manifest and plan.exists() and manifest["record"].get("plan") == file_hash(plan):
            self.discard_work(stage)

    def _is_done(self, stage: str) -> bool:
        return stage in STAGES and self.status(stage).state == "done"

    def change_settings(self, settings: Settings) -> None:
        """Use other settings from now on, and write them into the run folder.

        Raises
        ------
        RunError
            If they cannot be written; the file that was there stays as it was.
        """
        path = self.folder / "settings.toml"
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            write_settings(settings, partial)
            os.replace(partial, path)
        except OSError as error:
            raise RunError(f"Cannot write {path}: {error.strerror or error}.") from error
        finally:
            partial.unlink(missing_ok=True)
        self.settings = settings


def content_hash(folder: Path) -> str:
    """Hash of the artifacts of a run that an atlas shows; "" if it is no run."""
    try:
        run = open_folder(folder)
        hashes = [run.stage_hash(stage) for stage in (*INPUTS["atlas"], *ASKED_FOR)]
    except RunError:
        return ""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def create_run(folder: str | Path, settings: Settings) -> Run:
    """Make a run folder, or open the one that is there with the same settings.

    Relative paths in the settings are made absolute. Settings of stages that are not begun yet may differ.

    Raises
    ------
    RunError
        If the folder holds something else, or a run with other settings (they are named).
    """
    folder, settings = Path(folder), resolve_paths(settings, Path.cwd())
    if folder.exists() and not (folder / RUN_FILE).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} exists and is not a run folder (no {RUN_FILE}). Choose another folder.")
    if (folder / RUN_FILE).exists():
        run = open_folder(folder)
        differing = differing_settings(run.settings, settings)
        begun = {section for stage in STAGES if run.begun(stage) for section in SECTIONS.get(stage, (stage,))}
        made = [name for name in differing if name.split(".")[0] in begun]
        if made:
            raise RunError(
                f"{folder} was made with other settings; they differ in {listed(made, 8)}. "
                "Choose another folder, or run single stages with their own flags."
            )
        if differing:
            run.change_settings(settings)
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
