"""Logged episodes as columns, and the pieces of trajectory that agents learn from."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mac_bench.config import GoalMix, Residency
from mac_bench.errors import UserError
from mac_bench.files import write_text
from mac_bench.resident import Blocks, Reader, read_ahead
from mac_bench.types import Batch, Goals, Sampling

BATCHES = 1
"""purpose number of the random stream that draws batches; see `Dataset.sample`"""

ACTION_LIMIT = 1.0 - 1e-5
"""tanh cannot reach +-1: an action at the edge would have infinite density"""

HELD_OUT = 20
"""one episode of so many is for validation, where data have no such split"""

COLUMNS = ("observations", "actions", "ends", "rewards", "alive", "goals")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of episodes, one after the other; arrays in memory or memory-mapped.

    Every row is kept: an episode of T transitions has T + 1 rows, and the action of its last row leads nowhere.
    """

    observations: np.ndarray
    """[N, O] float32"""
    actions: np.ndarray
    """[N, A] float32 in (-1, 1)"""
    ends: np.ndarray
    """[E] int64, the last row of each episode, ascending"""
    rewards: np.ndarray | None = None
    """[N] float32, reward of acting in the row's state; only in tasks with rewards"""
    alive: np.ndarray | None = None
    """[N] float32, 0 where the row's state ends the task, else 1"""
    goals: np.ndarray | None = None
    """[N, G] float32, the row's state as a goal; only in goal-conditioned tasks"""
    validation: "Dataset | None" = None
    """episodes that are never trained on"""
    resident: Residency | None = None
    """`sample` draws from some blocks at a time; None: from all rows at every step"""
    task: str | None = None
    """official name of the task that the rows are labelled for; None where it is none of the benchmark's"""

    def __post_init__(self):
        rows = len(self.observations)
        for name in ("actions", "rewards", "alive", "goals"):
            column = getattr(self, name)
            if column is not None and len(column) != rows:
                raise UserError(f"data: {len(column)} rows of {name} do not go with {rows} rows of observations")
        if len(self.ends) == 0 or self.ends[-1] != rows - 1 or (np.diff(self.ends) <= 0).any():
            raise UserError(f"data: episode ends must ascend and finish at the last row {rows - 1}")

    @cached_property
    def _first(self) -> np.ndarray:
        """[E] first row of each episode."""
        return np.concatenate([[0], self.ends[:-1] + 1])

    @cached_property
    def _below(self) -> dict[int, np.ndarray]:
        """Horizon -> [E+1] number of pieces in the episodes before each, and in all."""
        return {}

    def _pieces_below(self, horizon: int) -> np.ndarray:
        if horizon not in self._below:
            counts = np.maximum(self.ends - self._first + 1 - horizon, 0)  # [E] pieces in each episode
            self._below[horizon] = np.concatenate([[0], np.cumsum(counts)])
        return self._below[horizon]

    def draw(self, rng: np.random.Generator, size: int, horizon: int, among: np.ndarray | None = None) -> np.ndarray:
        """[size] rows t, uniform over all rows whose piece t ... t+horizon lies inside one episode.

        `among` [K, 2] restricts them to spans of episodes: the first of each, and the one after its last.
        """
        below = self._pieces_below(horizon)
        spans = np.array([[0, len(self.ends)]]) if among is None else among
        pieces = below[spans]  # [K, 2] numbers of pieces
        if (pieces[:, 0] == pieces[:, 1]).all():
            longest = max(int((self.ends[a:b] - self._first[a:b]).max()) for a, b in spans)
            raise UserError(f"data: no episode has {horizon} transitions; the longest has {longest}")
        number = _uniform(rng, size, pieces)
        episode = np.searchsorted(below, number, side="right") - 1
        return self._first[episode] + number - below[episode]

    def last(self, index: np.ndarray) -> np.ndarray:
        """[B] the last row of the episode that each of the rows `index` [B] lies in."""
        return self.ends[np.searchsorted(self.ends, index)]

    def draw_goals(
        self,
        rng: np.random.Generator,
        index: np.ndarray,
        last: np.ndarray,
        mix: GoalMix,
        discount: float,
        among: np.ndarray | None = None,
    ) -> np.ndarray:
        """[B] rows of goals for the states in rows `index` [B], whose episodes end in the rows `last` [B].

        Random goals are any rows, or those of the spans `among` [K, 2]: the first row of each, and the one after its
        last.
        """
        following = np.minimum(index + 1, last)
        if mix.geometric:
            future = np.minimum(index + rng.geometric(1.0 - discount, size=len(index)), last)
        else:
            future = rng.integers(following, last + 1)
        spans = np.array([[0, len(self.observations)]]) if among is None else among
        anywhere = _uniform(rng, len(index), spans)
        choice = rng.random(len(index))
        return np.where(choice < mix.current, index, np.where(choice < mix.current + mix.future, future, anywhere))

    def pieces(self, index: np.ndarray, horizon: int, goals: Goals | None = None, path: bool = False) -> Batch:
        """The pieces of `horizon` actions that start at rows `index` [B]."""
        ones = np.ones((len(index), horizon), np.float32)
        return Batch(
            obs=_rows(self.observations, index),
            actions=_windows(self.actions, index, horizon),
            rewards=_windows(self.rewards, index, horizon) if self.rewards is not None else np.zeros_like(ones),
            next_obs=_rows(self.observations, index + horizon),
            # once ended, a task stays ended for the rest of the piece, whatever the log shows afterwards
            alive=np.minimum.accumulate(_windows(self.alive, index, horizon), axis=1)
            if self.alive is not None
            else ones,
            index=index,
            goals=goals,
            path=_windows(self.observations, index, horizon + 1) if path else None,
        )

    def sample(self, sampling: Sampling, seed: int, step: int, purpose: int = BATCHES) -> Batch:
        """The batch of one step: a function of (data, sampling, seed, step, purpose) alone: nothing needs saving."""
        rng = np.random.default_rng([seed, purpose, step])
        episodes, rows = self._reader.spans(seed, step)
        index = self.draw(rng, sampling.batch_size, sampling.horizon, episodes)
        goals = None
        if sampling.goals is not None:
            if self.goals is None:
                raise UserError("data: this task has rewards and no goals, but the agent asks for goals")
            mixes, last = sampling.goals, self.last(index)
            value = self.draw_goals(rng, index, last, mixes.value, mixes.discount, rows)
            actor = self.draw_goals(rng, index, last, mixes.actor, mixes.discount, rows)
            ahead, steps = (index <= value) & (value <= last), value - index
            goals = Goals(
                value=_rows(self.goals, value),
                actor=_rows(self.goals, actor),
                reached=(ahead & (steps < sampling.horizon)).astype(np.float32),
                distance=np.where(ahead, steps, np.inf).astype(np.float32),
            )
        return self.pieces(index, sampling.horizon, goals, sampling.path)

    @cached_property
    def _reader(self) -> Reader:
        """What says which rows are drawn from and has them read; all rows are one block that is never replaced."""
        columns = {id(column): column for name in COLUMNS if (column := getattr(self, name)) is not None}
        blocks = Blocks(self.ends, self.resident or Residency(blocks=1, rows=len(self.observations)))
        return Reader(blocks, lambda first, stop: read_ahead(columns.values(), first, stop))

    @cached_property
    def _statistics(self) -> dict[str, "Statistics"]:
        return {}

    def statistics(self, name: str) -> "Statistics":
        """Of a column, made once; prepared data have them from the start."""
        if name not in self._statistics:
            self._statistics[name] = statistics(getattr(self, name))
        return self._statistics[name]

    def knows(self, digest: str, found: Mapping[str, "Statistics"]) -> "Dataset":
        """Itself, with what would else be read from all over its columns."""
        vars(self)["digest"] = digest  # where cached_property keeps it; `replace` makes a Dataset that knows nothing
        self._statistics.update(found)
        return self

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits that tell data sets apart: shapes, episode ends and 4,096 rows of each column."""
        digest = hashlib.sha256(np.ascontiguousarray(self.ends, np.int64).tobytes())
        rows = np.linspace(0, len(self.observations) - 1, 4096).astype(np.int64)
        for name in COLUMNS:
            column = getattr(self, name)
            if column is not None and name != "ends":
                digest.update(f"{name}{column.shape}{column.dtype}".encode())
                digest.update(np.ascontiguousarray(column[rows]).tobytes())
        return digest.hexdigest()[:12]

    def save(self, folder: Path) -> None:
        """Write the columns as raw `.npy` files, and last the list of them, without which `open` finds nothing."""
        folder.mkdir(parents=True, exist_ok=True)
        names = [name for name in COLUMNS if getattr(self, name) is not None]
        for name in names:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)
        write_text(folder / "columns.json", json.dumps(names))

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Memory-map what `save` wrote: costs no memory, and processes on one machine share its pages."""
        try:
            names = json.loads((folder / "columns.json").read_text())
            return cls(**{name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names})
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{folder}: no complete set of columns there ({error})") from None


def _uniform(rng: np.random.Generator, size: int, spans: np.ndarray) -> np.ndarray:
    """[size] whole numbers, uniform over all in the spans [K, 2]: the first of each, and the one after its last."""
    below = np.cumsum(spans[:, 1] - spans[:, 0])
    number = rng.integers(below[-1], size=size)
    span = np.searchsorted(below, number, side="right")
    return spans[span, 1] - below[span] + number


def _rows(column: np.ndarray, index: np.ndarray) -> np.ndarray:
    """[B, ...] `column[index]`, which takes twice as long, and longer yet the more rows it chooses from."""
    return np.asarray(column).take(index, axis=0)


def _windows(column: np.ndarray, index: np.ndarray, width: int) -> np.ndarray:
    """[B, width, ...] rows index ... index+width-1: one copy for each piece, as its rows lie side by side."""
    views = sliding_window_view(column, (width, *column.shape[1:]))
    return views.reshape(views.shape[0], *views.shape[column.ndim :])[index]


def split(path: Path, columns: dict[str, np.ndarray]) -> Dataset:
    """Data that come without validation episodes: every HELD_OUT-th is held out, at least one, so that each part of a
    mixed file is in both. Raises UserError, which names the file, where there are too few."""
    ends = columns["ends"]
    lengths = np.diff(ends, prepend=-1)
    whole = np.flatnonzero(lengths > 1)
    if len(whole) < 2:
        raise UserError(f"{path}: {len(whole)} episodes with transitions; it takes 2, one of them for validation")
    held = np.zeros(len(ends), bool)
    held[whole[min(HELD_OUT, len(whole)) - 1 :: HELD_OUT]] = True
    return Dataset(**_part(columns, lengths, ~held), validation=Dataset(**_part(columns, lengths, held)))


def _part(columns: dict[str, np.ndarray], lengths: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    rows = np.repeat(chosen, lengths)
    part = {name: column[rows] for name, column in columns.items() if name != "ends"}
    return part | {"ends": np.cumsum(lengths[chosen]) - 1}


class Scaling(NamedTuple):
    """x -> (x - shift) / scale, for NumPy and JAX arrays."""

    shift: np.ndarray
    """[D]"""
    scale: np.ndarray
    """[D] positive"""

    def __call__(self, x):
        aligned = (1,) * (x.ndim - 1)
        return (x - self.shift.reshape(*aligned, -1)) / self.scale.reshape(*aligned, -1)

    def inverse(self, x):
        """Back to the units of the data."""
        aligned = (1,) * (x.ndim - 1)
        return x * self.scale.reshape(*aligned, -1) + self.shift.reshape(*aligned, -1)


ScalingKind = Literal["minmax", "meanstd", "none"]
SCALE_FLOOR = 1e-3
"""keeps constant columns finite; the reference's value"""
STATISTICS_ROWS = 65_536


class Statistics(NamedTuple):
    """What scalings are made of."""

    low: np.ndarray
    """[D] float32"""
    high: np.ndarray
    """[D] float32"""
    mean: np.ndarray
    """[D] float64"""
    deviation: np.ndarray
    """[D] float64"""


def statistics(column: np.ndarray) -> Statistics:
    """Of a column [N, D], by blocks of rows, so that a mapped column needs no memory and has the same bits."""
    low, high = column[0], column[0]
    count, mean, squares = 0, np.zeros(column.shape[1]), np.zeros(column.shape[1])
    for first in range(0, len(column), STATISTICS_ROWS):
        block = np.asarray(column[first : first + STATISTICS_ROWS])
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        block = block.astype(np.float64)
        own = block.mean(axis=0)
        ahead, count = own - mean, count + len(block)
        # Chan et al. 1983, eq. 2.1: sums of squares about the mean of two parts, joined
        squares += np.square(block - own).sum(axis=0) + np.square(ahead) * len(block) * (count - len(block)) / count
        mean = mean + ahead * len(block) / count
    return Statistics(np.asarray(low), np.asarray(high), mean, np.sqrt(squares / count))


def fit_scaling(kind: ScalingKind, column: np.ndarray) -> Scaling:
    """Scaling of a column [N, D] to about [-1, 1] (minmax) or to mean 0 and deviation 1 (meanstd)."""
    return scaling_of(kind, statistics(column))


def scaling_of(kind: ScalingKind, found: Statistics) -> Scaling:
    """The same, from the column's statistics."""
    if kind == "minmax":
        shift, scale = (found.low + found.high) / 2, (found.high - found.low) / 2 + SCALE_FLOOR
    elif kind == "meanstd":
        shift, scale = found.mean, found.deviation + SCALE_FLOOR
    else:
        shift, scale = np.zeros(len(found.mean)), np.ones(len(found.mean))
    return Scaling(np.asarray(shift, np.float32), np.asarray(scale, np.float32))


class Scalings(NamedTuple):
    """Scaling of observations and, in goal-conditioned tasks, of goals; part of an agent's checkpoint."""

    obs: Scaling
    goal: Scaling | None


def fit(kind: ScalingKind, split: Literal["train", "validation"], data: Dataset) -> Scalings:
    """Fit on the training data, or on the validation split as MAC's released code does."""
    source = data if split == "train" else data.validation
    if source is None:
        raise UserError("scaling_split: these data have no validation split; use 'train'")
    goal = scaling_of(kind, source.statistics("goals")) if source.goals is not None else None
    return Scalings(scaling_of(kind, source.statistics("observations")), goal)


T = TypeVar("T")


def prefetch(make: Callable[[int], T], first: int, stop: int, ahead: int = 3) -> Iterator[T]:
    """make(first), ..., make(stop - 1) in order, with the next `ahead` of them made by a background thread."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = deque(pool.submit(make, step) for step in range(first, min(first + ahead, stop)))
        try:
            for step in range(first, stop):
                item = pending.popleft().result()
                if step + ahead < stop:
                    pending.append(pool.submit(make, step + ahead))
                yield item
        finally:
            for future in pending:
                future.cancel()
