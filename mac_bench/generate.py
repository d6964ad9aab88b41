"""Data made on this machine by the benchmark's own scripted policies.

A data set is a folder of shards, each one training file and one validation file that OGBench's own loader reads, and
`manifest.json`, written last. A shard is a function of (parameters, shard number) alone.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mac_bench import tasks
from mac_bench.collectors import Columns, collector, length_of, noise_of
from mac_bench.errors import UserError
from mac_bench.files import sha256, write_arrays, write_text
from mac_bench.manifest import FETCHED, MANIFEST, UNFINISHED, folder_of, read_manifest, write_unfinished
from mac_bench.workers import spread

VERSION = 1
"""bumped whenever the same parameters give other data"""
PARTS = "parts"
"""folder inside: what is made by many processes at a time, each part with a manifest of its own"""
VALIDATION_SHARE = 10
"""one validation episode for so many training episodes, and at least one in each shard"""

Progress = Callable[[int, int], None]
"""called with the number of episodes done and the number of all; after each shard where there are several workers"""


class Shard(NamedTuple):
    """One pair of files to be made."""

    folder: Path
    stem: str
    number: int
    episodes: int
    parameters: dict[str, Any]


def generate(
    dataset: str,
    root: Path,
    *,
    episodes: int,
    length: int | None = None,
    shards: int = 1,
    seed: int = 0,
    workers: int = 1,
    name: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make the data of an official name in `root/name` (default: the official name), and return that folder.

    `episodes` counts training episodes, each of `length` transitions (default: as in the public data). What is there
    and whole is kept, so an interrupted call can be repeated. Raises UserError for data that cannot be made here, and
    where the folder holds data of other parameters.
    """
    parameters = _parameters(dataset, episodes, length, shards, seed)
    folder = folder_of(root, name or dataset)
    known, todo = _missing(folder, parameters)
    if todo or (folder / UNFINISHED).exists() or not known:
        _check_versions(folder, known, todo)
        manifest = _begin(folder, parameters, known, todo)
        for made in _make_all(todo, workers, progress or (lambda done, total: None)):
            manifest["files"] |= made
            write_unfinished(folder, manifest)
        manifest["files"] = dict(sorted(manifest["files"].items()))
        write_unfinished(folder, manifest)
        os.replace(folder / UNFINISHED, folder / MANIFEST)
        shutil.rmtree(folder / PARTS, ignore_errors=True)
        for left in folder.glob(".*.tmp"):  # of calls that were killed
            left.unlink(missing_ok=True)
    return folder


def missing(
    dataset: str,
    root: Path,
    *,
    episodes: int,
    length: int | None = None,
    shards: int = 1,
    seed: int = 0,
    name: str | None = None,
) -> list[int]:
    """Numbers of the shards that `generate` would make; `make_part` may make them, anywhere and in any order, and then
    `generate` finds them. Raises UserError as `generate` does."""
    parameters = _parameters(dataset, episodes, length, shards, seed)
    folder = folder_of(root, name or dataset)
    known, todo = _missing(folder, parameters)
    _check_versions(folder, known, todo)
    if todo and not (folder / UNFINISHED).exists():
        _begin(folder, parameters, known, todo)
    return [shard.number for shard in todo]


def make_part(root: Path, settings: dict[str, Any], number: int) -> None:
    """Make one shard of what `generate(root=root, **settings)` makes, and record it in a file of its own, so that any
    number of processes can do this at the same time."""
    own: dict[str, Any] = {key: settings[key] for key in ("episodes", "length", "shards", "seed")}
    parameters = _parameters(settings["dataset"], **own)
    folder = folder_of(root, settings["name"] or settings["dataset"])
    shard = _plan(folder, parameters)[number]
    part = folder / PARTS / f"{shard.stem}.json"
    part.parent.mkdir(parents=True, exist_ok=True)
    made = {"parameters": parameters, "versions": _versions(), "files": _make(shard)}
    write_text(part, json.dumps(made, indent=1) + "\n")


def _missing(folder: Path, parameters: dict[str, Any]) -> tuple[dict[str, Any], list[Shard]]:
    """The manifest as it is now, and the shards that are not there as they were made."""
    known = _known(folder, parameters)
    return known, [shard for shard in _plan(folder, parameters) if not _whole(folder, known, shard.stem)]


def _begin(folder: Path, parameters: dict[str, Any], known: dict[str, Any], todo: list[Shard]) -> dict[str, Any]:
    """Show that the folder is not finished; returns its manifest without what is to be made."""
    folder.mkdir(parents=True, exist_ok=True)
    again = {file for shard in todo for file in _names(shard.stem)}
    files = {file: entry for file, entry in known.get("files", {}).items() if file not in again}
    manifest = {"parameters": parameters, "versions": _versions(), "files": files}
    write_unfinished(folder, manifest)
    return manifest


def _parameters(dataset: str, episodes: int, length: int | None, shards: int, seed: int) -> dict[str, Any]:
    """All that decides the data."""
    task = tasks.find(dataset)
    if task.name != task.dataset:
        raise UserError(f"'{dataset}' is a task; its data is called {task.dataset}")
    if not dataset.startswith(tasks.GENERATED):
        advice = f"get the official data with `mac-bench data fetch {dataset}`"
        ogbench = task.environment in tasks.ENVIRONMENTS
        reason = "needs a trained locomotion expert" if ogbench else "cannot be made here"
        raise UserError(f"{dataset}: {reason}; {advice}")
    length = length_of(dataset) if length is None else length
    for what, value, least in (
        ("episodes", episodes, 1),
        ("length", length, 1),
        ("shards", shards, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise UserError(f"{what}: {value} is less than {least}")
    if shards > episodes:
        raise UserError(f"{shards} shards need at least as many episodes, not {episodes}")
    parameters = {"generator": VERSION, "dataset": dataset, "kind": dataset.split("-")[-2], "seed": seed}
    return parameters | {"episodes": episodes, "length": length, "shards": shards} | noise_of(dataset)


def _versions() -> dict[str, str]:
    return tasks.versions() | {"numpy": np.__version__}


def _plan(folder: Path, parameters: dict[str, Any]) -> list[Shard]:
    count, dataset = parameters["shards"], parameters["dataset"]
    each, more = divmod(parameters["episodes"], count)
    stems = [dataset] if count == 1 else [f"{dataset}-{number:03d}" for number in range(count)]
    return [Shard(folder, stem, i, each + (i < more), parameters) for i, stem in enumerate(stems)]


def _names(stem: str) -> tuple[str, str]:
    """File names of a shard: training and validation."""
    return f"{stem}.npz", f"{stem}-val.npz"


def _known(folder: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """The manifest of what is in the folder, finished or not, with the parts that were made elsewhere; empty where
    there is nothing."""
    known = read_manifest(folder)
    for part in sorted((folder / PARTS).glob("*.json")):
        made = json.loads(part.read_text())
        if made["parameters"] == parameters and made["versions"] == known.get("versions"):
            known["files"] = known["files"] | made["files"]
    if FETCHED in known or (not known and list(folder.glob("*.npz"))):
        raise UserError(f"{folder}: holds data that was not made here; choose another name")
    found = known.get("parameters", parameters)
    if found != parameters:
        other = [f"{key} {found.get(key)}" for key in parameters if found.get(key) != parameters[key]]
        raise UserError(
            f"{folder}: was made with other parameters ({', '.join(other)}); choose another name or remove it"
        )
    return known


def _check_versions(folder: Path, known: dict[str, Any], todo: list[Shard]) -> None:
    """Shards made under different physics must not lie in one folder."""
    now, then = _versions(), known.get("versions", {})
    other = [f"{name} {then[name]}, now {now[name]}" for name in then if then[name] != now.get(name)]
    if todo and known.get("files") and other:
        raise UserError(
            f"{folder}: its other shards were made with {'; '.join(other)}; choose another name or remove it"
        )


def _whole(folder: Path, known: dict[str, Any], stem: str) -> bool:
    """Whether both files of a shard are there as they were made."""
    recorded = known.get("files", {})
    return all(
        name in recorded and (folder / name).exists() and sha256(folder / name) == recorded[name]["sha256"]
        for name in _names(stem)
    )


def _make_all(todo: list[Shard], workers: int, progress: Progress):
    """Yield what `_make` returns, shard after shard."""
    total, done = sum(shard.episodes + _validation(shard) for shard in todo), 0
    if workers <= 1 or len(todo) <= 1:
        for shard in todo:
            yield _make(shard, lambda count, before=done: progress(before + count, total))
            done += shard.episodes + _validation(shard)
        return
    for shard, made in spread(_make, todo, workers):
        yield made
        done += shard.episodes + _validation(shard)
        progress(done, total)


def _validation(shard: Shard) -> int:
    return max(1, shard.episodes // VALIDATION_SHARE)


def _make(shard: Shard, progress: Callable[[int], None] = lambda count: None) -> dict[str, dict]:
    """Write both files of a shard; returns what the manifest says of them."""
    parameters = shard.parameters
    rng = np.random.default_rng([parameters["seed"], shard.number])
    noise = {key: parameters[key] for key in noise_of(parameters["dataset"])}
    source = collector(parameters["dataset"], noise)
    made, done = {}, 0
    for name, count in zip(_names(shard.stem), (shard.episodes, _validation(shard)), strict=True):
        parts: list[Columns] = []
        for _ in range(count):
            parts.append(source.episode(rng, parameters["length"]))
            done += 1
            progress(done)
        columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        path = shard.folder / name
        write_arrays(path, columns)
        made[name] = {"rows": len(columns["terminals"]), "episodes": count, "sha256": sha256(path)}
    return made
