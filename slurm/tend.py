"""Looks after runs: what state each is in, by all that can be known, and what died is concluded and continued.

The order of truth: the run's own last words, squeue, sacct, the age of its heartbeat. What nobody knows is unknown.
"""

import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mac_bench.errors import UserError
from mac_bench.files import write_text
from mac_bench.overview import status_of
from mac_bench.record import Order, RunFolder, Status, standing
from slurm import cluster, ends, submission
from slurm.cluster import Job
from slurm.policy import give_up, judge
from slurm.submission import Submission
from slurm.submit import Ask, Sent, send

GRACE_S = float(os.environ.get("MAC_BENCH_GRACE_S", "90"))
"""a network disk may show a file so late: before, a run whose job is over has not died"""

IDLE = ("waiting", "stopped")
GOING = ("queued", "starting", "running", "ending")
SILENT = "SLURM gives no answer"


class Seen(NamedTuple):
    """A run as it is known from everywhere."""

    state: str
    """a State, or `queued`, `starting`, `ending`, `unknown`"""
    reason: str = ""
    job: str | None = None
    dead: Job | None = None
    """its job, where that is over and the run is neither done nor concluded"""
    free: bool = False
    """no job has it any more: it may be submitted again"""

    @property
    def open(self) -> bool:
        """Whether something is still to come of it without the user."""
        again = self.free and self.state in (*IDLE, "lost")
        return self.state in GOING or again or self.dead is not None or self.reason == SILENT


class Tended(NamedTuple):
    """What was done."""

    continued: int = 0
    given_up: int = 0
    late: int = 0
    """not decided yet: their last words may still come"""
    refused: str | None = None
    """what the cluster said against continuing"""

    def __str__(self) -> str:
        words = f"{self.continued} continued, {self.given_up} given up, {self.late} undecided"
        return f"{words}; {self.refused}" if self.refused else words


def look(root: Path, runs: Iterable[str]) -> dict[str, Seen]:
    """The state of each run: reads its folder, and asks SLURM one question where any has a job there."""
    known = submission.everything(root)
    where = submission.latest(known)
    on_cluster = submission.latest(sent for sent in known if sent.place == "slurm")
    here = submission.latest(sent for sent in known if sent.place == "local" and submission.works(root, sent))
    words = {run: _words(RunFolder(root / run), run in where and where[run][0].place == "slurm") for run in runs}
    open_ = [run for run, (status, order) in words.items() if run in where and not _settled(status, order)]
    names = {name for run in open_ if run in on_cluster and (name := on_cluster[run][1])}
    jobs, silent = _ask(names)
    found = {}
    for run, (status, order) in words.items():
        sent, name = where.get(run, (None, None))
        if run not in open_ or sent is None:
            found[run] = _alone(status, order, name)
        elif sent.place == "local":
            seen = _alone(status, order, None)
            before = on_cluster[run][1] if run in on_cluster else None
            job = jobs.get(before) if before else None
            if seen.state in (*IDLE, "failed") and run in here:
                seen = Seen("queued", f"by process {here[run][0].pid} on {here[run][0].host}")
            elif before and job and job.phase != "over":  # from before it was begun here, and there it goes on
                seen = _in_job(status, order, before, job, silent)
            found[run] = seen
        elif name is None:
            found[run] = _alone(status, order, None)._replace(free=True)
        else:
            job = jobs.get(name) or _removed(root, sent, name, jobs)
            seen = _in_job(status, order, name, job, silent)
            if seen.state == "unknown" and not silent and _begun(root, sent, name):
                seen = seen._replace(dead=Job(""))  # nobody knows how, but it is over: it is no longer in the queue
            found[run] = seen
    return found


def tend(root: Path) -> Tended:
    """Write down how runs ended whose jobs are over, and submit again what is to go on. Safe to call at any time."""
    with submission.lock(root):
        seen, ended, late = settle(root)
        done = send_again(root, [*ended, *(run for run, each in seen.items() if each.free)])
        return done._replace(late=late)


def settle(root: Path) -> tuple[dict[str, Seen], list[str], int]:
    """Write down how runs ended whose jobs are over, for a caller that has the lock.

    Returns how all runs on the cluster were seen before, which of them ended, and of how many that is not sure yet.
    """
    where = submission.latest(submission.everything(root))
    seen = look(root, [run for run, (sent, _) in where.items() if sent.place == "slurm"])
    dead = {run: each.dead for run, each in seen.items() if each.dead is not None}
    certain = {run: job for run, job in dead.items() if _certain(root, where[run], run, job)}
    ended = [run for run, job in certain.items() if _conclude(root, where[run], run, job)]
    return seen, ended, len(dead) - len(certain)


def resubmit(root: Path, runs: Sequence[str]) -> Tended:
    """Submit again those of these runs that are to go on, as they were submitted before, with what was learned."""
    with submission.lock(root):
        return send_again(root, runs)


def send_again(root: Path, runs: Sequence[str]) -> Tended:
    """The same, for a caller that has the lock."""
    where = submission.latest(submission.everything(root))
    groups: dict[str, list[Ask]] = {}
    given_up = 0
    for run in runs:
        folder, sent = RunFolder(root / run), where[run][0]
        status, order = status_of(folder), folder.order()
        if sent.profile is None or _settled(status, order):
            continue
        wanted = ask(sent, folder)
        if wanted.decision.go_on:
            groups.setdefault(sent.id, []).append(wanted)
        elif status and status.state != "failed":
            given_up += give_up(folder, wanted.decision.reason)
    sent = [_again(root, submission.read(root, name), asks) for name, asks in groups.items()]
    refused = next((each.refused for each in sent if each.refused), None)
    return Tended(sum(each.accepted for each in sent), given_up, 0, refused)


def ask(sent: Submission, folder: RunFolder) -> Ask:
    """What a run of a submission is to get at its next attempt, by what its attempts have taught."""
    assert sent.profile is not None
    own = sent.resources.get(folder.path.name)
    return Ask(folder.path.name, sent.profile.with_(own) if own else sent.profile, judge(folder))


def _again(root: Path, before: Submission, asks: list[Ask]) -> Sent:
    fresh = submission.new(before.suite, "slurm", before.options)
    kept = {"code": before.code, "profile": before.profile, "resources": before.resources}
    fresh = fresh.model_copy(update=kept)
    try:
        return send(fresh, root, asks)
    except UserError as error:  # SLURM is silent: they stay free
        return Sent(fresh, str(error))


def _words(folder: RunFolder, on_cluster: bool) -> tuple[Status | None, Order | None]:
    """What a run said last, and what was ordered. On a cluster one that failed and is to be tried again has stopped."""
    status, order = status_of(folder), folder.order()
    failed = status is not None and status.state == "failed" and not (order and order.keeps)
    if on_cluster and status and failed and judge(folder).go_on:
        status = status.model_copy(update={"state": "stopped"})
    return status, order


def _ask(names: set[str]) -> tuple[dict[str, Job], bool]:
    """What SLURM knows of these jobs, and whether it gave no answer at all."""
    try:
        return cluster.jobs(names), False
    except UserError:
        return {}, True


def _removed(root: Path, sent: Submission, name: str, jobs: dict[str, Job]) -> Job | None:
    """An element of an array that is gone without output, while SLURM knows others of it: somebody took it out of the
    queue, of which SLURM keeps no record."""
    return Job("CANCELLED") if name.split("_")[0] in jobs and not _begun(root, sent, name) else None


def _begun(root: Path, sent: Submission, name: str) -> bool:
    """Whether a job has printed anything, or could have."""
    return submission.log(root, sent.id, name).exists()


def _settled(status: Status | None, order: Order | None) -> bool:
    """Whether nothing is to be done about a run, whatever its job does. A failed one may still be given more memory, or
    be forgiven."""
    if status and status.state == "finished":
        return True
    return bool(order and order.keeps) and not (status and status.state in ("running", "lost"))


def _alone(status: Status | None, order: Order | None, job: str | None) -> Seen:
    """By its folder alone."""
    state, reason = standing(status, order)
    return Seen(state, reason, job)


def _in_job(status: Status | None, order: Order | None, name: str, job: Job | None, silent: bool) -> Seen:
    """By its folder and its job."""
    alone = _alone(status, order, name)
    here = status is not None and status.job == name
    if job and job.phase == "waiting":
        left = alone.state == "running" and here
        return Seen("queued", job.reason, name) if left or alone.state in (*IDLE, "lost") else alone
    if job and job.phase == "running":
        if alone.state == "lost" and here:  # it still has the job: nobody else may train it
            return Seen("running", "no sign of life, but its job runs", name)
        return Seen("starting", f"on {job.node}", name) if alone.state in (*IDLE, "lost") else alone
    if silent:
        return Seen("unknown", SILENT, name) if alone.state in (*IDLE, "lost") else alone  # it may be in the queue
    if here and status and status.state not in ("running", "lost"):
        return alone._replace(free=True)  # it said how it ended, or somebody has said it
    if alone.state == "running" and not here:
        return alone  # somebody trains it by hand
    if job:
        return Seen("ending", f"its job is over ({job.state})", name, dead=job)
    if here and alone.state == "lost":
        return alone._replace(dead=Job(""))
    return alone if here else Seen("unknown", f"SLURM knows nothing of job {name}", name)


def _certain(root: Path, where: tuple[Submission, str | None], run: str, job: Job) -> bool:
    """Whether a job has been over for so long that a run's last words in it would be here."""
    status = status_of(RunFolder(root / run))
    if job.state == "" or (job.state == "CANCELLED" and (status is None or status.job != where[1])):
        return True
    path = submission.folder(root, where[0].id) / "over.json"
    since: dict[str, float] = {}
    with suppress(OSError, ValueError):
        since = json.loads(path.read_text())
    name = where[1] or ""
    if name not in since:
        since[name] = time.time()
        write_text(path, json.dumps(since) + "\n")
    return time.time() - since[name] >= GRACE_S


def _conclude(root: Path, where: tuple[Submission, str | None], run: str, job: Job) -> bool:
    """The last words on a run whose job is over, and on one that never began in it. False where another process has it,
    or its folder is damaged or not ours: that keeps no other run waiting."""
    try:
        return _last_words(root, where, run, job)
    except (UserError, OSError):
        return False


def _last_words(root: Path, where: tuple[Submission, str | None], run: str, job: Job) -> bool:
    sent, name = where
    folder = RunFolder(root / run)
    status = status_of(folder)
    here = status is not None and status.job == name
    end = ends.of(job, submission.log(root, sent.id, name or ""), here)
    if end.state == "cancelled":
        folder.give_order("cancel", end.reason)
    if status and here:
        return folder.conclude(status.attempt, end.state, end.reason, end.cause)
    return end.state == "cancelled" or folder.bury(folder.config().steps, end.state, end.reason, end.cause, name)
