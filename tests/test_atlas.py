"""The atlas: files and shards hold the tables, text stays text, the server serves one folder, the pages work."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cellcircuits.atlas import build, genes, overview, shards
from cellcircuits.atlas.build import build_atlas
from cellcircuits.atlas.serve import AtlasServer, make_server, serve
from cellcircuits.errors import RunError
from cellcircuits.tables import TABLES, make_table

SCRIPT = "<script>window.attacked = true</script>"
QUOTES = """Quotes " ' & <b>bold</b> $title"""
FOREIGN = "Ядро 細胞核 🧬"
LONG = "A very long name of a gene set " * 60
NAMES = [SCRIPT, QUOTES, FOREIGN, LONG, "Ribosome", ""]
SYMBOLS = ["LYZ", "CD3E", "HLA-DRA", SCRIPT, FOREIGN, "MS4A1", "NKG7", 'G"1']
SUMMARY = {
    "edges": {"n_edges": 1234567, "share_negative": 0.5, "missing": float("nan"), QUOTES: SCRIPT},
    "names": {"nested": {"deep": [1, 2]}, "rule": "calibrated"},
}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
N_LAYERS, N_FEATURES = 3, 70
SOURCE = (0, 65)
"""A feature with a hostile label, edges, and genes; in the second shard of its layer."""


def _features(rng: np.random.Generator) -> pd.DataFrame:
    rows = [(layer, feature) for layer in range(N_LAYERS) for feature in range(N_FEATURES)]
    columns: dict[str, Any] = {c.name: rng.random(len(rows)) for c in TABLES["features"] if c.dtype == "float64"}
    columns |= {c.name: rng.integers(1, 1000, len(rows)) for c in TABLES["features"] if c.dtype == "int64"}
    columns["layer"], columns["feature"] = zip(*rows, strict=True)
    columns["label"] = [SCRIPT if row == SOURCE else NAMES[row[1] % len(NAMES)] for row in rows]
    columns["label_q"] = np.where(np.array(columns["label"]) == "", np.nan, 1e-9)
    columns["top_genes"] = ["LYZ;" + SYMBOLS[feature % 8] for _, feature in rows]
    return make_table("features", columns)


def _edges(rng: np.random.Generator) -> pd.DataFrame:
    pairs = {(*SOURCE, 1, 0), (*SOURCE, 2, 64), (1, 0, 2, 64)}
    while len(pairs) < 200:
        source_layer = int(rng.integers(0, N_LAYERS - 1))
        target_layer = int(rng.integers(source_layer + 1, N_LAYERS))
        pairs.add((source_layer, int(rng.integers(0, 66)), target_layer, int(rng.integers(0, N_FEATURES))))
    ends = np.array(sorted(pairs))
    columns: dict[str, Any] = {c.name: rng.normal(size=len(ends)) for c in TABLES["edges"] if c.dtype == "float64"}
    columns |= {c.name: rng.integers(0, 100, len(ends)) for c in TABLES["edges"] if c.dtype == "int64"}
    columns |= {c.name: rng.random(len(ends)) < 0.5 for c in TABLES["edges"] if c.dtype == "bool"}
    columns |= dict(zip(build.END_COLUMNS, ends.T, strict=True))
    columns["relative_effect"][::7] = np.nan
    columns["snr"][3] = np.inf
    columns["q_value"] = 10.0 ** -rng.uniform(2, 200, len(ends))
    return make_table("edges", columns)


def fake_tables() -> dict[str, pd.DataFrame]:
    """Small tables with names that a careless page would run, break or lose."""
    rng = np.random.default_rng(0)
    features, edges = _features(rng), _edges(rng)
    genes_of = [
        (layer, feature, rank) for layer, feature in features[["layer", "feature"]].to_numpy() for rank in (1, 2)
    ]
    columns = [c.name for c in TABLES["feature_genes"]]
    listed = [(a, b, r, f"G{r}", "LYZ" if r == 1 else SYMBOLS[b % 8], 1 / r, 5, 50) for a, b, r in genes_of]
    terms = [(*SOURCE, "sets.gmt", SCRIPT, 3, 20, 40, 900, 9.5, 1e-9, 1e-7, "LYZ;CD3E", "")]
    regulators = [(*SOURCE, "net.tsv", SCRIPT, SCRIPT, 3, 20, 40, 900, 9.5, 1e-9, 1e-7, True, "LYZ;CD3E")]
    interactions = [(*SOURCE, SCRIPT, 20, 18, 30, 4.5, 1.5, 20000, 5e-5, 1e-3)]
    hubs = [("out", *SOURCE, SCRIPT, 9, 4.5, 0.1, 0.5), ("in", 2, 64, FOREIGN, 4, 2.0, 0.1, -0.5)]
    circuits = [(SCRIPT, LONG, 5, 1.2, 0.001, 0.01, -0.8, 0.9, "L0/F65 -> L2/F64", "LYZ", "CD3E")]
    return {
        "edges": edges,
        "features": features,
        "feature_genes": make_table("feature_genes", pd.DataFrame(listed, columns=columns)),
        "terms": _table("terms", terms),
        "regulators": _table("regulators", regulators),
        "interactions": _table("interactions", interactions),
        "hubs": _table("hubs", hubs),
        "circuits": _table("circuits", circuits),
        "signs": _table("signs", [(QUOTES, 200, 0.61, 0.52, 0.7, 0.5)]),
        "attenuation": _table("attenuation", [(0, 1, 1, 30, 90, 3.0, 0.04, 0.002, 0.7, np.nan, 0.6)]),
    }


def _table(name: str, rows: list[tuple]) -> pd.DataFrame:
    return make_table(name, pd.DataFrame(rows, columns=[c.name for c in TABLES[name]]))


def build_in(folder: Path, tables: dict[str, pd.DataFrame] | None = None) -> Path:
    """An atlas of the fake tables."""
    site, plot = folder / "atlas", folder / "signs_by_rule.png"
    site.mkdir(parents=True)
    plot.write_bytes(PNG)
    build_atlas(fake_tables() if tables is None else tables, SUMMARY, [plot], site, QUOTES)
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_in(tmp_path_factory.mktemp("site"))


def read(path: Path) -> Any:
    """Content of a shard."""
    return json.loads(gzip.decompress(path.read_bytes()))


def read_rows(paths: list[Path]) -> pd.DataFrame:
    """All rows of several shards."""
    frames = [pd.DataFrame(read(path)["columns"]) for path in paths]
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)


def bytes_by_name(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ------------------------------------------------------------------------------------ files and tables


@pytest.mark.parametrize(
    "name", ["edges_out", "edges_in", "features", "feature_genes", "terms", "regulators", "interactions"]
)
def test_shards_hold_the_rows_of_the_table(site: Path, name: str) -> None:
    expected = fake_tables()[name.removesuffix("_out").removesuffix("_in")]
    rows = read_rows(sorted((site / "data" / name).rglob("*.json.gz")))
    keys = [c for c in [*build.END_COLUMNS, "layer", "feature", "rank"] if c in expected]
    found = rows.sort_values(keys, ignore_index=True)[list(expected)]
    expected = expected.sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-5, atol=0)


def test_contents_name_exactly_the_shards_that_exist(site: Path) -> None:
    contents = read(site / "data" / "contents.json.gz")
    for table, entry in contents["shards"].items():
        named = {f"L{int(layer):02d}/{n:04d}.json.gz" for layer, ns in entry["shards"].items() for n in ns}
        folder = site / "data" / table
        assert named == {p.relative_to(folder).as_posix() for p in folder.rglob("*.gz")}
    for path in (site / "data" / "edges_out").rglob("*.gz"):
        features = read(path)["columns"]["source_feature"]
        assert {f // contents["shards"]["edges_out"]["features_per_shard"] for f in features} == {int(path.name[:4])}


def test_shards_have_fewer_features_where_features_have_many_edges(tmp_path: Path) -> None:
    frame = pd.DataFrame({"layer": 0, "feature": np.repeat(np.arange(64), 600), "value": 1.5})
    entry = shards.write_by_feature(frame, "layer", "feature", tmp_path, [])
    assert entry == {"features_per_shard": 4, "shards": {"0": list(range(16))}}
    assert read(tmp_path / "L00" / "0015.json.gz")["length"] == 4 * 600


def test_numbers_without_a_json_form_survive() -> None:
    frame = pd.DataFrame({"x": [np.nan, np.inf, -np.inf, -0.5, 1e-300], "text": ["é", None, "\ud800", "b", "c"]})
    columns = json.loads(gzip.decompress(shards.encode_table(frame)))["columns"]
    assert columns["x"] == [None, np.inf, -np.inf, -0.5, 1e-300]
    assert columns["text"] == ["é", "", "\ud800", "b", "c"]


def test_features_count_their_edges(site: Path) -> None:
    rows = read_rows(sorted((site / "data" / "layers").glob("*.gz"))).set_index(["layer", "feature"])
    edges = fake_tables()["edges"]
    counted = edges.groupby(["source_layer", "source_feature"]).size()
    assert rows["n_out"].sum() == rows["n_in"].sum() == len(edges)
    assert rows.loc[SOURCE, "n_out"] == counted[SOURCE]


@pytest.mark.parametrize("limit", [3, 200])
def test_gene_index_equals_a_plain_search(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(genes, "EDGES_PER_GENE", limit)
    monkeypatch.setattr(genes, "_EDGES_PER_CHUNK", 17)
    tables = fake_tables()
    index = genes.index_genes(tables["feature_genes"], tables["features"], tables["edges"])
    have: dict[str, set] = {}
    for row in tables["feature_genes"].itertuples():
        have.setdefault(row.symbol, set()).add((row.layer, row.feature))
    assert list(index.genes["symbol"]) == sorted(have)
    for gene, row in index.genes.iterrows():
        members = have[row["symbol"]]
        both = [
            edge
            for edge in tables["edges"].itertuples()
            if (edge.source_layer, edge.source_feature) in members
            and (edge.target_layer, edge.target_feature) in members
        ]
        strongest = sorted((abs(edge.snr) for edge in both), reverse=True)[:limit]
        assert (row["n_features"], row["n_edges"]) == (len(members), len(both))
        assert list(index.edges.loc[index.edges["gene"] == gene, "snr"].abs()) == strongest


def test_same_tables_in_any_order_give_the_same_bytes(site: Path, tmp_path: Path) -> None:
    shuffled = {name: frame.sample(frac=1, random_state=1) for name, frame in fake_tables().items()}
    assert bytes_by_name(build_in(tmp_path, shuffled)) == bytes_by_name(site)


def test_atlas_of_empty_tables_can_be_built(tmp_path: Path) -> None:
    site = build_in(tmp_path, {name: frame.head(0) for name, frame in fake_tables().items()})
    assert read(site / "data" / "contents.json.gz")["layers"] == []
    assert "not tested in this run" in (site / "index.html").read_text("utf-8")


def test_unusable_input_is_refused_with_advice(tmp_path: Path) -> None:
    tables = fake_tables()
    with pytest.raises(RunError, match="is missing or not empty"):
        build_atlas(tables, {}, [], tmp_path / "absent", "")
    with pytest.raises(RunError, match="missing: edges"):
        build_atlas({"features": tables["features"]}, {}, [], tmp_path, "")
    with pytest.raises(RunError, match="must be existing PNG files"):
        build_atlas(tables, {}, [tmp_path / "plot.svg"], tmp_path, "")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------- text stays text


def test_overview_escapes_every_name(site: Path) -> None:
    page = (site / "index.html").read_text("utf-8")
    assert "<script>window" not in page and "<b>bold" not in page
    assert "&lt;script&gt;window.attacked = true&lt;/script&gt;" in page
    assert "Quotes &quot; &#x27; &amp; &lt;b&gt;bold&lt;/b&gt; $title" in page
    assert "1\u202f234\u202f567" in page and "not available" in page and 'src="plots/signs_by_rule.png"' in page


@pytest.mark.parametrize("known", [True, False])
def test_overview_says_how_many_edges_are_specific(known: bool) -> None:
    tables = fake_tables()
    edges = tables["edges"].assign(specific_q=0.5 if known else np.nan)
    lead = overview._lead(edges, tables["features"])
    assert (f", {edges['specific'].sum()} of them beyond what random directions do." in lead) == known
    assert lead.startswith(f"{len(edges)} causal edges")


def test_pages_allow_no_foreign_or_inline_code(site: Path) -> None:
    page = (site / "index.html").read_text("utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1] and "unsafe" not in policy[1]
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?! type=\"module\" src=\"js/app.js\">)", page)
    for path in [*site.rglob("*.js"), site / "style.css", site / "index.html"]:
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|inhibit", text
        ), path


def test_methods_tell_the_declared_meaning_of_every_column(site: Path) -> None:
    rows = read_rows([site / "data" / "columns.json.gz"])
    told = {(row.table, row.column): row.meaning for row in rows.itertuples()}
    assert told["edges", "mean_delta"].endswith("negative: the source supports the target")
    assert {table for table, _ in told} == set(build.METHOD_TABLES)


# ---------------------------------------------------------------------------------------------- server


@contextmanager
def running(folder: Path) -> Iterator[AtlasServer]:
    """A server that answers while the block runs."""
    with make_server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: AtlasServer, target: str, method: str = "GET", host: str | None = None) -> tuple[int, str, bytes]:
    """Status, content type and body of one request, sent exactly as given."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.putrequest(method, target, skip_host=True)
        connection.putheader("Host", f"127.0.0.1:{server.server_port}" if host is None else host)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type", ""), answer.read()
    finally:
        connection.close()


def test_server_sends_files_with_their_types(site: Path) -> None:
    types = {
        "/": "text/html; charset=utf-8",
        "/js/app.js?v=1": "text/javascript; charset=utf-8",
        "/style.css": "text/css; charset=utf-8",
        "/plots/signs_by_rule.png": "image/png",
        "/data/contents.json.gz": "application/gzip",
    }
    with running(site) as server:
        assert server.server_address[0] == "127.0.0.1"
        for target, content_type in types.items():
            assert ask(server, target)[:2] == (200, content_type)
        assert ask(server, "/")[2] == (site / "index.html").read_bytes()
        assert ask(server, "/", method="HEAD") == (200, "text/html; charset=utf-8", b"")
        assert ask(server, "/", method="POST")[0] == 501


def test_server_refuses_everything_outside_its_folder(site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "atlas"
    shutil.copytree(site, folder)
    secret = tmp_path / "secret.html"
    secret.write_text("secret")
    (folder / "link.html").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    (folder / "notes.txt").write_text("not part of the site")
    targets = ["/../secret.html", "/%2e%2e/secret.html", "/data/..%2f../secret.html", "//secret.html", str(secret)]
    targets += [
        f"/{secret}",
        "/link.html",
        "/up/secret.html",
        "/data",
        "/data/",
        "/js/",
        "/notes.txt",
        "/%00",
        "/..%5csecret.html",
    ]
    with running(folder) as server:
        for target in targets:
            status, _, body = ask(server, target)
            assert (status, b"secret" in body) == (404, False), target
        for host in ("attacker.example", "attacker.example:80", "", "127.0.0.1.attacker.example"):
            assert ask(server, "/", host=host)[0] == 403
        assert ask(server, "/", host="localhost:9000")[0] == 200


def test_server_names_what_is_wrong(site: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There is no atlas in"):
        make_server(tmp_path)
    with make_server(site) as server, pytest.raises(RunError, match="cannot be used"):
        make_server(site, server.server_port)


def test_serve_reports_its_address_and_stops_on_interrupt(site: Path) -> None:
    code = "import sys, pathlib; from cellcircuits.atlas.serve import serve;"
    code += "serve(pathlib.Path(sys.argv[1]), open_browser=False, report=lambda url: print(url, flush=True))"
    command = [sys.executable, "-c", code, str(site)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        os.kill(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (0, "", "")


def test_serve_opens_the_browser_when_asked(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_then_interrupt(url: str) -> None:
        opened.append(url)
        raise KeyboardInterrupt

    monkeypatch.setattr("cellcircuits.atlas.serve.webbrowser.open", open_then_interrupt)
    reported: list[str] = []
    serve(site, report=reported.append)
    assert opened == reported and len(opened) == 1


# --------------------------------------------------------------------------------------------- browser


class Visit:
    """One browser tab, with everything it complained about or asked for elsewhere."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url, self.complaints = page, url, []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        page.on("request", lambda request: self._check(request.url))

    def _check(self, address: str) -> None:
        if not address.startswith((self.url, "data:,")):
            self.complaints.append(f"foreign: {address}")

    def go(self, route: str) -> str:
        """Text of the page at a route."""
        self.page.goto(self.url + route)
        return self.text()

    def text(self) -> str:
        self.page.wait_for_selector("body[data-ready=yes]")
        return self.page.inner_text("main")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not on PATH")
    with playwright.sync_playwright() as tools:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = tools.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, site: Path) -> Iterator[Callable[..., Visit]]:
    """Opens a tab; at the end of the test, no tab may have complained."""
    with running(site) as server:
        context = chromium.new_context()
        visits: list[Visit] = []

        def start(**options: Any) -> Visit:
            page = context.new_page()
            page.set_viewport_size({"width": 1200, "height": 800} | options)
            visits.append(Visit(page, server.url))
            return visits[-1]

        yield start
        attacked = [visit.page.evaluate("window.attacked === true") for visit in visits]
        context.close()
    assert [visit.complaints for visit in visits] == [[] for _ in visits]
    assert not any(attacked)


ROUTES = {
    "#/": ["Top circuits", "Of 1 pair, 1 with q", "▼ supports", "Hubs", SCRIPT, "by chance"],
    "#/features?layer=all&search=script": [SCRIPT, "L0/F65", "Firing rate"],
    "#/features?search=no+such+feature": ["No feature fits"],
    "#/feature/0/65": [SCRIPT, "Upstream", "Downstream", "L2/F64", "Enriched gene sets", "3 of 20"],
    f"#/feature/{N_LAYERS - 1}/{N_FEATURES - 1}": ["Ablated in this run", "no label"],
    "#/circuit": ["L0/F65", SCRIPT],
    "#/circuit/0/65?depth=2": ["Circuit around L0/F65", "followed outward", "Layer 2"],
    "#/circuit/0/65?snr=1000": ["No edge passes these filters"],
    "#/gene": ["LYZ", SCRIPT],
    "#/gene/lyz": ["Gene lyz", "Edges between these features", "200 edges"],
    f"#/gene/{SCRIPT}".replace("/script", "%2Fscript"): [f"Gene {SCRIPT}", "Features with"],
    "#/methods": ["ablated \u2212 clean", "mean_delta", "the source supports the target"],
    "#/feature/9/9": ["Not found", "no feature L9/F9", "Choose a feature"],
    "#/nowhere": ["no page named “nowhere”"],
}


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
def test_every_page_shows_its_content_as_text(visit: Callable[..., Visit], width: int) -> None:
    tab = visit(width=width)
    for route, expected in ROUTES.items():
        text = tab.go(route)
        assert [part for part in expected if part not in text] == [], route
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width, route
        assert tab.page.locator("main script, main b").count() == 0
        # nothing that stands for nothing has become a word
        assert not {"false", "null", "undefined", "NaN"} & set(text.splitlines()), route


@pytest.mark.slow
def test_views_have_addresses_that_back_returns_to(visit: Callable[..., Visit]) -> None:
    tab = visit()
    tab.go("#/features")
    tab.page.get_by_label("Search labels and top genes").fill("ribosome")
    tab.page.wait_for_url("**search=ribosome**")
    tab.page.locator("tbody a.feature").first.click()
    tab.page.wait_for_selector("h2:text('Downstream')")
    tab.page.wait_for_selector("h1:focus")
    tab.page.go_back()
    tab.page.wait_for_selector("h1:text-is('Features')")
    assert tab.page.get_by_label("Search labels and top genes").input_value() == "ribosome"
    tab.page.get_by_label("Search genes, programs and features").fill("L0 F65")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("h1:text('L0/F65')")
    assert tab.page.url.endswith("#/feature/0/65") and SCRIPT in tab.page.inner_text("#view h1")


@pytest.mark.slow
def test_tables_sort_and_circuits_explain_themselves_by_keyboard(visit: Callable[..., Visit]) -> None:
    tab = visit()
    tab.go("#/features?layer=0")
    header = tab.page.get_by_role("button", name="Firing rate")
    header.press("Enter")
    assert tab.page.locator("th[aria-sort=descending]").inner_text().startswith("Firing rate")
    assert header.evaluate("node => node === document.activeElement")
    tab.go("#/circuit/0/65")
    tab.page.locator(".node").last.focus()
    assert "Edges drawn here" in tab.page.inner_text(".details")
    signs = set(tab.page.locator("tbody .sign").all_inner_texts())
    assert signs <= {"▼ supports", "▲ opposes"} and signs


@pytest.mark.slow
def test_missing_data_and_pages_without_server_say_what_to_do(chromium: Any, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "atlas")
    (tmp_path / "atlas" / "data" / "genes.json.gz").write_bytes(b"damaged")
    (tmp_path / "atlas" / "data" / "columns.json.gz").unlink()
    with running(tmp_path / "atlas") as server:
        tab = Visit(chromium.new_page(), server.url)
        assert "genes.json.gz is damaged. Build the atlas again" in " ".join(tab.go("#/gene").split())
        assert "columns.json.gz is missing (status 404)" in tab.go("#/methods")
        overview = tab.go("#/")
        assert "columns.json.gz is missing" in overview and "Do sources support or oppose" in overview
        tab.page.close()
    page = chromium.new_page()
    page.goto((site / "index.html").as_uri())
    page.get_by_text("cellcircuits atlas RUN --open").wait_for()
    assert "1\u202f234\u202f567" in page.inner_text("main")
    page.close()
