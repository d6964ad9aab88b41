"""The scripted policies, held against the tasks themselves: through our own evaluation, as any agent."""

from itertools import product

import numpy as np
import pytest

from baselines.oracle import Oracle
from mac_bench import oracles, tasks
from mac_bench.config import EvalConfig
from mac_bench.data import Dataset
from mac_bench.errors import UserError
from mac_bench.evaluate import Evaluator, overall


@pytest.mark.parametrize(
    "name",
    [
        "pointmaze-medium-navigate-v0",
        "cube-single-play-singletask-task4-v0",
        "cube-double-play-oraclerep-v0",
        "puzzle-3x3-play-singletask-task5-v0",
        "puzzle-3x3-play-v0",
    ],
)
def test_it_solves_every_goal_and_every_reward(name):
    with Evaluator(tasks.find(name), EvalConfig(every=1, episodes=1, parallel=5), 0) as evaluate:
        results, _ = evaluate(Oracle(name), 1)
    assert overall(results) == 1, results


def test_the_fewest_presses_by_trying_all():
    rows, columns = 2, 3
    near = np.array(
        [[abs(i // 3 - j // 3) + abs(i % 3 - j % 3) <= 1 for j in range(rows * columns)] for i in range(rows * columns)]
    )
    for difference in product((0, 1), repeat=rows * columns):
        sets = [np.array(chosen) for chosen in product((0, 1), repeat=rows * columns)]
        right = [chosen for chosen in sets if ((chosen @ near) % 2 == difference).all()]
        if not right:
            with pytest.raises(UserError, match="no presses"):
                oracles.presses(np.array(difference, np.uint8), rows, columns)
            continue
        found = oracles.presses(np.array(difference, np.uint8), rows, columns)
        assert (near[found].sum(axis=0) % 2 == difference).all()
        assert len(found) == min(chosen.sum() for chosen in right)


def test_a_cube_in_the_way_is_put_aside_first():
    cubes = np.array([[0.4, -0.1, 0.02], [0.4, 0.1, 0.02]])
    policy = object.__new__(oracles.Cubes)
    policy.count, policy.grid = 2, np.array([[0.4, 0.1, 0.02], [0.3, 0.0, 0.02]])
    swapped = cubes[::-1].copy()
    above = {"proprio/effector_pos": np.array([0.4, 0.0, 0.3]), "proprio/gripper_contact": np.zeros(1)}
    assert policy._choose(above, cubes, swapped) == 0
    np.testing.assert_array_equal(policy._destination(0, cubes, swapped), [0.3, 0.0, 0.02])
    aside = np.array([[0.3, 0.0, 0.02], cubes[1]])
    assert policy._choose(above, aside, swapped) == 1, "its place is free now"
    np.testing.assert_array_equal(policy._destination(1, aside, swapped), cubes[0])


def test_after_a_press_it_rises_before_it_goes_to_the_next():
    policy = oracles.oracle(tasks.find("puzzle-3x3-play-oraclerep-v0"))
    obs = np.zeros(policy.sizes[0], np.float32)
    obs[oracles.ARM :: oracles.BUTTON] = 1  # every button is 0
    goal = np.zeros(9, np.float32)
    goal[[8, 7, 5]] = 1  # one press, of the button in the last corner
    for height in (0.0, 0.12):
        obs[12:15] = (policy.tops[0] + [0, 0, height] - oracles.CENTER) * oracles.SCALE
        sideways, up = np.linalg.norm(policy.act(obs, goal)[:2]), policy.act(obs, goal)[2]
        if height:
            assert sideways > 0.5
        else:
            assert sideways < 0.01 and up > 0.5


def test_what_has_no_script_is_refused():
    from baselines import oracle

    with pytest.raises(UserError, match=r"no oracle for scene-play-v0: there are scripts for pointmaze, cube, puzzle"):
        oracles.oracle(tasks.find("scene-play-v0"))
    rows = np.zeros((9, 2), np.float32)
    with pytest.raises(UserError, match="needs to know the task"):
        oracle.make(oracle.Config(), Dataset(rows, rows, np.array([8])), 0)
