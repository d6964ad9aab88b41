"""Makes data on a cluster: shards become elements of a job array, and a last small job puts the manifest together.

A shard is a function of the parameters and its number alone, so the files are those that one machine would make. What
died is made by repeating the command.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mac_bench import generate
from mac_bench.errors import UserError
from mac_bench.workers import spread
from slurm import cluster, snapshot, submission, submit
from slurm.profile import Profile
from slurm.submission import Submission
from slurm.tend import GRACE_S

LATE_S = 2.0


class Sending(NamedTuple):
    """What became of the shards that were missing."""

    submitted: int
    in_hands: int
    """that jobs of an earlier call will make or are making"""
    missing: int
    """of which neither is true: the cluster refused them"""
    jobs: list[str]
    refused: str | None = None


def send(root: Path, asked: Profile, settings: dict[str, Any]) -> Sending | None:
    """Submit the shards that are missing in the data folder `root`; None where none is.

    `settings` are those of `generate.generate`. Raises UserError as that does, and where there is no cluster.
    """
    missing = generate.missing(root=root, **settings)
    if not missing:
        return None
    cluster.require()
    name = settings["name"] or settings["dataset"]
    fresh = submission.new(f"data-{name}", "slurm", submission.Options(data=str(root)))
    # what continues what died is the next call; one job at the end is enough
    fresh.profile = asked.model_copy(update={"keeper": False})
    fresh.making = settings
    fresh.code = str(snapshot.take(root))
    with submission.lock(root):
        busy = _in_hands(root, fresh.suite)
        asks = [submit.Ask(str(number), fresh.profile) for number in missing if number not in busy]
        if not asks:
            return Sending(0, len(busy), 0, [])
        sent = submit.send(fresh, root, asks, "make_data")
        jobs = [array.job for array in fresh.arrays if array.job]
        if jobs:
            last = submit.keeper_of(asked).model_copy(update={"time_minutes": asked.time_minutes})
            fresh.keepers = [submit.single(fresh, root, last, "finish_data", (str(root), fresh.id), jobs)]
            submission.write(root, fresh)
    return Sending(sent.accepted, len(busy), len(asks) - sent.accepted, jobs, sent.refused)


def _in_hands(root: Path, suite: str) -> set[int]:
    """Shards that a job has which waits or runs."""
    where = submission.latest(sent for sent in submission.everything(root) if sent.suite == suite)
    jobs = cluster.jobs({job for _, job in where.values() if job})
    return {int(shard) for shard, (_, job) in where.items() if job in jobs and jobs[job].phase != "over"}


def make(root: Path, sent: Submission, array: int, element: int) -> None:
    """Make the shards of one element of an array, side by side."""
    numbers = [int(number) for number in sent.arrays[array].packs[element]]
    for number, _ in spread(partial(generate.make_part, root, sent.making), numbers, len(numbers)):
        print(f"mac-bench: shard {number} is there", flush=True)


def finish(root: Path, sent: Submission) -> Path:
    """Write the manifest of data whose shards are all there. Files on a network disk come late. Raises UserError where
    some are missing."""
    end = time.monotonic() + GRACE_S
    while missing := generate.missing(root=root, **sent.making):
        if time.monotonic() > end:
            raise UserError(f"{len(missing)} shards are missing; repeat the call that submitted them")
        time.sleep(LATE_S)
    with submission.lock(root):
        return generate.generate(root=root, **sent.making)
