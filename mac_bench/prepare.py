"""Turns official shards into memory-mapped columns (prepared.py): once, in parallel, with one shard in memory each.

Columns are laid out in a folder `.partial`, each worker writes its shard's rows where they belong, and what is done is
written down, so that a call that was killed is continued by the same call and gives the same files.
"""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mac_bench import npz, prepared, tasks
from mac_bench.data import Dataset, statistics
from mac_bench.errors import UserError
from mac_bench.files import sha256, write_text
from mac_bench.manifest import folder_of
from mac_bench.workers import spread

PROGRESS = "progress.json"
"""in a folder `.partial`: what has been done of it"""
OF_ROWS = ("observations", "actions", "ends")

Progress = Callable[[int, int], None]
"""called with the number of files that are done and the number of all"""


class Job(NamedTuple):
    """One shard to be written into its place."""

    shard: Path
    mark: str
    task: str
    folder: Path
    """of the part that is being made"""
    split: str
    columns: tuple[str, ...]
    row: int
    """where its rows begin in the columns"""
    episode: int
    """and where its episodes"""
    rows: int
    episodes: int


def prepare(
    dataset: str,
    names: list[str],
    root: Path,
    *,
    out: Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Prepare the data of a name in the data folder `root` for tasks, in `out/dataset` (default: `root/prepared`).

    Returns that folder. What is there and was made of the same shards is kept. Raises UserError.
    """
    if not names:
        raise UserError("prepare: no task given; say for which, as in --task cube-double-play-oraclerep-v0")
    wanted = [tasks.find(name) for name in dict.fromkeys(names)]
    pairs = tasks.files(dataset, root)
    for task in wanted:
        tasks.check_data(task, dataset, root)
    if pairs[0][0].suffix != ".npz":
        raise UserError(f"{pairs[0][0]}: only .npz files are prepared; others are small enough to be loaded")
    folder = folder_of(out or root / "prepared", dataset)
    try:
        shards = prepared.marks(pairs)
        with prepared.claimed(folder):
            whole = tasks.find(wanted[0].dataset)  # goals are observations: nothing has to be labelled
            for part, task in ((prepared.ROWS, whole), *((task.name, task) for task in wanted)):
                if not prepared.current(folder / part, shards):
                    _make(folder / part, task, pairs, shards, workers, progress or (lambda done, total: None))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}; call again to continue once that is put right") from None
    return folder


def _make(
    final: Path,
    task: tasks.Task,
    pairs: list[tuple[Path, Path]],
    shards: dict[str, str],
    workers: int,
    progress: Progress,
) -> None:
    """One part, under its name only when it is complete."""
    aside = final.with_name(f"{final.name}.partial")
    plan = {"format": prepared.FORMAT, "task": task.name, "ogbench": prepared.ogbench_version(), "shards": shards}
    done = _continued(aside, plan)
    columns = OF_ROWS if final.name == prepared.ROWS else _labels(task)
    jobs = _jobs(aside, task, pairs, shards, columns)
    _lay_out(aside, task, jobs, plan, bool(done))
    todo = [job for job in jobs if job.shard.name not in done]
    progress(len(done), len(jobs))
    for job, record in spread(_convert, todo, workers):
        done[job.shard.name] = record
        write_text(aside / PROGRESS, json.dumps({"plan": plan, "done": done}))
        progress(len(done), len(jobs))
    content = plan | {"columns": columns, "shards": [done[job.shard.name] for job in jobs]}
    write_text(aside / prepared.MANIFEST, json.dumps(content | _summary(aside, final, columns), indent=1) + "\n")
    shutil.rmtree(final, ignore_errors=True)  # made of other shards
    os.replace(aside, final)
    (final / PROGRESS).unlink()  # last: until then, a call that was killed can be continued


def _labels(task: tasks.Task) -> tuple[str, ...]:
    """The columns that a task adds."""
    if not task.goal_conditioned:
        return ("rewards", "alive")
    return ("goals",) if task.oracle_goals else ()


def _continued(aside: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """What a call before this one has done of the same plan; whatever else lies there is removed."""
    for half in aside.glob(".*.tmp"):  # of a writer that was killed: it would become part of the whole
        half.unlink()
    try:
        content = json.loads((aside / PROGRESS).read_text())
        if content["plan"] == plan:
            return content["done"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    shutil.rmtree(aside, ignore_errors=True)
    return {}


def _jobs(
    aside: Path, task: tasks.Task, pairs: list[tuple[Path, Path]], shards: dict[str, str], columns: tuple[str, ...]
) -> list[Job]:
    """One for each file, with its place in the columns."""
    jobs, rows, episodes = [], dict.fromkeys(prepared.SPLITS, 0), dict.fromkeys(prepared.SPLITS, 0)
    for path, split in ((path, split) for pair in pairs for path, split in zip(pair, prepared.SPLITS, strict=True)):
        number, ends = npz.size(path)
        place = (columns, rows[split], episodes[split], number, ends)
        jobs.append(Job(path, shards[path.name], task.name, aside, split, *place))
        rows[split], episodes[split] = rows[split] + number, episodes[split] + ends
    return jobs


def _lay_out(aside: Path, task: tasks.Task, jobs: list[Job], plan: dict[str, Any], begun: bool) -> None:
    """Files of the columns' final sizes."""
    if begun:
        return
    aside.mkdir(parents=True, exist_ok=True)
    shapes: dict[Path, tuple[tuple[int, ...], np.dtype]] = {}
    widths = _widths(task, jobs)
    for split, start in prepared.SPLITS.items():
        own = [job for job in jobs if job.split == split]
        for name in jobs[0].columns:
            number = sum(job.episodes if name == "ends" else job.rows for job in own)
            shapes[aside / f"{start}{name}.npy"] = ((number, *widths[name][0]), widths[name][1])
    prepared.require_space(aside, sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in shapes.values()))
    for path, (shape, dtype) in shapes.items():
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    write_text(aside / PROGRESS, json.dumps({"plan": plan, "done": {}}))


def _widths(task: tasks.Task, jobs: list[Job]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Column -> shape of a row and type, as the smallest file has them."""
    part = _read(min(jobs, key=lambda job: job.rows))
    return {name: (column.shape[1:], column.dtype) for name, column in part.items()}


@functools.lru_cache(maxsize=1)
def _env(task: str) -> tasks.Env:
    """One for all shards that a process converts."""
    return tasks.Env(tasks.find(task))


def _read(job: Job) -> dict[str, np.ndarray]:
    """The columns of a job's file."""
    part = tasks.read(job.shard, _env(job.task))
    return {name: np.ascontiguousarray(getattr(part, name)) for name in job.columns}


def _convert(job: Job) -> dict[str, Any]:
    """Write one file's rows; returns what the manifest says of it."""
    digest, hashes = sha256(job.shard), {}
    for name, column in _read(job).items():
        hashes[name] = _put(job, name, column + job.row if name == "ends" else column)
    record = {"file": job.shard.name, "mark": job.mark, "sha256": digest, "split": job.split}
    return record | {"rows": job.rows, "episodes": job.episodes, "columns": hashes}


def _put(job: Job, name: str, column: np.ndarray) -> str:
    """Write a shard's part of a column, down to the disk; returns its sha256.

    By a write and not through a map, for which a full disk would be the end of the process.
    """
    path = job.folder / f"{prepared.SPLITS[job.split]}{name}.npy"
    whole = prepared.open_column(path)
    first, number = (job.episode, job.episodes) if name == "ends" else (job.row, job.rows)
    if len(column) != number:
        raise UserError(f"{job.shard}: changed while it was being prepared; call again")
    with open(path, "r+b", buffering=0) as file:
        file.seek(whole.offset + first * whole.strides[0])
        left = memoryview(column.data).cast("B")
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    return hashlib.sha256(column.data).hexdigest()


def _summary(aside: Path, final: Path, columns: tuple[str, ...]) -> dict[str, Any]:
    """What training would otherwise read all columns for: statistics, and for a task the digest of its data."""
    found: dict[str, Any] = {"statistics": {}, "digest": {}, "goals_are_observations": not columns}
    here: dict[str, Any]
    for split, start in prepared.SPLITS.items():
        here = {name: prepared.open_column(aside / f"{start}{name}.npy") for name in columns}
        found["statistics"][split] = {
            name: prepared.written(statistics(here[name])) for name in ("observations", "goals") if name in here
        }
        if final.name != prepared.ROWS:
            rows = final.parent / prepared.ROWS
            here |= {name: prepared.open_column(rows / f"{start}{name}.npy") for name in OF_ROWS}
            whole = {} if columns else {"goals": here["observations"]}
            found["digest"][split] = Dataset(**here, **whole).digest
    return found
