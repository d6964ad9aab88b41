"""What ran under a label: its agent, its settings, and whether the project's own suite has the same under that label.

The suites that come with the project say of which published tables they are the repetition (`reproduces`), and have for
each label what is known of the paper's settings. A run with others is another method, whatever its label.
"""

import json
import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mac_bench.config import Settings, settings_on
from mac_bench.yaml_files import SUITES, read_yaml

FEW = 3
"""settings that a reason names one by one"""


class Shipped(NamedTuple):
    """What a suite of the project has under a label."""

    suite: str
    tables: tuple[str, ...]
    label: str
    agent: str
    patterns: tuple[tuple[str, ...], ...]
    """a task that it has fits one of each"""
    settings: dict[str, Any]
    per_task: dict[str, dict[str, Any]]

    def has(self, task: str) -> bool:
        return all(any(fnmatchcase(task, one) for one in patterns) for patterns in self.patterns)


class Run(NamedTuple):
    """What `unlike` asks of a run: settings and the agent's defaults are JSON, defaults other text where unknown."""

    task: str
    agent: str
    settings: str
    defaults: str | None


@cache
def shipped(folder: Path = SUITES) -> tuple[Shipped, ...]:
    """The labels of all suites in a folder that repeat a table."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        suite = read_yaml(path, Settings)
        for label, given in suite["agents"].items() if suite.get("reproduces") else ():
            entry = given or {}
            patterns = [tuple(suite["tasks"])] + ([tuple(entry["tasks"])] if "tasks" in entry else [])
            own = entry.get("settings") or {}, entry.get("per_task") or {}
            agent, tables = entry.get("agent") or label, tuple(suite["reproduces"])
            found.append(Shipped(path.stem, tables, label, agent, tuple(patterns), *own))
    return tuple(found)


def unlike(table: str, label: str, run: Run) -> str:
    """Why a run under this label is not what the project's suite of this table has there; empty where it is."""
    named = [known for known in shipped() if table in known.tables and plain(known.label) == plain(label)]
    known = next((known for known in named if known.has(run.task)), None)
    if known is None:
        return f"no suite here repeats this number with a label {label}: settings cannot be compared"
    if run.agent != known.agent:
        return f"other method: {run.agent}, where {known.suite} has {known.agent}"
    defaults = _loaded(run.defaults)
    if defaults is None:
        return "unknown defaults of our settings"
    wanted = defaults | settings_on(run.task, known.settings, known.per_task)
    other = [
        f"{name} {_short(value)} ({_short(wanted.get(name))} there)"
        for name, value in json.loads(run.settings).items()
        if value != wanted.get(name)
    ]
    more = f" and {len(other) - FEW} more" if len(other) > FEW else ""
    return f"other settings than {known.suite} has: {', '.join(other[:FEW])}{more}" if other else ""


def what_ran(runs: pd.DataFrame) -> pd.DataFrame:
    """Of the runs of `queries.results` that have begun: label, agent, updates, tasks, and the settings that are not the
    agent's defaults; a row for each that differs within a label."""
    groups: dict[tuple, list[str]] = {}
    begun: Any = runs[runs["defaults"].notna()]
    for run in begun.to_dict("records"):
        defaults, settings = _loaded(run["defaults"]), json.loads(run["settings"])
        other = {name: value for name, value in settings.items() if defaults is None or value != defaults.get(name)}
        text = ", ".join(f"{name} {_short(value)}" for name, value in other.items())
        known = "the defaults of its time are not on record; " if defaults is None else "" if text else "the defaults"
        groups.setdefault((run["label"], run["agent"], run["steps"], known + text), []).append(run["task"])
    every = begun.groupby("label")["task"].nunique()
    rows = []
    for (label, agent, steps, settings), tasks in groups.items():
        names = list(dict.fromkeys(tasks))
        of = f"all {len(names)}" if len(names) == every[label] > 1 else ", ".join(names)
        rows.append({"label": label, "agent": agent, "updates": f"{steps:,}", "tasks": of, "settings": settings})
    return pd.DataFrame(rows, columns=["label", "agent", "updates", "tasks", "settings"])


def plain(name: str) -> str:
    """A name without what people write in different ways: `F-MPC` and `FMPC` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _loaded(defaults: str | None) -> dict[str, Any] | None:
    try:
        return json.loads(defaults or "")
    except ValueError:  # not on record, or not the same at all attempts
        return None


def _short(value: Any) -> str:
    return json.dumps(value).replace('"', "")
