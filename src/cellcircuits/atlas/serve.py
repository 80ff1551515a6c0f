"""Show an atlas in the browser: a small web server for one folder, reachable from this computer only."""

from __future__ import annotations

import logging
import webbrowser
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cellcircuits.atlas.security import PAGE_POLICY, REPORT_POLICY
from cellcircuits.errors import RunError

logger = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".gz": "application/gzip",
}
"""Nothing else is served. Shards stay compressed: the page unpacks them itself, as it must on other web hosts."""

ICON = "/favicon.ico"
"""Browsers ask for it beside a report, which names no icon; they are told that there is none."""

HEADERS = {
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class AtlasServer(ThreadingHTTPServer):
    """Serves the files below one folder on 127.0.0.1."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder.resolve()
        super().__init__((ADDRESS, port), _Handler)

    @property
    def url(self) -> str:
        """Address of the start page."""
        return f"http://{ADDRESS}:{self.server_port}/"

    def find(self, target: str) -> Path | None:
        """The file a request asks for; None if there is none, or if it (or what it links to) lies elsewhere."""
        relative = unquote(urlsplit(target).path).lstrip("/") or "index.html"
        try:
            path = (self.folder / relative).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            return None
        inside = path.is_relative_to(self.folder) and path.is_file()
        return path if inside and path.suffix in CONTENT_TYPES else None

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what went wrong; the parent class prints it, even if a browser only left a page early."""
        logger.debug("Request from %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of single files; no folders are listed, nothing is written."""

    server: AtlasServer
    server_version = "cellcircuits"
    sys_version = ""
    protocol_version = "HTTP/1.1"  # connections are kept: a page asks for some thirty files
    timeout = 60

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        # A foreign web page can point its own host name at 127.0.0.1 and read the atlas; the Host header gives it away.
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in {ADDRESS, "localhost"}:
            self._send(403, "text/plain; charset=utf-8", f"Open this atlas at {self.server.url}\n".encode())
            return
        path = self.server.find(self.path)
        if path is None and self.path == ICON:
            self._send(204, "image/png", b"")
            return
        if path is None:
            self._send(404, "text/plain; charset=utf-8", f"No such file. Start at {self.server.url}\n".encode())
            return
        is_report = path.suffix == ".html" and path != self.server.folder / "index.html"
        self._send(200, CONTENT_TYPES[path.suffix], path.read_bytes(), REPORT_POLICY if is_report else PAGE_POLICY)

    def _send(self, status: int, content_type: str, content: bytes, policy: str = PAGE_POLICY) -> None:
        self.send_response(status)
        special = {"Content-Security-Policy": policy, "Content-Type": content_type}
        for name, value in {**HEADERS, **special, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)


def make_server(folder: Path, port: int = 0) -> AtlasServer:
    """A server for the atlas in `folder` that does not run yet; port 0 picks a free one.

    Raises
    ------
    RunError
        If the folder holds no atlas or the port cannot be used.
    """
    if not (folder / "index.html").is_file():
        raise RunError(f"There is no atlas in {folder}: index.html is missing. Build it with `cellcircuits atlas RUN`.")
    try:
        return AtlasServer(folder, port)
    except (OSError, OverflowError) as error:
        raise RunError(f"Port {port} cannot be used: {error}. Choose another port, or 0 for any free one.") from error


def serve(folder: Path, port: int = 0, open_browser: bool = True, report: Callable[[str], None] | None = None) -> None:
    """Serve the atlas in `folder` until Ctrl-C.

    Parameters
    ----------
    folder
        What `build_atlas` wrote.
    port
        Port on 127.0.0.1; 0 picks a free one.
    open_browser
        Open the start page in the default browser.
    report
        Called once with the address of the start page, when it can be opened.
    """
    with make_server(folder, port) as server:
        try:
            if report is not None:
                report(server.url)
            if open_browser:
                webbrowser.open(server.url)
            server.serve_forever()
        except KeyboardInterrupt:
            logger.info("Stopped serving %s", folder)
