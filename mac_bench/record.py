"""The run folder: the truth about a run, from which everything else is derived.

runs/<id>/config.json      written once: the RunConfig
runs/<id>/events.jsonl     appended: attempts, metrics, evaluations, ends
runs/<id>/status.json      replaced by rename: state, step, reason, heartbeat
runs/<id>/checkpoint.npz   replaced by rename; the one before is checkpoint.previous.npz
"""

import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pydantic

from mac_bench.config import RunConfig, parse
from mac_bench.errors import UserError
from mac_bench.files import DamagedFile, write_text
from mac_bench.types import Metrics

Event = Mapping[str, Any]
"""a line of events.jsonl"""

State = Literal["waiting", "running", "lost", "stopped", "failed", "finished"]
"""`waiting` has not begun; `lost` says that it runs but shows no sign of life; `stopped` and `lost` can be continued"""

HEARTBEAT_S = 10
SILENCE_S = 300
"""a run without a heartbeat for so long is lost; longer than any compilation"""


CHECKPOINTS = ("checkpoint.npz", "checkpoint.new.npz", "checkpoint.previous.npz")
"""the newest; what a writer that was killed between two renames left; the one before"""


class Status(pydantic.BaseModel):
    """What status.json holds."""

    state: State
    step: int
    steps: int
    attempt: int
    reason: str | None = None
    heartbeat: float
    """Unix time of the last sign of life, in seconds"""
    host: str
    pid: int
    updates_per_s: float | None = None


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
        begun = next((event for event in self.read() if event["kind"] == "attempt"), None)
        if begun is not None and begun["environment"].get("data") != digest:
            raise UserError(
                f"{self.path}: this run began with data {begun['environment'].get('data')}, but here are {digest}; "
                "put the old data back, or delete the run folder"
            )

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the run for this process. The lock dies with its owner, so a killed run can be continued at once."""
        with open(self.path / "lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                status = self.status()
                who = f" (process {status.pid} on {status.host})" if status else ""
                raise UserError(f"{self.path}: another process{who} is training this run; leaving it alone") from None
            except OSError as error:
                raise UserError(f"{self.path}: this file system cannot lock files ({error.strerror})") from None
            self._clear_up()
            yield

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
            aside.unlink()
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
        before: Status | None,
        hear: Callable[[Event], None] = lambda event: None,
    ):
        """`hear` is called with each event once it is written; what it raises is raised."""
        self.folder, self.steps, self.hear = folder, steps, hear
        self.attempt = before.attempt + 1 if before else 1
        self.step = before.step if before else 0
        """the last update that is done"""
        self.rate: float | None = None
        """updates per second since the metrics before, without evaluations"""
        self._beaten = 0.0
        self._clock = (0.0, 0)

    def begin(self, step: int, environment: Mapping[str, str]) -> None:
        """Everything is loaded; training goes on from `step`."""
        self.step = step
        self.write("attempt", step=step, host=socket.gethostname(), pid=os.getpid(), environment=dict(environment))
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

    def status(self, state: State, reason: str | None = None) -> None:
        """Replace the run's status."""
        self._beaten = time.monotonic()
        status = Status(
            state=state,
            step=self.step,
            steps=self.steps,
            attempt=self.attempt,
            reason=reason,
            heartbeat=time.time(),
            host=socket.gethostname(),
            pid=os.getpid(),
            updates_per_s=self.rate,
        )
        write_text(self.folder.path / "status.json", status.model_dump_json() + "\n")

    def end(self, state: State, reason: str | None = None) -> None:
        """The last words of an attempt."""
        self.write("end", step=self.step, state=state, reason=reason)
        self.status(state, reason)

    def fail(self, error: BaseException) -> None:
        """Write the error down as the reason. On a full disk even that may fail: then the error itself must do."""
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        with suppress(OSError):
            self.end("stopped" if isinstance(error, KeyboardInterrupt) else "failed", reason)


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
