"""Uniformly random actions: the floor that every method must leave behind. Learns nothing."""

import numpy as np

from mac_bench.config import Settings
from mac_bench.data import Dataset
from mac_bench.errors import UserError
from mac_bench.files import read_arrays, write_arrays
from mac_bench.types import About, Sampling

VERSION = 1
ABOUT = About(
    paper="none",
    parity="nothing to compare; the contract of all agents: tests/test_agents.py",
    defaults="no settings",
)


class Config(Settings):
    """No settings."""


class RandomActions:
    """An Agent by hand, without a framework: also an example of how little the protocol asks for."""

    sampling = Sampling(batch_size=1)

    def __init__(self, action_size: int):
        self.action_size = action_size

    def update(self, batch, step):
        """Nothing to learn."""
        return {}

    def act(self, obs, goal, *, seed):
        """[N, O] -> [N, 1, A], a function of the seed alone."""
        shape = (len(obs), 1, self.action_size)
        return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)

    def save(self, path, step):
        """Only the step and the action size, by which `load` knows its own."""
        write_arrays(path, {"step": np.asarray(step), "action_size": np.asarray(self.action_size)})

    def load(self, path):
        """Raises UserError for another agent's checkpoint or one for other actions."""
        arrays = read_arrays(path)
        if arrays.keys() != {"step", "action_size"} or arrays["action_size"] != self.action_size:
            raise UserError(f"{path}: not a checkpoint of random actions with {self.action_size} numbers each")
        return int(arrays["step"])


def make(c: Config, data: Dataset, seed: int) -> RandomActions:
    """An agent for these data's actions."""
    return RandomActions(data.actions.shape[1])
