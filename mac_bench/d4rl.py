"""D4RL (arXiv 2004.07219): its names, scores, data and physics, without the package and without mujoco_py.

(d4rl_package.py has the package's own, for those who ask for them.)

The original environments run in MuJoCo 2.1.0. One thing has changed since that matters to them: what a capsule
weighs. With that put back, Gymnasium's v4 environments and OGBench's ant move as the originals do; `tests/test_d4rl.py`
replays steps that were recorded there. Environments for which nothing shows that are refused.
"""

import os
import re
import xml.etree.ElementTree as ElementTree
from contextlib import suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mac_bench import d4rl_package
from mac_bench.data import ACTION_LIMIT, Dataset, split
from mac_bench.errors import UserError

SIMULATOR = "d4rl-legacy-inertia"
"""what results say of their physics, with the version of gymnasium, whose models they are"""
FOLDER = "D4RL_DATASET_DIR"
"""environment variable that names the folder of the official files"""


class Entry(NamedTuple):
    """What is known of a task without making it."""

    dataset: str
    environment: str
    """key of ROBOTS, or antmaze- and a key of MAZES"""
    file: str
    """what the official file is called"""
    episode_limit: int
    sizes: tuple[int, int]
    """of an observation and of an action"""
    score_scale: tuple[float, float] | None
    """returns that count 0 % and 100 %; None where success counts"""
    shift: float = 0.0
    """added to the rewards of the data"""


class Robot(NamedTuple):
    """One of gymnasium's environments."""

    module: str
    kind: str
    sizes: tuple[int, int]
    score_scale: tuple[float, float]
    total_mass: float | None = None
    """to which its model is scaled (`settotalmass`)"""


ROBOTS = {
    "hopper": Robot("hopper_v4", "HopperEnv", (11, 3), (-20.272305, 3234.3)),
    "halfcheetah": Robot("half_cheetah_v4", "HalfCheetahEnv", (17, 6), (-280.178953, 12135.0), 14.0),
    "walker2d": Robot("walker2d_v4", "Walker2dEnv", (17, 6), (1.629008, 4592.3)),
    "ant": Robot("ant_v4", "AntEnv", (111, 8), (-325.6, 3879.7)),
}
QUALITIES = ("random", "medium", "expert", "medium-replay", "medium-expert", "full-replay")

MAZES = {
    "umaze": ("11111", "1R001", "11101", "1G001", "11111"),
    "medium": ("11111111", "1R011001", "10010001", "11000111", "10010001", "10100101", "100010G1", "11111111"),
    "large": (
        *("111111111111", "1R0001000001", "101101010101", "100000010001", "101111011101"),
        *("100101000001", "110101010111", "100100010G01", "111111111111"),
    ),
}
"""1: wall, R: start, G: goal"""
CELL = 4.0
REACHED = 0.5
"""distance from the goal that counts as being there"""
UNSHIFTED = "-unshifted"

_MAZE_FILES = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}
_MAZE_DATA = {"umaze": "FF", "umaze-diverse": "TT", "medium-play": "TF", "medium-diverse": "TT"}
_MAZE_DATA |= {"large-play": "TF", "large-diverse": "TT"}
"""many starts and many goals in the data?"""


def _entries() -> dict[str, Entry]:
    found = {}
    for robot, of in ROBOTS.items():
        for quality in QUALITIES:
            name, file = f"{robot}-{quality}-v2", f"{robot}_{quality.replace('-', '_')}-v2.hdf5"
            found[name] = Entry(name, robot, file, 1000, of.sizes, of.score_scale)
    for data, (starts, goals) in _MAZE_DATA.items():
        maze, says = data.partition("-")[0], {"T": "True", "F": "False"}
        file = f"Ant_maze_{_MAZE_FILES[maze]}_noisy_multistart_{says[starts]}_multigoal_{says[goals]}_sparse_fixed.hdf5"
        limit = 700 if maze == "umaze" else 1000
        for mode, shift in (("", -1.0), (UNSHIFTED, 0.0)):
            entry = Entry(f"antmaze-{data}-v2", f"antmaze-{maze}", file, limit, (29, 8), None, shift)
            found[f"antmaze-{data}{mode}-v2"] = entry
    return found


ENTRIES = _entries()
"""Every task by its name. AntMaze is trained on rewards -1 and 0, as is customary; `antmaze-umaze-unshifted-v2` keeps
the 0 and 1 of the file, and is another task: its runs are other runs."""

_REFUSED = {
    "kitchen": "its modern environment has other observations",
    **dict.fromkeys(("pen", "door", "hammer", "relocate"), "nothing shows that modern hands move as its hands did"),
    "maze2d": "nothing shows that modern walls act as its walls did",
}


def refusal(name: str) -> str | None:
    """Why a name of the original benchmark is no task here, and what would be right; None for all other names."""
    family, version = name.partition("-")[0], re.search(r"-v(\d+)$", name)
    if family in _REFUSED and version:
        return f"no task '{name}': D4RL's {family} is refused, as {_REFUSED[family]}; scores would mean nothing"
    right = re.sub(r"-v\d+$", "-v2", name)
    if name in ENTRIES or right not in ENTRIES:
        return None
    if version and int(version[1]) < 2:
        return f"no task '{name}': D4RL replaced that version, whose data have flaws; it is {right}"
    return f"no task '{name}': D4RL has no such version, and later environments have other physics; it is {right}"


# physics


def make(name: str) -> "Env | d4rl_package.Env":
    """The environment of a task: ours, or the package's where it is asked for."""
    return d4rl_package.Env(ENTRIES[name].dataset) if d4rl_package.wanted() else Env(name)


class Env:
    """An environment of the original benchmark, with gymnasium's calls."""

    def __init__(self, name: str):
        self.entry = ENTRIES[name]
        robot = self.entry.environment
        self.unwrapped = _ant_maze(robot.removeprefix("antmaze-")) if robot not in ROBOTS else _robot(ROBOTS[robot])
        # the original's ant also shows contact forces, which its simulator never computed
        self._zeros = np.zeros(self.entry.sizes[0] - self.unwrapped.observation_space.shape[0])
        self._left = 0

    def reset(self, *, seed: int, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode of a seed: obs [O]."""
        obs, info = self.unwrapped.reset(seed=seed)
        self._left = self.entry.episode_limit
        return np.concatenate([obs, self._zeros]), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """obs [O], reward, over, out of time, and whether it is a success, which robots never have."""
        obs, reward, over, _, info = self.unwrapped.step(action)
        self._left -= 1
        return np.concatenate([obs, self._zeros]), reward, over, self._left <= 0, {"success": False} | info

    def close(self) -> None:
        self.unwrapped.close()


def _robot(robot: Robot) -> Any:
    # the class itself: gymnasium.make would warn that there are later versions, which have other physics
    kind = getattr(import_module(f"gymnasium.envs.mujoco.{robot.module}"), robot.kind)
    raw = kind()
    raw.custom_camera = "track"
    set_legacy_inertia(raw.model, raw.data, robot.total_mass)
    return raw


def _ant_maze(maze: str) -> Any:
    """OGBench's ant, which is the original's, between the original's walls, with its start, goal and end."""
    from ogbench.locomaze.ant import AntEnv

    mujoco: Any = import_module("mujoco")
    (goal,) = [at for at in _cells(maze) if at[2] == "G"]

    class AntMaze(AntEnv):
        custom_camera = "back"
        cur_goal_xy = np.zeros(2)

        def _initialize_simulation(self):
            model = mujoco.MjModel.from_xml_string(_walled(Path(self.fullpath), maze))
            data = mujoco.MjData(model)
            set_legacy_inertia(model, data)
            return model, data

        def reset_model(self):
            obs = super().reset_model()
            # resampled in each episode since v2
            noise = self.np_random.uniform(0, CELL / 4, 2) + self.np_random.uniform(0, CELL / 8, 2)
            self.cur_goal_xy = np.array(goal[:2]) + noise
            return obs

        def step(self, action):
            obs, _, _, _, info = super().step(action)
            there = bool(np.linalg.norm(self.get_xy() - self.cur_goal_xy) <= REACHED)
            return obs, float(there), there, False, info | {"success": there}

    return AntMaze()


def _cells(maze: str) -> list[tuple[float, float, str]]:
    """x and y of the middle of each cell, where the start has (0, 0), and what it holds."""
    return [(CELL * (j - 1), CELL * (i - 1), c) for i, row in enumerate(MAZES[maze]) for j, c in enumerate(row)]


def _walled(ant: Path, maze: str) -> str:
    """The ant's model with walls, and a marker for pictures."""
    root = ElementTree.parse(ant).getroot()
    world = root.find("worldbody")
    assert world is not None
    half = CELL / 2
    for x, y, content in _cells(maze):
        if content == "1":
            wall = {"type": "box", "pos": f"{x} {y} {half / 2}", "size": f"{half} {half} {half / 2}"}
            ElementTree.SubElement(world, "geom", wall | {"contype": "1", "conaffinity": "1", "material": "wall"})
    marker = {"name": "target", "type": "cylinder", "size": ".4 .05", "pos": "0 0 .05", "material": "target"}
    ElementTree.SubElement(world, "geom", marker | {"contype": "0", "conaffinity": "0"})
    return ElementTree.tostring(root, encoding="unicode")


def set_legacy_inertia(model: Any, data: Any, total_mass: float | None = None) -> None:
    """Give a model's bodies the mass and inertia that MuJoCo 2.1.0 made of their capsules and spheres.

    There a capsule of radius r between points h apart weighed as much as a cylinder of length h + r, and had its
    inertia. Geoms of one body have one density. total_mass: to which all masses are scaled at last.
    """
    mujoco: Any = import_module("mujoco")
    for body in range(1, model.nbody):
        geoms = np.flatnonzero(model.geom_bodyid == body)
        parts = [_geom(mujoco, model, int(geom)) for geom in geoms]
        density = model.body_mass[body] / sum(volume for volume, _, _ in parts)
        masses = np.array([density * volume for _, volume, _ in parts])
        centre = masses @ model.geom_pos[geoms] / masses.sum()
        inertia = np.zeros((3, 3))
        for geom, mass, (_, _, moments) in zip(geoms, masses, parts, strict=True):
            turn, apart = _matrix(mujoco, model.geom_quat[geom]), model.geom_pos[geom] - centre
            own = turn @ np.diag(mass * moments) @ turn.T
            inertia += own + mass * (apart @ apart * np.eye(3) - np.outer(apart, apart))  # parallel axis theorem
        turn = _matrix(mujoco, model.body_iquat[body])
        if len(geoms) > 1:  # a single geom's axes are still the principal ones, and the compiler has relied on that
            values, vectors = np.linalg.eigh(inertia)
            turn = vectors[:, np.argsort(-values)]
            turn[:, 2] *= np.sign(np.linalg.det(turn))
            mujoco.mju_mat2Quat(model.body_iquat[body], turn.ravel())
        model.body_mass[body], model.body_ipos[body] = masses.sum(), centre
        model.body_inertia[body] = np.diag(turn.T @ inertia @ turn)
    if total_mass is not None:
        scale = total_mass / model.body_mass.sum()
        model.body_mass *= scale
        model.body_inertia *= scale
    mujoco.mj_setConst(model, data)


def _geom(mujoco: Any, model: Any, geom: int) -> tuple[float, float, np.ndarray]:
    """Volume now, volume then, and moments of inertia [3] then, of a mass of 1, about the geom's own axes."""
    radius, half = model.geom_size[geom, :2]
    ball = 4 / 3 * np.pi * radius**3
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_SPHERE:
        return ball, ball, np.full(3, 0.4 * radius**2)
    assert model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE, "robots are made of capsules and spheres"
    disc, length = np.pi * radius**2, 2 * half + radius
    across = (3 * radius**2 + length**2) / 12
    return ball + 2 * half * disc, length * disc, np.array([across, across, radius**2 / 2])


def _matrix(mujoco: Any, quaternion: np.ndarray) -> np.ndarray:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def simulator(name: str) -> str:
    """What results of a task say of their physics."""
    if d4rl_package.wanted():
        return d4rl_package.simulator()
    return f"{SIMULATOR} (gymnasium {metadata.version('gymnasium')})"


# data


def locate(dataset: str, root: Path) -> Path | None:
    """`root/dataset.hdf5`, or the official file in `root/dataset` (where it was fetched) or in $D4RL_DATASET_DIR; None
    where the name is not of this benchmark.

    Raises UserError where the file is missing.
    """
    own = root / f"{dataset}.hdf5"
    if own.exists():
        return own
    if dataset not in ENTRIES:
        return None
    file = ENTRIES[dataset].file
    official = Path(os.environ.get(FOLDER) or Path.home() / ".d4rl" / "datasets") / file
    for path in (root / dataset / file, official):
        if path.exists():
            return path
    raise UserError(
        f"no data '{dataset}': neither {own} nor {official}; get D4RL's official file with "
        f"`mac-bench data fetch {dataset}`, or name its folder in {FOLDER}"
    )


def there(root: Path) -> set[str]:
    """The data sets whose files are found, wherever that is."""
    names = set()
    for dataset in {entry.dataset for entry in ENTRIES.values()}:
        with suppress(UserError):
            locate(dataset, root)
            names.add(dataset)
    return names


def load(name: str, path: Path) -> Dataset:
    """The data of a task in a file, with validation episodes. Raises UserError with the file and what is wrong."""
    entry = ENTRIES[name]
    columns = convert(read(path, entry.sizes), entry.episode_limit)
    columns["actions"] = np.clip(columns["actions"], -ACTION_LIMIT, ACTION_LIMIT)
    columns["rewards"] = columns["rewards"] + np.float32(entry.shift)
    return split(path, columns)


def size(path: Path) -> tuple[int, int]:
    """Rows and episodes of a file, in which nothing else is looked at. Raises UserError where it cannot be read."""
    rows = _columns(path, ("terminals",), ("timeouts",))
    ends = rows["terminals"].reshape(-1)
    timeouts = rows.get("timeouts", np.zeros(len(ends), bool)).reshape(-1)
    if len(timeouts) != len(ends):
        raise UserError(f"{path}: timeouts has {len(timeouts)} rows, but terminals {len(ends)}")
    ends = ends | timeouts
    return len(ends), int(ends[:-1].sum()) + 1


def read(path: Path, sizes: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
    """observations [N, O], actions [N, A], rewards [N], terminals [N], and if they are there timeouts [N] and
    next_observations [N, O]. Raises UserError where the file is damaged, or is not of such sizes (O, A)."""
    found = _columns(path, ("observations", "actions", "rewards", "terminals"), ("timeouts", "next_observations"))
    count = len(found["terminals"]) if found["terminals"].ndim else 0
    if count == 0:
        raise UserError(f"{path}: terminals has no rows")
    own = (found[name].shape[1] if found[name].ndim == 2 else 1 for name in ("observations", "actions"))
    wide, deep = sizes or own
    for name, column in found.items():
        width = {"observations": wide, "next_observations": wide, "actions": deep}.get(name)
        if column.shape not in ([(count, width)] if width else [(count,), (count, 1)]):
            wanted = f"[{count}, {width}]" if width else f"[{count}]"
            raise UserError(f"{path}: {name} has shape {column.shape}, but must have {wanted}")
        finite = np.isfinite(column).reshape(count, -1).all(axis=1)
        if not finite.all():
            raise UserError(f"{path}: {name} has a value that is not finite in row {np.argmin(finite)}")
        if width is None:
            found[name] = column.reshape(-1)
    return found


def _columns(path: Path, needed: tuple[str, ...], others: tuple[str, ...]) -> dict[str, np.ndarray]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            there = [*needed, *(name for name in others if name in file)]
            columns = {name: column for name in there if isinstance(column := file.get(name), h5py.Dataset)}
            if missing := [name for name in there if name not in columns]:
                raise UserError(f"{path}: no {', '.join(missing)} in it; there are: {', '.join(sorted(file))}")
            if text := [name for name, column in columns.items() if column.dtype.kind not in "biuf"]:
                raise UserError(f"{path}: {', '.join(text)} must hold numbers")
            kinds = {"terminals": bool, "timeouts": bool}
            return {
                name: np.asarray(column).astype(kinds.get(name, np.float32), copy=False)
                for name, column in columns.items()
            }
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read, the file is damaged or no HDF5 of arrays ({reason})") from None


def convert(rows: dict[str, np.ndarray], limit: int) -> dict[str, np.ndarray]:
    """The columns of a Dataset from those of a file, as `d4rl.qlearning_dataset` converts them.

    What follows the action of a row with `timeouts` is not on record: such a row is the last of its episode. That of a
    row with `terminals` ends the task: it has a successor, from `next_observations`, or else from the row below, as in
    D4RL, and no value beyond. A file without `timeouts` is cut where an episode reaches the limit.
    """
    ended = rows["terminals"]  # [N]
    cut = rows["timeouts"].copy() if "timeouts" in rows else _limits(ended, limit)
    cut[-1] = True  # nothing is known of what follows the last row
    ended = ended & ~cut
    source = np.repeat(np.arange(len(ended)), 1 + ended)  # [M] a row below each that ends the task
    added = np.diff(source, prepend=-1) == 0
    observations = rows["observations"][source]
    following = np.flatnonzero(ended)
    if "next_observations" in rows:
        observations[added] = rows["next_observations"][following]
    else:
        observations[added] = rows["observations"][following + 1]
    return {
        "observations": observations,
        # in an added row these are never used
        "actions": rows["actions"][source],
        "rewards": rows["rewards"][source],
        "alive": (~ended[source]).astype(np.float32),
        "ends": np.flatnonzero(added | cut[source]),
    }


def _limits(ended: np.ndarray, limit: int) -> np.ndarray:
    """[N] whether a row is the last that the limit allows its episode."""
    row = np.arange(len(ended))
    after = np.concatenate([[0], np.where(ended[:-1], row[1:], 0)])  # first rows of episodes, else 0
    return (row - np.maximum.accumulate(after)) % limit == limit - 1
