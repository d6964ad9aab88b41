"""What reports, notebooks and the dashboard ask of `results.db`: tidy pandas frames, filtered in SQL, read-only.

All of them raise UserError where there is no database, where it is not ours, or where it has no such suite or run.
`**where` narrows a suite down by label, run, agent, task, seed, state or tag: one value, several, or None for all.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection

from mac_bench.errors import UserError, unknown
from mac_bench.events import OVERALL
from mac_bench.store import ATTEMPTS, EVALUATIONS, MEMBERS, METRICS, RUNS, SUITES, check, connect

if TYPE_CHECKING:
    from pandas import DataFrame

Some = str | int | Iterable[str] | Iterable[int] | None
"""A filter: one value, several, or None for all."""

OF_RUN = ("agent", "task", "seed", "state")
"""what every row of a suite's runs says, after its label and its run"""
MEMORY = ("memory_mb", "device_memory_mb")
"""what an evaluation records of the process's peak"""
WORLD = (
    *("data", "data_rows", "data_made_here", "data_fetched", "mujoco", "ogbench", "simulator", "measure", "defaults"),
)
"""what of an attempt's environment decides whether two numbers may be compared"""
BEFORE = {"simulator": "ogbench", "measure": "success"}
"""what was true of all attempts before they recorded it"""
_TAG = sa.func.json_each(MEMBERS.c.tags).table_valued("value")


# -- suites and runs -------------------------------------------------------------------------------------------------


def suites(database: Path) -> "DataFrame":
    """One row per suite: name, about, average_last, runs (planned), finished."""
    finished = sa.func.sum(sa.case((RUNS.c.state == "finished", 1), else_=0))
    query = (
        sa.select(SUITES, sa.func.count().label("runs"), finished.label("finished"))
        .join_from(SUITES, MEMBERS, MEMBERS.c.suite == SUITES.c.name)
        .join(RUNS, RUNS.c.id == MEMBERS.c.run)
        .group_by(SUITES.c.name)
    )
    with _query(database) as connection:
        return _frame(connection, query)


def states(database: Path) -> "DataFrame":
    """How many runs of each suite are in each state: suite, state, runs, done (updates made), updates (to make)."""
    counted = [sa.func.count().label("runs"), sa.func.sum(RUNS.c.step).label("done"), sa.func.sum(RUNS.c.steps)]
    query = (
        sa.select(MEMBERS.c.suite, RUNS.c.state, *counted[:2], counted[2].label("updates"))
        .join_from(MEMBERS, RUNS, RUNS.c.id == MEMBERS.c.run)
        .group_by(MEMBERS.c.suite, RUNS.c.state)
    )
    with _query(database) as connection:
        return _frame(connection, query)


def in_state(database: Path, state: Some, limit: int = 200) -> "DataFrame":
    """The runs of all suites in these states, the latest sign of life first, at most `limit`: suite, label, run, agent,
    task, seed, state, step, steps, reason, heartbeat, host."""
    own = [RUNS.c[name] for name in (*OF_RUN, "step", "steps", "reason", "heartbeat", "host")]
    query = (
        sa.select(MEMBERS.c.suite, MEMBERS.c.label, MEMBERS.c.run, *own)
        .join_from(MEMBERS, RUNS, RUNS.c.id == MEMBERS.c.run)
        .where(*_among(RUNS.c.state, state))
        .order_by(RUNS.c.heartbeat.desc(), MEMBERS.c.suite, MEMBERS.c.position)
        .limit(limit)
    )
    with _query(database) as connection:
        return _frame(connection, query)


def results(database: Path, suite: str, at: int | None = None, **where: Some) -> "DataFrame":
    """One row per planned run of the suite, in its order: suite, average_last, label, run, tags (a tuple), what the
    runs table holds (agent, task, seed, state, step, ...), every (updates between evaluations), settings (JSON), score,
    averaged, complete, and WORLD.

    `score` is the reported number: the mean over the last `average_last` evaluations of success, [0, 1], or of what
    `measure` names instead (a normalised score of 1 is 100 %, and may be exceeded), over all evaluation
    tasks; `averaged` is how many there were; NaN and 0 before the first. `complete` says that the run is finished and
    none of those evaluations is missing. What WORLD names (the digest of the data, their training rows, whether they
    were made here or fetched, versions, simulator, measure, the agent's defaults as JSON) is that of all the run's
    attempts, joined by " + "; None before the first.

    With `at`, all of that as after so many updates, which `steps` then says: `complete` are runs that are as long and
    have the evaluations until then, finished or not.
    """
    with _query(database) as connection:
        last = _average_last(connection, suite)
        every = RUNS.c.config["evaluation", "every"].as_integer().label("every")
        settings = RUNS.c.config["settings"].as_string().label("settings")
        known = ("id", "config", "offset", "tail", *OF_RUN)
        shown = [column for column in RUNS.c if column.name not in known]
        query = _of_suite(suite, [MEMBERS.c.tags, *shown, every, settings, *_score(last, at)], **where).order_by(
            MEMBERS.c.position
        )
        frame = _frame(connection, query)
        begun = ATTEMPTS.c.run.in_(_members(suite)) & ATTEMPTS.c.start_time.is_not(None)
        versions = [ATTEMPTS.c.environment[name].as_string().label(name) for name in WORLD]
        worlds = connection.execute(sa.select(ATTEMPTS.c.run, *versions).where(begun)).all()
    frame["tags"] = [tuple(json.loads(own)) for own in frame["tags"]]
    for name in WORLD:
        seen = defaultdict(set)
        for world in worlds:
            seen[world.run].add(getattr(world, name) or BEFORE.get(name, "unknown"))
        frame[name] = [" + ".join(sorted(seen[run])) or None for run in frame["run"]]
    frame = frame.astype({"score": float, "first": float}).fillna({"averaged": 0}).astype({"averaged": int})
    _mark_complete(frame, last, at)
    frame.insert(0, "suite", suite)
    frame.insert(1, "average_last", last)
    return frame.drop(columns="first")


def _mark_complete(frame: "DataFrame", last: int, at: int | None) -> None:
    """Finished, and each of the last evaluations there: one that was lost would let an earlier one take its place."""
    planned = -(-frame["steps"] // frame["every"])  # the last update is always followed by an evaluation
    if at is not None:
        longer, planned = frame["steps"] >= at, planned.where(frame["steps"] == at, at // frame["every"])
        frame["steps"] = at
    wanted = planned.clip(upper=last)
    first = ((planned - wanted + 1) * frame["every"]).clip(upper=frame["steps"])
    there = (frame["averaged"] == wanted) & (frame["first"] >= first) & frame["score"].notna()
    if at is not None:
        frame["complete"] = longer & there & (wanted == last)
        return
    finished = frame["state"] == "finished"
    frame["complete"] = finished & there
    frame.loc[finished & ~there, "reason"] = "evaluations are missing from its log"


def run(database: Path, run: str) -> dict[str, Any]:
    """One run: what the runs table holds, `config` as a dict, and `suites`, the names and labels that it has there."""
    with _query(database) as connection:
        row = connection.execute(sa.select(RUNS).where(RUNS.c.id == run)).mappings().one_or_none()
        if row is None:
            raise UserError(f"no run '{run}' in {database}; run 'mac-bench collect' first, or name another")
        named = connection.execute(sa.select(MEMBERS.c.suite, MEMBERS.c.label).where(MEMBERS.c.run == run)).all()
    return {**row, "suites": [(member.suite, member.label) for member in named]}


# -- what was recorded -----------------------------------------------------------------------------------------------


def curves(database: Path, suite: str, every_task: bool = False, **where: Some) -> "DataFrame":
    """One row per evaluation of the suite's runs, by run and step: label, run, agent, task, seed, state, eval_task,
    step, episodes, attempt, success, return, length, seconds, time, spent (seconds of all attempts until then; NaN
    where the attempt's start is not on record). `eval_task` is 0, the mean over the evaluation tasks; with `every_task`
    there is a row for each of them too."""
    own = [EVALUATIONS.c.task.label("eval_task"), *(c for c in EVALUATIONS.c if c.name not in ("run", "task"))]
    kept = [] if every_task else [EVALUATIONS.c.task == OVERALL]
    frame = _recorded(database, suite, EVALUATIONS, own, kept, **where)
    with _query(database) as connection:
        began = _frame(connection, sa.select(_spans(suite)))
    began = frame[["run", "attempt"]].merge(began, how="left", on=["run", "attempt"])
    return frame.assign(spent=frame["time"] - began["start_time"].astype(float) + began["before"].astype(float))


def measured(database: Path, suite: str, names: Some = None, **where: Some) -> "DataFrame":
    """One row per logged number of these names (None: of all), by run, name and step: label, run, agent, task, seed,
    state, name, step, value (NaN where it was not finite)."""
    own = [METRICS.c.name, METRICS.c.step, METRICS.c.value]
    return _recorded(database, suite, METRICS, own, _among(METRICS.c.name, names), **where).astype({"value": float})


def last_measured(database: Path, suite: str, names: Iterable[str], **where: Some) -> "DataFrame":
    """As `measured`, but of each run and name the last step only."""
    import pandas

    with _query(database) as connection:
        _average_last(connection, suite)
        asked = (_of_suite(suite, _last(name), **where).order_by(MEMBERS.c.position) for name in names)
        frame = pandas.concat([_frame(connection, query) for query in asked], ignore_index=True)
    return frame.dropna(subset="step").astype({"step": int, "value": float}).reset_index(drop=True)


def metrics(database: Path, run: str) -> "DataFrame":
    """One row per logged number of a run: name, step, value (NaN where it was not finite)."""
    query = sa.select(METRICS.c.name, METRICS.c.step, METRICS.c.value).where(METRICS.c.run == run)
    with _query(database) as connection:
        return _frame(connection, query.order_by(METRICS.c.name, METRICS.c.step)).astype({"value": float})


def evaluations(database: Path, run: str) -> "DataFrame":
    """One row per evaluation task and evaluation of a run: task (0: the mean over all), step, attempt, time, ..."""
    query = sa.select(EVALUATIONS).where(EVALUATIONS.c.run == run)
    with _query(database) as connection:
        return _frame(connection, query.order_by(EVALUATIONS.c.task, EVALUATIONS.c.step))


def attempts(database: Path, run: str) -> "DataFrame":
    """One row per attempt of a run, with `environment` as a dict."""
    import pandas

    query = sa.select(ATTEMPTS).where(ATTEMPTS.c.run == run).order_by(ATTEMPTS.c.attempt)
    with _query(database) as connection:
        rows = connection.execute(query)
        return pandas.DataFrame(map(tuple, rows), columns=list(rows.keys()))


# -- what it cost ----------------------------------------------------------------------------------------------------


def costs(database: Path, suite: str, target: float = 0.5, **where: Some) -> "DataFrame":
    """One row per run of the suite: label, run, agent, task, seed, state, steps, step, updates_per_s, attempts,
    seconds (of all attempts, each until its end or its last line), evaluating (seconds of that), device, to_target
    (seconds of attempts until the first evaluation with a success of at least `target`; NaN before it), memory_mb and
    device_memory_mb (the highest peak of any attempt)."""
    own, spans = ATTEMPTS.c.run == MEMBERS.c.run, _spans(suite)
    evaluated = (EVALUATIONS.c.run == MEMBERS.c.run, EVALUATIONS.c.task == OVERALL)
    reached = (
        sa.select(sa.func.min(EVALUATIONS.c.time - spans.c.start_time + spans.c.before))
        .join_from(EVALUATIONS, spans, _same_attempt(spans))
        .where(*evaluated, EVALUATIONS.c.success >= target)
    )
    columns = {
        "attempts": sa.select(sa.func.count()).where(own),
        "seconds": sa.select(sa.func.sum(spans.c.span)).where(spans.c.run == MEMBERS.c.run),
        "evaluating": sa.select(sa.func.sum(EVALUATIONS.c.seconds)).where(*evaluated),
        "device": sa.select(sa.func.max(ATTEMPTS.c.environment["device"].as_string())).where(own),
        "to_target": reached,
    }
    for name in MEMORY:
        mine = (METRICS.c.run == MEMBERS.c.run, METRICS.c.name == name)
        columns[name] = sa.select(sa.func.max(METRICS.c.value)).where(*mine)
    parts = [query.correlate(MEMBERS).scalar_subquery().label(name) for name, query in columns.items()]
    query = _of_suite(suite, [RUNS.c.steps, RUNS.c.step, RUNS.c.updates_per_s, *parts], **where)
    with _query(database) as connection:
        _average_last(connection, suite)
        frame = _frame(connection, query.order_by(MEMBERS.c.position))
    numbers = ["updates_per_s", "seconds", "evaluating", "to_target", *MEMORY]
    return frame.astype(dict.fromkeys(numbers, float))


def speeds(database: Path) -> "DataFrame":
    """One row per run of any suite that has trained: agent, task, settings and evaluation (dicts), device,
    updates_per_s (its last; evaluations take no part in it), evaluating (mean seconds of an evaluation; NaN: none)."""
    mine = EVALUATIONS.c.run == RUNS.c.id
    device = sa.select(sa.func.max(ATTEMPTS.c.environment["device"].as_string())).where(ATTEMPTS.c.run == RUNS.c.id)
    seconds = sa.select(sa.func.avg(EVALUATIONS.c.seconds)).where(mine, EVALUATIONS.c.task == OVERALL)
    parts = {"device": device, "evaluating": seconds}
    columns = [query.correlate(RUNS).scalar_subquery().label(name) for name, query in parts.items()]
    known = sa.select(RUNS.c.agent, RUNS.c.task, RUNS.c.config, RUNS.c.updates_per_s, *columns)
    with _query(database) as connection:
        frame = _frame(connection, known.where(RUNS.c.updates_per_s.is_not(None)))
    configs = [json.loads(config) for config in frame.pop("config")]
    for name in ("settings", "evaluation"):
        frame[name] = [config[name] for config in configs]
    return frame.astype({"updates_per_s": float, "evaluating": float})


# -- for notebooks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """A database, for notebooks: `mac_bench.results("runs/results.db").runs(task="cube-double-play-oraclerep-v0")`.

    Each method gives one tidy frame over the named suite, or over all suites, with the column `suite` first. The other
    arguments filter in SQL, by one value or several.
    """

    database: Path

    def suites(self) -> "DataFrame":
        """See `suites`."""
        return suites(self.database)

    def runs(self, suite: Some = None, **where: Some) -> "DataFrame":
        """One row per run, with its reported number; see `results`."""
        return self._over(suite, lambda name: results(self.database, name, None, **where))

    def evaluations(self, suite: Some = None, every_task: bool = False, **where: Some) -> "DataFrame":
        """One row per evaluation; see `curves`."""
        return self._over(suite, lambda name: curves(self.database, name, every_task, **where))

    def metrics(self, names: Some = None, suite: Some = None, **where: Some) -> "DataFrame":
        """One row per logged number; see `measured`."""
        return self._over(suite, lambda name: measured(self.database, name, names, **where))

    def _over(self, suite: Some, query: Callable[[str], "DataFrame"]) -> "DataFrame":
        import pandas

        names = suites(self.database)["name"].tolist() if suite is None else [str(name) for name in _listed(suite)]
        if not names:
            raise UserError(f"{self.database} holds no suite yet; start one with `mac-bench run SUITE`")
        frames = {name: query(name) for name in names}
        for name, frame in frames.items():
            if "suite" not in frame:
                frame.insert(0, "suite", name)
        return pandas.concat(frames.values(), ignore_index=True)


# -- parts of queries ------------------------------------------------------------------------------------------------


def _average_last(connection: Connection, suite: str) -> int:
    known = {row.name: row.average_last for row in connection.execute(sa.select(SUITES))}
    if suite not in known:
        raise UserError(f"{unknown('suite', suite, known or ['none'])}; run 'mac-bench collect' first")
    return known[suite]


def _of_suite(suite: str, columns: Iterable[sa.ColumnElement], **where: Some) -> sa.Select:
    """label, run, agent, task, seed, state and `columns` of a suite's runs."""
    named = {"label": MEMBERS.c.label, "run": MEMBERS.c.run} | {name: RUNS.c[name] for name in OF_RUN}
    if wrong := where.keys() - {*named, "tag"}:
        raise UserError(f"{unknown('filter', sorted(wrong)[0], [*named, 'tag'])}")
    query = sa.select(*named.values(), *columns).join_from(MEMBERS, RUNS, RUNS.c.id == MEMBERS.c.run)
    tagged = _among(_TAG.c.value, where.pop("tag", None))
    conditions = [condition for name, values in where.items() for condition in _among(named[name], values)]
    conditions += [sa.select(1).select_from(_TAG).where(condition).correlate(MEMBERS).exists() for condition in tagged]
    return query.where(MEMBERS.c.suite == suite, *conditions)


def _spans(suite: str) -> sa.CTE:
    """All attempts of a suite's runs: run, attempt, start_time, span (seconds until its end or its last line), and
    `before`, the spans before it together."""
    span = sa.func.max(sa.func.coalesce(ATTEMPTS.c.end_time, ATTEMPTS.c.seen_time) - ATTEMPTS.c.start_time, 0)
    earlier = sa.func.sum(span).over(partition_by=ATTEMPTS.c.run, order_by=ATTEMPTS.c.attempt, rows=(None, -1))
    columns = [span.label("span"), sa.func.coalesce(earlier, 0).label("before")]
    query = sa.select(ATTEMPTS.c.run, ATTEMPTS.c.attempt, ATTEMPTS.c.start_time, *columns)
    return query.where(ATTEMPTS.c.run.in_(_members(suite))).cte("spans")


def _same_attempt(spans: sa.CTE) -> sa.ColumnElement[bool]:
    return sa.and_(spans.c.run == EVALUATIONS.c.run, spans.c.attempt == EVALUATIONS.c.attempt)


def _listed(values: Any) -> list[Any]:
    listed: list[Any] = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    return [value.item() if hasattr(value, "item") else value for value in listed]  # SQLite knows no NumPy


def _among(column: sa.ColumnElement, values: Some) -> list[sa.ColumnElement[bool]]:
    return [] if values is None else [column.in_(_listed(values))]


def _score(last: int, at: int | None) -> list[sa.ColumnElement]:
    """score, averaged, first (step) over a run's last evaluations; the untrained policy of step 0 is not a result.

    Asked for run by run, because the key leads straight to a run's last rows: no other row is read.
    """
    table = EVALUATIONS.c
    mine = (table.run == MEMBERS.c.run, table.task == OVERALL, table.step > 0)
    mine += () if at is None else (table.step <= at,)
    rows = sa.select(table.success, table.step).where(*mine).order_by(table.step.desc()).limit(last)
    rows = rows.correlate(MEMBERS).subquery()
    count = sa.func.count()
    # avg would pass over a null in silence
    score = sa.case((sa.func.count(rows.c.success) == count, sa.func.avg(rows.c.success)))
    parts = {"score": score, "averaged": count, "first": sa.func.min(rows.c.step)}
    return [
        sa.select(part).select_from(rows).correlate(MEMBERS).scalar_subquery().label(name)
        for name, part in parts.items()
    ]


def _last(name: str) -> list[sa.ColumnElement]:
    """name, step, value of the last row of a run's metric: the key leads straight to it, and no other row is read."""
    rows = sa.select(METRICS).where(METRICS.c.run == MEMBERS.c.run, METRICS.c.name == name)
    last = rows.order_by(METRICS.c.step.desc()).limit(1).correlate(MEMBERS)
    parts = [last.with_only_columns(METRICS.c[column]).scalar_subquery().label(column) for column in ("step", "value")]
    return [sa.literal(name).label("name"), *parts]


def _members(suite: str) -> sa.Select:
    return sa.select(MEMBERS.c.run).where(MEMBERS.c.suite == suite)


def _recorded(
    database: Path,
    suite: str,
    table: sa.Table,
    columns: list[Any],
    kept: list[sa.ColumnElement[bool]],
    **where: Some,
) -> "DataFrame":
    """label, run, agent, task, seed, state and `columns` of the rows of a logged table, in the order of its key.

    What a run says of itself is fetched once for each run and repeated here, which is faster than in each row.
    """
    import pandas

    own = [MEMBERS.c.position, *columns]
    order = [MEMBERS.c.position, *(column for column in table.primary_key if column.name != "run")]
    of_runs = _of_suite(suite, [MEMBERS.c.position], **where)
    rows = of_runs.with_only_columns(*own).join(table, table.c.run == MEMBERS.c.run).where(*kept).order_by(*order)
    with _query(database) as connection:
        _average_last(connection, suite)
        runs = _frame(connection, of_runs).set_index("position")
        frame = _frame(connection, rows)
    return pandas.concat([runs.loc[frame.pop("position")].reset_index(drop=True), frame], axis=1)


def _frame(connection: Connection, query: sa.Select) -> "DataFrame":
    """Columns of JSON stay text: the rows are SQLite's own, as SQLAlchemy's take longer than the query."""
    import pandas  # takes longer to import than everything else here, and collecting does without

    rows = connection.execute(query)
    cursor: Any = rows.cursor
    return pandas.DataFrame(cursor.fetchall(), columns=list(rows.keys()))


@contextmanager
def _query(database: Path) -> Iterator[Connection]:
    """Read-only, one transaction, so that all of a query's statements see the same state."""
    if not database.is_file():
        raise UserError(f"no database {database}; run 'mac-bench collect' first")
    with connect(database, "DEFERRED") as connection, connection.begin():
        check(connection, database)
        yield connection
