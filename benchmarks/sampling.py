"""Batches per second: 1,024 pieces of length 10, from memory and memory-mapped, with and without goals.

    python benchmarks/sampling.py [--rows 1000000] [--seconds 5]

The last line is the same windows gathered in the plainest way, in the same run, as the measure of the others.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mac_bench.config import GoalMix
from mac_bench.data import Dataset, prefetch
from mac_bench.types import GoalSampling, Sampling

OBS, ACTION, GOAL = 50, 5, 20


def random_data(rows: int) -> Dataset:
    """Random numbers in the shape of a large arm task."""
    rng = np.random.default_rng(0)
    return Dataset(
        observations=rng.random((rows, OBS), np.float32),
        actions=rng.random((rows, ACTION), np.float32),
        ends=np.arange(999, rows, 1000),
        goals=rng.random((rows, GOAL), np.float32),
    )


def rate(make: Callable[[int], object], seconds: float) -> float:
    """Calls per second."""
    make(0)
    began, number = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        make(number)
        number += 1
    return number / (time.perf_counter() - began)


def plain(data: Dataset) -> Callable[[int], object]:
    """Observations and actions of whole windows by one fancy index each."""
    steps = np.arange(11)

    def make(step: int):
        index = np.random.default_rng(step).integers(len(data.observations) - 11, size=1024)[:, None] + steps
        return data.observations[index], data.actions[index]

    return make


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    data = random_data(options.rows - options.rows % 1000)
    rewards = Sampling(1024, 10)
    goals = rewards._replace(
        goals=GoalSampling(
            GoalMix(current=0.2, future=0.5, random=0.3),
            GoalMix(current=0, future=0.5, random=0.5, geometric=True),
            0.999,
        )
    )
    whole = rewards._replace(path=True)
    with tempfile.TemporaryDirectory() as folder:
        data.save(Path(folder) / "columns")
        mapped = Dataset.open(Path(folder) / "columns")
        measured: dict[str, Callable[[int], object]] = {
            "memory, MAC (ends of pieces, actions)": lambda step: data.sample(rewards, 0, step),
            "memory, MAC with goals": lambda step: data.sample(goals, 0, step),
            "memory, whole paths": lambda step: data.sample(whole, 0, step),
            "memory-mapped, MAC with goals": lambda step: mapped.sample(goals, 0, step),
        }
        ahead = prefetch(lambda step: data.sample(goals, 0, step), 0, 10**9)
        measured["memory, MAC with goals, prefetched"] = lambda step: next(ahead)
        measured["plain fancy index of whole paths"] = plain(data)
        for name, make in measured.items():
            print(f"{name:>40}: {rate(make, options.seconds):7.0f} batches/s")


if __name__ == "__main__":
    main()
