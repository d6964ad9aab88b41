"""Updates per second of several runs on one GPU: what the pool's and the cluster's runs per GPU pay.

    python benchmarks/packing.py [--jobs 1 2 4] [--agent mac | --quickstart] [--seconds 10]

Each run is a process with the share of the machine that `slurm/pool.py` gives it. All wait for each other before they
measure, and measure at the same time. JAX_COMPILATION_CACHE_DIR saves compiling the same program for each.
"""

import argparse
import os
import sys
import time
from multiprocessing import get_context

from slurm.pool import Place, places


def run(place: Place, name: str, small: bool, seconds: float, ready, results) -> None:
    """One run, in a process of its own."""
    os.environ |= place.environment
    if place.cores is not None:
        os.sched_setaffinity(0, place.cores)
    import update  # only now: frameworks read the environment when they are loaded

    settings, sizes = (update.quickstart(), (2, 2)) if small else ({}, update.CUBE_DOUBLE)
    logged = update.data(*sizes)
    agent = update.registry.make(name, settings, logged, 0)
    batches = update.prefetch(lambda step: logged.sample(agent.sampling, 0, step), 1, sys.maxsize)
    for step, batch in enumerate(batches, 1):
        update.finished(agent.update(batch, step))
        if step == 3:
            break
    ready.wait()
    began = time.perf_counter()
    number = 0
    # nobody waits for single updates, as in training, but no more than ten are on their way
    while time.perf_counter() - began < seconds:
        for _ in range(10):
            metrics = agent.update(next(batches), number)
            number += 1
        update.finished(metrics)
    results.put((number / (time.perf_counter() - began), update.peak_memory().get("device_memory_mb", 0.0)))


def measure(jobs: int, name: str, small: bool, seconds: float) -> list[tuple[float, float]]:
    """Updates per second and peak device memory in MB of each of so many runs at a time."""
    context = get_context("spawn")
    ready, results = context.Barrier(jobs), context.Queue()
    runs = [context.Process(target=run, args=(place, name, small, seconds, ready, results)) for place in places(jobs)]
    for each in runs:
        each.start()
    found = [results.get(timeout=300) for _ in runs]
    for each in runs:
        each.join()
    return found


def main() -> None:
    """Print a line for each number of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--agent", default="mac", help="at its default size")
    parser.add_argument("--quickstart", action="store_true", help="MAC at the quickstart's size")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    for jobs in options.jobs:
        found = measure(jobs, options.agent, options.quickstart, options.seconds)
        rates, memory = zip(*found, strict=True)
        each = ", ".join(f"{rate:.1f}" for rate in rates)
        title = "quickstart" if options.quickstart else options.agent
        print(
            f"{title}: {jobs} at a time: {sum(rates):8.1f} updates/s together ({each}), {max(memory):.0f} MB each",
            flush=True,
        )


if __name__ == "__main__":
    main()
