"""The pages of the atlas in a real browser: every page, search, filter, address, export; no console errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from tests.atlas_server import running
from tests.made_up_atlas import FOREIGN, N_FEATURES, N_LAYERS, SCRIPT, build_in

pytestmark = pytest.mark.slow


class Visit:
    """One browser tab, with everything it complained about or asked for elsewhere."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url, self.complaints = page, url, []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        page.on("request", lambda request: self._check(request.url))

    def _check(self, address: str) -> None:
        if not address.startswith((self.url, "data:,", "data:image/svg+xml", f"blob:{self.url}")):
            self.complaints.append(f"foreign: {address}")

    def go(self, route: str) -> str:
        """Text of the page at a route."""
        self.page.goto(self.url + route)
        return self.text()

    def text(self) -> str:
        self.page.wait_for_selector("body[data-ready=yes]")
        return self.page.inner_text("main")

    @property
    def route(self) -> str:
        """The address after the site's own."""
        return self.page.url.removeprefix(self.url)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_in(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_in(tmp_path_factory.mktemp("two"), keys=("first", "second"))


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


def visits_of(folder: Path, chromium: Any) -> Iterator[Callable[..., Visit]]:
    """Opens tabs on a site; at the end of the test, no tab may have complained."""
    with running(folder) as server:
        context = chromium.new_context(accept_downloads=True)
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


@pytest.fixture
def visit(chromium: Any, site: Path) -> Iterator[Callable[..., Visit]]:
    """Tabs on the atlas of one run."""
    yield from visits_of(site, chromium)


@pytest.fixture
def visit_two(chromium: Any, two_runs: Path) -> Iterator[Callable[..., Visit]]:
    """Tabs on the atlas of two runs."""
    yield from visits_of(two_runs, chromium)


SCRIPT_PART = SCRIPT.replace("/script", "%2Fscript")
ROUTES = {
    "#/": ["Top circuits", "Of 1 pair, 1 with q", "▼ supports", "Hubs", SCRIPT, "by chance", "Layer 0"],
    "#/features?layer=all&search=script": [SCRIPT, "L0/F65", "Firing rate"],
    "#/features?search=no+such+feature": ["No feature fits"],
    "#/feature/0/65": [SCRIPT, "Upstream", "Downstream", "L2/F64", "Enriched gene sets", "3 of 20"],
    "#/feature/0/65?": ["▴ 0.9", FOREIGN, "Gene positions by activation", "module 0", "● beyond"],
    f"#/feature/{N_LAYERS - 1}/{N_FEATURES - 1}": ["Ablated in this run", "no label", "did not count them"],
    "#/feature/0/65?out=supports": ["▼ supports (", "Downstream"],
    "#/map": ["Map of layer 0", "principal axes of top-gene scores", "69 features", "never fire"][:2],
    "#/map/1?color=firing_rate&search=ribosome": ["Firing rate (log scale)", "Ribosome", "of 70 shown"],
    "#/map/0?color=module&highlight=0": ["2 features of 70 shown", SCRIPT],
    "#/map/9": ["There is no layer 9", "0, 1, 2"],
    "#/circuit": ["L0/F65", SCRIPT],
    "#/circuit/0/65?depth=2": ["Circuit around L0/F65", "Save as", "Layer 2"],
    "#/circuit/feature/0/65?direction=to": ["No edge passes these filters"],
    "#/circuit/feature/0/65?snr=1000": ["No edge passes these filters"],
    "#/circuit/gene/lyz": ["Circuit of the gene LYZ", "It starts from 8 of"],
    f"#/circuit/program/{SCRIPT_PART}": ["Circuit of the program", SCRIPT, "Save as"],
    "#/circuit/program/none": ["No feature has the program"],
    "#/gene": ["LYZ", SCRIPT],
    "#/gene/lyz": ["Gene lyz", "Edges between these features", "200 edges", "Draw its circuit"],
    f"#/gene/{SCRIPT_PART}": [f"Gene {SCRIPT}", "Features with"],
    "#/program?search=ribo": ["Ribosome"],
    f"#/program/{SCRIPT_PART}": [SCRIPT, "Acts on", "A very long name", "sets.gmt", "q of the program"],
    "#/program/none": ["No feature of this run has the program"],
    "#/findings": [
        SCRIPT,
        "● supported",
        "60.0\u202f%",
        "20.0\u202f%",
        "labels permuted",
        "\N{EN DASH} cannot be tested",
        "Trace more",
    ],
    "#/interventions": ["Features were not only removed", "Are they many?", "Trace more layers", "Figures"],
    "#/compare": ["This atlas has one run", "--also", "Key numbers"],
    "#/methods": ["ablated \u2212 clean", "mean_delta", "the source supports the target", "Provenance", "1.23 MB"],
    "#/feature/9/9": ["Not found", "no feature L9/F9", "Choose a feature"],
    "#/feature/a/b": ["Not found", "does not name a feature"],
    "#/nowhere": ["no page or run named “nowhere”"],
}
NOTHING = {"false", "null", "undefined", "NaN", "[object Object]"}


@pytest.mark.parametrize("width", [1200, 390])
def test_every_page_shows_its_content_as_text(visit: Callable[..., Visit], width: int) -> None:
    tab = visit(width=width)
    for route, expected in ROUTES.items():
        text = tab.go(route)
        assert [part for part in expected if part not in text] == [], route
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width, route
        assert tab.page.locator("main script, main b").count() == 0
        # nothing that stands for nothing has become a word
        assert not NOTHING & set(text.splitlines()), route


def test_no_serious_problem_for_keyboard_and_screen_reader(visit: Callable[..., Visit]) -> None:
    found = find_spec("axe_playwright_python")
    if found is None or not found.submodule_search_locations:
        pytest.skip("axe-playwright-python, which ships axe-core, is not installed")
    script = (Path(found.submodule_search_locations[0]) / "axe.min.js").read_text("utf-8")
    tab = visit()
    everywhere = [
        "#/",
        "#/features",
        "#/feature/0/65",
        "#/map/0",
        "#/circuit/0/65",
        "#/program",
        "#/findings",
        "#/interventions",
        "#/methods",
    ]
    problems = {}
    for scheme, routes in {"light": everywhere, "dark": ["#/feature/0/65", "#/map/0", "#/findings"]}.items():
        tab.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        for route in routes:
            tab.go(route)
            # evaluated by the browser itself: no policy of the page is loosened for it
            tab.page.evaluate(f"() => {{ if (!window.axe) {{ {script} }} }}")
            result = tab.page.evaluate("""() => {
                // the tables have the same cells in every row: some are enough
                for (const row of document.querySelectorAll("tbody tr:nth-child(n + 4)")) row.remove();
                const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
                return window.axe.run(document, { runOnly: tags, resultTypes: ["violations"] });
            }""")
            for violation in result["violations"]:
                if violation["impact"] in ("serious", "critical"):
                    problems[scheme, route, violation["id"]] = [node["html"][:120] for node in violation["nodes"][:3]]
    assert problems == {}


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
    assert tab.route == "#/feature/0/65" and SCRIPT in tab.page.inner_text("#view h1")


def test_tables_sort_by_keyboard(visit: Callable[..., Visit]) -> None:
    tab = visit()
    tab.go("#/features?layer=0")
    header = tab.page.get_by_role("button", name="Firing rate")
    header.press("Enter")
    assert tab.page.locator("th[aria-sort=descending]").inner_text().startswith("Firing rate")
    assert header.evaluate("node => node === document.activeElement")


def test_edges_of_a_feature_are_filtered_and_the_address_keeps_it(visit: Callable[..., Visit]) -> None:
    tab = visit()
    tab.go("#/feature/0/65")
    rows = tab.page.locator("section:has(h2:text('Downstream')) tbody tr")
    total = rows.count()
    tab.page.locator("section:has(h2:text('Downstream')) select").select_option("specific")
    assert 0 < rows.count() < total and "out=specific" in tab.route
    assert set(rows.locator(".item:text('○')").all_inner_texts()) == set()
    same = visit()
    same.go(tab.route)
    assert same.page.locator("section:has(h2:text('Downstream')) tbody tr").count() == rows.count()


def test_circuits_are_pinned_filtered_and_explained(visit: Callable[..., Visit]) -> None:
    tab = visit()
    tab.go("#/circuit/feature/0/65")
    node = tab.page.locator(".node").last
    node.focus()
    assert "Edges drawn here" in tab.page.inner_text(".details")
    node.press("Enter")
    assert node.get_attribute("aria-pressed") == "true" and "pin=L" in tab.route
    signs = set(tab.page.locator("tbody .sign").all_inner_texts())
    assert signs <= {"▼ supports", "▲ opposes"} and signs
    address = tab.route
    tab.page.get_by_label("Sign").focus()
    tab.page.get_by_label("Sign").select_option("supports")
    tab.page.wait_for_url("**sign=supports**")
    tab.page.wait_for_selector("body[data-ready=yes]")
    assert set(tab.page.locator("tbody .sign").all_inner_texts()) == {"▼ supports"}
    assert tab.page.get_by_label("Sign").evaluate("node => node === document.activeElement")
    tab.page.go_back()
    tab.page.wait_for_function(f"location.hash === {json.dumps(address)}")
    same = visit()
    same.go(address)
    assert same.page.locator(".node[aria-pressed=true]").count() == 1
    all_edges = same.page.locator(".edge").count()
    same.go(f"{address}&control=beyond")
    assert 0 < same.page.locator(".edge").count() < all_edges


def test_circuits_are_saved_in_every_format(visit: Callable[..., Visit], tmp_path: Path) -> None:
    tab = visit()
    tab.go("#/circuit/feature/0/65?depth=2")
    saved = {}
    for kind in ("PNG", "SVG", "GraphML", "JSON"):
        with tab.page.expect_download() as download:
            tab.page.get_by_role("button", name=f"Save this circuit as {kind}").click()
        saved[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[kind])
    nodes, edges = tab.page.locator(".node").count(), tab.page.locator(".edge").count()
    content = json.loads(saved["JSON"].read_text())
    assert (len(content["nodes"]), len(content["edges"])) == (nodes, edges)
    assert SCRIPT in {node["label"] for node in content["nodes"]} and content["about"]["start"]
    graph = nx.read_graphml(saved["GraphML"])
    assert (len(graph), graph.number_of_edges()) == (nodes, edges) and graph.is_directed()
    assert graph.nodes["L0/F65"]["label"] == SCRIPT and graph.nodes["L0/F65"]["layer"] == 0
    drawing = saved["SVG"].read_text()
    assert drawing.count("<rect") == nodes + 1 and "class=" not in drawing and "<script" not in drawing
    assert saved["PNG"].read_bytes().startswith(b"\x89PNG") and saved["PNG"].stat().st_size > 5000


def test_maps_answer_to_pointer_keyboard_and_legend(visit: Callable[..., Visit]) -> None:
    tab = visit()
    tab.go("#/map/1")
    canvas = tab.page.locator("canvas")
    tab.page.wait_for_function("document.querySelector('canvas').width > 300")
    ink = "(c) => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v > 0)"
    tab.page.wait_for_timeout(100)
    assert canvas.evaluate(ink)
    canvas.focus()
    canvas.press("ArrowRight")
    assert "fires at" in tab.page.inner_text(".map-details")
    for _ in range(3):
        canvas.press("+")
    assert "view=" in tab.route
    canvas.press("0")
    assert "view=" not in tab.route
    group = tab.page.locator(".map-legend button").first
    group.click()
    assert "highlight=" in tab.route and tab.page.locator(".map-legend [aria-pressed=true]").count() == 1
    shown = tab.page.inner_text("[role=status]:text('of 70 shown')")
    same = visit()
    same.go(tab.route)
    assert shown in same.text()
    canvas.press("ArrowLeft")
    canvas.press("Enter")
    tab.page.wait_for_url("**/feature/1/**")


def test_two_runs_are_shown_and_compared(visit_two: Callable[..., Visit]) -> None:
    tab = visit_two()
    overview = tab.go("#/")
    assert "2 runs" in overview and "Runs" in overview and "Top circuits" not in overview
    assert "Top circuits" in tab.go("#/second")
    assert tab.page.locator(".run:visible").count() == 1 and "second" in tab.page.inner_text("h1")
    assert "Circuit" in tab.go("#/second/circuit/feature/0/65")
    assert tab.page.get_by_label("Run").input_value() == "second"
    tab.go("#/second/gene/LYZ")
    assert "In first" in tab.text()
    tab.page.get_by_label("Run").select_option("first")
    tab.page.wait_for_url("**#/first/gene/LYZ")
    assert "In second" in tab.text()
    compared = tab.go("#/compare")
    for part in (SCRIPT, "○ no", "Ribosome", "● supported", "Key numbers", "1\u202f234\u202f567"):
        assert part in compared, part
    # an address without a run means the first
    tab.go("#/feature/0/65")
    assert tab.page.get_by_label("Run").input_value() == "first"


def test_the_report_is_shown_without_running_anything(visit: Callable[..., Visit]) -> None:
    tab = visit()
    tab.go("#/findings")
    tab.page.get_by_role("link", name="Open the full report").click()
    tab.page.wait_for_url("**/findings/first/report.html")
    assert tab.page.inner_text("p") == "The report"
    assert tab.page.locator("p").evaluate("node => getComputedStyle(node).color") == "rgb(255, 0, 0)"


def test_missing_data_and_pages_without_server_say_what_to_do(chromium: Any, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "atlas")
    data = tmp_path / "atlas" / "data"
    (data / "first" / "genes.json.gz").write_bytes(b"damaged")
    (data / "columns.json.gz").unlink()
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
