"""A paper's table beside a campaign: each cell by hand, what is open is shown, and both checkpoints."""

import math
from pathlib import Path

import pandas as pd
import pytest
from run_folders import ended, evaluated, measured, planned, started, write_run, write_suite

from mac_bench import queries, report
from mac_bench.errors import UserError
from mac_bench.reproduction import Plan, cells, markdown
from mac_bench.store import collect

CUBE, PUZZLE = "cube-double-play-oraclerep-v0", "puzzle-3x3-play-oraclerep-v0"
PLAN = Plan({"a-paper": "100M"}, (500,))


def published(**other) -> dict:
    return {
        "table": "a-paper", "task": CUBE, "agent": "mac", "method": "MAC", "metric": "success", "unit": "percent",
        "mean": 50.0, "spread": 10.0, "spread_kind": "unknown", "seeds": math.nan, "steps": math.nan, "data": "100M",
        "protocol": "mean over 5 evaluation goals", "source": "somewhere", "hand": "first",
    } | other  # fmt: skip


THEIRS = pd.DataFrame(
    [
        published(),
        published(task=PUZZLE, mean=99.0, spread=0.0),
        published(method="SHARSA", agent="", mean=95.0),
        published(agent="gciql", method="IQL", spread_kind="std", mean=10.0, spread=1.0, seeds=4.0, steps=500.0),
        published(data="1B"),
        published(table="another", mean=1.0),
        published(task="scene-play-v0"),
    ]
)


RAN = pd.DataFrame(
    [["MAC", "mac", "1,000", "all 2", "chunk 2"]], columns=["label", "agent", "updates", "tasks", "settings"]
)


def campaign(root: Path, database: Path) -> Path:
    """MAC: 20, 30, 40 % at update 500 of both goals' mean, 60, 70, 80 % at the end; its last seed only as far as 500.

    The log of a run has evaluations of two goals, one 10 % above the mean and one below.
    """
    runs = []
    for seed, (early, late) in enumerate([(0.2, 0.6), (0.3, 0.7), (0.4, 0.8), (0.3, None)]):
        run = planned(seed, CUBE)
        lines = [started(), measured(100)]
        for step, mean in ((250, 0.1), (500, early), (750, 0.5), (1000, late)):
            if mean is not None and (late is not None or step <= 500):
                lines.append(evaluated(step, mean + 0.1, mean - 0.1))
        finished = late is not None
        write_run(root, run, [*lines, *([ended(1000)] if finished else [])], "finished" if finished else "running", 600)
        runs.append(("MAC", run))
    runs += [("MAC", planned(0, PUZZLE)), ("GCIQL", planned(0, CUBE, "gciql"))]
    write_suite(root, runs, average_last=1)
    collect(root, database)
    return database


@pytest.fixture
def found(root, database) -> pd.DataFrame:
    return cells(campaign(root, database), "first", PLAN, THEIRS)


def test_each_cell_by_hand(found):
    mac = found[(found["method"] == "MAC") & (found["task"] == CUBE)].to_dict("records")
    assert [(c["at"], c["n_seeds"], c["ours"]) for c in mac] == [
        (500, 4, pytest.approx(30)),
        (1000, 3, pytest.approx(70)),
    ]
    early, late = mac
    # of 20, 30, 40, 30 and of 60, 70, 80
    assert (early["ours_std"], late["ours_std"]) == (pytest.approx(math.sqrt(200 / 3)), pytest.approx(10))
    assert early["in_spreads"] == pytest.approx(-20 / math.hypot(10, math.sqrt(200 / 3)))
    assert late["in_spreads"] == pytest.approx(20 / math.hypot(10, 10))
    assert (early["verdict"], late["verdict"]) == ("differs (?)", "differs (?)"), "of a spread that nobody names"
    assert late["spread_taken"] == "std, which nobody says"
    assert "unknown number of updates of theirs" in late["not_comparable"]


def test_what_is_open_is_shown(found):
    rest = found[(found["method"] != "MAC") | (found["task"] != CUBE)]
    assert [(c["method"], c["task"], c["verdict"]) for c in rest.to_dict("records")] == [
        ("MAC", PUZZLE, "not run"),  # at the checkpoint and at the end
        ("MAC", PUZZLE, "not run"),
        ("SHARSA", CUBE, "not in the suite"),
        ("IQL", CUBE, "not run"),
    ]
    assert rest[rest["method"] == "IQL"]["at"].tolist() == [500], "their step is known"
    assert set(found["table"]) == {"a-paper"} and len(found) == 6, "neither another table nor another amount of data"


def test_the_page_says_all_of_it(found):
    page = markdown("first", found, RAN)
    assert "6 cells: 2 differs (?), 3 not run, 1 not in the suite." in page
    rows = [line for line in page.splitlines() if line.startswith("| cube-double")]
    assert rows[0].startswith(
        f"| {CUBE} | MAC | 50 ± 10 (?) | ? | 30 ± 8.16 | 4 | 500 | -1.5 | differs (?) | no suite here"
    )
    assert page.endswith("| MAC | mac | 1,000 | all 2 | chunk 2 |\n")
    assert f"| {CUBE} | IQL (GCIQL) | 10 ± 1 | 4 | - |  | 500 |  | not run |  |" in rows


def test_a_suite_that_reproduces_nothing_and_tables_that_are_not_there(root, database):
    campaign(root, database)
    with pytest.raises(UserError, match="suite 'first' reproduces no table"):
        cells(database, "first", Plan({}), THEIRS)
    with pytest.raises(UserError, match="no published table 'a-papr'; there are: a-paper, another"):
        cells(database, "first", Plan({"a-papr": None}), THEIRS)


def test_results_at_a_step_are_of_the_evaluations_until_then(root, database):
    campaign(root, database)
    at = queries.results(database, "first", at=500, label="MAC", task=CUBE)
    assert at["score"].tolist() == pytest.approx([0.2, 0.3, 0.4, 0.3]) and at["complete"].all()
    assert set(at["steps"]) == {500}
    at = queries.results(database, "first", at=750, label="MAC", task=CUBE)
    assert at["complete"].tolist() == [True, True, True, False], "the last has not got there"
    end = queries.results(database, "first", at=1000, label="MAC", task=CUBE)
    last = queries.results(database, "first", label="MAC", task=CUBE)
    assert end["complete"].tolist() == last["complete"].tolist() == [True, True, True, False]
    for longer in (1100, 1250):
        assert not queries.results(database, "first", at=longer, label="MAC")["complete"].any(), "no run is so long"


def test_success_by_goal_averages_to_the_reported_number(root, database):
    campaign(root, database)
    runs = queries.results(database, "first")
    (row,) = report.by_goal(runs, queries.curves(database, "first", every_task=True)).to_dict("records")
    assert row == {
        "label": "MAC", "task": CUBE, "seeds": 3,
        "goal 1": pytest.approx(80), "goal 2": pytest.approx(60), "overall": pytest.approx(70),
    }  # fmt: skip


def test_a_spread_over_tasks_is_called_one(found):
    assert f"| {CUBE} | MAC | 50 ± 10 (over tasks) | ? |" in markdown("first", found.assign(spread_kind="tasks"), RAN)
