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
KILL_S = 5.0
"""how long the kernel may take to end what was killed"""


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


def end(find: Callable[[], Iterable[int]], patience_s: float = 0.0) -> list[int]:
    """SIGTERM, `patience_s` seconds later SIGKILL, and wait; without patience SIGKILL at once. Returns who was killed.

    `find` says who is meant, and is asked twice: a number that it names again while a handle holds the process cannot
    have been given to another one in between.
    """
    held: dict[int, int] = {}  # handle -> pid
    try:
        for pid in find():
            with suppress(*UNSEEN):
                held[os.pidfd_open(pid)] = pid
        again = set(find()) if held else set()
        left = [handle for handle, pid in held.items() if pid in again]
        if patience_s:
            left = _signal(left, signal.SIGTERM, patience_s)
        killed = [held[handle] for handle in left]
        _signal(left, signal.SIGKILL, KILL_S)
        return killed
    finally:
        for handle in held:
            os.close(handle)


def _signal(handles: list[int], number: int, wait_s: float) -> list[int]:
    """Send it to all, wait for their end, and return those that still run."""
    left = select.poll()
    for handle in handles:
        with suppress(*UNSEEN):
            signal.pidfd_send_signal(handle, number)
        left.register(handle, select.POLLIN)  # readable once it has ended, reaped or not
    running = dict.fromkeys(handles)
    until = time.monotonic() + wait_s
    while running and (seconds := until - time.monotonic()) > 0:
        for handle, _ in left.poll(1000 * seconds):
            left.unregister(handle)
            del running[handle]
    return list(running)
