"""Who computes the parts of a trace: this process, several processes on this host, or the workers of a Dask cluster.

The engine takes any `concurrent.futures.Executor`; only this module knows Dask.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from cellcircuits.errors import RunError, SettingsError

if TYPE_CHECKING:
    from distributed import Client, SpecCluster

SECONDS_TO_CONNECT = 10
UNSEEN = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
"""Of local schedulers and workers: nothing listens to other hosts. Without a dashboard there is still a server."""


@contextmanager
def open_executor(
    address: str, *, workers: int = 0, threads: int = 0, device: str = "auto"
) -> Iterator[Executor | None]:
    """An executor for the parts of a trace.

    Parameters
    ----------
    address
        "": None, the parts are computed in this process. "local": worker processes on this host, which end with the
        block. "tcp://host:port" or "tls://host:port": the workers of a running Dask scheduler.
    workers
        Number of local workers; 0: one per GPU, or, without a GPU, one per `threads` CPU cores.
    threads
        CPU threads that each part will use; 0: all cores, hence one worker.
    device
        Torch device of the model; local workers get a GPU each where it is "auto" or "cuda".

    Raises
    ------
    SettingsError
        If the address is none of these, no scheduler answers there, or Dask is not installed.
    RunError
        If the workers keep dying or the scheduler is lost while the block runs.
    """
    if not address:
        yield None
        return
    _check(address, workers)
    from distributed import Client, KilledWorker

    with ExitStack() as stack:
        if address == "local":
            cluster = stack.enter_context(_local_cluster(workers, threads, device))
            client = stack.enter_context(Client(cluster))
        else:
            client = stack.enter_context(_connected(address))
        try:
            yield client.get_executor(pure=False)
        except KilledWorker as error:
            raise RunError(
                f"Several workers died while they computed the same part, perhaps for want of memory ({error}). "
                "Finished parts are kept; the same command goes on."
            ) from error


def _check(address: str, workers: int) -> None:
    """Refuse what cannot be opened."""
    if address != "local" and not re.fullmatch(r"(tcp|tls)://[^\s/]+:\d+", address):
        raise SettingsError(
            f'There is no executor {address!r}; expected "local" or the address of a Dask scheduler, "tcp://host:port".'
        )
    if address != "local" and workers:
        raise SettingsError(f"--workers is for --dask local; the scheduler at {address} has workers of its own.")
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise SettingsError('Dask is not installed. Install it with: pip install "cellcircuits[dask]"') from error


def _connected(address: str) -> Client:
    from distributed import Client

    try:
        return Client(address, timeout=SECONDS_TO_CONNECT)
    # without certificates, "tls" is an error of another kind
    except (OSError, TypeError, RuntimeError, ValueError) as error:
        raise SettingsError(
            f"No Dask scheduler answers at {address} ({error}). Start one with: dask scheduler, and workers with: "
            f"dask worker {address}; or use --dask local."
        ) from error


def _local_cluster(workers: int, threads: int, device: str) -> SpecCluster:
    from distributed import Nanny, Scheduler, SpecCluster

    # memory_limit 0: a part needs what it needs, and a worker that is stopped for it would only be started again
    options: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "silence_logs": logging.ERROR, **UNSEEN}
    environments = worker_environments(workers, threads, device)
    spec = {number: {"cls": Nanny, "options": options | {"env": env}} for number, env in enumerate(environments)}
    scheduler = {"cls": Scheduler, "options": {"port": 0, **UNSEEN}}
    return SpecCluster(workers=spec, scheduler=scheduler, silence_logs=logging.ERROR)


def worker_environments(workers: int, threads: int, device: str) -> list[dict[str, str]]:
    """Environment variables of each local worker: its GPU, where there are some; arguments as in `open_executor`."""
    gpus = _gpus() if device in ("auto", "cuda") else []
    count = workers or len(gpus) or max(1, _cores() // (threads or _cores()))
    return [{"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {} for number in range(count)]


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _gpus() -> list[str]:
    """Names of the CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return []
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
