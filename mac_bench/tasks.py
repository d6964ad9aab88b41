"""Task name -> environment, data and evaluation tasks: of OGBench (arXiv 2410.20092), of D4RL through `d4rl.py`, and of
Minari through `minari_data.py`."""

import contextlib
import difflib
import importlib.metadata
import os
import re
import threading
import types
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mac_bench import d4rl, d4rl_package, minari_data, npz, prepared, sources
from mac_bench.config import Residency
from mac_bench.data import ACTION_LIMIT, Dataset
from mac_bench.errors import UserError
from mac_bench.manifest import UNFINISHED, read_manifest, remedy


class Facts(NamedTuple):
    """What is known of an environment without making it."""

    episode_limit: int
    default_task: int
    """what `-singletask-v0` stands for"""
    kinds: tuple[str, ...]
    """its kinds of data"""


_WALK, _EXPLORE, _ARM = ("navigate", "stitch"), ("navigate", "stitch", "explore"), ("play", "noisy")
ENVIRONMENTS = {
    **{f"pointmaze-{maze}": Facts(1000, 1, _EXPLORE) for maze in ("medium", "large", "giant", "teleport")},
    **{f"antmaze-{maze}": Facts(1000, 1, _EXPLORE) for maze in ("medium", "large", "giant", "teleport")},
    **{f"humanoidmaze-{maze}": Facts(2000, 1, _WALK) for maze in ("medium", "large", "teleport")},
    "humanoidmaze-giant": Facts(4000, 1, _WALK),
    **{f"antsoccer-{field}": Facts(1000, 4, _WALK) for field in ("arena", "medium")},
    "cube-single": Facts(200, 2, _ARM),
    "cube-double": Facts(500, 2, _ARM),
    "cube-triple": Facts(1000, 2, _ARM),
    "cube-quadruple": Facts(1000, 2, _ARM),
    "cube-octuple": Facts(1500, 2, _ARM),
    "scene": Facts(750, 2, _ARM),
    "puzzle-3x3": Facts(500, 4, _ARM),
    "puzzle-4x4": Facts(500, 4, _ARM),
    "puzzle-4x5": Facts(1000, 2, _ARM),
    "puzzle-4x6": Facts(1000, 2, _ARM),
}
GENERATED = ("pointmaze", "cube", "scene", "puzzle")
"""families whose data can be made here: the others need a trained locomotion expert"""


@dataclass(frozen=True)
class Task:
    """One task of the benchmark."""

    name: str
    dataset: str
    """official name of its data"""
    environment: str
    """key of ENVIRONMENTS, or what D4RL's or Minari's environment is called"""
    goal_conditioned: bool
    oracle_goals: bool
    """goals are what matters of a state (positions, buttons) instead of a whole observation"""
    eval_tasks: tuple[int, ...]
    """1 ... 5 in goal-conditioned tasks, else the one that is rewarded"""
    episode_limit: int
    score_scale: tuple[float, float] | None = None
    """returns whose normalised score is 0 and 1; None where success counts"""

    def score(self, success: bool, total: float) -> float:
        """The number of an episode with this sum of rewards: 0 or 1, or the normalised score, which may lie beyond."""
        if self.score_scale is None:
            return float(success)
        return (total - self.score_scale[0]) / (self.score_scale[1] - self.score_scale[0])

    @property
    def measure(self) -> str:
        """What its number is called."""
        return "normalised score" if self.score_scale else "success"

    def world(self) -> dict[str, str]:
        """What results say of their simulator and of their number, so that no two kinds are mixed."""
        simulator = other.simulator(self.name) if (other := _other(self.name)) else "ogbench"
        return {"simulator": simulator, "measure": self.measure}


def _other(name: str) -> types.ModuleType | None:
    """The module that has the task's environment and data where it is not of OGBench."""
    return minari_data if name.startswith(minari_data.PREFIX) else d4rl if name in d4rl.ENTRIES else None


@cache
def _tasks() -> dict[str, Task]:
    """Every task by its name."""
    tasks = {}
    for environment, (limit, default, kinds) in ENVIRONMENTS.items():
        for kind in kinds:
            start = f"{environment}-{kind}"
            modes = {"": (1, 2, 3, 4, 5), "-oraclerep": (1, 2, 3, 4, 5), "-singletask": (default,)}
            modes |= {f"-singletask-task{number}": (number,) for number in range(1, 6)}
            for mode, eval_tasks in modes.items():
                name, goals = f"{start}{mode}-v0", "singletask" not in mode
                tasks[name] = Task(name, f"{start}-v0", environment, goals, "oracle" in mode, eval_tasks, limit)
    for name, entry in d4rl.ENTRIES.items():
        limit, scale = entry.episode_limit, entry.score_scale
        tasks[name] = Task(name, entry.dataset, entry.environment, False, False, (1,), limit, scale)
    return tasks


def find(name: str) -> Task:
    """The task of an official name: `...-v0`, `...-oraclerep-v0`, `...-singletask[-taskN]-v0`, D4RL's `...-v2`, or
    `minari/` and the id of a set, of which nothing more is known before it is there.

    Raises UserError with the names that come close, and where D4RL's package is asked for and does not work.
    """
    if name.startswith(minari_data.PREFIX):
        own = minari_data.known(name)
        return Task(name, name, own.environment, False, False, (1,), own.episode_limit, own.score_scale)
    if name.startswith(("visual-", "powderworld-")):
        raise UserError(f"no task '{name}': pixel observations are not supported")
    tasks = _tasks()
    if name in tasks:
        if _other(name):
            d4rl_package.require()
        return tasks[name]
    if reason := d4rl.refusal(name):
        raise UserError(reason)
    close = difflib.get_close_matches(name, tasks, n=3)
    advice = f"did you mean {' or '.join(close)}? " if close else ""
    raise UserError(
        f"no task '{name}'; {advice}names are <environment>-<data>-v0, with -oraclerep, -singletask or "
        f"-singletask-task1 to -task5 before -v0; environments: {', '.join(ENVIRONMENTS)}; "
        f"data: {', '.join(_EXPLORE)} in mazes, {', '.join(_ARM)} on tables; D4RL's are like hopper-medium-v2, "
        f"Minari's like {minari_data.PREFIX}D4RL/door/human-v2"
    )


def official(dataset: str) -> Task | None:
    """A task that needs every column of official data, of 100M transitions too; None for a name of a user's own."""
    return _tasks().get(re.sub(r"(-100m)?-v0$", "-oraclerep-v0", dataset))


def check_data(task: Task, dataset: str, root: Path | None = None) -> None:
    """Raises UserError where data are of another environment than a task, as far as their name says, or in the data
    folder `root` what they say of how they were made."""
    made = read_manifest(root / dataset).get("parameters", {}).get("dataset") if root else None
    own = official(made or dataset)
    if own and (own.environment, _other(own.name)) != (task.environment, _other(task.name)):
        raise UserError(f"data '{dataset}' are of {own.environment}, but {task.name} is a task of {task.environment}")


def measure_of(name: str) -> str:
    """What the number of a task is called, of one that is not known too: an older run's, whose name has gone."""
    try:
        return find(name).measure
    except UserError:
        return "success"


def names() -> list[str]:
    """The names of all tasks but Minari's: environment by environment, those of one in the order of their numbers."""
    return list(_tasks())


def versions() -> dict[str, str]:
    """Versions of the packages that decide the physics, without importing them."""
    return {name: importlib.metadata.version(name) for name in ("ogbench", "mujoco", "gymnasium", "dm_control")}


def import_ogbench() -> Any:
    """The package. Unless told otherwise, mujoco does without a display: nothing is drawn in this process."""
    os.environ.setdefault("MUJOCO_GL", "disable")
    import ogbench

    return ogbench


def make_env(name: str, **settings: Any) -> Any:
    """The gymnasium environment of a task or data set, with a fixed action space so that it can be seeded.

    Resets draw actions from the action space, but arms build a new, unseeded one at each access.
    """
    ogbench = import_ogbench()
    with warnings.catch_warnings(), _no_maze_files():
        # gymnasium warns of the rounding of the bounds -1 and 1 to float32
        warnings.filterwarnings("ignore", message=".*precision lowered", category=UserWarning)
        if other := _other(name):
            return other.make(name)
        env = ogbench.make_env_and_datasets(name, env_only=True, disable_env_checker=True, **settings)
        raw = env.unwrapped
        space = raw.action_space
    if isinstance(getattr(type(raw), "action_space", None), property):
        raw.__class__ = type(type(raw).__name__, (type(raw),), {"action_space": space})
    return env


@contextlib.contextmanager
def _no_maze_files():
    """Close and remove the XML file that each construction of a maze opens and leaves behind."""
    import tempfile

    from ogbench.locomaze import maze

    left = []

    def mkstemp(**options):
        left.append(tempfile.mkstemp(**options))
        return left[-1]

    maze.tempfile = types.SimpleNamespace(mkstemp=mkstemp)
    try:
        yield
    finally:
        maze.tempfile = tempfile
        for handle, path in left:
            os.close(handle)
            os.unlink(path)


class GlobalStream:
    """NumPy's global generator, seeded, for code that draws from it; outside of `with` it is as the caller left it."""

    def __init__(self, seed: int):
        self._own = np.random.RandomState(seed).get_state(legacy=False)

    def __enter__(self):
        self._callers = np.random.get_state(legacy=False)
        np.random.set_state(self._own)

    def __exit__(self, *_):
        self._own = np.random.get_state(legacy=False)
        np.random.set_state(self._callers)


class Step(NamedTuple):
    """What one action leads to."""

    obs: np.ndarray
    """[O] float32"""
    reward: float
    done: bool
    """solved, or out of time"""
    success: bool
    """which counts only in tasks without a score scale"""


class Env:
    """One environment for evaluation. Everything random in an episode is a function of (task, seed)."""

    def __init__(self, task: Task):
        self.task = task
        self._env = make_env(task.name)
        self.raw = self._env.unwrapped
        """the benchmark's own object"""
        # of OGBench only teleports draw while stepping
        self._draws = getattr(self._env, "draws", getattr(self.raw, "_teleport_info", None) is not None)
        # an arm has no model, and so no sizes, before its first reset
        obs, goal = self.reset(task.eval_tasks[0], 0)
        self.observation_size, self.action_size = len(obs), int(self.raw.action_space.shape[0])
        self.goal_size = None if goal is None else len(goal)

    def reset(self, task: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Start an episode of evaluation task 1 ... 5: obs [O], and goal [G] in goal-conditioned tasks, float32."""
        if task not in self.task.eval_tasks:
            raise UserError(f"{self.task.name}: no evaluation task {task}; there are: {self.task.eval_tasks}")
        numpy_seed, space_seed, env_seed = (
            int(word) for word in np.random.SeedSequence([seed, task]).generate_state(3)
        )
        self._stream = GlobalStream(numpy_seed)
        self.raw.action_space.seed(space_seed)
        with self._stream:
            obs, info = self._env.reset(seed=env_seed, options={"task_id": task})
        goal = np.asarray(info["goal"], np.float32) if self.task.goal_conditioned else None
        return np.asarray(obs, np.float32), goal

    def step(self, action: np.ndarray) -> Step:
        """Act with [A] in [-1, 1]."""
        action = np.clip(np.asarray(action, np.float32), -1.0, 1.0)
        with self._stream if self._draws else contextlib.nullcontext():
            obs, reward, terminated, truncated, info = self._env.step(action)
        return Step(np.asarray(obs, np.float32), float(reward), bool(terminated or truncated), bool(info["success"]))

    def state(self) -> dict[str, np.ndarray]:
        """All that a picture shows: qpos, qvel, and where there are some button_states, mocap_* (targets), goal_xy.
        Nothing where there is no MuJoCo to ask."""
        data: Any = getattr(self.raw, "data", None)
        if not hasattr(data, "qpos"):
            return {}
        state = {"qpos": data.qpos.copy(), "qvel": data.qvel.copy()}
        if hasattr(self.raw, "_cur_button_states"):
            state["button_states"] = np.array(self.raw._cur_button_states)
        if len(data.mocap_pos):
            state |= {"mocap_pos": data.mocap_pos.copy(), "mocap_quat": data.mocap_quat.copy()}
        if hasattr(self.raw, "cur_goal_xy"):
            state["goal_xy"] = np.array(self.raw.cur_goal_xy)
        return state

    def relabel(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """OGBench's labels of stored states: rewards [N] and alive [N], or oracle goals [N, G], or nothing."""
        from ogbench import relabel_utils

        if not self.task.goal_conditioned:
            # Resets the environment; in tasks with rewards its goal has no jitter, so the stream decides nothing.
            with GlobalStream(0):
                relabel_utils.relabel_dataset(self.task.dataset, self._env, rows)
            return {"rewards": rows["rewards"], "alive": rows["masks"]}
        if self.task.oracle_goals:
            relabel_utils.add_oracle_reps(self.task.dataset, self._env, rows)
            return {"goals": rows["oracle_reps"]}
        return {"goals": rows["observations"]}

    def widths(self) -> dict[str, int]:
        """Columns that files of this task need, and their number of entries for each row; 0 for a scalar."""
        widths = {"observations": self.observation_size, "actions": self.action_size, "terminals": 0}
        if not self.task.goal_conditioned or self.task.oracle_goals:
            widths["qpos"] = self.raw.model.nq
            if hasattr(self.raw, "_cur_button_states"):
                widths["button_states"] = len(self.raw._cur_button_states)
        return widths

    def close(self) -> None:
        self._env.close()


_looking = threading.Lock()


def widths(name: str) -> dict[str, int]:
    """`Env.widths` of a task, for which an environment is made once in a process, whatever its threads ask."""
    with _looking:
        return _widths(name)


@cache
def _widths(name: str) -> dict[str, int]:
    env = Env(find(name))
    try:
        return env.widths()
    finally:
        env.close()


def load(task: Task, dataset: str, root: Path, resident: Residency | None = None) -> Dataset:
    """The data in `root/dataset` (a folder of shards), `root/dataset.npz`, or of D4RL or Minari, with validation.

    Memory-mapped where they have been prepared from just these files (prepared.py); that changes no batch. Raises
    UserError with the file and what is wrong with it, and for `resident` data, which memory cannot hold, where they
    have not been prepared.
    """
    if dataset != task.name and minari_data in (_other(dataset), _other(task.name)):
        raise UserError(f"{task.name} has no data '{dataset}': a set of Minari's and its task are one")
    pairs = files(dataset, root)
    check_data(task, dataset, root)
    if other := _other(task.name):
        make_env(task.name).close()  # what cannot be evaluated is refused before it is trained
        return replace(other.load(task.name, pairs[0][0]), resident=resident, task=task.name)
    found = prepared.find(task.name, dataset, root, pairs)
    if found is not None:
        return prepared.open_columns(found, task.name, resident)
    if resident is not None:
        advice = f"prepare them with `mac-bench data prepare {dataset} --task {task.name}`"
        raise UserError(f"data '{dataset}' are too large to load, and not prepared for {task.name}; {advice}")
    env = Env(task)
    try:
        validation = _join([read(path, env) for _, path in pairs])
        training = _join([read(path, env) for path, _ in pairs])
    finally:
        env.close()
    return replace(training, validation=validation, resident=resident, task=task.name)


def files(dataset: str, root: Path) -> list[tuple[Path, Path]]:
    """(training, validation) files of a data set, sorted; others are twice the same. UserError where one is missing."""
    if dataset.startswith(minari_data.PREFIX):
        folder = minari_data.locate(dataset)
        return [(folder, folder)]
    if path := d4rl.locate(dataset, root):
        return [(path, path)]
    single, folder = root / f"{dataset}.npz", root / dataset
    manifest = read_manifest(folder)
    if (folder / UNFINISHED).exists():
        raise UserError(f"data '{dataset}' is not finished; call {remedy(manifest)} to continue it")
    for name in manifest.get("files", {}):
        if not (folder / name).exists():
            raise UserError(f"{folder / name}: is missing; call {remedy(manifest)} to have it again")
    found = sorted(path for path in folder.glob("*.npz") if not path.name.endswith("-val.npz"))
    if not found and single.exists():
        found = [single]
    if not found:
        ways = [f"get the official files with `mac-bench data fetch {dataset}`"] * (dataset in sources.SOURCES)
        if dataset in _tasks() and dataset.startswith(GENERATED):
            ways.append(f"make it with `mac-bench data generate {dataset}`")
        advice = ", or ".join(ways) or "`mac-bench data list` says which there are"
        raise UserError(f"no data '{dataset}': neither {single} (D4RL: .hdf5) nor {folder}{os.sep}*.npz; {advice}")
    pairs = [(path, path.with_name(f"{path.stem}-val.npz")) for path in found]
    for path, validation in pairs:
        if not validation.exists():
            raise UserError(f"{validation}: the validation file that belongs to {path.name} is missing")
    return pairs


def read(path: Path, env: Env) -> Dataset:
    """One file, checked and labelled."""
    rows = dict(npz.each(path, env.widths(), env.task.name))
    ends = npz.ends(path, rows["terminals"], {name: npz.length(column) for name, column in rows.items()})
    actions = np.clip(rows["actions"], -ACTION_LIMIT, ACTION_LIMIT)
    return Dataset(rows["observations"], actions, ends, **env.relabel(rows))


def _join(parts: list[Dataset]) -> Dataset:
    """Shards one after the other."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.observations) for part in parts[:-1])])
    columns: dict[str, Any] = {"ends": np.concatenate([p.ends + s for p, s in zip(parts, starts, strict=True)])}
    for name in ("observations", "actions", "rewards", "alive", "goals"):
        column = [getattr(part, name) for part in parts]
        columns[name] = None if column[0] is None else np.concatenate(column)
    if parts[0].goals is parts[0].observations:
        columns["goals"] = columns["observations"]
    return Dataset(**columns)
