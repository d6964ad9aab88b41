"""Files that are never seen half-written: aside, flushed to the disk, then renamed. No pickle in either direction."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from mac_bench.errors import UserError

UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    AttributeError,
    TypeError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""what reading a damaged or foreign `.npz` may raise"""


class DamagedFile(UserError):
    """A file that is there but cannot be read: cut short, changed, or something else altogether."""


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`."""
    _write(path, lambda file: file.write(content))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace `path` by an uncompressed `.npz` of plain arrays, with a checksum for each."""
    # numpy's annotation lets the flag collide with array names; it is the flag
    _write(path, lambda file: np.savez(file, allow_pickle=False, **arrays))  # pyright: ignore[reportArgumentType]


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz`, checksums verified. Raises DamagedFile, or FileNotFoundError where there is none."""
    try:
        # opened here, because numpy leaves the file open where it cannot make sense of it
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise DamagedFile(f"{path}: not a readable .npz of plain arrays ({error})") from None


def write_checkpoint(path: Path, arrays: Mapping[str, np.ndarray], step: int) -> None:
    """An agent's arrays after update `step`."""
    write_arrays(path, {**arrays, "step": np.asarray(step)})


def read_checkpoint(path: Path, here: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], int]:
    """What `write_checkpoint` wrote. Raises UserError where names, shapes or types differ from those `here`."""
    arrays = read_arrays(path)
    step = arrays.pop("step", None)
    if step is None or arrays.keys() != here.keys():
        raise UserError(f"{path}: a checkpoint of another method or of other settings")
    for name, leaf in here.items():
        if arrays[name].shape != leaf.shape or arrays[name].dtype != leaf.dtype:
            raise UserError(
                f"{path}: {name} has shape {arrays[name].shape} there and {leaf.shape} here; "
                "the checkpoint belongs to data of other dimensions or to other settings"
            )
    return arrays, int(step)


def _write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # "No space left on device" alone does not say where
        raise
