"""Tries a profile before thousands of runs rely on it: one small job that must find the folder of runs and load JAX."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from mac_bench.doctor import Finding
from slurm import cluster, ends, profile, snapshot, submission, submit

WAIT_S = 300.0
POLL_S = 2.0
LATE_S = 90.0
"""how late a network disk may show the answer of a job that is over"""
SEEN_S = 10.0
MINUTES = 5


def examine(name: str, root: Path, wait_s: float = WAIT_S) -> Iterator[Finding]:
    """Whether a job with this profile starts, sees the folder of runs, and can train. Raises UserError where the
    cluster refuses the job, or there is none."""
    cluster.require()
    asked = profile.load(name)
    limits = cluster.limits()
    yield Finding("works", "cluster", f"arrays of up to {limits.array_size:,}, {limits.jobs:,} jobs at a time")
    sent = submission.new("probe", "slurm", submission.Options(data=""))
    sent.code = str(snapshot.take(root))
    answer = f"jobs/{sent.id}/answer.json"
    small = asked.model_copy(update={"time_minutes": min(MINUTES, asked.time_minutes)})
    job = submit.single(sent, root, small, "probe", (str(root), answer))
    yield Finding("works", "profile", f"{name}: accepted as job {job}")
    yield _awaited(job, root, root / answer, wait_s)


def _awaited(job: str, root: Path, answer: Path, wait_s: float) -> Finding:
    log = submission.log(root, answer.parent.name, job)
    end, over = time.monotonic() + wait_s, None
    state = cluster.Job("unknown")
    while time.monotonic() < end:
        os.listdir(answer.parent)  # a network disk remembers that a file was missing; looking anew makes it forget
        if answer.exists():
            said = json.loads(answer.read_text())
            return Finding("works", "job", f"ran on {said['host']} and sees {root}; jax {said['jax']}")
        state = cluster.jobs([job]).get(job, state)
        if state.phase == "over":
            over = over or time.monotonic()
            # where its output can be seen, its answer could
            late_s = SEEN_S if log.exists() else LATE_S
            if time.monotonic() - over > min(late_s, wait_s / 3):
                return Finding("broken", "job", _failed(root, log, state))
        time.sleep(POLL_S)
    cluster.tell("cancel", [job])
    text = f"{state.state} {state.reason}".strip()
    return Finding("absent", "job", f"not done after {wait_s:.0f} s ({text}); the queue may be long: try again later")


def _failed(root: Path, log: Path, state: cluster.Job) -> str:
    if not log.exists():
        return (
            f"{state.state}, and no output in {log.parent}: is {root} on a disk that nodes share? name another --runs"
        )
    said = log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
    return f"{state.state}: {ends.complaint(log) or said[-1]} (all of it: {log})"
