"""Shares of a machine, one for each run that is trained on it at the same time."""

import math
import os
import shutil
import subprocess
from typing import NamedTuple

MEMORY_SHARE = 0.9
"""of a GPU, for all runs on it together"""
MEMORY_NAMES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
"""what JAX calls a process's share, now and formerly"""


class Place(NamedTuple):
    """Where one run at a time runs."""

    cores: frozenset[int] | None
    """None: all of them"""
    environment: dict[str, str]
    """variables beside those of this process"""


def places(jobs: int) -> list[Place]:
    """Equal shares of this machine, or of what the cluster gave this job, for so many runs at a time."""
    found = gpus()
    on_one = math.ceil(jobs / max(1, len(found)))
    mine = _available()
    # torch's threads wait for each other in turns: with more of them than cores an update takes many times as long
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (_granted() or os.cpu_count() or 1) // jobs)))
    shares = []
    for number in range(jobs):
        environment = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": threads}
        if found:
            environment["CUDA_VISIBLE_DEVICES"] = found[number % len(found)]
        # JAX takes three quarters of a GPU's memory unless told otherwise, and refuses to be told by two names at once
        if on_one > 1 and not any(os.environ.get(name) for name in MEMORY_NAMES):
            environment[MEMORY_NAMES[0]] = f"{MEMORY_SHARE / on_one:.3f}"
        shares.append(Place(_share(mine, number, jobs), environment))
    return shares


def _granted() -> int | None:
    """Cores that the cluster gave this job; None outside a job."""
    text = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE", "")
    return int(text) if text.isdigit() else None


def _available() -> list[int] | None:
    """Cores to share out; None where that cannot be told: a cluster that does not confine a job to its cores."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    granted = _granted()
    return None if granted is not None and granted < len(cores) else cores


def _share(cores: list[int] | None, number: int, jobs: int) -> frozenset[int] | None:
    """Twice a fair share. XLA starts as many threads as it sees cores in every process: 16 for one core double the time
    that an update costs, two cost nothing, and let a run use what its neighbour leaves idle while it evaluates."""
    if cores is None:
        return None
    size = -(-2 * len(cores) // jobs)
    if size >= len(cores):
        return None
    first = number * len(cores) // jobs
    return frozenset(cores[(first + i) % len(cores)] for i in range(size))


def gpus() -> list[str]:
    """Names of this machine's NVIDIA GPUs as CUDA_VISIBLE_DEVICES has them, without loading a framework."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return found.stdout.split() if found.returncode == 0 else []
