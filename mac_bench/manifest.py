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


def read_manifest(folder: Path) -> dict[str, Any]:
    """What data says of itself, finished or not; empty where there is no manifest, as with files put there by hand."""
    for name in (UNFINISHED, MANIFEST):
        try:
            content = json.loads((folder / name).read_text())
            if not isinstance(content, dict):
                raise ValueError("no manifest")
            return content
        except (FileNotFoundError, NotADirectoryError):  # also where it has just been finished by another process
            continue
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / name}: cannot be read ({error}); remove the folder") from None
    return {}


def write_unfinished(folder: Path, content: dict[str, Any]) -> None:
    """Replace what an unfinished folder says of itself."""
    write_text(folder / UNFINISHED, json.dumps(content, indent=1) + "\n")


def made_here(manifest: dict[str, Any]) -> bool:
    """Whether data were generated on this machine. Others were fetched, or put there by hand."""
    return bool(manifest) and FETCHED not in manifest


def remedy(manifest: dict[str, Any]) -> str:
    """The command that gets what is missing of the data with this manifest."""
    if FETCHED in manifest:
        return f"`mac-bench data fetch {manifest[FETCHED]}`"
    return "`mac-bench data generate` as before"
