"""What may be said of a few seeds: interquartile mean and bootstrap intervals. NumPy only.

Follows Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264).
The unit is the seed: a seed's episodes and evaluations are averaged before they come here.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 10_000
"""bootstrap draws; over `seed` the ends then have a standard deviation under 1 % of the width (8 normal scores)"""

Statistic = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Scores of each task, [..., seeds of the task] -> [...]; the leading axes are bootstrap draws."""


class Interval(NamedTuple):
    """The two ends of an interval, in the unit of the scores; both NaN where it is not defined."""

    low: float
    high: float


def iqm(x: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Interquartile mean: floor(n/4) values are cut off at each end and the rest is averaged; NaN if there are none.

    The same as `scipy.stats.trim_mean(x, 0.25, axis)`; rliable's `aggregate_iqm` is the case `axis=None`.
    """
    x = np.asarray(x, float)
    x = np.sort(x.ravel() if axis is None else np.moveaxis(x, axis, -1))  # [..., n]
    n = x.shape[-1]
    if n == 0:
        return np.full(x.shape[:-1], np.nan)
    return x[..., n // 4 : n - n // 4].mean(-1)


def task_mean(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over tasks of each task's mean over seeds: tasks weigh the same however many seeds each has."""
    return np.mean([task.mean(-1) for task in scores], axis=0)


def task_iqm(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Interquartile mean over the runs of all tasks together, as rliable defines it."""
    return iqm(np.concatenate(scores, axis=-1), axis=-1)


def bootstrap_interval(
    scores: Sequence[Sequence[float] | np.ndarray],
    statistic: Statistic = task_mean,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of `statistic` over `scores`, one array of seeds per task.

    Seeds are resampled within their task (stratified). Not defined, and NaN, where a task has fewer than two seeds:
    that task's spread is unknown, and leaving it out would make the interval too narrow.
    """
    tasks = [np.asarray(task, float) for task in scores]
    if not tasks or min(len(task) for task in tasks) < 2:
        return Interval(np.nan, np.nan)
    rng = np.random.default_rng(seed)
    resampled = [task[rng.integers(len(task), size=(draws, len(task)))] for task in tasks]  # per task [draws, seeds]
    low, high = np.quantile(statistic(resampled), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
