"""Prepared data: columns that are memory-mapped instead of loaded, made once by prepare.py.

prepared/NAME/rows/           observations, actions and ends, of training and (val-...) of validation
prepared/NAME/<task>/         what the task adds: rewards and alive, or goals where they are not the observations
each with manifest.json       source (each shard's sha256), OGBench's version, statistics, each column's sha256 by shard

A part is a folder that gets its name when it is complete. `prepared` lies in the data folder; another place, such as
a node's own disk, is looked at first where the variable MAC_BENCH_PREPARED names it.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import mmap
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mac_bench.config import Residency
from mac_bench.data import Dataset, Statistics
from mac_bench.errors import UserError

FORMAT = 1
"""bumped whenever the same shards give other columns; what has another is not used"""
ROWS = "rows"
"""the part that all tasks share"""
MANIFEST = "manifest.json"
SPLITS = {"training": "", "validation": "val-"}
"""split -> how its files begin"""
TAIL_BYTES = 65_536
VARIABLE = "MAC_BENCH_PREPARED"


def homes(root: Path) -> list[Path]:
    """Where prepared data may lie, the preferred place first."""
    given = os.environ.get(VARIABLE)
    return [Path(given), root / "prepared"] if given else [root / "prepared"]


def mark(path: Path) -> str:
    """What tells a shard from another at the cost of its last bytes: there an .npz keeps each column's checksum."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        return f"{size} {hashlib.sha256(file.read()).hexdigest()[:16]}"


def marks(pairs: list[tuple[Path, Path]]) -> dict[str, str]:
    """File name -> mark, of (training, validation) files in their order."""
    try:
        return {path.name: mark(path) for pair in pairs for path in pair}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None


def manifest(folder: Path) -> dict[str, Any] | None:
    """What a part says of itself; None where it is not there or of another format."""
    try:
        content = json.loads((folder / MANIFEST).read_text())
        return content if content["format"] == FORMAT else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / MANIFEST}: cannot be read ({error}); remove {folder}, and prepare again") from None


def current(folder: Path, shards: dict[str, str]) -> bool:
    """Whether a part is there and was made of just these shards (names, order and marks) by this OGBench's labels."""
    content = manifest(folder)
    if content is None or content["ogbench"] != ogbench_version():
        return False
    return [(shard["file"], shard["mark"]) for shard in content["shards"]] == list(shards.items())


def ogbench_version() -> str:
    """Labels depend on it: 1.2.0 moved the reward to the state before the step."""
    return importlib.metadata.version("ogbench")


def find(task: str, dataset: str, root: Path, pairs: list[tuple[Path, Path]]) -> Path | None:
    """The folder of the data prepared for a task from these files, or None."""
    candidates = [home / dataset for home in homes(root) if (home / dataset / task / MANIFEST).exists()]
    shards = marks(pairs) if candidates else {}
    return next((x for x in candidates if current(x / ROWS, shards) and current(x / task, shards)), None)


def open_columns(folder: Path, task: str, resident: Residency | None = None) -> Dataset:
    """Memory-map what was prepared for a task. Raises UserError where a column is missing or cut short."""
    parts = [folder / ROWS, folder / task]
    contents = [manifest(part) or {} for part in parts]
    validation = _open(parts, contents, "validation")
    return _open(parts, contents, "training", validation=validation, resident=resident, task=task)


def _open(parts: list[Path], contents: list[dict[str, Any]], split: str, **others: Any) -> Dataset:
    columns, known = {}, {}
    for part, content in zip(parts, contents, strict=True):
        for name in content["columns"]:
            columns[name] = open_column(part / f"{SPLITS[split]}{name}.npy")
            if name in ("observations", "actions", "goals"):
                touched_at_random(columns[name])
        for name, values in content["statistics"][split].items():
            known[name] = Statistics(*(np.array(values[key], kind) for key, kind in _KINDS.items()))
    columns["ends"] = np.array(columns["ends"])  # short, and searched for every batch
    if contents[1]["goals_are_observations"]:
        columns["goals"], known["goals"] = columns["observations"], known["observations"]
    return Dataset(**columns, **others).knows(contents[1]["digest"][split], known)


_KINDS = {"low": np.float32, "high": np.float32, "mean": np.float64, "deviation": np.float64}


def written(found: Statistics) -> dict[str, list[float]]:
    """Statistics for a manifest, to the last bit."""
    return {key: np.asarray(getattr(found, key), np.float64).tolist() for key in _KINDS}


def open_column(path: Path) -> np.memmap:
    """Raises UserError where the file is missing or cut short."""
    try:
        column = np.load(path, mmap_mode="r", allow_pickle=False)
        assert isinstance(column, np.memmap)
        return column
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path}: prepared column cannot be read ({error}); remove {path.parent}, and prepare again"
        ) from None


def touched_at_random(column: np.memmap) -> None:
    """A missing page is read alone, without its neighbours: `Reader` brings those, in order and far faster."""
    if isinstance(column.base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        column.base.madvise(mmap.MADV_RANDOM)


def tasks_of(dataset: str, root: Path, pairs: list[tuple[Path, Path]]) -> dict[str, bool]:
    """Task -> whether what was prepared for it was made of these files."""
    parts = [part.parent for home in homes(root) for part in sorted(home.glob(f"{dataset}/*/{MANIFEST}"))]
    names = dict.fromkeys(part.name for part in parts if part.name != ROWS and part.suffix != ".partial")
    return {name: find(name, dataset, root, pairs) is not None for name in names}


def verify(folder: Path) -> Iterator[str]:
    """What is wrong with the columns of a data set's parts, one line each."""
    for part in sorted(path.parent for path in folder.glob(f"*/{MANIFEST}") if path.parent.suffix != ".partial"):
        try:
            yield from _verify(part)
        except UserError as error:
            yield str(error)


def _verify(part: Path) -> Iterator[str]:
    content = manifest(part)
    if content is None:
        return
    for name in content["columns"]:
        for split, start in SPLITS.items():
            path, first = part / f"{start}{name}.npy", 0
            column = open_column(path)
            for shard in (shard for shard in content["shards"] if shard["split"] == split):
                # a view of bytes, by which a column of any type is hashed without a copy
                rows = column[first : first + shard[_COUNTS.get(name, "rows")]]
                first += len(rows)
                if hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest() != shard["columns"][name]:
                    yield f"{path}: is not as it was prepared from {shard['file']}; remove {part}, and prepare again"
                    break


_COUNTS = {"ends": "episodes"}
"""column -> what it has for each shard, where that is not its rows"""


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder for this process. The lock dies with its owner. Raises UserError where another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is preparing these data; wait for it") from None
        yield


def stage(folder: Path, names: list[str], target: Path) -> Path:
    """Copy parts of prepared data to `target`, such as a node's own disk; what is there and the same is kept."""
    copy = target / folder.name
    with claimed(copy):
        for name in (ROWS, *names):
            source, final, aside = folder / name, copy / name, copy / f"{name}.partial"
            if manifest(final) is not None and manifest(final) == manifest(source):
                continue
            for old in (aside, final):
                shutil.rmtree(old, ignore_errors=True)
            require_space(copy, sum(path.stat().st_size for path in source.iterdir()))
            _copy(source, aside)
            for problem in _verify(aside):
                raise UserError(f"copying {source}: {problem}")
            os.replace(aside, final)
    return copy


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target)
    except shutil.Error as error:  # [(source, target, reason), ...]
        reason = re.sub(r"^\[Errno \d+\] |: '.*", "", error.args[0][0][2])
        raise UserError(f"{target}: {reason}; make room, and call again") from None
    except OSError as error:
        raise UserError(f"{target}: {error.strerror}; make room, and call again") from None


def require_space(folder: Path, needed: int) -> None:
    """Raises UserError where a disk cannot hold so many bytes more."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{folder}: needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; choose another disk")
