"""One run that is being trained, in a process of its own that does not outlive its queue."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from mac_bench.overview import status_of
from mac_bench.record import Cause, RunFolder, State, Status
from mac_bench.signals import PARENT
from mac_bench.suite import Member
from slurm.places import Place

SEPARATOR = "---"
"""begins the line before each attempt in log.txt"""
TAIL_BYTES = 65_536
REFUSED = 2
"""exit code for what the user must put right"""
HOST = socket.gethostname()

Command = Callable[[Path], list[str]]
"""Run folder -> the arguments of the process that trains it"""


class Result(NamedTuple):
    """How one run came out of the queue."""

    member: Member
    state: State
    """`running` where another process is training it, `waiting` where its turn never came"""
    reason: str | None = None


class Child:
    """A training process, its log, and what it said of itself."""

    def __init__(self, member: Member, folder: RunFolder, place: Place, command: Command):
        self.member, self.folder, self.place = member, folder, place
        before = status_of(folder)
        self.first = before.step if before else 0
        self.attempt = before.attempt if before else 0
        self.began = time.time()
        self._oom = _oom_kills()
        with open(folder.path / "log.txt", "ab") as log, _deaf(), _pinned(place.cores):
            log.write(f"{SEPARATOR} {datetime.now():%Y-%m-%d %H:%M:%S}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                command(folder.path),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | place.environment | {PARENT: str(os.getpid())},
                # Ctrl-C in the terminal must reach only the queue: the run gets one signal, not two
                start_new_session=True,
            )

    def status(self) -> Status | None:
        """What this attempt has said of itself so far."""
        status = status_of(self.folder)
        return status if status and status.attempt > self.attempt else None

    def seconds_left(self, status: Status) -> float | None:
        """As if the rest went like what this attempt has done, evaluations included."""
        done = status.step - self.first
        return (status.heartbeat - self.began) * (status.steps - status.step) / done if done > 0 else None

    def result(self) -> Result:
        """How it ended; the process must have. Where it had no last words, its folder has them from now on."""
        status, latest = self.status(), status_of(self.folder)
        if latest and latest.state == "finished":  # by this attempt, or by another queue's just before it
            return Result(self.member, "finished")
        if status and status.state not in ("running", "lost", "waiting"):
            return Result(self.member, status.state, status.reason)
        if latest and latest.state == "running" and (latest.host, latest.pid) != (HOST, self.process.pid):
            return Result(self.member, "running", f"process {latest.pid} on {latest.host} is training it")
        order = self.folder.kept()
        if self.process.returncode == 0 and order:
            return Result(self.member, order.state, order.reason)
        state, reason, cause = self._death()
        with suppress(OSError):  # a full disk: the queue at least goes on
            if status:
                self.folder.conclude(status.attempt, state, reason, cause)
            else:
                self.folder.bury(self.member.run.steps, state, reason, cause)
        return Result(self.member, state, reason)

    def _death(self) -> tuple[State, str, Cause]:
        """State, reason and cause of a process that said nothing of its end."""
        code = self.process.returncode
        if code == -signal.SIGTERM:  # before it had begun to listen
            return "stopped", "SIGTERM", "signalled"
        if code == -signal.SIGKILL:
            if _oom_kills() > self._oom:
                return "failed", "killed by SIGKILL for lack of memory", "out of memory"
            return "failed", "killed by SIGKILL, perhaps for lack of memory", "killed"
        if code < 0:
            return "failed", f"killed by {signal.Signals(-code).name}", "error"
        return "failed", self._last_line() or f"exit code {code}", "refused" if code == REFUSED else "error"

    def _last_line(self) -> str:
        with open(self.folder.path / "log.txt", "rb") as log:
            log.seek(max(0, log.seek(0, 2) - TAIL_BYTES))
            last = log.read().decode(errors="replace").strip().splitlines()[-1]
        return "" if last.startswith(SEPARATOR) else last.removeprefix("mac-bench: ")


@contextmanager
def _pinned(cores: frozenset[int] | None) -> Iterator[None]:
    """What is started meanwhile is born on these cores: it has counted them before anybody could move it."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)  # of this thread alone
    with suppress(OSError):  # forbidden: it just runs unpinned
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, before)


@contextmanager
def _deaf() -> Iterator[None]:
    """What is started meanwhile never hears SIGUSR2: a cluster sends its warning to every process of a job, and the
    queue passes it on as SIGTERM."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _oom_kills() -> int:
    """How many processes the kernel has killed in this job's memory group; 0 where it does not tell."""
    with suppress(OSError, ValueError, IndexError, StopIteration):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds == "":
                counts = Path(f"/sys/fs/cgroup{path}/memory.events")
            elif "memory" in kinds.split(","):
                counts = Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
            else:
                continue
            if counts.exists():
                return next(
                    int(row.split()[1]) for row in counts.read_text().splitlines() if row.startswith("oom_kill ")
                )
    return 0
