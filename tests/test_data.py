"""Pieces, goals and scaling by law."""

import numpy as np
import pytest

from mac_bench.config import GoalMix
from mac_bench.data import Dataset, fit_scaling, prefetch
from mac_bench.errors import UserError
from mac_bench.types import GoalSampling, Sampling

LENGTHS = [7, 3, 12, 5]
"""rows of each episode"""


def numbered(goals: bool = False) -> Dataset:
    """Every row knows its episode and its place in it."""
    episode = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    place = np.concatenate([np.arange(length) for length in LENGTHS])
    rows = np.stack([episode, place], axis=1).astype(np.float32)
    return Dataset(
        observations=rows,
        actions=rows / 100,
        ends=np.cumsum(LENGTHS) - 1,
        rewards=None if goals else place.astype(np.float32),
        alive=None if goals else (place != 4).astype(np.float32),
        goals=rows if goals else None,
    )


@pytest.mark.parametrize("horizon", [1, 2, 4, 11])
def test_pieces_stay_inside_their_episode_and_are_consecutive(horizon):
    batch = numbered().sample(Sampling(500, horizon, path=True), seed=0, step=1)
    steps = np.arange(horizon + 1)
    np.testing.assert_array_equal(batch.path[:, :, 0], np.broadcast_to(batch.obs[:, :1], (500, horizon + 1)))
    np.testing.assert_array_equal(batch.path[:, :, 1], batch.obs[:, 1:] + steps)
    np.testing.assert_array_equal(batch.path[:, -1], batch.next_obs)
    np.testing.assert_array_equal(batch.path[:, :-1] / np.float32(100), batch.actions)
    np.testing.assert_array_equal(batch.path[:, :-1, 1], batch.rewards)


def test_every_possible_piece_is_drawn_equally_often():
    data, horizon = numbered(), 4
    drawn = data.draw(np.random.default_rng(0), 60_000, horizon)
    starts, counts = np.unique(drawn, return_counts=True)
    ends = np.cumsum(LENGTHS) - 1
    possible = [t for t in range(sum(LENGTHS)) if ends[np.searchsorted(ends, t)] - t >= horizon]
    assert starts.tolist() == possible
    expected = 60_000 / len(possible)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_one_data_set_is_drawn_from_with_several_horizons():
    data = numbered()
    for horizon in (1, 4, 1, 11, 4):
        expected = numbered().sample(Sampling(50, horizon), 0, 1)
        np.testing.assert_array_equal(data.sample(Sampling(50, horizon), 0, 1).index, expected.index)


def test_no_episode_is_long_enough():
    with pytest.raises(UserError, match="no episode has 12 transitions; the longest has 11"):
        numbered().sample(Sampling(4, 12), 0, 0)


def test_alive_stays_zero_after_the_end():
    batch = numbered().pieces(np.array([2, 4, 5]), 2)
    # the third row of this episode is place 4, where the task ends
    np.testing.assert_array_equal(batch.alive, [[1, 1], [0, 0], [1, 1]])
    np.testing.assert_array_equal(numbered().pieces(np.array([10]), 8).alive, [[1, 1, 1, 1, 0, 0, 0, 0]])


@pytest.mark.parametrize("geometric", [False, True])
def test_goals_of_each_kind_are_where_they_belong(geometric):
    data, index = numbered(goals=True), np.repeat(np.arange(sum(LENGTHS)), 200)
    ends = np.repeat(np.cumsum(LENGTHS) - 1, np.array(LENGTHS) * 200)
    np.testing.assert_array_equal(data.last(index), ends)
    rng = np.random.default_rng(0)
    assert (data.draw_goals(rng, index, ends, GoalMix(current=1, future=0, random=0), 0.5) == index).all()
    future = data.draw_goals(rng, index, ends, GoalMix(current=0, future=1, random=0, geometric=geometric), 0.5)
    last = index == ends
    assert (future[~last] > index[~last]).all() and (future <= ends).all() and (future[last] == index[last]).all()
    anywhere = data.draw_goals(rng, index, ends, GoalMix(current=0, future=0, random=1), 0.5)
    assert set(anywhere) == set(range(sum(LENGTHS)))


def test_future_goals_are_uniform_or_geometric():
    data, index, rng = numbered(goals=True), np.full(40_000, 10), np.random.default_rng(0)
    distance = data.draw_goals(rng, index, data.last(index), GoalMix(current=0, future=1, random=0), 0.5) - index
    np.testing.assert_allclose(np.bincount(distance, minlength=12)[1:] / 40_000, 1 / 11, atol=0.01)
    distance = (
        data.draw_goals(rng, index, data.last(index), GoalMix(current=0, future=1, random=0, geometric=True), 0.5)
        - index
    )
    np.testing.assert_allclose(np.bincount(distance)[1:4] / 40_000, [0.5, 0.25, 0.125], atol=0.01)


def test_goal_mix_has_its_probabilities():
    data, index = numbered(goals=True), np.zeros(40_000, int)
    mix = GoalMix(current=0.2, future=0.5, random=0.3)
    goals = data.draw_goals(np.random.default_rng(0), index, data.last(index), mix, 0.5)
    # row 0 is also hit by the random goals, and so are the rows 1 to 6 of its episode
    assert (goals == 0).mean() == pytest.approx(0.2 + 0.3 / 27, abs=0.01)
    assert ((goals > 0) & (goals < 7)).mean() == pytest.approx(0.5 + 0.3 * 6 / 27, abs=0.01)


def test_reached_and_distance_say_where_the_value_goal_lies():
    data = numbered(goals=True)
    mix = GoalMix(current=0.2, future=0.6, random=0.2)
    batch = data.sample(Sampling(2000, 3, GoalSampling(mix, mix, 0.9)), 0, 0)
    same_episode = batch.goals.value[:, 0] == batch.obs[:, 0]
    ahead = batch.goals.value[:, 1] - batch.obs[:, 1]
    np.testing.assert_array_equal(batch.goals.reached, same_episode & (ahead >= 0) & (ahead < 3))
    assert 0.2 < batch.goals.reached.mean() < 0.9
    # the last row of the episode is still ahead; earlier rows and other episodes, also the next one, are not
    distance = np.where(same_episode & (ahead >= 0), ahead, np.inf)
    np.testing.assert_array_equal(batch.goals.distance, distance)
    assert {0, 1, 11, np.inf} <= set(distance) and batch.goals.distance.dtype == np.float32


def test_batches_are_functions_of_seed_and_step():
    data, sampling = numbered(), Sampling(64, 2)
    one = data.sample(sampling, 3, 17)
    for name, again in zip(one._fields, data.sample(sampling, 3, 17), strict=True):
        np.testing.assert_array_equal(getattr(one, name), again, name)
    assert (data.sample(sampling, 3, 18).index != one.index).any()
    assert (data.sample(sampling, 4, 17).index != one.index).any()


def test_memory_mapped_columns_give_the_same_batches(tmp_path):
    data = numbered()
    data.save(tmp_path / "columns")
    mapped = Dataset.open(tmp_path / "columns")
    assert isinstance(mapped.observations, np.memmap) and mapped.digest == data.digest
    for ours, theirs in zip(data.sample(Sampling(64, 3), 0, 1), mapped.sample(Sampling(64, 3), 0, 1), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    (tmp_path / "columns" / "columns.json").unlink()
    with pytest.raises(UserError, match="no complete set of columns"):
        Dataset.open(tmp_path / "columns")


def test_digest_tells_data_apart():
    changed = numbered()
    changed.rewards[3] += 1
    assert changed.digest != numbered().digest == numbered().digest


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="3 rows of actions do not go with 4 rows of observations"):
        Dataset(np.zeros((4, 2)), np.zeros((3, 1)), np.array([3]))
    with pytest.raises(UserError, match="finish at the last row 3"):
        Dataset(np.zeros((4, 2)), np.zeros((4, 1)), np.array([2]))


def test_scaling_maps_to_its_range():
    column = np.random.default_rng(0).normal(3, 10, (1000, 4)).astype(np.float32)
    column[:, 3] = 7  # a constant column stays finite
    scaled = fit_scaling("minmax", column)(column)
    np.testing.assert_allclose([scaled[:, :3].min(), scaled[:, :3].max()], [-1, 1], atol=1e-3)
    assert (scaled[:, 3] == 0).all()
    scaled = fit_scaling("meanstd", column)(column)
    np.testing.assert_allclose(scaled[:, :3].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled[:, :3].std(axis=0), 1, atol=1e-3)
    np.testing.assert_array_equal(fit_scaling("none", column)(column), column)


def test_prefetch_keeps_the_order_and_passes_errors_on():
    assert list(prefetch(lambda step: step**2, 3, 9)) == [9, 16, 25, 36, 49, 64]
    assert list(prefetch(lambda step: step, 5, 5)) == []

    def fails_at_four(step):
        if step == 4:
            raise UserError("four")
        return step

    with pytest.raises(UserError, match="four"):
        list(prefetch(fails_at_four, 0, 9))
