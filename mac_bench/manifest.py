"""What a folder of data that was generated or fetched says of itself: `manifest.json`, written last."""

import json
from pathlib import Path
from typing import Any

from mac_bench.errors import UserError
from mac_bench.files import write_text

MANIFEST = "manifest.json"
"""of data that is finished; what is not has UNFINISHED instead"""
UNFINISHED = "manifest.partial.json"
FETCHED = "fetched"
"""the entry that tells fetched data from data made here"""


def folder_of(root: Path, name: str) -> Path:
    """The folder of a data set. Raises UserError for a name that leads elsewhere."""
    if name in (".", "..") or Path(name).name != name:
        raise UserError(f"'{name}' is no name for data: it must be that of a folder inside {root}")
    return root / name


def read_manifest(folder: Path) -> dict[str, Any]:
    """What data says of itself, finished or not; empty where there is no manifest, as with files put there by hand."""
    for name in (UNFINISHED, MANIFEST):
        try:
            content = json.loads((folder / name).read_text())
        except (FileNotFoundError, NotADirectoryError):  # also where it has just been finished by another process
            continue
        except (OSError, ValueError) as error:
            least = "remove it where data were fetched (they can stay), and the folder where they were made here"
            raise UserError(f"{folder / name}: cannot be read ({error}); {least}") from None
        if not _own(content):
            raise UserError(f"{folder / name}: is not a manifest of mac-bench; give it another name")
        return content
    return {}


def _own(content: Any) -> bool:
    """Whether it says where data come from, and what each file is."""
    try:
        entries = content["files"].values()
        known = FETCHED in content or "parameters" in content
        return known and all({"rows", "episodes", "sha256"} <= entry.keys() for entry in entries)
    except (KeyError, TypeError, AttributeError):
        return False


def write_unfinished(folder: Path, content: dict[str, Any]) -> None:
    """Replace what an unfinished folder says of itself."""
    write_text(folder / UNFINISHED, json.dumps(content, indent=1) + "\n")


def made_here(manifest: dict[str, Any]) -> bool:
    """Whether data were generated on this machine. Others were fetched, or put there by hand."""
    return bool(manifest) and FETCHED not in manifest


def origin(manifest: dict[str, Any]) -> str:
    """What has to be said of data wherever they are named: that they are not the official ones, and how many."""
    if not made_here(manifest):
        return ""
    rows = sum(entry["rows"] for file, entry in manifest["files"].items() if not file.endswith("-val.npz"))
    return f": made here, {rows:,} rows"


def remedy(manifest: dict[str, Any]) -> str:
    """The command that gets what is missing of the data with this manifest."""
    if FETCHED in manifest:
        return f"`mac-bench data fetch {manifest[FETCHED]}`"
    return "`mac-bench data generate` as before"
