"""Transitions per second that the scripted policies make, of each environment, and with several processes at a time.

    python benchmarks/generation.py [--data cube-single-play-v0 ...] [--steps 2000] [--workers 1 2]

Each process makes its environment and a short episode first, which is not measured, then episodes of at most 1,000
steps until it has so many. For each number of processes: transitions per second of all of them together, by their own
computing, which says what they lose to each other, and by the clock, which is less where others use the machine too.
Without --data: one data set of each kind that can be made here. The rates of `mac-bench data generate` are a little
lower, as it also compresses and writes.
"""

import argparse
import time
from typing import NamedTuple

import numpy as np

from mac_bench.collectors import collector, length_of, noise_of
from mac_bench.workers import spread

DATA = (
    *("pointmaze-medium-navigate-v0", "cube-single-play-v0", "cube-double-play-v0", "cube-octuple-play-v0"),
    *("scene-play-v0", "puzzle-3x3-play-v0", "puzzle-4x4-play-v0", "puzzle-4x5-play-v0", "puzzle-4x6-play-v0"),
    *("cube-single-noisy-v0", "scene-noisy-v0", "puzzle-3x3-noisy-v0"),
)


class Share(NamedTuple):
    """What one process is to make."""

    dataset: str
    seed: int
    steps: int


class Measured(NamedTuple):
    """Transitions per second."""

    computed: float
    """of the process's own computing"""
    clock: float


def measure(share: Share) -> Measured:
    """Make episodes in this process."""
    source = collector(share.dataset, noise_of(share.dataset))
    rng = np.random.default_rng(share.seed)
    source.episode(rng, 20)
    length, made = min(1000, share.steps, length_of(share.dataset)), 0
    began, computed = time.perf_counter(), time.process_time()
    while made < share.steps:
        made += len(source.episode(rng, length)["terminals"]) - 1
    return Measured(made / (time.process_time() - computed), made / (time.perf_counter() - began))


def together(dataset: str, workers: int, steps: int) -> list[Measured]:
    """So many processes side by side."""
    shares = [Share(dataset, seed, steps) for seed in range(workers)]
    return [found for _, found in spread(measure, shares, workers)]


def main() -> None:
    """Print one line for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=DATA)
    parser.add_argument("--steps", type=int, default=2000, help="of each process")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    titles = [f"{workers} {kind}" for workers in options.workers for kind in ("computed", "by clock")]
    print(f"{'data':30}", *(f"{title:>12}" for title in titles), flush=True)
    for dataset in options.data:
        line = [dataset.ljust(30)]
        for workers in options.workers:
            found = together(dataset, workers, options.steps)
            line += [f"{sum(rates):12,.0f}" for rates in zip(*found, strict=True)]
        print(*line, flush=True)


if __name__ == "__main__":
    main()
