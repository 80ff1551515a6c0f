"""Helpers of the tests of the atlas: a server that answers while a test runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellcircuits.atlas.serve import AtlasServer, make_server


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
