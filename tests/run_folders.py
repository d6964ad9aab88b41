"""Run folders and suites as the recorder writes them, line by line, for what reads them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from mac_bench.config import EvalConfig, RunConfig

NO_TAGS: Mapping[str, list] = MappingProxyType({})
ENVIRONMENT = {"python": "3.11.7", "mujoco": "3.3.7", "ogbench": "1.2.2", "data": "sha-a"}


def planned(seed=0, task="cube-single-play", agent="mac", steps=1000) -> RunConfig:
    protocol = EvalConfig(every=250, episodes=20)
    settings = {"batch_size": 256}
    return RunConfig(
        agent=agent, version=1, task=task, dataset=task, seed=seed, steps=steps, settings=settings, evaluation=protocol
    )


def started(attempt=1, step=0, time=1.0, job=None, **environment) -> dict:
    versions = ENVIRONMENT | environment
    return {
        "kind": "attempt", "attempt": attempt, "time": time, "step": step, "host": "node1", "pid": 7,
        "job": job, "environment": versions,
    }  # fmt: skip


def measured(step, attempt=1, **values) -> dict:
    values = values or {"loss": 1 / (1 + step)}
    return {"kind": "metrics", "attempt": attempt, "time": 2.0, "step": step, "values": values, "updates_per_s": 31.2}


def evaluated(step, *success, attempt=1) -> dict:
    tasks = [
        {"task": i, "episodes": 20, "success": value, "return": -100.0 * i, "length": 10.0 * i}
        for i, value in enumerate(success, start=1)
    ]
    return {"kind": "evaluation", "attempt": attempt, "time": 3.0, "step": step, "seconds": 1.5, "tasks": tasks}


def ended(step, state="finished", attempt=1, reason=None, cause=None) -> dict:
    why = {"state": state, "reason": reason, "cause": cause}
    return {"kind": "end", "attempt": attempt, "time": 9.0, "step": step, **why}


def a_whole_run(scores=(0.1, 0.2, 0.3, 0.5)) -> list[dict]:
    lines = [started()]
    for i, score in enumerate(scores, start=1):
        lines += [measured(250 * i), evaluated(250 * i, score, score)]
    return [*lines, ended(1000)]


def write_status(root: Path, run: RunConfig, state: str, step: int, attempt=1, heartbeat=5.0, reason=None) -> None:
    status = {
        "state": state, "step": step, "steps": run.steps, "attempt": attempt, "reason": reason,
        "heartbeat": heartbeat, "host": "node1", "pid": 7, "updates_per_s": 30.0,
    }  # fmt: skip
    (root / run.id / "status.json").write_text(json.dumps(status))


def write_run(root: Path, run: RunConfig, lines: Iterable[dict], state="finished", step=1000) -> Path:
    """A run folder; returns its log."""
    folder = root / run.id
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(run.model_dump_json(indent=2))
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_status(root, run, state, step)
    return folder / "events.jsonl"


def write_suite(
    root: Path,
    members: Iterable[tuple[str, RunConfig]],
    name="first",
    average_last=2,
    tags: Mapping[str, list] = NO_TAGS,
) -> None:
    """`tags`: by label."""
    listed = [
        {"run": run.id, "label": label, "tags": tags.get(label, []), "config": run.model_dump(mode="json")}
        for label, run in members
    ]
    suite = {"name": name, "about": "", "average_last": average_last, "members": listed}
    (root / "suites").mkdir(parents=True, exist_ok=True)
    (root / "suites" / f"{name}.json").write_text(json.dumps(suite))


def append(log: Path, *lines: dict) -> None:
    with open(log, "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
