"""A synthetic campaign: 10 methods on 25 tasks with 20 seeds, as run folders or straight in a database.

No number here means anything: curves rise with the method, fall with the task's horizon, and scatter with the seed.
Everything follows from `seed` and `now`. Labels, reasons and settings hold markup that no page may obey.
"""

import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mac_bench import store, tasks
from mac_bench.config import EvalConfig, RunConfig
from mac_bench.events import OVERALL
from mac_bench.record import Status

STEPS = 1_000_000
EPISODES = 15
NOW = 1.75e9
"""Unix time in seconds: when the campaign is looked at"""
SCRIPT = "<script>alert(1)</script>"
MARKUP = "<b>bold</b> **stars** ![image](http://mac-bench.invalid/image.png) | a cell, and $x_1$"
"""an image that a page shows is a request to another host, which a browser test sees"""

METHODS = {
    "MAC": "mac", "F-MPC": "fmpc", "LEQ": "leq", "MOBILE": "mobile", "MOPO": "mopo", "COMBO": "combo", "RAMBO": "rambo",
    "GCIQL": "gciql", SCRIPT: "flow_bc", "BC": "bc",
}  # fmt: skip
"""label -> agent, the best first"""
WITHOUT_MODEL = ("gciql", "flow_bc", "bc")
AHEAD = (10, 50, 100)

_MAZES = [f"{body}-{size}-navigate" for body in ("pointmaze", "antmaze", "humanoidmaze") for size in ("large", "giant")]
_ARMS = [f"cube-{count}-play" for count in ("single", "double", "triple", "quadruple")]
_ARMS += ["scene-play", *(f"puzzle-{size}-play" for size in ("3x3", "4x4", "4x5", "4x6"))]
TASKS = [
    *(f"{name}-singletask-v0" for name in [*_MAZES, *_ARMS]),  # one evaluation task
    *(f"{name}-oraclerep-v0" for name in ["cube-octuple-play", *_ARMS]),  # five
]

ENDS = {3: "running", 7: "failed", 11: "failed", 19: "lost", 23: "waiting", 29: "stopped"}
"""of each 37 runs, which do not finish; 37 is prime, so that no method, task or seed has more of them than others"""
REASONS = {7: f"error: CUDA out of memory {MARKUP}", 11: "time limit", 29: "SIGTERM"}


class Attempt(NamedTuple):
    """Times in Unix seconds; what has not come yet is None."""

    number: int
    start: float
    start_step: int
    end: float | None
    end_step: int | None
    state: str | None
    reason: str | None


class Run(NamedTuple):
    """What happened in one run."""

    id: str
    config: RunConfig
    state: str
    reason: str | None
    step: int
    heartbeat: float
    environment: dict[str, str]
    attempts: list[Attempt]
    steps: list[int]
    """of its evaluations, after each of which a metric is logged too"""
    rate: float
    """updates per second"""
    metrics: dict[str, list[float]]
    """name -> a number for each step"""
    evaluations: dict[int, dict[str, list[float]]]
    """evaluation task -> success, return, length, each with a number for each step"""

    def attempt(self, step: int) -> Attempt:
        """The one that was at this step."""
        return next(attempt for attempt in reversed(self.attempts) if attempt.start_step < step)

    def time(self, step: int) -> float:
        """When this step was evaluated."""
        attempt = self.attempt(step)
        return round(attempt.start + (step - attempt.start_step) / self.rate, 3)


def members(runs: int = 5000, evaluations: int = 100) -> list[tuple[str, RunConfig]]:
    """Label and config of each run, seed by seed: the first 250 are one seed of every method on every task."""
    protocol = EvalConfig(every=-(-STEPS // evaluations), episodes=EPISODES)
    seeds = range(-(-runs // (len(TASKS) * len(METHODS))))
    planned = [
        (label, RunConfig(agent=agent, version=1, task=task, dataset=tasks.find(task).dataset, seed=seed, steps=STEPS,
                          settings={"batch_size": 256, "hidden": [512, 512], "note": MARKUP}, evaluation=protocol))
        for seed, task, (label, agent) in product(seeds, TASKS, METHODS.items())
    ]  # fmt: skip
    return planned[:runs]


def write_folders(
    root: Path, runs: int = 5000, evaluations: int = 100, metrics: int = 20, seed: int = 0, now: float = NOW
) -> None:
    """Run folders and suites as the recorder writes them; waiting runs have no folder. Nothing is flushed to the disk.

    Collect with a `silence_s` of an hour and `now` = time.time() to see running and lost runs apart.
    """
    planned = members(runs, evaluations)
    _write_suites(root, planned)
    for run in _runs(planned, metrics, seed, now):
        folder = root / run.id
        folder.mkdir()
        (folder / "config.json").write_text(run.config.model_dump_json(indent=2) + "\n")
        (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines(run)))
        status = Status(
            state="running" if run.state == "lost" else run.state,  # pyright: ignore[reportArgumentType]
            step=run.step, steps=STEPS, attempt=run.attempts[-1].number, heartbeat=run.heartbeat, host="node1", pid=7,
            reason=None if run.state == "lost" else run.reason, updates_per_s=run.rate,
        )  # fmt: skip
        (folder / "status.json").write_text(status.model_dump_json() + "\n")


def fill(
    database: Path, runs: int = 5000, evaluations: int = 100, metrics: int = 20, seed: int = 0, now: float = NOW
) -> None:
    """A new database with the rows that `collect` makes of `write_folders`, but for how far each log was read."""
    planned = members(runs, evaluations)
    with tempfile.TemporaryDirectory() as folder:
        _write_suites(Path(folder), planned)
        store.collect(Path(folder), database)
    with store.connect(database, "IMMEDIATE") as connection, connection.begin():
        for run in _runs(planned, metrics, seed, now):
            state = (run.state, run.step, run.reason, run.heartbeat, "node1", run.rate, run.id)
            connection.exec_driver_sql(
                "UPDATE runs SET state = ?, step = ?, reason = ?, heartbeat = ?, host = ?, updates_per_s = ? "
                "WHERE id = ?",
                state,
            )
            for table, rows in (("attempts", _attempts), ("evaluations", _evaluations), ("metrics", _metrics)):
                own = rows(run)
                connection.exec_driver_sql(f"INSERT INTO {table} VALUES ({', '.join('?' * len(own[0]))})", own)


def lines(run: Run) -> Iterator[dict[str, Any]]:
    """The events of a run, in order."""
    for attempt in run.attempts:
        yield _line("attempt", attempt, attempt.start, attempt.start_step, host="node1", pid=7) | {
            "environment": run.environment
        }
        for i, step in enumerate(run.steps):
            if run.attempt(step) is not attempt:
                continue
            when = run.time(step)
            values = {name: numbers[i] for name, numbers in run.metrics.items()}
            ahead = {name: values.pop(name) for name in list(values) if name.startswith("model_error/")}
            for logged in filter(None, (values, ahead)):  # after an evaluation's update the model's error comes apart
                yield _line("metrics", attempt, when, step, values=logged, updates_per_s=run.rate)
            measured = [
                {"task": task, "episodes": EPISODES} | {name: column[i] for name, column in columns.items()}
                for task, columns in run.evaluations.items()
            ]
            yield _line("evaluation", attempt, when, step, seconds=20.5, tasks=measured)
        if attempt.end is not None:
            yield _line("end", attempt, attempt.end, attempt.end_step, state=attempt.state, reason=attempt.reason)


def _line(kind: str, attempt: Attempt, when: float, step: int | None, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "time": when, "attempt": attempt.number, "step": step, **fields}


def _metrics(run: Run) -> list[tuple]:
    columns = run.metrics | {"updates_per_s": [run.rate] * len(run.steps)}
    return [
        (run.id, name, step, value)
        for name in sorted(columns)
        for step, value in zip(run.steps, columns[name], strict=True)
    ]


def _evaluations(run: Run) -> list[tuple]:
    own = list(run.evaluations.values())
    overall = {
        name: list(map(statistics.fmean, zip(*(columns[name] for columns in own), strict=True))) for name in own[0]
    }
    when = [(step, run.attempt(step).number, run.time(step), 20.5) for step in run.steps]
    return [
        (run.id, task, *point, EPISODES * (len(own) if task == OVERALL else 1), *numbers)
        for task, columns in {OVERALL: overall, **run.evaluations}.items()
        for point, numbers in zip(when, zip(*columns.values(), strict=True), strict=True)
    ]


def _attempts(run: Run) -> list[tuple]:
    environment = json.dumps(run.environment)
    place = ("node1", 7, None, environment)
    return [(run.id, a.number, *place, *a[1:-1], None, a.reason, _seen(run, a)) for a in run.attempts]


def _seen(run: Run, attempt: Attempt) -> float:
    """When an attempt wrote its last line."""
    own = [run.time(step) for step in run.steps if run.attempt(step) is attempt]
    return attempt.end or max(own, default=attempt.start)


def _runs(planned: Sequence[tuple[str, RunConfig]], metrics: int, seed: int, now: float) -> Iterator[Run]:
    """All but the waiting ones, in the order of their ids, which is the tables'."""
    for index, config in sorted(enumerate(config for _, config in planned), key=lambda item: item[1].id):
        if ENDS.get(index % 37) != "waiting":
            yield _run(config, index, metrics, np.random.default_rng([seed, index]), now)


def _run(config: RunConfig, index: int, metrics: int, rng: np.random.Generator, now: float) -> Run:
    state, reason = ENDS.get(index % 37, "finished"), REASONS.get(index % 37)
    every = config.evaluation.every
    planned = -(-STEPS // every)
    done = planned if state == "finished" else max(1, round(planned * rng.uniform(0.1, 0.9)))
    steps = [min(every * i, STEPS) for i in range(1, done + 1)]
    rate = round(float(rng.uniform(80, 120)), 2)
    attempts = _history(index, steps, rate, state, reason, now)
    beat = attempts[-1].end or now - (86_400 if state == "lost" else 5)
    task = tasks.find(config.task)
    hard = tasks.ENVIRONMENTS[task.environment].episode_limit / 1000
    return Run(
        config.id, config, state, "no sign of life" if state == "lost" else reason, steps[-1], beat,
        _environment(config), attempts, steps, rate, _logged(config.agent, metrics, np.array(steps) / STEPS, rng),
        {number: _success(config.agent, hard, np.array(steps) / STEPS, rng) for number in task.eval_tasks},
    )  # fmt: skip


def _history(index: int, steps: list[int], rate: float, state: str, reason: str | None, now: float) -> list[Attempt]:
    """One attempt, or, of every fifth run, one that was stopped half way and its continuation."""
    half = steps[len(steps) // 2 - 1] if index % 5 == 4 and len(steps) > 1 else 0
    start = round(now - 200_000 - index % 1000, 3)
    first = []
    if half:
        end = round(start + half / rate + 1, 3)
        first = [Attempt(1, start, 0, end, half, "stopped", "SIGTERM")]
        start = end + 60
    going = state in ("running", "lost")
    end = None if going else round(start + (steps[-1] - half) / rate + 1, 3)
    last = (end, None, None, None) if going else (end, steps[-1], state, reason)
    return [*first, Attempt(len(first) + 1, start, half, *last)]


def _environment(config: RunConfig) -> dict[str, str]:
    mujoco = "3.4.0" if config.task == TASKS[1] and config.agent == "bc" else "3.3.7"
    device = "cpu" if config.agent == "bc" else "NVIDIA H100"
    versions = {"python": "3.11.7", "ogbench": "1.2.2", "mujoco": mujoco, "jax": "0.10.0"}
    return {**versions, "device": device, "data": f"sha-{config.dataset}"}


def _success(agent: str, hard: float, done: np.ndarray, rng: np.random.Generator) -> dict[str, list[float]]:
    """Successes out of EPISODES that rise towards a limit; `done` is the share of the updates, [evaluations]."""
    skill = 1 - list(METHODS.values()).index(agent) / len(METHODS) + rng.normal(0, 0.06)
    limit = np.clip(skill, 0.01, 0.99) ** (0.5 + hard)
    rate = limit * (1 - np.exp(-done * rng.uniform(3, 6)))
    success = rng.binomial(EPISODES, rate) / EPISODES
    length = np.round(1000 * hard * (1 - 0.6 * success), 1)
    return {"success": success.tolist(), "return": (-length).tolist(), "length": length.tolist()}


def _logged(agent: str, metrics: int, done: np.ndarray, rng: np.random.Generator) -> dict[str, list[float]]:
    """`metrics` - 1 columns of numbers, as updates_per_s is the last; float32, as agents give them."""
    ahead = () if agent in WITHOUT_MODEL else AHEAD[: max(0, metrics - 2)]
    names = _names(metrics - 1 - len(ahead))
    scatter = rng.normal(1, 0.05, (len(names) + len(ahead), len(done)))
    place = np.array([*np.linspace(0.1, 10, len(names)), *(0.002 * steps for steps in ahead)])[:, None]
    values = (place * scatter * (0.2 + np.exp(-3 * done))).astype(np.float32).tolist()
    return dict(zip([*names, *(f"model_error/{steps}" for steps in ahead)], values, strict=True))


@cache
def _names(count: int) -> list[str]:
    parts = [
        f"{kind}/{part}" for part in ("critic", "actor", "model", "value") for kind in ("loss", "norm", "q", "std")
    ]
    return [*parts, *(f"extra/{i}" for i in range(len(parts), count))][:count]


def _tags(run: RunConfig) -> list[str]:
    return [run.task.partition("-")[0], *([] if run.agent in WITHOUT_MODEL else ["model-based"])]


def _write_suites(root: Path, planned: Sequence[tuple[str, RunConfig]]) -> None:
    """`campaign` is all of it; `small` is three methods on two tasks."""
    small = [m for m in planned if m[0] in list(METHODS)[:3] and m[1].task in (TASKS[0], TASKS[-1])]
    for name, of in {"campaign": planned, "small": small}.items():
        about = f"synthetic {MARKUP}"
        own = [
            {"run": run.id, "label": label, "tags": _tags(run), "config": run.model_dump(mode="json")}
            for label, run in of
        ]
        suite = {"name": name, "about": about, "average_last": 3, "members": own}
        (root / "suites").mkdir(parents=True, exist_ok=True)
        (root / "suites" / f"{name}.json").write_text(json.dumps(suite, indent=1) + "\n")
