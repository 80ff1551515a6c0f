"""The server of the atlas: one folder, this machine only, nothing else."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cellcircuits.atlas.security import PAGE_POLICY, REPORT_POLICY
from cellcircuits.atlas.serve import AtlasServer, make_server, serve
from cellcircuits.errors import RunError
from tests.atlas_server import running
from tests.made_up_atlas import build_in


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_in(tmp_path_factory.mktemp("site"))


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
        "/findings/first/signs_by_rule.png": "image/png",
        "/findings/first/report.html": "text/html; charset=utf-8",
        "/data/first/contents.json.gz": "application/gzip",
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


def test_every_answer_has_a_strict_policy(site: Path) -> None:
    with running(site) as server:
        for target in ("/", "/js/app.js", "/data/site.json.gz", "/absent", "/findings/first/report.html"):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            connection.request("GET", target)
            headers = connection.getresponse().headers
            connection.close()
            is_report = target.endswith("report.html")
            assert headers["Content-Security-Policy"] == (REPORT_POLICY if is_report else PAGE_POLICY)
            assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
    assert "script-src" not in REPORT_POLICY and "default-src 'none'" in REPORT_POLICY
    assert "unsafe" not in PAGE_POLICY
