"""Processes of this machine, known by what they run and what stands in their environment; never by number alone."""

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
UNSEEN = (FileNotFoundError, ProcessLookupError, PermissionError)
"""what reading about a process raises that is gone, or somebody else's"""

Ours = Callable[[int], bool]
"""whether a process is one of those that are meant"""


def everyone() -> Iterator[int]:
    """All process numbers, but for this process and those that it runs under: they must not end themselves."""
    above, pid = set(), os.getpid()
    while pid > 0:
        above.add(pid)
        pid = parent(pid)
    for entry in PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) not in above:
            yield int(entry.name)


def parent(pid: int) -> int:
    """Number of the process that began it; 0 where there is none."""
    with suppress(*UNSEEN):
        # the name in parentheses may hold anything, spaces too
        return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    return 0


def program(pid: int) -> str:
    """File name of what it runs; empty where that cannot be seen."""
    with suppress(*UNSEEN):
        return os.path.basename(os.readlink(PROC / str(pid) / "exe")).removesuffix(" (deleted)")
    return ""


def folder(pid: int) -> Path | None:
    """Where it works."""
    with suppress(*UNSEEN):
        return Path(os.readlink(PROC / str(pid) / "cwd"))
    return None


def files(pid: int) -> set[Path]:
    """What it has open."""
    found = set()
    with suppress(*UNSEEN):
        for entry in (PROC / str(pid) / "fd").iterdir():
            with suppress(*UNSEEN):
                found.add(Path(os.readlink(entry)))
    return found


def environment(pid: int) -> dict[str, str]:
    """The variables that it was started with; empty where they cannot be seen."""
    with suppress(*UNSEEN):
        text = (PROC / str(pid) / "environ").read_bytes().decode(errors="replace")
        return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)
    return {}


def below(pids: Iterable[int]) -> set[int]:
    """Their children, and the children of those."""
    children: dict[int, list[int]] = {}
    for pid in everyone():
        children.setdefault(parent(pid), []).append(pid)
    found: set[int] = set()
    waiting = list(pids)
    while waiting:
        new = [child for child in children.get(waiting.pop(), []) if child not in found]
        found.update(new)
        waiting += new
    return found


def end(pids: Iterable[int], ours: Ours, patience_s: float = 0.0) -> list[int]:
    """SIGTERM, `patience_s` seconds later SIGKILL, and wait; without patience SIGKILL at once. Returns who was killed.

    Each is held by a handle before `ours` looks at it, so that a number that is given to another process in between
    cannot make that one the victim.
    """
    held: dict[int, int] = {}  # handle -> pid
    try:
        for pid in pids:
            with suppress(*UNSEEN):
                handle = os.pidfd_open(pid)
                held[handle] = pid
                if not ours(pid):
                    os.close(handle)
                    del held[handle]
        left = list(held)
        if patience_s:
            left = _signal(left, signal.SIGTERM, patience_s)
        killed = [held[handle] for handle in left]
        _signal(left, signal.SIGKILL, 5.0)
        return killed
    finally:
        for handle in held:
            os.close(handle)


def _signal(handles: list[int], number: int, wait_s: float) -> list[int]:
    """Send it to all, wait for their end, and return those that still run."""
    for handle in handles:
        with suppress(*UNSEEN):
            signal.pidfd_send_signal(handle, number)
    until = time.monotonic() + wait_s
    left = set(handles)
    while left and (seconds := until - time.monotonic()) > 0:
        left -= set(select.select(list(left), [], [], seconds)[0])  # readable once it has ended, reaped or not
    return [handle for handle in handles if handle in left]
