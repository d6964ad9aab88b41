"""The benchmark's scripted policies: what can be reached, the row above all methods. Learns nothing.

They act from the observation and the goal alone, as every agent does, and do without a logged step. But they know the
task by its name: which maze, where its buttons are, what a task with rewards wants (`mac_bench/oracles.py`).
"""

from typing import Any

import numpy as np

from mac_bench import oracles, tasks
from mac_bench.config import Settings
from mac_bench.data import Dataset
from mac_bench.errors import UserError
from mac_bench.files import read_arrays, write_arrays
from mac_bench.oracles import FAMILIES, oracle
from mac_bench.types import About, Sampling

VERSION = 1
ABOUT = About(
    paper="OGBench: Park et al., ICLR 2025, arXiv 2410.20092",
    parity="it solves the tasks: tests/test_oracles.py; all of 75 episodes on five goals on cube-single and -double, "
    "puzzle-3x3 to -4x6 and pointmaze-medium to -giant; on cube-octuple 10 of 15, in pointmaze-teleport 12 of 15",
    defaults="no settings",
    deviations=f"only {', '.join(FAMILIES)}; the benchmark's policies are told what to move next, here that is planned",
)


class Config(Settings):
    """No settings."""


def check_task(name: str) -> None:
    """Raises UserError for a task without a script, so that it need not be found out by a run."""
    oracles.check_task(tasks.find(name))


class Oracle:
    """An Agent by hand."""

    sampling = Sampling(batch_size=1)

    def __init__(self, task: str):
        self.task = task
        self.policy = oracle(tasks.find(task))  # the plans that it keeps do not change what it does

    def update(self, batch, step):
        """Nothing to learn."""
        return {}

    def act(self, obs, goal, *, seed):
        """[N, O], [N, G] -> [N, 1, A]."""
        goals: Any = [None] * len(obs) if goal is None else goal
        actions = [self.policy.act(*row) for row in zip(obs, goals, strict=True)]
        return np.clip(actions, -1, 1).astype(np.float32)[:, None]

    def save(self, path, step):
        """Only the step and the task, by which `load` knows its own."""
        write_arrays(path, {"step": np.asarray(step), "task": np.frombuffer(self.task.encode(), np.uint8)})

    def load(self, path):
        """Raises UserError for another agent's checkpoint or one of another task."""
        arrays = read_arrays(path)
        if arrays.keys() != {"step", "task"} or arrays["task"].tobytes() != self.task.encode():
            raise UserError(f"{path}: not a checkpoint of the oracle of {self.task}")
        return int(arrays["step"])


def make(c: Config, data: Dataset, seed: int) -> Oracle:
    """An agent for the task that the data are labelled for. Raises UserError where there is no script for it."""
    if data.task is None:
        raise UserError("the oracle needs to know the task: these data are of none of the benchmark's")
    made = Oracle(data.task)
    sizes = data.observations.shape[1], data.actions.shape[1]
    if sizes != made.policy.sizes:
        raise UserError(f"{data.task} has observations and actions of sizes {made.policy.sizes}, the data {sizes}")
    return made


def toy(goals: bool) -> Dataset:
    """Data for the contract, whose own are of no task: places in a maze."""
    places = np.random.default_rng(0).uniform(0, 20, (400, 2)).astype(np.float32)
    return Dataset(
        observations=places,
        actions=np.zeros((400, 2), np.float32),
        ends=np.array([399]),
        rewards=None if goals else np.full(400, -1, np.float32),
        alive=None if goals else np.ones(400, np.float32),
        goals=places if goals else None,
        task=f"pointmaze-medium-navigate-{'oraclerep' if goals else 'singletask'}-v0",
    )
