"""Which official data sets are published: their files, and where these lie. Opens no connection; fetch.py does.

The files of 100M transitions stand in no list of OGBench's: that they are called `cube-double-play-v0-000.npz` and so
on is assumed from the scripts that make such data. Files that are put there by hand may have other names.
"""

import difflib
from pathlib import Path
from typing import NamedTuple

from mac_bench import d4rl
from mac_bench.errors import UserError

SERVER = "https://rail.eecs.berkeley.edu/datasets"
"""A mirror is an address below which the same folders lie: ogbench/ and offline_rl/."""


class Source(NamedTuple):
    """One published data set."""

    dataset: str
    folder: str
    """of its files, below the address of a server"""
    files: tuple[str, ...]

    def rows(self, file: str) -> int | None:
        """About how many rows a file has; None where that is unknown. Validation has a tenth of training."""
        if "-100m-" not in self.dataset:
            return None
        each = 2 * 100_000_000 // len(self.files)
        return each // 10 if file.endswith("-val.npz") else each


_KINDS = {
    "pointmaze": {"medium large giant teleport": "navigate stitch"},
    "antmaze": {"medium large teleport": "navigate stitch explore", "giant": "navigate stitch"},
    "humanoidmaze": {"medium large giant": "navigate stitch"},
    "antsoccer": {"arena medium": "navigate stitch"},
    "cube": {"single double triple quadruple": "play noisy"},
    "scene": {"": "play noisy"},
    "puzzle": {"3x3 4x4 4x5 4x6": "play noisy"},
}
_HUNDRED_MILLION = {
    **{f"cube-{cubes}-play": 100 for cubes in ("double", "triple", "quadruple", "octuple")},
    "cube-quadruple-noisy": 100,
    "scene-play": 100,
    **{f"puzzle-{size}-play": 100 for size in ("3x3", "4x4", "4x5", "4x6")},
    "humanoidmaze-giant-navigate": 25,
}
"""data of which there are 100M transitions too, and in how many files"""


def _sources() -> dict[str, Source]:
    found = []
    for family, variants in _KINDS.items():
        for variant, kinds in ((name, kinds) for names, kinds in variants.items() for name in names.split(" ")):
            for kind in kinds.split():
                name = "-".join(part for part in (family, variant, kind, "v0") if part)
                found.append(Source(name, "ogbench", (f"{name}.npz", f"{name}-val.npz")))
    for data, count in _HUNDRED_MILLION.items():
        name, stems = f"{data}-100m-v0", [f"{data}-v0-{number:03d}" for number in range(count)]
        files = tuple(f"{stem}{end}.npz" for stem in stems for end in ("", "-val"))
        found.append(Source(name, f"ogbench/{name}", files))
    for entry in d4rl.ENTRIES.values():
        folder = "ant_maze_v2" if entry.environment.startswith("antmaze") else "gym_mujoco_v2"
        found.append(Source(entry.dataset, f"offline_rl/{folder}", (entry.file,)))
    return {source.dataset: source for source in found}


SOURCES = _sources()
"""Every published data set by its name."""


def find(dataset: str) -> Source:
    """Raises UserError with the names that come close."""
    if dataset in SOURCES:
        return SOURCES[dataset]
    if reason := d4rl.refusal(dataset):
        raise UserError(reason)
    close = difflib.get_close_matches(dataset, SOURCES, n=3)
    advice = f"did you mean {' or '.join(close)}?" if close else "`mac-bench data fetch` lists those that are"
    raise UserError(f"no data of the name '{dataset}' are published; {advice}")


def lies_by_hand(source: Source, root: Path) -> bool:
    """Whether its files lie where a user puts them: in no folder of their own."""
    if source.dataset in d4rl.ENTRIES:
        try:
            return d4rl.locate(source.dataset, root) is not None
        except UserError:
            return False
    return len(source.files) == 2 and all((root / file).exists() for file in source.files)
