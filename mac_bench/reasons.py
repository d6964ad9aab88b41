"""Why a number of ours and a published one may not be compared, though they are of one method and one task.

What is not known is such a reason too: that nothing is said against a pair means that all of this was looked at.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from mac_bench.ran import plain, unlike

ALIKE = ("mean over 5 evaluation goals", "mean over tasks 1 to 5", "default task alone")
"""clauses of protocols that are so here, where the tasks are the same"""
EVALUATIONS = {"one early evaluation": 1, "last three evaluations": 3}
"""clauses that say of how many evaluations a number is the mean"""
INFERRED = "updates as inferred"


def over_five(task: str) -> str:
    """The name that the mean over tasks 1 to 5 has, of which a task with rewards is one; other names as they are."""
    return re.sub(r"-singletask(-task\d)?-v0$", "-singletask-task*-v0", task)


def reasons(own: dict[Any, Any], row: dict[Any, Any]) -> Iterable[str]:
    """Why the two numbers may differ though the methods do not; what is not known is such a reason too."""
    if own.get("ran") is None:
        yield "unknown settings of ours"
    else:
        yield from dict.fromkeys(unlike(row["table"], own["label"], run) for run in own["ran"])
    if not named(own["label"], own["agent"], row["method"]):
        yield f"label '{own['label']}' may have other settings than {row['method']}"
    if row["unit"] not in units(own):
        yield f"other metric: theirs is {row['metric']}"
    if row["task"] != own["task"]:
        yield "other evaluation tasks: theirs is a mean over tasks 1 to 5"
    legacy = str(own.get("simulator", "")).startswith("d4rl-")
    if legacy != row["table"].startswith("d4rl-"):
        yield f"other simulator: {'not ' if legacy else ''}D4RL's"
    yield _physics(own["mujoco"])
    yield from _data(own, row)
    yield from _protocol(own, row)
    if math.isnan(row["steps"]):
        yield "unknown number of updates of theirs"
    elif row["steps"] != own["steps"]:
        yield f"other number of updates: {own['steps']:.0f}, theirs {row['steps']:.0f}"
    if own["n_seeds"] < 2:
        yield "fewer than 2 seeds of ours"
    if math.isnan(row["seeds"]):
        yield "unknown number of seeds of theirs"
    elif row["seeds"] < 2:
        yield "fewer than 2 seeds of theirs"


def units(own: dict[Any, Any]) -> set[str]:
    """Units of theirs that are ours too; in mazes the normalised score of D4RL is the success in %."""
    measure = own.get("measure", "success")
    if measure == "normalised score":
        return {"normalised"}
    maze = own["task"].startswith("antmaze-") and str(own.get("simulator", "")).startswith("d4rl-")
    return {"percent"} | ({"normalised"} if maze else set()) if measure == "success" else set()


def named(label: str, agent: str, method: str) -> bool:
    """Whether a label says that it is the method, and not a variant of it."""
    return plain(label) in (plain(agent), plain(method))


def _physics(mujoco: Any) -> str:
    """3.1.6 made the public data; up to 3.3 nothing changed, from 3.4 on contacts did."""
    versions = re.findall(r"(\d+)\.(\d+)", mujoco) if isinstance(mujoco, str) and "unknown" not in mujoco else []
    if not versions:
        return "unknown version of our mujoco"
    if any(not (3, 1) <= (int(major), int(minor)) < (3, 4) for major, minor in versions):
        return f"other physics: mujoco {mujoco}"
    return ""


def _protocol(own: dict[Any, Any], row: dict[Any, Any]) -> Iterable[str]:
    """What is reported of a run, clause by clause of their protocol."""
    others = []
    for clause in row["protocol"].split("; "):
        every = re.fullmatch(r"an evaluation every (\d+)k updates", clause)
        if clause in EVALUATIONS:
            count, last = EVALUATIONS[clause], own.get("average_last")
            if last != count:
                yield f"other protocol: theirs is '{clause}', ours the mean of the last {last}"
        elif every:
            if own.get("every") != int(every[1]) * 1000:
                yield f"other protocol: theirs evaluates every {every[1]}k updates, ours every {own.get('every')}"
        elif clause == INFERRED:
            yield "their number of updates is inferred"
        elif clause == "observations not scaled":
            if (scaling := own.get("scaling")) != "none":
                yield f"other scaling of observations: theirs has none, ours {scaling or 'is unknown'}"
        elif clause.startswith("settings "):
            yield f"their {clause}"
        elif clause not in ALIKE:
            others.append(clause)
    if others:
        theirs = ", ".join(others)
        yield f"protocol may be another: theirs is '{theirs}'" if theirs else "unknown protocol of theirs"


def _data(own: dict[Any, Any], row: dict[Any, Any]) -> Iterable[str]:
    """Differences between our data and theirs."""
    official = re.sub(r"-(oraclerep|singletask(-task[\d*])?)-v0$", "-v0", own["task"])
    if own["dataset"] not in (official, official.replace("-v0", "-100m-v0")):
        yield f"other data: {own['dataset']}"
    made, rows = own.get("made_here"), own.get("rows", math.nan)
    if made is None or pd.isna(made):
        yield "unknown whether our data are the published ones"
    elif made:
        yield "other data: ours were made here"
    elif own.get("fetched") is not True:
        yield "nothing on record shows that our data, not made here, are the published files"
    if row["table"].startswith("d4rl-"):  # one fixed file each
        yield "other amount of data: every twentieth episode is held out here, theirs trained on all"
        return
    if row["data"] == "default":
        if own["dataset"] != official:
            yield f"other amount of data: theirs is {official}"
        return
    amount = re.fullmatch(r"(\d+)([MB])", row["data"])
    if not amount:
        yield "unknown amount of data of theirs"
    elif rows is None or pd.isna(rows):
        yield f"unknown amount of our data, theirs {row['data']}"
    elif abs(rows / (int(amount[1]) * {"M": 1e6, "B": 1e9}[amount[2]]) - 1) > 0.01:  # episodes have one row more
        yield f"other amount of data: {rows:.0f} transitions, theirs {row['data']}"
