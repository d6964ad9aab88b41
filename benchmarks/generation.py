"""Transitions per second that the scripted policies make, of each environment, and with several processes at a time.

    python benchmarks/generation.py [--data cube-single-play-v0 ...] [--steps 2000] [--workers 1 2]

Each process makes its environment and a short episode first, which is not measured, then episodes of the public length
(at most 1,000 steps) until it has so many steps. "per core": transitions per second of its own computing, which a busy
machine changes less than the clock's; then transitions per second by the clock, of all processes together, for each
number of them. Without --data: one data set of each kind that can be made here. The same numbers of `mac-bench data
generate` are a little lower, as it also compresses and writes.
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
    length, made = min(1000, length_of(share.dataset)), 0
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
    clocks = (f"{f'{workers} process' + 'es' * (workers > 1):>13}" for workers in options.workers)
    print(f"{'data':30} {'per core':>10}", *clocks, flush=True)
    for dataset in options.data:
        found = [together(dataset, workers, options.steps) for workers in options.workers]
        computed = np.mean([one.computed for one in found[0]])
        clocks = (f"{sum(one.clock for one in each):13,.0f}" for each in found)
        print(f"{dataset:30} {computed:10,.0f}", *clocks, flush=True)


if __name__ == "__main__":
    main()
