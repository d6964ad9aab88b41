"""Listening for signals, in the one way that both the training loop and the queue need."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


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
