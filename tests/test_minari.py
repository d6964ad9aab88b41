"""Minari's sets as tasks: read as they were recorded, evaluated where they were, and never taken for other data."""

import json
import re
import sys
import warnings
from importlib import metadata
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from runs import Constant, small_run
from test_published import joined, own, their

from mac_bench import cli, inventory, minari_data, needs, published, queries, report, store, suite, tasks, video
from mac_bench.config import EvalConfig
from mac_bench.data import ACTION_LIMIT
from mac_bench.errors import UserError
from mac_bench.evaluate import Evaluator
from mac_bench.record import RunFolder
from mac_bench.train import train

PENDULUM = "minari/test/pendulum/random-v0"
POINT = "minari/point-v3"


class Point(gymnasium.Env):
    """A point on a line, with a Dict to look at; it draws from NumPy's global generator wherever it can."""

    observation_space = spaces.Dict(
        {"goal": spaces.Box(-9, 9, (2,)), "at": spaces.Tuple([spaces.Box(-9, 9, (1, 2)), spaces.Box(-9, 9, (1,))])},
        sort_keys=False,
    )
    action_space = spaces.Box(np.float32([0, -4]), np.float32([1, 4]))

    def _obs(self):
        at = np.float32(self.at)
        return {"goal": np.float32([3, 4]), "at": (at[None, :2], at[2:])}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        assert not options
        self.at = np.array([self.np_random.uniform(), np.random.uniform(), 0])
        return self._obs(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.at = np.array([*action, np.random.uniform()])
        return self._obs(), 1.0, False, False, {"success": action[1] > 3}


class Pixels(Point):
    observation_space = spaces.Box(0, 255, (2, 2), np.uint8)

    def _obs(self):
        return np.zeros((2, 2), np.uint8)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty folder of sets."""
    monkeypatch.setenv(minari_data.FOLDER, str(tmp_path / "sets"))
    for kind in (Point, Pixels):
        gymnasium.register(f"{kind.__name__}-v0", f"{__name__}:{kind.__name__}", max_episode_steps=4)
    yield tmp_path / "sets"
    for kind in (Point, Pixels):
        gymnasium.registry.pop(f"{kind.__name__}-v0")


def recorded(env: gymnasium.Env, episodes: int, length: int = 1000):
    """Episodes of random actions."""
    from minari.data_collector import EpisodeBuffer

    env.action_space.seed(0)
    for seed in range(episodes):
        observations, actions, steps = [env.reset(seed=seed)[0]], [], []
        while len(steps) < length and not (steps and (steps[-1][1] or steps[-1][2])):
            actions.append(env.action_space.sample())
            obs, reward, terminated, truncated, _ = env.step(actions[-1])
            observations.append(obs)
            steps.append((reward, terminated, truncated))
        if isinstance(observations[0], dict):  # as Minari wants it: arrays inside, not outside
            first, second = zip(*(each["at"] for each in observations), strict=True)
            goals = [each["goal"] for each in observations]
            observations = {"goal": np.stack(goals), "at": (np.stack(first), np.stack(second))}
        rewards, terminations, truncations = map(list, zip(*steps, strict=True))
        yield EpisodeBuffer(
            observations=observations,
            actions=actions,
            rewards=rewards,
            terminations=terminations,
            truncations=truncations,
        )


def create(name: str, env: str = "InvertedPendulum-v5", buffers=None, episodes: int = 3, **settings) -> Path:
    """A set in Minari's folder; that of its files."""
    import minari

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of authors and descriptions that are not given
        made = gymnasium.make(env)
        buffers = list(recorded(made, episodes) if buffers is None else buffers)
        minari.create_dataset_from_buffers(name.removeprefix("minari/"), buffers, env=made, **settings)
    return minari_data.folder(name)


def pendulum(**settings) -> Path:
    return create(PENDULUM, **({"ref_min_score": 5.0, "ref_max_score": 25.0} | settings))


def by_hand(*episodes: tuple[int, str]) -> list:
    """Episodes of so many steps, that end in these ways; row i of all has the observation i and the reward 10 i."""
    from minari.data_collector import EpisodeBuffer

    buffers, row = [], 0
    for steps, end in episodes:
        last = [False] * (steps - 1)
        buffers.append(
            EpisodeBuffer(
                observations=[np.full(4, float(row + step)) for step in range(steps + 1)],
                actions=[np.float32([0.3 * (row + step)]) for step in range(steps)],
                rewards=[10.0 * (row + step) for step in range(steps)],
                terminations=[*last, end == "over"],
                truncations=[*last, end == "late"],
            )
        )
        row += steps + 1
    return buffers


def load(name: str = PENDULUM):
    return tasks.load(tasks.find(name), name, Path("nowhere"))


# data


@pytest.mark.parametrize("form", ["hdf5", "arrow"])
def test_ends_and_cuts_by_hand(form):
    pendulum(buffers=by_hand((2, "over"), (3, "late"), (1, "neither")), data_format=form)
    columns = minari_data.read(PENDULUM)
    assert columns["observations"].tolist() == [[row] * 4 for row in range(9)]
    assert columns["ends"].tolist() == [2, 6, 8]
    # an action in a last row leads nowhere; that of row 1 ended the task, that of row 5 did not
    assert columns["rewards"].tolist() == [0, 10, 10, 30, 40, 50, 50, 70, 70]
    assert columns["alive"].tolist() == [1, 0, 0, 1, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(columns["actions"][:, 0], [0, 0.1, 0.1, 0.3, 0.4, 0.5, 0.5, 0.7, 0.7], rtol=1e-6)
    data = load()
    assert data.validation is not None and data.validation.observations[:, 0].tolist() == [7, 8]
    batch = data.pieces(np.array([0, 3]), 2)
    assert batch.alive.tolist() == [[1, 0], [1, 1]] and batch.next_obs[:, 0].tolist() == [2, 5]
    for column in (batch.obs, batch.actions, batch.rewards, batch.alive):
        assert column.dtype == np.float32


def test_every_twentieth_episode_is_held_out_and_the_fingerprint_is_of_the_data():
    pendulum(buffers=by_hand(*[(2, "late")] * 41))
    data = load()
    assert data.validation is not None and data.validation.observations[:, 0].tolist() == [57, 58, 59, 117, 118, 119]
    assert len(data.ends) == 39 and data.task == PENDULUM and data.digest == load().digest
    assert np.abs(data.actions).max() <= ACTION_LIMIT
    with h5py.File(minari_data.folder(PENDULUM) / "main_data.hdf5", "r+") as file:
        file["episode_0/rewards"][1] = 11.0
    assert load().digest != data.digest


def test_an_action_box_is_scaled_and_scaled_back():
    """What the data did does the same again: a pendulum shows all of its state, and its actions are in [-3, 3]."""
    pendulum()
    columns, env = minari_data.read(PENDULUM), tasks.Env(tasks.find(PENDULUM))
    env.reset(1, 0)
    inside = np.setdiff1d(np.arange(len(columns["rewards"])), columns["ends"])
    assert len(inside) >= 12 and np.abs(columns["actions"]).max() > 0.9
    for row in inside:
        state = columns["observations"][row].astype(float)
        env.raw.set_state(state[:2], state[2:])
        step = env.step(columns["actions"][row])
        np.testing.assert_allclose(env.raw.data.ctrl, 3 * columns["actions"][row], rtol=1e-6)
        np.testing.assert_allclose(step.obs, columns["observations"][row + 1], atol=1e-5)
        assert step.reward == columns["rewards"][row] and step.done == (columns["alive"][row] == 0)
        env.reset(1, 0)
    with h5py.File(minari_data.folder(PENDULUM) / "main_data.hdf5") as file:
        np.testing.assert_allclose(columns["actions"][0], file["episode_0/actions"][0] / 3, rtol=1e-6)


def test_a_box_from_minus_one_to_one_is_left_as_it_is():
    middle, half = minari_data._scaling(spaces.Box(-1, 1, (2,)))
    actions = np.float32([[0.1, -0.7], [1e-8, 1]])
    np.testing.assert_array_equal(((actions - middle) / half).astype(np.float32), actions)


def test_a_dict_is_flattened_as_gymnasium_does():
    create(POINT, "Point-v0", episodes=2)
    columns, found = minari_data.read(POINT), minari_data._opened(POINT)
    expected = []
    for episode in found:
        at, goal = episode.observations["at"], episode.observations["goal"]
        for i in range(5):
            row = {"at": (at[0][i], at[1][i]), "goal": goal[i]}
            expected.append(spaces.flatten(found.observation_space, row))
            np.testing.assert_array_equal(minari_data.flat(found.observation_space, row), expected[-1])
    np.testing.assert_array_equal(columns["observations"], expected)
    assert columns["observations"].shape == (10, 5) and columns["observations"][:, 3:].tolist() == [[3, 4]] * 10
    # the set's keys are sorted, the environment's are not
    env = tasks.Env(tasks.find(POINT))
    assert env.reset(1, 0)[0][3:].tolist() == env.step(np.zeros(2)).obs[3:].tolist() == [3, 4]


# evaluation


def evaluated(name: str, *action: float) -> dict:
    with Evaluator(tasks.find(name), EvalConfig(every=1, episodes=3, parallel=2), seed=0) as evaluator:
        (result,), _ = evaluator(Constant(*action), 1)
    return result


def test_a_return_is_scored_between_the_set_s_references():
    pendulum(ref_min_score=2.0, ref_max_score=4.0)
    result = evaluated(PENDULUM, 1.0)
    assert 2 < result["length"] < 20 and result["success"] == pytest.approx((result["return"] - 2) / 2)
    task = tasks.find(PENDULUM)
    assert (task.episode_limit, task.eval_tasks, task.dataset) == (1000, (1,), PENDULUM)
    version = metadata.version("gymnasium")
    simulator = f"minari (gymnasium {version}, InvertedPendulum-v5, scores from 2 to 4)"
    assert task.world() == {"simulator": simulator, "measure": "normalised score"}


def test_without_references_success_counts():
    create(POINT, "Point-v0")
    for action, success in ((0.7, 0.0), (0.8, 1.0)):  # times 4, which must be above 3
        result = evaluated(POINT, 0.0, action)
        assert (result["success"], result["return"], result["length"]) == (success, 4, 4)
    assert tasks.find(POINT).world()["measure"] == "success"
    assert tasks.find(POINT).world()["simulator"].endswith(", test_minari unknown, Point-v0)")


@pytest.mark.parametrize("name", [PENDULUM, POINT])
def test_an_episode_is_a_function_of_the_seed(name):
    pendulum()
    create(POINT, "Point-v0")

    def play(env, seed):
        np.random.seed(play.calls)  # whatever others do with the global generator
        play.calls += 1
        seen, rng = [env.reset(1, seed)[0]], np.random.default_rng(seed)
        for _ in range(3):
            seen.append(env.step(rng.uniform(-1, 1, env.action_size)).obs)
            np.random.uniform()
        return np.concatenate(seen)

    play.calls = 0
    one, other = tasks.Env(tasks.find(name)), tasks.Env(tasks.find(name))
    first = play(one, 7)
    assert (play(one, 8) != first).any()
    np.testing.assert_array_equal(play(one, 7), first)
    np.testing.assert_array_equal(play(other, 7), first)


def test_the_environment_for_evaluation_counts():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = gymnasium.make("InvertedPendulum-v5", max_episode_steps=3)
    pendulum(eval_env=other)
    assert tasks.find(PENDULUM).episode_limit == 3 and evaluated(PENDULUM, 0.0)["length"] == 3


def test_states_are_filmed_where_there_is_something_to_see(tmp_path):
    pendulum()
    create(POINT, "Point-v0")
    film, nothing = tasks.Env(tasks.find(PENDULUM)), tasks.Env(tasks.find(POINT))
    assert film.state()["qpos"].shape == (2,) and film.raw.custom_camera == -1
    assert "nothing to draw" in video.render(POINT, [nothing.state()], tmp_path / "a.gif")


# what is refused


def edit(path: Path, env: dict | None = None, **changes) -> None:
    """Change metadata, and what they say of the environment."""
    content = json.loads((path / "metadata.json").read_text())
    content["env_spec"] = json.dumps(json.loads(content["env_spec"]) | (env or {}))
    (path / "metadata.json").write_text(json.dumps(content | changes))


def no_episode(path: Path, **columns) -> None:
    with h5py.File(path / "main_data.hdf5", "r+") as file:
        for name, values in columns.items():
            del file["episode_1"][name]
            if values is not None:
                file["episode_1"][name] = values


def cut(path: Path) -> None:
    file = path / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:5000])


WRONG = {
    "no whole file": (cut, "data: the set is damaged (OSError: "),
    "no rewards": (lambda path: no_episode(path, rewards=None), "the set is damaged (KeyError: "),
    "a state missing": (lambda path: no_episode(path, observations=np.zeros((3, 4))), "cannot reshape"),
    "too few ends": (lambda path: no_episode(path, terminations=[False]), "cannot reshape"),
    "no number": (lambda path: no_episode(path, rewards=[0, np.nan, 0]), "rewards of episode 1 are not all finite"),
    "an episode less": (lambda path: edit(path, total_episodes=2), "damaged (ValueError: 7 rows in 2 episodes, but"),
    "no JSON": (lambda path: (path / "metadata.json").write_text("{"), "no metadata of minari/test/pendulum/random-v0"),
    "another's": (lambda path: edit(path, dataset_id="x-v0"), "they are those of 'x-v0'"),
    "of the future": (lambda path: edit(path, minari_version="9.0"), "cannot be opened (ValueError: The installed"),
    "another format": (lambda path: edit(path, data_format="tar"), "cannot be opened (KeyError: 'tar')"),
    "one end of a scale": (lambda path: edit(path, ref_min_score=None), "nothing to evaluate minari/test/pendulum"),
    "no scale": (lambda path: edit(path, ref_max_score=5.0), "ref_min_score 5.0 and ref_max_score 5.0 make no scale"),
    "no limit": (lambda path: edit(path, env={"max_episode_steps": None}), "InvertedPendulum-v5 has no limit of steps"),
    "nowhere": (lambda path: edit(path, env_spec=None), "they name no environment"),
    "not here": (
        lambda path: edit(path, env={"entry_point": "mujoco_robots:Arm"}),
        "InvertedPendulum-v5 cannot be made here (ModuleNotFoundError: No module named 'mujoco_robots')",
    ),
    "another": (
        lambda path: edit(path, env={"entry_point": "gymnasium.envs.mujoco.hopper_v5:HopperEnv"}),
        "InvertedPendulum-v5 has other observations or actions here than in the data",
    ),
    "no score": (
        lambda path: edit(path, ref_min_score=None, ref_max_score=None),
        "nothing to score it by, as InvertedPendulum-v5 reports no success; write the returns that count 0 and 1 into",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_sets_are_refused_in_one_line_before_training(name, root):
    change, reason = WRONG[name]
    change(pendulum(buffers=by_hand((2, "over"), (3, "late"), (1, "over"))))
    config = small_run(task=PENDULUM).model_copy(update={"dataset": PENDULUM})
    with pytest.raises(UserError, match=re.escape(reason)) as error:
        train(config, root, Path("nowhere"))
    assert not [event for event in RunFolder(root / config.id).read() if event["kind"] == "metrics"]
    assert "\n" not in str(error.value) and "pendulum" in str(error.value)


@pytest.mark.parametrize(
    "env, reason",
    [
        ("CartPole-v1", "its actions hold Discrete(2); nothing but real numbers is supported, so no pixels"),
        ("Pixels-v0", "its observations hold Box(0, 255, (2, 2), uint8); nothing but real numbers is supported"),
    ],
)
def test_what_is_no_vector_is_refused(env, reason):
    create(POINT, env, ref_min_score=0.0, ref_max_score=1.0)
    with pytest.raises(UserError, match=re.escape(f"{POINT}: {reason}")):
        load(POINT)


@pytest.mark.parametrize(
    "name", ["minari/x", "minari/../x-v0", "minari//x-v0", "minari/x-v0/", "minari/a b-v0", "minari/"]
)
def test_what_is_no_id_is_no_task(name):
    with pytest.raises(UserError, match=re.escape(f"no task '{name}'; Minari's are minari/ and the id of a set")):
        tasks.find(name)


def test_a_set_that_is_not_there_is_a_task_without_data():
    assert tasks.find("minari/mujoco/hopper/medium-v0").dataset == "minari/mujoco/hopper/medium-v0"
    with pytest.raises(UserError, match=r"no data 'minari/point-v3': no .*get it with `mac-bench data fetch minari/po"):
        load(POINT)


def test_a_set_and_its_task_are_one():
    pendulum()
    for task, dataset in ((PENDULUM, "hopper-medium-v2"), ("hopper-medium-v2", PENDULUM), (PENDULUM, POINT)):
        with pytest.raises(UserError, match=re.escape(f"{task} has no data '{dataset}': a set of Minari's")):
            tasks.load(tasks.find(task), dataset, Path("nowhere"))


@pytest.fixture
def no_package(monkeypatch):
    def missing(name, version=metadata.version):
        if name == "minari":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", missing)


NEEDED = f"'{PENDULUM}' needs the package 'minari', which is not installed; pip install 'mac-bench[minari]'"


# on the command line


SUITE = f"""\
name: other
about: x
steps: 20
seeds: [0, 1]
tasks: [{PENDULUM}]
evaluation: {{every: 10, episodes: 2}}
agents: {{bc: {{settings: {{hidden: [8], batch_size: 16}}}}}}
"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Calls `mac-bench` beside a suite: exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("other.yaml").write_text(SUITE)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mac-bench", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return code, *capsys.readouterr()

    return call


def test_it_is_planned_listed_and_verified(call, home):
    code, out, _ = call("plan", "other.yaml")
    assert code == 0 and f"✗ no data '{PENDULUM}': no {home}" in out
    pendulum()
    assert f"✓ {PENDULUM}" in call("plan", "other.yaml")[1]
    rows, episodes = minari_data.size(PENDULUM)
    assert re.search(rf"{PENDULUM} +{episodes} +{rows} +0\.\d +Minari", call("data", "list")[1])
    assert call("data", "verify", PENDULUM) == (0, f"✓ {PENDULUM}\n", "")
    (found,) = inventory.of_minari()
    assert (found.name, found.files, found.complete) == (PENDULUM, 2, True)
    cut(minari_data.folder(PENDULUM))
    code, out, _ = call("data", "verify", PENDULUM)
    assert code == 1 and out.startswith("✗ ") and "the set is damaged" in out
    assert f"; remove {home}/test/pendulum/random-v0, and call `mac-bench data fetch {PENDULUM}`" in out
    edit(minari_data.folder(PENDULUM), total_steps=None)
    (home / "no id" / "data").mkdir(parents=True)
    (home / "no id" / "data" / "metadata.json").write_text("{}")
    assert [found.complete for found in inventory.of_minari()] == [False]
    assert "not complete" in call("data", "list")[1]


def test_without_the_package_one_line_says_what_to_do(call, no_package):
    assert call("data", "fetch", PENDULUM) == (2, "", f"mac-bench: {NEEDED}\n")
    path = minari_data.folder(PENDULUM)
    path.mkdir(parents=True)
    spec = {"id": "Hopper-v5", "entry_point": "gymnasium.envs.mujoco.hopper_v5:HopperEnv", "max_episode_steps": 1000}
    (path / "metadata.json").write_text(
        json.dumps({"dataset_id": "test/pendulum/random-v0", "env_spec": json.dumps(spec)})
    )
    assert f"✗ {NEEDED}" in call("plan", "other.yaml")[1]
    for verb in (("run",), ("train", "--agent", "bc", "--seed", "0")):
        code, _, err = call(verb[0], "other.yaml", *verb[1:])
        assert code == 2 and err.endswith(f"mac-bench: {NEEDED}\n")


def test_fetching_is_minari_s_own_and_says_in_one_line_what_failed(call, home, monkeypatch):
    import minari

    asked = []

    def download(name, force_download):
        asked.append((name, force_download))
        if len(asked) == 1:
            raise ConnectionError("no name server\nand so on")
        pendulum()

    monkeypatch.setattr(minari, "download_dataset", download)
    assert call("data", "fetch", PENDULUM, "--dry-run") == (
        0,
        f"{PENDULUM}: by Minari, into {home}/test/pendulum/random-v0/data\n",
        "",
    )
    failed = f"mac-bench: {PENDULUM}: Minari could not download it (ConnectionError: no name server)\n"
    assert call("data", "fetch", PENDULUM) == (2, "", failed)
    for names in (["other.yaml"], [PENDULUM]):  # what is there is not asked for again
        assert call("data", "fetch", *names)[:1] == (0,)
    assert asked == [("test/pendulum/random-v0", False)] * 2
    assert call("data", "fetch", PENDULUM)[1] == f"{home}/test/pendulum/random-v0/data\n"


# results


def test_a_run_is_trained_evaluated_and_reported_as_what_it_is(tmp_path, root, database):
    pendulum(episodes=6)
    path = tmp_path / "other.yaml"
    path.write_text(SUITE)
    members = suite.expand(suite.load(path))
    assert needs.missing(needs.of(members), tmp_path, path) == {}
    suite.write_membership(root, suite.load(path), members)
    for member in members:
        assert train(member.run, root, tmp_path).state == "finished"
    store.collect(root, database)
    frame = queries.results(database, "other")
    assert frame["complete"].all() and (frame["measure"] == "normalised score").all()
    assert (frame["simulator"] == tasks.find(PENDULUM).world()["simulator"]).all()
    assert set(frame["data"]) == {load().digest} and (frame["task"] == PENDULUM).all()
    assert (frame["data_rows"] == str(len(load().observations))).all() and (frame["data_made_here"] == "False").all()
    assert not report.build(frame).warnings
    assert published.beside(published.own_means(frame)).empty
    assert PENDULUM in report.markdown(report.build(frame))


@pytest.mark.parametrize("name", ["hopper-medium-v2", "minari/D4RL/hopper/medium-v2"])
def test_a_paper_s_number_is_of_other_data(name):
    """Papers' names are never these names, and were they, the simulator would be another."""
    papers = published.published()
    assert "hopper-medium-v2" in set(papers["task"]) and not papers["task"].str.startswith("minari/").any()
    ours = own(task=name, dataset=name, measure="normalised score", simulator="minari (gymnasium 1.4.0, Hopper-v5)")
    theirs = their(table="d4rl-x", unit="normalised", metric="normalised score", task=name, data="default")
    assert "other simulator: D4RL's" in joined(ours, theirs)["not_comparable"]
