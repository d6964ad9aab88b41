"""What data the runs of a suite need, and whether they can be trained on them: asked before anything is queued."""

from collections.abc import Iterable
from pathlib import Path

from mac_bench import prepared, sources, tasks
from mac_bench.errors import UserError
from mac_bench.suite import Member

Needs = dict[str, dict[str, bool]]
"""data set -> its tasks -> whether data must have been prepared for it, being too large to load"""


def of(members: Iterable[Member]) -> Needs:
    """What these runs need."""
    found: Needs = {}
    for run in (member.run for member in members):
        own = found.setdefault(run.dataset, {})
        own[run.task] = own.get(run.task, False) or run.resident is not None
    return found


def left_out(members: list[Member], data: Path) -> tuple[list[Member], dict[str, str]]:
    """The members to run, and the data sets that are not there of those that a suite's optional tasks need: why."""
    optional = {member.run.dataset: member.optional for member in members if member.optional}
    reasons = {name: reason for name, reason in optional.items() if not _begun(name, data)}
    kept = [member for member in members if not (member.optional and member.run.dataset in reasons)]
    lines = {}
    for name, reason in reasons.items():
        number = sum(1 for member in members if member.optional and member.run.dataset == name)
        lines[name] = f"{name}: left out with its {number} run{'s' * (number != 1)}: {reason}"
    return kept, lines


def absent(needs: Needs, data: Path) -> dict[str, str]:
    """Data sets that are not there, not whole, or of another environment than a task, and what to do about each."""
    found = {}
    for name, own in needs.items():
        try:
            tasks.files(name, data)
            for task in own:
                tasks.check_data(tasks.find(task), name, data)
        except UserError as error:
            found[name] = str(error)
            official = tasks.find(next(iter(own))).dataset
            if (
                name not in (official, *sources.SOURCES)
                and not _begun(name, data)
                and official.startswith(tasks.GENERATED)
            ):
                make = f"mac-bench data generate {official} --name {name} --episodes N"
                found[name] = f"no data '{name}' in {data}; make it with `{make}`, or put files there"
    return found


def missing(needs: Needs, data: Path, suite: Path) -> dict[str, str]:
    """What is `absent`, and what has still to be prepared because it is too large to be loaded."""
    found = absent(needs, data)
    for name in [name for name in needs if name not in found]:
        try:
            if unprepared := _unprepared(name, needs[name], data):
                advice = f"prepare it with `mac-bench data prepare {suite}`"
                found[name] = f"{name}: not prepared for {', '.join(unprepared)}, and too large to load; {advice}"
        except UserError as error:  # what was prepared is damaged
            found[name] = str(error)
    return found


def require(members: list[Member], data: Path, suite: Path) -> None:
    """Raises UserError where data are missing or not prepared, before anything is queued."""
    if problems := missing(of(members), data, suite):
        first, *more = problems.values()
        raise UserError(first + (f" (and {len(more)} more; see `mac-bench plan {suite}`)" if more else ""))


def _begun(name: str, data: Path) -> bool:
    """Whether there is anything of a data set."""
    try:
        tasks.files(name, data)
        return True
    except UserError:
        return (data / name).exists() or (data / f"{name}.npz").exists()


def _unprepared(name: str, own: dict[str, bool], data: Path) -> list[str]:
    """Tasks for which data of .npz files have to be prepared and are not."""
    wanted = [task for task, must in own.items() if must]
    pairs = tasks.files(name, data) if wanted else []
    if not pairs or pairs[0][0].suffix != ".npz":
        return []
    return [task for task in wanted if prepared.find(task, name, data, pairs) is None]
