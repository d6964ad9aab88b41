"""The dashboard in a real browser: its server as a user starts it, and pages that say when they are ready.

A page notes what must never happen: a request to another host, an error in its console, a dialog, a trace.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Locator, Page, Playwright
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
HOST = "127.0.0.1"
PAGES = {
    "overview": "Overview", "board": "Campaign board", "run": "Run", "leaderboard": "Leaderboard", "curves": "Curves",
    "statistics": "Statistics", "horizon": "Long horizon", "cost": "Cost",
}  # fmt: skip
"""address -> title, which is also its link in the sidebar"""
PATIENCE_S = 60
ROW = 35
"""height of a table's row in pixels"""

READY = """async patience_ms => {
    const seen = selector => [...document.querySelectorAll(selector)].filter(element => element.checkVisibility());
    const drawn = () =>
        seen("[data-testid=stApp][data-test-script-state=notRunning] [data-testid=stMain] h1").length > 0
        && seen("[data-stale=true], [data-testid=stSkeleton], [data-testid=stSpinner]").length === 0
        && seen("[data-testid=stVegaLiteChart]").every(chart => chart.querySelector("canvas, svg.marks"))
        && seen("[data-testid=stDataFrame]").every(table => table.querySelector("canvas"));
    const idle = () => new Promise(done => requestIdleCallback(done));  // what is there may not be painted yet
    while (performance.now() < patience_ms) {
        if ((await idle(), drawn()) && (await idle(), drawn())) return true;
        await new Promise(done => setTimeout(done, 10));
    }
    return false;
}"""


def executable() -> str | None:
    """The Chromium of this machine: Playwright's own would be downloaded."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def launch(playwright: Playwright) -> Browser:
    """A browser without a window. As root, where CI runs, Chromium starts only without its sandbox."""
    return playwright.chromium.launch(executable_path=executable(), chromium_sandbox=os.getuid() != 0)


def fresh(browser: Browser, **settings: Any) -> BrowserContext:
    """A visitor who has never been here: tabs of one visitor load the server's own files once."""
    return browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **settings})


@contextmanager
def served(database: Path, runs: Path) -> Iterator[tuple[str, int]]:
    """Address and process id of `mac-bench dashboard`, started as a user starts it."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    verb = ["dashboard", "--every", "0", "--port", str(port), "--db", str(database), "--runs", str(runs)]
    command = [sys.executable, "-m", "mac_bench", *verb]
    # a group of its own, so that what it starts ends with it, whatever becomes of it
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            address = f"http://{HOST}:{port}"
            _wait_for(f"{address}/_stcore/health", process)
            yield address, process.pid
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def _wait_for(address: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert process.poll() is None, f"the dashboard ended with exit code {process.returncode}"
        assert time.monotonic() < deadline, "the dashboard does not answer"
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            time.sleep(0.05)


class Tab:
    """A page of a browser on one dashboard, and what is wrong with it."""

    def __init__(self, context: BrowserContext, address: str):
        self.address, self.wrong = address, []
        self.finished = 0
        """how often a script of the page has ended"""
        self.seconds = 0.0
        """from the last act, or address, until all was drawn"""
        self.page: Page = context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE_S)
        self.page.on("request", self._requested)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", self._asked)
        self.page.on("websocket", lambda socket: socket.on("framereceived", self._received))

    def _requested(self, request: Any) -> None:
        if not request.url.startswith((f"{self.address}/", "data:", "blob:")):
            self.wrong.append(f"request to another host: {request.url}")

    def _said(self, message: Any) -> None:
        # Streamlit looks for its own addresses below the page's first
        if message.type == "error" and "/_stcore/" not in message.location.get("url", ""):
            self.wrong.append(f"console: {message.text} {message.location.get('url', '')}")

    def _asked(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _received(self, frame: bytes) -> None:
        message = ForwardMsg.FromString(frame)
        if message.WhichOneof("type") == "script_finished":
            self.finished += message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN

    def open(self, name: str, **query: str) -> None:
        """Open a page by its address; the overview is the one without a name."""
        path, began = "" if name == "overview" else name, time.monotonic()
        self.page.goto(f"{self.address}/{path}?{urllib.parse.urlencode(query)}")
        self.ready(name)
        self.seconds = time.monotonic() - began

    def go(self, name: str) -> None:
        """Follow the link in the sidebar."""
        with self.acting():
            self.page.get_by_test_id("stSidebarNav").get_by_role("link", name=PAGES[name], exact=True).click()
        self.ready(name)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Whatever is done inside makes the page run again."""
        before, began = self.finished, time.monotonic()
        yield
        while self.finished == before:
            assert time.monotonic() < began + PATIENCE_S, f"{self.page.url} does not run again"
            self.page.wait_for_timeout(10)
        self.ready()
        self.seconds = time.monotonic() - began

    def ready(self, name: str | None = None) -> None:
        """Wait until Streamlit has finished and all that is seen is drawn."""
        traces = self.page.get_by_test_id("stException")
        if name:
            title = self.page.get_by_role("heading", name=PAGES[name], level=1, exact=True)
            title.or_(traces).first.wait_for()
        assert traces.count() == 0, traces.first.inner_text()
        patience_ms = self.page.evaluate("performance.now()") + 1000 * PATIENCE_S
        assert self.page.evaluate(READY, patience_ms), f"{self.page.url} does not become ready"
        assert traces.count() == 0, traces.first.inner_text()

    def choose(self, filter: str, *options: str) -> None:
        """Take these options of a filter, one after the other."""
        for option in options:
            box = self.page.get_by_role("combobox", name=filter, exact=True)
            box.click()
            box.fill(option)  # a long list holds only what is seen of it
            with self.acting():
                self.page.get_by_role("option", name=option, exact=True).click()
            self.page.keyboard.press("Escape")  # an open list hides all else from the tests

    def drop(self, filter: str) -> None:
        """Take the last option out of a filter again."""
        self.page.get_by_role("combobox", name=filter, exact=True).click()
        with self.acting():
            self.page.keyboard.press("Backspace")
        self.page.keyboard.press("Escape")

    def pick(self, table: Locator, row: int) -> None:
        """Select a row of a table, which is a canvas: by its place."""
        with self.acting():
            table.click(position={"x": 15, "y": ROW * (row + 1.5)})

    def download(self, button: Locator) -> bytes:
        """What a button saves."""
        with self.page.expect_download() as download:
            button.click()
        return Path(download.value.path()).read_bytes()
