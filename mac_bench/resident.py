"""Blocks of the data that batches are drawn from, where all of it at once is more than memory can hold.

Uniform sampling touches every page of the data again and again, so it is fast only while memory holds all of them. With
a `Residency`, batches mix over some blocks at a time, each of whole episodes, and in every turn of so many updates the
oldest of them makes place for the next in an order that is drawn once for each seed and then repeated: each block is
there for the same number of turns. Which blocks those are is a function of (seed, step), so it is part of what a run is
(`RunConfig.resident`) and never depends on the machine. A thread reads the next block into the page cache one turn
ahead. It changes nothing but speed: whoever samples before it is done reads the pages that are missing. All rows, where
there is no `Residency`, are one block that is never replaced, and is read once.

Each block is drawn from equally often, so its rows are the likelier the fewer they are; but for the last, blocks differ
by an episode.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache

import numpy as np

from mac_bench.config import Residency

ORDER = 6
"""purpose number of the random stream that draws the order of the blocks"""
BUFFER_BYTES = 8 * 1024**2


class Blocks:
    """Groups of successive episodes, and which of them are there when."""

    def __init__(self, ends: np.ndarray, residency: Residency):
        first = np.concatenate([[0], ends[:-1] + 1])  # [E]
        starts = np.unique(first // residency.rows, return_index=True)[1]
        self.episodes = np.stack([starts, np.append(starts[1:], len(ends))], axis=1)
        """[M, 2] first episode of each block, and the one after its last"""
        self.rows = np.stack([first[self.episodes[:, 0]], ends[self.episodes[:, 1] - 1] + 1], axis=1)
        """[M, 2] first row of each block, and the one after its last"""
        self._residency = residency
        self._order = lru_cache(maxsize=1)(self._draw_order)

    def _draw_order(self, seed: int) -> np.ndarray:
        return np.random.default_rng([seed, ORDER]).permutation(len(self.rows))  # [M]

    def turn(self, step: int) -> int:
        """How often a block has been replaced before this step."""
        return step // self._residency.every

    def at(self, seed: int, turn: int) -> np.ndarray:
        """[K] the blocks that are there, the oldest first; all M where there are no more."""
        number = min(self._residency.blocks, len(self.rows))
        return self._order(seed)[(turn + np.arange(number)) % len(self.rows)]

    def soon(self, seed: int, turn: int) -> list[int]:
        """The blocks that are there, and last the one that comes next."""
        return list(dict.fromkeys([*self.at(seed, turn).tolist(), *self.at(seed, turn + 1).tolist()]))


class Reader:
    """Has blocks read before they are drawn from, by a thread that nobody waits for."""

    def __init__(self, blocks: Blocks, read: Callable[[int, int], None]):
        self._blocks, self._read = blocks, read
        """read: called with the first row of a block and the one after its last"""
        self._asked: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self.held: list[int] = []
        """blocks that have been read and are still of use"""

    def spans(self, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks of a step, and a beginning with those of the next turn: episodes [K, 2] and rows [K, 2]."""
        turn = self._blocks.turn(step)
        self._follow(seed, turn)
        there = self._blocks.at(seed, turn)
        return self._blocks.episodes[there], self._blocks.rows[there]

    def _follow(self, seed: int, turn: int) -> None:
        # an earlier turn than the last is of no interest: several callers sample, not all at the same step
        if self._asked is None or self._asked[0] != seed or turn > self._asked[1]:
            self._asked = (seed, turn)
            # a daemon: a run that ends does not wait for what it will not need
            threading.Thread(target=self._fetch, args=self._asked, daemon=True).start()

    def _fetch(self, seed: int, turn: int) -> None:
        wanted = self._blocks.soon(seed, turn)
        with self._lock, suppress(OSError):  # sampling meets the same trouble, and says so
            self.held = [block for block in self.held if block in wanted]
            for block in wanted:
                if self._asked != (seed, turn):
                    return  # a later turn has its own thread
                if block not in self.held:
                    self._read(*self._blocks.rows[block].tolist())
                    self.held.append(block)


def read_ahead(columns: Iterable[np.ndarray], first: int, stop: int) -> None:
    """Read the rows `first` ... `stop` - 1 of memory-mapped columns, in the order of the file, into the page cache."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    for column in columns:
        if isinstance(column, np.memmap) and column.filename is not None:
            width = column.strides[0]
            with open(column.filename, "rb", buffering=0) as file:
                file.seek(column.offset + first * width)
                left = (stop - first) * width
                while left > 0 and (got := file.readinto(buffer[:left])):
                    left -= got
