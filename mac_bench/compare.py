"""Who wins, by how much, and whether it is more than luck: comparisons of methods as tidy pandas frames.

The runs come as a frame with one row per complete run: label, task, seed, score (any unit). Every number is defined in
`mac_bench.stats`. The results are the same in whatever order the rows come.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations, permutations
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from mac_bench.errors import UserError
from mac_bench.stats import (
    bootstrap_interval,
    optimality_gap,
    student_interval,
    task_iqm,
    task_mean,
    task_median,
    win_interval,
    win_probability,
)

EXACT_PAIRS = 14
"""with up to so many pairs `compare` looks at all 2^pairs signs"""
FLIPS = 10_000
"""with more it draws so many: a p of 0.05 then has a standard deviation of 0.002"""

Scores = dict[str, dict[str, pd.Series]]
"""label -> task -> scores by seed, all sorted"""

CURVE = ["label", "task", "run"]
"""what tells one learning curve from the others"""

Number = TypeVar("Number", float, np.ndarray)


def aggregates(
    frame: pd.DataFrame,
    level: float = 0.95,
    target: float = 100.0,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> pd.DataFrame:
    """Each method over all tasks: label, statistic, value, low, high, tasks, of, seeds.

    statistic: mean, median, iqm, optimality_gap (below `target`). tasks of all the frame's tasks (`of`) have a run of
    the method; where some are missing the numbers are NaN, as other tasks may be harder or easier. seeds: the fewest of
    any task. bounds: what a score can be, as in `bootstrap_interval`. Raises UserError where a score is not a number.
    """
    scores = _scores(frame)
    tasks, rows = _tasks(scores), []
    for label, by_task in scores.items():
        values = [by_task[task].to_numpy() for task in tasks if task in by_task]
        gaps = [np.maximum(target - task, 0) for task in values]
        largest = tuple(float(optimality_gap([np.array([bound])], target)) for bound in reversed(bounds))
        count = {"tasks": len(values), "of": len(tasks), "seeds": min(map(len, values)) * (len(values) == len(tasks))}
        for name, statistic, own, ends in [
            ("mean", task_mean, values, bounds),
            ("median", task_median, values, bounds),
            ("iqm", task_iqm, values, bounds),
            ("optimality_gap", task_mean, gaps, largest),
        ]:
            numbers = (np.nan,) * 3
            if len(values) == len(tasks):
                numbers = (float(statistic(own)), *bootstrap_interval(own, statistic, level, bounds=ends))
            rows.append({"label": label, "statistic": name, **_named("value", numbers), **count})
    return pd.DataFrame(rows)


def profiles(frame: pd.DataFrame, thresholds: Sequence[float] | None = None, level: float = 0.95) -> pd.DataFrame:
    """Run-score distributions: label, threshold, fraction, low, high, seeds; the fraction of runs with score >
    threshold.

    Tasks weigh the same; seeds: the fewest of any task. thresholds: by default 101 from the lowest to the highest
    score. The bands hold for one threshold at a time, and close to a point where all seeds of each task lie on one
    side. NaN where a task is missing.
    """
    scores = _scores(frame)
    tasks = _tasks(scores)
    if thresholds is None:
        thresholds = np.linspace(frame["score"].min(), frame["score"].max(), 101).tolist()
    grid, parts = np.asarray(thresholds, float), []
    for label, by_task in scores.items():
        fraction = low = high = np.full(len(grid), np.nan)
        if len(by_task) == len(tasks):
            above = [by_task[task].to_numpy() > grid[:, None] for task in tasks]  # per task [thresholds, seeds]
            above = [task.astype(float) for task in above]
            fraction = task_mean(above)
            low, high = np.clip(student_interval(fraction, above, level), 0, 1)
        seeds = min(map(len, by_task.values())) * (len(by_task) == len(tasks))
        numbers = {"threshold": grid, "fraction": fraction, "low": low, "high": high, "seeds": seeds}
        parts.append(pd.DataFrame({"label": label, **numbers}))
    return pd.concat(parts, ignore_index=True)


def improvement(frame: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Probability that a run of x beats a run of y on a random task: x, y, probability, low, high, tasks, n.

    All ordered pairs, over the `tasks` that both have; n: the fewest runs of either on any of them. Measured
    coverage: see `win_interval`, whose interval it is.
    """
    rows = []
    for x, y, tasks, own, other in _pairs(_scores(frame), permutations):
        numbers, n = (np.nan,) * 3, 0
        if tasks:
            a, b = [own[task].to_numpy() for task in tasks], [other[task].to_numpy() for task in tasks]
            n = min(map(len, a + b))
            numbers = (float(win_probability(a, b)), *win_interval(a, b, level))
        rows.append({"x": x, "y": y, **_named("probability", numbers), "tasks": len(tasks), "n": n})
    return pd.DataFrame(rows, columns=["x", "y", "probability", "low", "high", "tasks", "n"])


def compare(frame: pd.DataFrame, level: float = 0.95, draws: int = FLIPS, seed: int = 0) -> pd.DataFrame:
    """Differences of means, x - y: x, y, difference, low, high, p, p_corrected, pairs, tasks, seeds; unordered pairs.

    Runs are paired by task and seed; runs without a partner are left out. The difference is averaged over the pairs of
    each task, then over the `tasks` that have any; seeds: the fewest pairs of any of them. low and high: Student's.

    p: sign-flip permutation test, two-sided: how often the difference would be as large if on every task x and y were
    the same and only luck told which run of a pair is whose. All signs up to 14 pairs, else `draws` random ones; see
    `smallest_p` for what so many pairs can show at best. p_corrected: by Holm, for all comparisons of the frame.
    """
    runs = _checked(frame, ["label", "task", "seed"], "score").pivot(
        index=["task", "seed"], columns="label", values="score"
    )
    task, rows = runs.index.get_level_values("task").to_numpy(), []
    for x, y in combinations(runs.columns, 2):
        difference = (runs[x] - runs[y]).to_numpy()
        paired = [own[~np.isnan(own)] for own in (difference[task == name] for name in np.unique(task))]
        paired = [own for own in paired if len(own)]
        counts, numbers, p = [len(own) for own in paired], (np.nan,) * 3, np.nan
        if paired:
            numbers = (float(task_mean(paired)), *bootstrap_interval(paired, task_mean, level))
            p = sign_flip_p(paired, draws, seed)
        row = {"x": x, "y": y, **_named("difference", numbers), "p": p, "p_corrected": np.nan}
        rows.append(row | {"pairs": sum(counts), "tasks": len(counts), "seeds": min(counts, default=0)})
    columns = ["x", "y", "difference", "low", "high", "p", "p_corrected", "pairs", "tasks", "seeds"]
    compared = pd.DataFrame(rows, columns=columns)
    return compared.assign(p_corrected=holm(compared["p"].to_numpy(float)))


def sign_flip_p(paired: Sequence[np.ndarray], draws: int = FLIPS, seed: int = 0) -> float:
    """p of the mean over tasks of the mean of `paired` differences, [pairs] per task; see `compare`."""
    parts = np.concatenate([task / len(task) for task in paired])  # the mean is their sum over the number of tasks
    n = len(parts)
    flipped = parts.sum() - 2 * (_signs(n, draws, seed).astype(float) @ parts)
    # rounding must not decide between sums that are equal
    count = np.count_nonzero(abs(flipped) >= abs(parts.sum()) - 1e-12 * abs(parts).sum())
    return count / 2**n if n <= EXACT_PAIRS else (count + 1) / (draws + 1)


def _signs(n: int, draws: int, seed: int) -> np.ndarray:
    """[rows, n] of 0 and 1: all combinations of up to EXACT_PAIRS, else random ones."""
    if n <= EXACT_PAIRS:
        return np.arange(2**n)[:, None] >> np.arange(n) & 1
    return _random_signs(-(-n // 64) * 64, draws, seed)[:, :n]


@lru_cache(maxsize=2)
def _random_signs(n: int, draws: int, seed: int) -> np.ndarray:
    """Kept, as all pairs of methods need about as many, and drawing takes longer than the rest."""
    return np.random.default_rng(seed).integers(2, size=(draws, n), dtype=np.int8)


def smallest_p(pairs: int, draws: int = FLIPS) -> float:
    """The smallest p that `compare` can give: 2 / 2^pairs up to 14 pairs, else 1 / (draws + 1). So it takes at least
    6 pairs for p < 0.05, and more where there are more comparisons."""
    return 2 / 2**pairs if pairs <= EXACT_PAIRS else 1 / (draws + 1)


def holm(p: np.ndarray) -> np.ndarray:
    """p corrected for the number of comparisons (Holm 1979); NaN are no comparisons and stay."""
    order = np.argsort(p)  # NaN last
    count = np.count_nonzero(~np.isnan(p))
    steps = np.maximum(count - np.arange(len(p)), 1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(steps * p[order]), 1)
    return corrected


def curve(frame: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Learning curves: label, task, step, mean, low, high, n, of, cut; the input has one row per evaluation, with
    label, task, run (or seed), step and value.

    Only the steps that all runs of a label and task have: nothing is interpolated, and curves of unequal length end
    with the shortest, which `cut` says. n runs are averaged, where the method with the most on that task has `of`. The
    band is Student's, step by step; NaN for a single run. Raises UserError where runs have no step in common.
    """
    frame = _evaluations(frame)
    curves = {
        key: own.pivot(index="step", columns="run", values="value") for key, own in _groups(frame, ["label", "task"])
    }
    most: dict[str, int] = {}
    for (_, task), by_run in curves.items():
        most[task] = max(most.get(task, 0), by_run.shape[1])
    parts = []
    for (label, task), by_run in curves.items():
        common = by_run.dropna()
        if common.empty:
            raise UserError(f"the runs of {label} on {task} have no step in common; evaluate them at the same steps")
        ends, values = by_run.apply(pd.Series.last_valid_index), common.to_numpy()  # values: [steps, runs]
        mean = values.mean(1)
        low, high = student_interval(mean, [values], level)
        part = {"label": label, "task": task, "step": common.index, "mean": mean, "low": low, "high": high}
        part |= {"n": values.shape[1], "of": most[task], "cut": bool(ends.min() < ends.max())}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def area(frame: pd.DataFrame) -> pd.DataFrame:
    """Area under each learning curve by trapezoids, over the span of its own steps: label, task, run, area; the input
    is that of `curve`, and area has the unit of value. NaN for a run with a single evaluation. Runs of unequal length
    are not comparable."""
    rows = []
    for key, own in _groups(_evaluations(frame), CURVE):
        steps, values = own["step"].to_numpy(float), own["value"].to_numpy()
        mean = np.trapezoid(values, steps) / (steps[-1] - steps[0]) if len(steps) > 1 else np.nan
        rows.append((*key, mean))
    return pd.DataFrame(rows, columns=[*CURVE, "area"])


def normalised(mean: Number, spread: Number, low: Number, high: Number) -> tuple[Number, Number]:
    """Mean and spread on the scale where `low` is 0 and `high` 100. A spread is divided by the span and not moved:
    the minimum cancels in a difference. Raises UserError where `high` is not above `low`."""
    if not np.all(np.less(low, high)):
        raise UserError(f"cannot normalise from {low} to {high}; the higher reference must be above the lower")
    return 100 * (mean - low) / (high - low), 100 * spread / (high - low)


def _scores(frame: pd.DataFrame) -> Scores:
    """The runs of each label and task as arrays by seed, all sorted. Raises UserError where they are no such frame."""
    frame = _checked(frame, ["label", "task", "seed"], "score")
    scores: Scores = {}
    for (label, task), own in _groups(frame, ["label", "task"]):
        scores.setdefault(label, {})[task] = own.set_index("seed")["score"]
    return scores


def _evaluations(frame: pd.DataFrame) -> pd.DataFrame:
    """label, task, run, step, value, sorted. Raises UserError where they are no such frame."""
    if "run" not in frame:
        frame = frame.rename(columns={"seed": "run"})
    return _checked(frame, [*CURVE, "step"], "value")


def _checked(frame: pd.DataFrame, keys: list[str], number: str) -> pd.DataFrame:
    """The columns `keys` and `number`, sorted by the keys. Raises UserError where one is missing, where there are no
    rows, where a number is none, or where two rows have the same keys."""
    if missing := [name for name in [*keys, number] if name not in frame]:
        raise UserError(f"no column {', '.join(missing)}; give {', '.join([*keys, number])}")
    if frame.empty:
        raise UserError("no runs to compare")
    rows: Any = frame[[*keys, number]]
    rows = rows.sort_values(keys, ignore_index=True).astype({number: float})
    bad = rows[~np.isfinite(rows[number])]
    if len(bad):
        raise UserError(f"the {number} of {_row(bad, keys)} is not a number; give complete runs only")
    twice = rows[rows.duplicated(keys)]
    if len(twice):
        raise UserError(f"two rows for {_row(twice, keys)}; give runs with other settings another label")
    return rows


def _groups(frame: Any, keys: list[str]) -> Iterator[tuple[tuple, Any]]:
    """The values of the keys, sorted, and the rows that have them."""
    yield from frame.groupby(keys)


def _row(frame: pd.DataFrame, keys: list[str]) -> str:
    return ", ".join(f"{name} {frame.iloc[0][name]}" for name in keys)


def _tasks(scores: Scores) -> list[str]:
    return sorted({task for by_task in scores.values() for task in by_task})


def _pairs(scores: Scores, of: Callable[..., Iterable[tuple]]) -> Iterator[tuple]:
    """x, y, their common tasks, the scores of x, the scores of y."""
    for x, y in of(scores, 2):
        yield x, y, [task for task in scores[x] if task in scores[y]], scores[x], scores[y]


def _named(name: str, numbers: Sequence[float]) -> dict[str, float]:
    return dict(zip((name, "low", "high"), numbers, strict=True))
