"""One file over HTTP: resumed, retried, and never glued together from two versions of it.

The only room that opens connections. A file grows under the name `FILE.partial`; beside it `FILE.partial.json` says of
what address and which version these bytes are. Whoever calls this checks them, and gives them their final name.
"""

import errno
import http.client
import json
import os
import socket
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mac_bench import __version__
from mac_bench.errors import UserError
from mac_bench.files import write_text

CHUNK = 1 << 20
BUSY = {408, 425, 429, 500, 502, 503, 504}
"""answers that another try may change"""
UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}
TEXT_BYTES = 1 << 20
LONGEST_PAUSE_S = 60.0
LATER = "call again later to continue, or name another --mirror"
NO_NETWORK = "fetch where there is a network, such as on a login node, or name a --mirror that can be reached"


class Patience(NamedTuple):
    """How long to bear with a server."""

    stop: threading.Event
    """set where the user wants no more"""
    stall_s: float = 30.0
    """without a byte"""
    tries: int = 6
    """in a row without progress"""
    pause_s: float = 1.0
    """before the second try; then twice as long, and so on"""


class Remote(NamedTuple):
    """A file on a server."""

    address: str
    size: int | None
    """bytes, where the server says"""
    version: str
    """strong ETag, else time of the last change; empty where the server tells neither: then nothing is resumed"""


class Unavailable(UserError):
    """A server does not give a file; another may."""

    code = 0
    """of its answer, if there was one"""


class Interrupted(Exception):
    """A try that failed; the next may not."""

    def __init__(self, reason: str, pause_s: float = 0.0, advice: str = LATER):
        super().__init__(reason)
        self.pause_s, self.advice = pause_s, advice


class Stopped(Exception):
    """The user wants no more."""


def check_address(text: str) -> str:
    """The address of a server or mirror, without a slash at its end. Raises UserError where it is none."""
    try:
        parts = urllib.parse.urlsplit(text)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        right = False
    if not right or not text.isascii() or any(c.isspace() or not c.isprintable() for c in text):
        raise UserError(f"mirror '{text}': not an address; it is like https://host/folder")
    if parts.username or parts.query or parts.fragment:
        raise UserError(
            f"mirror '{text}': an address with a password, ? or # is not supported; it is https://host/folder"
        )
    return text.rstrip("/")


def join(server: str, *path: str) -> str:
    """The address of a file below a server's."""
    return "/".join([server, *(urllib.parse.quote(part) for part in path)])


def look(address: str, patience: Patience) -> Remote:
    """What a server says of a file, without fetching it. Raises Unavailable."""

    def ask() -> Remote:
        try:
            with _open(address, {}, patience, "HEAD") as response:
                return _remote(address, response)
        except Unavailable as error:
            if error.code not in (403, 405, 501):  # some serve files but refuse to be asked for their size
                raise
            with _open(address, {"Range": "bytes=0-0"}, patience) as response:
                return _remote(address, response)

    return _persist(ask, patience._replace(tries=min(patience.tries, 3)), address)


def read_text(address: str, patience: Patience) -> str | None:
    """A small text file; None where the server has none."""
    try:
        with _open(address, {}, patience) as response:
            return response.read(TEXT_BYTES).decode(errors="replace")
    except (Unavailable, Interrupted, OSError, http.client.HTTPException):
        return None


def partial(path: Path) -> Path:
    """Where a file grows."""
    return path.with_name(f"{path.name}.partial")


def kept(path: Path, remote: Remote) -> int:
    """How many bytes of this version of a file are here already."""
    note = _note(path)
    same = note.get("address") == remote.address and remote.version and note.get("version") == remote.version
    return _grown(path) if same else 0


def discard(path: Path) -> None:
    """Remove what there is of a file."""
    for left in (partial(path), _notes(path)):
        left.unlink(missing_ok=True)


def download(path: Path, remote: Remote, patience: Patience, progress: Callable[[int], None]) -> None:
    """Complete `partial(path)`; `progress` hears how many bytes are here. Raises Unavailable, UserError or Stopped."""
    if not kept(path, remote):
        discard(path)
    _persist(lambda: _continue(path, remote.address, patience, progress), patience, remote.address, progress_of=path)


def _persist(act: Callable[[], Any], patience: Patience, address: str, progress_of: Path | None = None) -> Any:
    """Try until it works, or nothing is gained any more."""
    failures, furthest = 0, 0
    while True:
        try:
            return act()
        except Interrupted as error:
            here = _grown(progress_of) if progress_of else 0
            # a server that begins anew each time gains nothing
            failures = 1 if here > furthest else failures + 1
            furthest = max(furthest, here)
            hopeless = progress_of is None and error.advice == NO_NETWORK  # it was never reached
            if failures >= patience.tries or hopeless:
                often = f", {failures} times in a row" if failures > 1 else ""
                raise Unavailable(f"{address}: {error}{often}; {error.advice}") from None
            pause = max(patience.pause_s * 2 ** (failures - 1), error.pause_s)
            if patience.stop.wait(min(pause, LONGEST_PAUSE_S)):
                raise Stopped from None


def _continue(path: Path, address: str, patience: Patience, progress: Callable[[int], None]) -> None:
    """One try to fetch what is missing of a file."""
    note = _note(path)
    start = _grown(path) if note.get("version") else 0
    if start and start == note.get("size"):
        return
    # a server whose file is no longer this version sends all of the new one
    headers = {"Range": f"bytes={start}-", "If-Range": note["version"]} if start else {}
    try:
        response = _open(address, headers, patience)
    except Unavailable as error:
        if error.code != 416:
            raise
        discard(path)
        raise Interrupted("has fewer bytes than it said") from None
    with response:
        there = _remote(address, response)
        if response.status == 206:
            if (_range(response)[0], there.version, there.size) != (start, note["version"], note["size"]):
                discard(path)
                raise Interrupted("sends a part of another file than before")
        else:
            start = 0
            _begin(path, there)
        _receive(path, response, start, there.size, patience, progress)


def _begin(path: Path, there: Remote) -> None:
    """An empty file, then the note of what it will be, so that no note is ever beside bytes of another version."""
    try:
        partial(path).write_bytes(b"")
        write_text(_notes(path), json.dumps(there._asdict(), indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot write there ({error.strerror}); choose another --data") from None


def _receive(
    path: Path, response: Any, start: int, size: int | None, patience: Patience, progress: Callable[[int], None]
) -> None:
    """Append what comes, down to the disk."""
    here = start
    with open(partial(path), "ab", buffering=0) as file:
        while chunk := _read(response):
            _write(path, file, chunk, size and size - here)
            here += len(chunk)
            progress(here)
            if patience.stop.is_set():
                raise Stopped
        os.fsync(file.fileno())
    if size is not None and here < size:
        raise Interrupted(f"ended at {here:,} of {size:,} bytes")


def _read(response: Any) -> bytes:
    """What has arrived, at least a byte; nothing at the end."""
    try:
        return response.read1(CHUNK)
    except TimeoutError:
        raise Interrupted("stalled") from None
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"was cut off ({_reason(error)})") from None


def _write(path: Path, file: Any, chunk: bytes, missing: int | None) -> None:
    left = memoryview(chunk)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        need = f"; {missing / 1e6:,.0f} MB are missing" if missing else ""
        raise UserError(f"{path}: {error.strerror}{need}; make room, and call again to continue") from None


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Asks the same of the new address; from https only to https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        schemes = ("https",) if req.type == "https" else ("http", "https")
        if urllib.parse.urlsplit(newurl).scheme not in schemes:
            allowed = " or ".join(schemes)
            raise Unavailable(f"{req.full_url}: leads to {_plain(newurl)}, which is not {allowed}; name a --mirror")
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None:
            new.method = req.get_method()  # Python 3.11 and 3.12 make GET of HEAD
        return new


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS, with the proxies of the environment; no files, no FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        *(urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(), _Redirect()),
        *(
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
        ),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", f"mac-bench/{__version__}"), ("Accept-Encoding", "identity")]
    return opener


def _open(address: str, headers: Mapping[str, str], patience: Patience, method: str = "GET") -> Any:
    """The answer to a request. Raises Unavailable, or Interrupted where another try may help."""
    request = urllib.request.Request(address, headers=dict(headers), method=method)
    try:
        return _opener().open(request, timeout=patience.stall_s)
    except urllib.error.HTTPError as error:
        with error:
            raise _answer(address, error) from None
    except urllib.error.URLError as error:
        reason = error.reason
    except (OSError, http.client.HTTPException) as error:
        reason = error
    if isinstance(reason, TimeoutError):
        raise Interrupted("does not answer")
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise Unavailable(
            f"{address}: its certificate cannot be trusted ({reason.verify_message}); put this machine's clock right, "
            "name the file of its authority in SSL_CERT_FILE, or name a --mirror"
        )
    if isinstance(reason, (socket.gaierror, ConnectionRefusedError)) or getattr(reason, "errno", 0) in UNREACHABLE:
        raise Interrupted(f"cannot be reached ({_reason(reason)})", advice=NO_NETWORK)
    raise Interrupted(f"was cut off ({_reason(reason)})")


def _answer(address: str, error: urllib.error.HTTPError) -> Exception:
    """What an error's number means for the user."""
    if error.code in BUSY:
        wait = error.headers.get("Retry-After") or ""
        return Interrupted(f"answers {error.code} {_plain(error.reason)}", float(wait) if wait.isdecimal() else 0.0)
    meaning = {
        404: "there is no such file; name a --mirror that has it",
        410: "the file is there no more; name a --mirror that has it",
        403: "refuses to give the file; name a --mirror that gives it",
        407: "the proxy wants a password; name a --mirror that can be reached",
    }.get(error.code, "name another --mirror, or call again later")
    refused = Unavailable(f"{address}: answers {error.code} {_plain(error.reason)}: {meaning}")
    refused.code = error.code
    return refused


def _remote(address: str, response: Any) -> Remote:
    """What the head of an answer says of the whole file."""
    etag = response.headers.get("ETag") or ""
    strong = etag if etag.startswith('"') else ""
    size = _range(response)[1] if response.status == 206 else _number(response.headers.get("Content-Length"))
    return Remote(address, size, strong or response.headers.get("Last-Modified") or "")


def _range(response: Any) -> tuple[int | None, int | None]:
    """Where a part begins, and the size of the whole."""
    unit, _, rest = (response.headers.get("Content-Range") or "").partition(" ")
    span, _, whole = rest.partition("/")
    return (_number(span.partition("-")[0]), _number(whole)) if unit == "bytes" else (None, None)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _grown(path: Path) -> int:
    """Bytes that are here; another process may just have finished the file."""
    try:
        return partial(path).stat().st_size
    except FileNotFoundError:
        return 0


def _notes(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial.json")


def _note(path: Path) -> dict[str, Any]:
    """What the bytes are of that are here; empty where that is unknown."""
    try:
        note = json.loads(_notes(path).read_text())
        return note if isinstance(note, dict) else {}
    except (OSError, ValueError):
        return {}


def _reason(error: Any) -> str:
    return _plain(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _plain(text: Any) -> str:
    """The first line of what a server says, which a terminal can show."""
    return "".join(c for c in str(text).split("\n")[0] if c.isprintable())[:200]
