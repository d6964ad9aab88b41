"""The local queue: some runs at a time, each in a process of its own, with its own share of cores and GPUs.

Nothing is kept here that is not in the run folders: an interrupted queue is continued by starting it again.
"""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from mac_bench.errors import UserError
from mac_bench.overview import age, duration, last_success, plain_table, plural, rate, status_of
from mac_bench.record import RunFolder, State, Status
from mac_bench.signals import listening
from mac_bench.suite import Member

POLL_S = 0.2
REFRESH_S = 1.0
SEPARATOR = "---"
"""begins the line before each attempt in log.txt"""
NEITHER = "\N{EN DASH}"
"""mark of what is neither a success nor a failure"""
MEMORY_SHARE = 0.9
"""of a GPU, for all runs on it together"""
MEMORY_NAMES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
"""what JAX calls a process's share, now and formerly"""

Command = Callable[[Path], list[str]]
"""Run folder -> the arguments of the process that trains it"""


class Result(NamedTuple):
    """How one run came out of the queue."""

    member: Member
    state: State
    """`running` where another process is training it, `waiting` where its turn never came"""
    reason: str | None = None


class Outcome(NamedTuple):
    """How the whole queue came out."""

    results: list[Result]
    """in the order of the members"""
    signal: int | None = None
    """what stopped it before its end"""


class Place(NamedTuple):
    """Where one run at a time runs."""

    cores: frozenset[int] | None
    """None: all of them"""
    environment: dict[str, str]
    """variables beside those of this process"""


def run_pool(
    members: list[Member],
    root: Path,
    data: Path,
    jobs: int = 1,
    *,
    eval_workers: int = 0,
    videos: int = 0,
    track: Sequence[str] = (),
    console: Console | None = None,
    command: Command | None = None,
) -> Outcome:
    """Train all runs that are not finished, `jobs` at a time; one that fails stops no other.

    Ctrl-C, SIGTERM and SIGHUP are passed on as SIGTERM, and the runs are waited for until they have saved; a second one
    makes them end at once. What a run prints goes to `log.txt` in its folder. Raises UserError where nothing can be
    written.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; it must be at least 1")
    command = command or train_command(data, eval_workers, videos, track)
    queue = _Queue(members, root, command, console or Console())
    with listening(queue.stop, _wanted()), queue.display() as refresh:
        try:
            queue.go(places(jobs) if queue.waiting else [], refresh)
        except BaseException:  # whatever it is, such as a terminal that is gone: no run is left without its queue
            queue.terminate()
            raise
    return Outcome([queue.results[member.run.id] for member in members], queue.signal)


def train_command(data: Path, eval_workers: int, videos: int, track: Sequence[str] = ()) -> Command:
    """The command line that trains one run folder."""
    options = ["--data", str(data), "--eval-workers", str(eval_workers), "--videos", str(videos), "--quiet"]
    for name in track:
        options += ["--track", name]
    return lambda folder: [sys.executable, "-m", "mac_bench", "train", "--run", str(folder), *options]


def places(jobs: int) -> list[Place]:
    """Equal shares of this machine for so many runs at a time."""
    found = gpus()
    on_one = math.ceil(jobs / max(1, len(found)))
    # torch's threads wait for each other in turns: with more of them than cores an update takes many times as long
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    shares = []
    for number in range(jobs):
        environment = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": threads}
        if found:
            environment["CUDA_VISIBLE_DEVICES"] = found[number % len(found)]
        # JAX takes three quarters of a GPU's memory unless told otherwise, and refuses to be told by two names at once
        if on_one > 1 and not any(os.environ.get(name) for name in MEMORY_NAMES):
            environment[MEMORY_NAMES[0]] = f"{MEMORY_SHARE / on_one:.3f}"
        shares.append(Place(_cores(number, jobs), environment))
    return shares


def _cores(number: int, jobs: int) -> frozenset[int] | None:
    """Twice a fair share. XLA starts as many threads as it sees cores in every process: 16 for one core double the time
    that an update costs, two cost nothing, and let a run use what its neighbour leaves idle while it evaluates."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
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


class _Child:
    """One run that is being trained."""

    def __init__(self, member: Member, folder: RunFolder, place: Place, command: Command):
        self.member, self.folder, self.place = member, folder, place
        before = status_of(folder)
        self.first = before.step if before else 0
        self.attempt = before.attempt if before else 0
        self.began = time.time()
        with open(folder.path / "log.txt", "ab") as log:
            log.write(f"{SEPARATOR} {datetime.now():%Y-%m-%d %H:%M:%S}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                command(folder.path),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | place.environment,
                # Ctrl-C in the terminal must reach only the queue: the run gets one signal, not two
                start_new_session=True,
            )
        if place.cores is not None:
            with suppress(OSError):  # already gone, or forbidden: it just runs unpinned
                os.sched_setaffinity(self.process.pid, place.cores)

    def status(self) -> Status | None:
        """What this attempt has said of itself so far."""
        status = status_of(self.folder)
        return status if status and status.attempt > self.attempt else None

    def seconds_left(self, status: Status) -> float | None:
        """As if the rest went like what this attempt has done, evaluations included."""
        done = status.step - self.first
        return (status.heartbeat - self.began) * (status.steps - status.step) / done if done > 0 else None

    def result(self, stopping: bool) -> Result:
        """How it ended; the process must have."""
        status, code = self.status(), self.process.returncode
        latest = status_of(self.folder)
        if latest and latest.state == "finished":  # by this attempt, or by another queue's just before it
            return Result(self.member, "finished")
        if status and status.state in ("finished", "stopped", "failed"):
            return Result(self.member, status.state, status.reason)
        if status and status.state == "running" and status.pid != self.process.pid:
            return Result(self.member, "running", f"process {status.pid} on {status.host} is training it")
        if stopping and code == -signal.SIGTERM:
            return Result(self.member, "stopped", "SIGTERM")
        if code < 0:
            name = signal.Signals(-code).name
            more = ", perhaps for lack of memory" if -code == signal.SIGKILL else ""
            return Result(self.member, "failed", f"killed by {name}{more}")
        return Result(self.member, "failed", self._last_line() or f"exit code {code}")

    def _last_line(self) -> str:
        last = (self.folder.path / "log.txt").read_text(errors="replace").strip().splitlines()[-1]
        return "" if last.startswith(SEPARATOR) else last.removeprefix("mac-bench: ")


class _Queue:
    """Runs that wait, run and are done."""

    def __init__(self, members: list[Member], root: Path, command: Command, console: Console):
        self.command, self.console = command, console
        self.folders = {member.run.id: RunFolder.create(root, member.run) for member in members}
        self.results: dict[str, Result] = {}
        self.waiting: deque[Member] = deque()
        self.running: list[_Child] = []
        self.signal: int | None = None
        self.skipped = 0
        for member in members:
            status = status_of(self.folders[member.run.id])
            if status and status.state == "finished":
                self.results[member.run.id] = Result(member, "finished")
                self.skipped += 1
            elif status and status.state == "running":
                reason = f"process {status.pid} on {status.host} is training it"
                self.results[member.run.id] = Result(member, "running", reason)
                self._say(NEITHER, "yellow", member, f"left alone: {reason}")
            else:
                self.waiting.append(member)

    def go(self, free: list[Place], refresh: Callable[[], None]) -> None:
        """Until everything is done, or stopped and saved."""
        while self.running or (self.waiting and self.signal is None):
            while free and self.waiting and self.signal is None:
                place = free.pop(0)
                if not self._start(self.waiting.popleft(), place):
                    free.append(place)
            for child in [child for child in self.running if child.process.poll() is not None]:
                self.running.remove(child)
                free.append(child.place)
                self._end(child)
            refresh()
            time.sleep(POLL_S)
        for member in self.waiting:
            self.results[member.run.id] = Result(member, "waiting")

    def stop(self, number: int, frame: object) -> None:
        """The signal handler. Runs that have not begun to listen yet end at once, and have nothing to save."""
        self.signal = self.signal or number
        self.terminate()

    def terminate(self) -> None:
        """Ask all runs to save and end."""
        for child in self.running:
            child.process.terminate()

    def _start(self, member: Member, place: Place) -> bool:
        try:
            child = _Child(member, self.folders[member.run.id], place, self.command)
        except OSError as error:  # its log cannot be written, say: no reason to stop the others
            self.results[member.run.id] = Result(member, "failed", str(error))
            self._say("✗", "red", member, f"cannot be started: {error}")
            return False
        self.running.append(child)
        if self.signal is not None:  # it came while the process was being made
            child.process.terminate()
        again = f"continued from {child.first:,}" if child.first else "started"
        self._say("·", "dim", member, f"{again} ({member.run.id})")
        return True

    def _end(self, child: _Child) -> None:
        result = child.result(self.signal is not None)
        self.results[child.member.run.id] = result
        time_text = duration(time.time() - child.began)
        if result.state == "finished":
            success = last_success(child.folder)
            text = f"finished in {time_text}" + ("" if success is None else f", success {success:.0%}")
            self._say("✓", "green", child.member, text)
        elif result.state == "stopped":
            self._say(NEITHER, "yellow", child.member, f"stopped after {time_text}")
        elif result.state == "running":
            self._say(NEITHER, "yellow", child.member, f"left alone: {result.reason}")
        else:
            log = child.folder.path / "log.txt"
            self._say("✗", "red", child.member, f"failed after {time_text}: {result.reason} ({log})")

    def _say(self, mark: str, style: str, member: Member, text: str) -> None:
        run = member.run
        self.console.print(
            f"[{style}]{mark}[/] [bold]{escape(member.label)}[/] {run.task} seed {run.seed}: {escape(text)}",
            highlight=False,
            soft_wrap=True,
        )

    @contextmanager
    def display(self) -> Iterator[Callable[[], None]]:
        """A table that follows the runs where there is a terminal; yields what brings it up to date."""
        if not self.console.is_terminal:
            yield lambda: None
            return
        drawn = 0.0
        with Live(console=self.console, auto_refresh=False, transient=True) as live:

            def refresh() -> None:
                nonlocal drawn
                if time.monotonic() - drawn > REFRESH_S:
                    live.update(self._table(), refresh=True)
                    drawn = time.monotonic()

            yield refresh

    def _table(self) -> Table:
        table = plain_table("", "task", "seed:", "done:", "/s:", "left:", "success:")
        table.caption, table.caption_justify = self._counts(), "left"
        for column in table.columns:
            column.no_wrap = True
        for child in self.running:
            table.add_row(*_row(child, self.console.width))
        return table

    def _counts(self) -> str:
        if self.signal is not None and self.running:
            return f"stopping: waiting for {plural(len(self.running), 'run')} to save; once more to end at once"
        states = [result.state for result in self.results.values()]
        parts = [f"{len(self.running)} running", f"{len(self.waiting)} waiting", f"{states.count('finished')} finished"]
        failed = states.count("failed")
        return ", ".join([*parts, f"{failed} failed"] if failed else parts) + "; Ctrl-C saves and stops"


def _row(child: _Child, width: int) -> list[str]:
    status, run = child.status(), child.member.run
    step = status.step if status else child.first
    left = child.seconds_left(status) if status else None
    success = last_success(child.folder)
    return [
        escape(_shortened(child.member.label, 16)),
        _shortened(run.task, max(24, width - 56)),
        str(run.seed),
        f"{step / run.steps:.0%}",
        rate(status.updates_per_s if status else None),
        "" if left is None else age(left),
        "" if success is None else f"{success:.0%}",
    ]


def _shortened(text: str, size: int) -> str:
    """Without its middle where it is longer: names differ at their ends."""
    return text if len(text) <= size else f"{text[: size // 2 - 1]}…{text[-size // 2 :]}"


def _wanted() -> list[int]:
    """What ends a process, unless it is ignored, as under nohup."""
    ends = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [number for number in ends if signal.getsignal(number) != signal.SIG_IGN]
