"""Official data from their server or a mirror: what is missing, checked before it gets its name.

Done where there is a network, such as on a cluster's login node; everything else is offline. A data set is fetched into
a folder of its name, and its manifest has the checksum of each file. One process writes a file at a time. What was
fetched stays: the same call continues after whatever stopped it.
"""

import contextlib
import fcntl
import functools
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO, Any, NamedTuple

from mac_bench import download, sources
from mac_bench.download import Patience, Remote, Stopped, Unavailable
from mac_bench.errors import UserError
from mac_bench.files import sha256
from mac_bench.inventory import check_file
from mac_bench.manifest import FETCHED, MANIFEST, UNFINISHED, made_here, read_manifest, write_unfinished
from mac_bench.prepared import require_space
from mac_bench.sources import Source

SUMS = "SHA256SUMS"
"""where a mirror has a file of this name beside others, in the format of sha256sum, these are held against it"""
LOOKS = 8
"""files whose sizes are asked for at a time"""
WAIT_S = 0.5
LOST = 2
"""files that may fail before the others are given up too"""

Checksums = dict[str, str]
"""file name -> sha256"""
Demands = dict[str, str | None]
"""who says so -> the sha256 that a file must have, or None"""


class Item(NamedTuple):
    """A file that is missing."""

    source: Source
    path: Path
    remotes: tuple[Remote, ...]
    """the same on each server that has it; sizes are known of the first"""

    @property
    def missing(self) -> int:
        """Bytes that are still to come, as far as the server says how many there are."""
        here = self.remotes[0].size if self.path.exists() else download.kept(self.path, self.remotes[0])
        return max(0, (self.remotes[0].size or 0) - (here or 0))


class Progress(NamedTuple):
    """What the caller wants to hear."""

    say: Callable[[str], None] = lambda line: None
    """of a wait or a second try"""
    received: Callable[[Path, int], None] = lambda path, here: None
    """how much of a file is here"""


def plan(names: Sequence[str], root: Path, servers: Sequence[str], patience: Patience) -> list[Item]:
    """The files of data sets that are missing in a data folder, with their sizes; empty where all is there.

    Raises UserError for names that are not published, where data made here have their place, and where no server has a
    file.
    """
    servers = [download.check_address(server) for server in servers]
    wanted = []
    for source in (sources.find(name) for name in dict.fromkeys(names)):
        folder = root / source.dataset
        if made_here(read_manifest(folder)):
            raise UserError(f"{folder}: holds data made here, not the official files; rename it to fetch these")
        wanted += [(source, folder / file) for file in _missing(source, root)]
    return _all(lambda each: _look(each[0], each[1], servers, patience), wanted, LOOKS, patience)


def fetch(
    items: Sequence[Item],
    root: Path,
    patience: Patience,
    *,
    sums: Path | None = None,
    connections: int = 1,
    progress: Progress | None = None,
) -> None:
    """Fetch the files of a plan, and finish the data sets of which nothing is missing then. Raises UserError.

    sums: a file as sha256sum writes it, against which each is held.
    """
    given, progress = _given(sums, items), progress or Progress()

    @functools.cache
    def listed(folder: str) -> Checksums:
        return _parse(download.read_text(f"{folder}/{SUMS}", patience) or "")

    def attempt(item: Item, wait: bool) -> bool:
        return _one(item, wait, given, listed, patience, progress)

    try:
        for folder in dict.fromkeys(item.path.parent for item in items):
            folder.mkdir(parents=True, exist_ok=True)
            require_space(folder, sum(item.missing for item in items))
        for source in dict.fromkeys(item.source for item in items):
            _record(root / source.dataset, source, {}, patience)
        done = _all(lambda item: attempt(item, wait=False), items, connections, patience, LOST)
        held = [item for item, here in zip(items, done, strict=True) if not here]
        _all(lambda item: attempt(item, wait=True), held, connections, patience, LOST)
    except OSError as error:
        where, what = error.filename or root, error.strerror or error
        raise UserError(f"{where}: {what}; put that right, and call again to continue") from None
    finally:
        for folder in dict.fromkeys(item.path.parent for item in items):
            _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    """Nothing stays of a data set of which nothing has come: neither a file, nor a part of one, nor another process."""
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [UNFINISHED] and not read_manifest(folder)["files"]:
            (folder / UNFINISHED).unlink()
        folder.rmdir()


def _missing(source: Source, root: Path) -> list[str]:
    """Files of a data set that are not there, or not known to be whole; none where it was put there by hand."""
    folder = root / source.dataset
    manifest = read_manifest(folder)
    if not manifest and (sources.lies_by_hand(source, root) or all((folder / file).exists() for file in source.files)):
        return []
    known = manifest.get("files", {})
    return [file for file in source.files if file not in known or not (folder / file).exists()]


def _look(source: Source, path: Path, servers: Sequence[str], patience: Patience) -> Item:
    """Where a file is to be had."""
    found, problems = [], []
    for server in servers:
        address = download.join(server, *source.folder.split("/"), path.name)
        if found:  # the others are only asked where the first fails
            found.append(Remote(address, None, ""))
            continue
        try:
            found.append(download.look(address, patience))
        except Unavailable as error:
            problems.append(str(error))
    if not found:
        raise Unavailable(" | ".join(problems))
    return Item(source, path, tuple(found))


def _given(sums: Path | None, items: Sequence[Item]) -> Checksums:
    """The checksums that the user has; each file must have one."""
    if sums is None:
        return {}
    try:
        found = _parse(sums.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise UserError(f"{sums}: cannot be read ({error.strerror})") from None
    for item in items:
        if item.path.name not in found:
            raise UserError(f"{sums}: no line for {item.path.name}; lines are like `<sha256>  {item.path.name}`")
    return found


def _parse(text: str) -> Checksums:
    """The lines of sha256sum; whatever else is there is passed over."""
    lines = (re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:.*/)?([^/]+)", line.rstrip()) for line in text.splitlines())
    return {line[2]: line[1].lower() for line in lines if line}


def _all(
    act: Callable[[Any], Any], things: Sequence[Any], threads: int, patience: Patience, lost: int = 0
) -> list[Any]:
    """[act(thing)], several at a time. Any error stops all at once, Unavailable when it befalls more than `lost`."""
    problems: list[Unavailable] = []
    pool = ThreadPoolExecutor(threads)
    futures = [pool.submit(act, thing) for thing in things]
    try:
        for future in as_completed(futures):
            try:
                future.result()
            except Unavailable as error:
                problems.append(error)
                if len(problems) > lost:
                    raise _several(problems) from None
    except BaseException as error:
        patience.stop.set()
        # a thread may wait for a server that has stalled; the user need not
        pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
        raise
    pool.shutdown()
    if problems:
        raise _several(problems)
    return [future.result() for future in futures]


def _several(problems: list[Unavailable]) -> Unavailable:
    more = f" (and {len(problems) - 1} more files; what was fetched stays)" if len(problems) > 1 else ""
    return Unavailable(f"{problems[0]}{more}")


def _one(
    item: Item, wait: bool, given: Checksums, listed: Callable[[str], Checksums], patience: Patience, progress: Progress
) -> bool:
    """Fetch a file, unless another process is at it: then wait, or return False."""
    with _locked(item.path, wait, patience, progress.say) as mine:
        if not mine:
            return False
        folder, name = item.path.parent, item.path.name
        known = read_manifest(folder).get("files", {})
        if name in known and item.path.exists():  # by another process, meanwhile
            return True
        manifest = f"{folder / MANIFEST} (remove {folder} to take what is published now)"
        demands = {manifest: known.get(name, {}).get("sha256"), "the file of checksums": given.get(name)}
        if item.path.exists():
            entry = _adopt(item, demands | _listed_of(item, item.remotes[0], listed))
        else:
            entry = _from_any(item, demands, listed, patience, progress)
            os.replace(download.partial(item.path), item.path)
        download.discard(item.path)
        _record(folder, item.source, {name: entry}, patience)
    return True


def _listed_of(item: Item, remote: Remote, listed: Callable[[str], Checksums]) -> Demands:
    """What the server itself says of a file."""
    return {f"{SUMS} there": listed(remote.address.rpartition("/")[0]).get(item.path.name)}


def _adopt(item: Item, demands: Demands) -> dict[str, Any]:
    """What the manifest says of a file that lies there under its name, put there by hand or just before a kill."""
    size, remote = item.path.stat().st_size, item.remotes[0]
    if remote.size not in (None, size):
        raise UserError(
            f"{item.path}: has {size:,} bytes, and {remote.size:,} at {remote.address}; remove it, and call again"
        )
    return _entry(item.path, item.source, remote.address, demands)


def _from_any(
    item: Item, demands: Demands, listed: Callable[[str], Checksums], patience: Patience, progress: Progress
) -> dict[str, Any]:
    """Fetch a file from the first server that gives it whole, with a second try where it was damaged."""
    problems: list[str] = []
    for number, remote in enumerate(item.remotes):
        try:
            remote = download.look(remote.address, patience) if number else remote
            return _whole(item, remote, demands | _listed_of(item, remote, listed), patience, progress)
        except Unavailable as error:
            problems.append(str(error))
            if number + 1 < len(item.remotes):
                progress.say(f"{error}: trying {item.remotes[number + 1].address}")
    raise Unavailable(" | ".join(problems))


def _whole(item: Item, remote: Remote, demands: Demands, patience: Patience, progress: Progress) -> dict[str, Any]:
    """Fetch a file from a server and check it."""
    for last in (False, True):
        download.download(item.path, remote, patience, lambda here: progress.received(item.path, here))
        try:
            return _entry(download.partial(item.path), item.source, remote.address, demands)
        except UserError as error:
            download.discard(item.path)
            if last:
                raise Unavailable(f"{remote.address}: came damaged, twice: {error}; name another --mirror") from None
            progress.say(f"{remote.address}: came damaged: {error}; fetching it anew")
    raise AssertionError("unreachable")


def _entry(path: Path, source: Source, address: str, demands: Demands) -> dict[str, Any]:
    """What the manifest says of a file. Raises UserError where it is not what it should be."""
    digest = sha256(path)
    for where, demanded in demands.items():
        if demanded and demanded != digest:
            raise UserError(f"{path}: its sha256 is {digest[:12]}..., but by {where} {demanded[:12]}...")
    rows, episodes = check_file(path, source.dataset)
    about = source.rows(path.name.removesuffix(".partial"))
    if about is not None and not about / 2 < rows < about * 2:
        raise UserError(f"{path}: has {rows:,} rows, but a file of {source.dataset} has about {about:,}")
    size = path.stat().st_size
    return {"rows": rows, "episodes": episodes, "sha256": digest, "bytes": size, "address": address}


def _record(folder: Path, source: Source, entries: dict[str, dict[str, Any]], patience: Patience) -> None:
    """Enter files into the manifest, which is finished with the last of them."""
    with _locked(folder / MANIFEST, True, patience, lambda line: None):
        manifest = read_manifest(folder) or {FETCHED: source.dataset, "files": {}}
        manifest["files"] = dict(sorted((manifest["files"] | entries).items()))
        write_unfinished(folder, manifest)
        if all(file in manifest["files"] and (folder / file).exists() for file in source.files):
            for file in source.files:  # of calls that were killed
                download.discard(folder / file)
                _lock_of(folder / file).unlink(missing_ok=True)
            for left in folder.glob(".*.tmp"):
                left.unlink(missing_ok=True)
            os.replace(folder / UNFINISHED, folder / MANIFEST)


@contextlib.contextmanager
def _locked(path: Path, wait: bool, patience: Patience, say: Callable[[str], None]) -> Iterator[bool]:
    """Hold a file for this process; False where another does and there is no waiting. The lock dies with its owner."""
    told = False
    while (lock := _lock(path)) is None:
        if not wait:
            yield False
            return
        if not told:
            say(f"{path}: {_holder(path)} is fetching it; waiting")
            told = True
        if patience.stop.wait(WAIT_S):
            raise Stopped
    with lock:
        try:
            yield True
        finally:
            _lock_of(path).unlink(missing_ok=True)


def _lock(path: Path) -> IO[str] | None:
    """The lock of a file, or None where another has it."""
    lock = open(_lock_of(path), "a", encoding="utf-8")  # noqa: SIM115 - closed by the caller, which frees it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # whoever had it has removed it: then this is the lock of nothing
        mine = os.fstat(lock.fileno()).st_ino == os.stat(_lock_of(path)).st_ino
    except (BlockingIOError, FileNotFoundError):
        mine = False
    except OSError as error:
        lock.close()
        raise UserError(f"{path}: its disk knows no locks ({error.strerror}); choose another --data") from None
    if not mine:
        lock.close()
        return None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()} (since {time.strftime('%H:%M:%S')})")
    lock.flush()
    return lock


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _holder(path: Path) -> str:
    try:
        return _lock_of(path).read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"
