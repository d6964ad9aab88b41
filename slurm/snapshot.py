"""The code as it is when jobs are submitted: they run from a copy, so that whoever waits for them can go on working."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from mac_bench.errors import UserError
from mac_bench.provenance import MANIFEST, commit
from mac_bench.yaml_files import SUITES

SOURCE = SUITES.parent
PACKAGES = ("mac_bench", "baselines", "slurm", "suites")
LARGEST = 10_000_000
"""bytes of a file that is taken for source"""


def take(root: Path, agents: Iterable[str] = ()) -> Path:
    """`root/code/<hash>`: a copy of the project as it lies there, changes included, of the modules of a user's own
    `agents`, and `snapshot.json` with commit, changes and versions. The same code is copied once."""
    files = dict(sorted({**_project(), **_own(agents)}.items()))
    digest = hashlib.sha256()
    for name, path in files.items():
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    folder = root / "code" / digest.hexdigest()[:12]
    if folder.exists():
        return folder
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for name, path in files.items():
            copy = aside / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            copy.chmod(0o444)  # it is what results were made with
        (aside / MANIFEST).write_text(json.dumps(_described(), indent=1) + "\n")
        try:
            aside.rename(folder)
        except OSError:
            if not folder.exists():  # else another submission was faster
                raise
    except OSError as error:
        raise UserError(f"{folder}: the code cannot be copied there ({error.strerror})") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _project() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in _files(SOURCE / package):
            found[str(path.relative_to(SOURCE))] = path
    return found


def _own(agents: Iterable[str]) -> dict[str, Path]:
    """Modules that were written by the user: neither of the project nor installed."""
    installed = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib", "platlib")]
    found = {}
    for top in {agent.split(".")[0] for agent in agents if "." in agent}:
        spec = importlib.util.find_spec(top)
        places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
        if spec and spec.origin and not places:
            places = [Path(spec.origin)]
        for place in places:
            copied = (SOURCE / package for package in PACKAGES)
            if any(place.is_relative_to(known) for known in (*installed, *copied)):
                continue
            for path in _files(place) if place.is_dir() else [place]:
                found[str(path.relative_to(place.parent))] = path
    return found


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.stat().st_size <= LARGEST:
            yield path


def _described() -> dict[str, object]:
    changes = (
        subprocess.run(["git", "diff", "HEAD"], cwd=SOURCE, capture_output=True, text=True, errors="replace").stdout
        if (SOURCE / ".git").exists()
        else ""
    )
    packages = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    return {"git": commit(), "changes": changes, "packages": dict(sorted(packages.items()))}
