import json
import math
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from run_folders import (
    ENVIRONMENT,
    a_whole_run,
    append,
    ended,
    evaluated,
    measured,
    planned,
    started,
    write_run,
    write_status,
    write_suite,
)

from mac_bench import queries, store
from mac_bench.config import RunConfig
from mac_bench.errors import UserError
from mac_bench.record import RunFolder, standing
from mac_bench.states import Order

TABLES = ("suites", "members", "runs", "evaluations", "metrics", "attempts")


def rows(database: Path, table: str, columns="*") -> list[tuple]:
    connection = sqlite3.connect(database)
    try:
        return sorted(connection.execute(f"SELECT {columns} FROM {table}").fetchall(), key=str)
    finally:
        connection.close()


def assert_same_rows(database: Path, other: Path) -> None:
    for table in TABLES:
        assert rows(database, table) == rows(other, table), table


def test_every_number_arrives_by_hand(root, database):
    run = planned()
    write_run(
        root,
        run,
        [
            *(started(job="7_1"), measured(200, loss=0.1), evaluated(250, 0.2, 0.6)),
            ended(250, "stopped", reason="x", cause="preempted"),
        ],
    )
    collected = store.collect(root, database)
    assert (collected.runs, collected.lines, collected.rows, collected.problems) == (1, 4, 6, ())
    assert rows(database, "metrics") == [(run.id, "loss", 200, 0.1), (run.id, "updates_per_s", 200, 31.2)]
    columns = 'task, step, attempt, time, seconds, episodes, success, "return", length'
    assert rows(database, "evaluations", columns) == [
        (0, 250, 1, 3.0, 1.5, 40, 0.4, -150.0, 15.0),
        (1, 250, 1, 3.0, 1.5, 20, 0.2, -100.0, 10.0),
        (2, 250, 1, 3.0, 1.5, 20, 0.6, -200.0, 20.0),
    ]
    columns = "attempt, host, pid, job, start_time, start_step, end_time, end_step, state, cause, reason"
    assert rows(database, "attempts", columns) == [
        (1, "node1", 7, "7_1", 1.0, 0, 9.0, 250, "stopped", "preempted", "x")
    ]
    assert json.loads(rows(database, "attempts", "environment")[0][0]) == ENVIRONMENT
    columns = "id, agent, version, task, seed, state, step, steps, heartbeat, host, updates_per_s, damaged"
    assert rows(database, "runs", columns) == [
        (run.id, "mac", 1, "cube-single-play", 0, "finished", 1000, 1000, 5.0, "node1", 30.0, 0)
    ]
    assert RunConfig.model_validate_json(rows(database, "runs", "config")[0][0]) == run


def test_collecting_twice_changes_nothing(root, database, tmp_path):
    write_run(root, planned(), a_whole_run())
    store.collect(root, database)
    shutil.copy(database, tmp_path / "once.db")
    again = store.collect(root, database)
    assert (again.lines, again.rows) == (0, 0)
    assert_same_rows(database, tmp_path / "once.db")


def test_the_later_line_wins(root, database):
    log = write_run(root, planned(), [started(), measured(500, loss=1.0), evaluated(500, 0.1)], "running", 500)
    store.collect(root, database)
    append(log, started(attempt=2, step=250), measured(500, attempt=2, loss=2.0), evaluated(500, 0.9, attempt=2))
    store.collect(root, database)
    assert rows(database, "metrics", "step, value") == [(500, 2.0), (500, 31.2)]
    assert rows(database, "evaluations", "task, success, attempt") == [(0, 0.9, 2), (1, 0.9, 2)]
    assert rows(database, "attempts", "attempt, start_step") == [(1, 0), (2, 250)]


def test_a_torn_last_line_is_read_when_it_is_whole(root, database):
    log = write_run(root, planned(), [started()])
    line = json.dumps(evaluated(250, 0.5)) + "\n"
    with open(log, "a") as file:
        file.write(line[:40])
    collected = store.collect(root, database)
    assert (collected.lines, collected.problems, rows(database, "evaluations")) == (1, (), [])
    with open(log, "a") as file:
        file.write(line[40:])
    assert store.collect(root, database).lines == 1
    assert rows(database, "evaluations", "task, success") == [(0, 0.5), (1, 0.5)]


@pytest.mark.parametrize(
    "damage",
    [
        b'{"kind": "metr',
        b"\x00\x00\xff",
        b"[1, 2]",
        b'{"kind": "evaluation"}',
        json.dumps(evaluated(250)).encode(),
        json.dumps(measured(250) | {"step": math.inf}).encode(),
        json.dumps(measured(250, loss="much")).encode(),
    ],
)
def test_a_damaged_line_is_counted_and_reported_and_the_rest_is_read(root, database, damage):
    log = write_run(root, planned(), [started()])
    where = log.stat().st_size
    with open(log, "ab") as file:
        file.write(damage + b"\n")
    append(log, measured(500))
    problem = f"{log}: 1 damaged lines passed over, the first at byte {where}"
    assert store.collect(root, database).problems == (problem,)
    assert rows(database, "metrics", "step") == [(500,), (500,)]
    assert store.collect(root, database).problems == ()  # said once
    assert rows(database, "runs", "damaged") == [(1,)]


def test_what_is_not_finite_is_null_and_comes_back_as_nan(root, database):
    run = planned()
    write_run(root, run, [measured(250, loss=None, other=math.nan, third=1.0)])
    store.collect(root, database)
    values = queries.metrics(database, run.id).set_index("name")["value"]
    assert values.isna().to_dict() == {"loss": True, "other": True, "third": False, "updates_per_s": False}


def test_lines_of_a_later_version_are_passed_over(root, database):
    write_run(root, planned(), [started(), {"kind": "video", "attempt": 1, "time": 1, "step": 1}])
    assert store.collect(root, database).problems == ()


def test_a_shrunk_log_is_read_anew(root, database, tmp_path):
    log = write_run(root, planned(), [started(), measured(250), measured(500)])
    store.collect(root, database)
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    store.collect(root, database)
    assert {step for (step,) in rows(database, "metrics", "step")} == {250}
    store.rebuild(root, tmp_path / "anew.db")
    assert_same_rows(database, tmp_path / "anew.db")


def test_a_replaced_log_is_read_anew_even_where_it_is_longer(root, database, tmp_path):
    log = write_run(root, planned(), [started(), measured(250)])
    store.collect(root, database)
    log.unlink()
    append(log, started(time=77.0), *(measured(step) for step in (300, 400, 500)))
    store.collect(root, database)
    assert {step for (step,) in rows(database, "metrics", "step")} == {300, 400, 500}
    store.rebuild(root, tmp_path / "anew.db")
    assert_same_rows(database, tmp_path / "anew.db")


def test_a_log_that_is_not_visible_is_no_reason_to_forget(root, database):
    log = write_run(root, planned(), a_whole_run())
    store.collect(root, database)
    before = rows(database, "evaluations")
    log.rename(log.with_name("hidden"))
    store.collect(root, database)
    assert rows(database, "evaluations") == before
    log.with_name("hidden").rename(log)
    assert store.collect(root, database).lines == 0


def test_rebuilding_gives_what_many_collects_give(root, database, tmp_path):
    """Logs grow by chunks of random size that break lines anywhere; runs begin one after the other."""
    rng = np.random.default_rng(0)
    runs = [planned(seed) for seed in range(4)]
    write_suite(root, [("MAC", run) for run in [*runs, planned(9)]])
    texts = {}
    for run in runs:
        requeued = [started(), measured(250), evaluated(250, 0.3), measured(500), started(2, 250), *a_whole_run()]
        log = write_run(root, run, [])
        text = "".join(json.dumps(line) + "\n" for line in requeued).encode()
        texts[log] = text[:300] + b"damaged\n" + text[300:]
    while any(texts.values()):
        for log, text in texts.items():
            n = int(rng.integers(1, 900))
            with open(log, "ab") as file:
                file.write(text[:n])
            texts[log] = text[n:]
        store.collect(root, database)
    write_status(root, runs[0], "failed", 700, attempt=3, reason="OUT_OF_MEMORY")
    store.collect(root, database)
    store.rebuild(root, tmp_path / "anew.db")
    assert len(rows(database, "evaluations")) == 4 * 4 * 3
    assert_same_rows(database, tmp_path / "anew.db")
    store.rebuild(root, database)
    assert_same_rows(database, tmp_path / "anew.db")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "results.db", "anew.db"}  # nothing aside is left


KILLED = """
import os, signal, sys
from pathlib import Path
import sqlalchemy.event, sqlalchemy.engine
from mac_bench import queries, store
root, database, fatal, left = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
@sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "after_cursor_execute")
def kill(connection, cursor, statement, *_):
    global left
    left -= statement.strip().startswith(fatal)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
store.collect(root, database)
"""


def test_a_killed_collect_is_completed_by_the_next(root, database, tmp_path):
    """Kills while the tables are made, within the third run, and before the commit of the second run after that."""
    for seed in range(8):
        write_run(root, planned(seed), [started(), *(measured(step) for step in range(1000)), evaluated(1000, 0.5)])
    done = []
    for fatal, count in [("CREATE TABLE metrics", 1), ("INSERT OR REPLACE INTO metrics", 3), ("UPDATE runs", 2)]:
        command = [sys.executable, "-c", KILLED, str(root), str(database), fatal, str(count)]
        assert subprocess.run(command).returncode == -signal.SIGKILL
        connection = sqlite3.connect(database)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
        done.append(len(rows(database, "runs")) if fatal != "CREATE TABLE metrics" else 0)
    assert done == [0, 2, 3]  # whole runs only
    assert len(rows(database, "metrics")) == 3 * 1000 * 2
    store.collect(root, database)
    store.rebuild(root, tmp_path / "anew.db")
    assert_same_rows(database, tmp_path / "anew.db")


@pytest.fixture
def interrupted(root, database, tmp_path) -> Path:
    """A database and its journal, as they lie there when a writer is killed after it began to overwrite pages."""
    write_suite(root, [("MAC", planned())])
    write_run(root, planned(), [*a_whole_run(), *(measured(step) for step in range(2000))])
    store.collect(root, database)
    writer = sqlite3.connect(database)
    writer.execute("PRAGMA cache_size = 1")
    writer.execute("UPDATE metrics SET value = -1")
    copy = tmp_path / "interrupted.db"
    shutil.copy(database, copy)
    shutil.copy(f"{database}-journal", f"{copy}-journal")
    writer.close()
    assert copy.read_bytes() != database.read_bytes()
    return copy


def test_a_reader_says_that_a_collect_was_killed_and_a_collect_puts_it_right(root, database, interrupted):
    with pytest.raises(UserError, match="left by a collect that was killed; run 'mac-bench collect' first"):
        queries.results(interrupted, "first")
    store.collect(root, interrupted)
    assert_same_rows(interrupted, database)


def test_a_rebuild_never_applies_the_journal_of_the_file_that_it_replaces(root, database, interrupted):
    store.rebuild(root, interrupted)
    assert not Path(f"{interrupted}-journal").exists()
    assert_same_rows(interrupted, database)


def test_planned_runs_wait_until_they_begin_and_again_when_their_folder_is_gone(root, database):
    run = planned()
    write_suite(root, [("MAC", run), ("BC", planned(agent="bc"))])
    assert store.collect(root, database).waiting == 2
    assert queries.results(database, "first")["state"].tolist() == ["waiting", "waiting"]
    write_run(root, run, a_whole_run())
    assert store.collect(root, database).waiting == 1
    assert queries.results(database, "first")["state"].tolist() == ["finished", "waiting"]
    shutil.rmtree(root / run.id)
    collected = store.collect(root, database)
    assert (collected.waiting, collected.removed) == (2, 1)
    assert rows(database, "evaluations") == []
    (root / "suites" / "first.json").unlink()
    store.collect(root, database)
    assert rows(database, "runs") == []


def test_broken_folders_and_suites_are_reported_and_the_others_read(root, database):
    write_run(root, planned(), a_whole_run())
    write_run(root, planned(1), a_whole_run())
    (root / planned(1).id / "config.json").write_text("{")
    (root / planned(2).id).mkdir()
    (root / planned(2).id / "config.json").write_text(planned(3).model_dump_json())
    write_suite(root, [("MAC", planned())])
    shutil.copy(root / "suites" / "first.json", root / "suites" / "twin.json")
    (root / "suites" / "torn.json").write_text('{"name": "torn"')
    problems = "\n".join(store.collect(root, database).problems)
    assert f"{root / planned(1).id / 'config.json'}: not JSON" in problems
    assert f"{root / planned(2).id / 'config.json'} is the config of run {planned(3).id}" in problems
    assert "twin.json: another file holds a suite 'first' too" in problems
    assert "torn.json: not a planned suite" in problems
    assert rows(database, "runs", "id") == [(planned().id,)]


@pytest.mark.parametrize(
    ("status", "lines", "state", "step"),
    [
        (None, [started(), ended(700, "stopped")], "stopped", 700),
        (None, [started(), ended(700, "stopped"), started(2, 600)], "running", 600),
        (("running", 500, 1), [started(), ended(1000)], "finished", 1000),
        (("failed", 500, 1), [started(), ended(700, "stopped"), started(2, 600)], "running", 600),
        (("running", 650, 2), [started(), ended(700, "stopped"), started(2, 600)], "running", 650),
        (("failed", 650, 1), [started()], "failed", 650),
        (None, [], "waiting", 0),
    ],
)
def test_the_newer_of_status_and_log_counts(root, database, status, lines, state, step):
    run = planned()
    write_run(root, run, lines)
    (root / run.id / "status.json").unlink()
    if status:
        write_status(root, run, *status)
    store.collect(root, database)
    assert rows(database, "runs", "state, step") == [(state, step)]


@pytest.mark.parametrize(
    ("said", "wish", "when", "state", "reason"),
    [
        (("stopped", 500), "hold", 99.0, "held", "told so"),
        (("failed", 500), "cancel", 99.0, "cancelled", "told so"),
        (("waiting", 0), "hold", 1.0, "held", "told so"),
        (("running", 500), "hold", 99.0, "running", "own"),
        (("finished", 1000), "cancel", 99.0, "finished", "own"),
        (("failed", 500), "go", 99.0, "stopped", "told so"),
        (("failed", 0), "go", 99.0, "waiting", "told so"),
        (("failed", 500), "go", 1.0, "failed", "own"),
        (("cancelled", 500), "go", 99.0, "stopped", "told so"),
    ],
)
def test_what_was_ordered_counts_as_in_the_status_verb(root, database, said, wish, when, state, reason):
    """A run is what it said at 5.0, or what the order makes of that; and both readers of folders agree."""
    write_run(root, planned(), [started()])
    write_status(root, planned(), *said, heartbeat=5.0, reason="own")
    store.collect(root, database)
    order = Order(wish=wish, time=when, reason="told so")
    (root / planned().id / "order.json").write_text(order.model_dump_json())
    assert store.collect(root, database).problems == ()
    assert rows(database, "runs", "state, reason, step") == [(state, reason, said[1])]
    folder = RunFolder(root / planned().id)
    status = folder.status()
    if status and status.state != "lost":  # nobody trains it in this test
        assert standing(status, folder.order()) == (state, reason)


def test_an_order_that_cannot_be_read_changes_nothing(root, database):
    write_run(root, planned(), [started()], "failed", 10)
    (root / planned().id / "order.json").write_text('{"wish": "dance"}')
    assert store.collect(root, database).problems == ()
    assert rows(database, "runs", "state") == [("failed",)]


def test_a_silent_run_is_lost(root, database):
    write_run(root, planned(), [started()], "running")
    write_status(root, planned(), "running", 10, heartbeat=time.time() - 100)
    store.collect(root, database, silence_s=200)
    assert rows(database, "runs", "state") == [("running",)]
    store.collect(root, database, silence_s=50)
    assert rows(database, "runs", "state, reason") == [("lost", "no sign of life")]
