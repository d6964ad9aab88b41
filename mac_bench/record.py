"""The run folder: the truth about a run, from which everything else is derived.

runs/<id>/config.json      written once: the RunConfig
runs/<id>/events.jsonl     appended: attempts, metrics, evaluations, ends
runs/<id>/status.json      replaced by rename: state, step, reason, heartbeat
runs/<id>/checkpoint.npz   replaced by rename; the one before is checkpoint.previous.npz
runs/<id>/order.json       replaced by rename: what the user wants of the run, beside that it be trained
runs/<id>/attempts/<n>     made once, by whoever may train attempt n
"""

import fcntl
import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pydantic

from mac_bench.config import RunConfig, parse
from mac_bench.errors import UserError
from mac_bench.files import DamagedFile, write_text
from mac_bench.states import Cause, Order, State, Wish
from mac_bench.types import Metrics

Event = Mapping[str, Any]
"""a line of events.jsonl"""

JOB = "MAC_BENCH_JOB"
"""variable that names the cluster's job in which a run is trained"""
NODE = "SLURMD_NODENAME"
"""where it is trained, as the cluster calls it"""

HEARTBEAT_S = 10
SILENCE_S = 300
"""a run without a heartbeat for so long is lost; longer than any compilation"""
ORDERS_S = 2.0
"""how often orders are looked for"""

CHECKPOINTS = ("checkpoint.npz", "checkpoint.new.npz", "checkpoint.previous.npz")
"""the newest; what a writer that was killed between two renames left; the one before"""


class Status(pydantic.BaseModel):
    """What status.json holds."""

    state: State
    step: int
    steps: int
    attempt: int
    reason: str | None = None
    cause: Cause | None = None
    heartbeat: float
    """Unix time of the last sign of life, in seconds"""
    host: str
    pid: int
    job: str | None = None
    """the cluster's job in which it is trained"""
    updates_per_s: float | None = None


def standing(status: Status | None, order: Order | None) -> tuple[State, str]:
    """State and reason of a run by its own folder: what it said last, and what was ordered since."""
    state: State = status.state if status else "waiting"
    if order and (ordered := order.stands(state, status.step if status else 0, status.heartbeat if status else None)):
        return ordered, order.reason
    return state, status.reason or "" if status else ""


class RunFolder:
    """One run's folder. Reading needs no claim; writing does."""

    def __init__(self, path: Path):
        self.path = path
        self.events = path / "events.jsonl"

    @classmethod
    def create(cls, root: Path, run: RunConfig) -> "RunFolder":
        """The folder of this run, made where it is not there yet."""
        folder = cls(root / run.id)
        config = folder.path / "config.json"
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            if not config.exists():
                write_text(config, run.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise UserError(f"{folder.path}: cannot write there ({error.strerror}); choose another --runs") from None
        return folder

    def config(self) -> RunConfig:
        """Raises UserError where this is no run folder."""
        try:
            return parse(RunConfig, json.loads((self.path / "config.json").read_text()), f"{self.path}/config.json")
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path}: no run folder ({error})") from None

    def status(self) -> Status | None:
        """What the run last said, or None before it has said anything. A running run that is silent is `lost`."""
        try:
            status = Status.model_validate_json((self.path / "status.json").read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DamagedFile(f"{self.path}/status.json: not readable ({error})") from None
        if status.state == "running" and not _alive(status):
            return status.model_copy(update={"state": "lost", "reason": "no sign of life; run it again to continue"})
        return status

    def append(self, kind: str, **fields: Any) -> Event:
        """Append one event, and return it as it was written."""
        event = {"kind": kind, "time": round(time.time(), 3), **fields}
        line = json.dumps(event, allow_nan=False)
        with open(self.events, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        return event

    def read(self) -> Iterator[dict[str, Any]]:
        """All complete events, in order; what a killed writer left half-written is passed over."""
        if self.events.exists():
            with open(self.events, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    try:
                        yield json.loads(line)
                    except ValueError:
                        continue

    def evaluated(self) -> set[int]:
        """Updates after which an evaluation is on record."""
        return {event["step"] for event in self.read() if event["kind"] == "evaluation"}

    def expect_data(self, digest: str) -> None:
        """Raises UserError where the run began with other data than these."""
        begun = self._first_world()
        if begun is not None and begun.get("data") != digest:
            raise UserError(
                f"{self.path}: this run began with data {begun.get('data')}, but here are {digest}; "
                "put the old data back, or delete the run folder"
            )

    def expect_simulator(self, simulator: str) -> None:
        """Raises UserError where the run began in another one; its version may be another, of which reports warn."""
        before = (self._first_world() or {}).get("simulator", simulator)
        if before.partition(" (")[0] != simulator.partition(" (")[0]:
            raise UserError(
                f"{self.path}: this run began in the simulator {before}, but here is {simulator}; "
                "go back to the old one, or keep the new runs in another folder"
            )

    def _first_world(self) -> dict[str, str] | None:
        """What the first attempt was made with."""
        return next((event["environment"] for event in self.read() if event["kind"] == "attempt"), None)

    def order(self) -> Order | None:
        """The last order that was given; None also where it cannot be read, for an order is never worth a run."""
        try:
            return Order.model_validate_json((self.path / "order.json").read_text())
        except (OSError, ValueError):
            return None

    def kept(self) -> Order | None:
        """The order that keeps the run from being trained, if there is one."""
        order = self.order()
        return order if order and order.keeps else None

    def give_order(self, wish: Wish, reason: str) -> None:
        """Let the run be trained, held or cancelled, wherever it is: whoever trains it looks every few seconds."""
        order = Order(wish=wish, time=time.time(), reason=reason)
        write_text(self.path / "order.json", order.model_dump_json() + "\n")

    @contextmanager
    def claim(self) -> Iterator[int]:
        """Hold the run for this process; yields the number of the attempt that begins.

        The lock dies with its owner, so a killed run can be continued at once. Where a file system keeps locks to one
        machine, heartbeats tell of the others, and an attempt's number can be taken only once. Raises UserError where
        the run is another's.
        """
        with self.lock():
            status = self.status()
            if status and status.state == "running" and not self._mine(status.host, status.job):
                raise self._taken(status)
            attempt = self._take(status.attempt + 1 if status else 1)
            self._clear_up()
            try:
                yield attempt
            finally:
                self._give_back(attempt)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """The part of a claim that one machine's processes respect. Raises UserError where another has it."""
        with open(self.path / "lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._taken(self.status()) from None
            except OSError as error:
                raise UserError(f"{self.path}: this file system cannot lock files ({error.strerror})") from None
            yield

    def conclude(self, attempt: int, state: State, reason: str, cause: Cause, final: bool = False) -> bool:
        """The last words on an attempt by somebody who saw it end, in the place of what it said itself; `final`: there
        will be no other.

        Nothing is written, and False returned, where there is a later attempt, or the run is finished or in hands.
        """
        try:
            with self.lock():
                status = self.status()
                if status is None or status.attempt != attempt or status.state == "finished":
                    return False
                self._clear_up()
                words = {"state": state, "reason": reason, "cause": cause}
                self.append("end", attempt=attempt, step=status.step, **words, final=final)
                write_text(self.path / "status.json", status.model_copy(update=words).model_dump_json() + "\n")
                return True
        except UserError:
            return False

    def bury(self, steps: int, state: State, reason: str, cause: Cause, job: str | None = None) -> bool:
        """Write down an attempt that ended before it could say anything; False where the run is in other hands."""
        try:
            with self.claim() as attempt:
                before = self.status()
                if before and before.state == "finished":
                    return False
                Journal(self, steps, attempt, before, job=job).end(state, reason, cause)
                return True
        except UserError:
            return False

    def superseded(self, attempt: int) -> bool:
        """Whether somebody has taken the attempt after this one: a cluster may start a run anew while a node that it
        has lost still trains it."""
        return (self.path / "attempts" / str(attempt + 1)).exists()

    def _taken(self, status: Status | None) -> UserError:
        who = f" (process {status.pid} on {status.host})" if status else ""
        return UserError(f"{self.path}: another process{who} is training this run; leaving it alone")

    def _mine(self, host: str, job: str | None) -> bool:
        """Whether this process holds what that one held: on one machine the lock says so, and a job runs only once."""
        return host == socket.gethostname() or (job is not None and job == os.environ.get(JOB))

    def _take(self, attempt: int) -> int:
        """The first attempt from this one on that nobody has, or had and left without a word for long."""
        tickets = self.path / "attempts"
        tickets.mkdir(exist_ok=True)
        while True:
            try:
                with open(tickets / str(attempt), "x") as ticket:
                    ticket.write(json.dumps({"host": socket.gethostname(), "job": os.environ.get(JOB)}))
                return attempt
            except FileExistsError:
                taken = tickets / str(attempt)
                try:
                    owner = json.loads(taken.read_text())
                    mine = self._mine(owner["host"], owner["job"])
                except (OSError, ValueError, KeyError, TypeError):  # just being written
                    mine = False
                if not mine and time.time() - taken.stat().st_mtime < SILENCE_S:
                    raise self._taken(None) from None
                attempt += 1

    def _give_back(self, attempt: int) -> None:
        """Leave an attempt's number to the next where nothing was said in it, or other machines would wait for it."""
        with suppress(UserError, OSError):
            status = self.status()
            if status is None or status.attempt < attempt:
                (self.path / "attempts" / str(attempt)).unlink(missing_ok=True)

    def save_checkpoint(self, save: Callable[[Path], None]) -> None:
        """Write a checkpoint with `save(path)`, keeping the one before it."""
        newest, aside, previous = (self.path / name for name in CHECKPOINTS)
        save(aside)
        if self.events.exists():  # a power cut must not leave a checkpoint that is ahead of the log
            with open(self.events, "ab") as events:
                os.fsync(events.fileno())
        if newest.exists():
            os.replace(newest, previous)
        os.replace(aside, newest)

    def load_checkpoint(self, load: Callable[[Path], int]) -> int:
        """The step that `load(path)` restores: of the newest readable checkpoint, 0 where there is none."""
        damaged = []
        for path in (self.path / name for name in CHECKPOINTS):
            if path.exists():
                try:
                    return load(path)
                except DamagedFile as error:
                    damaged.append(str(error))
                    # out of the way, or the next save would push it over the good one before it
                    path.rename(path.with_suffix(".damaged"))
        if damaged:
            raise UserError(f"{damaged[-1]}; no other checkpoint is left; the same command now trains from the start")
        return 0

    def _clear_up(self) -> None:
        """Remove what a killed writer left half-written, so that the next event starts on a line of its own."""
        for aside in self.path.glob(".*.tmp"):
            if not aside.name.startswith(".order."):  # of somebody who gives an order just now
                aside.unlink(missing_ok=True)
        if self.events.exists():
            text = self.events.read_bytes()
            whole = text.rfind(b"\n") + 1
            if whole < len(text):
                os.truncate(self.events, whole)


class Journal:
    """Writes one attempt of a run down: its events, its status with heartbeat, and how it ended."""

    def __init__(
        self,
        folder: RunFolder,
        steps: int,
        attempt: int,
        before: Status | None,
        hear: Callable[[Event], None] = lambda event: None,
        job: str | None = None,
    ):
        """`hear` is called with each event once it is written; what it raises is raised."""
        self.folder, self.steps, self.attempt, self.hear = folder, steps, attempt, hear
        self.job = job or os.environ.get(JOB)
        self.step = before.step if before else 0
        """the last update that is done"""
        self.rate: float | None = None
        """updates per second since the metrics before, without evaluations"""
        self._beaten = 0.0
        self._clock = (0.0, 0)

    def begin(self, step: int, environment: Mapping[str, str]) -> None:
        """Everything is loaded; training goes on from `step`."""
        self.step = step
        place = {"host": socket.gethostname(), "pid": os.getpid(), "job": self.job, "node": os.environ.get(NODE)}
        self.write("attempt", step=step, **place, environment=dict(environment))
        self.restart_clock()

    def write(self, kind: str, **fields: Any) -> None:
        """Append an event of this attempt."""
        self.hear(self.folder.append(kind, attempt=self.attempt, **fields))

    def metrics(self, step: int, metrics: Metrics, write: bool) -> None:
        """Raises UserError where a metric is not finite, as nothing after it would mean anything; else writes them."""
        values = {name: float(value) for name, value in metrics.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(f"{name} is {value} at update {step}; a smaller learning rate may help")
        began, before = self._clock
        self.rate = round((step - before) / max(time.monotonic() - began, 1e-9), 2)
        self.restart_clock()
        if write:
            self.write("metrics", step=step, values=values, updates_per_s=self.rate)

    def restart_clock(self) -> None:
        """What came before does not count in the rate."""
        self._clock = (time.monotonic(), self.step)

    def beat(self) -> None:
        """A sign of life, not more often than every few seconds."""
        if time.monotonic() - self._beaten > HEARTBEAT_S:
            self.status("running")

    @contextmanager
    def pulse(self) -> Iterator[None]:
        """Signs of life while something is done that gives none itself, such as loading a large data set."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT_S):
                with suppress(OSError):  # what is the matter with the disk, the run itself will say
                    self.status("running")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def status(self, state: State, reason: str | None = None, cause: Cause | None = None) -> None:
        """Replace the run's status."""
        self._beaten = time.monotonic()
        status = Status(
            state=state,
            step=self.step,
            steps=self.steps,
            attempt=self.attempt,
            reason=reason,
            cause=cause,
            heartbeat=time.time(),
            host=socket.gethostname(),
            pid=os.getpid(),
            job=self.job,
            updates_per_s=self.rate,
        )
        write_text(self.folder.path / "status.json", status.model_dump_json() + "\n")

    def end(self, state: State, reason: str | None = None, cause: Cause | None = None) -> None:
        """The last words of an attempt."""
        self.write("end", step=self.step, state=state, reason=reason, cause=cause)
        self.status(state, reason, cause)

    def fail(self, error: BaseException) -> None:
        """Write the error down as the reason. On a full disk even that may fail: then the error itself must do."""
        with suppress(OSError):
            if isinstance(error, KeyboardInterrupt):
                self.end("stopped", "interrupted twice: ended without saving", "signalled")
            elif isinstance(error, UserError):
                self.end("failed", str(error), "refused")
            else:
                text = f"{type(error).__name__}: {error}"
                self.end("failed", text, _memory(text) or "error")


def _memory(text: str) -> Cause | None:
    """What an error says of memory; the words are those of XLA, torch, Python and C++."""
    if "RESOURCE_EXHAUSTED" in text or "CUDA out of memory" in text:
        return "out of GPU memory"
    return "out of memory" if "MemoryError" in text or "std::bad_alloc" in text else None


def _alive(status: Status) -> bool:
    if time.time() - status.heartbeat > SILENCE_S:
        return False
    if status.host == socket.gethostname():
        try:
            os.kill(status.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
    return True
