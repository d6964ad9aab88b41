"""An agent without a framework whose arrays depend on every update in order. It sleeps, and dies as it is told."""

import os
import signal
import time
from typing import Literal

import numpy as np

from mac_bench.config import Settings
from mac_bench.data import Dataset
from mac_bench.errors import UserError
from mac_bench.files import read_checkpoint, write_checkpoint
from mac_bench.types import Sampling

VERSION = 1


class Config(Settings):
    """How it behaves."""

    slow: float = 1.0
    """times $COUNTING_NAP_MS, for each update"""
    dies: Literal["never", "error", "refused", "memory", "gpu", "kill"] = "never"
    at: int = 0
    """the update at which it dies; 0: any"""
    until_memory_gb: float = 0.0
    """it no longer dies in a job that has so much"""
    until_alone: bool = False
    """it no longer dies with a GPU for itself"""


class Counting:
    """w <- 0.9 w + mean of the batch's observations."""

    sampling = Sampling(batch_size=4)

    def __init__(self, c: Config, observation_size: int, action_size: int):
        self.c, self.action_size = c, action_size
        self.w = np.zeros(observation_size)

    def update(self, batch, step):
        """One number that tells whether every update before was the same."""
        time.sleep(self.c.slow * float(os.environ.get("COUNTING_NAP_MS", 0)) / 1000)
        if self.c.dies != "never" and step >= self.c.at and not self._roomy():
            self._die()
        self.w = 0.9 * self.w + batch.obs.astype(np.float64).mean(axis=0)
        return {"loss/sum": float(self.w.sum())}

    def _roomy(self) -> bool:
        if self.c.until_alone:
            return "XLA_CLIENT_MEM_FRACTION" not in os.environ
        granted = float(os.environ.get("SLURM_MEM_PER_NODE", 0)) / 1024
        return 0 < self.c.until_memory_gb <= granted

    def _die(self):
        if self.c.dies == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.c.dies == "refused":
            raise UserError("this needs another setting")
        if self.c.dies == "memory":
            raise MemoryError("no room for 4 GB")
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory on the GPU" if self.c.dies == "gpu" else "a defect")

    def act(self, obs, goal, *, seed):
        """[N, O] -> [N, 1, A]: the same for all."""
        return np.full((len(obs), 1, self.action_size), np.tanh(self.w.sum()), np.float32)

    def save(self, path, step):
        """The sum so far."""
        write_checkpoint(path, {"w": self.w}, step)

    def load(self, path):
        """And back."""
        arrays, step = read_checkpoint(path, {"w": self.w})
        self.w = arrays["w"]
        return step


def make(c: Config, data: Dataset, seed: int) -> Counting:
    """An agent for these data."""
    return Counting(c, data.observations.shape[1], data.actions.shape[1])
