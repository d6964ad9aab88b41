"""What was sent where: one folder for each submission, beside the run folders.

runs/jobs/<id>/submission.json    which runs are in which job, and all that a job needs to know
runs/jobs/<id>/log/               what sbatch was given, and what jobs print
"""

import fcntl
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pydantic

from mac_bench.config import Resources
from mac_bench.errors import UserError
from mac_bench.files import write_text
from slurm.profile import Profile


class Array(pydantic.BaseModel):
    """A job array whose elements ask for the same; alone in it, an element is a plain job."""

    profile: Profile
    packs: list[list[str]]
    """ids of the runs of each element"""
    at_a_time: int = 1
    """elements that may run at the same time"""
    exclude: str | None = None
    """a node that is not to be used"""
    job: str | None = None
    """None: not accepted by the cluster"""

    def element(self, number: int) -> str | None:
        """Id of an element, as the cluster has it."""
        return f"{self.job}_{number}" if self.job and len(self.packs) > 1 else self.job

    def elements(self) -> Iterator[tuple[str, list[str]]]:
        """Id and runs of each element that was accepted."""
        for number, pack in enumerate(self.packs):
            name = self.element(number)
            if name is not None:
                yield name, pack


class Options(pydantic.BaseModel):
    """How runs are trained, beside what makes them what they are."""

    data: str
    """absolute path"""
    eval_workers: int = 0
    videos: int = 0
    track: list[str] = []


class Submission(pydantic.BaseModel):
    """Runs that were given to a cluster, or to a queue on some machine."""

    id: str
    suite: str
    place: Literal["slurm", "local"]
    time: float
    host: str
    pid: int
    """of the local queue, or of whoever submitted"""
    options: Options
    code: str = ""
    """the snapshot that its jobs run from"""
    profile: Profile | None = None
    """as it was named; that of each array has what its runs ask for"""
    resources: dict[str, Resources] = {}
    """of the runs that ask for something of their own"""
    arrays: list[Array] = []
    runs: list[str] = []
    """of a local queue"""
    making: dict[str, Any] = {}
    """what `generate.generate` is given, where data are made: its runs are then numbers of shards"""
    keepers: list[str] = []
    """jobs that continue what died"""

    def all_runs(self) -> Iterator[str]:
        """Ids of all its runs."""
        yield from self.runs
        for array in self.arrays:
            for pack in array.packs:
                yield from pack


@contextmanager
def working(root: Path, submission: Submission) -> Iterator[None]:
    """Show that a local queue works through its runs: for as long as this process lives, and no longer."""
    write(root, submission)
    with open(folder(root, submission.id) / "alive", "a") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)  # waits for whoever looks just now
        yield


def works(root: Path, submission: Submission) -> bool:
    """Whether a local queue still does."""
    try:
        with open(folder(root, submission.id) / "alive") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def new(suite: str, place: Literal["slurm", "local"], options: Options) -> Submission:
    """One without runs, for this process."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    here = {"time": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
    return Submission(id=name, suite=suite, place=place, options=options, **here)


def folder(root: Path, name: str) -> Path:
    """Where a submission is kept."""
    return root / "jobs" / name


def log(root: Path, name: str, job: str) -> Path:
    """What one of its jobs prints, all its starts one after the other."""
    return folder(root, name) / "log" / f"{job}_0_log.out"


def write(root: Path, submission: Submission) -> None:
    """Replace what is known of it. Raises UserError where nothing can be written."""
    path = folder(root, submission.id)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_text(path / "submission.json", submission.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot write there ({error.strerror}); choose another --runs") from None


def read(root: Path, name: str) -> Submission:
    """Raises UserError where there is none."""
    path = folder(root, name) / "submission.json"
    try:
        return Submission.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no submission ({error})") from None


def everything(root: Path) -> list[Submission]:
    """All of them, oldest first. A file that cannot be read is passed over: it may be of a later version."""
    found: list[Submission] = []
    for path in sorted((root / "jobs").glob("*/submission.json")):
        try:
            found.append(read(root, path.parent.name))
        except UserError:
            continue
    return sorted(found, key=lambda sent: sent.time)  # names are of the local clock, which jumps and differs by host


def latest(submissions: Iterable[Submission]) -> dict[str, tuple[Submission, str | None]]:
    """Run -> the submission that had it last, and its job there: None in a local queue, or where none was accepted."""
    found: dict[str, tuple[Submission, str | None]] = {}
    for submission in submissions:
        for run in submission.all_runs():
            found[run] = submission, None
        for array in submission.arrays:
            for name, pack in array.elements():
                found |= dict.fromkeys(pack, (submission, name))
    return found


@contextmanager
def lock(root: Path, wait_s: float = 60.0) -> Iterator[None]:
    """One submits at a time: what another has just sent must not be sent again. Raises UserError after `wait_s`."""
    (root / "jobs").mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + wait_s
    with open(root / "jobs" / "lock", "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise UserError(f"{root}: another process has been submitting for {wait_s:.0f} s; wait") from None
                time.sleep(0.2)
            except OSError:  # a file system without locks: claims still keep two jobs off one run
                break
        yield
