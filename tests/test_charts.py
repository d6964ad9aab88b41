"""Charts: that they draw the numbers they are given, say what and n, and refuse what cannot be drawn."""

import json
from typing import get_args
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from mac_bench import charts, compare
from mac_bench.errors import UserError
from mac_bench.states import State

METHODS = ["MAC", "BC", "<b>x</b>"]


def scores(seeds=6, tasks=("a", "b")) -> pd.DataFrame:
    rows = [
        (label, task, seed, 90.0 - 30 * i + seed)
        for i, label in enumerate(METHODS)
        for task in tasks
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["label", "task", "seed", "score"])


def learning() -> pd.DataFrame:
    rows = [
        (*key, step, 10.0 * step + key[2]) for key in scores()[["label", "task", "seed"]].to_numpy() for step in (1, 2)
    ]
    return compare.curve(pd.DataFrame(rows, columns=["label", "task", "run", "step", "value"]))


def costs() -> pd.DataFrame:
    frame = scores().assign(run="r", state="finished", seconds=3600.0, updates_per_s=10.0)
    frame.loc[0, ["state", "seconds"]] = ["failed", 7200.0]
    return frame


def lengths() -> pd.DataFrame:
    frame = scores(1).assign(environment="e", low=10.0, high=95.0, n=6).rename(columns={"score": "mean"})
    return frame.assign(steps=frame["task"].map({"a": 200.0, "b": 1000.0}))


def errors() -> pd.DataFrame:
    rows = [(label, ahead, 0.1 * ahead, 0.05 * ahead, 0.2 * ahead, 6) for label in METHODS for ahead in (10, 50, 100)]
    return pd.DataFrame(rows, columns=["label", "ahead", "mean", "low", "high", "n"])


def cells() -> pd.DataFrame:
    return scores(2).assign(state=["finished", "failed"] * 6, reason="why", run="r", progress=0.5)


DRAWN = {
    "curves": lambda: charts.curves(learning(), labels=METHODS),
    "intervals": lambda: charts.intervals(compare.aggregates(scores()), METHODS),
    "profiles": lambda: charts.profiles(compare.profiles(scores()), METHODS),
    "improvement": lambda: charts.improvement(compare.improvement(scores())),
    "comparison": lambda: charts.comparison(compare.compare(scores())),
    "horizon": lambda: charts.horizon(lengths()),
    "model_error": lambda: charts.model_error(errors()),
    "costs": lambda: charts.costs(costs()),
    "board": lambda: charts.board(cells()),
}


def texts(svg: bytes) -> str:
    return " ".join(
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if "text" in element.tag
    )


@pytest.mark.parametrize("name", DRAWN)
def test_a_chart_says_what_and_n_and_takes_labels_as_text(name):
    svg = charts.render(DRAWN[name](), "svg")
    said = texts(svg)
    assert "n = " in said and ("MAC" in said or name == "comparison")
    assert "<b>x</b>" in said and b"<b>" not in svg


# the colours of the others are of probabilities, verdicts and states
@pytest.mark.parametrize("name", [name for name in DRAWN if name not in ("improvement", "comparison", "board")])
def test_a_chart_names_each_method_by_the_same_colour(name):
    spec = json.dumps(DRAWN[name]().to_dict())
    assert f'"domain": {json.dumps(METHODS)}, "range": {json.dumps(list(charts.COLOURS[:3]))}' in spec


def test_a_method_keeps_its_colour_when_others_are_left_out():
    frame = errors()
    spec = json.dumps(charts.model_error(frame[frame["label"] == "BC"], labels=METHODS).to_dict())
    assert f'"domain": ["BC"], "range": ["{charts.COLOURS[1]}"]' in spec


def rows_of(chart) -> list[dict]:
    """The largest table that a chart draws."""
    return max(chart.to_dict()["datasets"].values(), key=len)


def test_what_is_drawn_is_what_is_given():
    given = compare.compare(scores())
    drawn = {row["pair"]: row["difference"] for row in rows_of(charts.comparison(given))}
    # the better one comes first; 30 apart, whichever way they were compared
    assert drawn == {"MAC \N{MINUS SIGN} BC": 30, "MAC \N{MINUS SIGN} <b>x</b>": 60, "BC \N{MINUS SIGN} <b>x</b>": 30}
    for row in rows_of(charts.comparison(given)):
        assert row["low"] <= row["difference"] <= row["high"]
    assert {row["state"]: row["letter"] for row in rows_of(charts.board(cells()))} == {"finished": "F", "failed": "X"}


def test_every_state_has_a_letter_and_a_colour_of_its_own():
    assert set(charts.STATES) == set(get_args(State))
    assert all(len(set(column)) == len(charts.STATES) for column in zip(*charts.STATES.values(), strict=True))
    assert sorted({row["cost"] for row in rows_of(charts.costs(costs()))}) == [1, 2]


def test_numbers_have_four_digits_and_infinity_is_nothing():
    frame = pd.DataFrame({"x": [0.0, 123456.0, -0.000123456, np.inf, np.nan], "n": [1, 2, 3, 4, 5]})
    drawn = charts._data(frame)
    assert drawn["x"].tolist() == pytest.approx([0, 123500, -0.0001235, np.nan, np.nan], nan_ok=True, rel=1e-12)
    assert drawn["n"].tolist() == [1, 2, 3, 4, 5]


def test_a_model_that_diverged_is_named_and_breaks_the_line():
    frame = errors()
    frame.loc[(frame["label"] == "BC") & (frame["ahead"] == 100), ["mean", "low", "high"]] = np.inf
    said = texts(charts.render(charts.model_error(frame), "svg"))
    assert "not drawn: 1 of 9 errors, diverged (inf or NaN): BC from 100 ahead" in said.replace("  ", " ")


def test_few_seeds_and_missing_tasks_are_said():
    frame = scores(2)
    frame = frame[(frame["label"] != "BC") | (frame["task"] != "b")]
    said = texts(charts.render(charts.intervals(compare.aggregates(frame)), "svg"))
    assert "n = 2 seeds (few: intervals are coarse)" in said and "as a task is missing: BC" in said


def test_pairs_over_fewer_tasks_are_named():
    frame = scores()
    frame = frame[(frame["label"] != "BC") | (frame["task"] != "b")]
    for chart in (charts.improvement(compare.improvement(frame)), charts.comparison(compare.compare(frame))):
        said = texts(charts.render(chart, "svg"))
        assert "over fewer than 2 tasks: " in said and "BC and MAC" in said
    assert "fewer" not in texts(charts.render(DRAWN["improvement"](), "svg"))


def test_who_never_got_there_moves_the_median():
    frame = costs().assign(to_target=3600.0)
    frame.loc[frame["label"] == "BC", "to_target"] = np.nan
    frame.loc[(frame["label"] == "MAC") & (frame["seed"] > 1), "to_target"] = np.nan
    drawn = [table for table in charts.costs(frame, "to_target").to_dict()["datasets"].values() if "median" in table[0]]
    assert {row["label"]: row["median"] for row in drawn[0]} == {"<b>x</b>": 1}


def test_more_rows_than_altair_takes_are_drawn():
    frame = pd.concat([costs()] * 200).reset_index(drop=True)
    assert charts.render(charts.costs(frame), "png").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: charts.curves(learning().iloc[:0]), "nothing to draw: there are no rows yet"),
        (lambda: charts.board(cells().drop(columns="reason")), "nothing to draw: no column reason; give label, task"),
        (lambda: charts.horizon(lengths().assign(steps=200)), "all tasks are equally long, 200 steps"),
        (lambda: charts.model_error(errors().assign(mean=np.inf)), "nothing to draw: all 9 errors diverged or are 0"),
        (lambda: charts.costs(costs().assign(seconds=np.nan)), "nothing to draw: seconds is not known for any label"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(draw, message):
    with pytest.raises(UserError, match=message):
        draw()
