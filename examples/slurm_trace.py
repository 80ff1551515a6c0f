"""Trace a run with the jobs of a SLURM cluster.

    pip install "cellcircuits[dask]" dask-jobqueue
    python slurm_trace.py pbmc.toml /shared/runs/pbmc

Call it on a login node, in a `tmux` or as a small job of its own: it makes the plan, hands out the parts and adds them
up. Stop it whenever you like; the same command goes on. Cells, autoencoders and annotations, where they are not made
yet, are made on the host where it is called.
"""

from __future__ import annotations

import sys
from pathlib import Path

from distributed import Client
from distributed.deploy import Cluster

from cellcircuits.pipeline import run_pipeline
from cellcircuits.progress import RichProgress
from cellcircuits.run import Run, create_run
from cellcircuits.settings import read_settings

JOBS = 8


def slurm_cluster() -> Cluster:
    """Jobs of one worker each, with one GPU. Change this to what your cluster offers."""
    from dask_jobqueue import SLURMCluster

    return SLURMCluster(
        queue="gpu",
        cores=1,  # one part at a time ...
        processes=1,  # ... in one process
        job_cpu=8,  # CPU threads of a part; set trace.threads = 8 in the settings
        memory="32GB",
        walltime="04:00:00",
        job_extra_directives=["--gres=gpu:1"],
        # workers leave before SLURM ends them; their part is given to another one
        worker_extra_args=["--lifetime", "225m", "--lifetime-stagger", "10m"],
    )


def trace_on(cluster: Cluster, run: Run) -> None:
    """Make everything of a run up to its trace; the workers of `cluster` compute the parts of the trace."""
    with Client(cluster) as client, run.locked():
        run_pipeline(run, RichProgress(), until="trace", executor=client.get_executor(pure=False))


def main() -> None:
    """Trace the run that the command line names."""
    settings, folder = map(Path, sys.argv[1:])
    run = create_run(folder, read_settings(settings))
    with slurm_cluster() as cluster:
        cluster.scale(jobs=JOBS)
        trace_on(cluster, run)


if __name__ == "__main__":
    main()
