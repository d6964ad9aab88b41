"""OGBench's own scripted policies as functions of an observation and a goal alone: they solve mazes, cubes and buttons.

The benchmark's policies are told by the simulator where things are and which of them to move next. Here both are found
out: positions from the observation, which holds them, and what to move next from those and the goal, with no memory
from one step to the next. What never changes in a task (the maze, where buttons are, the goal of a task with rewards)
is asked of an environment once.
"""

from itertools import product
from typing import Any

import numpy as np

from mac_bench.errors import UserError
from mac_bench.tasks import Env, GlobalStream, Task, import_ogbench

FAMILIES = ("pointmaze", "cube", "puzzle")
"""environments whose tasks are solved here"""
CENTER, SCALE = np.array([0.425, 0.0, 0.0]), 10.0
"""of positions in an arm's observations"""
ARM, CUBE, BUTTON = 19, 9, 4
"""numbers of an observation that the arm, each cube and each button have"""
SIDE = 0.04
"""of a cube, in metres"""
PLACED = 0.03
"""a cube so close to its place is there; the benchmark's success is 0.04"""
LOW = 0.16
"""below this height the gripper is at work on the cube under it"""
CLEAR = 0.03
"""so far above a button the gripper presses nothing"""


def check_task(task: Task) -> None:
    """Raises UserError where there is no policy for a task; without an environment, in no time."""
    if task.environment.partition("-")[0] not in FAMILIES:
        raise UserError(f"no oracle for {task.name}: there are scripts for {', '.join(FAMILIES)}")


def oracle(task: Task) -> "Point | Cubes | Buttons":
    """The policy for a task. Raises UserError where there is none."""
    check_task(task)
    kind = {"pointmaze": Point, "cube": Cubes, "puzzle": Buttons}[task.environment.partition("-")[0]]
    env = Env(task)
    try:
        env.reset(task.eval_tasks[0], 0)
        made = kind(task, env.raw)
        made.sizes = env.observation_size, env.action_size
        return made
    finally:
        env.close()


class Point:
    """Along a shortest path through the maze."""

    sizes: tuple[int, int]
    """of observations and actions"""

    def __init__(self, task: Task, raw: Any):
        self.raw, self.goal = raw, np.array(raw.cur_goal_xy)
        self.next: dict[tuple, np.ndarray] = {}

    def act(self, obs: np.ndarray, goal: np.ndarray | None) -> np.ndarray:
        """[2], [2] -> [2]: full speed to the middle of the next cell, and within the last one to the goal."""
        xy, goal = obs[:2].astype(float), (self.goal if goal is None else goal[:2]).astype(float)
        cells = self.raw.xy_to_ij(xy), self.raw.xy_to_ij(goal)
        if cells not in self.next:  # the package searches the maze each time
            self.next[cells] = np.array(self.raw.get_oracle_subgoal(xy, goal)[0])
        heading = (goal if cells[0] == cells[1] else self.next[cells]) - xy
        return heading / (np.linalg.norm(heading) + 1e-6)


def _arm(obs: np.ndarray) -> dict[str, np.ndarray]:
    """What the benchmark's `info` says of the arm."""
    return {
        "proprio/effector_pos": obs[12:15] / SCALE + CENTER,
        "proprio/effector_yaw": np.arctan2(obs[16:17], obs[15:16]),
        "proprio/gripper_opening": obs[17:18] / 3,
        "proprio/gripper_contact": obs[18:19],
    }


def _markov(part: str, raw: Any, **settings: Any) -> Any:
    """The benchmark's closed-loop policy for one kind of thing; where it rests when all is done is fixed."""
    import_ogbench()
    from importlib import import_module

    module = import_module(f"ogbench.manipspace.oracles.markov.{part}_markov")
    policy = getattr(module, f"{part.capitalize()}MarkovOracle")(env=raw, min_norm=0.4, **settings)
    with GlobalStream(0):
        policy.reset(None, {})
    return policy


class Cubes:
    """One cube after the other to its place, lower places first; a cube in the way is put aside."""

    sizes: tuple[int, int]
    """of observations and actions"""

    def __init__(self, task: Task, raw: Any):
        self.policy = _markov("cube", raw)
        self.count = raw._num_cubes
        self.goal = np.array([raw._data.mocap_pos[i] for i in raw._cube_target_mocap_ids])
        self.full = task.goal_conditioned and not task.oracle_goals
        # free places are looked for from the middle of what the arm reaches outwards
        grid = np.array([*product(np.linspace(0.3, 0.55, 6), np.linspace(-0.25, 0.25, 11), [SIDE / 2])])
        self.grid = grid[np.argsort(np.linalg.norm(grid - CENTER, axis=1), kind="stable")]

    def act(self, obs: np.ndarray, goal: np.ndarray | None) -> np.ndarray:
        """[O], [G] -> [5]."""
        obs = obs.astype(float)
        cubes, at = self._cubes(obs), _arm(obs)
        place = self.goal if goal is None else self._places(goal.astype(float))
        chosen = self._choose(at, cubes[:, :3], place)
        to = self._destination(chosen, cubes[:, :3], place)
        held = at["proprio/gripper_contact"][0] >= 0.1
        if not held and np.linalg.norm(cubes[chosen, :3] - to) <= PLACED:
            to = cubes[chosen, :3]  # let go: what has moved a little since is not taken up again
        about = {
            f"privileged/block_{chosen}_pos": cubes[chosen, :3],
            f"privileged/block_{chosen}_yaw": cubes[chosen, 3:],
            "privileged/target_block": chosen,
            "privileged/target_block_pos": to,
            "privileged/target_block_yaw": np.zeros(1),
        }
        return self.policy.select_action(obs, at | about)

    def _cubes(self, obs: np.ndarray) -> np.ndarray:
        """[N, 4] positions and yaws."""
        rows = obs[ARM:].reshape(self.count, CUBE)
        return np.column_stack([rows[:, :3] / SCALE + CENTER, np.arctan2(rows[:, 8], rows[:, 7])])

    def _places(self, goal: np.ndarray) -> np.ndarray:
        """[N, 3] where the cubes are to be."""
        return self._cubes(goal)[:, :3] if self.full else goal.reshape(self.count, 3) / SCALE + CENTER

    def _choose(self, at: dict[str, np.ndarray], cubes: np.ndarray, place: np.ndarray) -> int:
        """The cube in or under the gripper; above them all the next to be moved."""
        gripper = at["proprio/effector_pos"]
        near = int(np.linalg.norm(cubes - gripper, axis=1).argmin())
        holding = at["proprio/gripper_contact"][0] > 0.5 and np.linalg.norm(cubes[near] - gripper) <= 0.03
        if holding or (gripper[2] <= LOW and np.linalg.norm(cubes[near, :2] - gripper[:2]) <= SIDE):
            return near
        away = [i for i in range(self.count) if np.linalg.norm(cubes[i] - place[i]) > PLACED]
        away = [i for i in away if not self._covered(i, cubes)]
        away.sort(key=lambda i: place[i, 2])
        ready = [i for i in away if self._open(i, cubes, place)]
        aside = [i for i in away if np.linalg.norm(cubes[i] - self._destination(i, cubes, place)) > PLACED]
        return (ready or aside or away or [near])[0]

    def _destination(self, cube: int, cubes: np.ndarray, place: np.ndarray) -> np.ndarray:
        """[3] its place, or while another cube is there, or none yet that it shall lie on, a free spot."""
        if self._open(cube, cubes, place):
            return place[cube]
        taken = np.concatenate([np.delete(cubes, cube, axis=0), place])[:, :2]
        distance = np.linalg.norm(self.grid[:, None, :2] - taken, axis=2).min(axis=1)
        return self.grid[int((distance > 2 * SIDE).argmax())]

    def _open(self, cube: int, cubes: np.ndarray, place: np.ndarray) -> bool:
        others = np.delete(cubes, cube, axis=0) - place[cube]
        close, height = np.linalg.norm(others[:, :2], axis=1), others[:, 2]
        occupied = (close < 1.2 * SIDE) & (np.abs(height) < 0.8 * SIDE)
        carried = (close < PLACED) & (np.abs(height + SIDE) < SIDE / 2)
        return not occupied.any() and (place[cube, 2] < SIDE or carried.any())

    def _covered(self, cube: int, cubes: np.ndarray) -> bool:
        others = np.delete(cubes, cube, axis=0) - cubes[cube]
        return bool(((np.linalg.norm(others[:, :2], axis=1) < SIDE) & (others[:, 2] > SIDE / 2)).any())


class Buttons:
    """The fewest presses that lead to the goal, the nearest first; a press turns a button and its neighbours."""

    sizes: tuple[int, int]
    """of observations and actions"""

    def __init__(self, task: Task, raw: Any):
        self.policy = _markov("button", raw, gripper_always_closed=True)
        self.tops = np.array([raw._data.site_xpos[i] for i in raw._button_site_ids])  # [N, 3]
        self.goal = np.array(raw._target_button_states)
        self.full = task.goal_conditioned and not task.oracle_goals
        self.rows, self.columns = raw._num_rows, raw._num_cols
        self.plans: dict[bytes, np.ndarray] = {}

    def act(self, obs: np.ndarray, goal: np.ndarray | None) -> np.ndarray:
        """[O], [G] -> [5]."""
        obs, at, now = obs.astype(float), _arm(obs.astype(float)), self._states(obs)
        wanted = self.goal if goal is None else self._states(goal) if self.full else np.rint(goal).astype(int)
        gripper = at["proprio/effector_pos"]
        flat = np.linalg.norm(self.tops[:, :2] - gripper[:2], axis=1)
        todo = self._presses((now != wanted).astype(np.uint8))
        under = int(flat.argmin())
        pressing = int(todo[flat[todo].argmin()]) if len(todo) else under
        rising = not len(todo) or (pressing != under and gripper[2] < self.tops[under, 2] + CLEAR)
        button = under if rising else pressing
        about = {
            "privileged/target_button": button,
            "privileged/target_button_top_pos": self.tops[button],
            f"privileged/button_{button}_state": now[button],
            "privileged/target_button_state": now[button] if rising else 1 - now[button],
        }
        return self.policy.select_action(obs, at | about)

    def _states(self, obs: np.ndarray) -> np.ndarray:
        """[N] 0 or 1."""
        return obs[ARM:].reshape(len(self.tops), BUTTON)[:, :2].argmax(axis=1)

    def _presses(self, difference: np.ndarray) -> np.ndarray:
        key = difference.tobytes()
        if key not in self.plans:
            self.plans[key] = presses(difference, self.rows, self.columns)
        return self.plans[key]


def presses(difference: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The smallest set of buttons of a grid whose presses turn just those where `difference` [rows * columns] is 1.

    Raises UserError where none does.
    """
    count = rows * columns
    near = np.abs(np.subtract.outer(*2 * [np.arange(count) // columns]))
    near += np.abs(np.subtract.outer(*2 * [np.arange(count) % columns]))
    table = np.column_stack([near <= 1, difference]).astype(np.uint8)  # of linear equations modulo 2
    pivots = []
    for column in range(count):
        found = np.flatnonzero(table[len(pivots) :, column])
        if len(found):
            row = len(pivots)
            table[[row, row + found[0]]] = table[[row + found[0], row]]
            others = np.flatnonzero(table[:, column])
            table[others[others != row]] ^= table[row]
            pivots.append(column)
    if table[len(pivots) :, -1].any():
        raise UserError("no presses turn just these buttons")
    free = [column for column in range(count) if column not in pivots]
    solutions = np.zeros((2 ** len(free), count), np.uint8)
    solutions[:, free] = [*product((0, 1), repeat=len(free))]
    solutions[:, pivots] = (table[: len(pivots), -1] + solutions[:, free] @ table[: len(pivots)][:, free].T) % 2
    return np.flatnonzero(solutions[solutions.sum(axis=1).argmin()])
