"""Public resources: fetched once, recorded, checked afterwards. Only a server on this machine is contacted."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from cellcircuits import resources
from cellcircuits.errors import DataError
from cellcircuits.networks import Interactions, read_network
from cellcircuits.references import NAMES, read_gmt
from cellcircuits.resources import RESOURCES, cached_path, fetch_reference

TRRUST = b"MYC\tTERT\tActivation\t1\nSPI1\tTERT\tUnknown\t3\n"
LINKS = (
    "protein1 protein2 combined_score\n9606.P1 9606.P2 999\n9606.P2 9606.P1 999\n9606.P1 9606.P3 699\n"
    "9606.P3 9606.P2 700\n9606.P2 9606.P3 700\n"
)
INFO = "#string_protein_id\tpreferred_name\tsize\n9606.P1\tTP53\t1\n9606.P2\tMDM2\t1\n9606.P3\tCD3E\t1\n"


class QuietHandler(SimpleHTTPRequestHandler):
    """Counts what it is asked for."""

    asked: list[str] = []  # noqa: RUF012 - shared on purpose

    def log_message(self, *_: object) -> None:
        self.asked.append(self.path)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a server of this machine, where the resources are taken from; an empty cache."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "trrust.tsv").write_bytes(TRRUST)
    (folder / "links.gz").write_bytes(gzip.compress(LINKS.encode()))
    (folder / "info.gz").write_bytes(gzip.compress(INFO.encode()))
    QuietHandler.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(resources, "TRRUST_URL", f"{address}/trrust.tsv")
    monkeypatch.setattr(resources, "STRING_FILES", (f"{address}/links.gz", f"{address}/info.gz"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield folder
    server.shutdown()
    server.server_close()


def test_the_first_download_is_recorded(served, tmp_path):
    found = fetch_reference("trrust")
    assert found.path == tmp_path / "cache" / "cellcircuits" / "references" / "trrust_rawdata.human.tsv"
    assert found.path.read_bytes() == TRRUST
    assert found.sha256 == hashlib.sha256(TRRUST).hexdigest()
    assert "CC BY-SA" in found.licence
    entry = json.loads((found.path.parent / "references.json").read_text())["trrust"]
    assert (entry["sha256"], entry["licence"]) == (found.sha256, found.licence)
    assert {path.name for path in found.path.parent.iterdir()} == {"references.json", "trrust_rawdata.human.tsv"}


def test_a_copy_is_not_fetched_again(served):
    first = fetch_reference("trrust")
    assert fetch_reference("trrust") == first
    assert QuietHandler.asked == ["/trrust.tsv"]


def test_a_changed_copy_is_refused(served):
    path = fetch_reference("trrust").path
    path.write_bytes(TRRUST + b"X\tY\tUnknown\t1\n")
    for check in (fetch_reference, cached_path):
        with pytest.raises(
            DataError, match=r"is not what was fetched: sha256 .* Delete it and run `cellcircuits fetch"
        ):
            check("trrust")
    path.unlink()
    assert fetch_reference("trrust").path.read_bytes() == TRRUST


def test_a_resource_that_changed_is_refused(served):
    path = fetch_reference("trrust").path
    path.unlink()
    (served / "trrust.tsv").write_bytes(TRRUST * 2)
    with pytest.raises(DataError, match=r"has changed: sha256 .* To accept the new one, remove its entry from"):
        fetch_reference("trrust")
    assert not path.exists()


def test_another_folder(served, tmp_path):
    assert fetch_reference("trrust", tmp_path / "mine").path.parent == tmp_path / "mine"
    with pytest.raises(DataError, match="not on this machine"):
        cached_path("trrust")


def test_string_is_written_with_symbols(served):
    network = read_network(fetch_reference("string").path)
    assert isinstance(network, Interactions)
    assert network.pairs == {("MDM2", "TP53"), ("CD3E", "MDM2")}


def test_a_fetched_resource_is_read_by_its_name(served):
    with pytest.raises(DataError, match=r"'trrust' is not on this machine\. Run `cellcircuits fetch trrust`"):
        read_network("trrust")
    fetch_reference("trrust")
    assert read_network("trrust").sets.terms == {"MYC": {"TERT"}, "SPI1": {"TERT"}}


def test_a_name_in_the_wrong_place(served):
    with pytest.raises(DataError, match=r"'trrust' is not a source of gene sets\. Name it in annotate\.networks"):
        read_gmt("trrust")
    with pytest.raises(DataError, match=r"'go_bp' is not a source of network\. Name it in annotate\.gene_sets"):
        read_network("go_bp")


def test_no_connection(served):
    (served / "trrust.tsv").unlink()
    with pytest.raises(DataError, match=r"Cannot fetch http://127.0.0.1.*404.*give the path of the file"):
        fetch_reference("trrust")


def test_an_unknown_name(tmp_path):
    with pytest.raises(DataError, match=r"no resource 'msigdb'\. Known: go_bp, "):
        fetch_reference("msigdb", tmp_path)


def test_damaged_records(served):
    folder = fetch_reference("trrust").path.parent
    (folder / "references.json").write_text("{")
    with pytest.raises(DataError, match=r"references\.json is damaged"):
        fetch_reference("trrust")


# ------------------------------------------------------------------------------------------------ through libraries


def test_gene_sets_through_gseapy(monkeypatch, tmp_path):
    asked = []

    def get_library(name, organism, min_size, max_size):
        asked.append((name, organism))
        return {"b": ["TP53", "MDM2"], "a": ["CD3E"]}

    monkeypatch.setitem(sys.modules, "gseapy", SimpleNamespace(get_library=get_library))
    found = fetch_reference("kegg", tmp_path)
    assert asked == [("KEGG_2021_Human", "Human")]
    assert found.path.read_text() == "a\t\tCD3E\nb\t\tMDM2\tTP53\n"
    assert read_gmt(found.path).name == "KEGG_2021_Human"
    assert "KEGG" in found.licence and "Enrichr" in found.licence


def test_networks_through_decoupler(monkeypatch, tmp_path):
    frame = pd.DataFrame(
        {"source": ["SPI1", "MYC"], "target": ["TERT", "TERT"], "weight": [1, -1], "resources": ["x", "y"]}
    )
    asked = []

    def answer(**arguments):
        asked.append(arguments)
        return frame

    library = SimpleNamespace(op=SimpleNamespace(collectri=answer, dorothea=answer))
    monkeypatch.setitem(sys.modules, "decoupler", library)
    found = fetch_reference("collectri", tmp_path)
    assert found.path.read_text() == "source,target,weight\nMYC,TERT,-1\nSPI1,TERT,1\n"
    assert read_network(fetch_reference("dorothea", tmp_path).path).sets.terms["MYC"] == {"TERT"}
    assert asked == [{"organism": "human"}, {"organism": "human", "levels": ["A", "B", "C"]}]


def test_a_library_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gseapy", None)
    with pytest.raises(
        DataError, match=r"gseapy, which is not installed\. Run: pip install 'cellcircuits\[annotate\]'"
    ):
        fetch_reference("hallmark", tmp_path)


def test_a_library_without_a_connection(monkeypatch, tmp_path):
    def get_library(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "gseapy", SimpleNamespace(get_library=get_library))
    with pytest.raises(DataError, match="gseapy could not fetch it: ConnectionError: no route"):
        fetch_reference("hallmark", tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_resource_says_where_it_comes_from():
    assert set(RESOURCES) < set(NAMES)
    assert len({resource.file for resource in RESOURCES.values()}) == len(RESOURCES)
    for resource in RESOURCES.values():
        assert len(resource.source) > 10 and len(resource.licence) > 20 and resource.licence.endswith(".")
