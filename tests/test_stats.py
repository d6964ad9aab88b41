import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from mac_bench.errors import UserError
from mac_bench.stats import (
    Interval,
    bootstrap_interval,
    iqm,
    optimality_gap,
    student_interval,
    task_iqm,
    task_mean,
    task_median,
    win_interval,
    win_probability,
)

SCORES = [np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.9, 0.7, 0.95])]


def test_iqm_by_hand():
    assert iqm(np.array([1, 2, 3, 4])) == 2.5  # 1 and 4 are cut
    assert iqm(np.array([100, 1, 2])) == pytest.approx(103 / 3)  # floor(3/4) = 0: nothing is cut
    assert iqm(np.array([0, 3, 4, 5, 6, 7, 8, 1000])) == 5.5  # 0, 3 and 8, 1000 are cut


@pytest.mark.parametrize("n", [1, 2, 5, 8, 13, 40])
def test_iqm_is_scipys_trimmed_mean(n):
    x = np.random.default_rng(n).normal(size=(3, n))
    np.testing.assert_allclose(iqm(x, axis=1), scipy.stats.trim_mean(x, 0.25, axis=1), rtol=1e-12)
    np.testing.assert_allclose(iqm(x, axis=0), scipy.stats.trim_mean(x, 0.25, axis=0), rtol=1e-12)
    np.testing.assert_allclose(iqm(x), scipy.stats.trim_mean(x.ravel(), 0.25), rtol=1e-12)


def test_iqm_of_nothing_is_nan():
    assert np.isnan(iqm(np.array([])))


def test_tasks_weigh_the_same_in_the_mean_and_runs_in_the_iqm():
    scores = [np.array([0.0, 0.0, 0.0]), np.array([1.0])]
    assert task_mean(scores) == 0.5
    assert task_iqm([np.array([0.0, 0.0, 0.0]), np.array([0.3])]) == 0.0  # sorted 0 0 0 .3: one cut at each end


def test_percentile_interval_of_one_task_equals_scipy():
    low, high = bootstrap_interval(SCORES[:1], draws=5000, seed=3, kind="percentile")
    expected = scipy.stats.bootstrap(
        (SCORES[0],), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(3), vectorized=True
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("statistic", [task_mean, task_iqm])
def test_stratified_percentile_interval_equals_scipy(statistic):
    result = bootstrap_interval(SCORES, statistic, level=0.9, draws=3000, seed=5, kind="percentile")
    expected = scipy.stats.bootstrap(
        SCORES,
        lambda *tasks, axis: statistic(tasks),
        n_resamples=3000,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(5),
        vectorized=True,
    ).confidence_interval
    assert result == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_percentile_interval_by_hand():
    # two seeds 0 and 1: the mean of a draw is 0, 1/2, 1 with probability 1/4, 1/2, 1/4
    assert bootstrap_interval([[0.0, 1.0]], level=0.95, kind="percentile") == Interval(0.0, 1.0)
    assert bootstrap_interval([[0.0, 1.0]], level=0.4, kind="percentile") == Interval(0.5, 0.5)


def test_resampling_stays_within_tasks():
    # seeds agree within each task: whatever is drawn, the mean is the same; drawn across tasks it would vary
    assert bootstrap_interval([[0.2, 0.2], [0.8, 0.8]]) == pytest.approx((0.5, 0.5))


def test_student_interval_by_hand():
    # two seeds 0 and 1: mean 1/2, standard error sqrt(1/2 / 2) = 1/2, and t of one degree of freedom is tan(0.475 pi)
    half = 0.5 * np.tan(0.475 * np.pi)
    assert bootstrap_interval([[0.0, 1.0]]) == pytest.approx((0.5 - half, 0.5 + half))
    assert bootstrap_interval([[0.0, 1.0]], bounds=(0, 1)) == Interval(0.0, 1.0)
    # a task without spread adds no uncertainty and no degrees of freedom: half of the above
    assert bootstrap_interval([[0.0, 1.0], [0.3] * 7]) == pytest.approx((0.4 - half / 2, 0.4 + half / 2))


def test_interval_of_the_mean_is_students_and_welchs():
    a, b = np.array([0.3, 1.4, 0.9, 2.2]), np.array([-1.0, 4.0, 2.5])
    assert bootstrap_interval([a], level=0.9) == pytest.approx(
        tuple(scipy.stats.ttest_1samp(a, 0).confidence_interval(0.9))
    )
    welch = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    assert bootstrap_interval([2 * a, -2 * b], level=0.9) == pytest.approx(tuple(welch))  # the mean of both is a - b


def test_bootstrap_tends_to_the_interval_of_the_mean():
    tasks = [np.array([0.3, 1.4, 0.9, 2.2]), np.array([-1.0, 4.0, 2.5]), np.array([7.0, 7.0])]
    drawn = bootstrap_interval(tasks, lambda scores: task_mean(scores), draws=200_000)
    assert drawn == pytest.approx(bootstrap_interval(tasks, task_mean), abs=0.02)


def test_student_interval_takes_many_samples_at_once():
    x, y = np.random.default_rng(0).normal(size=(2, 3, 5))
    low, high = student_interval((x.mean(1) + y.mean(1)) / 2, [x, y], 0.95)
    for i in range(3):
        assert (low[i], high[i]) == pytest.approx(bootstrap_interval([x[i], y[i]]))


@pytest.mark.parametrize("statistic", [task_mean, task_median, task_iqm, partial(optimality_gap, target=1.0)])
def test_interval_without_spread_is_a_point(statistic):
    tasks = [np.full(3, 0.2), np.full(4, 0.1 + 0.2)]  # whose variance is not zero in floating point
    assert bootstrap_interval(tasks, statistic) == pytest.approx((statistic(tasks),) * 2, abs=1e-12)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_level_is_a_share(level):
    with pytest.raises(UserError, match=r"such as 0\.95"):
        bootstrap_interval(SCORES, level=level)


def coverage(statistic, tasks: int, seeds: int, rate: float | None, repetitions: int, kind="student") -> float:
    """How often 95 % intervals enclose the truth: of normal scores, or of success rates of 50 episodes."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(repetitions):
        shape = (tasks, seeds)
        scores = rng.normal(size=shape) if rate is None else rng.binomial(50, rate, size=shape) / 50
        low, high = bootstrap_interval(list(scores), statistic, draws=300, seed=trial, kind=kind)
        hits += low - 1e-9 <= (rate or 0) <= high + 1e-9
    return hits / repetitions


@pytest.mark.parametrize("rate", [None, 0.5, 0.9])
@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize(("statistic", "tasks"), [(task_mean, 1), (task_mean, 5), (task_mean, 10), (task_iqm, 5)])
def test_interval_covers_as_often_as_it_says(statistic, tasks, seeds, rate):
    assert 0.93 <= coverage(statistic, tasks, seeds, rate, repetitions=1000) <= 0.97


def test_percentile_interval_covers_less():
    assert coverage(task_mean, 1, 3, None, 500, "percentile") < 0.8
    assert coverage(task_mean, 1, 5, None, 500, "percentile") < 0.88
    assert coverage(task_mean, 1, 3, None, 500) > 0.93


def test_median_and_gap_by_hand():
    scores = [np.array([0.0, 30.0]), np.array([90.0, 110.0, 130.0]), np.array([40.0])]
    assert task_median(scores) == 40  # of 15, 110, 40
    assert optimality_gap(scores, 100.0) == pytest.approx((85 + 10 / 3 + 60) / 3)


def test_win_probability_by_hand():
    x, y = [np.array([1.0, 2.0]), np.array([5.0])], [np.array([1.0, 0.0, 3.0]), np.array([4.0, 6.0])]
    assert win_probability(x, y) == pytest.approx((3.5 / 6 + 1 / 2) / 2)  # 1: tie, win, loss; 2: win, win, loss
    assert win_probability(y, x) == pytest.approx(1 - win_probability(x, y))


def test_win_probability_is_scipys():
    x, y = np.array([3.0, 5.0, 4.0, 8.0, 2.0]), np.array([1.0, 4.0, 3.5, 2.0])
    assert win_probability([x], [y]) == pytest.approx(scipy.stats.mannwhitneyu(x, y).statistic / 20)


def test_win_interval_is_that_of_independent_duels():
    # one of three runs of x wins twice, another once, on each of two tasks: 3 of 9, as 2 of 6 duels
    x, y = [np.array([0.0, 1.5, 2.5]), np.array([9.0, 11.5, 12.5])], [np.arange(1.0, 4), np.arange(11.0, 14)]
    expected = scipy.stats.binomtest(2, 6).proportion_ci(0.9, method="exact")
    assert win_interval(x, y, 0.9) == pytest.approx((expected.low, expected.high))


def test_win_interval_where_all_go_one_way():
    # two tasks with three runs at least: six duels all won, which has 2.5 % where the probability is 0.025^(1/6)
    x, y = [np.array([3.0, 4.0, 5.0]), np.array([6.0, 7.0, 8.0, 9.0])], [np.zeros(3), np.ones(5)]
    assert win_interval(x, y) == pytest.approx((0.025 ** (1 / 6), 1))
    assert win_interval(y, x) == pytest.approx((0, 1 - 0.025 ** (1 / 6)))


def test_who_wins_more_is_never_less_sure():
    y = np.arange(5.0)
    ends = [win_interval([np.sort(y + shift)], [y]) for shift in np.linspace(-5, 5, 41)]
    assert all(a.low <= b.low and a.high <= b.high for a, b in pairwise(ends))
    assert ends[0].low == 0 and ends[-1].high == 1


@pytest.mark.parametrize(("tasks", "distance"), [(1, 2.0), (5, 1.0), (5, 3.3)])
def test_win_interval_covers_at_least_as_often_as_it_says(tasks, distance):
    rng = np.random.default_rng(0)
    truth = scipy.stats.norm.cdf(distance / np.sqrt(2))
    hits = 0
    for _ in range(1000):
        low, high = win_interval(list(rng.normal(distance, size=(tasks, 5))), list(rng.normal(size=(tasks, 5))))
        hits += low <= truth <= high
    assert hits / 1000 >= 0.95


RLIABLE = json.loads((Path(__file__).parent / "reference" / "rliable.json").read_text())
RLIABLE_TASKS = {label: list(np.array(scores).T) for label, scores in RLIABLE["scores"].items()}


def same(ours: Interval, theirs: dict) -> bool:
    """Whether the ends agree but for the draws: their distance is small next to the width."""
    return ours == pytest.approx((theirs["low"], theirs["high"]), abs=0.05 * (theirs["high"] - theirs["low"]) + 1e-9)


@pytest.mark.parametrize("label", ["x", "y"])
def test_aggregates_are_rliables(label):
    tasks = RLIABLE_TASKS[label]
    gap = partial(optimality_gap, target=RLIABLE["target"])
    named = {"mean": task_mean, "median": task_median, "iqm": task_iqm, "optimality_gap": gap}
    assert set(named) == set(RLIABLE["aggregates"][label])
    for name, expected in RLIABLE["aggregates"][label].items():
        assert named[name](tasks) == pytest.approx(expected["value"], abs=1e-8)
        assert same(bootstrap_interval(tasks, named[name], kind="percentile"), expected)


def test_win_probability_is_rliables():
    x, y = RLIABLE_TASKS["x"], RLIABLE_TASKS["y"]
    expected = RLIABLE["improvement"]
    assert win_probability(x, y) == pytest.approx(expected["value"])
    drawn = bootstrap_interval(x + y, lambda both: win_probability(both[:4], both[4:]), kind="percentile")
    assert same(drawn, expected)


def test_interval_needs_two_seeds_of_every_task():
    assert np.isnan(bootstrap_interval([[0.5]])).all()
    assert np.isnan(bootstrap_interval([[0.5, 0.6, 0.7], [0.4]])).all()
    assert np.isnan(bootstrap_interval([])).all()


def test_same_seed_same_interval():
    drawn = partial(bootstrap_interval, SCORES, task_iqm, draws=200)
    assert drawn(seed=1) == drawn(seed=1)
    assert drawn(seed=1) != drawn(seed=2)
