"""What to do about a run whose attempt ended: a function of its log alone, so that nothing has to be remembered."""

from collections.abc import Iterable
from itertools import takewhile
from typing import NamedTuple

from mac_bench.overview import status_of
from mac_bench.record import CHECKPOINTS, Cause, Event, Order, RunFolder

SAME_ERROR = 2
"""so many attempts in a row with the same error, and it is a defect"""
PATIENCE = 3
"""attempts in a row that may begin at the same update"""
PATIENCE_ABROAD = 10
"""the same where the run had no part in its end"""
ABROAD: set[Cause] = {"preempted", "requeued", "node failed", "job lost", "signalled"}
MEMORY_FACTOR = 1.5
MOST_RAISES = 3
"""of memory, before it is given up"""


class Attempt(NamedTuple):
    """One try at a run."""

    number: int
    start: int
    """the update it began after"""
    time: float
    node: str | None = None
    cause: Cause | None = None
    """None: it has not ended, or without a word"""
    reason: str = ""
    final: bool = False
    """somebody decided that there is to be no other"""
    began: bool = True
    """whether it came so far as to load everything"""


class Decision(NamedTuple):
    """What is next for a run that is not finished."""

    go_on: bool
    reason: str
    """why not, or what has changed"""
    memory: float = 1.0
    """times the memory that its profile asks for"""
    sharing: float = 1.0
    """times the runs that its profile has on one job; less than one half: alone"""
    avoid: str | None = None
    """the node that failed under it"""


def attempts(events: Iterable[Event]) -> list[Attempt]:
    """The attempts that a log tells of, in order. One that ended before it could begin starts where the last ended."""
    found: dict[int, Attempt] = {}
    for event in events:
        if event["kind"] == "attempt":
            found[event["attempt"]] = Attempt(event["attempt"], event["step"], event["time"], event.get("node"))
        elif event["kind"] == "end" and event["state"] != "finished":
            stillborn = Attempt(event["attempt"], event["step"], event["time"], began=False)
            before = found.get(event["attempt"], stillborn)
            words = {"cause": event.get("cause"), "reason": event["reason"] or "", "final": event.get("final", False)}
            found[event["attempt"]] = before._replace(**words)
    return [found[number] for number in sorted(found)]


def forgiven(events: Iterable[Event], order: Order | None) -> list[Event]:
    """The events since the user last said that all is forgiven."""
    since = order.time if order and not order.keeps else 0.0
    return [event for event in events if event["time"] >= since]


def judge(folder: RunFolder) -> Decision:
    """What is next for a run that is not finished, by what its folder tells."""
    tried = attempts(forgiven(folder.read(), folder.order()))
    newest = folder.path / CHECKPOINTS[0]
    progressed = bool(tried) and newest.exists() and newest.stat().st_mtime > tried[-1].time
    return decide(tried, progressed)


def give_up(folder: RunFolder, reason: str) -> bool:
    """There is to be no other attempt."""
    status = status_of(folder)
    if status is None or (status.state == "failed" and status.reason == reason):
        return False
    return folder.conclude(status.attempt, "failed", reason, status.cause or "error", True)


def decide(tried: list[Attempt], progressed: bool = False) -> Decision:
    """Whether a run is to be tried again, and how differently, given its attempts so far, all of which have ended.

    `progressed` says that the last one saved a checkpoint.
    """
    if not tried:
        return Decision(True, "")
    last = tried[-1]
    if last.final or last.cause in ("refused", "ordered"):
        return Decision(False, last.reason)
    if last.cause == "error":
        same = len(list(takewhile(lambda attempt: attempt.reason == last.reason, reversed(tried))))
        if same >= SAME_ERROR:
            return Decision(False, f"the same error {same} times: {last.reason}")
    memory = sum(attempt.cause == "out of memory" for attempt in tried)
    crowded = sum(attempt.cause == "out of GPU memory" for attempt in tried)
    if max(memory, crowded) > MOST_RAISES:
        return Decision(False, f"{last.cause} with all that may be asked for: {last.reason}")
    stuck = [] if progressed else _stuck(tried)
    own = [attempt for attempt in stuck if not _abroad(attempt)]
    if len(own) >= PATIENCE + memory + crowded or len(stuck) >= PATIENCE_ABROAD + memory + crowded:
        return Decision(False, f"no progress in {len(stuck)} attempts: {last.reason or last.cause or 'no last words'}")
    avoid = last.node if last.cause == "node failed" else None
    return Decision(True, last.cause or "", MEMORY_FACTOR**memory, 0.5**crowded, avoid)


def _stuck(tried: list[Attempt]) -> list[Attempt]:
    """Attempts since one last started further on than all before."""
    furthest, first = -1, 0
    for number, attempt in enumerate(tried):
        if attempt.start > furthest:
            furthest, first = attempt.start, number
    return tried[first:]


def _abroad(attempt: Attempt) -> bool:
    """Whether the run had no part in its end. A time limit that comes while it still loads says nothing either."""
    return attempt.cause in ABROAD or (attempt.cause == "time limit" and not attempt.began)
