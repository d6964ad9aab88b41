"""One `.npz` file of data: its columns one after the other, held against what training will want of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mac_bench.errors import UserError
from mac_bench.files import UNREADABLE

Widths = Mapping[str, int | None]
"""column -> its number of entries for each row: 0 for a scalar, None for any number"""
EPISODES: Widths = {"terminals": 0}
"""all that is needed to count rows and episodes"""


def each(path: Path, widths: Widths, of: str = "this", others: bool = False) -> Iterator[tuple[str, np.ndarray]]:
    """The columns of these widths, checked, and on request all others as they are: (name, [N] or [N, width]).

    States and actions come as float32. of: whom the widths are of. Raises UserError where the file is damaged, lacks a
    column, or has one of another width or with a value that is not finite.
    """
    try:
        # opened here because numpy leaves a damaged file open
        with open(path, "rb") as file:
            _require_archive(path, file.read(20))
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                missing = [name for name in widths if name not in archive]
                if missing:
                    raise UserError(f"{path}: no {', '.join(missing)} in it; there are: {', '.join(sorted(archive))}")
                for name in [*widths, *(name for name in archive if others and name not in widths)]:
                    column = archive[name]
                    yield name, _checked(path, name, column, widths[name], of) if name in widths else column
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read, the file is damaged or no .npz of plain arrays ({error})") from None


def ends(path: Path, terminals: np.ndarray, lengths: Mapping[str, int]) -> np.ndarray:
    """[E] int64, the last row of each episode. Raises UserError where rows do not form whole episodes.

    lengths: of all columns.
    """
    if len(set(lengths.values())) > 1:
        raise UserError(f"{path}: columns of different length: {', '.join(f'{n} {s}' for n, s in lengths.items())}")
    terminals = terminals.astype(bool).reshape(-1)
    found = np.flatnonzero(terminals)
    if len(found) == 0:
        raise UserError(f"{path}: no episode ends in it: 'terminals' must be 1 at the last row of each episode")
    if not terminals[-1]:
        raise UserError(f"{path}: its last row ends no episode; was it cut off?")
    short = np.flatnonzero(np.diff(found, prepend=-1) < 2)
    if len(short):
        raise UserError(f"{path}: the episode that ends at row {found[short[0]]} has no transition, only a single row")
    return found


def size(path: Path, widths: Widths = EPISODES, of: str = "this", others: bool = False) -> tuple[int, int]:
    """Rows and episodes of a file, checked as in `each` with one column at a time in memory."""
    terminals, lengths = np.zeros(0), {}
    for name, column in each(path, widths, of, others):
        lengths[name] = length(column)
        if name == "terminals":
            terminals = column
    return len(terminals), len(ends(path, terminals, lengths))


def length(column: np.ndarray) -> int:
    """Number of rows; 0 of a scalar."""
    return len(column) if column.ndim else 0


def _require_archive(path: Path, start: bytes) -> None:
    """A page that asks for a password is what comes in the place of a file most often."""
    if start[:2] != b"PK":
        begins = f"begins with {start.decode(errors='replace')!r}" if start else "is empty"
        raise UserError(f"{path}: cannot be read: it is no .npz file, but {begins}")


def _checked(path: Path, name: str, column: np.ndarray, width: int | None, of: str) -> np.ndarray:
    if column.dtype.kind not in "biuf":
        raise UserError(f"{path}: {name} holds {column.dtype}, but must hold numbers")
    shape = column.shape
    if len(shape) != (1 if width == 0 else 2) or (width and shape[1] != width):
        wanted = "[N]" if width == 0 else f"[N, {width or 'any'}]"
        raise UserError(f"{path}: {name} has shape {shape}, but {of} has {wanted}")
    if name in ("observations", "actions", "qpos"):
        column = column.astype(np.float32, copy=False)
        finite = np.isfinite(column).all(axis=1)
        if not finite.all():
            raise UserError(f"{path}: {name} has a value that is not finite in row {np.argmin(finite)}")
    return column
