"""Listening for signals, in the one way that both the training loop and the queue need."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

PARENT = "MAC_BENCH_PARENT"
"""variable that names the process without which a run is not to go on"""
PR_SET_PDEATHSIG = 1


@contextmanager
def listening(handler: Callable[[int, object], None], numbers: Iterable[int]) -> Iterator[None]:
    """Let `handler` have these signals, and give them back afterwards. Only the main thread may, and elsewhere nothing
    happens."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def die_with_parent() -> None:
    """Have SIGTERM when the queue dies that started this process, so that its run saves and ends. Linux only."""
    parent = os.environ.get(PARENT)
    if parent is not None:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it died just before
            sys.exit(128 + signal.SIGTERM)
