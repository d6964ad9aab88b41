"""What is known of many runs at a glance, from their folders alone: no agent, environment or database is loaded."""

import json
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mac_bench.config import RunConfig
from mac_bench.errors import UserError
from mac_bench.record import RunFolder, Status, standing
from mac_bench.tasks import measure_of

STYLES = {
    "finished": "green",
    "running": "cyan",
    "starting": "cyan",
    "ending": "cyan",
    "failed": "red",
    "lost": "red",
    "unknown": "red",
    "stopped": "yellow",
    "held": "yellow",
    "cancelled": "yellow",
    "queued": "blue",
    "waiting": "dim",
}
"""states in the order in which they are counted, and their colours"""
WORRYING = ("failed", "lost", "unknown")
MANY = 200
"""more runs than anybody reads one by one"""
EXAMPLES = 10
"""of runs that died for the same reason"""

TAIL_BYTES = 65_536


class Entry(NamedTuple):
    """One run in a list."""

    run: str
    label: str
    task: str
    seed: int
    steps: int
    status: Status | None
    state: str
    """by its folder; or by all that is known, where somebody has asked (slurm/tend.py)"""
    reason: str


def entry(root: Path, label: str, run: RunConfig) -> Entry:
    """A run of a suite that has just been expanded."""
    return _entry(root, run.id, label, {"task": run.task, "seed": run.seed, "steps": run.steps})


def entries(root: Path, suite: str | None = None) -> list[Entry]:
    """The runs of a suite as it was last started, in its order; or all runs under `root`.

    Raises UserError where nothing has been started there, or not this suite.
    """
    suites = [suite] if suite is not None else [path.stem for path in _started(root)]
    members: dict[str, dict[str, Any]] = {}
    for member in (member for name in suites for member in membership(root, name)):
        members.setdefault(member["run"], member)
    found = {run: _entry(root, run, member["label"], member["config"]) for run, member in members.items()}
    others = [path for path in root.glob("*/config.json") if path.parent.name not in found] if suite is None else []
    for path in sorted(others):
        with suppress(UserError):  # one damaged folder must not hide the others; `collect` names it
            run = RunFolder(path.parent).config()
            found[path.parent.name] = entry(root, run.agent, run)
    if not found:
        raise UserError(f"no runs under {root}; start some with `mac-bench run SUITE`, or name another --runs")
    return list(found.values())


def membership(root: Path, suite: str) -> list[dict[str, Any]]:
    """Runs of a suite as it was last started: run, label, config. Raises UserError where it has not been."""
    return started(root, suite)["members"]


def started(root: Path, suite: str) -> dict[str, Any]:
    """A suite as it was last started: name, members, ... Raises UserError where it has not been."""
    path = root / "suites" / f"{suite}.json"
    if not path.exists():
        names = ", ".join(path.stem for path in _started(root)) or "none"
        raise UserError(f"suite '{suite}' has not been started under {root}; those that have been: {names}")
    try:
        content = json.loads(path.read_text())
        return content | {"members": content["members"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); start the suite again to write it anew") from None


def _started(root: Path) -> list[Path]:
    return sorted((root / "suites").glob("*.json"))


def find_folder(root: Path, run: str) -> RunFolder:
    """The folder of a run by its path, its id, or the beginning of its id. Raises UserError where it is not one."""
    if (Path(run) / "config.json").exists():
        return RunFolder(Path(run))
    found = sorted(path.parent for path in root.glob("*/config.json") if path.parent.name.startswith(run))
    if len(found) == 1:
        return RunFolder(found[0])
    if not found:
        raise UserError(f"no run '{run}' under {root}; `mac-bench status` lists them")
    ids = ", ".join(path.name for path in found[:5])
    raise UserError(f"'{run}' fits {len(found)} runs under {root}: {ids}{', ...' if len(found) > 5 else ''}")


def stored_run(root: Path, run: str) -> tuple[RunFolder, RunConfig]:
    """A run's folder and config. Raises UserError as `find_folder` does, and where the two do not belong together."""
    folder = find_folder(root, run)
    config = folder.config()
    if config.id != folder.path.resolve().name:
        raise UserError(f"{folder.path}: its config is that of run {config.id}; was it renamed or edited by hand?")
    return folder, config


def show(console: Console, lines: Iterable[Entry], root: Path, live: bool, every: bool = True) -> None:
    """A table for each task: what is planned, or with `live` how far it is; then a count of states and what failed.

    Of many runs only counts are shown, unless it is to be `every` one.
    """
    lines = list(lines)
    labels = list(dict.fromkeys(line.label for line in lines))
    lines.sort(key=lambda line: labels.index(line.label))
    if len(lines) > MANY and not every:
        console.print(_summary(lines))
        console.print()
    else:
        for task in dict.fromkeys(line.task for line in lines):
            console.print(f"[bold]{task}[/]")
            console.print(_table(root, [line for line in lines if line.task == task], live))
            console.print()
    _explain(console, [line for line in lines if line.state in WORRYING])
    if live:
        _reasons(console, [line for line in lines if line.reason and line.state not in (*WORRYING, "finished")])
    console.print(counts(lines))


def _summary(lines: list[Entry]) -> Table:
    """How many runs of each label are in which state."""
    states = [state for state in STYLES if any(line.state == state for line in lines)]
    table = plain_table("label", *(f"{state}:" for state in states))
    for label in dict.fromkeys(line.label for line in lines):
        number = Counter(line.state for line in lines if line.label == label)
        cells = [f"[{STYLES[state]}]{number[state]:,}[/]" if number[state] else "" for state in states]
        table.add_row(escape(label), *cells)
    return table


def _explain(console: Console, lines: list[Entry]) -> None:
    """Why they are as they are: each reason once, with the first runs that have it."""
    reasons: dict[tuple[str, str], list[Entry]] = {}
    for line in lines:
        reasons.setdefault((line.state, line.reason), []).append(line)
    for (state, reason), alike in reasons.items():
        where = ", ".join(
            f"{line.run} at update {line.status.step if line.status else 0:,}" for line in alike[:EXAMPLES]
        )
        more = f" and {len(alike) - EXAMPLES:,} more" if len(alike) > EXAMPLES else ""
        console.print(f"[red]{state}[/] {where}{more}: {escape(reason)}", soft_wrap=True)


def _reasons(console: Console, lines: list[Entry]) -> None:
    """Why runs wait, or have stopped: each reason with the number of runs that have it."""
    for (state, reason), number in Counter((line.state, line.reason) for line in lines).items():
        console.print(f"[{STYLES[state]}]{state}[/] {plural(number, 'run')}: {escape(reason)}", soft_wrap=True)


def counts(lines: Iterable[Entry]) -> str:
    """Such as `6 runs: 4 finished, 2 waiting`, with colours."""
    number = Counter(line.state for line in lines)
    parts = [f"[{style}]{number[state]} {state}[/]" for state, style in STYLES.items() if number[state]]
    return f"{plural(number.total(), 'run')}: {', '.join(parts)}"


def plain_table(*names: str, header: bool = True) -> Table:
    """A table without lines; columns whose name ends in a colon hold numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=header)
    for name in names:
        table.add_column(name.rstrip(":"), justify="right" if name.endswith(":") else "left", overflow="fold")
    return table


def plural(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Two units, such as `2 h 05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def age(seconds: float) -> str:
    """One unit, such as `2 h`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def rate(updates_per_s: float | None) -> str:
    """Three digits or more, nothing where it is not known."""
    return "" if updates_per_s is None else f"{updates_per_s:,.{0 if updates_per_s >= 100 else 1}f}"


def status_of(folder: RunFolder) -> Status | None:
    """The run's status; None also where it cannot be read: then training it says why."""
    try:
        return folder.status()
    except (UserError, OSError):
        return None


def last_score(folder: RunFolder) -> float | None:
    """Success, or what its task measures instead, at the last evaluation, averaged over evaluation tasks."""
    try:
        with open(folder.events, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        if b'"kind": "evaluation"' in line:
            try:
                tasks = json.loads(line)["tasks"]
                return sum(task["success"] for task in tasks) / len(tasks)
            except (ValueError, KeyError, TypeError):  # half-written
                continue
    return None


def _table(root: Path, lines: list[Entry], live: bool) -> Table:
    columns = ["done:", "/s:", "last sign:", f"{measure_of(lines[0].task)}:"] if live else ["updates:"]
    table = plain_table("run", "label", "seed:", "state", *columns)
    for column in table.columns:
        column.no_wrap = column.header != "label"
    for line in lines:
        cells = [line.run, escape(line.label), str(line.seed), f"[{STYLES[line.state]}]{line.state}[/]"]
        table.add_row(*cells, *(_progress(root, line) if live else [f"{line.steps:,}"]))
    return table


def _progress(root: Path, line: Entry) -> list[str]:
    status = line.status
    if status is None:
        return []
    score = last_score(RunFolder(root / line.run))
    return [
        f"{status.step / status.steps:.0%}",
        rate(status.updates_per_s),
        age(time.time() - status.heartbeat),
        "" if score is None else f"{score:.0%}",
    ]


def _entry(root: Path, run: str, label: str, config: dict[str, Any]) -> Entry:
    folder = RunFolder(root / run)
    status = status_of(folder)
    # no order changes what is finished
    order = None if status and status.state == "finished" else folder.order()
    return Entry(run, label, config["task"], config["seed"], config["steps"], status, *standing(status, order))
