"""Evaluation: complete seeding, whatever the number of processes, and chunks that are executed whole."""

import numpy as np
import pytest
from conftest import GOAL_TASK, TASK

from mac_bench import tasks
from mac_bench.config import EvalConfig
from mac_bench.errors import UserError
from mac_bench.evaluate import Evaluator, overall
from mac_bench.types import Sampling


class Walker:
    """Drifts in a direction that depends on the seed, K actions at a time; remembers what it was asked."""

    sampling = Sampling(1)

    def __init__(self, chunk: int):
        self.chunk, self.asked = chunk, []

    def act(self, obs, goal, *, seed):
        self.asked.append((obs.copy(), None if goal is None else goal.copy(), seed))
        heading = np.random.default_rng(seed).normal(size=(len(obs), 1, 2)).astype(np.float32)
        return np.clip(np.repeat(heading, self.chunk, axis=1), -1, 1)


class Guide(Walker):
    """Walks straight to the goal: solves the tasks whose way is free."""

    def act(self, obs, goal, *, seed):
        return np.clip((goal - obs)[:, None], -1, 1).astype(np.float32)


def play(agent, name: str, protocol: EvalConfig, workers: int = 0, step: int = 10, **options):
    with Evaluator(tasks.find(name), protocol, seed=3, workers=workers) as evaluator:
        return evaluator(agent, step, **options)


def test_the_number_of_processes_changes_nothing():
    protocol = EvalConfig(every=1, episodes=3, parallel=2)
    expected, _ = play(Walker(5), TASK, protocol)
    assert [result["episodes"] for result in expected] == [3]
    for workers in (1, 2):
        assert play(Walker(5), TASK, protocol, workers)[0] == expected


def test_the_same_agent_meets_the_same_episodes_and_another_step_meets_others():
    protocol = EvalConfig(every=1, episodes=2, parallel=10)
    once, again, later = Walker(50), Walker(50), Walker(50)
    assert play(once, GOAL_TASK, protocol) == play(again, GOAL_TASK, protocol)
    for (obs, goal, seed), (obs2, goal2, seed2) in zip(once.asked, again.asked, strict=True):
        np.testing.assert_array_equal(obs, obs2)
        np.testing.assert_array_equal(goal, goal2)
        assert seed == seed2
    play(later, GOAL_TASK, protocol, step=20)
    assert (later.asked[0][0] != once.asked[0][0]).any()


def test_chunks_are_executed_whole_up_to_the_limit():
    agent = Walker(300)
    results, _ = play(agent, TASK, EvalConfig(every=1, episodes=2, parallel=2))
    # 1,000 steps are three whole chunks and a part of the fourth
    assert results[0]["length"] == 1000 and len(agent.asked) == 4 and results[0]["return"] == -1000


def test_success_counts_and_ends_an_episode():
    results, _ = play(Guide(1), GOAL_TASK, EvalConfig(every=1, episodes=2, parallel=4))
    assert [result["task"] for result in results] == [1, 2, 3, 4, 5]
    for result in results:
        assert (result["success"] == 1) == (result["length"] < 1000)
    assert 0 <= overall(results) == np.mean([result["success"] for result in results])


def test_films_are_the_states_of_the_first_episodes():
    results, films = play(Walker(100), TASK, EvalConfig(every=1, episodes=2, parallel=2), films=1)
    assert list(films) == [(1, 0)]
    assert len(films[1, 0]) == 1001 and films[1, 0][0]["qpos"].shape == (2,)
    assert results == play(Walker(100), TASK, EvalConfig(every=1, episodes=2, parallel=2))[0]


def test_a_process_that_died_is_reported_in_one_line():
    with Evaluator(tasks.find(TASK), EvalConfig(every=1, episodes=1, parallel=1), seed=3, workers=1) as evaluator:
        evaluator(Walker(100), 10)
        evaluator.groups[0].process.kill()
        evaluator.groups[0].process.join()
        with pytest.raises(UserError, match=r"an evaluation process died \(exit code -9\)"):
            evaluator(Walker(100), 20)


def test_a_beat_may_stop_it():
    def stop():
        raise TimeoutError

    with pytest.raises(TimeoutError):
        play(Walker(1), TASK, EvalConfig(every=1, episodes=2, parallel=2), beat=stop)
