"""What data there is in a data folder, where it comes from, and whether it is whole."""

from pathlib import Path
from typing import NamedTuple

from mac_bench import d4rl, minari_data, npz, prepared, tasks
from mac_bench.errors import UserError
from mac_bench.files import sha256
from mac_bench.manifest import FETCHED, MANIFEST, UNFINISHED, made_here, read_manifest, remedy


class Found(NamedTuple):
    """One data set in the data folder; rows and episodes are those for training."""

    name: str
    files: int
    rows: int
    episodes: int
    bytes: int
    generated: bool
    """made here, as its manifest says, not official"""
    complete: bool
    """all files are there; `verify` also looks into them"""
    prepared: dict[str, bool]
    """task that it has been prepared for -> whether from the files as they are now"""

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        if self.name.startswith(minari_data.PREFIX):
            return "Minari"
        return "made here" if self.generated else "official files"


def listing(root: Path) -> list[Found]:
    """The data sets in a data folder, by name."""
    inside = [*root.glob("*/*.npz"), *root.glob(f"*/{MANIFEST}"), *root.glob(f"*/{UNFINISHED}")]
    singles = [path for path in root.glob("*.npz") if not path.name.endswith("-val.npz")]
    singles += root.glob("*.hdf5")
    names = {path.parent.name for path in inside} | {path.stem for path in singles} | d4rl.there(root)
    return [_found(root, name) for name in sorted(names)]


def of_minari() -> list[Found]:
    """The data sets in Minari's folder, by name, as far as their metadata say; `verify` looks into them."""
    found = []
    for name in minari_data.names():
        (rows, episodes), complete = (0, 0), True
        try:
            rows, episodes = minari_data.size(name)
        except UserError:
            complete = False
        paths = [path for path in minari_data.folder(name).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in paths)
        found.append(Found(name, len(paths), rows, episodes, size, False, complete, {}))
    return found


def _found(root: Path, name: str) -> Found:
    try:
        manifest = read_manifest(root / name)
    except UserError:  # told by `verify`; here it is incomplete
        manifest = {}
    if manifest:
        paths = [path for path in map((root / name).joinpath, manifest["files"]) if path.exists()]
        complete = not (root / name / UNFINISHED).exists() and len(paths) == len(manifest["files"])
        training = [entry for file, entry in manifest["files"].items() if not file.endswith("-val.npz")]
        rows, episodes = (sum(entry[key] for entry in training) for key in ("rows", "episodes"))
    else:
        paths, rows, episodes, complete = sorted((root / name).glob("*.npz")), 0, 0, True
        paths = paths or [path for path in map(root.joinpath, _singles(name)) if path.exists()]
        try:
            for path, _ in tasks.files(name, root):
                paths = paths or [path]  # of D4RL's own folder
                if path.suffix == ".hdf5":
                    rows, episodes = d4rl.size(path)
                    continue
                more = npz.size(path)
                rows, episodes = rows + more[0], episodes + more[1]
        except UserError:
            complete = False
    size = sum(path.stat().st_size for path in paths)
    ready = _prepared(root, name) if complete else {}
    return Found(name, len(paths), rows, episodes, size, made_here(manifest), complete, ready)


def _prepared(root: Path, name: str) -> dict[str, bool]:
    try:
        return prepared.tasks_of(name, root, tasks.files(name, root))
    except UserError:  # told by `verify`
        return {}


def _singles(name: str) -> tuple[str, ...]:
    """File names of data that lie in no folder of their own."""
    return f"{name}.npz", f"{name}-val.npz", f"{name}.hdf5"


def verify(root: Path, name: str) -> list[str]:
    """What is wrong with a data set, one line each; empty where it is whole."""
    folder, problems = root / name, []
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        return [str(error)]
    for file, entry in manifest.get("files", {}).items():
        if not (folder / file).exists():
            problems.append(f"{folder / file}: is missing; call {remedy(manifest)}")
        elif sha256(folder / file) != entry["sha256"]:
            what = f"is not the file that was {'fetched' if FETCHED in manifest else 'made'}"
            problems.append(f"{folder / file}: {what}; remove it, and call {remedy(manifest)}")
    if problems:
        return problems
    try:
        pairs = tasks.files(name, root)
    except UserError as error:
        return [str(error)]
    made_of = manifest.get("parameters", {}).get("dataset", name)
    for path in dict.fromkeys(path for pair in pairs for path in pair):
        try:
            check_file(path, made_of)
        except UserError as error:
            problems.append(str(error))
    return problems + _prepared_problems(root, name, pairs)


def check_file(path: Path, dataset: str) -> tuple[int, int]:
    """Rows and episodes of a file, of which all is read, a column at a time. Raises UserError where it is damaged, or a
    task of these data would refuse it; which tasks those are is not known of data with a name of their own."""
    if dataset.startswith(minari_data.PREFIX):
        minari_data.read(dataset)
        return minari_data.size(dataset)
    if ".hdf5" in path.suffixes:  # also of a file that still has .partial behind it
        d4rl.read(path, d4rl.ENTRIES[dataset].sizes if dataset in d4rl.ENTRIES else None)
        return d4rl.size(path)
    task = tasks.official(dataset)
    if task is None:
        return npz.size(path, {"observations": None, "actions": None, "terminals": 0}, others=True)
    return npz.size(path, tasks.widths(task.name), task.dataset, others=True)


def _prepared_problems(root: Path, name: str, pairs: list[tuple[Path, Path]]) -> list[str]:
    problems = [problem for home in prepared.homes(root) for problem in prepared.verify(home / name)]
    if problems:
        return problems
    old = [task for task, ready in prepared.tasks_of(name, root, pairs).items() if not ready]
    return [f"{name}: prepared for {task} from other files than these; prepare again, or remove that" for task in old]
