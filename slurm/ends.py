"""Why a job ended: by SLURM's word for its state, and by what SLURM wrote into its output, for which no accounting is
needed."""

import re
from pathlib import Path
from typing import NamedTuple

from mac_bench.record import Cause, State
from slurm.cluster import Job

TAIL_BYTES = 16_384
KILLED = re.compile(
    rb"\*\*\* JOB .*CANCELLED AT \S+(?: DUE TO ([A-Z ]+)[^*]*?)? \*\*\*"
    rb"|\b(oom.kill event|[Ee]xceeded (?:job |step )?memory limit)"
)
"""the line of the job, as that of its step comes whenever a process of it dies; or of who watches its memory"""


COMPLAINT = re.compile(r"[Ee]rror|not found|No such file|[Dd]enied|cannot")
SUMMARY = re.compile(r"srun: |slurmstepd\S*: error: \*\*\*|[^\x00-\x7f] ")
"""lines of SLURM, and of our queue about runs, which begin with a mark"""
START = b"Starting with JobEnvironment"
"""what submitit prints first"""


class End(NamedTuple):
    """How the runs of a job end that were not done."""

    state: State
    cause: Cause
    reason: str


TIME_LIMIT = End("stopped", "time limit", "the job's time limit")
PREEMPTED = End("stopped", "preempted", "preempted by another job")
REQUEUED = End("stopped", "requeued", "the job was queued again")
NODE_FAILED = End("stopped", "node failed", "the node failed")
CANCELLED = End("cancelled", "ordered", "cancelled by scancel")
OUT_OF_MEMORY = End("stopped", "out of memory", "the job ran out of memory")

BY_WORD = {
    "TIME LIMIT": TIME_LIMIT,
    "PREEMPTION": PREEMPTED,
    "JOB REQUEUE": REQUEUED,
    "NODE FAILURE": NODE_FAILED,
    "": CANCELLED,
}
BY_STATE = {
    "TIMEOUT": TIME_LIMIT,
    "DEADLINE": TIME_LIMIT,
    "PREEMPTED": PREEMPTED,
    "NODE_FAIL": NODE_FAILED,
    "BOOT_FAIL": NODE_FAILED,
    "CANCELLED": CANCELLED,
    "OUT_OF_MEMORY": OUT_OF_MEMORY,
}


def last_word(log: Path, start: int = 1) -> End | None:
    """Why SLURM ended a job, as it wrote into the job's output; None where it wrote nothing.

    A job that is queued again goes on with the same file: `start` 1 is its last start, 2 the one before.
    """
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            starts = file.read().split(START)
    except OSError:
        return None
    found = KILLED.findall(starts[-start] if start <= len(starts) else b"")
    ends = [OUT_OF_MEMORY if memory else BY_WORD.get(word.decode().strip()) for word, memory in found]
    return next((end for end in reversed(ends) if end), None)


def complaint(log: Path) -> str | None:
    """The last line of a job's output that tells of an error, but for SLURM's own summaries; None where none does."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            lines = file.read().split(START)[-1].decode(errors="replace").splitlines()
    except OSError:
        return None
    said = [line.strip() for line in lines if COMPLAINT.search(line) and not SUMMARY.match(line)]
    return said[-1].split("error: ", 1)[-1] if said else None


def of(job: Job, log: Path, began: bool = True) -> End:
    """Why this job is over, in which a run did or did not begin. `job.state` is empty where SLURM has forgotten it."""
    on = f" ({job.node})" if job.node else ""
    end = BY_STATE.get(job.state) or last_word(log)
    if end is None and not began and (said := complaint(log)):
        return End("stopped", "error", f"its job failed before the run began: {said}")
    if end is None:
        what = f"its job ended as {job.state}" if job.state else "its job is gone, and there is no sign of life"
        end = End("stopped", "job lost", f"{what}, without a word of this run")
    return end._replace(reason=end.reason + on)
