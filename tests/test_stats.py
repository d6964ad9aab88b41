import numpy as np
import pytest
import scipy.stats

from mac_bench.stats import Interval, bootstrap_interval, iqm, task_iqm, task_mean

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


def test_interval_of_one_task_equals_scipy():
    low, high = bootstrap_interval(SCORES[:1], draws=5000, seed=3)
    expected = scipy.stats.bootstrap(
        (SCORES[0],), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(3), vectorized=True
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("statistic", [task_mean, task_iqm])
def test_stratified_interval_equals_scipy(statistic):
    result = bootstrap_interval(SCORES, statistic, level=0.9, draws=3000, seed=5)
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


def test_interval_by_hand():
    # two seeds 0 and 1: the mean of a draw is 0, 1/2, 1 with probability 1/4, 1/2, 1/4
    assert bootstrap_interval([[0.0, 1.0]], level=0.95) == Interval(0.0, 1.0)
    assert bootstrap_interval([[0.0, 1.0]], level=0.4) == Interval(0.5, 0.5)


def test_resampling_stays_within_tasks():
    # seeds agree within each task: whatever is drawn, the mean is the same; drawn across tasks it would vary
    assert bootstrap_interval([[0.2, 0.2], [0.8, 0.8]]) == pytest.approx((0.5, 0.5))


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        low, high = bootstrap_interval([rng.normal(size=30)], level=0.9, draws=500, seed=trial)
        hits += low <= 0 <= high
    assert 0.83 <= hits / 300 <= 0.95  # 0.9 with three standard errors, less the known shortfall of about 0.02


def test_interval_needs_two_seeds_of_every_task():
    assert np.isnan(bootstrap_interval([[0.5]])).all()
    assert np.isnan(bootstrap_interval([[0.5, 0.6, 0.7], [0.4]])).all()
    assert np.isnan(bootstrap_interval([])).all()


def test_same_seed_same_interval():
    assert bootstrap_interval(SCORES, seed=1, draws=200) == bootstrap_interval(SCORES, seed=1, draws=200)
    assert bootstrap_interval(SCORES, seed=1, draws=200) != bootstrap_interval(SCORES, seed=2, draws=200)
