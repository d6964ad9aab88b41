"""What may be said of a few seeds: aggregates over tasks and intervals that cover as often as they say.

Follows Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264).
The unit is the seed: a seed's episodes and evaluations are averaged before they come here. Tasks are strata: they are
fixed, and an interval says how much would change with other seeds, not with other tasks.

Intervals are Student's: value -/+ t * standard error, with the bootstrap's standard error of the statistic corrected
for few seeds. The percentile bootstrap is the custom, and with few seeds its intervals are too narrow. No quantiles of
a resampling, however chosen, mend this for one task: its mean is never drawn beyond the lowest and the highest seed,
and those enclose the centre of a symmetric distribution with 1 - 2^(1 - seeds) only, 75 % for 3 seeds.

Measured coverage of 95 % intervals in %, least and largest over normal scores and success rates of 50 episodes at
50, 90 and 98 % on all tasks and from 5 to 95 % over tasks (2000 repetitions each; standard error 0.5; on one task
the last is 70 %):

    tasks  seeds    mean          IQM           median        percentile, mean
    1      3        95 to 96      90 to 96                    74 to 91
    1      5        94 to 96      94 to 98                    84 to 85
    1      10       94 to 96      96                          90 to 91
    5      3        95 to 97      94 to 97      87 to 98      84 to 87
    5      5        95 to 96      94 to 96      90 to 97      89 to 91
    5      10       95 to 96      92 to 96      92 to 98      92 to 93
    10     3        95 to 97      94 to 96      91 to 97      86 to 89
    10     5        95 to 97      93 to 95      92 to 97      90 to 92
    10     10       94 to 95      94 to 95      93 to 98      92 to 93

The lowest of the IQM belong to 98 %, with many ties, and the lowest of the median to unlike tasks, as it then hangs on
the seeds of one or two. Beyond 98 % seeds are often all equal, and the interval is a point: at 99.5 % on one task the
mean's covers 53, 73 and 91 % with 3, 5 and 10 seeds (93 to 97 % with 5 or 10 tasks).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from mac_bench.errors import UserError

DRAWS = 3_000
"""bootstrap draws; over `seed` the ends of the IQM's interval of 8 scores have a deviation under 1 % of its width"""

Statistic = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Scores of each task, [..., seeds of the task] -> [...]; the leading axes are bootstrap draws."""


PERCENT = (0.0, 100.0)
"""what a success can be"""


def bounds_of(measures: Iterable[object]) -> tuple[float, float]:
    """What scores of these measures, in %, can be: a normalised score may be negative, or above 100."""
    free = any(isinstance(measure, str) and "normalised" in measure for measure in measures)
    return (-np.inf, np.inf) if free else PERCENT


def unit_of(measures: Iterable[object]) -> str:
    """What an axis of scores of these measures is called."""
    kinds = {kind for measure in measures if isinstance(measure, str) for kind in measure.split(" + ")}
    return f"{' or '.join(sorted(kinds, reverse=True)) or 'success'} in %"


def simulators_of(recorded: Iterable[object]) -> list[str]:
    """The simulators that runs have recorded, without what is said of versions in brackets: no number is of two."""
    kinds = {kind for each in recorded if isinstance(each, str) for kind in each.split(" + ")}
    return sorted({kind.partition(" (")[0] for kind in kinds})


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


def task_median(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Median over tasks of each task's mean over seeds, as rliable defines it."""
    return np.median([task.mean(-1) for task in scores], axis=0)


def task_iqm(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Interquartile mean over the runs of all tasks together, as rliable defines it."""
    return iqm(np.concatenate(scores, axis=-1), axis=-1)


def optimality_gap(scores: Sequence[np.ndarray], target: float) -> np.ndarray:
    """How far the runs fall short of `target`, the mean of max(target - score, 0): lower is better.

    Tasks weigh the same; where all have the same number of seeds this is rliable's `aggregate_optimality_gap`.
    """
    return task_mean([np.maximum(target - task, 0) for task in scores])


def win_probability(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> np.ndarray:
    """Probability that a run of x beats a run of y on a random task, a tie counting one half; tasks in the same order.

    The Mann-Whitney statistic over the number of pairs, averaged over tasks: rliable's `probability_of_improvement`.
    """
    return np.mean([_wins(a, b).mean((-1, -2)) for a, b in zip(x, y, strict=True)], axis=0)


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[..., runs of x], [..., runs of y] -> [..., runs of x, runs of y]: 1 where x beats y, 1/2 where they tie."""
    x, y = x[..., :, None], y[..., None, :]
    return (x > y) + 0.5 * (x == y)


def bootstrap_interval(
    scores: Sequence[Sequence[float] | np.ndarray],
    statistic: Statistic = task_mean,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
    kind: Literal["student", "percentile"] = "student",
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Interval of `statistic` over `scores`, one array of seeds per task. Seeds are resampled within their task.

    kind: "student" is value -/+ t * standard error, as the head of this module says; for the mean over tasks the
        standard error is known without draws. "percentile" is the custom of published tools, too narrow for few seeds.
    bounds: what a score can be; ends beyond it are cut, which loses no coverage.

    Not defined, and NaN, where a task has fewer than two seeds: that task's spread is unknown, and leaving it out
    would make the interval too narrow. A point where no task has any spread. Raises UserError where `level` is none.
    """
    tasks = [np.asarray(task, float) for task in scores]
    if not tasks or min(len(task) for task in tasks) < 2:
        return Interval(np.nan, np.nan)
    if kind == "student" and statistic is task_mean:
        low, high = student_interval(statistic(tasks), tasks, level)
    else:
        rng = np.random.default_rng(seed)
        drawn = statistic([task[rng.integers(len(task), size=(draws, len(task)))] for task in tasks])  # [draws]
        if kind == "percentile":
            low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        else:
            low, high = student_interval(statistic(tasks), tasks, level, drawn.std())
    low, high = np.clip([low, high], *bounds)
    return Interval(float(low), float(high))


def win_interval(x: Sequence[np.ndarray], y: Sequence[np.ndarray], level: float = 0.95) -> Interval:
    """Interval of `win_probability`; x and y: scores of each task, [runs], tasks in the same order.

    Clopper and Pearson's, as if the probability had been seen in so many independent duels: runs of the smaller side,
    times tasks. All pairs of runs tell more than that, and tasks of unlike probabilities scatter less, so it is on the
    safe side: measured coverage of 95 % intervals is 98 to 100 % (400 repetitions each, normal scores, probabilities
    0.5, 0.76, 0.92, 0.97 and 0.99, 1, 5 and 10 tasks, 3, 5 and 10 seeds), at 1.1 to 1.5 times the width of Brunner and
    Munzel's, which cover 90 to 100 %, and which for probabilities near 1 grow as the last duel is won.
    Raises UserError where `level` is not between 0 and 1.
    """
    from scipy.special import betaincinv  # here, as importing this module should cost little

    duels = len(x) * min(min(len(a), len(b)) for a, b in zip(x, y, strict=True))
    won, tail = float(win_probability(x, y)) * duels, (1 - _checked(level)) / 2
    low = betaincinv(won, duels - won + 1, tail) if won > 0 else 0
    high = betaincinv(won + 1, duels - won, 1 - tail) if won < duels else 1
    return Interval(float(low), float(high))


def student_interval(
    value: np.ndarray | float,
    strata: Sequence[np.ndarray],
    level: float,
    plug_in: np.ndarray | float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high end, [...], of value -/+ t * standard error; `strata` are independent samples, [..., n of each].

    Without `plug_in` the value [...] is the mean of the strata's means: this is Welch's interval, exact for one normal
    sample. Otherwise `plug_in` [...] is the bootstrap's standard error of the value. As it takes the spread of n scores
    for that of all, it is enlarged by what the mean of the same strata asks for, sqrt(n / (n - 1)) where all have n
    (Hesterberg 2014, arXiv 1411.5279). Degrees of freedom by Welch and Satterthwaite: strata without spread add
    nothing. NaN where a stratum has fewer than two; a point where none has any spread. Raises UserError where `level`
    is not between 0 and 1.
    """
    from scipy.special import stdtrit  # here, as importing this module should cost little

    _checked(level)
    if min(sample.shape[-1] for sample in strata) < 2:
        nothing = np.full(np.shape(value), np.nan)
        return nothing, nothing
    n = [sample.shape[-1] for sample in strata]
    # [strata, ...]: the variance of each mean
    biased = np.stack([sample.var(-1) / sample.shape[-1] for sample in strata])
    rest = np.reshape([k - 1 for k in n], (-1, *[1] * (biased.ndim - 1)))
    unbiased = biased * (rest + 1) / rest
    total = unbiased.sum(0)
    known = total > 0
    degrees = np.divide(total**2, (unbiased**2 / rest).sum(0), out=np.ones_like(total), where=known)
    if plug_in is None:
        error = np.sqrt(total) / len(strata)
    else:
        error = plug_in * np.sqrt(np.divide(total, biased.sum(0), out=np.ones_like(total), where=known))
    width = stdtrit(degrees, (1 + level) / 2) * error
    return value - width, value + width


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise UserError(f"no interval of level {level}; give a share between 0 and 1, such as 0.95")
    return level
