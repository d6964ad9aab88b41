"""A report's folder: that it holds what the database says, in every format, and says what it cannot hold."""

import io
import math
import sqlite3
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from campaign import fill
from run_folders import a_whole_run, evaluated, measured, planned, started, write_run, write_suite

from mac_bench import compare, export, figures, queries, store
from mac_bench.errors import UserError

TABLES = ("aggregates", "costs", "differences", "goals", "improvement", "ran", "report")
FIGURES = (
    "curves", "differences", "improvement", "intervals", "model-error", "profiles", "speed", "time", "time-to-target",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files of a campaign's small suite, beside its database."""
    home = tmp_path_factory.mktemp("export")
    fill(home / "results.db", runs=1000, evaluations=10, metrics=8)
    written = export.write(home / "results.db", "small", home / "new" / "out")
    assert sorted(path.name for path in written) == sorted(path.name for path in (home / "new" / "out").iterdir())
    return home / "new" / "out"


def test_every_table_and_figure_is_there_in_every_format(folder):
    names = {f"{name}.{kind}" for name in TABLES for kind in ("csv", "tex")} | {"report.md"}
    names |= {f"{name}.{kind}" for name in FIGURES for kind in ("svg", "pdf")}
    assert {path.name for path in folder.iterdir()} == names
    for name in FIGURES:
        assert ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("}svg")
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF-")
        assert f"![{name}]({name}.svg)" in (folder / "report.md").read_text()
    why = "No figure `horizon`: nothing to draw: all tasks are equally long, 1000 steps"
    assert why in (folder / "report.md").read_text()


def test_an_exported_number_is_the_databases(folder):
    task = "pointmaze-large-navigate-singletask-v0"
    exported = pd.read_csv(folder / "report.csv").set_index(["label", "task"]).loc[("MAC", task)]
    connection = sqlite3.connect(folder.parent.parent / "results.db")
    query = """SELECT m.run FROM members m JOIN runs r ON r.id = m.run
               WHERE m.suite = 'small' AND m.label = 'MAC' AND r.task = ? AND r.state = 'finished'"""
    last = "SELECT success FROM evaluations WHERE run = ? AND task = 0 ORDER BY step DESC LIMIT 3"
    scores = [
        [row[0] for row in connection.execute(last, run)] for run in connection.execute(query, (task,)).fetchall()
    ]
    connection.close()
    assert exported["n_seeds"] == len(scores) > 1
    assert exported["mean"] == pytest.approx(100 * sum(map(sum, scores)) / 3 / len(scores), abs=1e-6)


def test_labels_that_are_markup_stay_text_in_files(tmp_path):
    fill(tmp_path / "results.db", runs=50, evaluations=2, metrics=3)
    export.write(tmp_path / "results.db", "campaign", tmp_path / "out")
    assert (tmp_path / "out" / "published.csv").exists() and (tmp_path / "out" / "horizon.pdf").exists()
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "<script>" not in markdown.replace(r"\<", "") and r"\<script\>" in markdown
    assert "<script>" not in (tmp_path / "out" / "intervals.svg").read_text()
    assert "&lt;script&gt;" in (tmp_path / "out" / "intervals.svg").read_text()
    assert r"\textless{}script\textgreater{}" in (tmp_path / "out" / "aggregates.tex").read_text()


def test_what_cannot_be_made_is_named_with_its_reason(root, database, tmp_path):
    write_suite(root, [("MAC", planned()), ("MAC", planned(1))])
    write_run(root, planned(), a_whole_run())
    store.collect(root, database)
    text = {path.name: path for path in export.write(database, "first", tmp_path / "out")}["report.md"].read_text()
    assert "with one method there is nothing to compare" in text
    assert "No figure `model-error`: " in text and "No figure `differences`: " in text
    assert not (tmp_path / "out" / "model-error.svg").exists() and (tmp_path / "out" / "curves.svg").exists()
    with pytest.raises(UserError, match=r"out/report.md/x: cannot write there"):
        export.write(database, "first", tmp_path / "out" / "report.md" / "x")


def test_nothing_finished_is_a_report_all_the_same(root, database, tmp_path):
    write_suite(root, [("MAC", planned())])
    store.collect(root, database)
    export.write(database, "first", tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "no run of this selection is complete yet" in text and "| waiting |" in text


def test_cells_have_three_digits_and_dashes():
    frame = pd.DataFrame({"a": ["x|y", ""], "b": [0.123456, math.nan], "c": [1_000_000.0, 2.0]})
    assert export.cells(frame) == [["a", "b", "c"], ["x|y", "0.123", "1e+06"], ["-", "-", "2"]]


# -- the frames that figures are drawn from --------------------------------------------------------------------------


def test_smoothing_is_the_mean_of_a_runs_last_evaluations(root, database):
    write_suite(root, [("MAC", planned()), ("MAC", planned(1))])
    write_run(root, planned(), [started(), *(evaluated(250 * i, 0.1 * i) for i in (1, 2, 3, 4))])
    write_run(root, planned(1), [started(), evaluated(250, 0.9), evaluated(500, None)])
    store.collect(root, database)
    found = queries.curves(database, "first")
    plain, smooth = figures.learning(found), figures.learning(found, smooth=2)
    assert plain["value"].tolist() == pytest.approx([10, 20, 30, 40, 90])  # what is no number is no point
    assert smooth["value"].tolist() == pytest.approx([10, 15, 25, 35, 90])  # and no run begins with another's end
    assert smooth.drop(columns="value").equals(plain.drop(columns="value"))


def test_curves_are_of_complete_runs_once_there_are_any(root, database):
    write_suite(root, [("MAC", planned()), ("MAC", planned(1))])
    write_run(root, planned(), [started(), evaluated(250, 0.5)], "running", 300)
    for shown in ([0], [1]):
        store.collect(root, database)
        curves, runs = queries.curves(database, "first"), queries.results(database, "first")
        assert figures.settled(curves, runs)["seed"].unique().tolist() == shown
        if shown == [0]:
            write_run(root, planned(1), a_whole_run())


def test_hours_are_those_of_the_attempts_on_average(root, database):
    write_suite(root, [("MAC", planned()), ("MAC", planned(1))])
    for seed, hours in ((0, 1.0), (1, 3.0)):
        write_run(root, planned(seed), [started(time=0.0), evaluated(250, 0.5) | {"time": 3600 * hours}])
    store.collect(root, database)
    assert figures.hours(queries.curves(database, "first"))["hours"].tolist() == [2.0]


def test_lengths_of_tasks_by_hand():
    scores = pd.DataFrame(
        [("MAC", "cube-single-play-singletask-v0", seed, score) for seed, score in ((0, 40.0), (1, 60.0))]
        + [("MAC", "no-such-task", 0, 10.0)],
        columns=["label", "task", "seed", "score"],
    )
    row = figures.by_length(scores).iloc[0]
    assert len(figures.by_length(scores)) == 1, "a task of unknown length is not drawn"
    assert (row["environment"], row["steps"], row["mean"], row["n"]) == ("cube-single", 200, 50, 2)
    assert (row["low"], row["high"]) == (0, 100)  # 50 -/+ 12.7 * 10
    assert figures.by_length(scores, "oracle_steps")["steps"].between(30, 60).all()


def test_the_last_model_errors_are_averaged_over_seeds(root, database):
    write_suite(root, [("MAC", planned()), ("MAC", planned(1)), ("BC", planned(2))])
    errors = [{"model_error/50": error, "model_error/10": None} for error in (5.0, 1.0, 3.0)]
    write_run(root, planned(), [started(), measured(10, **errors[0]), measured(20, **errors[1])])
    write_run(root, planned(1), [started(), measured(10, **errors[2])])
    store.collect(root, database)
    last = queries.last_measured(database, "first", figures.AHEAD)
    assert last[["seed", "name", "step"]].to_numpy().tolist() == [
        [0, "model_error/10", 20], [1, "model_error/10", 10], [0, "model_error/50", 20], [1, "model_error/50", 10],
    ]  # fmt: skip
    half = figures.model_errors(last.assign(value=[1.0, math.nan, 2.0, 4.0])).to_dict("records")[0]
    assert math.isnan(half["mean"]) and half["n"] == 2, "a seed that diverged is not passed over"
    diverged, found = figures.model_errors(last).to_dict("records")
    assert (found["ahead"], found["mean"], found["n"]) == (50, 2.0, 2)
    assert (diverged["ahead"], diverged["n"]) == (10, 2) and math.isnan(diverged["mean"])
    assert figures.model_errors(queries.last_measured(database, "first", figures.AHEAD, label="BC")).empty


def test_costs_are_medians_of_finished_runs_and_who_never_got_there_counts():
    rows = [("finished", 3600, 1800), ("finished", 7200, None), ("finished", 10800, None), ("failed", 100, 50)]
    costs = pd.DataFrame(rows, columns=["state", "seconds", "to_target"]).assign(
        label="MAC", device=[None, "H100", "H100", "H100"], attempts=1, updates_per_s=[1.0, 2.0, 3.0, 100.0],
        evaluating=360.0, memory_mb=[5.0, 6.0, 7.0, 8.0], device_memory_mb=math.nan,
    )  # fmt: skip
    costs["to_target"] = costs["to_target"].astype(float)
    unknown, known = figures.cost_table(costs).to_dict("records")
    assert (unknown["device"], unknown["hours to 50 %"], unknown["reached 50 %"]) == ("unknown", 0.5, "1 of 1")
    assert (known["runs"], known["finished"], known["hours per run"], known["updates/s"]) == (3, 2, 2.5, 2.5)
    assert known["hours in all"] == pytest.approx(18100 / 3600) and known["memory, MB"] == 8
    assert math.isnan(known["hours to 50 %"]) and known["reached 50 %"] == "0 of 2"
    three = figures.cost_table(costs.assign(device="H100", to_target=[3600.0, 7200.0, math.nan, 1.0]))
    assert three["hours to 50 %"].tolist() == [2.0], "of 1, 2 and never"


def test_a_frame_of_scores_is_what_compare_takes(root, database):
    write_suite(root, [("MAC", planned()), ("BC", planned(1)), ("BC", planned(2))])
    for seed in (0, 1):
        write_run(root, planned(seed), a_whole_run())
    store.collect(root, database)
    scores = figures.complete(queries.results(database, "first"))
    assert scores.to_dict("list") == {
        "label": ["MAC", "BC"], "task": ["cube-single-play"] * 2, "seed": [0, 1], "score": [40.0, 40.0],
    }  # fmt: skip
    assert set(compare.aggregates(scores)["value"].dropna()) >= {40.0}


def test_report_csv_reads_back(folder):
    text = (folder / "aggregates.csv").read_text()
    frame = pd.read_csv(io.StringIO(text))
    assert set(frame["statistic"]) == {"mean", "median", "iqm", "optimality_gap"}
