"""D4RL: the original's steps are replayed, and what cannot be shown to be the original's is refused.

`d4rl_physics_fingerprint.npz` holds states, actions and what one step leads to, as the original environments computed
it with mujoco_py and MuJoCo 2.1.0; and the masses and inertias of their models.
"""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from mac_bench import d4rl, tasks
from mac_bench.errors import UserError

FINGERPRINT = Path(__file__).parent / "reference" / "d4rl_physics_fingerprint.npz"
# (qpos, qvel and observation, reward): the largest error over 45 steps; measured are the numbers behind
LIMITS = {
    "hopper-medium-v2": (1e-9, 2e-7, 2e-8),  # 3.6e-10, 8.9e-8, 5.3e-9
    "halfcheetah-medium-v2": (6e-8, 2e-6, 2e-7),  # 2.9e-8, 6.3e-7, 5.1e-8
    "walker2d-medium-v2": (1e-8, 3e-6, 5e-8),  # 4.6e-9, 1.1e-6, 1.4e-8
    "ant-medium-v2": (3e-8, 1e-6, 5e-7),  # 1.1e-8, 4.4e-7, 2.5e-7
    "antmaze-umaze-v2": (4e-8, 1e-6, 1e-12),  # 1.8e-8, 3.4e-7, 0
    "antmaze-medium-play-v2": (4e-8, 1e-6, 1e-12),  # 1.8e-8, 3.4e-7, 0
    "antmaze-large-play-v2": (4e-8, 1e-6, 1e-12),  # 1.8e-8, 3.5e-7, 0
}


def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(FINGERPRINT, allow_pickle=False) as file:
        return {key.removeprefix(f"{name}/"): file[key] for key in file.files if key.startswith(f"{name}/")}


def made(name: str) -> tasks.Env:
    return tasks.Env(tasks.find(name))


def errors(name: str) -> tuple[np.ndarray, np.ndarray]:
    """[steps, 3] largest error in qpos, in qvel and observation, and in the reward; [steps] whether `done` agrees."""
    env, of = d4rl.Env(name), stored(name)
    raw, found, agree = env.unwrapped, [], []
    for i, action in enumerate(of["action"]):
        env.reset(seed=i)
        raw.set_state(of["qpos"][i], of["qvel"][i])
        obs, reward, over, _, _ = env.step(action)
        moved = max(np.abs(raw.data.qvel - of["next_qvel"][i]).max(), np.abs(obs - of["next_obs"][i]).max())
        found.append((np.abs(raw.data.qpos - of["next_qpos"][i]).max(), moved, abs(reward - of["reward"][i])))
        agree.append(over == of["done"][i])
    env.close()
    return np.array(found), np.array(agree)


@pytest.fixture(autouse=True)
def rounding():
    """gymnasium warns that it rounds the bounds of actions to float32; `tasks.make_env` silences it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered", category=UserWarning)
        yield


# physics


@pytest.mark.parametrize("name", LIMITS)
def test_one_step_is_the_original_s(name):
    found, agree = errors(name)
    assert len(found) == 45 and agree.all()
    assert (found.max(axis=0) <= LIMITS[name]).all(), found.max(axis=0)


@pytest.mark.parametrize("name", LIMITS)
def test_with_today_s_inertia_it_is_not(name, monkeypatch):
    monkeypatch.setattr(d4rl, "set_legacy_inertia", lambda *model: None)
    found, _ = errors(name)
    assert np.median(found[:, 0]) > 1e-6 and found[:, 0].max() > 1e-5


@pytest.mark.parametrize("name", [name for name in LIMITS if "body_mass" in stored(name)])
def test_masses_and_inertias_are_the_original_s(name):
    model, of = d4rl.Env(name).unwrapped.model, stored(name)
    for key in ("body_mass", "body_inertia", "body_ipos"):
        np.testing.assert_allclose(getattr(model, key), of[key], rtol=0, atol=1e-12)


def test_a_capsule_by_hand():
    """Radius 1, two ends 4 apart, density 1: a cylinder of length 5, which weighs 5 pi."""
    import mujoco

    body = '<body pos="0 0 9"><freejoint/><geom type="capsule" size="1 2" density="1"/></body>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{body}</worldbody></mujoco>")
    assert model.body_mass[1] == pytest.approx(np.pi * (4 + 4 / 3))
    d4rl.set_legacy_inertia(model, mujoco.MjData(model))
    assert model.body_mass[1] == pytest.approx(5 * np.pi)
    across = 5 * np.pi * (3 + 25) / 12
    np.testing.assert_allclose(model.body_inertia[1], [across, across, 5 * np.pi / 2])
    # setConst: how hard it is to push
    assert model.body_invweight0[1, 0] == pytest.approx(1 / (5 * np.pi))


def test_two_spheres_by_hand():
    """Radius 1 and mass 1, 6 apart: 2/5 each, and 9 more about the two axes across."""
    import mujoco

    geom = '<geom type="sphere" size="1" mass="1" pos="{} 0 0"/>'
    body = f"<body><freejoint/>{geom.format(-1)}{geom.format(5)}</body>"
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{body}</worldbody></mujoco>")
    d4rl.set_legacy_inertia(model, mujoco.MjData(model), total_mass=4.0)
    np.testing.assert_allclose(model.body_ipos[1], [2, 0, 0], atol=1e-12)
    np.testing.assert_allclose(model.body_inertia[1], [2 * 18.8, 2 * 18.8, 2 * 0.8])
    axis = np.zeros(9)
    mujoco.mju_quat2Mat(axis, model.body_iquat[1])
    np.testing.assert_allclose(np.abs(axis.reshape(3, 3)[:, 2]), [1, 0, 0], atol=1e-12)


@pytest.mark.parametrize(
    "name, low",
    [("antmaze-umaze-v2", (0, 8)), ("antmaze-medium-play-v2", (20, 20)), ("antmaze-large-play-v2", (32, 24))],
)
def test_goals_are_drawn_as_in_the_original(name, low):
    env, theirs = made(name), stored(name)["goal_samples"]
    ours = np.array([(env.reset(1, seed), env.raw.cur_goal_xy)[1] for seed in range(300)])
    for goals in (ours, theirs):
        assert (goals >= low).all() and (goals <= np.array(low) + 1.5).all()
    # U(0, 1) + U(0, 1/2): mean 3/4, deviation sqrt(1/12 + 1/48) = 0.323
    np.testing.assert_allclose(ours.mean(axis=0) - low, 0.75, atol=4 * 0.323 / 300**0.5)
    np.testing.assert_allclose(ours.std(axis=0), 0.323, atol=0.03)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4 * 0.323 * (1 / 300 + 1 / 100) ** 0.5).all()


def test_the_ant_starts_at_the_origin_and_ends_at_the_goal():
    env = made("antmaze-umaze-v2")
    starts = np.array([env.reset(1, seed)[0] for seed in range(50)])
    assert starts.shape == (50, 29) and (np.abs(starts[:, :2]) <= 0.1).all() and np.abs(starts[:, :2]).max() > 0.08
    assert starts[:, 15:].std() == pytest.approx(0.1, abs=0.01)
    for distance, there in ((0.55, False), (0.45, True)):
        env.reset(1, 0)
        qpos = env.raw.init_qpos.copy()
        qpos[:2] = env.raw.cur_goal_xy - [distance, 0]
        env.raw.set_state(qpos, np.zeros(14))
        step = env.step(np.zeros(8))
        assert (step.reward, step.done, step.success) == (float(there), there, there)


@pytest.mark.parametrize("name, limit", [("antmaze-umaze-diverse-v2", 700), ("antmaze-large-play-v2", 1000)])
def test_time_is_up(name, limit):
    env = made(name)
    env.reset(1, 0)
    assert [env.step(np.zeros(8)).done for _ in range(limit)] == [False] * (limit - 1) + [True]
    assert tasks.find(name).episode_limit == limit


def test_walls_stand_where_the_original_s_do():
    """Cells of 4, the start's at the origin, in the order of its rows; umaze has 5 x 5 cells, of which 18 are walls."""
    model = d4rl.Env("antmaze-umaze-v2").unwrapped.model
    walls = model.geom_pos[np.flatnonzero((model.geom_type == 6) & (model.geom_bodyid == 0))]
    assert len(walls) == 18
    assert walls[:2].tolist() == [[-4, -4, 1], [0, -4, 1]] and [4, 4, 1] in walls.tolist()
    assert [0, 8, 1] not in walls.tolist() and [8, 4, 1] not in walls.tolist()


def returns(robot: str, episodes: int, fallen: bool) -> np.ndarray:
    """Of a random policy; `fallen`: it goes on after a fall, which the original's episodes end with."""
    env, rng = made(f"{robot}-random-v2"), np.random.default_rng(0)
    found = []
    for seed in range(episodes):
        env.reset(1, seed)
        total, done, left = 0.0, False, env.task.episode_limit
        while left and (fallen or not done):
            step, left = env.step(rng.uniform(-1, 1, env.action_size)), left - 1
            total, done = total + step.reward, step.done
            assert not step.success
        found.append(total)
    return np.array(found)


@pytest.mark.parametrize(
    "robot, episodes, fallen", [("walker2d", 100, False), ("halfcheetah", 10, False), ("ant", 8, True)]
)
def test_chance_scores_nothing(robot, episodes, fallen):
    """The published minimum is a random policy's return; ant's is that of 1,000 steps, fallen or not, for which 100
    episodes give -331 +- 5. Hopper's, -20, is neither: 19 +- 2 with an end and 927 +- 12 without."""
    found, published = returns(robot, episodes, fallen), d4rl.ROBOTS[robot].score_scale[0]
    assert abs(found.mean() - published) < 4 * found.std(ddof=1) / episodes**0.5


@pytest.mark.parametrize("name", ["hopper-medium-v2", "ant-expert-v2", "antmaze-medium-diverse-v2"])
def test_an_episode_is_a_function_of_the_seed(name):
    def play(env, seed):
        seen, rng = [env.reset(1, seed)[0]], np.random.default_rng(seed)
        for _ in range(15):
            step = env.step(rng.uniform(-1, 1, env.action_size))
            seen += [step.obs, [step.reward]]
        return np.concatenate([*seen, *env.state().values()])

    one, other = made(name), made(name)
    first = play(one, 7)
    play(one, 8)
    np.random.seed(3)
    np.testing.assert_array_equal(play(one, 7), first)
    np.testing.assert_array_equal(play(other, 7), first)
    assert (play(other, 8) != first).any()


def test_making_one_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("walker2d-medium-v2", "antmaze-large-diverse-v2"):
            made(name).close()


# names


def test_names_sizes_and_scores():
    assert len(d4rl.ENTRIES) == 4 * 6 + 2 * 6
    for robot in (
        "hopper-full-replay-v2",
        "halfcheetah-random-v2",
        "walker2d-medium-expert-v2",
        "ant-medium-replay-v2",
    ):
        env = made(robot)
        assert (env.observation_size, env.action_size) == d4rl.ENTRIES[robot].sizes and env.goal_size is None
        assert (env.task.episode_limit, env.task.eval_tasks, env.task.dataset) == (1000, (1,), robot)
    hopper, maze = tasks.find("hopper-medium-v2"), tasks.find("antmaze-large-play-v2")
    assert hopper.score(False, 3234.3) == 1 and hopper.score(False, -20.272305) == 0
    assert hopper.score(False, 6488.872305) == pytest.approx(2) and hopper.score(False, -100) < 0
    assert (maze.score(True, 1.0), maze.score(False, 0.0)) == (1, 0)
    assert hopper.world()["measure"] == "normalised score" and maze.world()["measure"] == "success"
    assert hopper.world()["simulator"].startswith("d4rl-legacy-inertia (gymnasium 1.")
    assert tasks.find("antmaze-large-navigate-v0").world() == {"simulator": "ogbench", "measure": "success"}


def test_the_ant_s_observation_ends_with_zeros():
    obs, _ = made("ant-medium-v2").reset(1, 0)
    assert obs.shape == (111,) and (obs[:27] != 0).any() and (obs[27:] == 0).all()


@pytest.mark.parametrize(
    "name, reason",
    [
        ("kitchen-complete-v0", "D4RL's kitchen is refused, as its modern environment has other observations"),
        ("pen-human-v1", "D4RL's pen is refused, as nothing shows that modern hands move as its hands did"),
        ("maze2d-large-v1", "D4RL's maze2d is refused, as nothing shows that modern walls act as its walls did"),
        ("hopper-medium-v0", "data have flaws; it is hopper-medium-v2"),
        ("antmaze-medium-play-v1", "it is antmaze-medium-play-v2"),
        ("walker2d-expert-v5", "later environments have other physics; it is walker2d-expert-v2"),
        ("hopper-medum-v2", "did you mean hopper-medium-v2"),
    ],
)
def test_other_names_are_refused(name, reason):
    with pytest.raises(UserError, match=re.escape(reason)) as error:
        tasks.find(name)
    assert f"'{name}'" in str(error.value) and "\n" not in str(error.value)
