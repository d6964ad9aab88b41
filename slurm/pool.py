"""A queue: some runs at a time, each in a process of its own, with its own share of cores and GPUs.

On a laptop it works through a suite; in a cluster's job, through the runs of that job. Nothing is kept here that is not
in the run folders: an interrupted queue is continued by starting it again.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from mac_bench.errors import UserError
from mac_bench.overview import age, duration, last_score, plain_table, plural, rate, status_of
from mac_bench.record import ORDERS_S, SILENCE_S, RunFolder
from mac_bench.signals import listening
from mac_bench.suite import Member
from mac_bench.tasks import measure_of
from slurm import submission
from slurm.child import Child, Command, Result
from slurm.places import Place, places
from slurm.policy import give_up, judge

POLL_S = 0.2
REFRESH_S = 1.0
NEITHER = "\N{EN DASH}"
"""mark of what is neither a success nor a failure"""
MARKS = {"finished": ("✓", "green"), "failed": ("✗", "red")}
MOST_TRIES = 20
"""of a run in one queue, whatever its folder says"""
SAME_S = 3.0
"""within so much, all processes of a job have had the cluster's signal"""
RETURN_S = 15.0
"""time before a job looks again at a run that another process has"""


class Outcome(NamedTuple):
    """How the whole queue came out."""

    results: list[Result]
    """in the order of the members"""
    signal: int | None = None
    """what stopped it before its end"""


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
    queue = Queue(members, root, command, console or Console())
    with listening(queue.stop, _wanted()), queue.display() as refresh:
        try:
            queue.go(places(jobs) if queue.waiting else [], refresh)
        except BaseException:  # whatever it is, such as a terminal that is gone: no run is left without its queue
            queue.terminate()
            raise
    return Outcome([queue.results[member.run.id] for member in members], queue.signal)


def detach(arguments: Sequence[str], root: Path) -> Path:
    """Start `mac-bench` with these arguments so that it survives this shell; returns the file that has its output.

    Raises UserError with its last words where it ends within moments.
    """
    log = root / "jobs" / f"detached-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mac_bench", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    began = time.time()
    while process.poll() is None and not any(sent.time >= began for sent in submission.everything(root)):
        time.sleep(POLL_S)
    if process.returncode:
        raise UserError(log.read_text(errors="replace").strip().splitlines()[-1].removeprefix("mac-bench: "))
    return log


def train_command(
    data: Path, eval_workers: int, videos: int, track: Sequence[str] = (), checkpoint_minutes: float | None = None
) -> Command:
    """The command line that trains one run folder."""
    options = ["--data", str(data), "--eval-workers", str(eval_workers), "--videos", str(videos), "--quiet"]
    for name in track:
        options += ["--track", name]
    if checkpoint_minutes is not None:
        options += ["--checkpoint-minutes", str(checkpoint_minutes)]
    return lambda folder: [sys.executable, "-m", "mac_bench", "train", "--run", str(folder), *options]


class Queue:
    """Runs that wait, run and are done."""

    def __init__(
        self, members: Sequence[Member], root: Path, command: Command, console: Console, patient: bool = False
    ):
        """`patient`: a run that another process has is not left to it before that has been silent for long."""
        self.command, self.console = command, console
        self.folders = {member.run.id: RunFolder.create(root, member.run) for member in members}
        self.results: dict[str, Result] = {}
        self.waiting: deque[Member] = deque()
        self.later: list[tuple[float, Member]] = []
        """runs to look at again, and when, in seconds of the monotonic clock"""
        self.tries: Counter[str] = Counter()
        """how often a run ended here before it was finished"""
        self.held: list[Member] = []
        """runs that an order keeps, for as long as there are others"""
        self.running: list[Child] = []
        self.signal: int | None = None
        self.interrupted: set[str] = set()
        """ids of the runs that were in training when the signal came, or had just ended: they had it too"""
        self.ended: dict[str, float] = {}
        self._looked = 0.0
        self._patience = time.monotonic() + (SILENCE_S + 2 * RETURN_S if patient else 0)
        for member in members:
            status = status_of(self.folders[member.run.id])
            if status and status.state == "finished":
                self.results[member.run.id] = Result(member, "finished")
            elif status and status.state == "running" and not patient:
                self._leave(Result(member, "running", f"process {status.pid} on {status.host} is training it"))
            else:
                self.waiting.append(member)

    def go(self, free: list[Place], refresh: Callable[[], None] = lambda: None) -> None:
        """Until everything is done, or stopped and saved."""
        while self.running or (self.signal is None and (self.waiting or self.later)):
            due = [member for when, member in self.later if when <= time.monotonic()]
            self.later = [(when, member) for when, member in self.later if member not in due]
            self.waiting.extend(due)
            self._release()
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
        for member in (*self.waiting, *(member for _, member in self.later)):
            self.results.setdefault(member.run.id, Result(member, "waiting"))

    def stop(self, number: int, frame: object) -> None:
        """The signal handler. Runs that have not begun to listen yet end at once, and have nothing to save."""
        again = self.signal is not None and number == signal.SIGINT
        if self.signal is None:
            now = time.monotonic()
            self.interrupted = {child.member.run.id for child in self.running}
            self.interrupted |= {run for run, ended in self.ended.items() if now - ended < SAME_S}
        self.signal = self.signal or number
        self.terminate(signal.SIGINT if again else signal.SIGTERM)

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Ask all runs to save and end."""
        for child in self.running:
            child.process.send_signal(number)

    def _start(self, member: Member, place: Place) -> bool:
        folder = self.folders[member.run.id]
        order = folder.kept()
        if order is not None:
            self._leave(Result(member, order.state, order.reason))
            self.held.append(member)
            return False
        try:
            child = Child(member, folder, place, self.command)
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

    def _end(self, child: Child) -> None:
        result, member = child.result(), child.member
        self.ended[member.run.id] = time.monotonic()
        after = duration(time.time() - child.began)
        if result.state == "running":
            self._leave(result)
            return
        if result.state in ("failed", "stopped") and self.signal is None:
            result = self._again(child, result, after)
        self.results[member.run.id] = result
        if result.state == "held":
            self.held.append(member)
        if result.state == "finished":
            score = last_score(child.folder)
            text = f"finished in {after}" + ("" if score is None else f", {measure_of(member.run.task)} {score:.0%}")
        else:
            text = f"{result.state} after {after}"
        if result.state == "failed":
            text += f": {result.reason} ({child.folder.path / 'log.txt'})"
        if result.state != "waiting":
            self._say(*MARKS.get(result.state, (NEITHER, "yellow")), member, text)

    def _release(self) -> None:
        """Let go on what was held, once the order is taken back."""
        if self.held and time.monotonic() > self._looked + ORDERS_S:
            self._looked = time.monotonic()
            for member in list(self.held):
                if self.folders[member.run.id].kept() is None:
                    self.held.remove(member)
                    self.waiting.append(member)

    def _again(self, child: Child, result: Result, after: str) -> Result:
        """`waiting` where the run may be tried again here; else how it stays, with the whole reason."""
        next_ = judge(child.folder)
        member = child.member
        self.tries[member.run.id] += 1  # a full disk leaves no trace in the folder
        if next_.go_on and (next_.memory, next_.sharing) == (1, 1) and self.tries[member.run.id] < MOST_TRIES:
            self.waiting.append(member)
            self._say(NEITHER, "yellow", member, f"{result.reason} after {after}; is tried again")
            return Result(member, "waiting")
        if not next_.go_on:
            give_up(child.folder, next_.reason)
        return result._replace(state="failed", reason=result.reason if next_.go_on else next_.reason)

    def _leave(self, result: Result) -> None:
        """Another process has the run, or an order keeps it."""
        if result.state == "running" and time.monotonic() < self._patience:
            self.later.append((time.monotonic() + RETURN_S, result.member))
            return
        self.results[result.member.run.id] = result
        self._say(NEITHER, "yellow", result.member, f"left alone: {result.reason}")

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
        measures = sorted({measure_of(child.member.run.task) for child in self.running}) or ["success"]
        table = plain_table("", "task", "seed:", "done:", "/s:", "left:", f"{' or '.join(measures)}:")
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


def _row(child: Child, width: int) -> list[str]:
    status, run = child.status(), child.member.run
    step = status.step if status else child.first
    left = child.seconds_left(status) if status else None
    score = last_score(child.folder)
    return [
        escape(_shortened(child.member.label, 16)),
        _shortened(run.task, max(24, width - 56)),
        str(run.seed),
        f"{step / run.steps:.0%}",
        rate(status.updates_per_s if status else None),
        "" if left is None else age(left),
        "" if score is None else f"{score:.0%}",
    ]


def _shortened(text: str, size: int) -> str:
    """Without its middle where it is longer: names differ at their ends."""
    return text if len(text) <= size else f"{text[: size // 2 - 1]}…{text[-size // 2 :]}"


def _wanted() -> list[int]:
    """What ends a process, unless it is ignored, as under nohup."""
    ends = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [number for number in ends if signal.getsignal(number) != signal.SIG_IGN]
