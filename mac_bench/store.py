"""Run folders -> one SQLite file; `queries.py` reads it.

The folders are the truth and the database is an index of them: `collect` brings it up to date, `rebuild` makes it anew,
and both give the same rows. One process writes; jobs never open it. Queries open it read-only.
"""

import math
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import JSON, Column, Connection, Float, Integer, String, Table, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

from mac_bench.errors import UserError
from mac_bench.events import Row, read_config, read_log, read_plan, read_state, read_unread

SCHEMA = 3
"""bumped whenever a table changes; a database of another schema is refused"""

APPLICATION = 0x4D414342
"""SQLite's application_id of our files, "MACB": no other program's database is ever written to"""

BUSY_S = 30
"""how long to wait for another process that writes"""

_tables = sa.MetaData()


def _table(name: str, keys: int, types: dict[str, Any]) -> Table:
    """The first `keys` columns are the primary key."""
    columns = [Column(column, kind, primary_key=i < keys) for i, (column, kind) in enumerate(types.items())]
    return Table(name, _tables, *columns, sqlite_with_rowid=False)


SUITES = _table("suites", 1, {"name": String, "about": String, "average_last": Integer})
MEMBERS = _table("members", 2, {"suite": String, "position": Integer, "run": String, "label": String, "tags": JSON})
RUNS = _table(
    "runs",
    1,
    {"id": String, "agent": String, "version": Integer, "task": String, "dataset": String, "seed": Integer}
    | {"config": JSON, "state": String, "step": Integer, "steps": Integer, "reason": String, "heartbeat": Float}
    | {"host": String, "updates_per_s": Float, "offset": Integer, "tail": String, "damaged": Integer},
)
EVALUATIONS = _table(
    "evaluations",
    3,
    {"run": String, "task": Integer, "step": Integer, "attempt": Integer, "time": Float, "seconds": Float}
    | {"episodes": Integer, "success": Float, "return": Float, "length": Float},
)
METRICS = _table("metrics", 3, {"run": String, "name": String, "step": Integer, "value": Float})
ATTEMPTS = _table(
    "attempts",
    2,
    {"run": String, "attempt": Integer, "host": String, "pid": Integer, "job": String, "environment": JSON}
    | {"start_time": Float, "start_step": Integer, "end_time": Float, "end_step": Integer}
    | {"state": String, "cause": String, "reason": String, "seen_time": Float},
)
LOGGED = (EVALUATIONS, METRICS, ATTEMPTS)


@dataclass(frozen=True)
class Collected:
    """What one `collect` did. Each line of `problems` names a file that was passed over, in part or whole, and why."""

    runs: int
    """run folders seen"""
    waiting: int
    """planned by a suite, without a folder"""
    removed: int
    """runs that were taken out because their folder is gone"""
    lines: int
    """new lines read"""
    rows: int
    """rows written for them"""
    problems: tuple[str, ...]


def collect(root: Path, database: Path, silence_s: float = math.inf) -> Collected:
    """Bring `database` up to date with the run folders under `root`, from where the last collect stopped.

    One transaction per run folder, so that the next collect puts right whatever a kill has interrupted. A running run
    whose heartbeat is older than `silence_s` is entered as `lost`. Raises UserError where the root holds no runs, or
    the database is not ours, of another schema, or busy.
    """
    try:
        folders = sorted(path.parent for path in root.glob("*/config.json"))
    except OSError as error:
        raise UserError(f"{root}: cannot be read ({error.strerror})") from None
    if not folders and not (root / "suites").is_dir():
        raise UserError(f"{root} holds neither run folders nor suites; name the folder that runs are written to")
    problems, lines, rows = [], 0, 0
    database.parent.mkdir(parents=True, exist_ok=True)
    with connect(database, "IMMEDIATE") as connection:
        with connection.begin():
            _create(connection, database)
            removed = _plan(connection, root / "suites", {path.name for path in folders}, problems)
        for folder in folders:
            try:
                with connection.begin():
                    new_lines, new_rows = _ingest(connection, folder, silence_s, problems)
            except (UserError, OSError) as error:
                problems.append(str(error))
            else:
                lines, rows = lines + new_lines, rows + new_rows
        known = set(connection.scalars(sa.select(RUNS.c.id)))
    waiting = len(known - {path.name for path in folders})
    return Collected(len(folders), waiting, removed, lines, rows, tuple(problems))


def rebuild(root: Path, database: Path, silence_s: float = math.inf) -> Collected:
    """Make `database` anew, aside, and rename it. Raises UserError as `collect` does, but takes any schema of ours."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{database.name}.", dir=database.parent) as aside:
        collected = collect(root, Path(aside) / database.name, silence_s)
        # under the old file's write lock: SQLite would take the journal of a killed or running collect, which lies
        # beside the database under a fixed name, for the new file's own
        with connect(database, "IMMEDIATE") as connection, connection.begin():
            if _pragma(connection, "application_id") != APPLICATION and not _is_empty(connection):
                raise UserError(f"{database} is not a mac-bench database; name another file")
            os.replace(Path(aside) / database.name, database)
    return collected


def _create(connection: Connection, database: Path) -> None:
    if _is_empty(connection):
        _tables.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION}")
        connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA}")
    check(connection, database)


def _plan(connection: Connection, suites: Path, folders: set[str], problems: list[str]) -> int:
    """Enter suites and members anew, planned runs as waiting; returns how many runs were taken out without a folder."""
    connection.execute(sa.delete(MEMBERS))
    connection.execute(sa.delete(SUITES))
    known = {row.id: row.offset for row in connection.execute(sa.select(RUNS.c.id, RUNS.c.offset))}
    gone = known.keys() - folders
    kept = known.keys() & folders
    for run in gone:
        connection.execute(sa.delete(RUNS).where(RUNS.c.id == run))
        _forget(connection, run)
    names = set()
    for path in sorted(suites.glob("*.json")):
        try:
            plan = read_plan(path)
        except (UserError, OSError) as error:
            problems.append(str(error))
            continue
        if plan.suite["name"] in names:
            problems.append(f"{path}: another file holds a suite '{plan.suite['name']}' too; passed over")
            continue
        names.add(plan.suite["name"])
        _put(connection, SUITES, [plan.suite])
        _put(connection, MEMBERS, plan.members)
        _put(connection, RUNS, (run for run in plan.runs if run["id"] not in kept))
    return sum(known[run] > 0 for run in gone)


def _ingest(connection: Connection, folder: Path, silence_s: float, problems: list[str]) -> tuple[int, int]:
    """Enter what is new in one run folder. Returns the numbers of lines and rows. Raises UserError, OSError."""
    run = folder.name
    old = connection.execute(sa.select(RUNS).where(RUNS.c.id == run)).mappings().one_or_none()
    if old is None or old["tail"] is None:
        old = read_config(folder)
        _put(connection, RUNS, [old])
    unread = read_unread(folder / "events.jsonl", old["offset"], old["tail"])
    if unread.restarted:
        _forget(connection, run)
    log = read_log(run, unread.text)
    if log.damaged:
        where = f"the first at byte {unread.start + log.damaged[0]}"
        problems.append(f"{folder / 'events.jsonl'}: {len(log.damaged)} damaged lines passed over, {where}")
    _put_many(connection, EVALUATIONS, log.evaluations)
    _put_many(connection, METRICS, log.metrics)
    for row in log.attempts.values():  # what was not read now keeps its columns
        start_or_end = sqlite.insert(ATTEMPTS).values(row)
        connection.execute(start_or_end.on_conflict_do_update(index_elements=["run", "attempt"], set_=row))
    query = sa.select(ATTEMPTS).where(ATTEMPTS.c.run == run).order_by(ATTEMPTS.c.attempt.desc()).limit(1)
    last = connection.execute(query).mappings().first()
    state, problem = read_state(folder, dict(last) if last else None, silence_s)
    problems.extend(problem)
    new = state | {"offset": unread.start + len(unread.text), "tail": unread.tail}
    new["damaged"] = len(log.damaged) + (0 if unread.restarted else old["damaged"])
    if any(new[name] != old[name] for name in new):
        connection.execute(sa.update(RUNS).where(RUNS.c.id == run), new)
    return unread.text.count(b"\n"), len(log.evaluations) + len(log.metrics) + len(log.attempts)


def _put(connection: Connection, table: Table, rows: Iterable[Row]) -> None:
    """Insert; a row with the key of an earlier one takes its place."""
    if rows := list(rows):
        connection.execute(sa.insert(table).prefix_with("OR REPLACE"), rows)


def _put_many(connection: Connection, table: Table, rows: Iterable[Row]) -> None:
    """As `_put`, of a table without JSON: SQLAlchemy prepares a row in more time than SQLite enters it."""
    if values := list(map(itemgetter(*table.c.keys()), rows)):
        connection.exec_driver_sql(_insertion(table), values)


@cache
def _insertion(table: Table) -> str:
    return str(sa.insert(table).prefix_with("OR REPLACE").compile(dialect=sqlite.dialect()))


def _forget(connection: Connection, run: str) -> None:
    for table in LOGGED:
        connection.execute(sa.delete(table).where(table.c.run == run))


@contextmanager
def connect(database: Path, begin: Literal["DEFERRED", "IMMEDIATE"]) -> Iterator[Connection]:
    """DEFERRED reads and cannot write; IMMEDIATE takes the write lock at the start of each transaction."""
    uri = f"{database.resolve().as_uri()}?mode={'ro' if begin == 'DEFERRED' else 'rwc'}"
    # isolation_level None: Python's sqlite3 begins nothing on its own, so that reads and DDL are in the transaction too
    opened = partial(sqlite3.connect, uri, uri=True, timeout=BUSY_S, isolation_level=None)
    engine = sa.create_engine("sqlite://", creator=opened, poolclass=sa.NullPool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(f"BEGIN {begin}"))
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        code = getattr(error.orig, "sqlite_errorname", "")
        for prefix, advice in ADVICE.items():
            if code.startswith(prefix):
                raise UserError(f"{database} {advice}") from None
        raise


ADVICE = {
    "SQLITE_NOTADB": "is not a mac-bench database; name another file",
    "SQLITE_BUSY": "is being written by another process; try again when that has ended",
    "SQLITE_READONLY_ROLLBACK": "was left by a collect that was killed; run 'mac-bench collect' first",
    "SQLITE_READONLY": "cannot be written; name another file",
    "SQLITE_CANTOPEN": "cannot be opened; name another file",
    "SQLITE_CORRUPT": "is damaged; run 'mac-bench collect --rebuild'",
    "SQLITE_FULL": "cannot grow: the disk is full",
    "SQLITE_IOERR": "cannot be read or written: the disk reports an error",
}
"""what to do about SQLite's errors, by the beginning of their names"""


def check(connection: Connection, database: Path) -> None:
    if _pragma(connection, "application_id") != APPLICATION:
        raise UserError(f"{database} is not a mac-bench database; name another file")
    if (schema := _pragma(connection, "user_version")) != SCHEMA:
        raise UserError(
            f"{database} has schema {schema}, this version reads {SCHEMA}; run 'mac-bench collect --rebuild'"
        )


def _is_empty(connection: Connection) -> bool:
    return connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one() == 0


def _pragma(connection: Connection, name: str) -> int:
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
