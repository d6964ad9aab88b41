"""What runs inside a cluster's job: small functions of plain arguments, which submitit calls by their names."""

import json
import os
import signal
import socket
import time
from pathlib import Path

from rich.console import Console

from mac_bench import doctor
from mac_bench.errors import UserError
from mac_bench.files import write_text
from mac_bench.overview import status_of
from mac_bench.record import JOB, RunFolder
from mac_bench.signals import listening
from mac_bench.suite import Member
from slurm import cluster, data, ends, submission, tend
from slurm.ends import End
from slurm.places import places
from slurm.policy import give_up
from slurm.pool import Queue, train_command
from slurm.profile import Profile
from slurm.submission import Submission

SLACK_S = 90
"""a signal can come so much before its time"""
LATE_S = 10.0


def work(root: str, name: str, array: int, element: int) -> None:
    """Train the runs of one element of an array, all at the same time, until they are done or the job has to end.

    Leaves with exit code 1 where one of them failed.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # before and after the runs it would have submitit's handler
    sent = submission.read(Path(root), name)
    os.environ[JOB] = own = _own_id()
    log = submission.log(Path(root), name, own)
    profile = sent.arrays[array].profile
    folders = _readable(Path(root), sent.arrays[array].packs[element])
    _conclude_last_time(folders, own, log)
    folders = _mine(Path(root), sent, profile, folders)
    members = [Member(folder.config().agent, folder.config()) for folder in folders]
    options = sent.options
    command = train_command(
        Path(options.data), options.eval_workers, options.videos, options.track, profile.checkpoint_minutes
    )
    queue, began = Queue(members, Path(root), command, Console(width=200), patient=True), time.monotonic()
    with listening(queue.stop, (signal.SIGUSR2, signal.SIGTERM)):
        queue.go(places(len(members)) if members else [])
    left = [folder for folder in folders if _unfinished(queue, folder.path.name)]
    if queue.signal is not None:
        near = time.monotonic() - began > 60 * profile.time_minutes - profile.signal_s - SLACK_S
        end = _why(queue.signal, near, log)
        print(f"mac-bench: {end.reason}; {len(left)} of {len(folders)} runs to be continued", flush=True)
        for folder in left:
            _conclude(folder, own, end)
        if end.cause in ("time limit", "preempted"):
            _queue_again(Path(root), sent, own, profile, left)
    else:  # what asks for more memory, or less company
        _resubmit(Path(root), [run for run, result in queue.results.items() if result.state == "failed"])
    if any(result.state == "failed" for result in queue.results.values()) and queue.signal is None:
        raise SystemExit(1)


def _mine(root: Path, sent: Submission, profile: Profile, folders: list[RunFolder]) -> list[RunFolder]:
    """Runs that this job is to train: all of its own, the first time. A job that comes again leaves those that failed
    for good, or have been sent elsewhere since, and sends on those that it is too small for."""
    if not int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        return folders
    where = submission.latest(submission.everything(root))
    known = [folder for folder in folders if where[folder.path.name][0].id == sent.id]
    stay, go = _sorted(sent, profile, known)
    _resubmit(root, go)
    return stay


def _sorted(sent: Submission, profile: Profile, folders: list[RunFolder]) -> tuple[list[RunFolder], list[str]]:
    """Runs that this job may continue, and those that ask for more than it has; the others are given up."""
    stay, go = [], []
    for folder in folders:
        wanted = tend.ask(sent, folder)
        if not wanted.decision.go_on:
            give_up(folder, wanted.decision.reason)
        elif wanted.wanted.memory_gb > profile.memory_gb or wanted.wanted.runs_per_job < profile.runs_per_job:
            go.append(folder.path.name)
        else:
            stay.append(folder)
    return stay, go


def _resubmit(root: Path, runs: list[str]) -> None:
    if runs:
        try:
            tend.resubmit(root, runs)
        except UserError as error:  # the keeper, `watch` or the next `submit` does it
            print(f"mac-bench: {error}", flush=True)


def _readable(root: Path, runs: list[str]) -> list[RunFolder]:
    """Folders of these runs; one that is damaged stops no other."""
    found = []
    for run in runs:
        try:
            RunFolder(root / run).config()
            found.append(RunFolder(root / run))
        except UserError as error:
            print(f"mac-bench: {error}", flush=True)
    return found


def keep(root: str) -> None:
    """Continue what died with its job; done once nothing is undecided. Files on a network disk come late."""
    while True:
        try:
            tended = tend.tend(Path(root))
        except UserError as error:  # others submit just now; the job's own time limit ends this
            print(f"mac-bench: {error}", flush=True)
        else:
            print(f"mac-bench: {tended}", flush=True)
            if not tended.late:
                return
        time.sleep(LATE_S)


def make_data(root: str, name: str, array: int, element: int) -> None:
    """Make the shards of data of one element of an array."""
    data.make(Path(root), submission.read(Path(root), name), array, element)


def finish_data(root: str, name: str) -> None:
    """Put the manifest of data together; leaves with exit code 1 where shards are missing."""
    print(f"mac-bench: {data.finish(Path(root), submission.read(Path(root), name))} is complete", flush=True)


def probe(root: str, answer: str) -> None:
    """Show that jobs find the folder of runs and can begin to train: `slurm/probe.py` waits for the answer."""
    found = doctor.jax()
    write_text(Path(root) / answer, json.dumps({"host": socket.gethostname(), "jax": found.text}) + "\n")


def _unfinished(queue: Queue, run: str) -> bool:
    """Whether a run had no fair chance: what fails after a signal does so because of it."""
    state = queue.results[run].state
    return state in ("stopped", "waiting") or (state == "failed" and run in queue.interrupted)


def _own_id() -> str:
    array, element = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{element}" if array else os.environ["SLURM_JOB_ID"]


def _why(number: int, near_limit: bool, log: Path) -> End:
    """What a signal means. USR2 is what we asked for; SIGTERM comes with a word in the job's output."""
    if number == signal.SIGUSR2:
        return ends.TIME_LIMIT if near_limit else ends.PREEMPTED
    word = ends.last_word(log)
    if cluster.restarts(os.environ["SLURM_JOB_ID"]) > int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        # it will come again, whatever else its output says
        return word if word and word.cause != "ordered" else ends.REQUEUED
    return word or End("stopped", "signalled", "SIGTERM")


def _conclude_last_time(folders: list[RunFolder], own: str, log: Path) -> None:
    """Runs that this job left without last words when it was queued again. Whatever else does that says so in the
    job's output, or gives its processes the time to say it: so without a word it was the node."""
    word = ends.last_word(log, start=2)
    end = word if word and word.cause != "ordered" else ends.NODE_FAILED
    for folder in folders:
        status = status_of(folder)
        if status and status.job == own and status.state in ("running", "lost"):
            folder.conclude(status.attempt, end.state, end.reason, end.cause)


def _conclude(folder: RunFolder, own: str, end: End) -> None:
    status = status_of(folder)
    if status and status.job == own and status.state in ("running", "stopped", "failed"):
        folder.conclude(status.attempt, end.state, end.reason, end.cause)
    if end.state == "cancelled":  # whoever did it wants no other job to go on
        folder.give_order("cancel", end.reason)


def _queue_again(root: Path, sent: Submission, own: str, profile: Profile, left: list[RunFolder]) -> None:
    """This job under its own id, or a fresh one where that is not allowed, for those of its runs that are to go on."""
    stay, go = _sorted(sent, profile, left)
    _resubmit(root, go)
    if not stay:
        return
    problems = cluster.tell("requeue", [own]) if profile.requeue else ["the profile says requeue: false"]
    if problems:
        print(f"mac-bench: not queued again ({problems[0]}); a fresh job continues", flush=True)
        _resubmit(root, [folder.path.name for folder in stay])
