"""What tests with a real SLURM share: whether there can be one, submitting, and waiting for what must come."""

import time
from collections.abc import Callable

import pytest

from mac_bench.errors import UserError
from slurm.one_machine.cluster import Cluster
from slurm.one_machine.machine import loopback_address, missing_packages

PATIENCE_S = 60.0
"""for what takes a second or ten, on a machine that is busy"""


def require_slurm(database: bool = False) -> None:
    """Skip the test, and say why, on a machine that has no SLURM."""
    if missing := missing_packages(database):
        pytest.skip(f"not installed: {', '.join(missing)}")
    try:
        loopback_address()
    except UserError as error:
        pytest.skip(str(error))


def submit(cluster: Cluster, script: str, *options: str) -> str:
    """Queue a shell script; returns the job's number."""
    done = cluster.run("sbatch", "--parsable", *options, f"--chdir={cluster.dir}", f"--wrap={script}")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def state(cluster: Cluster, job: str) -> str:
    """What squeue says of a job, such as RUNNING."""
    return cluster.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").stdout.strip()


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Until it is true; the test fails where it never becomes so."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.1)
