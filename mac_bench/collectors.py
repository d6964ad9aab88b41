"""OGBench's own scripted policies, episode by episode: arms that play, points that walk through mazes.

The protocol is that of the scripts that made the public data (arXiv 2410.20092), which do not come with the package.
Two things differ: everything is seeded, and the environment is given the very float32 action that is stored, so that
an episode can be replayed.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mac_bench.tasks import GlobalStream, make_env

Columns = dict[str, np.ndarray]
"""observations [T, O], actions [T, A], qpos, qvel, where there are buttons button_states, and terminals [T]"""

STACKING = {"single": (0.0, 0.0), "double": (0.0, 0.25), "triple": (0.05, 0.35), "quadruple": (0.1, 0.5)}
STACKING["octuple"] = (0.0, 0.35)
"""range from which an episode draws its probability of stacking a cube, by number of cubes"""
NOISE_SCALE = np.array([1.0, 1.0, 1.0, 3.0, 10.0])
"""of Gaussian noise on an arm's action: x, y, z, yaw, gripper"""
PARTS = {"cube": ("cube",), "puzzle": ("button",), "scene": ("cube", "button", "drawer", "window")}


def collector(dataset: str, noise: dict[str, float]) -> "Arm | Point":
    """What makes the episodes of an official data set; `noise` as in `noise_of`."""
    return (Point if dataset.startswith("pointmaze") else Arm)(dataset, noise)


def noise_of(dataset: str) -> dict[str, float]:
    """The public data's noise settings."""
    family, kind = dataset.split("-")[0], dataset.split("-")[-2]
    if family == "pointmaze":
        return {"noise": 1.0 if kind == "explore" else 0.5}
    random = 0.0 if kind == "play" else 0.2 if family == "puzzle" else 0.1
    return {"noise": 0.1, "random_actions": random}


def length_of(dataset: str) -> int:
    """The public data's number of transitions in an episode."""
    kind = dataset.split("-")[-2]
    if dataset.startswith("pointmaze-giant") and kind == "navigate":
        return 2000
    return {"stitch": 200, "explore": 500}.get(kind, 1000)


def record(raw: Any, obs: np.ndarray, length: int, act: Callable, after: Callable) -> Columns:
    """length + 1 rows: `act(obs)` chooses the action, `after(info)` sees what it led to."""
    rows: dict[str, list] = {name: [] for name in ("observations", "actions", "qpos", "qvel")}
    for _ in range(length + 1):
        action = np.clip(act(obs), -1.0, 1.0).astype(np.float32)
        following, _, _, _, info = raw.step(action)
        rows["observations"].append(obs)
        rows["actions"].append(action)
        rows["qpos"].append(info["prev_qpos"])
        rows["qvel"].append(info["prev_qvel"])
        if "prev_button_states" in info:
            rows.setdefault("button_states", []).append(info["prev_button_states"])
        after(info)
        obs = following
    columns = {
        name: np.array(column, np.int8 if name == "button_states" else np.float32) for name, column in rows.items()
    }
    return columns | {"terminals": np.arange(length + 1) == length}


class Arm:
    """UR5e episodes of targets that follow one another.

    `play`: open-loop plans with smoothed noise. `noisy`: a closed-loop policy with Gaussian noise, whose scale is drawn
    for each episode, and random actions.
    """

    def __init__(self, dataset: str, noise: dict[str, float]):
        self.family, self.size, self.kind = dataset.split("-")[0], dataset.split("-")[1], dataset.split("-")[-2]
        self.noise, self.random_actions = noise["noise"], noise["random_actions"]
        env = make_env(dataset, mode="data_collection", terminate_at_goal=False, visualize_info=False)
        self.raw = env.unwrapped
        self.policies = {part: self._policy(part) for part in PARTS[self.family]}

    def _policy(self, part: str) -> Any:
        style = "plan" if self.kind == "play" else "markov"
        module = importlib.import_module(f"ogbench.manipspace.oracles.{style}.{part}_{style}")
        settings = {"noise": self.noise, "noise_smoothing": 0.5} if style == "plan" else {"min_norm": 0.4}
        if self.family == "puzzle":
            settings["gripper_always_closed"] = True
        if self.family == "scene" and (part, style) == ("cube", "markov"):
            settings["max_step"] = 100
        return getattr(module, f"{part.capitalize()}{style.capitalize()}Oracle")(env=self.raw, **settings)

    def episode(self, rng: np.random.Generator, length: int) -> Columns:
        while True:
            # the policies draw from NumPy's global generator
            with GlobalStream(int(rng.integers(2**32))):
                columns = self._episode(rng, length)
            if self.family != "scene" or _cube_in_reach(columns["qpos"]):
                return columns

    def _episode(self, rng: np.random.Generator, length: int) -> Columns:
        obs, info = self.raw.reset(seed=int(rng.integers(2**31)))
        stacking = rng.uniform(*STACKING.get(self.size, (0.5, 0.5)))
        deviation = rng.uniform(0.0, self.noise) * NOISE_SCALE
        policy = self.policies[info["privileged/target_task"]]
        policy.reset(obs, info)

        def act(obs: np.ndarray) -> np.ndarray:
            if self.random_actions and rng.random() < self.random_actions:
                return rng.uniform(-1.0, 1.0, 5)
            action = policy.select_action(obs, info)
            return action if self.kind == "play" else action + rng.normal(size=5) * deviation

        def after(following: dict) -> None:
            nonlocal policy, info
            info = following
            if policy.done:
                # As in the public script, `info` keeps the old target for one more action.
                obs, target = self.raw.set_new_target(p_stack=stacking)
                policy = self.policies[target["privileged/target_task"]]
                policy.reset(obs, target)

        return record(self.raw, obs, length, act, after)


def _cube_in_reach(qpos: np.ndarray) -> bool:
    """Whether the cube of a scene [T, nq] stays on the table or in the drawer; such episodes are kept."""
    y, z = qpos[:, 15], qpos[:, 16]
    in_drawer = (z >= 0.06) & (z <= 0.08)
    return not ((y >= 0.29) | ((y <= -0.3) & ~in_drawer)).any()


class Point:
    """Point-mass episodes: shortest paths from cell to cell, with Gaussian noise.

    `navigate`: goal after goal, at crossings and dead ends. `stitch`: one goal four cells away. `explore`: a new random
    direction every ten steps.
    """

    def __init__(self, dataset: str, noise: dict[str, float]):
        self.kind, self.noise = dataset.split("-")[-2], noise["noise"]
        self.raw = make_env(dataset, terminate_at_goal=False).unwrapped
        self.free = np.asarray(self.raw.maze_map) == 0
        self.cells = [(int(i), int(j)) for i, j in np.argwhere(self.free)]
        self.crossings = [cell for cell in self.cells if not self._in_corridor(*cell)]
        self._next: dict[tuple, np.ndarray] = {}

    def _in_corridor(self, i: int, j: int) -> bool:
        vertical, horizontal = self.free[[i - 1, i + 1], j], self.free[i, [j - 1, j + 1]]
        return bool((vertical.all() and not horizontal.any()) or (horizontal.all() and not vertical.any()))

    def _four_away(self, start: tuple[int, int]) -> list[tuple[int, int]]:
        """Cells whose shortest path from `start` has four steps; the start itself where there are none."""
        seen, edge = {start}, [start]
        for _ in range(4):
            near = [(i + di, j + dj) for i, j in edge for di, dj in ((-1, 0), (0, -1), (1, 0), (0, 1))]
            edge = [cell for cell in dict.fromkeys(near) if self.free[cell] and cell not in seen]
            seen.update(edge)
        return edge or [start]

    def _toward(self, xy: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Centre of the next cell on the way: the package searches the maze each time, so its answers are kept."""
        key = (self.raw.xy_to_ij(xy), self.raw.xy_to_ij(goal))
        if key not in self._next:
            self._next[key] = self.raw.get_oracle_subgoal(xy, goal)[0]
        return self._next[key]

    def episode(self, rng: np.random.Generator, length: int) -> Columns:
        # starts, goals and teleports draw from NumPy's global generator
        with GlobalStream(int(rng.integers(2**32))):
            return self._episode(rng, length)

    def _episode(self, rng: np.random.Generator, length: int) -> Columns:
        start = self.cells[rng.integers(len(self.cells))]
        goals = self._four_away(start) if self.kind == "stitch" else self.crossings
        places = {"init_ij": start, "goal_ij": goals[rng.integers(len(goals))]}
        self.raw.action_space.seed(int(rng.integers(2**31)))
        obs, _ = self.raw.reset(seed=int(rng.integers(2**31)), options={"task_info": places})
        headings = rng.normal(size=(length // 10 + 1, 2)) if self.kind == "explore" else None
        step = -1

        def act(_: np.ndarray) -> np.ndarray:
            nonlocal step
            step += 1
            if headings is not None:
                heading = headings[step // 10]
            else:
                xy = self.raw.get_xy()
                heading = self._toward(xy, self.raw.cur_goal_xy) - xy
            return heading / (np.linalg.norm(heading) + 1e-6) + rng.normal(size=2) * self.noise

        def after(info: dict) -> None:
            if info["success"] and self.kind == "navigate":
                cell = self.crossings[rng.integers(len(self.crossings))]
                self.raw.set_goal(goal_xy=self.raw.add_noise(self.raw.ij_to_xy(cell)))

        return record(self.raw, obs, length, act, after)
