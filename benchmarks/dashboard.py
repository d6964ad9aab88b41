"""The dashboard as a user meets it, in a browser, on synthetic campaigns of several sizes; and how fast runs are read.

    python benchmarks/dashboard.py [--runs 500 5000] [--evaluations 100] [--metrics 20] [--shots DIR]

Seconds until all is drawn, medians over three servers that were just started. In brackets the processor time of server
and browser together, which other work on the machine changes less. A page is opened by its link when the database has
just changed, as it has after a collect, so that nothing is known yet; then one thing is done on it. Needs Chromium, and
Linux.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.table import Table

from mac_bench import store

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from browser import PAGES, Tab, fresh, launch, served  # pyright: ignore[reportMissingImports]
from campaign import fill, members, write_folders  # pyright: ignore[reportMissingImports]

ROUNDS = 3
VIEW_S, ACT_S, MEMORY_MB = 2.0, 1.0, 1000.0
"""what is aimed at with 5,000 runs: to see a page, whatever is done on it, and the server's memory"""
TABLE = "stDataFrame"
WINDOWS = {"wide": (1440, 900), "narrow": (1024, 768)}


class Figure(NamedTuple):
    """What was measured once."""

    name: str
    value: float
    aim: float = math.inf
    """at most"""
    processor_s: float = math.nan


def visit(browser: Browser, database: Path, run: str) -> Iterator[Figure]:
    """Everything once, by a visitor who comes to a server that has just been started."""
    with served(database, database.parent) as (address, process):
        visitor = fresh(browser)
        tab = Tab(visitor, address)
        yield timed("first view", VIEW_S, tab, lambda: tab.open("overview"))
        for name, title in PAGES.items():
            os.utime(database)
            opening = partial(tab.open, name, run=run) if name == "run" else partial(tab.go, name)
            yield timed(f"{title}: open", VIEW_S, tab, opening)
            if name == "overview":
                yield timed(
                    f"{title}: select a run", ACT_S, tab, lambda: tab.pick(tab.page.get_by_test_id(TABLE).last, 0)
                )
            elif name == "run":
                yield timed(f"{title}: add a metric", ACT_S, tab, lambda: tab.choose("metrics", "loss/actor"))
            else:
                yield timed(f"{title}: choose a method", ACT_S, tab, lambda: tab.choose("methods", "LEQ"))
                tab.drop("methods")
        yield Figure("server's peak memory, MB", peak_mb(process), MEMORY_MB)
        visitor.close()


def timed(name: str, aim: float, tab: Tab, do: Callable[[], None]) -> Figure:
    """From an act until all is drawn."""
    before = processor_s(os.getpid())
    do()
    return Figure(f"{name}, s", tab.seconds, aim, processor_s(os.getpid()) - before)


def processor_s(process: int) -> float:
    """Of all that it has started: this benchmark's are the server and the browser."""
    total = 0.0
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in path.read_text().split():
            with suppress(OSError):  # it has ended
                user, system = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13]
                total += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") + processor_s(int(child))
    return total


def peak_mb(process: int) -> float:
    """Of the server, which `process` has started: the most memory that it ever had."""
    (server,) = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    line = next(line for line in Path(f"/proc/{server}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def collecting(folder: Path, runs: int, evaluations: int, metrics: int) -> Iterator[Figure]:
    """The first halves of all logs, the other halves, and nothing new."""
    write_folders(folder, runs, evaluations, metrics)
    logs = {path: path.read_bytes().splitlines(keepends=True) for path in folder.glob("*/events.jsonl")}
    for path, lines in logs.items():
        path.write_bytes(b"".join(lines[: len(lines) // 2]))
    for what in ("first time", "as runs go on"):
        began = time.perf_counter()
        collected = store.collect(folder, folder / "results.db")
        yield Figure(f"collect, {what}, rows/s", collected.rows / (time.perf_counter() - began))
        for path, lines in logs.items():
            path.write_bytes(b"".join(lines))
    began = time.perf_counter()
    store.collect(folder, folder / "results.db")
    yield Figure("collect, nothing new, s", time.perf_counter() - began)


def shoot(browser: Browser, database: Path, run: str, out: Path) -> None:
    """Every page in both windows and on both themes, whole."""
    out.mkdir(parents=True, exist_ok=True)
    with served(database, database.parent) as (address, _):
        for window, (width, height) in WINDOWS.items():
            for theme in ("light", "dark"):
                visitor = fresh(browser, viewport={"width": width, "height": height}, color_scheme=theme)
                tab = Tab(visitor, address)
                for name in PAGES:
                    tab.page.set_viewport_size({"width": width, "height": height})
                    tab.open(name, **({"run": run} if name == "run" else {}))
                    # a page scrolls within the window, and only the window is in the picture
                    whole = tab.page.get_by_test_id("stMain").evaluate("main => main.scrollHeight")
                    tab.page.set_viewport_size({"width": width, "height": max(height, whole)})
                    tab.ready(name)
                    tab.page.screenshot(path=out / f"{name}-{window}-{theme}.png")
                visitor.close()


def show(console: Console, measured: dict[int, list[Figure]]) -> None:
    """A column for each number of runs, medians; what misses its aim is marked."""
    table = Table("median", *(f"{runs:,} runs" for runs in measured))
    for name in dict.fromkeys(figure.name for figures in measured.values() for figure in figures):
        table.add_row(name, *(cell([f for f in figures if f.name == name]) for figures in measured.values()))
    console.print(table)
    console.print(f"!: over {VIEW_S:g} s for a page, {ACT_S:g} s for an act, or {MEMORY_MB:,.0f} MB")


def cell(figures: list[Figure]) -> str:
    """The median of what was measured in each round."""
    value, used = (
        statistics.median(column) for column in zip(*((f.value, f.processor_s) for f in figures), strict=True)
    )
    text = f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return text + ("" if math.isnan(used) else f" ({used:.2f})") + " !" * (value > figures[0].aim)


def main() -> None:
    """Measure one size after the other, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--evaluations", type=int, default=100, help="of each run")
    parser.add_argument("--metrics", type=int, default=20, help="logged with each evaluation")
    parser.add_argument("--collect", type=int, default=500, help="run folders to collect, at most")
    parser.add_argument("--databases", type=Path, help="where they are made and kept; by default they are not kept")
    parser.add_argument(
        "--shots", type=Path, help="also take pictures of every page, of the first size, into this folder"
    )
    options = parser.parse_args()
    console, size = Console(width=100), (options.evaluations, options.metrics)
    measured: dict[int, list[Figure]] = {}
    with ExitStack() as stack:
        folder = options.databases or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        browser = launch(stack.enter_context(sync_playwright()))
        for runs in options.runs:
            database, run = folder / f"{runs}-{size[0]}-{size[1]}.db", members(runs, size[0])[0][1].id
            if not database.exists():
                fill(database, runs, *size, now=time.time())
            figures = [figure for _ in range(ROUNDS) for figure in visit(browser, database, run)]
            figures.append(Figure("database, MB", database.stat().st_size / 1e6))
            with tempfile.TemporaryDirectory() as root:
                figures += collecting(Path(root), min(runs, options.collect), *size)
            measured[runs] = figures
            if options.shots and runs == options.runs[0]:
                shoot(browser, database, run, options.shots)
        browser.close()
    console.print(f"{size[0]} evaluations of each run, {size[1]} metrics with each")
    show(console, measured)


if __name__ == "__main__":
    main()
