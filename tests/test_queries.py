import inspect
import math
import os
import sqlite3
import subprocess
import sys

import pytest
import sqlalchemy as sa
from run_folders import a_whole_run, ended, evaluated, measured, planned, started, write_run, write_suite

import mac_bench
from mac_bench import queries, store
from mac_bench.errors import UserError


def test_the_score_is_the_mean_of_the_last_evaluations_and_never_the_best(root, database):
    write_suite(root, [("MAC", planned()), ("MAC", planned(1)), ("BC", planned(agent="bc"))], average_last=3)
    write_run(root, planned(), a_whole_run((0.9, 0.1, 0.2, 0.6)))
    write_run(
        root, planned(1), [started(), evaluated(0, 1.0), evaluated(250, 0.3), evaluated(500, 0.5)], "running", 600
    )
    store.collect(root, database)
    frame = queries.results(database, "first")
    assert frame["label"].tolist() == ["MAC", "MAC", "BC"]
    assert frame["score"].tolist() == pytest.approx([0.3, 0.4, math.nan], nan_ok=True)  # step 0 does not count
    assert frame["averaged"].tolist() == [3, 2, 0]
    assert frame["complete"].tolist() == [True, False, False]
    assert frame["mujoco"].dropna().tolist() == ["3.3.7", "3.3.7"]
    assert set(frame["average_last"]) == {3}


@pytest.mark.parametrize("lost", [2, 3])
def test_a_finished_run_without_one_of_its_last_evaluations_is_not_complete(root, database, lost):
    write_suite(root, [("MAC", planned())])
    lines = [line for line in a_whole_run() if line["kind"] != "evaluation" or line["step"] != 250 * (lost + 1)]
    write_run(root, planned(), lines)
    store.collect(root, database)
    row = queries.results(database, "first").iloc[0]
    assert (row["state"], row["complete"], row["reason"]) == ("finished", False, "evaluations are missing from its log")


def test_an_evaluation_without_a_number_gives_no_score(root, database):
    write_suite(root, [("MAC", planned())])
    write_run(root, planned(), [*a_whole_run()[:-2], evaluated(1000, 0.5, None), ended(1000)])
    store.collect(root, database)
    row = queries.results(database, "first").iloc[0]
    assert math.isnan(row["score"])
    assert not row["complete"]


@pytest.mark.parametrize(("average_last", "score"), [(1, 0.4), (2, 0.3), (9, 0.7 / 3)])
def test_steps_that_the_interval_does_not_divide_still_make_a_complete_run(root, database, average_last, score):
    run = planned(steps=600)  # evaluated at 250, 500 and 600
    write_suite(root, [("MAC", run)], average_last=average_last)
    write_run(root, run, [started(), evaluated(250, 0.1), evaluated(500, 0.2), evaluated(600, 0.4), ended(600)])
    store.collect(root, database)
    row = queries.results(database, "first").iloc[0]
    assert (row["score"], row["complete"]) == (pytest.approx(score), True)


def test_versions_of_all_attempts_are_kept(root, database):
    write_suite(root, [("MAC", planned())])
    loading_failed = ended(0, "failed", attempt=4)  # without a start there is no environment, and no number came of it
    write_run(root, planned(), [started(), started(2, mujoco="4.0.0"), started(3, mujoco=None), loading_failed])
    store.collect(root, database)
    assert queries.results(database, "first").iloc[0]["mujoco"] == "3.3.7 + 4.0.0 + unknown"
    assert queries.attempts(database, planned().id)["attempt"].tolist() == [1, 2, 3, 4]


def test_curves_are_the_evaluations_in_order(root, database):
    write_suite(root, [("MAC", planned())])
    write_run(root, planned(), [evaluated(500, 0.2, 0.4), evaluated(250, 0.0, 0.2)])
    store.collect(root, database)
    frame = queries.curves(database, "first")
    assert frame[["label", "eval_task", "step", "success"]].to_numpy().tolist() == [
        ["MAC", 0, 250, pytest.approx(0.1)],
        ["MAC", 0, 500, pytest.approx(0.3)],
    ]
    assert queries.curves(database, "first", every_task=True)["eval_task"].tolist() == [0, 0, 1, 1, 2, 2]


def test_time_spent_is_that_of_the_attempts_and_not_of_the_pauses_between(root, database):
    """Attempt 1 is killed without a last word, 30 s in; attempt 2 starts much later."""
    write_suite(root, [("MAC", planned())])
    at = lambda line, time: line | {"time": time}  # noqa: E731
    lines = [
        *(started(time=1000.0), at(evaluated(250, 0.2), 1020.0), at(measured(300), 1030.0)),
        *(started(2, 250, 9000.0), at(evaluated(500, 0.6, attempt=2), 9008.0)),
    ]
    write_run(root, planned(), lines, "running", 600)
    store.collect(root, database)
    assert queries.curves(database, "first")["spent"].tolist() == [20, 38]
    cost = queries.costs(database, "first").iloc[0]
    assert (cost["seconds"], cost["to_target"]) == (38, 38)


def test_runs_are_filtered_by_tag(root, database):
    tags = {"MAC": ["chunks", "model-based"], "MOPO": ["model-based"]}
    write_suite(root, [("MAC", planned()), ("MOPO", planned(1)), ("BC", planned(2))], tags=tags)
    write_run(root, planned(), a_whole_run())
    store.collect(root, database)
    assert queries.results(database, "first")["tags"].tolist() == [tuple(tags["MAC"]), tuple(tags["MOPO"]), ()]
    for tag, labels in [
        ("chunks", ["MAC"]),
        (["chunks", "model-based"], ["MAC", "MOPO"]),
        (None, ["MAC", "MOPO", "BC"]),
    ]:
        assert queries.results(database, "first", tag=tag)["label"].tolist() == labels
        assert queries.costs(database, "first", tag=tag)["label"].tolist() == labels
    assert set(queries.curves(database, "first", tag="chunks")["label"]) == {"MAC"}
    assert queries.curves(database, "first", tag="none").empty


def test_suites_are_listed_with_their_progress(root, database):
    write_suite(root, [("MAC", planned()), ("MAC", planned(1))])
    write_run(root, planned(), a_whole_run())
    store.collect(root, database)
    assert queries.suites(database).to_dict("records") == [
        {"name": "first", "about": "", "average_last": 2, "runs": 2, "finished": 1}
    ]


def test_queries_cannot_write(root, database):
    write_suite(root, [("MAC", planned())])
    store.collect(root, database)
    os.chmod(database, 0o444)
    before = database.read_bytes()
    queries.results(database, "first")
    assert database.read_bytes() == before
    with (
        pytest.raises(UserError, match="cannot be written"),
        store.connect(database, "DEFERRED") as connection,
        connection.begin(),
    ):
        connection.exec_driver_sql("DELETE FROM runs")


def test_frames_for_notebooks_are_tidy_typed_and_filtered(root, database):
    write_suite(root, [("MAC", planned()), ("BC", planned(1))])
    write_suite(root, [("MAC again", planned()), ("MAC", planned(2))], name="second")
    write_run(root, planned(), a_whole_run())
    write_run(root, planned(1), [started(), measured(100, loss=0.5, q=2.0), evaluated(250, 0.2, 0.4)], "running", 250)
    store.collect(root, database)
    found = mac_bench.results(str(database))
    assert found.suites()["name"].tolist() == ["first", "second"]
    runs = found.runs()
    assert runs[["suite", "label"]].to_numpy().tolist() == [
        ["first", "MAC"], ["first", "BC"], ["second", "MAC again"], ["second", "MAC"],
    ]  # fmt: skip
    types = runs.dtypes
    assert (types["score"], types["complete"], types["seed"]) == (float, bool, int)
    assert found.runs("first", label="BC", state="running")["seed"].tolist() == [1]
    assert found.runs("first", seed=runs["seed"].to_numpy()[1])["label"].tolist() == ["BC"]
    evaluations = found.evaluations("first", every_task=True, seed=1)
    assert evaluations[["suite", "eval_task", "step"]].to_numpy().tolist() == [
        ["first", task, 250] for task in (0, 1, 2)
    ]
    assert (evaluations.dtypes["success"], evaluations.dtypes["step"]) == (float, int)
    metrics = found.metrics(["q", "loss"], suite=["first"], label="BC")
    assert metrics[["name", "step", "value"]].to_numpy().tolist() == [["loss", 100, 0.5], ["q", 100, 2.0]]
    assert metrics.dtypes["value"] == "float64"
    with pytest.raises(UserError, match=r"no filter 'agnt'; there are: .*tag"):
        found.runs(agnt="mac")
    with pytest.raises(UserError, match="no suite 'third'; there are: first, second"):
        found.runs("third")


CALLS = {
    **{name: () for name in ("suites", "states", "speeds")},
    **{name: ("first",) for name in ("results", "curves", "measured", "costs")},
    "last_measured": ("first", ["loss"]),
    **{name: (planned().id,) for name in ("run", "metrics", "evaluations", "attempts")},
    "in_state": (["failed"],),
}
"""every query, and what it is asked"""


@pytest.mark.parametrize("name", CALLS)
def test_no_query_can_write(name, root, database):
    """Each one is made to send a DELETE in place of what it asks."""
    assert set(CALLS) == {name for name, of in inspect.getmembers(queries, inspect.isfunction) if is_query(name, of)}
    write_suite(root, [("MAC", planned())])
    write_run(root, planned(), a_whole_run())
    store.collect(root, database)
    before, query = database.read_bytes(), getattr(queries, name)

    def delete(connection, cursor, statement, parameters, context, executemany):
        return ("DELETE FROM runs", ()) if statement.startswith(("SELECT", "WITH")) else (statement, parameters)

    query(database, *CALLS[name])
    sa.event.listen(sa.Engine, "before_cursor_execute", delete, retval=True)
    try:
        with pytest.raises(UserError, match="cannot be written"):
            query(database, *CALLS[name])
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", delete)
    assert database.read_bytes() == before


def is_query(name: str, function) -> bool:
    own = function.__module__ == queries.__name__ and not name.startswith("_")
    return own and next(iter(inspect.signature(function).parameters), "") == "database"


def test_errors_say_what_to_do(root, database, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no database .*results\.db; run 'mac-bench collect' first"):
        queries.results(database, "first")
    with pytest.raises(UserError, match="holds neither run folders nor suites"):
        store.collect(root, database)
    write_suite(root, [("MAC", planned())])
    store.collect(root, database)
    with pytest.raises(UserError, match="no suite 'x'; there are: first; run 'mac-bench collect' first"):
        queries.results(database, "x")
    other = tmp_path / "other.db"
    other.write_text("no database at all, but a thesis")
    for use in (store.collect, store.rebuild):
        with pytest.raises(UserError, match=r"other\.db is not a mac-bench database; name another file"):
            use(root, other)
    with pytest.raises(UserError, match="is not a mac-bench database"):
        queries.results(other, "first")
    assert other.read_text() == "no database at all, but a thesis"
    monkeypatch.setattr(store, "BUSY_S", 0.05)
    with store.connect(database, "IMMEDIATE") as connection, connection.begin():
        for use in (store.collect, store.rebuild):
            with pytest.raises(UserError, match="is being written by another process"):
                use(root, database)


def test_a_database_of_another_program_is_never_touched(root, tmp_path):
    write_suite(root, [("MAC", planned())])
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE photos (name)")
    connection.close()
    before = other.read_bytes()
    for use in (store.collect, store.rebuild):
        with pytest.raises(UserError, match="is not a mac-bench database"):
            use(root, other)
    assert other.read_bytes() == before


def test_another_schema_is_refused_and_rebuilding_helps(root, database):
    write_suite(root, [("MAC", planned())])
    store.collect(root, database)
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    for use in (lambda: queries.results(database, "first"), lambda: store.collect(root, database)):
        with pytest.raises(UserError, match="has schema 999, this version reads 3; run 'mac-bench collect --rebuild'"):
            use()
    store.rebuild(root, database)
    assert len(queries.results(database, "first")) == 1


def test_collecting_imports_neither_pandas_nor_a_framework():
    code = "import sys, mac_bench.store; print([m for m in ('jax', 'torch', 'pandas', 'mujoco') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
