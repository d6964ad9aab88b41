"""Minari's data sets: their names, files, scores and environments. The package is an optional extra.

A set is a task, `minari/` and its id: `minari/D4RL/door/human-v2`. It is read where Minari keeps it, and is other data
than OGBench's and D4RL's, in another simulator, even where the id sounds alike: Minari's `D4RL/...` were recorded anew
in today's environments. Its environment is made as its metadata say, and these can name any code: trust them or not.
"""

import json
import math
import os
import re
import warnings
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mac_bench.data import ACTION_LIMIT, Dataset, split
from mac_bench.errors import UserError

PREFIX = "minari/"
NAME = re.compile(rf"{PREFIX}([\w-]+/)*[\w-]+-v\d+")
FOLDER = "MINARI_DATASETS_PATH"
"""Minari's own environment variable for the folder of its sets"""
METADATA = "metadata.json"
DAMAGED = (OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, AssertionError)
"""what the package may raise of a set that is damaged, or not of its version"""


class Entry(NamedTuple):
    """What is known of a task without making it."""

    environment: str = ""
    """id of the environment for evaluation"""
    package: str = ""
    """where that comes from"""
    episode_limit: int = 0
    score_scale: tuple[float, float] | None = None
    """returns that count 0 % and 100 %; None where success counts"""


# names and metadata


def home() -> Path:
    """The folder of all sets."""
    return Path(os.environ.get(FOLDER) or Path.home() / ".minari" / "datasets")


def folder(name: str) -> Path:
    """Where the files of a set lie, or would. Raises UserError for what is no name of one."""
    if not NAME.fullmatch(name):
        raise UserError(f"no task '{name}'; Minari's are {PREFIX} and the id of a set, like minari/D4RL/door/human-v2")
    return home() / name.removeprefix(PREFIX) / "data"


def names() -> list[str]:
    """The sets that lie in Minari's folder."""
    places = (path.parents[1].relative_to(home()) for path in home().glob(f"**/data/{METADATA}"))
    return sorted(name for place in places if NAME.fullmatch(name := f"{PREFIX}{place.as_posix()}"))


def described(name: str) -> dict[str, Any]:
    """The metadata of a set. Raises UserError where it is not there or they cannot be read."""
    path = folder(name) / METADATA
    try:
        found = json.loads(path.read_text())
        if found["dataset_id"] != name.removeprefix(PREFIX):
            raise ValueError(f"they are those of '{found['dataset_id']}'")
        return found
    except (FileNotFoundError, NotADirectoryError):
        ways = f"get it with `mac-bench data fetch {name}`, or name the folder of your sets in {FOLDER}"
        raise UserError(f"no data '{name}': no {path}; {ways}") from None
    except DAMAGED as error:
        raise UserError(f"{path}: no metadata of {name} ({error}); {_again(name)}") from None


def _again(name: str) -> str:
    return f"remove {folder(name).parent}, and call `mac-bench data fetch {name}`"


def entry(name: str) -> Entry:
    """Raises UserError where the set is not there, or does not say what an evaluation must know."""
    found = described(name)
    try:
        spec = json.loads(found.get("eval_env_spec") or found.get("env_spec") or "null")
        if spec is None:
            raise ValueError("they name no environment")
        if not spec["max_episode_steps"]:
            raise ValueError(f"{spec['id']} has no limit of steps")
        ends: list[Any] = [found.get("ref_min_score"), found.get("ref_max_score")]
        scale = None if ends == [None, None] else (float(ends[0]), float(ends[1]))
        if scale and not -math.inf < scale[0] < scale[1] < math.inf:
            raise ValueError(f"ref_min_score {ends[0]} and ref_max_score {ends[1]} make no scale")
        made_by = re.split("[.:]", spec["entry_point"])[0]
        return Entry(spec["id"], made_by, int(spec["max_episode_steps"]), scale)
    except DAMAGED as error:
        raise UserError(f"{folder(name) / METADATA}: nothing to evaluate {name} by ({error})") from None


def known(name: str) -> Entry:
    """As `entry`, but of a set that is not there nothing: `locate` tells why. Raises UserError for no name of one."""
    folder(name)
    try:
        return entry(name)
    except UserError:
        return Entry()


def simulator(name: str) -> str:
    """What results say of their physics, and of their scale, which is not the benchmark's but the set's."""
    own = entry(name)
    made_by = ", ".join(f"{package} {_version(package)}" for package in dict.fromkeys(("gymnasium", own.package)))
    scale = ", scores from {:.10g} to {:.10g}".format(*own.score_scale) if own.score_scale else ""
    return f"minari ({made_by}, {own.environment}{scale})"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


# the package


def package(name: str) -> Any:
    """Minari. Raises UserError where it is not installed."""
    try:
        metadata.version("minari")  # not find_spec: any folder called minari would do for that
        return import_module("minari")
    except ImportError as error:
        reason = "is not installed" if isinstance(error, metadata.PackageNotFoundError) else f"fails ({error})"
        raise UserError(
            f"'{name}' needs the package 'minari', which {reason}; pip install 'mac-bench[minari]'"
        ) from None


def fetch(name: str) -> Path:
    """Download a set by Minari's own means, where it is not there yet, and return where it lies. Raises UserError."""
    target, minari = folder(name), package(name)
    if not target.exists():
        try:
            # forced where only a part has come, which it would take for all
            minari.download_dataset(name.removeprefix(PREFIX), force_download=target.parent.exists())
        except Exception as error:  # whatever goes wrong in other people's clients
            raise UserError(f"{name}: Minari could not download it ({_first_line(error)})") from None
    return locate(name)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# data


def locate(name: str) -> Path:
    """The folder of a set's files. Raises UserError where it or the package is not there, or it cannot be evaluated."""
    entry(name)
    package(name)
    return folder(name)


def size(name: str) -> tuple[int, int]:
    """Rows and episodes of a set, as its metadata say: an episode has one state more than steps."""
    found = described(name)
    try:
        return found["total_steps"] + found["total_episodes"], found["total_episodes"]
    except (LookupError, TypeError):
        raise UserError(f"{folder(name) / METADATA}: no whole numbers of total_steps and total_episodes") from None


def load(name: str, path: Path) -> Dataset:
    """The data of a task in its folder, with validation episodes. Raises UserError with that and what is wrong."""
    columns = read(name)
    columns["actions"] = np.clip(columns["actions"], -ACTION_LIMIT, ACTION_LIMIT)
    return split(path, columns)


def read(name: str) -> dict[str, np.ndarray]:
    """The columns of a Dataset, with actions in [-1, 1]. Raises UserError where a set is damaged or not of vectors.

    The state after the last step is on record: an episode ends the task where it terminated, not where it was cut.
    """
    found = _opened(name)
    middle, half = _scaling(found.action_space)
    parts: dict[str, list[np.ndarray]] = {column: [] for column in ("observations", "actions", "rewards", "alive")}
    try:
        for episode in found.iterate_episodes():
            steps = len(episode.rewards)
            actions = np.asarray(episode.actions).reshape(steps, len(middle))
            part = {
                "observations": flat(found.observation_space, episode.observations, steps + 1),
                "actions": ((actions - middle) / half).astype(np.float32),
                "rewards": np.asarray(episode.rewards, np.float32).reshape(steps),
                "alive": 1 - np.asarray(episode.terminations, np.float32).reshape(steps),
            }
            for column, rows in part.items():
                if not np.isfinite(rows).all():
                    raise ValueError(f"{column} of episode {episode.id} are not all finite")
                # nothing is done in the last state: its row repeats what led there, and is never used
                parts[column].append(rows if column == "observations" else np.concatenate([rows, rows[-1:]]))
        lengths = [len(rows) for rows in parts["observations"]]
        if (sum(lengths), len(lengths)) != size(name):
            raise ValueError(f"{sum(lengths)} rows in {len(lengths)} episodes, but {METADATA} says {size(name)}")
        return {column: np.concatenate(own) for column, own in parts.items()} | {"ends": np.cumsum(lengths) - 1}
    except DAMAGED as error:
        raise UserError(f"{folder(name)}: the set is damaged ({_first_line(error)}); {_again(name)}") from None


def _opened(name: str) -> Any:
    """The package's own object of a set. Raises UserError where its spaces are no vectors of real numbers."""
    from gymnasium import spaces

    try:
        found = package(name).MinariDataset(folder(name))
    except (*DAMAGED, ImportError) as error:
        raise UserError(f"{folder(name)}: cannot be opened ({_first_line(error)}); {_again(name)}") from None
    for what, space in (("observations", found.observation_space), ("actions", found.action_space)):
        for leaf in _leaves(space):
            if not isinstance(leaf, spaces.Box) or not np.issubdtype(leaf.dtype, np.floating):
                raise UserError(f"{name}: its {what} hold {leaf}; nothing but real numbers is supported, so no pixels")
    box = found.action_space
    if not isinstance(box, spaces.Box) or len(box.shape) != 1 or not box.is_bounded() or (box.low >= box.high).any():
        raise UserError(f"{name}: its actions are {box}; only vectors between two bounds are supported")
    return found


def _leaves(space: Any) -> list[Any]:
    """The spaces that a Dict or Tuple is made of, in the order in which they are flattened."""
    inner = getattr(space, "spaces", None)
    if inner is None:
        return [space]
    return [leaf for each in (inner.values() if isinstance(inner, dict) else inner) for leaf in _leaves(each)]


def flat(space: Any, value: Any, *lead: int) -> np.ndarray:
    """[*lead, O] float32: an observation, or many side by side, in the order of `gymnasium.spaces.flatten`."""
    inner = getattr(space, "spaces", None)
    if inner is None:
        return np.asarray(value, np.float32).reshape(*lead, math.prod(space.shape))
    keys = inner if isinstance(inner, dict) else range(len(inner))
    return np.concatenate([flat(inner[key], value[key], *lead) for key in keys], axis=-1)


def _scaling(box: Any) -> tuple[np.ndarray, np.ndarray]:
    """Middle [A] and half width [A] of a box: it is left as it is where it is [-1, 1]."""
    low, high = box.low.astype(float), box.high.astype(float)
    return (low + high) / 2, (high - low) / 2


# evaluation


def make(name: str) -> "Env":
    """The environment in which a set is evaluated. Raises UserError where it cannot be, or is not that of the data."""
    own, found = entry(name), _opened(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions that its author had, or that are newer: results name ours
            recovered = found.recover_environment(eval_env=True, disable_env_checker=True)
    except Exception as error:  # whatever goes wrong in other people's environments
        raise UserError(f"{name}: {own.environment} cannot be made here ({_first_line(error)})") from None
    if (recovered.observation_space, recovered.action_space) != (found.observation_space, found.action_space):
        raise UserError(f"{name}: {own.environment} has other observations or actions here than in the data")
    env = Env(recovered, found.observation_space)
    if own.score_scale is None and not env.tells_success():
        raise UserError(
            f"{name}: nothing to score it by, as {own.environment} reports no success; write the returns that count "
            f"0 and 1 into {folder(name) / METADATA}, as ref_min_score and ref_max_score"
        )
    return env


class Env:
    """An environment with gymnasium's calls, flat observations and actions in [-1, 1]."""

    draws = True
    """it may take NumPy's global generator while stepping: nobody knows"""

    def __init__(self, env: Any, space: Any):
        """`space` is that of the data: the environment's own may have its parts in another order."""
        self._env, self._space, self._box = env, space, env.action_space
        self._middle, self._half = _scaling(self._box)
        self.unwrapped = env.unwrapped
        if model := getattr(self.unwrapped, "model", None):  # for films
            cameras = [model.camera(number).name for number in range(model.ncam)]
            self.unwrapped.custom_camera = "track" if "track" in cameras else -1

    def reset(self, *, seed: int, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode of a seed: obs [O]. There are no options."""
        obs, info = self._env.reset(seed=seed)
        return flat(self._space, obs), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """obs [O], reward, over, out of time, and whether it is a success."""
        action = np.clip(self._middle + self._half * action, self._box.low, self._box.high).astype(self._box.dtype)
        obs, reward, over, late, info = self._env.step(action)
        return flat(self._space, obs), float(reward), over, late, {"success": False} | info

    def tells_success(self) -> bool:
        """Whether a step says so: tried in an episode, which nobody looks at."""
        self._env.reset(seed=0)
        return "success" in self._env.step(self._box.low)[-1]

    def close(self) -> None:
        self._env.close()
