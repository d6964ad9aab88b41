"""A file server on this machine that can misbehave in every way in which servers do."""

import email.utils
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[["Request"], None]
"""answers a request in its own way"""


class Server(ThreadingHTTPServer):
    """Serves `files` (path -> bytes). `faults` (path -> list) answer the next GETs of a path, one each."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Request)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.heads: dict[str, Fault] = {}
        """what answers HEAD of a path"""
        self.versions, self.ranges, self.etags = True, True, True
        """whether it tells versions, has a Range, and has ETags besides dates"""
        self.asked: list[tuple[str, str, str]] = []
        """(method, path, Range) of all requests"""
        self.go_on = threading.Event()
        """ends stalls"""
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def gets(self, path: str) -> list[str]:
        """The ranges that were asked for of a path."""
        return [span for method, asked, span in self.asked if (method, asked) == ("GET", path)]

    def handle_error(self, request, client_address):
        """A client that was killed is no news."""


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._note()
        fault = self.server.heads.get(self.path)
        fault(self) if fault else self.answer(head=True)

    def do_GET(self):
        self._note()
        faults = self.server.faults.get(self.path)
        faults.pop(0)(self) if faults else self.answer()

    def _note(self):
        self.server.asked.append((self.command, self.path, self.headers.get("Range", "")))
        self.close_connection = True

    def version(self) -> dict[str, str]:
        if not self.server.versions:
            return {}
        digest = hashlib.sha256(self.server.files[self.path]).hexdigest()
        date = email.utils.formatdate(int(digest[:7], 16), usegmt=True)
        return {"Last-Modified": date} | ({"ETag": f'"{digest[:16]}"'} if self.server.etags else {"ETag": 'W/"x"'})

    def answer(self, head: bool = False, **how):
        """As a good server does, or with other `headers`, a `send` of the body of its own, or `whole` despite Range."""
        content = how.get("content", self.server.files.get(self.path))
        if content is None:
            return self.status(404)
        start, span, headers = 0, self.headers.get("Range", ""), {}
        valid = self.headers.get("If-Range") in (None, *self.version().values())
        if span and valid and self.server.ranges and not how.get("whole"):
            start = int(span.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                return self.status(416)
            self.send_response(206)
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        else:
            self.send_response(200)
        headers |= {"Content-Length": str(len(content) - start)} | self.version() | how.get("headers", {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.send(content[start:], **{key: how[key] for key in ("cut", "stall") if key in how})

    def send(self, content: bytes, cut: int | None = None, stall: int | None = None):
        """The body; only `cut` bytes of it; or `stall` bytes and then nothing until the test allows."""
        self.wfile.write(content[: cut if stall is None else stall])
        if stall is not None:
            self.wfile.flush()
            self.server.go_on.wait(300)

    def status(self, code: int, **headers: str):
        self.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


def cut(after: int) -> Fault:
    return lambda request: request.answer(cut=after)


def stall(after: int) -> Fault:
    return lambda request: request.answer(stall=after)


def whole_despite_range(request: Request) -> None:
    request.answer(whole=True)


def status(code: int, **headers: str) -> Fault:
    return lambda request: request.status(code, **headers)


def says(**headers: str) -> Fault:
    """The right bytes under other headers."""
    return lambda request: request.answer(headers={name.replace("_", "-"): value for name, value in headers.items()})


def instead(content: bytes) -> Fault:
    """Other bytes under the version of the right ones."""
    return lambda request: request.answer(content=content)
