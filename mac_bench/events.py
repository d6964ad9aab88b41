"""Suites and run folders as rows of tables: what the store enters, without the database. The lines of a log are

{"kind": "attempt", "attempt": 1, "time": .., "step": .., "host": .., "pid": .., "job": "12_3",
    "environment": {..}}
{"kind": "metrics", "attempt": 1, "time": .., "step": .., "values": {"loss/critic": ..}, "updates_per_s": ..}
{"kind": "evaluation", "attempt": 1, "time": .., "step": .., "seconds": .., "tasks": [{"task": 1, "episodes": ..,
    "success": .., "return": .., "length": ..}, ..], "memory": {"memory_mb": ..}}
{"kind": "end", "attempt": 1, "time": .., "step": .., "state": "finished", "reason": null, "cause": null}

`success` is a normalised score in [-inf, inf] where the environment's "measure" says so.
"""

import hashlib
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

from mac_bench.config import RunConfig, parse
from mac_bench.errors import UserError
from mac_bench.states import Order

OVERALL = 0
"""`task` of the evaluation rows that hold the mean over all evaluation tasks; the tasks themselves count from 1"""

TAIL = 256
"""bytes before the offset whose hash tells a file that has grown from one that was replaced"""

Row = dict[str, Any]


class Plan(NamedTuple):
    """A suite: its row, its members in order, and their runs as they are before they begin."""

    suite: Row
    members: list[Row]
    runs: list[Row]


class Unread(NamedTuple):
    """What a log holds that was not read before. A last line without its end stays for the next time."""

    restarted: bool
    """the file is not the one that was read before, or has shrunk: everything in it is new"""
    start: int
    """offset of `text` in the file, in bytes"""
    text: bytes
    """whole lines"""
    tail: str | None
    """hash of what lies before the end of `text`"""


class Log(NamedTuple):
    """Rows by table, in the order of their lines: of two with the same key the later one counts."""

    evaluations: list[Row]
    metrics: list[Row]
    attempts: dict[int, Row]
    """attempt -> the columns that these lines tell of: of its start, of its end, and when it was last seen"""
    damaged: list[int]
    """where the lines begin that could not be read, in bytes"""


def read_plan(path: Path) -> Plan:
    """A suite's file. Raises UserError where it is none."""
    try:
        suite = json.loads(path.read_text())
        name, planned = str(suite["name"]), suite["members"]
        configs = [parse(RunConfig, member["config"], str(path)) for member in planned]
        members = [
            {"suite": name, "position": position, "run": config.id, "label": str(member["label"])}
            | {"tags": [str(tag) for tag in member.get("tags", [])]}
            for position, (member, config) in enumerate(zip(planned, configs, strict=True))
        ]
        own = {"name": name, "about": str(suite["about"]), "average_last": int(suite["average_last"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a planned suite ({error!r})") from None
    return Plan(own, members, [_waiting(config) for config in configs])


def read_config(folder: Path) -> Row:
    """A folder's run as it is before it begins. Raises UserError where the config is not the folder's own."""
    path = folder / "config.json"
    try:
        config = parse(RunConfig, json.loads(path.read_text()), str(path))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if config.id != folder.name:
        raise UserError(f"{path} is the config of run {config.id}: copied or edited by hand; passed over")
    return _waiting(config)


def _waiting(config: RunConfig) -> Row:
    values = config.model_dump(mode="json")
    own = {name: values[name] for name in ("agent", "version", "task", "dataset", "seed", "steps")}
    log = {"offset": 0, "tail": None, "damaged": 0}
    return {"id": config.id, "config": values, **own, **log, **_no_status()}


def _no_status() -> Row:
    return {"state": "waiting", "step": 0, "reason": None, "heartbeat": None, "host": None, "updates_per_s": None}


def read_unread(path: Path, offset: int, tail: str | None) -> Unread:
    """What lies behind `offset`, if the bytes before it still have the hash `tail`; else the whole file."""
    if not path.exists():  # not yet written, or not yet visible on a network disk: no reason to drop what was read
        return Unread(False, offset, b"", tail)
    with open(path, "rb") as file:
        before = min(offset, TAIL)
        file.seek(offset - before)
        text = file.read()
        restarted = offset > 0 and _hash(text[:before]) != tail
        if restarted:
            offset = before = 0
            file.seek(0)
            text = file.read()
    end = text.rfind(b"\n") + 1 or before
    return Unread(restarted, offset, text[before:end], _hash(text[max(0, end - TAIL) : end]))


def _hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def read_log(run: str, text: bytes) -> Log:
    """The rows of a log's whole lines. A damaged line is counted and passed over."""
    log, start = Log([], [], {}, []), 0
    for line in text.split(b"\n")[:-1]:
        try:
            if line.strip():
                _add(log, run, json.loads(line))
        except (ValueError, KeyError, TypeError, OverflowError):
            log.damaged.append(start)
        start += len(line) + 1
    return log


def _add(log: Log, run: str, event: Row) -> None:
    kind, step, time_s = event["kind"], int(event["step"]), float(event["time"])
    key = {"run": run, "attempt": int(event["attempt"])}
    attempt = log.attempts.get(key["attempt"], key) | {"seen_time": time_s}
    if kind == "metrics":
        values = event["values"] | {"updates_per_s": event["updates_per_s"]}
        log.metrics.extend(_metrics(run, step, values))
    elif kind == "evaluation":
        common = {**key, "step": step, "time": time_s, "seconds": float(event["seconds"])}
        log.evaluations.extend(common | row for row in _by_task(event["tasks"]))
        log.metrics.extend(_metrics(run, step, event.get("memory", {})))
    elif kind == "attempt":
        start = {"start_time": time_s, "start_step": step, "host": str(event["host"]), "pid": int(event["pid"])}
        no_end = dict.fromkeys(("end_time", "end_step", "state", "cause", "reason"))
        attempt |= {**start, **no_end, "job": _text(event.get("job")), "environment": dict(event["environment"])}
    elif kind == "end":
        end = {"end_time": time_s, "end_step": step, "state": str(event["state"])}
        attempt |= end | {"cause": _text(event.get("cause")), "reason": _text(event["reason"])}
    else:
        return  # of a later version, and not for these tables
    log.attempts[key["attempt"]] = attempt


def _metrics(run: str, step: int, values: Row) -> list[Row]:
    return [{"run": run, "name": name, "step": step, "value": _number(value)} for name, value in values.items()]


def _by_task(tasks: list[Row]) -> list[Row]:
    """One row for each task and the overall one, with the mean of each number."""
    names = ("success", "return", "length")
    rows = [{"task": int(t["task"]), "episodes": int(t["episodes"])} | {n: _number(t[n]) for n in names} for t in tasks]
    if min(row["task"] for row in rows) <= OVERALL:
        raise ValueError("evaluation tasks count from 1")
    means = {name: statistics.fmean(row[name] for row in rows) for name in names}
    return [*rows, {"task": OVERALL, "episodes": sum(row["episodes"] for row in rows), **means}]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> float:
    """What is not finite is null in JSON and in the database, NaN in between."""
    return math.nan if value is None else float(value)


def read_state(folder: Path, last: Row | None, silence_s: float) -> tuple[Row, list[str]]:
    """state, step, reason, heartbeat, host, updates_per_s of a run, and what is wrong with its status.json.

    They are what status.json says, or the `last` attempt in the log where that is newer. A running run whose heartbeat
    is older than `silence_s` is `lost`. What was ordered since (order.json) comes before.
    """
    state, attempt, problems = _no_status(), 0, []
    path = folder / "status.json"
    try:
        status = json.loads(path.read_text())
        state, attempt = {name: status[name] for name in state}, int(status["attempt"])
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as error:
        problems.append(f"{path}: no status ({error!r}); the log was asked instead")
    if last:
        # a kill between the last event and the last status leaves a status that says "running" for ever
        ended = last["attempt"] == attempt and last["state"] and state["state"] == "running"
        if ended or last["attempt"] > attempt:
            which = "end" if last["state"] else "start"
            state |= {"state": last["state"] or "running", "step": last[f"{which}_step"] or 0, "reason": last["reason"]}
            state |= {"heartbeat": last[f"{which}_time"], "host": last["host"] or state["host"]}
    if state["state"] == "running" and state["heartbeat"] and time.time() - state["heartbeat"] > silence_s:
        state |= {"state": "lost", "reason": "no sign of life"}
    return state | _ordered(folder, state), problems


def _ordered(folder: Path, state: Row) -> Row:
    """State and reason where an order changes them. One that cannot be read is not worth a run, as for the run."""
    try:
        order = Order.model_validate_json((folder / "order.json").read_text())
    except (OSError, ValueError):
        return {}
    ordered = order.stands(state["state"], state["step"], state["heartbeat"])
    return {"state": ordered, "reason": order.reason} if ordered else {}
