"""How long `mac-bench data prepare` takes for shards of the official size, and how much memory.

    python benchmarks/preparing.py [--data puzzle-4x5-play-v0] [--task puzzle-4x5-play-oraclerep-v0] [--shards 2]
                                   [--workers 1 2] [--folder FOLDER]

The official 100M data are files of 1,000 episodes of 1,000 steps, each with validation data of a tenth. Here ten
episodes of the scripted policy are repeated a hundred times, in files of the same columns, types and compression; what
is repeated compresses better than what was measured, so reading official files takes longer by the difference. For each
number of workers: rows per second by the clock, processor seconds of all workers, and the most memory that one of them
used. The folder needs 2 GB for each shard.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from mac_bench.generate import generate

EPISODES, LENGTH, REPEATS = 10, 1000, 100


def write_shards(dataset: str, root: Path, shards: int) -> int:
    """Files of a million rows in `root/dataset`; returns the rows of all."""
    short = root / "short"
    generate(dataset, root, episodes=EPISODES, length=LENGTH, seed=0, name=short.name)
    rows = 0
    (root / dataset).mkdir()
    for end in ("", "-val"):
        (source,) = short.glob("*-val.npz" if end else "*[0-9].npz")
        with np.load(source) as archive:
            columns: dict[str, Any] = {name: np.concatenate([archive[name]] * REPEATS) for name in archive}
        for number in range(shards):
            columns["actions"][0] = number / shards  # no two files are equal
            np.savez_compressed(root / dataset / f"{dataset}-{number:03d}{end}.npz", **columns)
            rows += len(columns["actions"])
    return rows


def measure(dataset: str, task: str, root: Path, workers: int) -> tuple[float, float, float]:
    """Seconds by the clock, processor seconds, and the most memory of one process in MB."""
    out = root / f"prepared-{workers}"
    command = [sys.executable, "-m", "mac_bench", "data", "prepare", dataset, "--task", task, "--data", str(root)]
    command += ["--out", str(out), "--workers", str(workers)]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    computing = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, computing, after.ru_maxrss / 1024


def main() -> None:
    """Print one line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="puzzle-4x5-play-v0", help="official name")
    parser.add_argument("--task", default="puzzle-4x5-play-oraclerep-v0", help="to label them for")
    parser.add_argument("--shards", type=int, default=2, help="files of a million rows")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        # in another process: on Linux the peak of one that starts others is counted as theirs
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows = pool.submit(write_shards, options.data, root, options.shards).result()
        size = sum(path.stat().st_size for path in (root / options.data).iterdir())
        print(f"{options.data}: {options.shards} shards, {rows:,} rows, {size / 1e6:,.0f} MB; for {options.task}")
        print("workers      rows/s   seconds   computing s   peak MB")
        for workers in options.workers:
            took, computing, peak = measure(options.data, options.task, root, workers)
            print(f"{workers:7d} {rows / took:11,.0f} {took:9.1f} {computing:13.1f} {peak:9,.0f}", flush=True)


if __name__ == "__main__":
    main()
