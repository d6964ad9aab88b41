"""Names, environments and labels are OGBench's own, and an episode is a function of (task, seed)."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mac_bench import tasks
from mac_bench.errors import UserError
from mac_bench.files import write_arrays
from mac_bench.generate import generate
from mac_bench.manifest import UNFINISHED

POINT, CUBE, PUZZLE = "pointmaze-medium-navigate-v0", "cube-single-play-v0", "puzzle-3x3-play-v0"
SCENE = "scene-play-v0"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data folder with a small data set of each family that can be made."""
    folder = tmp_path_factory.mktemp("data")
    generate(POINT, folder, episodes=3, length=120)
    generate(CUBE, folder, episodes=2, length=30)
    generate(PUZZLE, folder, episodes=2, length=30)
    generate(SCENE, folder, episodes=2, length=30)
    return folder


def named(dataset: str, mode: str) -> tasks.Task:
    return tasks.find(dataset.replace("-v0", f"{mode}-v0"))


def callers_generator() -> str:
    """The state of NumPy's global generator, to the last number that it holds back."""
    return repr(np.random.get_state(legacy=False)) + repr(np.random.get_state(legacy=False)["state"]["key"].tolist())


# names


def test_table_is_what_ogbench_registers():
    tasks.import_ogbench()
    import gymnasium

    limits = {
        name.removesuffix("-v0"): spec.max_episode_steps
        for name, spec in gymnasium.registry.items()
        if str(spec.entry_point).startswith("ogbench.") and "singletask" not in name
    }
    states = {name: limit for name, limit in limits.items() if not name.startswith(("visual-", "powder", "online-"))}
    assert states == {name: environment.episode_limit for name, environment in tasks.ENVIRONMENTS.items()}


@pytest.mark.parametrize("environment", ["pointmaze-giant", "antsoccer-arena", "scene", "puzzle-4x4", "puzzle-4x6"])
def test_default_single_task_is_ogbenchs(environment):
    kind = tasks.ENVIRONMENTS[environment].kinds[0]
    env = tasks.make_env(f"{environment}-{kind}-singletask-v0")
    assert tasks.find(f"{environment}-{kind}-singletask-v0").eval_tasks == (env.unwrapped._reward_task_id,)
    env.close()


def test_modes():
    plain, oracle, single = named(CUBE, ""), named(CUBE, "-oraclerep"), named(CUBE, "-singletask-task4")
    assert {plain.dataset, oracle.dataset, single.dataset} == {CUBE}
    assert (plain.goal_conditioned, oracle.goal_conditioned, single.goal_conditioned) == (True, True, False)
    assert (plain.oracle_goals, oracle.oracle_goals) == (False, True)
    assert (plain.eval_tasks, single.eval_tasks) == ((1, 2, 3, 4, 5), (4,))
    assert plain.episode_limit == 200


@pytest.mark.parametrize(
    "name, advice",
    [
        ("cube-singel-play-v0", "did you mean cube-single-play-v0"),
        ("pointmaze-medium-play-v0", "navigate, stitch, explore in mazes"),
        ("cube-single-play-singletask-task6-v0", "singletask-task1 to -task5"),
        ("hopper", "environments: pointmaze-medium"),
        ("visual-cube-single-play-v0", "pixel observations are not supported"),
        ("powderworld-easy-play-v0", "pixel observations are not supported"),
    ],
)
def test_unknown_names_are_refused_in_one_line_with_advice(name, advice):
    with pytest.raises(UserError, match=re.escape(advice)) as error:
        tasks.find(name)
    assert f"'{name}'" in str(error.value) and "\n" not in str(error.value)


def test_import_and_find_load_no_simulator():
    code = """
import sys
from mac_bench import tasks
tasks.find("cube-single-play-v0"); tasks.versions()
print([name for name in ("ogbench", "mujoco", "gymnasium", "jax", "torch") if name in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# environments


def play(env: tasks.Env, task: int, seed: int, steps: int = 40) -> np.ndarray:
    """Everything seen in an episode of random actions, in one row."""
    obs, goal = env.reset(task, seed)
    rng, seen = np.random.default_rng(seed), [obs, obs if goal is None else goal]
    for _ in range(steps):
        step = env.step(rng.uniform(-1.0, 1.0, env.action_size))
        seen += [step.obs, np.array([step.reward, step.done, step.success])]
    return np.concatenate([*seen, *(column.ravel() for column in env.state().values())])


DETERMINISTIC = ["pointmaze-teleport-navigate-v0", "cube-double-play-v0"]


def digest(name: str) -> str:
    return hashlib.sha256(play(tasks.Env(tasks.find(name)), 3, 7).tobytes()).hexdigest()


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_an_episode_is_a_function_of_task_and_seed(name):
    one, other = tasks.Env(tasks.find(name)), tasks.Env(tasks.find(name))
    first = play(one, 3, 7)
    play(one, 2, 1)
    np.random.seed(5)
    np.testing.assert_array_equal(play(one, 3, 7), first)  # after other episodes
    play(other, 1, 2)
    np.testing.assert_array_equal(play(other, 3, 7), first)  # in another environment
    assert (play(one, 3, 8) != first).any()
    code = f"from test_tasks import digest; print(digest({name!r}))"
    alone = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=Path(__file__).parent)
    assert alone.strip() == hashlib.sha256(first.tobytes()).hexdigest()  # in another process


def test_interleaved_teleports_do_not_disturb_each_other_or_the_caller():
    """Mazes with teleports draw from NumPy's global generator in every step that meets one."""
    name = "pointmaze-teleport-navigate-v0"
    north = np.array([0.0, -1.0])  # from (5, 6) into the teleport at (4, 6)

    def walk(env: tasks.Env, steps: int = 30):
        obs = env.reset(3, 11)[0]
        for _ in range(steps):
            yield obs
            obs = env.step(north).obs

    alone = np.array(list(walk(tasks.Env(tasks.find(name)))))
    assert np.abs(np.diff(alone, axis=0)).max() > 4.0, "no teleport, so this test tests nothing"
    np.random.seed(3)
    np.random.normal()  # an odd number of draws: the generator holds one back
    before = callers_generator()
    pairs = zip(walk(tasks.Env(tasks.find(name))), walk(tasks.Env(tasks.find(name))), strict=True)
    together = np.array([[one, other] for one, other in pairs])
    np.testing.assert_array_equal(together[:, 0], alone)
    np.testing.assert_array_equal(together[:, 1], alone)
    assert callers_generator() == before


def test_mazes_leave_neither_files_nor_handles_behind(tmp_path, monkeypatch):
    tasks.Env(tasks.find(POINT)).close()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handles = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    tasks.Env(tasks.find(POINT)).close()
    assert list(tmp_path.iterdir()) == []
    assert handles is None or len(os.listdir("/proc/self/fd")) == handles


def test_evaluation_tasks_of_others_are_refused():
    env = tasks.Env(named(POINT, "-singletask-task2"))
    with pytest.raises(UserError, match=r"no evaluation task 1; there are: \(2,\)"):
        env.reset(1, 0)


# data


@pytest.mark.parametrize("dataset", [POINT, CUBE, PUZZLE, SCENE])
@pytest.mark.parametrize("mode", ["", "-oraclerep", "-singletask-task1"])
def test_load_agrees_with_ogbenchs_own_loader(root, dataset, mode):
    task = named(dataset, mode)
    ogbench = tasks.import_ogbench()
    env = tasks.make_env(task.name)
    compact = ogbench.make_env_and_datasets(
        task.name,
        dataset_path=str(root / dataset / f"{dataset}.npz"),
        compact_dataset=True,
        cur_env=env,
        dataset_only=True,
    )
    before = callers_generator()
    ours = tasks.load(task, dataset, root)
    assert callers_generator() == before
    assert ours.validation is not None
    for mine, theirs in zip((ours, ours.validation), compact, strict=True):
        np.testing.assert_array_equal(mine.observations, theirs["observations"])
        np.testing.assert_array_equal(mine.actions, np.clip(theirs["actions"], -0.99999, 0.99999))
        np.testing.assert_array_equal(mine.ends, np.flatnonzero(theirs["valids"] == 0))
        if mode == "-singletask-task1":
            np.testing.assert_array_equal(mine.rewards, theirs["rewards"])
            np.testing.assert_array_equal(mine.alive, theirs["masks"])
            assert mine.goals is None
        else:
            np.testing.assert_array_equal(mine.goals, theirs["oracle_reps" if mode else "observations"])
            assert mine.rewards is None and mine.alive is None
        assert {c.dtype for c in (mine.observations, mine.actions, mine.rewards, mine.goals) if c is not None} == {
            np.dtype(np.float32)
        }


def test_goals_of_data_and_environment_mean_the_same(root):
    """The goal of a reset is the oracle goal of the state in which the task is solved."""
    env = tasks.Env(named(CUBE, "-oraclerep"))
    goal = np.asarray(env.reset(1, 0)[1])
    state = env.state()
    state["qpos"][14:17] = state["mocap_pos"][0]
    # the environment lets the cube settle for a tenth of a second before it looks
    np.testing.assert_allclose(env.relabel({"qpos": state["qpos"][None]})["goals"][0], goal, atol=1e-3)


def test_shards_are_joined(root, tmp_path):
    (tmp_path / "big").mkdir()
    for end in ("", "-val"):
        for number in range(2):
            shutil.copy(root / POINT / f"{POINT}{end}.npz", tmp_path / "big" / f"part-{number}{end}.npz")
    for mode in ("", "-singletask"):
        whole, one = tasks.load(named(POINT, mode), "big", tmp_path), tasks.load(named(POINT, mode), POINT, root)
        rows = len(one.observations)
        np.testing.assert_array_equal(whole.ends, [*one.ends, *(one.ends + rows)])
        np.testing.assert_array_equal(whole.observations[rows:], one.observations)
    assert whole.rewards is not None
    np.testing.assert_array_equal(whole.rewards[rows:], one.rewards)


def test_labels_are_the_rewards_of_a_maze_episode(tmp_path):
    """An episode that reaches its goal, as the environment rewards it, and the same states relabelled."""
    task = named(POINT, "-singletask-task3")
    env = tasks.Env(task)
    obs, _ = env.reset(3, 0)
    rows: dict[str, list] = {name: [] for name in ("observations", "actions", "qpos", "rewards", "success")}
    done = False
    while not done:
        goal = np.asarray(env.raw.cur_goal_xy)
        heading = env.raw.get_oracle_subgoal(obs.astype(np.float64), goal)[0] - obs
        action = heading / (np.linalg.norm(heading) + 1e-6)
        state = env.state()
        step = env.step(action)
        values = (obs, action, state["qpos"], step.reward, step.success)
        for name, value in zip(rows, values, strict=True):
            rows[name].append(value)
        obs, done = step.obs, step.done
    columns = {name: np.array(column, np.float32) for name, column in rows.items()}
    rewards, success = columns.pop("rewards"), columns.pop("success")
    assert success[-1] == 1.0 and success[:-1].sum() == 0.0 and 20 < len(success) < 1000
    columns["terminals"] = np.arange(len(rewards)) == len(rewards) - 1
    for end in ("", "-val"):
        write_arrays(tmp_path / f"walk{end}.npz", columns)
    data = tasks.load(task, "walk", tmp_path)
    np.testing.assert_array_equal(data.rewards, rewards)
    np.testing.assert_array_equal(data.alive, 1.0 - success)


def test_labels_are_the_rewards_of_a_table(root):
    """Each stored state, and hand-made ones around the 4 cm of success, put into the real environment and acted in."""
    env = tasks.Env(named(CUBE, "-singletask-task1"))
    env.reset(1, 0)
    target = env.state()["mocap_pos"][0]
    with np.load(root / CUBE / f"{CUBE}.npz") as file:
        qpos, qvel = file["qpos"].astype(np.float64), file["qvel"].astype(np.float64)
    qpos[:4, 14:17] = target + np.array([[0.0, 0, 0], [0.039, 0, 0], [0.041, 0, 0], [0.03, 0.03, 0]])
    labels = env.relabel({"qpos": qpos.astype(np.float32)})
    rewards = []
    for state in zip(qpos, qvel, strict=True):
        env.raw.set_state(*state)
        rewards.append(env.raw.step(np.zeros(5))[1])
    np.testing.assert_array_equal(labels["rewards"], rewards)
    np.testing.assert_array_equal(labels["rewards"][:4], [0.0, 0.0, -1.0, -1.0])
    np.testing.assert_array_equal(labels["alive"], -labels["rewards"])


# data that is not as it should be


def spoil(root: Path, folder: Path, **changes) -> Path:
    """A copy of the maze data with columns replaced, or left out where they are None."""
    with np.load(root / POINT / f"{POINT}.npz") as file:
        columns = {name: file[name] for name in file.files}
    for name, change in changes.items():
        old = columns.pop(name)
        if change is not None:
            columns[name] = change(old)
    for end in ("", "-val"):
        write_arrays(folder / f"{POINT}{end}.npz", columns)
    return folder


def put(column: np.ndarray, row: int, value: float) -> np.ndarray:
    column[row] = value
    return column


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"qpos": None}, r"no qpos in it; there are: actions, observations, qvel, terminals"),
        ({"observations": lambda x: np.tile(x, 2)}, r"observations has shape \(363, 4\), but pointmaze.* has \[N, 2\]"),
        ({"actions": lambda x: x[:, :1]}, r"actions has shape \(363, 1\), but pointmaze.* has \[N, 2\]"),
        ({"observations": lambda x: put(x, 17, np.nan)}, "observations has a value that is not finite in row 17"),
        ({"terminals": np.zeros_like}, "no episode ends in it"),
        ({"terminals": lambda x: put(x, -1, 0)}, "its last row ends no episode"),
        ({"terminals": lambda x: put(x, -2, 1)}, "the episode that ends at row 362 has no transition"),
        ({"actions": lambda x: x[:-1]}, "columns of different length: .*actions 362"),
        ({"actions": lambda x: x.astype("S4")}, r"actions holds \|S4, but must hold numbers"),
        ({"observations": lambda x: x + 1j}, r"observations holds complex64, but must hold numbers"),
    ],
)
def test_wrong_contents_are_refused_with_file_and_reason(root, tmp_path, changes, message):
    spoil(root, tmp_path, **changes)
    with pytest.raises(UserError, match=message) as error:
        tasks.load(named(POINT, "-singletask"), POINT, tmp_path)
    assert str(tmp_path / POINT) in str(error.value) and "\n" not in str(error.value)


def test_missing_data_is_refused_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match=f"make it with `mac-bench data generate {POINT}`") as error:
        tasks.load(named(POINT, ""), POINT, tmp_path)
    assert str(tmp_path / f"{POINT}.npz") in str(error.value) and str(tmp_path / POINT) in str(error.value)
    command = "`mac-bench data fetch antmaze-large-navigate-v0`"
    with pytest.raises(UserError, match=f"get the official files with {command}$"):
        tasks.files("antmaze-large-navigate-v0", tmp_path)


def test_missing_validation_is_refused(root, tmp_path):
    spoil(root, tmp_path)
    (tmp_path / f"{POINT}-val.npz").unlink()
    with pytest.raises(UserError, match="validation file that belongs to"):
        tasks.load(named(POINT, ""), POINT, tmp_path)


def test_a_page_in_the_place_of_data_is_called_one(root, tmp_path):
    path = spoil(root, tmp_path) / f"{POINT}.npz"
    path.write_bytes(b"<html>Please log in</html>")
    with pytest.raises(UserError) as error:
        tasks.load(named(POINT, ""), POINT, tmp_path)
    assert str(error.value) == f"{path}: cannot be read: it is no .npz file, but begins with '<html>Please log in<'"


@pytest.mark.parametrize(
    "task, dataset, right",
    [
        ("pointmaze-large-navigate-v0", "pointmaze-medium-navigate-v0", False),
        ("cube-double-play-oraclerep-v0", "cube-single-play-v0", False),
        ("cube-double-play-oraclerep-v0", "cube-octuple-play-100m-v0", False),
        ("hopper-medium-v2", "walker2d-medium-v2", False),
        ("antmaze-medium-play-v2", "antmaze-medium-navigate-v0", False),  # both are called antmaze-medium
        ("cube-double-play-oraclerep-v0", "cube-double-play-100m-v0", True),
        ("cube-double-play-singletask-task3-v0", "cube-double-noisy-v0", True),
        ("antmaze-umaze-unshifted-v2", "antmaze-umaze-v2", True),
        ("pointmaze-medium-navigate-v0", "mine", True),
    ],
)
def test_names_tell_whether_data_are_of_a_task_s_environment(task, dataset, right):
    if right:
        tasks.check_data(tasks.find(task), dataset)
    else:
        with pytest.raises(UserError, match=f"^data '{dataset}' are of .*, but {task} is a task of "):
            tasks.check_data(tasks.find(task), dataset)


def test_data_made_under_a_name_of_their_own_say_what_they_are(root, tmp_path):
    shutil.copytree(root / POINT, tmp_path / "mine")
    assert tasks.load(named(POINT, ""), "mine", tmp_path)
    other = tasks.find("pointmaze-large-navigate-v0")
    with pytest.raises(UserError, match=r"^data 'mine' are of pointmaze-medium, but pointmaze-large-navigate-v0 is"):
        tasks.load(other, "mine", tmp_path)


@pytest.mark.parametrize("contents", [b"", b"PK nothing", None])
def test_damaged_files_are_refused(root, tmp_path, contents):
    path = spoil(root, tmp_path) / f"{POINT}.npz"
    path.write_bytes(path.read_bytes()[:3000] if contents is None else contents)
    with pytest.raises(UserError, match="cannot be read"):
        tasks.load(named(POINT, ""), POINT, tmp_path)


def test_files_of_objects_are_refused(root, tmp_path):
    np.savez(spoil(root, tmp_path) / f"{POINT}.npz", observations=np.array([{}]), actions=[0.0], terminals=[True])
    with pytest.raises(UserError, match=r"no \.npz of plain arrays"):
        tasks.load(named(POINT, ""), POINT, tmp_path)


def test_unfinished_data_is_refused(root, tmp_path):
    folder = tmp_path / POINT
    folder.mkdir()
    spoil(root, folder)
    (folder / UNFINISHED).write_text('{"parameters": {}, "files": {}}')
    with pytest.raises(UserError, match="not finished; call `mac-bench data generate` as before"):
        tasks.load(named(POINT, ""), POINT, tmp_path)
