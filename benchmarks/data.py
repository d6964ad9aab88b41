"""Batches per second, memory and time to the first batch, of data from a million to a hundred million transitions.

    python benchmarks/data.py [--rows 1000000 10000000] [--seconds 5] [--updates 200] [--folder FOLDER]

Columns are of a real task's shape (92 observations, 5 actions, goals are observations), a batch is 1,024 pieces of
length 10 with goals. Ways: all rows (memory-mapped, uniform over all); blocks (four of a million rows at a time); and
shards, as the reference has it: a compressed .npz is loaded every 1,000 updates, and training stands still meanwhile.
"cold": none of it is in the page cache at first. "warm": all of it, or the blocks that are drawn from; left out where
the memory is too small. "computed": the warm rate per second of the thread's own computing. "waits": the share of time
that a training loop with so many updates a second stands before `prefetch`, over 3,000 updates, and the longest time.
Each line is a process of its own; `private` is its memory beyond the page cache, `mapped` what it uses of that. The
folder needs 0.39 GB for each million rows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from itertools import count, cycle
from pathlib import Path

import numpy as np

from mac_bench.config import GoalMix, Residency
from mac_bench.data import Dataset, prefetch
from mac_bench.prepared import touched_at_random
from mac_bench.types import Batch, GoalSampling, Sampling

OBS, ACTION, EPISODE, SHARD = 92, 5, 1000, 1_000_000
SHARD_UPDATES = 1000
"""updates before the reference loads another shard"""
MIXES = (GoalMix(current=0.2, future=0.5, random=0.3), GoalMix(current=0, future=0.5, random=0.5, geometric=True))
SAMPLING = Sampling(1024, 10, GoalSampling(*MIXES, 0.999))
RESIDENCY = Residency(blocks=4)
WAIT_UPDATES, WAIT_SECONDS = 3000, 60


def write(folder: Path, rows: int) -> None:
    """Columns, a million rows at a time; what they say plays no part."""
    rng = np.random.default_rng(0)
    number = min(rows, SHARD)
    for name, width in (("observations", OBS), ("actions", ACTION)):
        part = rng.random((number, width), np.float32)
        with open(folder / f"{name}.npy", "wb") as file:
            shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
            np.lib.format.write_array_header_1_0(file, shape)
            for _ in range(rows // number):
                part.tofile(file)
                file.flush()
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_shard(path: Path) -> None:
    """One compressed file of a million rows, with a good part of the entropy, as measured data have."""
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.integers(0, 2**12, (SHARD, OBS)).astype(np.float32),
        "actions": rng.random((SHARD, ACTION), np.float32),
        "terminals": np.arange(SHARD) % EPISODE == EPISODE - 1,
    }
    # the fastest level, as only reading is measured
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, column in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, column, allow_pickle=False)


def forget(folder: Path) -> None:
    """Take a folder's files out of the page cache."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def mapped(folder: Path, blocks: bool) -> Dataset:
    """Columns as training opens them."""
    observations, actions = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("observations", "actions"))
    for column in (observations, actions):
        touched_at_random(column)
    ends = np.arange(EPISODE - 1, len(observations), EPISODE)
    return Dataset(observations, actions, ends, goals=observations, resident=RESIDENCY if blocks else None)


def shards(path: Path) -> Callable[[int], Batch]:
    """The reference's way."""
    loaded: list[Dataset] = []

    def make(step: int) -> Batch:
        if step % SHARD_UPDATES == 0:
            loaded.clear()
            with np.load(path, allow_pickle=False) as file:
                rows = {name: file[name] for name in ("observations", "actions")}
                loaded.append(Dataset(**rows, ends=np.flatnonzero(file["terminals"]), goals=rows["observations"]))
        return loaded[0].sample(SAMPLING, 0, step)

    return make


def rate(make: Callable[[int], Batch], steps: Iterator[int], seconds: float) -> tuple[float, float]:
    """Batches per second, and per second of this thread's own computing, which a busy machine changes less."""
    began, computed, number = time.perf_counter(), time.thread_time(), 0
    while time.perf_counter() - began < seconds:
        make(next(steps))
        number += 1
    return number / (time.perf_counter() - began), number / (time.thread_time() - computed)


def waits(make: Callable[[int], Batch], updates: int) -> tuple[float, float]:
    """(share of time, longest time in seconds) that a loop with so many updates a second waits for its batches."""
    batches, waited, began = prefetch(make, 0, WAIT_UPDATES), [], time.perf_counter()
    for _ in range(WAIT_UPDATES):
        before = time.perf_counter()
        if before - began > WAIT_SECONDS:  # where memory is too small, every batch is waited for
            break
        next(batches)
        waited.append(time.perf_counter() - before)
        time.sleep(1 / updates)
    return sum(waited[1:]) / (time.perf_counter() - began), max(waited[1:])


def memory() -> dict[str, float]:
    """GB of this process: its own, and mapped from files."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    found = {words[0]: int(words[1]) / 1024**2 for words in lines if words[0] in ("RssAnon:", "RssFile:")}
    return {"private": found["RssAnon:"], "mapped": found["RssFile:"]}


def measure(way: str, folder: Path, seconds: float, updates: int) -> dict[str, float]:
    """One line of the table, of data that have been forgotten."""
    began = time.perf_counter()
    data = None if way == "shards" else mapped(folder, way == "blocks")
    make = shards(folder / "shard.npz") if data is None else lambda step: data.sample(SAMPLING, 0, step)
    make(0)
    found = {"first": time.perf_counter() - began}
    found["cold"], _ = rate(make, count(1), seconds)
    if data is not None and (way == "blocks" or fits(folder)):
        wait_for(data)
        steps = cycle(range(RESIDENCY.every))  # of blocks those that were read first
        rate(make, steps, seconds)  # pages that are cached are still to be mapped
        found["warm"], found["computed"] = rate(make, steps, seconds)
    share, longest = waits(make, updates)
    return found | {"waits": 100 * share, "longest": longest} | memory()


def wait_for(data: Dataset) -> None:
    """Until the blocks that are drawn from have been read."""
    while not data._reader.held or len(data._reader.held) < len(data._reader.spans(0, 0)[0]):
        time.sleep(0.1)


def fits(folder: Path) -> bool:
    """Whether the page cache can be expected to hold a folder's files."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    return sum(path.stat().st_size for path in folder.iterdir()) < 0.7 * available


COLUMNS = ("first s", "cold /s", "warm /s", "computed /s", "waits %", "longest s", "private GB", "mapped GB")


def main() -> None:
    """Print one line for each way and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--updates", type=int, default=200, help="a second, of the loop that waits")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        way, folder = options.measure
        print(json.dumps(measure(way, Path(folder), options.seconds, options.updates)))
        return
    print(f"{'rows':>12} {'way':>7}", *(f"{name:>11}" for name in COLUMNS))
    command = [sys.executable, __file__, "--seconds", str(options.seconds), "--updates", str(options.updates)]
    for rows in (0, *options.rows):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            write(folder, rows) if rows else write_shard(folder / "shard.npz")
            for way in ("all", "blocks") if rows else ("shards",):
                forget(folder)
                said = subprocess.run([*command, "--measure", way, name], check=True, stdout=subprocess.PIPE).stdout
                found = json.loads(said)
                values = (found.get(name.split()[0]) for name in COLUMNS)
                shown = (f"{'' if value is None else f'{value:.3g}':>11}" for value in values)
                print(f"{rows or SHARD:12,} {way:>7}", *shown, flush=True)


if __name__ == "__main__":
    main()
