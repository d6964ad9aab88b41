"""Starts the dashboard in a process of its own, which can only read, and collects beside it.

It listens on 127.0.0.1 alone: whoever wants to see it from elsewhere forwards the port by ssh.
"""

import importlib.util
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mac_bench.errors import UserError
from mac_bench.signals import listening

APP = Path(__file__).parent.parent / "dashboard" / "app.py"
HOST = "127.0.0.1"


def command(database: Path, runs: Path, port: int) -> list[str]:
    """What starts the server: local, without a browser of its own, without telling anybody."""
    options = {
        "server.address": HOST,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "runner.magicEnabled": "false",  # a docstring of a constant is no text for the page
    }
    streamlit = [sys.executable, "-m", "dashboard", "run", str(APP), *(f"--{k}={v}" for k, v in options.items())]
    return [*streamlit, "--", "--db", str(database.resolve()), "--runs", str(runs.resolve())]


def serve(database: Path, runs: Path, port: int, every: int, collect: Callable[[], object]) -> int:
    """Run the server until it ends or Ctrl-C, and `collect` every so many seconds (0: never). Returns its exit code.

    Raises UserError where the port is taken, or there is neither a folder of runs nor a database.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise UserError("the dashboard needs streamlit, which is not installed: pip install streamlit")
    if not runs.is_dir() and not database.is_file():
        raise UserError(f"no folder of runs {runs}; start some with `mac-bench run SUITE`, or name another --runs")
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise UserError(f"port {port} is taken; choose another with --port")
    if every:
        _collect_once(collect)
    server = subprocess.Popen(command(database, runs, port), cwd=APP.parent.parent)
    print(f"http://{HOST}:{port}", flush=True)
    try:
        with listening(_interrupt, (signal.SIGTERM, signal.SIGHUP)):  # which would leave the server alone
            while (code := server.poll()) is None:
                try:
                    server.wait(every or None)
                except subprocess.TimeoutExpired:
                    _collect_once(collect)
            return code
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait()


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _collect_once(collect: Callable[[], object]) -> None:
    """What is wrong now may be right the next time; it must not take the dashboard away."""
    try:
        collect()
    except UserError as error:
        print(f"mac-bench: {error} ({time.strftime('%H:%M:%S')})", file=sys.stderr, flush=True)
