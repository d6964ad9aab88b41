"""What the user wants of runs: orders go into their folders, where whoever trains them looks; jobs in which nobody is
left to train are told too."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from mac_bench.overview import status_of
from mac_bench.record import RunFolder
from slurm import cluster, submission, tend


class Done(NamedTuple):
    """What became of an order."""

    runs: int
    continued: int = 0
    """runs that were submitted again"""
    here: int = 0
    """runs that a queue on some machine had: only there can they be continued"""
    problems: tuple[str, ...] = ()
    """what SLURM said against it"""


def stop(root: Path, runs: Iterable[str], wish: Literal["hold", "cancel"], reason: str) -> Done:
    """Hold or cancel runs. Jobs that wait with nobody else in them are held or cancelled with them; in one that runs,
    the runs save and end by themselves."""
    runs = list(runs)
    for run in runs:
        RunFolder(root / run).give_order(wish, reason)
    problems = cluster.tell(wish, _waiting(root, runs))
    return Done(len(runs), problems=tuple(problems))


def go(root: Path, runs: Iterable[str], reason: str) -> Done:
    """Let runs go on: their jobs are released, and those without a job get a new one, as the last one was."""
    runs = list(runs)
    with submission.lock(root):  # or whoever tends now sees a cancelled job, and cancels again
        for run in runs:
            RunFolder(root / run).give_order("go", reason)
        problems = cluster.tell("release", _waiting(root, runs, held=True))
        where = submission.latest(submission.everything(root))
        mine = [run for run in runs if run in where and where[run][0].place == "slurm"]
        seen = tend.look(root, mine)
        free = [run for run in mine if seen[run].state not in ("queued", "starting", "running", "finished")]
        done = tend.send_again(root, free) if free else tend.Tended()
    refused = [done.refused] if done.refused else []
    return Done(len(runs), done.continued, len(runs) - len(mine), (*problems, *refused))


def _waiting(root: Path, runs: list[str], held: bool = False) -> list[str]:
    """Jobs that wait, and whose every run is one of these or needs nothing any more."""
    chosen = set(runs)
    elements: dict[str, list[str]] = {}
    for sent in submission.everything(root):
        for array in sent.arrays:
            elements |= {name: pack for name, pack in array.elements() if chosen & set(pack)}
    if not elements or not cluster.available():
        return []
    jobs = cluster.jobs(elements)
    found = []
    for name, pack in elements.items():
        job = jobs.get(name)
        if job is None or job.phase != "waiting" or (held and "Held" not in job.reason):
            continue
        others = [run for run in pack if run not in chosen]
        if held or all(_needs_nothing(RunFolder(root / run)) for run in others):
            found.append(name)
    return found


def _needs_nothing(folder: RunFolder) -> bool:
    status = status_of(folder)
    return folder.kept() is not None or bool(status and status.state == "finished")
