"""Public gene sets and networks, fetched onto the user's machine once: cache, checksum, licence.

Nothing is fetched during a run: `fetch_reference` (or `cellcircuits fetch`) fills the cache, runs read it, also on
machines without internet. The first download records the sha256; a cached file or a later download that differs from
it is refused.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from cellcircuits.errors import DataError

RECORDS = "references.json"
TIMEOUT_SECONDS = 60.0
STRING_MIN_SCORE = 700
STRING = "https://stringdb-downloads.org/download"
STRING_FILES = (
    f"{STRING}/protein.links.v12.0/9606.protein.links.v12.0.txt.gz",
    f"{STRING}/protein.info.v12.0/9606.protein.info.v12.0.txt.gz",
)
TRRUST_URL = "https://www.grnpedia.org/trrust/data/trrust_rawdata.human.tsv"


@dataclass(frozen=True)
class Resource:
    """A public resource."""

    kind: Literal["gene sets", "network"]
    file: str
    """Name of its file in the cache."""
    source: str
    """Where it comes from, in words."""
    licence: str
    """Under which terms; to be read before use."""
    load: Callable[[], bytes]
    """Fetches the content of the file."""


@dataclass(frozen=True)
class Fetched:
    """A resource in the cache."""

    name: str
    path: Path
    sha256: str
    source: str
    licence: str


def _download(url: str) -> bytes:
    # takes a while to load, and only this needs it
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            return answer.read()
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot fetch {url}: {error}. Fetch it elsewhere and give the path of the file.") from error


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise DataError(
            f"This resource is fetched with {name}, which is not installed. Run: pip install 'cellcircuits[annotate]'"
        ) from error


def _ask(library: str, call: Callable[[], Any]) -> Any:
    """What a library fetches; whatever it raises without a connection becomes one message."""
    try:
        return call()
    except Exception as error:
        raise DataError(f"{library} could not fetch it: {type(error).__name__}: {error}") from error


def _enrichr(library: str) -> bytes:
    """A library of Enrichr as GMT, in the order of names."""
    gseapy = _library("gseapy")
    sets = _ask("gseapy", lambda: gseapy.get_library(library, organism="Human", min_size=0, max_size=100_000))
    lines = ["\t".join([name, "", *sorted(genes)]) for name, genes in sorted(sets.items())]
    return ("\n".join(lines) + "\n").encode()


def _decoupler(function: str, **arguments) -> bytes:
    """A network of decoupler as CSV: source, target, weight."""
    decoupler = _library("decoupler")
    frame = _ask("decoupler", lambda: getattr(decoupler.op, function)(organism="human", **arguments))
    return frame[["source", "target", "weight"]].sort_values(["source", "target"]).to_csv(index=False).encode()


def _string() -> bytes:
    """STRING's human links with a score of at least 700, protein identifiers replaced by symbols."""
    links, info = (gzip.decompress(_download(url)).decode() for url in STRING_FILES)
    symbol = dict(line.split("\t")[:2] for line in info.splitlines()[1:])
    lines = ["protein1\tprotein2\tcombined_score"]
    for line in links.splitlines()[1:]:
        one, other, score = line.split()
        if one < other and int(score) >= STRING_MIN_SCORE:
            lines.append(f"{symbol[one]}\t{symbol[other]}\t{score}")
    return ("\n".join(lines) + "\n").encode()


GO = "Gene Ontology, CC BY 4.0; cite Ashburner et al. 2000 and the GO Consortium"
ENRICHR = "free for academic use; cite Chen et al. 2013, Kuleshov et al. 2016, Xie et al. 2021"


def _enrichr_resource(library: str, licence: str, kind: Literal["gene sets", "network"] = "gene sets") -> Resource:
    source = f"Enrichr library {library}, through gseapy"
    licence = f"{licence}. Enrichr: {ENRICHR}."
    return Resource(kind, f"{library}.gmt", source, licence, lambda: _enrichr(library))


RESOURCES = {
    "go_bp": _enrichr_resource("GO_Biological_Process_2023", GO),
    "kegg": _enrichr_resource("KEGG_2021_Human", "KEGG: academic use only without a licence of Pathway Solutions"),
    "reactome": _enrichr_resource("Reactome_2022", "Reactome, CC0; cite Gillespie et al. 2022"),
    "hallmark": _enrichr_resource("MSigDB_Hallmark_2020", "MSigDB Hallmark, CC BY 4.0; cite Liberzon et al. 2015"),
    "encode_tf": _enrichr_resource("ENCODE_TF_ChIP-seq_2015", "ENCODE, free to use; cite its consortium", "network"),
    "string": Resource(
        "network",
        "string_v12_human_700.tsv",
        f"STRING v12.0, human, combined score >= {STRING_MIN_SCORE}",
        "STRING, CC BY 4.0; cite Szklarczyk et al. 2023.",
        _string,
    ),
    "trrust": Resource(
        "network",
        "trrust_rawdata.human.tsv",
        "TRRUST v2, human",
        "TRRUST, CC BY-SA 4.0; cite Han et al. 2018.",
        lambda: _download(TRRUST_URL),
    ),
    "collectri": Resource(
        "network",
        "collectri_human.csv",
        "CollecTRI, human, through decoupler",
        "CollecTRI, GPL-3 and the terms of its sources, some not commercial; cite Müller-Dott et al. 2023.",
        lambda: _decoupler("collectri"),
    ),
    "dorothea": Resource(
        "network",
        "dorothea_human_ABC.csv",
        "DoRothEA, human, confidence A to C, through decoupler",
        "DoRothEA, GPL-3 and the terms of its sources; cite Garcia-Alonso et al. 2019.",
        lambda: _decoupler("dorothea", levels=["A", "B", "C"]),
    ),
}
"""Public resources by name."""


def cache_folder() -> Path:
    """The folder of fetched resources: `cellcircuits/references` in the user's cache folder (XDG_CACHE_HOME)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cellcircuits" / "references"


def fetch_reference(name: str, folder: Path | None = None) -> Fetched:
    """Fetch a public resource, or check the copy that is there.

    Parameters
    ----------
    name
        A key of `RESOURCES`.
    folder
        Where it is kept; by default the cache folder, where runs find it by name.

    Raises
    ------
    DataError
        If the name is not known, the library that fetches it is not installed, there is no connection, or the content
        differs from what was first fetched.
    """
    if name not in RESOURCES:
        raise DataError(f"There is no resource {name!r}. Known: {', '.join(RESOURCES)}. Other files: give their path.")
    resource, folder = RESOURCES[name], folder or cache_folder()
    path = folder / resource.file
    recorded = _records(folder).get(name)
    if recorded is not None and path.exists():
        return _checked(name, path, recorded)
    content = resource.load()
    found = hashlib.sha256(content).hexdigest()
    if recorded is not None and found != recorded["sha256"]:
        raise DataError(
            f"The resource {name!r} has changed: sha256 {found[:12]}…, {recorded['sha256'][:12]}… when it was first "
            f"fetched ({recorded['fetched']}). To accept the new one, remove its entry from {folder / RECORDS}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    _replace(path, content)
    if recorded is None:
        entry = {"file": resource.file, "sha256": found, "source": resource.source, "licence": resource.licence}
        entry["fetched"] = datetime.now(UTC).isoformat(timespec="seconds")
        records = {**_records(folder), name: entry}
        _replace(folder / RECORDS, (json.dumps(records, indent=2, ensure_ascii=False) + "\n").encode())
    return Fetched(name, path, found, resource.source, resource.licence)


def cached_path(name: str, folder: Path | None = None) -> Path:
    """The file of a resource that was fetched before; its checksum is verified.

    Raises
    ------
    DataError
        If it was not fetched yet, or is not what was fetched.
    """
    folder = folder or cache_folder()
    path, recorded = folder / RESOURCES[name].file, _records(folder).get(name)
    if recorded is None or not path.exists():
        raise DataError(
            f"The resource {name!r} is not on this machine. Run `cellcircuits fetch {name}`, or give a file's path."
        )
    return _checked(name, path, recorded).path


def _checked(name: str, path: Path, recorded: dict[str, str]) -> Fetched:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != recorded["sha256"]:
        raise DataError(
            f"{path} is not what was fetched: sha256 {found[:12]}…, expected {recorded['sha256'][:12]}…. "
            f"Delete it and run `cellcircuits fetch {name}`."
        )
    return Fetched(name, path, found, RESOURCES[name].source, RESOURCES[name].licence)


def _records(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / RECORDS
    if not path.exists():
        return {}
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        wanted = ("file", "sha256", "source", "licence", "fetched")
        return {name: {key: str(entry[key]) for key in wanted} for name, entry in records.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}). Delete it and fetch again.") from error


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.replace(path)
