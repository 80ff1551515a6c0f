"""How many CPU threads torch uses: it can change the last bits of a matrix product, so computations set it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_lock = Lock()
_users = 0
_before = 0


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Compute with so many threads, then with as many as before.

    A part of the setting belongs to the calling thread and a part to the process: of several threads that compute at
    the same time, the last one to end restores it.
    """
    global _users, _before
    import torch

    with _lock:
        if _users == 0:
            _before = torch.get_num_threads()
        _users += 1
        torch.set_num_threads(number)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                torch.set_num_threads(_before)
